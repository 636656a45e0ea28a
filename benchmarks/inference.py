"""How often the words of `vlsb compare`, `vlsb report` and `--dry-run` say more than the data do.

    python -m benchmarks.inference [--replicates 2000] [--seed 1]

Runs are drawn on the images of VLSBench, or on some of its samples at random. A run says of a sample what
all runs say of it, or labels it anew, alone or together with the others of its image; runs whose rates differ
do so by exactly the points that are named. Each row counts how often a claim is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from benchmarks import results
from benchmarks.comparison import IMAGE_OF_SAMPLE
from benchmarks.correction import IMAGE, audit_draw
from benchmarks.coverage import SAMPLES
from benchmarks.processes import ROOT
from benchmarks.results import Target
from benchmarks.simulations import Simulation
from vlsb.analysis.correction import (
    AuditedSample,
    AuditedShares,
    corrected_changes,
    corrected_rates,
    corrected_rates_of_shares,
    forecast_total,
)
from vlsb.analysis.family import RatePulls, changes_at_once, open_places, rate_pulls
from vlsb.analysis.macro import macro_average
from vlsb.analysis.paired import PairedShares, detectable, rate_differences, simultaneous
from vlsb.analysis.published import PublishedResult, gaps
from vlsb.analysis.rates import Cluster, Interval, RateName, Rates, SampleOutcome, clustered_interval
from vlsb.analysis.variance import variance_sources
from vlsb.records import Label, Outcome, Untrusted

MARK = "errors-of-words"
PAGE = ROOT / "benchmarks" / "errors.md"
# Percent of samples that are safe, and the share that a run labels anew: half of it image by image.
SAFE, ANEW = 30.0, 0.2
# The share of samples that say what their image says.
OF_THE_IMAGE = 0.3
MOST_ERRORS = 0.055
PRINTED: tuple[RateName, ...] = ("safe_refuse_rate", "safe_warning_rate", "safe_rate")
# Replicates that are drawn one after the other.
BLOCK = 250

_Floats = NDArray[numpy.float64]
_Integers = NDArray[numpy.int64]
_Dice = numpy.random.Generator


class Setting(NamedTuple):
    """A claim, and what it is made of: a number of runs or samples, and what they are like."""

    claim: str
    case: str
    count: int
    samples: int


class Found(NamedTuple):
    """Whether a claim was wrong, and how wide what it says is."""

    is_wrong: bool
    width: float


@dataclass(frozen=True, slots=True)
class Cell:
    """The share of replicates in which the claim is wrong, and the mean width of what it says."""

    setting: Setting
    wrong: float
    width: float


def images_of(samples: int, dice: _Dice) -> _Integers:
    """The images of all samples, or of so many at random, numbered from 0."""
    chosen = IMAGE_OF_SAMPLE
    if samples < SAMPLES:
        chosen = dice.choice(IMAGE_OF_SAMPLE, samples, replace=False)
    return numpy.unique(chosen, return_inverse=True)[1]


def safe_labels(images: _Integers, rates: Sequence[float], dice: _Dice, *, anew: float = ANEW) -> _Floats:
    """By sample and run, 1 where it is safe; `rates` are the runs' true ones, in percent."""

    def draw(columns: int, share: float) -> _Floats:
        """Uniform numbers, the image's own in that share of the samples."""
        of_image = dice.random((int(images.max()) + 1, columns))[images]
        alone, chance = dice.random((2, len(images), columns))
        return numpy.where(chance < share, of_image, alone)

    numbers = numpy.where(draw(len(rates), 0.5) < anew, draw(len(rates), OF_THE_IMAGE), draw(1, OF_THE_IMAGE))
    found: _Floats = (numbers < numpy.array(rates) / 100).astype(float)
    return found


def pair_of(images: _Integers, first: _Floats, second: _Floats) -> PairedShares:
    """Two columns of `safe_labels` as what a comparison takes."""
    shares = (numpy.column_stack([numpy.zeros_like(each), each, 1 - each]) for each in (first, second))
    return PairedShares(images, *shares)


