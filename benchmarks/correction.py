"""How often the interval of a rate corrected by human labels contains the true rate.

    python -m benchmarks.correction [--replicates 2000] [--seed 1]

Responses are drawn on the images of VLSBench: people's labels with known shares, of which those of one image
agree more often than chance, and a judge that gives a label rightly with a known probability. Whole images
are labelled: any of them with equal chance, or with weights as many of each label of the judge, or those that
`vlsb audit sample` draws.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from benchmarks import results
from benchmarks.coverage import IMAGES
from benchmarks.processes import ROOT
from benchmarks.simulations import Simulation
from vlsb.analysis.correction import AuditedSample, corrected_rates
from vlsb.analysis.rates import RateName
from vlsb.records import Label

MARK = "coverage-of-corrected-rates"
PAGE = ROOT / "benchmarks" / "errors.md"
SIZES = numpy.repeat(list(IMAGES), list(IMAGES.values()))
IMAGE = numpy.repeat(numpy.arange(len(SIZES)), SIZES)
# The share of samples whose label is the one drawn for their image.
OF_THE_IMAGE = 0.3
# People's refusals, warnings and unsafe.
SHARES = {"refusals common": (0.10, 0.30, 0.60), "refusals rare": (0.02, 0.18, 0.80)}
SENSITIVITY = (0.92, 0.85)
HUMAN_LABELS = (100, 200, 400)
DESIGNS = ("equal", "by label", "by audit")
FIRST_OF_IMAGE = SIZES.cumsum() - SIZES
CATEGORIES = 6
# What an image's category has to do with its label: nothing.
CATEGORY = numpy.arange(len(SIZES)) % CATEGORIES
# What a judge says where it is wrong, by people's label: warnings and unsafe are confused most.
WRONG = numpy.array([[0.0, 0.5, 0.5], [0.2, 0.0, 0.8], [0.15, 0.85, 0.0]])
RATE_NAMES: tuple[RateName, ...] = ("safe_rate", "safe_refuse_rate", "safe_warning_rate")
LEAST, MOST = 0.92, 0.97

_Labels = NDArray[numpy.int64]


class Setting(NamedTuple):
    """What is simulated: people's shares, the judge's sensitivity, how many labels, how they are drawn."""

    shares: str
    sensitivity: float
    labels: int
    design: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One rate of one setting: how often its interval contains the true rate, its mean half-width and bias.

    The judge's own bias stands beside; the last three are in points.
    """

    setting: Setting
    rate: RateName
    covered: float
    half_width: float
    bias: float
    judge_bias: float


def labels(setting: Setting, dice: numpy.random.Generator) -> tuple[_Labels, _Labels]:
    """People's label and the judge's of every sample."""
    shares = SHARES[setting.shares]
    own, shared = dice.choice(3, len(IMAGE), p=shares), dice.choice(3, len(SIZES), p=shares)[IMAGE]
    human = numpy.where(dice.random(len(IMAGE)) < OF_THE_IMAGE, shared, own)
    wrong = (dice.random(len(IMAGE))[:, None] > WRONG.cumsum(axis=1)[human]).sum(axis=1)
    return human, numpy.where(dice.random(len(IMAGE)) < setting.sensitivity, human, wrong)


def weights(setting: Setting, judge: _Labels, dice: numpy.random.Generator) -> NDArray[numpy.float64]:
    """By image, how many images it stands for; 0 for one that nobody labels."""
    if setting.design == "equal":
        order = dice.permutation(len(SIZES))
        count = int(numpy.searchsorted(SIZES[order].cumsum(), setting.labels)) + 1
        drawn = numpy.zeros(len(SIZES))
        drawn[order[:count]] = 1
        return drawn
    if setting.design == "by audit":
        stratum, drawn = audit_draw(judge, setting.labels, dice)
        in_all, taken = numpy.bincount(stratum), numpy.bincount(stratum, drawn)
        return numpy.where(drawn, in_all[stratum] / numpy.maximum(taken, 1)[stratum], 0.0)
    of_image = judge[FIRST_OF_IMAGE]
    drawn = numpy.zeros(len(SIZES))
    for label in range(3):
        stratum = numpy.flatnonzero(of_image == label)
        count = min(len(stratum), round(setting.labels / 3 / SIZES.mean()))
        drawn[dice.choice(stratum, count, replace=False)] = len(stratum) / count
    return drawn


