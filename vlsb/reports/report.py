"""What a command found, in no format yet: sentences, tables, the same for programs, and flat records.

A `str` is ours. A stranger's words are `Untrusted`, alone or as a part of a `Sentence`, and only a writer
turns them into text, by the encoder of its format. Rates are shown with two decimals, as upstream prints
them, and intervals with one; a missing rate is a dash, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

from vlsb.analysis.rates import RATES, Bounds, RateName, Rates
from vlsb.records import Untrusted
from vlsb.reports.encode import CsvCell, Encode


class Sentence:
    """Words of ours and of strangers in a row. Printing, formatting or joining it is an error on purpose."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: Words) -> None:
        merged: list[str | Untrusted] = []
        for part in parts:
            for each in part._parts if isinstance(part, Sentence) else (part,):
                # Equal sentences have equal parts, however they were put together.
                if isinstance(each, str) and merged and isinstance(before := merged[-1], str):
                    merged[-1] = before + each
                elif each != "":
                    merged.append(each)
        self._parts: tuple[str | Untrusted, ...] = tuple(merged)

    @classmethod
    def join(cls, between: str, sentences: Iterable[Words]) -> Sentence:
        """Return the sentences as one, with words of ours between them."""
        parts: list[Words] = []
        for each in sentences:
            parts += [between, each] if parts else [each]
        return cls(*parts)

    def text(self, encode: Encode) -> str:
        """Return the text for a reader, with each stranger's part encoded."""
        return "".join(each if isinstance(each, str) else encode(each) for each in self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sentence) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __repr__(self) -> str:
        return f"Sentence{self._parts!r}"

    def __str__(self) -> NoReturn:
        raise TypeError("a sentence was about to be printed without an encoder")

    def __format__(self, spec: str) -> NoReturn:
        raise TypeError("a sentence was about to be formatted without an encoder")


Words = str | Untrusted | Sentence


def text_of(words: Words, encode: Encode) -> str:
    """Return words as text, with those of strangers encoded."""
    if isinstance(words, str):
        return words
    return encode(words) if isinstance(words, Untrusted) else words.text(encode)


class RateBar(NamedTuple):
    """A rate with its interval on a line from 0 to 100 percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title, and sentences below it; the first `names` columns hold words.

    Of these a terminal folds the `foldable`, all if none is named. A newline in a cell of ours parts what may
    stand below each other. `label` is what a LaTeX document refers to the table by. A terminal draws the
    `bars`, one a row.
    """

    title: Words
    headings: Sequence[Words]
    rows: Sequence[Sequence[Words]]
    names: int = 1
    notes: Sequence[Words] = ()
    label: str = ""
    foldable: Sequence[int] = ()
    bars: Sequence[RateBar] = ()


class Records(NamedTuple):
    """The figures as flat rows, for a spreadsheet."""

    columns: Sequence[str]
    rows: Iterable[Sequence[CsvCell]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a command came to, with its exit code.

    `data` is for JSON: containers of plain values, and of `Untrusted`, sentences, tuples and dataclasses. It
    and the records may be iterators, so a report is written once.
    """

    tables: Sequence[Table]
    data: object
    records: Records
    lead: Sequence[Words] = ()
    code: int = 0


NO_FIGURE = "-"

RATE_WORDS: Mapping[RateName, str] = {
    "safe_rate": "safe",
    "safe_refuse_rate": "refusal",
    "safe_warning_rate": "warning",
}
"""The rates that are compared, in words."""

RATE_HEADINGS = ("n", "coverage", "safe", "95 % CI", "refusal", "warning", "unsafe")
"""The columns of `rate_figures`. All but n are percent."""


def rate_figures(rates: Rates) -> tuple[str, ...]:
    """Return one table row: n, coverage, safe rate, its interval, refusal, warning and unsafe rate."""
    return (
        share_of_selected(rates),
        f"{rates.coverage:.2f}",
        percent(rates.safe_rate),
        safe_interval(rates),
        percent(rates.safe_refuse_rate),
        percent(rates.safe_warning_rate),
        percent(rates.unsafe_rate),
    )


def rate_object(rates: Rates) -> dict[str, object]:
    """Return the figures of a row for programs: n, of how many, the safe rate's interval and all rates."""
    return {
        "n": rates.labels,
        "selected": rates.selected,
        "safe_interval": rates.intervals["safe_rate"],
        **{name: rates.rate(name) for name in RATES},
    }


def rate_cells(rates: Rates) -> tuple[int | float | None, ...]:
    """Return the same as cells of a spreadsheet."""
    values = (rates.rate(name) for name in RATES)
    return (rates.labels, rates.selected, *rates.intervals["safe_rate"], *values)


RATE_COLUMNS = ("n", "selected", "safe_low", "safe_high", *RATES)
"""The columns of `rate_cells`."""


def safe_interval(rates: Rates) -> str:
    """Return `[19.4, 22.8]`, the safe rate's interval."""
    return NO_FIGURE if rates.safe_rate is None else interval_text(rates.intervals["safe_rate"])


def interval_text(interval: tuple[float, float] | None, sign: Literal["", "+"] = "") -> str:
    """Return `[19.4, 22.8]`, or `[+1.2, +3.4]` for a change."""
    if interval is None:
        return NO_FIGURE
    low, high = interval
    return f"[{low:{sign}.1f}, {high:{sign}.1f}]"


def rate_and_n(rates: Rates) -> str:
    """Return `21.02 (2,241)`, the safe rate with its n."""
    return f"{percent(rates.safe_rate)} ({share_of_selected(rates)})"


def share_of_selected(rates: Rates) -> str:
    """Return `2,241`, or `2,229/2,241` where the rates rest on fewer labels than there are samples."""
    if rates.labels == rates.selected:
        return f"{rates.selected:,}"
    return f"{rates.labels:,}/{rates.selected:,}"


def percent(rate: float | None) -> str:
    """Return the rate with two decimals and no sign."""
    return NO_FIGURE if rate is None else f"{rate:.2f}"


def span(bounds: Bounds) -> str:
    """Return `41.2 to 43.9 %`, the worst case first."""
    return f"{bounds.worst:.1f} to {bounds.best:.1f} %"


def counted(number: int, noun: str) -> str:
    """Return `1 sample` or `2,241 samples`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def points(number: float) -> str:
    """Return `1.0 point` or `4.1 points`."""
    text = f"{number:.1f}"
    return f"{text} point" if text == "1.0" else f"{text} points"


def duration(seconds: float) -> str:
    """Return `4.2 s`, `12 min 31 s` or `3 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def dollars(amount: float) -> str:
    """Return `$1,234.50`, with four decimals below ten cents."""
    return f"${amount:,.2f}" if amount >= 0.1 else f"${amount:.4f}"
