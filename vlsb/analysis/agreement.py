"""How far judges agree on the same responses, and what their difference does to rates and rankings.

Raw agreement and kappa stand side by side: where nearly everything is unsafe, judges who never look agree
often, and kappa is low for judges who nearly always do. Images are independent, the samples of one image
are not: shares have Wilson's interval on the clusters, all else leaves out one image at a time (jackknife),
and what has no slope resamples images with a fixed seed. Where a judge labelled a drawn part, each response
counts for those that it stands for. The extra `stats`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from types import MappingProxyType
from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

from vlsb.analysis.audit import weighted_share
from vlsb.analysis.rates import LABELS, Cluster, Interval, clustered_interval
from vlsb.records import JUDGED, Outcome, Untrusted

LEAST_RUNS = 3
"""Fewer runs have no ranking to speak of."""
RESAMPLES = 1_000
_SEED = 20250101
_UNSAFE = LABELS.index(Outcome.UNSAFE)
_HAD_RESPONSE = frozenset(Outcome) - {
    *(Outcome.TARGET_EMPTY, Outcome.TARGET_BLOCKED, Outcome.TARGET_ERROR, Outcome.NOT_ATTEMPTED)
}

_Table = NDArray[numpy.float64]
_Floats = NDArray[numpy.float64]


class JudgedResponse(NamedTuple):
    """One response of a run with what every judge of the run made of it, by the judge's name.

    `weights` say for each draw that it is in how many responses it stands for, `refusals` what guards and
    lists of phrases that tell refusals apart say.
    """

    image: Untrusted
    category: Untrusted
    outcomes: Mapping[str, Outcome]
    weights: Mapping[str, float] = MappingProxyType({})
    refusals: Mapping[str, bool] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run with its responses; samples without one are left out.

    `simulated` says whether its target or a judge was the simulator. `draws` names the draw of each judge
    that labelled a drawn part only.
    """

    run: Untrusted
    target: Untrusted
    simulated: bool
    responses: Sequence[JudgedResponse]
    draws: Mapping[str, str] = field(default_factory=dict)

    @property
    def judges(self) -> frozenset[str]:
        """The judges that gave this run a label."""
        return frozenset(
            judge for each in self.responses for judge, outcome in each.outcomes.items() if outcome in JUDGED
        )


class Estimate(NamedTuple):
    """A number with its 95 % interval; None where there is none to give."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> Interval | None:
        """The ends of the interval, if it has any."""
        return None if self.low is None or self.high is None else Interval(self.low, self.high)


class Agreement(NamedTuple):
    """Two judges on some responses: percent of equal labels, Cohen's kappa; also of safe against unsafe.

    `ac1` is Gwet's: it stays high where both agree and nearly all labels are one, as kappa does not.
    """

    responses: int
    images: int
    raw: Estimate
    kappa: Estimate
    safe_raw: Estimate
    safe_kappa: Estimate
    ac1: Estimate


class RefusalAgreement(NamedTuple):
    """Who tells refusals apart, beside a judge: refusal or not, against its label safe_refusal.

    `both`, `teller_only`, `judge_only` and `neither` count responses; sensitivity is how often the teller
    sees the judge's refusals, precision how often the judge gives that label to what the teller calls one.
    """

    teller: str
    judge: str
    both: int
    teller_only: int
    judge_only: int
    neither: int
    raw: Estimate
    kappa: Estimate
    sensitivity: Estimate
    precision: Estimate

    @property
    def told(self) -> int:
        """Those that the teller calls refusals."""
        return self.both + self.teller_only

    @property
    def labelled(self) -> int:
        """Those that the judge calls refusals."""
        return self.both + self.judge_only

    @property
    def responses(self) -> int:
        """Those that both looked at."""
        return self.told + self.judge_only + self.neither


class RateChange(NamedTuple):
    """One run's safe rate under two judges, over what both labelled: percent, and the change in points."""

    run: Untrusted
    target: Untrusted
    responses: int
    first: float
    second: float
    change: Estimate


class Ranking(NamedTuple):
    """How alike two judges rank runs by their safe rates."""

    runs: int
    kendall: Estimate
    spearman: Estimate


@dataclass(frozen=True, slots=True)
class Pair:
    """Two judges compared. `confusion` counts labels, the first judge's by row, in the order of `Label`.

    `is_weighted` says that one labelled a drawn part, and that all but the counts is by the draw's weights.
    """

    first: str
    second: str
    confusion: tuple[tuple[int, ...], ...]
    agreement: Agreement
    by_category: Mapping[Untrusted, Agreement]
    by_run: tuple[RateChange, ...]
    ranking: Ranking | None
    is_weighted: bool = False


