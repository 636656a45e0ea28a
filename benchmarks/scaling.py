"""What it takes to open and to summarise runs of 1,000, 10,000 and 100,000 samples.

    python -m benchmarks.scaling [--sizes 1000,10000,100000] [--rounds 3]

Each figure is taken in a process of its own, against a bare orjson scan of the same files: every file
read whole, every line parsed, nothing kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.data import DATA
from benchmarks.processes import Cores, run_on
from benchmarks.results import Target
from benchmarks.run_directories import make_run

NAME = "scaling"
MOST_TO_OPEN, MOST_TO_SUMMARISE, MOST_MB = 4.0, 8.0, 400
# Cost a sample at the largest size over the cost at the one before: this is still called linear.
LINEAR = 1.3


def scan(directory: Path) -> Callable[[], object]:
    """Read every file of the run and parse every line."""
    import orjson

    def run() -> None:
        orjson.loads((directory / "run.json").read_bytes())
        for path in sorted(directory.rglob("*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                if line:
                    orjson.loads(line)

    return run


def resume(directory: Path) -> Callable[[], object]:
    """Open the run for writing and find what is pending; the new session's manifest is there already."""
    from vlsb.store.manifest import read_manifest
    from vlsb.store.store import open_run, pending_work

    manifest = read_manifest(directory)

    def run() -> object:
        store = open_run(directory, manifest, is_resume=True)
        return store, pending_work(store, ())

    return run


def summarise(directory: Path) -> Callable[[], object]:
    """Rates with intervals and bounds, as `vlsb report` shows them."""
    from vlsb.store.summaries import summarize_run

    return lambda: summarize_run(directory)


PROBES = {"scan": scan, "resume": resume, "summarise": summarise}


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe took: its own CPU seconds, and its process's peak memory."""

    cpu_s: float
    peak_mb: float


def probe(name: str, directory: Path, cores: Cores) -> Probed:
    """Run a probe in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.scaling", "--probe", name, str(directory)]
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as home:
        finished = run_on(cores.client, words, home=Path(home))
    return Probed(float(finished.out), finished.peak_mb)


def _probe_here(name: str, directory: Path) -> None:
    act = PROBES[name](directory)
    began = time.process_time()
    kept = act()
    print(time.process_time() - began)
    del kept


Found = dict[int, dict[str, list[Probed]]]


def measure(sizes: Sequence[int], root: Path, *, rounds: int) -> Found:
    """Every probe of every size, taking turns."""
    cores = Cores.available()
    found: Found = {}
    for size in sizes:
        directory = make_run(root, size)
        by: dict[str, list[Probed]] = {name: [] for name in PROBES}
        for _ in range(rounds):
            for name, rounds_so_far in by.items():
                rounds_so_far.append(probe(name, directory, cores))
        found[size] = by
        print(f"{size}: {by}", file=sys.stderr, flush=True)
    return found


def _times(by: Mapping[str, Sequence[Probed]], name: str) -> float:
    return median(one.cpu_s / other.cpu_s for one, other in zip(by[name], by["scan"], strict=True))


def _peak(by: Mapping[str, Sequence[Probed]], name: str) -> float:
    return median(one.peak_mb for one in by[name])


def _per_sample_us(found: Found, size: int, name: str) -> float:
    return 1e6 * median(one.cpu_s for one in found[size][name]) / size


def targets(found: Found) -> list[Target]:
    """The claims about the largest run, and whether cost grows with the size and no faster."""
    *before, largest = sorted(found)
    by = found[largest]
    opening, summary, peak = _times(by, "resume"), _times(by, "summarise"), _peak(by, "resume")
    said = [
        Target(
            f"a run of {largest:,} opens for resume within {MOST_TO_OPEN:g} x a bare scan",
            f"{opening:.1f} x",
            opening <= MOST_TO_OPEN,
        ),
        Target(f"and within {MOST_MB} MB", f"{peak:.0f} MB", peak <= MOST_MB),
        Target(
            f"it is summarised with intervals within {MOST_TO_SUMMARISE:g} x a bare scan",
            f"{summary:.1f} x",
            summary <= MOST_TO_SUMMARISE,
        ),
    ]
    if before:
        growth = [
            _per_sample_us(found, largest, name) / _per_sample_us(found, before[-1], name)
            for name in ("resume", "summarise")
        ]
        said.append(
            Target(
                f"growth is linear: cost a sample at {largest:,} over that at {before[-1]:,}",
                " and ".join(f"{each:.2f}" for each in growth),
                max(growth) <= LINEAR,
            )
        )
    return said


def render(result: Mapping[str, Any]) -> str:
    """Targets, and a row a size."""
    found = read_stored(result["sizes"])
    header = (
        *("samples", "resume / scan", "summarise / scan", "resume s", "summarise s", "scan s"),
        *("resume us a sample", "resume peak MB", "summarise peak MB", "scan peak MB"),
    )
    rows = [
        (
            f"{size:,}",
            f"{_times(by, 'resume'):.1f}",
            f"{_times(by, 'summarise'):.1f}",
            *(f"{median(one.cpu_s for one in by[name]):.2f}" for name in ("resume", "summarise", "scan")),
            f"{_per_sample_us(found, size, 'resume'):.0f}",
            *(f"{_peak(by, name):.0f}" for name in ("resume", "summarise", "scan")),
        )
        for size, by in found.items()
    ]
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows)))


def stored(found: Found) -> dict[str, Any]:
    """Every probe of every round, for the result file."""
    return {
        str(size): {name: [asdict(one) for one in rounds] for name, rounds in by.items()}
        for size, by in found.items()
    }


def read_stored(sizes: Mapping[str, Any]) -> Found:
    """The inverse of `stored`."""
    return {
        int(size): {name: [Probed(**one) for one in rounds] for name, rounds in by.items()}
        for size, by in sizes.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--probe", nargs=2, metavar=("NAME", "RUN"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.probe is not None:
        _probe_here(chosen.probe[0], Path(chosen.probe[1]))
        return
    sizes = [int(size) for size in chosen.sizes.split(",")]
    found = measure(sizes, chosen.data, rounds=chosen.rounds)
    result = {"sizes": stored(found), "targets": results.as_fields(targets(found))}
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