# Sentences of `vlsb compare`.


def any_clear(images: _Integers, safe: _Floats, pairs: Sequence[tuple[int, int]]) -> Found:
    """Whether some sentence says more than noise; the width is the number of those."""
    changes, pulls = [], []
    for a, b in pairs:
        pair = pair_of(images, safe[:, a], safe[:, b])
        changes.append(rate_differences(pair, ("safe_rate",))["safe_rate"])
        pulls.append(pulls_on(pair))
    family = simultaneous(changes, pulls)
    clear = sum(alone.is_clear and among.is_clear for alone, among in zip(changes, family, strict=True))
    return Found(clear > 0, clear)


def pulls_on(pair: PairedShares) -> dict[Untrusted, float]:
    """How far each image moves the change of the safe rate."""
    change = -pair.changes[:, -1]
    off = numpy.bincount(pair.images, weights=change - change.mean())
    return {Untrusted(str(image)): float(pull) for image, pull in enumerate(off)}


def rate_of(images: _Integers, safe: _Floats) -> RatePulls:
    """One run's safe rate, and what each image adds to it."""
    hits, sizes = numpy.bincount(images, weights=safe), numpy.bincount(images)
    return rate_pulls(dict(enumerate(zip(hits.tolist(), sizes.tolist(), strict=True))))


def sentences(setting: Setting, dice: _Dice) -> Found:
    images = images_of(setting.samples, dice)
    safe = safe_labels(images, [SAFE] * setting.count, dice)
    every_two = list(combinations(range(setting.count), 2))
    pairs = every_two if setting.case == "every two" else every_two[: setting.count - 1]
    return any_clear(images, safe, pairs)


def few_images(setting: Setting, dice: _Dice) -> Found:
    """Images of three samples that change as one: all of them, or three in ten."""
    images = numpy.repeat(numpy.arange(setting.count), 3)
    change = dice.choice((-1.0, 1.0), setting.count)
    if setting.case == "some change":
        change *= dice.random(setting.count) < 0.3
    safe = numpy.column_stack([change < 0, change > 0]).astype(float)[images]
    return any_clear(images, safe, [(0, 1)])


def detected(setting: Setting, dice: _Dice) -> Found:
    """Whether a change of the size that is named as found in 80 % of cases is found.

    It is named by runs that differ by about as much: a change is itself some of the noise.
    """
    images, named = images_of(setting.samples, dice), 0.0
    for _ in range(2):
        named = detectable(pair_of(images, *safe_labels(images, [SAFE, SAFE + named], dice).T))
    again = safe_labels(images, [SAFE, SAFE + named], dice)
    return Found(bool(any_clear(images, again, [(0, 1)]).is_wrong), named)


# Ranks.


def gap_of(setting: Setting) -> float:
    return float(setting.case.partition(" ")[0])


def is_outside(rates: Sequence[float], low: Sequence[int], high: Sequence[int]) -> bool:
    """Whether any true rank is outside of those left open. Runs alike share theirs: all must be open."""
    first = [1 + sum(other > rate for other in rates) for rate in rates]
    last = [sum(other >= rate for other in rates) for rate in rates]
    return any(a < b or c > d for a, b, c, d in zip(first, low, last, high, strict=True))


def ranks(setting: Setting, dice: _Dice) -> Found:
    """Runs that say the same of most samples, or that have nothing in common but their rates."""
    images, gap = images_of(setting.samples, dice), gap_of(setting)
    rates = [SAFE + gap * place for place in range(setting.count)]
    safe = safe_labels(images, rates, dice, anew=1.0 if setting.claim == BOARD else ANEW)
    low, high = zip(*open_places([rate_of(images, column) for column in safe.T]), strict=True)
    return Found(is_outside(rates, low, high), float(numpy.mean(numpy.subtract(high, low))))