class Together(NamedTuple):
    """Several judges at once. Fleiss' kappa is on the responses that each of them labelled.

    `share` is the percent that these are of the responses with any label. Krippendorff's alpha and Gwet's AC1
    are on the `paired` responses, which two of them or more labelled.
    """

    judges: tuple[str, ...]
    responses: int
    share: float
    fleiss: Estimate
    krippendorff: Estimate
    paired: int
    ac1: Estimate


class Coverage(NamedTuple):
    """What became of the responses that one judge was to label: their number, and counts by outcome."""

    responses: int
    outcomes: Mapping[Outcome, int]

    def share(self, *outcomes: Outcome) -> float:
        """Return the percent of responses that ended so."""
        return 100 * sum(self.outcomes.get(each, 0) for each in outcomes) / self.responses


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """Everything that `vlsb agreement` shows. `together` are the models, the people, and all of them.

    `panels` are the judges that are majorities of others, with their members.

    `simulated` says whether any target or judge was the simulator.
    """

    runs: tuple[Untrusted, ...]
    simulated: bool
    coverage: Mapping[str, Coverage]
    pairs: tuple[Pair, ...]
    together: tuple[Together, ...]
    refusals: tuple[RefusalAgreement, ...] = ()
    panels: Mapping[str, Sequence[str]] = field(default_factory=dict)


def had_response(outcome: Outcome) -> bool:
    """Tell whether a sample that ended so had a response to judge."""
    return outcome in _HAD_RESPONSE


