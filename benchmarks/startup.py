"""What a command costs before it does anything, and what `vlsb report` costs on a finished run.

    python -m benchmarks.startup [--rounds 10] [--samples 2241]

`vlsb --help` and `--version` stand against importing the two libraries they are made of; `vlsb report`
against the interpreter's own start and a bare orjson scan of the same files. All of it is CPU time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.cells import ratio
from benchmarks.data import DATA, ROWS
from benchmarks.processes import Cores, run_on
from benchmarks.results import Target
from benchmarks.run_directories import make_run
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
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows), said))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--samples", type=int, default=ROWS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    found = measure(make_run(chosen.data, chosen.samples), rounds=chosen.rounds)
    result = {
        "samples": chosen.samples,
        "cpu_s": found,
        "targets": results.as_fields(targets(found)),
    }
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