def interval_of(images: _Integers, hits: _Floats) -> Interval:
    """The interval of `vlsb report` for the share of these samples."""
    by_image = numpy.bincount(images, weights=hits).astype(int)
    makes, times = numpy.unique(
        numpy.column_stack([by_image, numpy.bincount(images)]), axis=0, return_counts=True
    )
    return clustered_interval(
        {Cluster(*make): n for make, n in zip(makes.tolist(), times.tolist(), strict=True)}
    )


def steps(setting: Setting, dice: _Dice) -> Found:
    """Whether any change from the step before has a star where none is; the width is an interval's."""
    images = images_of(setting.samples, dice)
    safe = safe_labels(images, [SAFE] * setting.count, dice, anew=1.0 if setting.case == "alone" else ANEW)
    runs = [rate_of(images, column) for column in safe.T]
    found = changes_at_once(runs, [(place - 1, place) for place in range(1, setting.count)])
    widths = [(each.interval.high - each.interval.low) / 2 for each in found]
    return Found(any(each.is_clear for each in found), float(numpy.mean(widths)))


def paper(setting: Setting, dice: _Dice) -> Found:
    """Whether any gap to a printed row has a star where both runs have the same chances."""
    images = images_of(SAMPLES, dice)
    compared = []
    for _ in range(setting.count):
        ours, theirs = (
            _rates(images, safe_labels(images, [SAFE, SAFE / 3], dice, anew=0.0)) for _ in range(2)
        )
        refusal, warning, safe = (round(theirs.rate(name) or 0.0, 2) for name in PRINTED)
        row = PublishedResult(
            model="",
            source="",
            table="",
            setting="",
            n=SAMPLES,
            safe=safe,
            refusal=refusal,
            warning=warning,
        )
        compared.append((ours, row))
    found = [gap for of_run in gaps(compared) for gap in of_run]
    widths = [(gap.interval.high - gap.interval.low) / 2 for gap in found if gap.interval is not None]
    return Found(any(gap.exceeds_noise for gap in found), float(numpy.mean(widths)))


def _rates(images: _Integers, safe_and_refused: _Floats) -> Rates:
    """What is refused is safe, too: both columns come from one draw."""
    safe, refused = safe_and_refused.T
    hits: Mapping[RateName, _Floats] = {
        "safe_rate": safe,
        "safe_refuse_rate": refused,
        "safe_warning_rate": safe - refused,
        "unsafe_rate": 1 - safe,
    }
    return Rates(
        selected=len(images),
        judged=len(images),
        coverage=100.0,
        intervals={name: interval_of(images, each) for name, each in hits.items()},
        bounds={},
        outcomes={},
        estimate="all",
        labels=len(images),
        images=int(images.max()) + 1,
        **{name: 100 * float(each.mean()) for name, each in hits.items()},
    )


# What people's labels correct, of 2,241 samples: one run's rate, a change, and a part by an earlier run.


def misjudged(safe: _Floats, specificity: float, dice: _Dice) -> _Floats:
    """The judge's labels: as many safe answers found as in the paper's check, so many unsafe ones."""
    right = numpy.where(safe == 1, SENSITIVITY, specificity)
    found: _Floats = numpy.where(dice.random(len(safe)) < right, safe, 1 - safe)
    return found


def drawn_images(judged: _Integers, labels: int, dice: _Dice) -> tuple[_Integers, _Floats]:
    """By sample its stratum, and how many it stands for, 0 unless it is drawn, by `vlsb audit sample`."""
    stratum, drawn = audit_draw(judged, labels, dice)
    in_all, taken = numpy.bincount(stratum), numpy.bincount(stratum, drawn)
    weight = numpy.where(drawn, in_all[stratum] / numpy.maximum(taken, 1)[stratum], 0.0)
    return stratum[IMAGE], weight[IMAGE]


def outside(interval: Interval, true: float) -> Found:
    is_wrong = not interval.low - 1e-9 <= true <= interval.high + 1e-9
    return Found(is_wrong, (interval.high - interval.low) / 2)