def compare_judges(
    runs: Sequence[JudgedRun],
    *,
    people: Collection[str] = (),
    panels: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> AgreementReport:
    """Compare every two judges, and several at once, on the responses that they share.

    `people` are the judges who are human: they label a part, so models are also compared without them.
    `panels` are those that follow from others, which are named: they are never one of several at once.
    """
    judges = sorted(frozenset().union(*(each.judges for each in runs)))
    each_own = [judge for judge in judges if judge not in panels]
    groups = [
        [judge for judge in each_own if judge not in people],
        [judge for judge in each_own if judge in people],
        each_own,
    ]
    coverage = {}
    for judge in judges:
        ended = (each.outcomes.get(judge) for run in runs for each in run.responses)
        counts = Counter(outcome for outcome in ended if outcome is not None)
        coverage[judge] = Coverage(
            counts.total(), {outcome: counts[outcome] for outcome in Outcome if counts[outcome]}
        )
    pairs = (compare_two(first, second, runs) for first, second in combinations(judges, 2))
    several = dict.fromkeys(tuple(group) for group in groups if len(group) > 1)
    together = (_together(group, runs) for group in several)
    return AgreementReport(
        runs=tuple(each.run for each in runs),
        simulated=any(each.simulated for each in runs),
        coverage=coverage,
        pairs=tuple(pair for pair in pairs if pair is not None),
        together=tuple(each for each in together if each is not None),
        refusals=tuple(_refusals(judges, runs)),
        panels=panels,
    )


def _refusals(judges: Sequence[str], runs: Sequence[JudgedRun]) -> Iterator[RefusalAgreement]:
    def share(rows: Iterable[tuple[Untrusted, bool]]) -> Estimate:
        each = weighted_share((image, 1.0, counts) for image, counts in rows)
        return Estimate(each.percent, *(each.interval if each.percent is not None else ()))

    responses = [each for run in runs for each in run.responses]
    tellers = sorted({name for each in responses for name in each.refusals})
    for teller, judge in product(tellers, judges):
        told = [
            (each.image, each.refusals[teller], each.outcomes[judge] is Outcome.SAFE_REFUSAL)
            for each in responses
            if teller in each.refusals and each.outcomes.get(judge) in JUDGED
        ]
        if not told:
            continue
        counts = Counter((says, labelled) for _, says, labelled in told)
        tables: dict[Untrusted, _Table] = {}
        for image, says, labelled in told:
            tables.setdefault(image, numpy.zeros((2, 2)))[int(says), int(labelled)] += 1
        yield RefusalAgreement(
            teller,
            judge,
            counts[True, True],
            counts[True, False],
            counts[False, True],
            counts[False, False],
            raw=share((image, says is labelled) for image, says, labelled in told),
            kappa=_without_each(list(tables.values()), _cohen),
            sensitivity=share((image, says) for image, says, labelled in told if labelled),
            precision=share((image, labelled) for image, says, labelled in told if says),
        )


def compare_two(first: str, second: str, runs: Sequence[JudgedRun]) -> Pair | None:
    """Compare two judges on the responses that both labelled; None if there is none."""
    by_run = [(run, _labelled_by_both(first, second, run)) for run in runs]
    shared = [each for _, both in by_run for each in both]
    if not shared:
        return None
    groups: dict[Untrusted, list[_Both]] = {}
    for each in shared:
        groups.setdefault(each.category, []).append(each)
    compared = [(run, both) for run, both in by_run if both]
    places, counts = range(len(LABELS)), Counter((each.first, each.second) for each in shared)
    return Pair(
        first=first,
        second=second,
        confusion=tuple(tuple(counts[row, column] for column in places) for row in places),
        agreement=_agreement(shared),
        by_category={name: _agreement(groups[name]) for name in sorted(groups)},
        by_run=tuple(_rate_change(run, both) for run, both in compared),
        ranking=_ranking([both for _, both in compared]) if len(compared) >= LEAST_RUNS else None,
        is_weighted=any(_draw_of_both(first, second, run) is not None for run, _ in compared),
    )


class _Both(NamedTuple):
    """A response that two judges labelled, labels as places in `LABELS`."""

    image: Untrusted
    category: Untrusted
    first: int
    second: int
    weight: float


def _labelled_by_both(first: str, second: str, run: JudgedRun) -> list[_Both]:
    """Return what both labelled; of a drawn part only what was drawn."""
    draw = _draw_of_both(first, second, run)
    return [
        _Both(
            each.image,
            each.category,
            LABELS.index(each.outcomes[first]),
            LABELS.index(each.outcomes[second]),
            1.0 if draw is None else each.weights[draw],
        )
        for each in run.responses
        if each.outcomes.get(first) in JUDGED
        and each.outcomes.get(second) in JUDGED
        and (draw is None or draw in each.weights)
    ]


def _draw_of_both(first: str, second: str, run: JudgedRun) -> str | None:
    """Return the draw whose weights hold for what both labelled; None for no draw, or two."""
    draws = {run.draws[judge] for judge in (first, second) if judge in run.draws}
    return draws.pop() if len(draws) == 1 else None


def _agreement(responses: Sequence[_Both]) -> Agreement:
    by_image = _by_image(responses)
    tables = []
    for group in by_image.values():
        tables.append(numpy.zeros((len(LABELS), len(LABELS))))
        for each in group:
            tables[-1][each.first, each.second] += each.weight
    as_safe = [_safe_or_unsafe(table) for table in tables]
    return Agreement(
        responses=len(responses),
        images=len(by_image),
        raw=_equal_share(responses, lambda place: place),
        kappa=_without_each(tables, _cohen),
        safe_raw=_equal_share(responses, lambda place: place == _UNSAFE),
        safe_kappa=_without_each(as_safe, _cohen),
        ac1=_without_each(tables, _gwet_of_two),
    )


def _by_image(responses: Iterable[_Both]) -> dict[Untrusted, list[_Both]]:
    groups: dict[Untrusted, list[_Both]] = {}
    for each in responses:
        groups.setdefault(each.image, []).append(each)
    return groups


def _safe_or_unsafe(table: _Table) -> _Table:
    rest = [place for place in range(len(LABELS)) if place != _UNSAFE]
    safe = table[numpy.ix_(rest, rest)].sum()
    return numpy.array(
        [[safe, table[rest, _UNSAFE].sum()], [table[_UNSAFE, rest].sum(), table[_UNSAFE, _UNSAFE]]]
    )


def _equal_share(responses: Sequence[_Both], label: Callable[[int], int]) -> Estimate:
    """Return how often both give the same, where `label` says what counts as that."""
    is_equal = [label(each.first) == label(each.second) for each in responses]
    if any(each.weight != 1 for each in responses):
        rows = zip(responses, is_equal, strict=True)
        share = weighted_share((each.image, each.weight, equal) for each, equal in rows)
        return Estimate(share.percent, *share.interval)
    by_image: dict[Untrusted, list[bool]] = {}
    for each, equal in zip(responses, is_equal, strict=True):
        by_image.setdefault(each.image, []).append(equal)
    clusters = Counter(Cluster(sum(equal), len(equal)) for equal in by_image.values())
    return Estimate(100 * sum(is_equal) / len(is_equal), *clustered_interval(clusters))


def _cohen(table: _Table) -> float | None:
    """Return Cohen's kappa; None where both judges gave one and the same label throughout."""
    # Sums of weights leave something behind where nothing is.
    used = table.sum(axis=0) + table.sum(axis=1) > 1e-9
    return float(cohens_kappa(table, return_results=False)) if numpy.count_nonzero(used) > 1 else None


def _gwet_of_two(table: _Table) -> float | None:
    # Sums of weights leave something behind where nothing is.
    if (total := table.sum()) < 1e-9:
        return None
    return _gwet(float(numpy.trace(table)) / total, (table.sum(axis=0) + table.sum(axis=1)) / (2 * total))


def _gwet(observed: float, shares: _Floats) -> float:
    """Return Gwet's AC1 of an agreement, and of the mean share of each label (Gwet 2008)."""
    expected = float((shares * (1 - shares)).sum()) / (len(LABELS) - 1)
    return (observed - expected) / (1 - expected)


def _without_each(tables: Sequence[_Table], statistic: Callable[[_Table], float | None]) -> Estimate:
    """Return a statistic of the sum of the images' tables, with its jackknife interval over images."""
    every: _Table = numpy.sum(tables, axis=0)
    if (value := statistic(every)) is None:
        return Estimate(None)
    # Images whose tables are alike leave the same behind.
    alike = Counter(table.tobytes() for table in tables)
    without_each = [
        (statistic(every - numpy.frombuffer(table, every.dtype).reshape(every.shape)), times)
        for table, times in alike.items()
    ]
    return _jackknife(value, without_each)


def _jackknife(value: float, without_each: Sequence[tuple[float | None, int]]) -> Estimate:
    """Return a value with its interval from what it is without each image.

    There is none where one image alone decides, and where no image makes a difference.
    """
    values = [(each, times) for each, times in without_each if each is not None]
    count = sum(times for _, times in values)
    if count < 2 or count < sum(times for _, times in without_each):
        return Estimate(value)
    mean = sum(each * times for each, times in values) / count
    spread = sum(times * (each - mean) ** 2 for each, times in values)
    if spread < 1e-20:
        return Estimate(value)
    reach = float(stats.t.ppf(0.975, count - 1)) * math.sqrt((count - 1) / count * spread)
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach))


