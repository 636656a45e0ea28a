"""Run histories until there were enough: `python -m tests.simulation [SEEDS] [--seed N] [--minutes M]`.

Each seed is one history. Where something does not hold, its seed is printed, and the exit code is 1. `--seed`
repeats one with everything that happened in it, and makes a failing one as short as it can.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.simulation.laboratory import Laboratory, explore, fix_hashes
from tests.simulation.plans import draw_plan
from tests.simulation.pool import memory
from tests.simulation.provider import HAS_SDK
from tests.simulation.shrink import shrink

SEEDS = 1000


def show(seed: int) -> int:
    """Carry out one seed, and print what happened and, if something does not hold, a shorter history."""
    with tempfile.TemporaryDirectory(dir=memory()) as directory:
        laboratory = Laboratory(Path(directory))
        plan = draw_plan(seed)
        outcome = laboratory.carry_out(seed, plan)
        print(plan, *outcome.log, f"checksum {outcome.digest}", sep="\n")
        if outcome.problem is None:
            return 0
        smaller = shrink(plan, lambda each: laboratory.carry_out(seed, each).problem is not None)
        again = laboratory.carry_out(seed, smaller)
        print(f"\n{outcome.problem}\n\nThe same in short:", smaller, *again.log, again.problem, sep="\n")
    return 1


def main(words: Sequence[str]) -> int:
    """Explore or repeat, as the words say."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__.partition("\n")[0])
    parser.add_argument("seeds", type=int, nargs="?", default=SEEDS, help=f"how many (default: {SEEDS})")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--seed", type=int, help="repeat this one")
    parser.add_argument("--minutes", type=float, help="go on so long, however many there are")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(words)
    if asked.seed is not None:
        return show(asked.seed)
    began = time.monotonic()
    until = began + asked.minutes * 60 if asked.minutes else float("inf")
    count = None if asked.minutes else asked.seeds
    total = explore(asked.first, count, until=until, processes=asked.processes, stops=asked.stop)
    wall_s = time.monotonic() - began
    print(
        f"{total.histories:,} histories of {total.virtual_s / 3600:,.0f} virtual hours in {wall_s:,.0f} s "
        f"({total.histories / wall_s:.1f} a second), {len(total.problems)} violations"
    )
    if not HAS_SDK:
        print("None of them was by batch: that needs the extra `batch`.")
    return 1 if total.problems else 0


if __name__ == "__main__":
    fix_hashes("tests.simulation")
    sys.exit(main(sys.argv[1:]))