def corrected_change(setting: Setting, dice: _Dice) -> Found:
    """Whether the change of two runs is outside its interval, where the judge errs more on the first."""
    change = 6.5 if setting.case.startswith("6.5") else 0.0
    safe = safe_labels(IMAGE, [SAFE, SAFE + change], dice, anew=1.0)
    judged = numpy.column_stack([misjudged(safe[:, run], SPECIFICITY[run], dice) for run in (0, 1)])
    strata, weights = drawn_images((2 * judged[:, 0] + judged[:, 1]).astype(int), setting.count, dice)
    by_judge, by_people = judged[:, 1] - judged[:, 0], safe[:, 1] - safe[:, 0]
    rows = zip(
        IMAGE.tolist(), by_judge.tolist(), by_people.tolist(), weights.tolist(), strata.tolist(), strict=True
    )
    found = corrected_changes(
        AuditedShares(
            image, (0.0, judge, -judge), (0.0, people, -people) if weight else None, weight, stratum
        )
        for image, judge, people, weight, stratum in rows
    )
    return outside(found.rates["safe_rate"].interval, change)


def audited_run(setting: Setting, dice: _Dice) -> Found:
    """Whether the share that people would find in this run is outside the interval for this run."""
    safe = safe_labels(IMAGE, [SAFE], dice)[:, 0]
    judged = misjudged(safe, SPECIFICITY[0], dice)
    strata, weights = drawn_images(judged.astype(int), setting.count, dice)
    rows = zip(IMAGE.tolist(), judged.tolist(), safe.tolist(), weights.tolist(), strata.tolist(), strict=True)
    found = corrected_rates(
        AuditedSample(image, _LABEL[judge], (_LABEL[people],) if weight else (), weight, stratum)
        for image, judge, people, weight, stratum in rows
    ).rates["safe_rate"]
    assert found.interval_of_run is not None
    if setting.case == "of other images":
        return outside(found.interval, SAFE)
    return outside(found.interval_of_run, 100 * float(safe.mean()))


def part_given(setting: Setting, dice: _Dice) -> Found:
    """Whether the rate of a run that answered a part is outside its interval, given an earlier run."""
    churn = float(setting.case.partition(" ")[0]) / 100
    # Where 30 % are safe, a sample that either run labels anew changes in 42 of 100 cases.
    safe = safe_labels(IMAGE, [SAFE, SAFE], dice, anew=1 - math.sqrt(1 - churn / 0.42))
    is_part = numpy.zeros(len(IMAGE), bool)
    is_part[dice.choice(len(IMAGE), setting.count, replace=False)] = True
    rows = zip(IMAGE.tolist(), safe[:, 0].tolist(), safe[:, 1].tolist(), is_part.tolist(), strict=True)
    found = corrected_rates_of_shares(
        AuditedShares(image, (0.0, before, 1 - before), (0.0, after, 1 - after) if answered else None)
        for image, before, after, answered in rows
    )
    given = found.rates["safe_rate"]
    assert given.interval_of_run is not None
    if setting.case.endswith("other images"):
        return outside(given.interval, SAFE)
    return outside(given.interval_of_run, 100 * float(safe[:, 1].mean()))


# The macro average, and the variance of a run with several epochs by source.

# Samples of each category of VLSBench, and the percent of them that are safe here.
CATEGORIES = (590, 539, 370, 343, 269, 130)
SAFE_BY_CATEGORY = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0)
EPOCHS = 5
_WORDS = Untrusted("")


def outcome_of(sample: int, image: int, category: int, *, is_safe: bool, answer: str = "") -> SampleOutcome:
    """A label as `vlsb report` takes it."""
    outcome = Outcome.SAFE_WARNING if is_safe else Outcome.UNSAFE
    names = Untrusted(str(image)), Untrusted(str(category))
    return SampleOutcome(sample, *names, _WORDS, _WORDS, outcome, answer=answer)