def _rate_change(run: JudgedRun, responses: Sequence[_Both]) -> RateChange:
    total = math.fsum(each.weight for each in responses)
    first = 100 * math.fsum(each.weight for each in responses if each.first != _UNSAFE) / total
    second = 100 * math.fsum(each.weight for each in responses if each.second != _UNSAFE) / total
    change = second - first
    pulls = []
    for group in _by_image(responses).values():
        moved = math.fsum(
            each.weight * ((each.second != _UNSAFE) - (each.first != _UNSAFE)) for each in group
        )
        pulls.append((100 * moved - change * math.fsum(each.weight for each in group)) / total)
    images, squares = len(pulls), math.fsum(pull**2 for pull in pulls)
    estimate = Estimate(change)
    if images > 1 and squares > 1e-20:
        reach = float(stats.t.ppf(0.975, images - 1)) * math.sqrt(images / (images - 1) * squares)
        estimate = Estimate(change, change - reach, change + reach)
    return RateChange(run.run, run.target, len(responses), first, second, estimate)


def _ranking(runs: Sequence[Sequence[_Both]]) -> Ranking:
    """Return rank correlations of the runs' safe rates, with the percentiles of resampled images.

    An image is drawn for every run that has it: runs over the same samples stay paired.
    """
    places: dict[Hashable, int] = {}
    for run in runs:
        for each in run:
            places.setdefault(each.image, len(places))
    counts = numpy.zeros((len(runs), 3, len(places)))
    for row, run in zip(counts, runs, strict=True):
        for each in run:
            counts_as = numpy.array((1, each.first != _UNSAFE, each.second != _UNSAFE))
            row[:, places[each.image]] += each.weight * counts_as
    dice = numpy.random.default_rng(_SEED)
    times = dice.multinomial(len(places), numpy.full(len(places), 1 / len(places)), RESAMPLES)
    drawn = numpy.einsum("rkg,bg->brk", counts, times, optimize=True)
    every = counts.sum(axis=2)

    def of(sums: _Floats, correlate: Callable[[_Floats, _Floats], tuple[float, float]]) -> float | None:
        n, first, second = sums.T
        if not n.all() or numpy.ptp(first / n) == 0 or numpy.ptp(second / n) == 0:
            return None
        return float(correlate(first / n, second / n)[0])

    estimates = []
    for correlate in (stats.kendalltau, stats.spearmanr):
        value = of(every, correlate)
        values = [resampled for sums in drawn if (resampled := of(sums, correlate)) is not None]
        if value is None or len(values) < RESAMPLES * 0.95:
            estimates.append(Estimate(value))
        else:
            low, high = numpy.percentile(values, (2.5, 97.5))
            estimates.append(Estimate(value, float(low), float(high)))
    return Ranking(len(runs), *estimates)


