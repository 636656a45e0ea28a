"""How often `vlsb compare` and `vlsb gate` are wrong, on images that hold several samples as in VLSBench.

    python -m benchmarks.comparison [--replicates 2000] [--seed 1]

Two runs are drawn on all samples of the data set, or on some of them at random: with known chances a sample
is lost (safe, then unsafe), won, or the same. Samples of one image change together with a known chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from benchmarks import results
from benchmarks.coverage import IMAGES, SAMPLES
from benchmarks.processes import ROOT
from benchmarks.results import Target
from benchmarks.simulations import Simulation
from vlsb.analysis.gate import GateDecision, against_limit
from vlsb.analysis.paired import PairedShares, exact_mcnemar, rate_differences, stuart_maxwell
from vlsb.analysis.rates import Interval

MARK = "errors-of-comparisons"
PAGE = ROOT / "benchmarks" / "errors.md"
SIZES = (200, SAMPLES)
# A fifth of what the commands take: their intervals and p values vary less than these.
RESAMPLES = 2_000
TOGETHER = (0.0, 0.7)
# Percent lost and won.
ALIKE = ((2, 2), (10, 10), (20, 20))
APART = ((0, 3), (5, 15))
# The limit of `vlsb gate` when nothing else is asked for, and what is lost and won for a drop of it, of none,
# and of five points.
LIMIT = 2.0
AT_LIMIT = ((4, 2), (12, 10))
OTHERWISE = ((5, 5), (10, 5))
# First labels where all three change: refusal, warning, unsafe.
THREE = (0.1, 0.3, 0.6)
LEAST_COVERED, MOST_ERRORS = 0.93, 0.06

IMAGE_OF_SAMPLE = numpy.repeat(
    numpy.arange(sum(IMAGES.values())), numpy.repeat(list(IMAGES), list(IMAGES.values()))
)
ONE_HOT = numpy.eye(3)
_Labels = NDArray[numpy.int64]


class Setting(NamedTuple):
    """What is simulated; `lost` and `won` are percent of the samples, None where all three labels change."""

    samples: int
    together: float
    lost: int | None
    won: int | None


@dataclass(frozen=True, slots=True)
class Cell:
    """Shares of replicates: intervals that contain the true change, tests at 5 % that find one, decisions.

    `half_width` is the interval's mean one, in points.
    """

    setting: Setting
    covered: float
    half_width: float
    by_image: float
    mcnemar: float
    three_labels: float
    passed: float
    failed: float


def draw(setting: Setting, dice: numpy.random.Generator) -> tuple[_Labels, _Labels, _Labels]:
    """The images of the samples, and their labels in both runs."""
    chosen = IMAGE_OF_SAMPLE
    if setting.samples < SAMPLES:
        chosen = dice.choice(IMAGE_OF_SAMPLE, setting.samples, replace=False)
    images = numpy.unique(chosen, return_inverse=True)[1]

    def alike(shares: Sequence[float]) -> _Labels:
        """One draw a sample, the image's own for those that go together."""
        of_image = dice.choice(len(shares), images.max() + 1, p=shares)[images]
        is_shared = dice.random(len(images)) < setting.together
        return numpy.where(is_shared, of_image, dice.choice(len(shares), len(images), p=shares))

    if setting.lost is None or setting.won is None:
        # One sample in four is labelled anew, by the same chances.
        first, anew, is_anew = alike(THREE), alike(THREE), alike((0.75, 0.25))
        return images, first, numpy.where(is_anew == 1, anew, first)
    same = (100 - setting.lost - setting.won) / 100
    change = alike((setting.lost / 100, setting.won / 100, 0.4 * same, 0.6 * same))
    return images, numpy.array((1, 2, 1, 2))[change], numpy.array((2, 1, 1, 2))[change]