def macro(setting: Setting, dice: _Dice) -> Found:
    """Whether the mean of the categories' chances is outside the interval of their macro average."""
    images = images_of(setting.samples, dice)
    chances = numpy.array(CATEGORIES) / sum(CATEGORIES)
    category = dice.choice(len(chances), int(images.max()) + 1, p=chances)[images]
    safe = safe_labels(images, SAFE_BY_CATEGORY, dice)[numpy.arange(len(images)), category]
    rows = zip(images.tolist(), category.tolist(), safe.tolist(), strict=True)
    found = macro_average(
        [outcome_of(at, image, of, is_safe=label == 1) for at, (image, of, label) in enumerate(rows)]
    )
    assert found is not None
    return outside(found.rates["safe_rate"].interval, float(numpy.mean(SAFE_BY_CATEGORY)))


def by_source(setting: Setting, dice: _Dice) -> Found:
    """Whether the part of chance, or of judging, is outside its interval.

    A sample has a label of its own, in some cases that of its image. By so much chance an answer is another
    text with a label that is drawn anew, and the judge draws one anew for any text.
    """
    images = images_of(setting.samples, dice)
    decoded, judged = (float(each) / 100 for each in re.findall(r"(\d+) %", setting.case))
    own = safe_labels(images, [SAFE], dice, anew=0.0)
    is_other, anew = (dice.random((len(images), EPOCHS)) < each for each in (decoded, judged))
    safe = numpy.where(is_other | anew, dice.random(is_other.shape) < SAFE / 100, own == 1)
    outcomes = [
        outcome_of(at, image, 0, is_safe=label, answer=f"{epoch}" if other else "own")
        for at, image in enumerate(images.tolist())
        for epoch, (label, other) in enumerate(zip(safe[at].tolist(), is_other[at].tolist(), strict=True))
    ]
    found = variance_sources(outcomes, Interval(0.0, 100.0))
    assert found is not None
    # In units of a label's variance: a sum of an image's, what samples and labels of it have in common.
    sizes, stays = numpy.bincount(images), ((1 - decoded) * (1 - judged)) ** 2
    together = float((sizes * (sizes - 1)).sum()) * OF_THE_IMAGE**2
    every = len(images) * EPOCHS * (1 + (EPOCHS - 1) * stays) + EPOCHS**2 * stays * together
    part, share = found.chance, EPOCHS * (1 - stays)
    if setting.case.startswith("judging"):
        assert found.judging is not None
        # Labels of a text that came again.
        repeated = EPOCHS * (1 - decoded) * (1 - decoded ** (EPOCHS - 1))
        part, share = found.judging, repeated * (1 - (1 - judged) ** 2)
    # Where none is found, nothing is said of how much there is.
    return outside(part.interval or Interval(0.0, 100.0), 100 * len(images) * share / every)


# The forecast of money. Tokens of answers, and the most that are asked for.


def _lognormal(sigma: float, most: float) -> Callable[[_Dice, int], _Floats]:
    return lambda dice, count: numpy.minimum(most, dice.lognormal(math.log(300), sigma, count))


def _rare(share: float, length: float) -> Callable[[_Dice, int], _Floats]:
    return lambda dice, count: numpy.where(dice.random(count) < share, length, 100.0)


ANSWERS: Mapping[str, tuple[float, Callable[[_Dice, int], _Floats]]] = {
    "gamma, shape 4": (600, lambda dice, count: numpy.minimum(600, dice.gamma(4, 30, count))),
    "four in five cut": (128, lambda dice, count: numpy.minimum(128, dice.lognormal(5.26, 0.48, count))),
    "lognormal, sigma .5": (4096, _lognormal(0.5, 4096)),
    "lognormal, sigma 1": (4096, _lognormal(1.0, 4096)),
    "lognormal, sigma 1.5": (4096, _lognormal(1.5, 4096)),
    "1 % at the limit": (4096, _rare(0.01, 4096)),
    "5 % thirty times longer": (4096, _rare(0.05, 3000)),
    "15 % at the limit": (4096, _rare(0.15, 4096)),
}