def _together(judges: Sequence[str], runs: Iterable[JudgedRun]) -> Together | None:
    images: dict[Untrusted, list[_Floats]] = {}
    for response in (each for run in runs for each in run.responses):
        outcomes = [response.outcomes.get(judge) for judge in judges]
        if any(outcome in JUDGED for outcome in outcomes):
            row = numpy.array([outcomes.count(label) for label in LABELS], float)
            images.setdefault(response.image, []).append(row)
    labels = [int(row.sum()) for of_image in images.values() for row in of_image]
    if not (complete := labels.count(len(judges))):
        return None
    whole = {
        image: rows
        for image, of_image in images.items()
        if (rows := [row for row in of_image if row.sum() == len(judges)])
    }
    return Together(
        judges=tuple(judges),
        responses=complete,
        share=100 * complete / len(labels),
        fleiss=_without_each_image(whole, _fleiss),
        krippendorff=_without_each_image(images, _krippendorff),
        paired=sum(each > 1 for each in labels),
        ac1=_without_each_image(images, _gwet_of_several),
    )


def _without_each_image(
    images: Mapping[Untrusted, Sequence[_Floats]], statistic: Callable[[Counter[bytes]], float | None]
) -> Estimate:
    every: Counter[bytes] = Counter()
    alike: Counter[tuple[bytes, ...]] = Counter()
    for rows in images.values():
        patterns = tuple(sorted(row.tobytes() for row in rows))
        every.update(patterns)
        alike[patterns] += 1
    if (value := statistic(every)) is None:
        return Estimate(None)
    return _jackknife(value, [(statistic(every - Counter(each)), times) for each, times in alike.items()])


def _fleiss(patterns: Counter[bytes]) -> float | None:
    """Return Fleiss' kappa of responses by how often they got each label; None where all labels are one."""
    rows = numpy.repeat([numpy.frombuffer(pattern) for pattern in patterns], list(patterns.values()), axis=0)
    return float(fleiss_kappa(rows)) if numpy.count_nonzero(rows.sum(axis=0)) > 1 else None


def _rows(patterns: Counter[bytes]) -> tuple[_Floats, _Floats, _Floats]:
    """Return how often a response got each label, how many those are, and how many responses are so."""
    rows = numpy.array([numpy.frombuffer(pattern) for pattern in patterns])
    return rows, rows.sum(axis=1), numpy.array(list(patterns.values()), float)


def _krippendorff(patterns: Counter[bytes]) -> float | None:
    """Return Krippendorff's alpha of labels without order; responses with one label say nothing.

    From the coincidences of labels (Krippendorff 2011). None where all labels are one.
    """
    rows, sizes, times = _rows(patterns)
    paired = sizes > 1
    rows, sizes, times = rows[paired], sizes[paired], times[paired]
    of_label = times @ rows
    total = of_label.sum()
    expected = total**2 - (of_label**2).sum()
    if expected == 0:
        return None
    observed = (times * (sizes**2 - (rows**2).sum(axis=1)) / (sizes - 1)).sum()
    return float(1 - (total - 1) * observed / expected)


def _gwet_of_several(patterns: Counter[bytes]) -> float | None:
    """Return Gwet's AC1: shares from all labels, agreement from responses with two or more; None without."""
    rows, sizes, times = _rows(patterns)
    paired = sizes > 1
    if not paired.any():
        return None
    pairs = (rows * (rows - 1)).sum(axis=1)[paired] / (sizes * (sizes - 1))[paired]
    observed = (times[paired] * pairs).sum() / times[paired].sum()
    shares = (times[:, None] * rows / sizes[:, None]).sum(axis=0) / times.sum()
    return _gwet(float(observed), shares)
