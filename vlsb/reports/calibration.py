"""What a part that a new judge labelled first says of it: agreement, rates to come, and money."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vlsb.analysis.correction import ExpectedChange
from vlsb.analysis.rates import RateName
from vlsb.records import JUDGED, Outcome
from vlsb.reports.agreement import agreement_table, labels_table
from vlsb.reports.figures import NO_FIGURE, counted, dollars
from vlsb.reports.report import Table
from vlsb.reports.writers.terminal import tables_text

if TYPE_CHECKING:
    from vlsb.analysis.agreement import Pair
    from vlsb.analysis.forecast import Forecast

_DRAWN = "Drawn by label and category, whole images; each response counts for those that it stands for."
_TOO_FEW = "Too few images have both labels to say how the rates will move."
_CHANGES = "The interval does not count on the part's strata: it is rather too wide."


class JudgeMoney(NamedTuple):
    """What one judge took so far, and what the rest is to take. `usd` is None where no price is known.

    `is_free` says that nobody charges.
    """

    judge: str
    requests: int
    tokens: tuple[int, int]
    usd: float | None
    left: int
    left_tokens: tuple[float, float] | None
    rest: Forecast | None
    as_batch: Forecast | None
    is_free: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """The old judge and the new one on the part: `drawn` responses of `of`, with what became of each judge's.

    `pair` is None where they have no label in common, `rates` are empty for too few images.
    """

    old: str
    new: str
    simulated: bool
    drawn: int
    of: int
    outcomes: Mapping[str, Mapping[Outcome, int]]
    pair: Pair | None
    rates: Mapping[RateName, ExpectedChange]
    money: Sequence[JudgeMoney]


def calibration_text(report: CalibrationReport, *, width: int, color: bool) -> str:
    """Return the report as text of at most `width` columns."""
    return tables_text(list(_tables(report)), width=width, color=color)


def _tables(report: CalibrationReport) -> Iterator[Table]:
    simulated = " (SIMULATED: says nothing about any model)" if report.simulated else ""
    part = f"{report.drawn:,} of {counted(report.of, 'response')}"
    title = f"{report.new} beside {report.old}, on {part}{simulated}"
    notes = [_DRAWN, *_without_label(report), *([] if report.rates else [_TOO_FEW])]
    if report.pair is None:
        yield Table(title, ("labelled by both",), [("0",)], notes=notes)
    else:
        yield agreement_table(report.pair, title, notes)
        yield labels_table(report.pair)
    if report.rates:
        yield Table(
            f"Rates by {report.old}, and what is to be expected of {report.new}",
            ("rate", "now", "expected", "change", "95 % CI"),
            [_rate_row(name, each) for name, each in report.rates.items()],
            notes=[_CHANGES],
        )
    yield Table(
        "What it takes",
        ("judge", "", "requests", "tokens in", "out", "cost", "95 % CI"),
        [row for each in report.money for row in _money_rows(each)],
        names=2,
        notes=list(dict.fromkeys(note for each in report.money for note in _money_notes(each))),
    )


def _without_label(report: CalibrationReport) -> Iterator[str]:
    for judge, outcomes in report.outcomes.items():
        missing = {outcome: count for outcome, count in outcomes.items() if outcome not in JUDGED}
        if missing:
            ended = ", ".join(f"{count} {outcome.value}" for outcome, count in missing.items())
            yield f"{judge} gave no label to {sum(missing.values())} of {report.drawn}: {ended}."


def _rate_row(name: str, each: ExpectedChange) -> tuple[str, ...]:
    low, high = each.interval
    expected = min(100.0, max(0.0, each.judge + each.change))
    return (name, f"{each.judge:.2f}", f"{expected:.2f}", f"{each.change:+.2f}", f"[{low:+.1f}, {high:+.1f}]")


def _money_rows(each: JudgeMoney) -> Iterator[tuple[str, ...]]:
    spent = tuple(f"{count:,}" for count in each.tokens)
    yield (each.judge, "so far", f"{each.requests:,}", *spent, _usd(each, each.usd), "")
    tokens = ("", "") if each.left_tokens is None else tuple(f"{count:,.0f}" for count in each.left_tokens)
    rest = None if each.rest is None else each.rest.total
    yield ("", "the rest", f"{each.left:,}", *tokens, _usd(each, rest), _ends(each.rest))
    if each.as_batch is not None:
        yield ("", "as a batch", "", "", "", dollars(each.as_batch.total), _ends(each.as_batch))


def _usd(each: JudgeMoney, usd: float | None) -> str:
    if each.is_free:
        return NO_FIGURE
    return "unknown" if usd is None else dollars(usd)


def _ends(found: Forecast | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f"[{', '.join(dollars(end).removeprefix('$') for end in (found.low, found.high))}]"


def _money_notes(each: JudgeMoney) -> Iterator[str]:
    if each.is_free:
        yield f"Nobody charges for {each.judge}."
    elif each.usd is None:
        yield f"No price is known for {each.judge}; --prices takes yours."
