"""Whole evaluators on the same job: inspect_ai and evalscope beside vlsb.

    python -m benchmarks.peers [--samples 100,600] [--connections 64] [--median 0.5] [--rounds 1]

Each lives in an environment of its own, made by uv below the data folder and kept there. inspect_ai does
the whole job; evalscope, whose judge sees no images, only the target's half. CPU a request is the slope
between the two sample counts, so that imports do not count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.cells import Cell, Measured, alternate, open_bench, ratio, read_stored, slopes_ms, stored
from benchmarks.commands import COMMANDS, VLSB, Call
from benchmarks.data import DATA, IMAGE_BYTES, IMAGES, ROWS, Size

NAME = "peers"
INSPECT, INSPECT_LEAN, EVALSCOPE = "inspect_ai", "inspect_ai, no images in its log", "evalscope"


@dataclass(frozen=True, slots=True)
class Peer:
    """An evaluator: the package to install, and the module here that does the job with it."""

    package: str
    module: str
    first: tuple[str, ...] = ()


PEERS = {
    INSPECT: Peer("inspect_ai", "inspect_job", ("images",)),
    INSPECT_LEAN: Peer("inspect_ai", "inspect_job", ("none",)),
    EVALSCOPE: Peer("evalscope", "evalscope_job"),
}


def environment(package: str, root: Path) -> Path:
    """The Python of an environment that has the package, made if it is not there."""
    folder = root / package
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        words = ["uv", "pip", "install", "--quiet", "--python", str(python), package, "openai"]
        subprocess.run(words, check=True)
    return python


def version(package: str, python: Path) -> str:
    """The version that is installed there."""
    asks = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    done = subprocess.run([str(python), "-c", asks], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def words_of(peer: Peer, python: Path) -> Callable[[Call], list[str]]:
    """How a peer is started."""

    def words(call: Call) -> list[str]:
        return [
            *(str(python), "-m", f"benchmarks.peer_jobs.{peer.module}", *peer.first),
            *("--origin", call.origin, "--data", str(call.data), "--limit", str(call.samples)),
            *("--connections", str(call.connections), "--output", str(call.output / "lines.jsonl")),
        ]

    return words


def render(result: Mapping[str, Any]) -> str:
    """A row a contender, ratios first."""
    measured = read_stored(result["cells"])
    few, many = sorted({cell.samples for cell in measured})
    header = (
        *("evaluator", "CPU a request / vlsb's", "CPU ms a request", "requests/s", "peak MB"),
        *("start-up s", "most in flight"),
    )
    names = list(dict.fromkeys(cell.contender for cell in measured))
    slopes = {name: _slopes(name, few, many, measured) for name in names}
    rows = [_row(name, slopes, measured[_cell(name, many, measured)], result["versions"]) for name in names]
    first = next(iter(measured))
    said = (
        f"{first.connections} connections, lognormal latency of {first.median_s:g} s. CPU between {few} and "
        f"{many} samples; evalscope makes the target's requests only."
    )
    return "\n\n".join((said, results.table(header, rows)))


def _cell(name: str, samples: int, measured: Measured) -> Cell:
    return next(cell for cell in measured if (cell.contender, cell.samples) == (name, samples))


def _slopes(name: str, few: int, many: int, measured: Measured) -> list[float]:
    return slopes_ms(*(measured[_cell(name, samples, measured)] for samples in (few, many)))


def _row(
    name: str, slopes: Mapping[str, Sequence[float]], rounds: Sequence[Any], versions: Mapping[str, str]
) -> list[str]:
    package = PEERS[name].package if name in PEERS else ""
    return [
        f"{name} ({versions[package]})" if package else name,
        f"{ratio(slopes[name], slopes[VLSB]):.1f}",
        f"{median(slopes[name]):.1f}",
        f"{median(found.requests_per_s for found in rounds):.0f}",
        f"{median(found.peak_mb for found in rounds):.0f}",
        f"{median(found.start_s for found in rounds):.1f}",
        f"{max(found.most_in_flight for found in rounds)}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Install, measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", default="100,600")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--median", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    pythons = {
        peer.package: environment(peer.package, chosen.data / "environments") for peer in PEERS.values()
    }
    counts = [int(count) for count in chosen.samples.split(",")]
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        bench = replace(
            open_bench(chosen.data / "images", Size(ROWS, IMAGES, IMAGE_BYTES), Path(folder)),
            commands={VLSB: COMMANDS[VLSB]}
            | {name: words_of(peer, pythons[peer.package]) for name, peer in PEERS.items()},
            only_target=frozenset({EVALSCOPE}),
        )
        cells = [
            Cell(name, chosen.connections, count, chosen.median)
            for count in counts
            for name in bench.commands
        ]
        # The first start of each compiles what it imports; that is not what anybody waits for twice.
        alternate([replace(cell, samples=1) for cell in cells[: len(bench.commands)]], bench, rounds=1)
        measured = alternate(cells, bench, rounds=chosen.rounds)
    result = {
        "versions": {package: version(package, python) for package, python in pythons.items()},
        "cells": stored(measured),
    }
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
