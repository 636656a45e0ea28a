"""Fuzz the parsers that read strangers, one after the other: `just fuzz [seconds] [--keep DIR]`.

Prints a table and exits with 1 if anything was found: an exception that is not the room's own, a broken
promise, more CPU than a target may take, a hang of more than 20 s or more than 1 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import seeds

HERE = Path(__file__).parent
TARGETS = ("replies", "verdicts", "headers", "rows", "run_files", "archives", "connections")
HANG_S = 20
MEMORY_MB = 1024
# All large inputs of a target together, each being stopped after seconds of CPU.
LARGE_S = 300
# Each hang or memory finding ends a process; a target that has so many needs repair, not more fuzzing.
MOST_RESTARTS = 10
_PROGRESS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_PEAK = re.compile(r"^stat::peak_rss_mb:\s+(\d+)", re.MULTILINE)
_EXECUTED = re.compile(r"^#(\d+)\s|^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)


@dataclass
class Row:
    """What the table says of a target."""

    target: str
    executions: int = 0
    corpus: int = 0
    features: int = 0
    edges: int = 0
    peak_mb: int = 0
    seconds: float = 0.0
    slowest: str = ""
    findings: int = 0


def fuzz(target: str, folder: Path, seconds: float) -> Row:
    """Fuzz one target for so long, going on after findings."""
    corpus, found = folder / "corpus" / target, folder / "findings"
    for each in (corpus, found):
        each.mkdir(parents=True, exist_ok=True)
    slowest = folder / "slowest" / f"{target}.txt"
    for earlier in (*found.glob(f"{target}-*"), slowest):
        earlier.unlink(missing_ok=True)
    for number, seed in enumerate(seeds.seeds_of(target)):
        (corpus / f"seed-{number:02}").write_bytes(seed)
    words = folder / f"{target}.dict"
    words.write_text("\n".join(seeds.words_of(target)) + "\n", "ascii")
    row = Row(target)
    _wait(target, folder, folder / f"{target}-large.log", ["--large"], LARGE_S)
    began = time.monotonic()
    for restart in range(MOST_RESTARTS):
        left = round(seconds - (time.monotonic() - began))
        if left < 1:
            break
        log = folder / f"{target}-{restart}.log"
        is_done = _work(target, folder, log, left, corpus, words)
        _read_log(log.read_text("utf-8", "replace"), row)
        if is_done:
            break
    row.seconds = time.monotonic() - began
    if slowest.exists():
        row.slowest = slowest.read_text("ascii").strip()
    artifacts = (each for each in found.glob(f"{target}-*") if each.suffix != ".txt")
    row.findings = sum(1 for _ in artifacts)
    return row


def _work(target: str, folder: Path, log: Path, seconds: int, corpus: Path, words: Path) -> bool:
    """Run one process; whether it came to its end without a hang or a crash."""
    options = [
        *(f"-max_total_time={seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MB}"),
        *(f"-artifact_prefix={folder / 'findings' / target}-", f"-dict={words}"),
        *("-print_final_stats=1", "-use_value_profile=1", str(corpus)),
    ]
    return _wait(target, folder, log, options, seconds + 3 * HANG_S)


def _wait(target: str, folder: Path, log: Path, options: list[str], limit_s: float) -> bool:
    command = [sys.executable, str(HERE / "worker.py"), target, str(folder), *options]
    # Without a hash seed two runs differ in what they find for no reason.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env=environment)
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            (folder / "findings" / f"{target}-stuck-{log.stem}").write_bytes(b"")
            return False
    if status != 0 and not list((folder / "findings").glob(f"{target}-*")):
        (folder / "findings" / f"{target}-died-{log.stem}").write_bytes(b"")
    return status == 0


def _read_log(text: str, row: Row) -> None:
    executed = [int(first or second) for first, second in _EXECUTED.findall(text)]
    row.executions += max(executed, default=0)
    for edges, features, corpus in _PROGRESS.findall(text)[-1:]:
        row.edges, row.features, row.corpus = int(edges), int(features), int(corpus)
    row.peak_mb = max([row.peak_mb, *map(int, _PEAK.findall(text))])


def table(rows: list[Row]) -> str:
    """The figures, a row a target."""
    head = (
        "target",
        "seconds",
        "executions",
        "corpus",
        "features",
        "edges",
        "peak MB",
        "slowest",
        "findings",
    )
    cells = [
        (
            *(row.target, f"{row.seconds:.0f}", f"{row.executions:,}", f"{row.corpus:,}"),
            *(f"{row.features:,}", f"{row.edges:,}", str(row.peak_mb), row.slowest, str(row.findings)),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in [head, *cells])
    ]
    return "\n".join(lines)


def main() -> int:
    """Fuzz, print, and say by the exit status whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=180.0, help="seconds for each target")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep corpora, logs and findings in DIR")
    parser.add_argument("--only", choices=TARGETS, action="append", help="fuzz this target alone")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = (chosen.keep or Path(temporary)).resolve()
        rows = []
        for target in chosen.only or TARGETS:
            rows.append(fuzz(target, folder, chosen.seconds))
            print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        print(table(rows))
        for report in sorted((folder / "findings").glob("*.txt")):
            print(f"\n{report.name}\n{report.read_text('utf-8')}")
    return 1 if any(row.findings for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
