"""How often a 95 % interval of `vlsb report` contains the true rate, on clusters as in VLSBench.

    python -m benchmarks.coverage [--replicates 12000] [--sizes 50,200,2241] [--seed 1]

Labels are drawn from chances that vary by image and by sample, so that those of one image, and those of one
sample in several epochs, agree more or less: from not at all to always. What is drawn is how many images
get how many hits, from the exact distribution, and not every label.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy

from benchmarks import report, results
from benchmarks.processes import ROOT
from benchmarks.results import Target
from vlsb.analysis.rates import Cluster, Interval, clustered_interval, wilson

NAME = "coverage"
PAGE = ROOT / "benchmarks" / "intervals.md"
# Images of VLSBench by the number of their samples: 2,241 samples on 1,957 images.
IMAGES = {1: 1734, 2: 162, 3: 61}
SAMPLES = sum(size * images for size, images in IMAGES.items())
SIZES = (50, 200, SAMPLES)
EPOCHS = (1, 2, 5)
RATES = tuple(number / 100 for number in range(50, 100, 5))
RATES_NEAR_1 = (0.97, 0.99, 0.995, 1.0)
NOMINAL, LEAST_ON_AVERAGE, LEAST = 0.95, 0.945, 0.93
# Subsets of one size differ in their images; each is used for an equal part of the replicates.
SUBSETS = 50
# Stands for "always the same label": at 1 itself the formula divides by zero.
ALWAYS = 1 - 1e-9


class Dependence(NamedTuple):
    """Correlation of two labels of one image, and of one sample given its image (0 to 1)."""

    image: float
    sample: float


DEPENDENCE: Mapping[str, Dependence] = {
    "independent": Dependence(0.0, 0.0),
    "a little": Dependence(0.1, 0.1),
    "much": Dependence(0.25, 0.33),
    "epochs alike": Dependence(0.1, ALWAYS),
    "images alike": Dependence(ALWAYS, 0.0),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulated setting; `plain` is what Wilson's interval covers on as many independent samples as there
    are images (exact)."""

    samples: int
    epochs: int
    dependence: str
    rate: float
    covered: float
    plain: float


def hits_of_image(samples: int, epochs: int, rate: float, of: Dependence) -> list[float]:
    """The chance of 0, 1, ... hits among the labels of an image with so many samples.

    The chance of the image is Beta distributed around `rate`, that of each of its samples around the
    image's. The latter gives a polynomial in the image's chance, whose moments are known.
    """
    # Powers of (chance, 1 - chance) by hits: the hits of several samples add up, their powers too.
    by_hits: dict[int, dict[tuple[int, int], float]] = {0: {(0, 0): 1.0}}
    one = [_sample_polynomial(hits, epochs, of.sample) for hits in range(epochs + 1)]
    for _ in range(samples):
        added: dict[int, dict[tuple[int, int], float]] = {}
        for before, powers in by_hits.items():
            for hits, factor in enumerate(one):
                into = added.setdefault(before + hits, {})
                for (a, b), weight in powers.items():
                    for (c, d), more in factor.items():
                        into[a + c, b + d] = into.get((a + c, b + d), 0.0) + weight * more
        by_hits = added
    return [
        sum(weight * _beta_moment(a, b, rate, of.image) for (a, b), weight in by_hits[hits].items())
        for hits in range(samples * epochs + 1)
    ]


def _sample_polynomial(hits: int, epochs: int, correlation: float) -> dict[tuple[int, int], float]:
    """The beta-binomial chance of so many hits as a polynomial in the image's chance and its complement."""
    parts = {(0, 0): math.comb(epochs, hits) / _rising(1.0, epochs, correlation)}
    for count, place in ((hits, 0), (epochs - hits, 1)):
        for step in range(count):
            into: dict[tuple[int, int], float] = {}
            for (a, b), weight in parts.items():
                up = (a + 1, b) if place == 0 else (a, b + 1)
                into[up] = into.get(up, 0.0) + weight * (1 - correlation)
                into[a, b] = into.get((a, b), 0.0) + weight * step * correlation
            parts = into
    return {powers: weight for powers, weight in parts.items() if weight}


def _beta_moment(a: int, b: int, rate: float, correlation: float) -> float:
    """The mean of chance**a * (1 - chance)**b."""
    over = _rising(rate, a, correlation) * _rising(1 - rate, b, correlation)
    return over / _rising(1.0, a + b, correlation)


def _rising(start: float, count: int, correlation: float) -> float:
    return math.prod(start * (1 - correlation) + step * correlation for step in range(count))


