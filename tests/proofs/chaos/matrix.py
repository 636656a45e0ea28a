"""Faults of every mix, share and concurrency change no number: `python -m tests.proofs.chaos.matrix`.

Each cell is a whole run against an endpoint at which a share of the requests fails once or twice before it
is answered. Its summary has to be the fault-free one, its exit code 0, and no request is sent again once
it was answered. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tests.support.command import REQUESTS, SAMPLES, Vlsb, run_words, straight_summary
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona
from tests.support.scripts import FAULT_KINDS, mixed_faults
from vlsb.simulator import Reply, Request, SimulatorThread

MIXES: dict[str, Sequence[str]] = {
    "rate limits": ("rate_limit",),
    "server errors": ("server_error",),
    "broken bodies": ("broken_body",),
    "hangups": ("hangup",),
    "everything": FAULT_KINDS,
}
SHARES = (0.1, 0.2, 0.4)
CONNECTIONS = (1, 8, 32)


@dataclass(frozen=True)
class Cell:
    """One combination of the matrix."""

    mix: str
    share: float
    connections: int


CELLS = [Cell(*each) for each in product(MIXES, SHARES, CONNECTIONS)]


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: what it cost, and everything that is not as it has to be."""

    requests: int
    wall_s: float
    violations: Sequence[str]


def run_cell(directory: Path, cell: Cell, straight: Mapping[str, Any], *, seed: int) -> Outcome:
    """Carry out the run of a cell in an empty directory. `straight` is the fault-free summary."""
    answered: Counter[str] = Counter()

    def noted(request: Request) -> Reply:
        answered[request.identity] += 1
        return persona(request)

    vlsb = Vlsb(directory)
    data = write_dataset(directory / "data", sharing_rows(SAMPLES))
    number = str(cell.connections)
    lanes = ("--max-connections", number, "--judge-max-connections", number, "--backoff", "0.01")
    chaos = mixed_faults(noted, share=cell.share, seed=seed, most_per_request=2, kinds=MIXES[cell.mix])
    with SimulatorThread(chaos) as simulator:
        began = time.monotonic()
        ended = vlsb(*run_words(simulator, data, *lanes))
        wall_s = time.monotonic() - began
    violations = [f"the simulator failed: {error}" for error in simulator.errors]
    if ended.code != 0 or ended.errors:
        violations.append(f"exit {ended.code}: {ended.err}")
    summary = vlsb.summary()
    if summary != straight:
        violations.append(f"the summary differs in {[n for n in straight if summary.get(n) != straight[n]]}")
    if len(answered) != REQUESTS or answered.total() != REQUESTS:
        violations.append(f"{answered.total()} answers to {len(answered)} requests, not {REQUESTS}")
    if len(simulator.completions) <= REQUESTS:
        violations.append("nothing failed")
    return Outcome(len(simulator.completions), wall_s, violations)


def main(arguments: Sequence[str]) -> int:
    """Run every cell, print the matrix, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="the first cell's; it says what fails, and how (default: 0)"
    )
    seed = parser.parse_args(arguments).seed
    began = time.monotonic()
    outcomes: dict[Cell, Outcome] = {}
    print(f"seed {seed}; {REQUESTS} requests without faults; each cell: requests made, seconds\n")
    print(f"{'mix':<16}{'share':<7}" + "".join(f"{f'{n} connections':>20}" for n in CONNECTIONS), flush=True)
    with tempfile.TemporaryDirectory() as parent:
        straight = straight_summary(_new_directory(parent, "straight"))
        for mix, share in product(MIXES, SHARES):
            print(f"{mix:<16}{share:<7.0%}", end="", flush=True)
            for cell in (Cell(mix, share, connections) for connections in CONNECTIONS):
                directory = _new_directory(parent, str(len(outcomes)))
                # A seed for each cell: other requests fail in each, and in another order of faults.
                outcome = run_cell(directory, cell, straight, seed=seed + len(outcomes))
                outcomes[cell] = outcome
                print(f"{f'{outcome.requests}, {outcome.wall_s:.1f} s':>20}", end="", flush=True)
            print()
    violations = [f"{cell}: {each}" for cell, outcome in outcomes.items() for each in outcome.violations]
    for violation in violations:
        print(f"VIOLATION {violation}")
    made = sum(outcome.requests for outcome in outcomes.values())
    print(
        f"\n{len(outcomes)} runs, {made} requests, {made - REQUESTS * len(outcomes)} of them failed, "
        f"{len(violations)} violations, {time.monotonic() - began:.0f} s"
    )
    return 1 if violations else 0


def _new_directory(parent: str, name: str) -> Path:
    directory = Path(parent) / name
    directory.mkdir()
    return directory


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
