"""What a command costs before it does anything: help, a report, and a run before its first request.

    python -m benchmarks.startup [--rounds 10] [--samples 2241] [--image-bytes 1500000]

`vlsb --help` and `--version` stand against importing the two libraries they are made of; `vlsb report`
against the interpreter's own start and a bare orjson scan of the same files: CPU time. The first request of
`vlsb run` stands against that of the same rows with images of a few bytes: time from the process's birth to
the request's arrival, with the images in the system's cache.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.cells import ratio
from benchmarks.data import DATA, IMAGE_BYTES, IMAGES, ROWS, Size, make_data
from benchmarks.processes import Cores, Stub, run_on
from benchmarks.results import Target
from benchmarks.run_directories import TINY_IMAGE_BYTES, make_run
from benchmarks.scaling import probe

NAME = "startup"
MOST_TIMES = 1.6
MOST_REPORT_S = 0.6
INTERPRETER, LIBRARIES, HELP, VERSION, REPORT = (
    "python -c pass",
    'python -c "import typer, rich"',
    "vlsb --help",
    "vlsb --version",
    "vlsb report RUN",
)
TINY, FOLDER, ARCHIVE = "the same rows, tiny images", "a folder of images", "imgs.tar"
MOST_FIRST_S = 1.0
MOST_FIRST_TIMES = 1.25
SCAN = "bare scan of the run's files"


def commands(run: Path) -> dict[str, list[str]]:
    """What is started, by the name it is shown with."""
    vlsb = [sys.executable, "-m", "vlsb"]
    return {
        INTERPRETER: [sys.executable, "-c", "pass"],
        LIBRARIES: [sys.executable, "-c", "import typer, rich"],
        HELP: [*vlsb, "--help"],
        VERSION: [*vlsb, "--version"],
        REPORT: [*vlsb, "report", str(run)],
    }


def measure(run: Path, *, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each, taking turns. The first start of each fills caches and is not counted."""
    cores = Cores.available()
    found: dict[str, list[float]] = {name: [] for name in (*commands(run), SCAN)}
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as home:
        for number in range(rounds + 1):
            for name, words in commands(run).items():
                cpu_s = run_on(cores.client, words, home=Path(home)).cpu_s
                if number:
                    found[name].append(cpu_s)
            if number:
                found[SCAN].append(probe("scan", run, cores).cpu_s)
    return found


def data_sets(root: Path, samples: int, image_bytes: int) -> dict[str, Path]:
    """The data sets that a first request is timed on, made unless they are there."""
    images = max(1, samples * IMAGES // ROWS)
    folder = make_data(root / f"rows-{samples}-{image_bytes}", Size(samples, images, image_bytes))
    packed = root / f"packed-{samples}-{image_bytes}"
    if not (packed / "data.json").exists():
        packed.mkdir(exist_ok=True)
        with tarfile.open(packed / "imgs.tar", "w") as archive:
            archive.add(folder / "imgs", "imgs")
        (packed / "data.json").write_bytes((folder / "data.json").read_bytes())
    tiny = make_data(root / f"rows-{samples}", Size(samples, images, TINY_IMAGE_BYTES))
    return {TINY: tiny, FOLDER: folder, ARCHIVE: packed}


def first_requests(sets: Mapping[str, Path], *, rounds: int) -> dict[str, list[float]]:
    """Seconds from the birth of `vlsb run` to the arrival of its first request, taking turns."""
    cores = Cores.available()
    found: dict[str, list[float]] = {name: [] for name in sets}
    for number in range(rounds + 1):
        for name, root in sets.items():
            with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as home, Stub(cores.others) as stub:
                words = [
                    *(sys.executable, "-m", "vlsb", "run", "--dry-run", "--data-root", str(root)),
                    *("--model", "m", "--base-url", f"{stub.origin}/target/v1", "--display", "none"),
                    *("--judge", "j", "--judge-base-url", f"{stub.origin}/judge/v1"),
                ]
                born_at = run_on(cores.client, words, home=Path(home)).born_at
            if number:
                found[name].append(stub.served["first_request_at"] - born_at)
    return found


def first_targets(found: Mapping[str, Sequence[float]]) -> list[Target]:
    """Every layout within a time, and none of it because of the images' bytes."""
    said = []
    for name in (FOLDER, ARCHIVE):
        first_s, times = median(found[name]), ratio(found[name], found[TINY])
        claim = f"first request of the full set, {name}, within {MOST_FIRST_S:g} s of the process's birth"
        said.append(Target(claim, f"{first_s:.2f} s", first_s <= MOST_FIRST_S))
        claim = f"first request, {name}, at most {MOST_FIRST_TIMES} x that of {TINY}"
        said.append(Target(claim, f"{times:.2f} x", times <= MOST_FIRST_TIMES))
    return said


def _over_interpreter(found: Mapping[str, Sequence[float]]) -> list[float]:
    return [report - bare for report, bare in zip(found[REPORT], found[INTERPRETER], strict=True)]


def targets(found: Mapping[str, Sequence[float]]) -> list[Target]:
    """Start-up against the libraries, the report against a time."""
    said = [
        Target(
            f"`{name}` at most {MOST_TIMES} x `{LIBRARIES}`",
            f"{(times := ratio(found[name], found[LIBRARIES])):.2f} x",
            times <= MOST_TIMES,
        )
        for name in (HELP, VERSION)
    ]
    report_s = median(_over_interpreter(found))
    claim = f"`vlsb report` of a finished run at most {MOST_REPORT_S} s of CPU over the interpreter's start"
    return [*said, Target(claim, f"{report_s:.2f} s", report_s <= MOST_REPORT_S)]


def render(result: Mapping[str, Any]) -> str:
    """Targets, and a row a command."""
    found = result["cpu_s"]
    rows = [
        (f"`{name}`", f"{ratio(cpu_s, found[LIBRARIES]):.2f}", f"{1000 * median(cpu_s):.0f}")
        for name, cpu_s in found.items()
        if name != SCAN
    ]
    times = ratio(_over_interpreter(found), found[SCAN])
    said = (
        f"`vlsb report` of {result['samples']:,} samples, over the interpreter's start, is {times:.1f} x a "
        f"bare scan of the same files ({1000 * median(found[SCAN]):.0f} ms)."
    )
    header = ("command", "/ libraries", "CPU ms")
    tables = [results.target_table(result["targets"]), results.table(header, rows)]
    if first := result.get("first_request_s"):
        rows = [(name, f"{ratio(s, first[TINY]):.2f}", f"{median(s):.2f}") for name, s in first.items()]
        tables.append(results.table(("first request", f"/ {TINY}", "s"), rows))
    return "\n\n".join((*tables, said))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--samples", type=int, default=ROWS)
    parser.add_argument("--image-bytes", type=int, default=IMAGE_BYTES)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    found = measure(make_run(chosen.data, chosen.samples), rounds=chosen.rounds)
    sets = data_sets(chosen.data, chosen.samples, chosen.image_bytes)
    first = first_requests(sets, rounds=chosen.rounds)
    result = {
        "samples": chosen.samples,
        "cpu_s": found,
        "first_request_s": first,
        "targets": results.as_fields([*targets(found), *first_targets(first)]),
    }
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