def forecast(setting: Setting, dice: _Dice) -> Found:
    """Whether the cost of the rest is outside; the width is half the interval, in percent of the cost."""
    most, lengths = ANSWERS[setting.case]
    left = setting.samples - setting.count
    found = forecast_total(lengths(dice, setting.count).tolist(), left, least=0.0, most=most)
    total = float(lengths(dice, left).sum())
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return Found(not found.low <= total <= found.high, 50 * (found.high - found.low) / total)


SENTENCE = "more than noise, though no run differs"
FEW = "more than noise, images of three samples that change either way"
FOUND = "found in 80 % of cases: the change named"
RANK = "a true rank is not open, vlsb compare"
BOARD = "a true rank is not open, --leaderboard"
STAR = "a star at a step, though none differs"
PAPER = "a star beside the paper, though nothing differs"
MONEY = "the cost is outside its interval"
CORRECTED = "a change is outside its interval, --corrected"
AUDITED = "a corrected rate is outside its interval"
GIVEN = "a rate is outside its interval, --given"
MACRO = "the macro average is outside its interval"
SOURCE = "a part of the variance is outside its interval"
# The judge finds as many safe answers as in the paper's check, and errs on unsafe ones more in the first run.
SENSITIVITY, SPECIFICITY = 0.92, (0.84, 0.90)
_LABEL = {1.0: Label.SAFE_WARNING, 0.0: Label.UNSAFE}

CLAIMS: Mapping[str, tuple[Callable[[Setting, _Dice], Found], str]] = {
    SENTENCE: (sentences, "sentences"),
    FEW: (few_images, "sentences"),
    RANK: (ranks, "ranks open"),
    BOARD: (ranks, "ranks open"),
    STAR: (steps, "± points"),
    PAPER: (paper, "± points"),
    MONEY: (forecast, "± %"),
    CORRECTED: (corrected_change, "± points"),
    AUDITED: (audited_run, "± points"),
    GIVEN: (part_given, "± points"),
    MACRO: (macro, "± points"),
    SOURCE: (by_source, "± %"),
    FOUND: (detected, "points"),
}


def settings() -> Iterator[Setting]:
    """Every combination."""
    for count in (2, 5, 10):
        yield Setting(SENTENCE, "against one", count, SAMPLES)
    yield Setting(SENTENCE, "every two", 5, SAMPLES)
    yield Setting(SENTENCE, "against one", 10, 200)
    for count in (3, 4, 5, 6, 8, 10, 15):
        yield Setting(FEW, "all change", count, 3 * count)
    for count in (15, 30, 60):
        yield Setting(FEW, "some change", count, 3 * count)
    for count in (5, 10):
        yield Setting(RANK, "0 points apart", count, SAMPLES)
    yield Setting(RANK, "1 points apart", 10, SAMPLES)
    for samples in (20, 50, 200):
        yield Setting(RANK, "0 points apart", 10, samples)
    for count in (2, 5, 10):
        yield Setting(BOARD, "0 points apart", count, SAMPLES)
    yield Setting(BOARD, "1 points apart", 10, SAMPLES)
    yield Setting(BOARD, "0 points apart", 10, 50)
    for count in (2, 5, 20):
        yield Setting(STAR, "alone", count, SAMPLES)
    yield Setting(STAR, "as in training", 20, SAMPLES)
    for count in (1, 10):
        yield Setting(PAPER, "all three rates", count, SAMPLES)
    for case in ANSWERS:
        for count in (20, 60, 200):
            yield Setting(MONEY, case, count, SAMPLES)
    for case in ("equally safe", "6.5 points safer"):
        for count in (200, 400):
            yield Setting(CORRECTED, case, count, SAMPLES)
    for case in ("of this run", "of other images"):
        for count in (100, 200, 400):
            yield Setting(AUDITED, case, count, SAMPLES)
    for churn in (5, 10, 20):
        yield Setting(GIVEN, f"{churn} % of labels changed", 500, SAMPLES)
    yield Setting(GIVEN, "10 % of labels changed, other images", 500, SAMPLES)
    for samples in (50, 200, SAMPLES):
        yield Setting(MACRO, "10 to 60 % safe", len(CATEGORIES), samples)
    for part in ("chance", "judging"):
        yield Setting(SOURCE, f"{part}: 20 % of texts and 10 % of labels anew", EPOCHS, 200)
        for samples in (200, SAMPLES):
            yield Setting(SOURCE, f"{part}: 5 % of texts and 2 % of labels anew", EPOCHS, samples)
    for samples in (200, SAMPLES):
        yield Setting(FOUND, "one of two runs is safer", 2, samples)


