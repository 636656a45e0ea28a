"""The summary of a run: its rates as a whole, by category, by sub-category and by source.

Sub-category names repeat under different categories, so they are grouped by the pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import NamedTuple, TypeVar

from vlsb.analysis.compliance import RunCompliance
from vlsb.analysis.correction import DrawnPart
from vlsb.analysis.differences import Conditions
from vlsb.analysis.family import RatePulls, pulls_of, pulls_of_interval
from vlsb.analysis.macro import MacroAverage, macro_average
from vlsb.analysis.rates import Rates, SampleOutcome, rates
from vlsb.analysis.variance import VarianceSources, variance_sources
from vlsb.errors import ConfigError
from vlsb.records import JUDGED, VLSBENCH, Outcome, Rating, Untrusted

_FAIL_ON_ERROR = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(?P<percent> ?%)?")

_Key = TypeVar("_Key", Untrusted, tuple[Untrusted, Untrusted])


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model was sent and was charged for; tokens that no endpoint reported count as none.

    `is_known` is False for answers that were imported: what the source counted of them is in the tokens.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class ModelCost:
    """US dollars for one model's tokens at list prices; `usd` is None where its price is unknown.

    With `is_least` answers whose tokens nobody counted come on top. `source` and `as_of` are the price's.
    """

    model: Untrusted
    usd: float | None = None
    is_least: bool = False
    source: str = ""
    as_of: str = ""


@dataclass(frozen=True, slots=True)
class GuardCounts:
    """What one guard, or list of phrases, found in a run's responses. No rate of the benchmark.

    `refusals` counts what it says refuses, None for one that does not tell; `failed` ended without a finding,
    `responses` are those there are, `found` those with a finding.
    """

    run: Untrusted
    guard: Untrusted
    ratings: Mapping[Rating, int]
    refusals: int | None
    failed: int
    responses: int
    found: int

    @property
    def rates_harm(self) -> bool:
        """Whether it rates; a list of phrases tells refusals alone."""
        return bool(self.ratings) or self.refusals is None


class SubCategoryRates(NamedTuple):
    """The rates of one (category, sub-category) pair."""

    category: Untrusted
    sub_category: Untrusted
    rates: Rates


class SourceRates(NamedTuple):
    """The rates of the samples from one source."""

    source: Untrusted
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is told of one (run, judge) beside how its samples ended. `judge` is None where nobody judges.

    `subset` means: not the full published set. `cut_responses` ended on the token limit; `thinking_cut` are
    responses that are missing because they ended on it inside their thinking. `duplicates` are rows of the
    run files that a later row of the same sample superseded. With several `epochs` every count is of
    responses. `data_digest` is of the rows and images that were sent, None before every selected image was.
    A cost is None where nobody charges for tokens: the model is simulated or on this machine. `conditions`
    say what else the rates hold for, None where nobody has to tell runs apart. `guards` are the run's,
    whoever the judge is. `part` is what the judge labelled of the run, None for one that is to label
    everything; `is_own` says whether the run was started with this judge. `retirements` name the models of
    both that their providers shut down. `dataset` is the name of what was evaluated, `compliance` what each
    judge of compliance says of the run, whoever the judge is.
    """

    run: Untrusted
    path: Untrusted
    target: Untrusted
    judge: Untrusted | None
    simulated: bool
    subset: bool
    target_usage: ModelUsage
    judge_usage: ModelUsage
    duration_s: float
    target_models: Mapping[Untrusted, int]
    judge_models: Mapping[Untrusted, int]
    deviations: tuple[Untrusted, ...] = ()
    cut_responses: int = 0
    duplicates: int = 0
    notices: tuple[str, ...] = ()
    epochs: int = 1
    data_digest: str | None = None
    thinking_cut: int = 0
    target_cost: ModelCost | None = None
    judge_cost: ModelCost | None = None
    conditions: Conditions | None = field(default=None, repr=False)
    guards: tuple[GuardCounts, ...] = ()
    part: DrawnPart | None = None
    is_own: bool = True
    retirements: tuple[str, ...] = ()
    dataset: str = VLSBENCH
    compliance: tuple[RunCompliance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(RunFacts):
    """One (run, judge) in numbers.

    `flip_share` is the percent of samples whose label changed between epochs, of the `flip_samples` that have
    a label in two epochs or more. `macro` and `variance` are None where they say nothing, and of a drawn
    part. `outcomes` are what all of it is from.
    """

    rates: Rates
    by_category: Mapping[Untrusted, Rates]
    by_sub_category: tuple[SubCategoryRates, ...]
    by_source: tuple[SourceRates, ...]
    flip_share: float | None = None
    flip_samples: int = 0
    macro: MacroAverage | None = None
    variance: VarianceSources | None = None
    outcomes: Sequence[SampleOutcome] = field(default=(), repr=False, compare=False)

    @property
    def pulls(self) -> RatePulls:
        """The safe rate, which there is, with what each image adds to it: to compare it with other runs'."""
        if self.rates.estimate == "all":
            return pulls_of(self.outcomes)
        rate, interval = self.rates.safe_rate or 0.0, self.rates.intervals["safe_rate"]
        return pulls_of_interval(rate, interval, (self.path, self.judge))


def summarize(outcomes: Sequence[SampleOutcome], facts: RunFacts) -> Summary:
    """Return the summary of a run whose samples ended as `outcomes` say, one for each sample and epoch."""
    flipped, repeated = flips(outcomes) if facts.epochs > 1 else (0, 0)
    rates_of = rates if facts.part is None else facts.part.rates
    by_category = _rates_by(outcomes, lambda each: each.category, rates_of)
    by_pair = _rates_by(outcomes, lambda each: (each.category, each.sub_category), rates_of)
    by_source = _rates_by(outcomes, lambda each: each.source, rates_of)
    whole = rates_of(outcomes)
    is_plain = whole.estimate == "all"
    return Summary(
        **{each.name: getattr(facts, each.name) for each in fields(RunFacts)},
        rates=whole,
        by_category=by_category,
        by_sub_category=tuple(SubCategoryRates(*pair, of) for pair, of in by_pair.items()),
        by_source=tuple(SourceRates(source, of) for source, of in by_source.items()),
        flip_share=100 * flipped / repeated if repeated else None,
        flip_samples=repeated,
        macro=macro_average(outcomes) if is_plain else None,
        variance=variance_sources(outcomes, whole.intervals["safe_rate"]) if is_plain and repeated else None,
        outcomes=outcomes,
    )


def flips(outcomes: Iterable[SampleOutcome]) -> tuple[int, int]:
    """Count the samples whose labels are not all the same, and those that have several at all."""
    labels: dict[int, list[Outcome]] = {}
    for each in outcomes:
        if each.outcome in JUDGED:
            labels.setdefault(each.sample_id, []).append(each.outcome)
    repeated = [each for each in labels.values() if len(each) > 1]
    return sum(len(set(each)) > 1 for each in repeated), len(repeated)


@dataclass(frozen=True, slots=True)
class FailOnError:
    """How many samples may lack a verdict: a number of them, or a share (0 to 1) of the selected ones."""

    number: Fraction
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> FailOnError:
        """Read `12`, `0.05` or `5%`; a dot or a percent sign makes it a share. Raises ConfigError."""
        if (match := _FAIL_ON_ERROR.fullmatch(text)) is not None:
            number = Fraction(match["number"]) / (100 if match["percent"] else 1)
            is_share = match["percent"] is not None or "." in match["number"]
            if not is_share or number <= 1:
                return cls(number, is_share)
        raise ConfigError(f"--fail-on-error {text!r}: give a number of samples (12) or a share (0.05 or 5%).")

    def is_exceeded(self, missing: int, *, selected: int) -> bool:
        """Tell whether that many missing verdicts are too many. Exact: 5 % of 20 allows one."""
        return missing > self.number * (selected if self.is_share else 1)


def _rates_by(
    outcomes: Iterable[SampleOutcome],
    key: Callable[[SampleOutcome], _Key],
    rates_of: Callable[[Sequence[SampleOutcome]], Rates],
) -> dict[_Key, Rates]:
    groups: dict[_Key, list[SampleOutcome]] = {}
    for each in outcomes:
        groups.setdefault(key(each), []).append(each)
    return {name: rates_of(groups[name]) for name in sorted(groups)}
