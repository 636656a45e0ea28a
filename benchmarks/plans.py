"""How often `vlsb plan` names what then happens, and how often an equivalence is claimed that is none.

    python -m benchmarks.plans [--replicates 1000] [--seed 1]

Runs are drawn on the images of VLSBench as in `benchmarks.inference`. A plan rests on the flips of a baseline
that was run twice, or on a guess of all labels that differ; then runs are drawn as it foretells. The
simulation takes 2,000 resamples where the commands take 10,000.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from benchmarks import results
from benchmarks.comparison import PAGE
from benchmarks.coverage import SAMPLES
from benchmarks.inference import SAFE, images_of, pair_of, safe_labels
from benchmarks.results import Target
from benchmarks.simulations import Simulation
from vlsb.analysis.paired import PairedShares, equivalence, rate_differences
from vlsb.analysis.plan import POWER, Noise, noise_of_runs
from vlsb.analysis.rates import SIGNIFICANT, holm

MARK = "errors-of-plans"
RESAMPLES = 2_000
WITHIN = 2.0
CHURN = 10.0
# The share that a run labels anew where a churn of a baseline is measured: about so many labels flip.
ANEW = 0.14
FOUND = "vlsb plan: the change that it names is found"
SHOWN = "vlsb plan: an equivalence is shown by the samples that it names"
WRONG = "equivalent within 2 points, though the change is 2"
GUESS, FLIPS = "by a guess", "by the baseline's flips"

_Floats = NDArray[numpy.float64]
_Integers = NDArray[numpy.int64]
_Dice = numpy.random.Generator


class Setting(NamedTuple):
    """A claim, what it rests on, how many runs are compared with one, and the samples."""

    claim: str
    case: str
    runs: int
    samples: int


@dataclass(frozen=True, slots=True)
class Cell:
    """The share of replicates in which it came so, and what the plan named, or half a 90 % interval."""

    setting: Setting
    share: float
    named: float


def moved(images: _Integers, change: float, dice: _Dice) -> PairedShares:
    """Runs of which `CHURN` percent of the labels differ, a change of so many points included."""
    lost, won = (CHURN - change) / 200, (CHURN + change) / 200
    dealt = dice.random(len(images))
    first = numpy.where(dealt < lost, 1.0, 0.0)
    second = numpy.where((lost <= dealt) & (dealt < lost + won), 1.0, 0.0)
    return pair_of(images, first, second)


def drawn(case: str, images: _Integers, change: float, dice: _Dice) -> PairedShares:
    """Two runs that differ by so many points."""
    if case == GUESS:
        return moved(images, change, dice)
    return pair_of(images, *safe_labels(images, [SAFE, SAFE + change], dice, anew=ANEW).T)


def noise(case: str, dice: _Dice) -> Noise:
    """What the plan rests on: a guess, or a baseline of all samples that was run twice."""
    if case == GUESS:
        return Noise.guessed(SAFE, CHURN)
    images = images_of(SAMPLES, dice)
    first, second = (
        dict(enumerate(each)) for each in (safe_labels(images, [SAFE] * 2, dice, anew=ANEW).T > 0).tolist()
    )
    return noise_of_runs([first], [second], dict(enumerate(images.tolist())))[0]


def found(setting: Setting, dice: _Dice) -> tuple[bool, float]:
    named = noise(setting.case, dice).smallest_change(setting.samples)
    pairs = drawn(setting.case, images_of(setting.samples, dice), named, dice)
    return rate_differences(pairs, ("safe_rate",), resamples=RESAMPLES)["safe_rate"].is_clear, named


def shown(setting: Setting, dice: _Dice) -> tuple[bool, float]:
    named = min(SAMPLES, noise(setting.case, dice).samples_for_equivalence(WITHIN))
    pairs = drawn(setting.case, images_of(named, dice), 0.0, dice)
    return equivalence(pairs, WITHIN, resamples=RESAMPLES).is_shown, named


def wrong(setting: Setting, dice: _Dice) -> tuple[bool, float]:
    """Whether any of the runs is said to be equivalent, all of which are at the limit."""
    images = images_of(setting.samples, dice)
    claims = [
        equivalence(
            drawn(setting.case, images, dice.choice((-WITHIN, WITHIN)), dice), WITHIN, resamples=RESAMPLES
        )
        for _ in range(setting.runs)
    ]
    width = float(numpy.mean([(each.high - each.low) / 2 for each in claims]))
    return min(holm([each.p for each in claims])) < SIGNIFICANT, width


CLAIMS = {FOUND: (found, "points"), SHOWN: (shown, "samples"), WRONG: (wrong, "± points")}


def settings() -> Iterator[Setting]:
    """Every combination."""
    for case in (GUESS, FLIPS):
        for samples in (200, SAMPLES):
            yield Setting(FOUND, case, 1, samples)
        yield Setting(SHOWN, case, 1, SAMPLES)
        for samples in (500, SAMPLES):
            yield Setting(WRONG, case, 1, samples)
    yield Setting(WRONG, GUESS, 5, SAMPLES)


def simulate(setting: Setting, replicates: int, seed: int) -> list[Cell]:
    """Draw so many plans, and what came of them."""
    dice = numpy.random.default_rng([seed, *map(ord, repr(setting))])
    seen = [CLAIMS[setting.claim][0](setting, dice) for _ in range(replicates)]
    return [Cell(setting, *(float(numpy.mean(column)) for column in zip(*seen, strict=True)))]


def assessed(cells: Sequence[Cell], replicates: int) -> list[Target]:
    """The claims, each against the worst of its cells."""
    noise_of_power = 3 * math.sqrt(POWER * (1 - POWER) / replicates)
    noise_of_error = 3 * math.sqrt(SIGNIFICANT * (1 - SIGNIFICANT) / replicates)
    targets = []
    for claim in (FOUND, SHOWN):
        shares = [cell.share for cell in cells if cell.setting.claim == claim]
        said = ", ".join(f"{100 * share:.1f} %" for share in shares)
        is_met = all(abs(share - POWER) <= 0.03 + noise_of_power for share in shares)
        targets.append(Target(f"{claim} in 80 % of cases, within 3 points up to noise", said, is_met))
    worst = max(cell.share for cell in cells if cell.setting.claim == WRONG)
    targets.append(
        Target(
            f"{WRONG}: in 5 % or less, up to noise",
            f"{100 * worst:.1f} % at worst, noise {100 * noise_of_error:.1f}",
            worst <= SIGNIFICANT + noise_of_error,
        )
    )
    return targets


def render(result: Mapping[str, Any]) -> str:
    """The claims, and a row a setting."""
    rows = []
    for each in result["cells"]:
        claim, case, runs, samples = Setting(*each["setting"])
        unit, named = CLAIMS[claim][1], each["named"]
        text = f"{named:,.0f} {unit}" if unit == "samples" else f"{named:.2f} {unit}"
        text = f"±{named:.2f} points" if unit == "± points" else text
        drawn_on = "all" if claim == SHOWN else f"{samples:,}"
        of_runs = f", {runs} runs" if runs > 1 else ""
        rows.append((claim, f"{case}, {drawn_on} samples{of_runs}", f"{100 * each['share']:.1f}", text))
    header = ("claim", "made of", "in % of cases", "what it says")
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows)))


SIMULATION = Simulation("plans", PAGE, MARK, settings, simulate, render, assessed)

if __name__ == "__main__":
    SIMULATION.main(__doc__)