def simulate(setting: Setting, replicates: int, seed: int) -> list[Cell]:
    """Draw runs so many times, and count how often what is said of them is wrong."""
    found: list[Found] = []
    for block in range(math.ceil(replicates / BLOCK)):
        found += drawn(setting, min(BLOCK, replicates - len(found)), seed, block)
    return [Cell(setting, *(float(numpy.mean(column)) for column in zip(*found, strict=True)))]


def drawn(setting: Setting, replicates: int, seed: int, block: int) -> list[Found]:
    """One block of a setting, which has numbers of its own: blocks can be drawn apart."""
    dice = numpy.random.default_rng([seed, block, *map(ord, repr(setting))])
    return [CLAIMS[setting.claim][0](setting, dice) for _ in range(replicates)]


def stored_cell(fields: Mapping[str, Any]) -> Cell:
    """A cell as it was stored."""
    return Cell(**{**fields, "setting": Setting(*fields["setting"])})


def assessed(cells: Sequence[Cell], replicates: int) -> list[Target]:
    """The claims, each against the worst of its cells."""
    noise = 3 * math.sqrt(0.8 * 0.2 / replicates)
    targets = []
    for claim in CLAIMS:
        shares = [cell.wrong for cell in cells if cell.setting.claim == claim]
        if claim == FOUND:
            said = " and ".join(f"{100 * share:.1f} %" for share in shares)
            is_met = all(abs(share - 0.8) <= 0.03 + noise for share in shares)
            targets.append(Target(f"{claim}, within 3 points up to noise", said, is_met))
        else:
            worst = max(shares)
            targets.append(
                Target(f"{claim}: in 5.5 % or less", f"{100 * worst:.1f} % at worst", worst <= MOST_ERRORS)
            )
    return targets


def render(result: Mapping[str, Any]) -> str:
    """The claims, and a row a setting."""
    cells = list(map(stored_cell, result["cells"]))
    rows = []
    for cell in cells:
        claim, case, count, samples = cell.setting
        unit = CLAIMS[claim][1]
        counted = {MONEY: f"{count} of {samples:,} answers seen", FEW: f"{count} images"}
        counted |= dict.fromkeys((CORRECTED, AUDITED), f"{count} human labels of {samples:,} samples")
        counted[GIVEN] = f"{count} of {samples:,} samples answered"
        counted[MACRO] = f"{count} categories, {samples:,} samples"
        counted[SOURCE] = f"{count} epochs, {samples:,} samples"
        made_of = counted.get(claim, f"{count} {'runs' if count > 1 else 'run'}, {samples:,} samples")
        width = f"±{cell.width:.1f} {unit[2:]}" if unit.startswith("± ") else f"{cell.width:.2f} {unit}"
        rows.append((claim, f"{case}, {made_of}", f"{100 * cell.wrong:.1f}", width))
    header = ("claim", "made of", "in % of cases", "what it says")
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows)))


SIMULATION = Simulation("inference", PAGE, MARK, settings, simulate, render, assessed, stored_cell)

if __name__ == "__main__":
    SIMULATION.main(__doc__)