def audit_draw(
    judge: _Labels, responses: int, dice: numpy.random.Generator
) -> tuple[_Labels, NDArray[numpy.bool_]]:
    """By image its stratum and whether it is drawn, as `vlsb.analysis.audit` does in a tenth of the time."""
    times = numpy.bincount(judge, minlength=3)
    by_times = numpy.argsort(times)
    rarest = by_times[numpy.minimum.reduceat(numpy.argsort(by_times)[judge], FIRST_OF_IMAGE)]
    stratum = rarest * CATEGORIES + CATEGORY
    if 2 * len(numpy.unique(stratum)) > responses:
        stratum = rarest
    order = dice.permutation(len(SIZES))
    waiting = {each: order[stratum[order] == each].tolist() for each in numpy.unique(stratum).tolist()}
    roots = {each: math.sqrt(len(images)) for each, images in waiting.items()}
    # Two of each come first, then the largest square root over what it has.
    seats = [(False, -root / 0.5, each, 0) for each, root in roots.items()]
    heapq.heapify(seats)
    drawn = numpy.zeros(len(SIZES), bool)
    while responses > 0 and seats:
        *_, each, taken = heapq.heappop(seats)
        image = waiting[each].pop()
        drawn[image] = True
        responses -= int(SIZES[image])
        if waiting[each]:
            heapq.heappush(seats, (taken + 1 >= 2, -roots[each] / (taken + 1.5), each, taken + 1))
    return stratum, drawn


def audited(judge: _Labels, human: _Labels, weight: NDArray[numpy.float64]) -> list[AuditedSample]:
    """The samples with the labels of both; people's only where there is a weight."""
    every = tuple(Label)
    columns = (each.tolist() for each in (IMAGE, judge, human, weight))
    return [
        AuditedSample(image, every[judged], (every[theirs],) if drawn else (), drawn)
        for image, judged, theirs, drawn in zip(*columns, strict=True)
    ]


def simulate(setting: Setting, replicates: int, seed: int) -> list[Cell]:
    """Draw so many times, correct, and compare with the shares that were drawn from."""
    dice = numpy.random.default_rng([seed, *setting.design.encode(), *map(ord, repr(setting))])
    refused, warned, _ = SHARES[setting.shares]
    truth = dict(zip(RATE_NAMES, (100 * (refused + warned), 100 * refused, 100 * warned), strict=True))
    found: dict[RateName, list[tuple[float, ...]]] = {name: [] for name in RATE_NAMES}
    for _ in range(replicates):
        human, judge = labels(setting, dice)
        weight = weights(setting, judge, dice)[IMAGE]
        rates = corrected_rates(audited(judge, human, weight)).rates
        for name, true in truth.items():
            rate = rates[name]
            is_covered = rate.interval.low - 1e-9 <= true <= rate.interval.high + 1e-9
            found[name].append((is_covered, rate.half_width, rate.corrected - true, rate.judge - true))
    return [Cell(setting, name, *numpy.mean(rows, axis=0).tolist()) for name, rows in found.items()]


def settings() -> Iterator[Setting]:
    """Every combination."""
    for shares in SHARES:
        for sensitivity in SENSITIVITY:
            for count in HUMAN_LABELS:
                for design in DESIGNS:
                    yield Setting(shares, sensitivity, count, design)


def render(result: Mapping[str, Any]) -> str:
    """A row a setting: percent covered and half-width in points of each rate; bold outside 92 to 97 %."""
    cells = [Cell(**{**each, "setting": Setting(*each["setting"])}) for each in result["cells"]]
    rows = []
    for setting in dict.fromkeys(cell.setting for cell in cells):
        of = {cell.rate: cell for cell in cells if cell.setting == setting}
        figures = (f"{_percent(of[name].covered)} ±{of[name].half_width:.1f}" for name in RATE_NAMES)
        safe = of["safe_rate"]
        rows.append(
            (
                f"{setting.shares}, {setting.sensitivity:g}, {setting.labels}, {setting.design}",
                *figures,
                f"{safe.judge_bias:+.1f} → {safe.bias:+.1f}",
            )
        )
    header = (
        "people's labels, sensitivity, human labels, drawn",
        "safe",
        "refusal",
        "warning",
        "bias of safe",
    )
    return results.table(header, rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if LEAST <= share <= MOST else f"**{100 * share:.1f} %**"


SIMULATION = Simulation("correction", PAGE, MARK, settings, simulate, render)

if __name__ == "__main__":
    SIMULATION.main(__doc__)
