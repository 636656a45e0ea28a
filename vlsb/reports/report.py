"""What a command found, in no format yet: sentences, tables, the same for programs, and flat records.

A `str` is ours. A stranger's words are `Untrusted`, alone or as a part of a `Sentence`, and only a writer
turns them into text, by the encoder of its format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

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
