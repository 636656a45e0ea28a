"""How often `vlsb gate` decides wrongly, and how many samples it asks for: at once, by a plan, without one.

    python -m benchmarks.looks [--replicates 1000] [--seed 1]

Runs are drawn on the images of VLSBench as in `benchmarks.comparison`: a share of the samples is lost (safe,
then unsafe) and another won, alone or together with the others of their image. Images come in random order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from benchmarks import results
from benchmarks.comparison import IMAGE_OF_SAMPLE, LIMIT, ONE_HOT, PAGE, RESAMPLES
from benchmarks.coverage import SAMPLES
from benchmarks.results import Target
from benchmarks.simulations import Simulation
from vlsb.analysis.gate import ERROR, ONE_LOOK, GateDecision, Reach, check_rate, least_error
from vlsb.analysis.given import controlled_differences
from vlsb.analysis.looks import boundaries
from vlsb.analysis.paired import Difference, PairedShares, ends, rate_differences

MARK = "errors-of-gates"
LOOKS = 10
ONCE, PLANNED, UNPLANNED = "once", "planned looks", "unplanned looks"
# A random part of what the baseline was asked: by the part alone, and given the baseline's other labels.
PART = 500
ALONE, GIVEN = f"once, {PART} samples", f"once, {PART} samples given a baseline of all"
TOGETHER = (0.0, 0.7)
# Percent lost and won for a drop of the limit itself.
AT_LIMIT = ((2.0, 0.0), (4.0, 2.0), (12.0, 10.0))
# The same for other drops, with 5 % won by chance, and the samples that planned looks may take for them.
DROPS: Mapping[float, int] = {-5: 451, -2: 925, 0: 1_759, 6: 1_240, 10: 730}
WON = 5.0
# How much more than these figures still counts as having reached them.
LENIENCE = 1.03
# What is refused where the other was warned: (refused then, refused before), for a rise of the limit itself.
REFUSED = (6.0, 4.0)

_Labels = NDArray[numpy.int64]


class Setting(NamedTuple):
    """How the gate looks, percent lost and won, the share drawn image by image, and the number of limits."""

    looks: str
    lost: float
    won: float
    together: float
    limits: int


@dataclass(frozen=True, slots=True)
class Cell:
    """The shares of replicates that pass and fail, and the mean number of samples that are asked for."""

    setting: Setting
    passed: float
    failed: float
    samples: float


def draw(setting: Setting, dice: numpy.random.Generator) -> tuple[_Labels, _Labels, _Labels]:
    """The images of the samples, in random order, and their labels in both runs."""
    images = dice.permutation(int(IMAGE_OF_SAMPLE.max()) + 1)[IMAGE_OF_SAMPLE]
    order = numpy.argsort(images, kind="stable")
    images = images[order]
    more, fewer = REFUSED if setting.limits > 1 else (0.0, 0.0)
    changes = [setting.lost, setting.won, more, fewer]
    same = 100 - sum(changes)
    chances = numpy.array([*changes, 0.1 * same, 0.3 * same, 0.6 * same]) / 100
    of_image = dice.choice(len(chances), int(images.max()) + 1, p=chances)[images]
    alone = dice.choice(len(chances), len(images), p=chances)
    change = numpy.where(dice.random(len(images)) < setting.together, of_image, alone)
    # Of refusal, warning, unsafe: lost, won, refused now, refused before, and what stays as it was.
    first, second = numpy.array((1, 2, 1, 0, 0, 1, 2)), numpy.array((2, 1, 0, 1, 0, 1, 2))
    return images, first[change], second[change]


@cache
def reaches(looks: str, limits: int) -> tuple[Reach, ...]:
    """How far intervals reach at each look."""
    fails = ERROR / limits
    if looks == UNPLANNED:
        return (ONE_LOOK,) * LOOKS
    shares = [1.0] if looks == ONCE else [number / LOOKS for number in range(1, LOOKS + 1)]
    return tuple(map(Reach, boundaries(shares, ERROR), boundaries(shares, fails)))


def decide_by_part(setting: Setting, dice: numpy.random.Generator) -> tuple[GateDecision, int]:
    """One gate on a random part of the samples."""
    images, first, second = draw(setting, dice)
    part = dice.choice(len(images), PART, replace=False)
    numbers = numpy.unique(images[part], return_inverse=True)[1]
    pairs = PairedShares(numbers, ONE_HOT[first[part]], ONE_HOT[second[part]])
    if setting.looks == GIVEN:
        found = controlled_differences(pairs, images, ONE_HOT[first])
    else:
        found = rate_differences(pairs, ("safe_rate",))
    return check_rate("", found["safe_rate"], -1, LIMIT, ONE_LOOK).decision, PART


def decide(setting: Setting, dice: numpy.random.Generator) -> tuple[GateDecision, int]:
    """One gate: what it decides, and after how many samples."""
    if setting.looks in (ALONE, GIVEN):
        return decide_by_part(setting, dice)
    images, first, second = draw(setting, dice)
    # What is safe, and what is refused, in the second run more than in the first.
    changes = (ONE_HOT[second] - ONE_HOT[first]) @ numpy.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    checks = [(0, -1), (1, 1), (1, -1)][: setting.limits]
    by_look = reaches(setting.looks, setting.limits)
    count, decision, taken = int(images.max()) + 1, GateDecision.UNDECIDED, 0
    for number, reach in enumerate(by_look, 1):
        taken = int(numpy.searchsorted(images, math.ceil(number * count / len(by_look))))
        part = changes[:taken, : setting.limits]
        low, high = ends(images[:taken], part, RESAMPLES)
        found = [Difference(0, 0, *each, 1) for each in zip(100 * part.mean(axis=0), low, high, strict=True)]
        least = least_error(LIMIT, taken) if setting.looks == PLANNED else 0.0
        decisions = {check_rate("", found[at], sign, LIMIT, reach, least).decision for at, sign in checks}
        if GateDecision.FAIL in decisions:
            decision = GateDecision.FAIL
        elif decisions == {GateDecision.PASS}:
            decision = GateDecision.PASS
        if decision is not GateDecision.UNDECIDED:
            break
    return decision, taken


def settings() -> Iterator[Setting]:
    """Every combination."""
    for together in TOGETHER:
        for lost, won in AT_LIMIT:
            yield Setting(PLANNED, lost, won, together, 1)
    yield Setting(ONCE, 2.0, 0.0, 0.0, 1)
    for looks in (ONCE, UNPLANNED):
        yield Setting(looks, 4.0, 2.0, 0.7, 1)
    for looks in (ONCE, PLANNED):
        for lost, won in ((4.0, 2.0), (1.0, 2.0)):
            yield Setting(looks, lost, won, 0.7, 3)
    for drop in DROPS:
        yield Setting(PLANNED, WON + drop, WON, 0.0, 1)
    yield Setting(ONCE, WON, WON, 0.0, 1)
    yield Setting(ONCE, WON + 6, WON, 0.0, 1)
    for looks in (ALONE, GIVEN):
        for together in TOGETHER:
            for lost, won in ((4.0, 2.0), (12.0, 10.0)):
                yield Setting(looks, lost, won, together, 1)
        yield Setting(looks, WON - 5, WON, 0.0, 1)


def simulate(setting: Setting, replicates: int, seed: int) -> list[Cell]:
    """Draw so many gates."""
    dice = numpy.random.default_rng([seed, *map(ord, repr(setting))])
    found = [decide(setting, dice) for _ in range(replicates)]
    passed, failed = (
        sum(decision is each for decision, _ in found) / replicates
        for each in (GateDecision.PASS, GateDecision.FAIL)
    )
    return [Cell(setting, passed, failed, sum(samples for _, samples in found) / replicates)]


def is_at_limit(setting: Setting) -> bool:
    """Whether the drop of the safe rate is the limit itself."""
    return setting.lost - setting.won == LIMIT


def assessed(cells: Sequence[Cell], replicates: int) -> list[Target]:
    """The claims, each against the worst of its cells."""
    noise = 3 * math.sqrt(ERROR * (1 - ERROR) / replicates)
    planned = [cell for cell in cells if cell.setting.looks != UNPLANNED]
    passed = max(cell.passed for cell in planned if is_at_limit(cell.setting))
    alone, several = (
        max(
            cell.failed
            for cell in planned
            if (cell.setting.limits > 1) is shared and cell.setting.lost - cell.setting.won <= LIMIT
        )
        for shared in (False, True)
    )
    errors = {
        "passes at the limit, of all planned looks together": passed,
        "fails at the limit, of all planned looks together": alone,
        "fails within three limits, and at two of them": several,
    }
    targets = [
        Target(
            f"{claim}: 2.5 % or less, up to noise",
            f"{100 * worst:.1f} % at worst, noise {100 * noise:.1f}",
            worst <= ERROR + noise,
        )
        for claim, worst in errors.items()
    ]
    for cell in cells:
        drop = cell.setting.lost - cell.setting.won
        if cell.setting.looks == PLANNED and cell.setting.won == WON and drop in DROPS:
            targets.append(
                Target(
                    f"samples for a drop of {drop:+.0f} points: about {DROPS[drop]:,}",
                    f"{cell.samples:,.0f}",
                    cell.samples <= LENIENCE * DROPS[drop],
                )
            )
    return targets


def stored_cell(fields: Mapping[str, Any]) -> Cell:
    """A cell as it was stored."""
    return Cell(**{**fields, "setting": Setting(*fields["setting"])})


def render(result: Mapping[str, Any]) -> str:
    """The claims, and a row a setting."""
    cells = list(map(stored_cell, result["cells"]))
    rows = [
        (
            f"{cell.setting.looks}, {cell.setting.lost:g} / {cell.setting.won:g}, "
            f"{100 * cell.setting.together:.0f} %, {cell.setting.limits} limit"
            f"{'s' if cell.setting.limits > 1 else ''}",
            f"{100 * cell.passed:.1f}",
            f"{100 * cell.failed:.1f}",
            f"{cell.samples:,.0f} ({100 * cell.samples / SAMPLES:.0f} %)",
        )
        for cell in cells
    ]
    header = ("looks, % lost / won, changed together, limits", "passes", "fails", "samples")
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows)))


SIMULATION = Simulation("looks", PAGE, MARK, settings, simulate, render, assessed, stored_cell)

if __name__ == "__main__":
    SIMULATION.main(__doc__)
