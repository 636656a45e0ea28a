"""How often the interval of a rate's change under `vlsb judge --calibrate` contains the true change.

    python -m benchmarks.calibration [--replicates 2000] [--seed 1]

Responses and two judges are drawn on the images of VLSBench as in `benchmarks.correction`; the part is drawn
as the command draws it. Beside the interval that is shown stands what the strata would make of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy.special import stdtrit

from benchmarks import results
from benchmarks.correction import IMAGE, PAGE, SENSITIVITY, SHARES, Setting, audit_draw, audited, labels
from benchmarks.simulations import Simulation
from vlsb.analysis.correction import AuditedJudge
from vlsb.records import Label

MARK = "coverage-of-expected-changes"
DRAWN = (50, 100, 200, 400, 1000)
LEAST, MOST = 0.92, 0.97


@dataclass(frozen=True, slots=True)
class Cell:
    """How often the intervals of one label's change contain the true one, and their half-widths in points.

    `by_strata` is the interval that the strata would give.
    """

    setting: Setting
    label: Label
    covered: float
    half_width: float
    covered_by_strata: float
    half_width_by_strata: float


def reach_by_strata(
    difference: NDArray[numpy.int64], weight: NDArray[numpy.float64], stratum: NDArray[numpy.int64]
) -> float:
    """How far the textbook interval of a stratified draw reaches to either end.

    `difference` is by sample what a label's count changes by; `stratum` and `weight` are by image, and the
    weight is 0 where it was not drawn.
    """
    parts = weight[IMAGE] / weight[IMAGE].sum()
    of_images = numpy.bincount(IMAGE, parts * (difference - parts @ difference))
    drawn, variances = weight > 0, []
    for each in numpy.unique(stratum[drawn]):
        inside = of_images[drawn & (stratum == each)]
        if (count := len(inside)) > 1:
            left_out = 1 - count / numpy.count_nonzero(stratum == each)
            variances.append((left_out * count * inside.var(ddof=1), count - 1))
    if not (total := sum(variance for variance, _ in variances)):
        return 0.0
    freedom = total**2 / sum(variance**2 / free for variance, free in variances)
    return float(stdtrit(freedom, 0.975)) * math.sqrt(total)


def simulate(setting: Setting, replicates: int, seed: int) -> list[Cell]:
    """Draw so many times, and compare what the part says with what the new judge does on all responses."""
    dice = numpy.random.default_rng([seed, *map(ord, repr(setting))])
    found: dict[Label, list[tuple[float, ...]]] = {label: [] for label in Label}
    for _ in range(replicates):
        new, old = labels(setting, dice)
        stratum, drawn = audit_draw(old, setting.labels, dice)
        taken = numpy.bincount(stratum, drawn)
        weight = numpy.where(drawn, numpy.bincount(stratum)[stratum] / numpy.maximum(taken, 1)[stratum], 0.0)
        audit = AuditedJudge.of(audited(old, new, weight[IMAGE]))
        for place, label in enumerate(Label):
            difference = (new == place).astype(int) - (old == place)
            true = float(difference.mean())
            change = audit.change(label)
            off = abs(change.share - true) - 1e-9
            by_strata = reach_by_strata(difference, weight, stratum)
            found[label].append((off <= change.reach, 100 * change.reach, off <= by_strata, 100 * by_strata))
    return [Cell(setting, label, *numpy.mean(rows, axis=0).tolist()) for label, rows in found.items()]


def settings() -> Iterator[Setting]:
    """Every combination."""
    for shares in SHARES:
        for sensitivity in SENSITIVITY:
            for count in DRAWN:
                yield Setting(shares, sensitivity, count, "by audit")


def render(result: Mapping[str, Any]) -> str:
    """A row a setting: percent covered and half-width of each label, then the same by strata."""
    cells = [Cell(**{**each, "setting": Setting(*each["setting"])}) for each in result["cells"]]
    rows = []
    for setting in dict.fromkeys(cell.setting for cell in cells):
        of = [cell for cell in cells if cell.setting == setting]
        rows.append(
            (
                f"{setting.shares}, {setting.sensitivity:g}, {setting.labels}",
                *(_figure(cell.covered, cell.half_width) for cell in of),
                *(_figure(cell.covered_by_strata, cell.half_width_by_strata) for cell in of),
            )
        )
    names = ("refusal", "warning", "unsafe")
    header = ("new judge's labels, agreement, drawn", *names, *(f"{name} by strata" for name in names))
    return results.table(header, rows)


def _figure(covered: float, half_width: float) -> str:
    percent = f"{100 * covered:.1f} %"
    return f"{percent if LEAST <= covered <= MOST else f'**{percent}**'} ±{half_width:.1f}"


SIMULATION = Simulation("calibration", PAGE, MARK, settings, simulate, render)

if __name__ == "__main__":
    SIMULATION.main(__doc__)
