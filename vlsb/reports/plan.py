"""A plan before money is spent: what so many samples find, and what they cost; as tables, JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vlsb.analysis.correction import TotalForecast
from vlsb.analysis.plan import LEAST_FLIPS, POWER
from vlsb.reports.encode import CsvCell, versioned
from vlsb.reports.report import NO_FIGURE, Records, Report, Sentence, Table, Words, counted, dollars, points
from vlsb.store.costs import summed
from vlsb.store.planning import Grounds

SCHEMA = 1
"""Of the JSON. Fields may be added at the end under the same number."""

SAMPLES = (200, 500, 1000)
"""The rows, beside all samples that there are."""
_CHANGES = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
_EPOCHS = (1, 2, 4)
_HALF_WIDTHS = (2.0, 3.0, 5.0)
_FEWER = 500
_FOUND = f"{100 * POWER:.0f} %"
_ASSUMES = "Assumed: both runs are on the same samples, changes are tested at 5 % (vlsb compare), and {}."
_OF_A_GUESS = "the guess is of all labels that differ between them, those that the change moves included"
_OF_A_BASELINE = "a new run flips by chance as this one does; labels that a change moves come on top"
_COST = (
    "Tokens and dollars are of target and judge together, at list prices, each sample asked once. A baseline "
    "that is stored is not paid for again."
)
_EPOCHS_NOTE = (
    "Chance averages out over epochs as it does over samples. What differs between samples, and what a "
    "change moves for good, does not, however often each is asked: there more images tell more."
)
_LABELS_NOTE = (
    "For a judge that errs as the official one did in the paper's check (91 of 100 safe and 84 of 100 unsafe "
    "answers right), by prediction-powered inference. After some labels vlsb audit report says what your own "
    "judge needs."
)


class _PlanRow(NamedTuple):
    samples: int
    epochs: int
    requests: int
    tokens: tuple[float, float] | None
    cost: TotalForecast | None
    is_free: bool


def plan_report(grounds: Grounds, *, within: float, gap: float) -> Report:
    """Return the plan: equivalence is within so many points, and a gap of so many points is explained."""
    noise, most = grounds.noise, grounds.most_samples
    rows = [_row(grounds, samples, 1) for samples in (*(each for each in SAMPLES if each < most), most)]
    return Report(
        lead=list(_lead(grounds, rows[-1], within, gap)),
        tables=list(_tables(grounds, rows, within)),
        data={
            **versioned(SCHEMA),
            "simulated": grounds.simulated,
            "runs": list(grounds.runs),
            "is_guess": grounds.flips is None,
            "flips": grounds.flips,
            "safe_rate": noise.safe_rate,
            "churn": noise.churn,
            "effect_between_runs": noise.together,
            "effect_of_a_rate": noise.apart,
            "models": [
                {
                    "stage": each.stage,
                    "model": each.name,
                    "input_tokens": None if each.tokens is None else each.tokens[0],
                    "output_tokens": None if each.tokens is None else each.tokens[1],
                    "is_free": each.is_free,
                    "price_source": None if each.price is None else each.price.source,
                    "price_as_of": None if each.price is None else str(each.price.as_of),
                }
                for each in grounds.models
            ],
            "samples": [_object(grounds, row, within) for row in rows],
            "epochs": [_object(grounds, row, within) for row in _epoch_rows(grounds)],
            "curve": [
                {"samples": row.samples, "change": change, "found": noise.found(change, row.samples)}
                for row in rows
                for change in _CHANGES
            ],
            "equivalence": {"within": within, "samples": noise.samples_for_equivalence(within)},
            "gap": {"points": gap, "samples": most, "churn": noise.churn_that_hides(gap, most)},
            "human_labels": [
                {"half_width": each, "labels": noise.human_labels(each, most)} for each in _HALF_WIDTHS
            ],
        },
        records=Records(_COLUMNS, list(_records(grounds, rows, within))),
    )


def _row(grounds: Grounds, samples: int, epochs: int) -> _PlanRow:
    responses, models = samples * epochs, grounds.models
    each_takes = [each.tokens for each in models]
    tokens = None
    if all(each_takes):
        sent, back = (responses * sum(each[at] for each in each_takes if each) for at in (0, 1))
        tokens = sent, back
    cost = summed([each.cost(responses) for each in models])
    is_free = all(each.is_free for each in models)
    return _PlanRow(samples, epochs, responses * len(models), tokens, cost, is_free)


def _epoch_rows(grounds: Grounds) -> list[_PlanRow]:
    """Return epochs of few samples, more samples instead, and epochs of all."""
    most = grounds.most_samples
    fewer = min(_FEWER, most)
    shapes = [(fewer, epochs) for epochs in _EPOCHS]
    shapes += [(fewer * times, 1) for times in _EPOCHS[1:] if fewer * times <= most]
    shapes += [(most, epochs) for epochs in _EPOCHS]
    shapes = sorted(dict.fromkeys(shapes), key=lambda each: (each[0] * each[1], each[1]))
    return [_row(grounds, *each) for each in shapes]


def _lead(grounds: Grounds, every: _PlanRow, within: float, gap: float) -> Iterator[Words]:
    noise, most = grounds.noise, grounds.most_samples
    if grounds.simulated:
        yield "SIMULATED: says nothing about any model."
    yield _grounds_text(grounds)
    least, few = points(noise.smallest_change(most)), ""
    if SAMPLES[0] < most:
        few = f"; {SAMPLES[0]:,} find {points(noise.smallest_change(SAMPLES[0]))}"
    yield f"All {counted(most, 'sample')} find a change of {least} in {_FOUND} of cases{few}."
    needed = noise.samples_for_equivalence(within)
    how = ""
    if needed > most:
        how = f", which are {math.ceil(needed / most):,} epochs of the {most:,} there are"
    yield (
        f"To show in {_FOUND} of cases that runs that do not differ are equivalent within {_number(within)} "
        f"takes {counted(needed, 'sample')}{how} (vlsb compare --equivalent-within {within:g})."
    )
    hides = noise.churn_that_hides(gap, most)
    noise_words = (
        f"is noise only if {hides:.0f} % or more of the labels move between two runs"
        if hides <= 100
        else "is never noise"
    )
    yield f"On all {most:,} samples, a gap of {_number(gap)} {noise_words}."
    cost = "an unknown price" if every.cost is None else _dollars(every.cost)
    if every.is_free:
        cost = "nobody charges for them"
    yield f"One run of all: {counted(every.requests, 'request')}, {cost}."


def _grounds_text(grounds: Grounds) -> Sentence:
    noise = grounds.noise
    rate = f"{noise.safe_rate:.1f} % safe"
    if not grounds.runs:
        return Sentence(
            f"A guess: {rate}, {noise.churn:g} % of the labels differ between two runs, and those of one "
            "image do so independently. Name a run with --epochs, or two runs of one model, to measure it."
        )
    names = Sentence.join(" and ", grounds.runs)
    if grounds.flips is None:
        return Sentence(
            names,
            f": {rate}. One run does not show how often labels flip: {noise.churn:g} % is a guess (--churn). "
            "A second run of this model, or one with --epochs, shows it.",
        )
    pairs, differing = grounds.flips
    between = "two runs" if len(grounds.runs) > 1 else "two epochs"
    counted_as = (
        f", and {LEAST_FLIPS} are counted, as many as may be missed" if differing < LEAST_FLIPS else ""
    )
    shared = f"; as samples share images, {noise.together:.2f} times that" if noise.together >= 1.005 else ""
    return Sentence(
        names,
        f": {rate}, and {differing:,} of {counted(pairs, 'pair')} of labels differ between {between}"
        f"{counted_as}. So {noise.churn:.1f} % flip by chance{shared}.",
    )


def _tables(grounds: Grounds, rows: Sequence[_PlanRow], within: float) -> Iterator[Table]:
    noise, most = grounds.noise, grounds.most_samples
    yield Table(
        "What so many samples show, and cost",
        ("samples", "finds ±", f"equivalent ±{within:g}", "requests", "tokens in", "tokens out", "dollars"),
        [
            (
                *(f"{row.samples:,}", f"{noise.smallest_change(row.samples):.1f}"),
                f"{noise.shown_equivalent(within, row.samples):.0f} %",
                *_money_cells(row),
            )
            for row in rows
        ],
        names=0,
        notes=[
            f"Finds: the smallest change of the safe rate, in points, that is found in {_FOUND} of cases. "
            f"Equivalent: how often two runs that do not differ are shown to be, within ±{_number(within)}.",
            _ASSUMES.format(_OF_A_BASELINE if noise.comes_on_top else _OF_A_GUESS),
            f"{_COST}{_tokens_text(grounds)}",
        ],
    )
    yield Table(
        "How often a change is found, percent",
        ("change", *(f"{row.samples:,}" for row in rows)),
        [
            (_number(change), *(f"{noise.found(change, row.samples):.0f}" for row in rows))
            for change in _CHANGES
        ],
        notes=["Of changes of this size, with this many samples. Without a change 5 % are found by chance."],
    )
    yield Table(
        "More epochs, or more images",
        ("samples", "epochs", "finds ±", "safe rate ±", "requests", "dollars"),
        [
            (
                *(f"{row.samples:,}", f"{row.epochs}"),
                f"{noise.smallest_change(row.samples, row.epochs):.1f}",
                f"{noise.half_width(row.samples, row.epochs):.1f}",
                *(f"{row.requests:,}", _cost_cell(row)),
            )
            for row in _epoch_rows(grounds)
        ],
        names=0,
        notes=[_EPOCHS_NOTE],
    )
    yield Table(
        f"Human labels for a corrected safe rate of all {most:,} samples",
        ("95 % CI", "labels"),
        [
            (f"±{_number(each)}", NO_FIGURE if labels is None else f"{labels:,}")
            for each in _HALF_WIDTHS
            for labels in [noise.human_labels(each, most)]
        ],
        notes=[_LABELS_NOTE],
    )


def _tokens_text(grounds: Grounds) -> str:
    if not grounds.runs:
        return " The tokens are a guess, about those of gpt-4o."
    return " The tokens are those of the baseline."


def _money_cells(row: _PlanRow) -> tuple[str, ...]:
    tokens = (NO_FIGURE, NO_FIGURE) if row.tokens is None else (f"{each:,.0f}" for each in row.tokens)
    return (f"{row.requests:,}", *tokens, _cost_cell(row))


def _cost_cell(row: _PlanRow) -> str:
    if row.is_free:
        return "free"
    return NO_FIGURE if row.cost is None else dollars(row.cost.total)


def _dollars(cost: TotalForecast) -> str:
    if cost.low is None or cost.high is None:
        return f"about {dollars(cost.total)}"
    return f"about {dollars(cost.total)} (95 %: {dollars(cost.low)} to {dollars(cost.high)})"


def _number(number: float) -> str:
    return f"{number:g} point" if number == 1 else f"{number:g} points"


def _object(grounds: Grounds, row: _PlanRow, within: float) -> dict[str, object]:
    return dict(zip(_COLUMNS[1:], _figures(grounds, row, within), strict=True))


def _figures(grounds: Grounds, row: _PlanRow, within: float) -> tuple[int | float | None, ...]:
    noise, cost = grounds.noise, row.cost
    return (
        *(row.samples, row.epochs, noise.smallest_change(row.samples, row.epochs)),
        *(noise.shown_equivalent(within, row.samples, row.epochs), noise.half_width(row.samples, row.epochs)),
        *(row.requests, *((None, None) if row.tokens is None else row.tokens)),
        *((None, None, None) if cost is None else (cost.total, cost.low, cost.high)),
    )


_COLUMNS = (
    *("table", "samples", "epochs", "smallest_change", "equivalence_power", "half_width"),
    *("requests", "input_tokens", "output_tokens", "usd", "usd_low", "usd_high"),
)


def _records(grounds: Grounds, rows: Sequence[_PlanRow], within: float) -> Iterator[tuple[CsvCell, ...]]:
    for table, of_table in (("samples", rows), ("epochs", _epoch_rows(grounds))):
        for row in of_table:
            yield (table, *_figures(grounds, row, within))