def simulate(setting: Setting, replicates: int, seed: int) -> list[Cell]:
    """Draw two runs so many times, compare them, and decide about the second one."""
    dice = numpy.random.default_rng([seed, *map(ord, repr(setting))])
    true = float((setting.won or 0) - (setting.lost or 0))
    rows = []
    for _ in range(replicates):
        images, first, second = draw(setting, dice)
        pairs = PairedShares(images, ONE_HOT[first], ONE_HOT[second])
        safe = rate_differences(pairs, resamples=RESAMPLES)["safe_rate"]
        decision = against_limit(Interval(-safe.high, -safe.low), LIMIT)
        three = 1.0
        if setting.lost is None:
            three = stuart_maxwell(pairs, are_counts=True, resamples=RESAMPLES).p_swapped
        rows.append(
            (
                safe.low - 1e-9 <= true <= safe.high + 1e-9,
                (safe.high - safe.low) / 2,
                safe.p < 0.05,
                exact_mcnemar(pairs).p < 0.05,
                three < 0.05,
                decision is GateDecision.PASS,
                decision is GateDecision.FAIL,
            )
        )
    return [Cell(setting, *numpy.mean(rows, axis=0).tolist())]


def settings() -> Iterator[Setting]:
    """Every combination."""
    for samples in SIZES:
        for together in TOGETHER:
            for lost, won in (*ALIKE, *APART, *AT_LIMIT, *OTHERWISE):
                yield Setting(samples, together, lost, won)
            yield Setting(samples, together, None, None)


def assessed(cells: Sequence[Cell], replicates: int) -> list[Target]:
    """The claims, each against the worst of its cells."""
    alike = [cell for cell in cells if cell.setting[2:] in (*ALIKE, (5, 5), (None, None))]
    at_limit = [cell for cell in cells if cell.setting[2:] in AT_LIMIT]
    covered = min(cell.covered for cell in cells)
    found = max(max(cell.by_image, cell.three_labels) for cell in alike)
    wrong = max(max(cell.passed, cell.failed) for cell in at_limit)
    noise = 3 * math.sqrt(0.025 * 0.975 / replicates)
    return [
        Target(
            "95 % intervals of a change contain the true one in 93 % of cases or more",
            f"{100 * covered:.1f} % at worst",
            covered >= LEAST_COVERED,
        ),
        Target(
            "runs that do not differ are said to (p by image below .05) in 6 % of cases or less",
            f"{100 * found:.1f} % at worst",
            found <= MOST_ERRORS,
        ),
        Target(
            "a run that is worse by the limit itself passes, or fails, in 2.5 % of cases each, up to noise",
            f"{100 * wrong:.1f} % at worst, noise {100 * noise:.1f}",
            wrong <= 0.025 + noise,
        ),
    ]


def render(result: Mapping[str, Any]) -> str:
    """The claims, and a row a setting, in percent."""
    cells = [Cell(**{**each, "setting": Setting(*each["setting"])}) for each in result["cells"]]
    rows = []
    for cell in cells:
        samples, together, lost, won = cell.setting
        changes = "three labels" if lost is None else f"{lost} / {won}"
        three = f"{100 * cell.three_labels:.1f}" if lost is None else "-"
        shares = (cell.by_image, cell.mcnemar)
        decided = (cell.passed, cell.failed)
        rows.append(
            (
                f"{samples:,}, {changes}, {100 * together:.0f} %",
                f"{100 * cell.covered:.1f} ±{cell.half_width:.1f}",
                *(f"{100 * each:.1f}" for each in shares),
                three,
                *("-" if lost is None else f"{100 * each:.1f}" for each in decided),
            )
        )
    header = (
        "samples, % lost / won, changed together",
        "interval contains it",
        "p by image < .05",
        "McNemar < .05",
        "three labels < .05",
        "passes",
        "fails",
    )
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows)))


SIMULATION = Simulation("comparison", PAGE, MARK, settings, simulate, render, assessed)

if __name__ == "__main__":
    SIMULATION.main(__doc__)