def simulate(
    samples: int, epochs: int, dependence: str, rate: float, *, replicates: int, dice: numpy.random.Generator
) -> Cell:
    """Draw labels so many times and count how often the interval contains the rate."""
    chances = {size: hits_of_image(size, epochs, rate, DEPENDENCE[dependence]) for size in IMAGES}
    covered = done = 0
    plain = 0.0
    for images in subsets(samples, dice):
        times = replicates if samples == SAMPLES else max(1, replicates // SUBSETS)
        plain += times * _plain_coverage(sum(images.values()), rate)
        makes = [Cluster(hits, size * epochs) for size in images for hits in range(size * epochs + 1)]
        drawn = [
            dice.multinomial(count, _summing_to_1(chances[size]), times) for size, count in images.items()
        ]
        for counts in numpy.hstack(drawn).tolist():
            interval = clustered_interval({make: n for make, n in zip(makes, counts, strict=True) if n})
            covered += _contains(interval, rate)
        done += times
    return Cell(samples, epochs, dependence, rate, covered / done, plain / done)


def _summing_to_1(chances: Sequence[float]) -> list[float]:
    total = math.fsum(chances)
    return [chance / total for chance in chances]


def subsets(samples: int, dice: numpy.random.Generator) -> Iterator[Mapping[int, int]]:
    """Images by their number of selected samples: the whole set, or random selections of it."""
    if samples == SAMPLES:
        yield IMAGES
        return
    sizes = [size for size, images in IMAGES.items() for _ in range(images)]
    image_of_row = [image for image, size in enumerate(sizes) for _ in range(size)]
    for _ in range(SUBSETS):
        yield Counter(Counter(dice.choice(image_of_row, samples, replace=False).tolist()).values())


def _contains(interval: Interval, rate: float) -> bool:
    # The ends are percent, and a rate of 1 is the end itself.
    return interval.low - 1e-9 <= 100 * rate <= interval.high + 1e-9


@cache
def _plain_coverage(n: int, rate: float) -> float:
    """What Wilson's interval covers with n independent samples."""
    if rate == 1:
        return 1.0
    logs = math.log(rate), math.log(1 - rate)
    ways = (math.lgamma(n + 1) - math.lgamma(hits + 1) - math.lgamma(n - hits + 1) for hits in range(n + 1))
    return math.fsum(
        math.exp(each + hits * logs[0] + (n - hits) * logs[1])
        for hits, each in enumerate(ways)
        if _contains(wilson(hits, n), rate)
    )


def settings(sizes: Iterable[int]) -> Iterator[tuple[int, int, str]]:
    """Every combination that differs: with one epoch, a sample has nothing to agree with."""
    for samples in sizes:
        for epochs in EPOCHS:
            for dependence in DEPENDENCE:
                if epochs > 1 or dependence != "epochs alike":
                    yield samples, epochs, dependence


def assessed(cells: Sequence[Cell], replicates: int) -> list[Target]:
    """The claims, each against the worst of its cells."""
    common = [cell for cell in cells if cell.rate in RATES]
    near_1 = [cell for cell in cells if cell.rate in RATES_NEAR_1]
    average = min(mean(cell.covered for cell in group) for group in _by_setting(common).values())
    least = min(cell.covered for cell in common)
    lead, worst = min((cell.covered - min(cell.plain, NOMINAL), cell.covered) for cell in near_1)
    noise = 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / replicates)
    return [
        Target(
            "95 % intervals contain rates of .5 to .95 in 94.5 % of cases or more, averaged, in each setting",
            f"{100 * average:.1f} %",
            average >= LEAST_ON_AVERAGE,
        ),
        Target("and in at least 93 % at each of these rates", f"{100 * least:.1f} %", least >= LEAST),
        Target(
            "rates of .97 to 1 as often as Wilson's on one independent sample an image, up to 95 %",
            f"{100 * lead:+.1f} points at worst ({100 * worst:.1f} %), noise {100 * noise:.1f}",
            lead >= -noise,
        ),
    ]


def _by_setting(cells: Iterable[Cell]) -> dict[tuple[int, int, str], list[Cell]]:
    found: dict[tuple[int, int, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.samples, cell.epochs, cell.dependence), []).append(cell)
    return found


def render(result: Mapping[str, Any]) -> str:
    """Targets, and a row a setting: percent of intervals that contain the rate."""
    header = (
        *("samples, epochs, labels agree", "mean of .5 to .95", "least of them"),
        *(f"{rate:g} (plain)" for rate in RATES_NEAR_1[:-1]),
        "1",
    )
    rows = []
    for setting, cells in _by_setting(Cell(**each) for each in result["cells"]).items():
        at = {cell.rate: cell for cell in cells}
        common = [at[rate].covered for rate in RATES]
        near = [f"{100 * at[rate].covered:.1f} ({100 * at[rate].plain:.1f})" for rate in RATES_NEAR_1[:-1]]
        samples, epochs, dependence = setting
        name = f"{samples:,}, {epochs}, {dependence}"
        figures = (f"{100 * each:.1f}" for each in (mean(common), min(common)))
        rows.append((name, *figures, *near, f"{100 * at[1.0].covered:.0f}"))
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate every setting, store the result, put the table into the page on intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=12_000)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    chosen = parser.parse_args(arguments)
    dice = numpy.random.default_rng(chosen.seed)
    cells = [
        simulate(*setting, rate, replicates=chosen.replicates, dice=dice)
        for setting in settings(map(int, chosen.sizes.split(",")))
        for rate in (*RATES, *RATES_NEAR_1)
    ]
    targets = results.as_fields(assessed(cells, chosen.replicates))
    result = {
        "replicates": chosen.replicates,
        "seed": chosen.seed,
        "targets": targets,
        "cells": list(map(asdict, cells)),
    }
    results.save(NAME, result, chosen.results)
    chosen.page.write_text(shown(chosen.page.read_text(), result))
    print(render(result))


def shown(page: str, result: Mapping[str, Any]) -> str:
    """The page with the tables of this result."""
    said = f"{result['replicates']:,} replicates a figure, seed {result['seed']}."
    return report.between(page, NAME, f"{said}\n\n{render(result)}")


if __name__ == "__main__":
    main()
