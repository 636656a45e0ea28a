"""Rows that stand for something else than the row they are held against: marked, and explained below.

A reader takes two rows of one table for two models. Where samples, data, protocol or judge differ as well,
the row has a dagger in every format, and its reasons are said in words. So has, with a double dagger, a row
whose judge labelled a drawn part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vlsb.analysis.correction import LEAST_IMAGES
from vlsb.analysis.differences import Differences, JudgeIdentity, differences, typical
from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports.encode import Encode
from vlsb.reports.figures import counted

DAGGER, DOUBLE_DAGGER = "†", "‡"
PARTS = "Of a drawn part, in which rare labels come more often than in the run:"


class Note(NamedTuple):
    """What one sign means: a sentence, and after the names of all rows that it is true of, why."""

    sign: str
    heading: str
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Marks:
    """Which rows of a report differ, by their place, from the one at `reference`.

    Without a `reference` no two rows have rates to hold against each other.
    """

    summaries: Sequence[Summary]
    reference: int | None
    differing: Mapping[int, Differences]

    def sign(self, place: int) -> str:
        """The dagger of a row that differs, and the double one of a drawn part."""
        part = "" if self.summaries[place].part is None else DOUBLE_DAGGER
        return (DAGGER if place in self.differing else "") + part

    def notes(self, encode: Encode) -> list[Note]:
        """What the signs of these rows mean."""
        parts: dict[str, list[str]] = {}
        for place, summary in enumerate(self.summaries):
            if (why := part_words(summary, encode)) is not None:
                parts.setdefault(why, []).append(row_name(self.summaries, place, encode))
        found = [
            Note(DAGGER, self.heading(encode), self.reasons(encode)),
            Note(DOUBLE_DAGGER, PARTS, [("; ".join(rows), why) for why, rows in parts.items()]),
        ]
        return [each for each in found if each.lines]

    def heading(self, encode: Encode) -> str:
        """The sentence over the reasons, empty where no row is marked."""
        if self.reference is None or not self.differing:
            return ""
        name = row_name(self.summaries, self.reference, encode)
        return f"Not measured as {name} was, so a difference may not be the model's:"

    def reasons(self, encode: Encode) -> list[tuple[str, str]]:
        """What marked rows have otherwise than the reference, after the names of all that have just that."""
        names: dict[str, list[str]] = {}
        for place, found in self.differing.items():
            why = "; ".join(reasons(found, encode))
            names.setdefault(why, []).append(row_name(self.summaries, place, encode))
        return [("; ".join(rows), why) for why, rows in names.items()]


def mark(summaries: Sequence[Summary]) -> Marks:
    """The marks of rows in the order of a report: against the one that differs from the fewest others.

    That is a row of a run's own judge, where there is one.
    """
    judged = {
        place: each.conditions
        for place, each in enumerate(summaries)
        if each.rates.judged and each.conditions
    }
    if len(judged) < 2:
        return Marks(summaries, None, {})
    own = [place for place in judged if summaries[place].is_own] or list(judged)
    reference = own[typical([judged[place] for place in own])]
    found = {
        place: different
        for place, each in judged.items()
        if (different := differences(judged[reference], each))
    }
    return Marks(summaries, reference, found)


def by_category(summaries: Sequence[Summary]) -> Iterator[tuple[Untrusted, int, Rates]]:
    """Every category with each run that judged something, by its place, and the run's rates there."""
    judged = [(place, each) for place, each in enumerate(summaries) if each.rates.safe_rate is not None]
    for name in sorted({name for _, each in judged for name in each.by_category}):
        for place, each in judged:
            if name in each.by_category:
                yield name, place, each.by_category[name]


def row_name(summaries: Sequence[Summary], place: int, encode: Encode) -> str:
    """What tells a row apart: its run, and its judge where the run has several."""
    summary, runs = summaries[place], Counter(each.run for each in summaries)
    name = encode(summary.run)
    if runs[summary.run] == 1 or summary.judge is None:
        return name
    return f"{name}, judge {encode(summary.judge)}"


def part_words(summary: Summary, encode: Encode) -> str | None:
    """What the rates of a drawn part are, or why there are none, after the row's name; None for no part."""
    part, rates = summary.part, summary.rates
    if part is None:
        return None
    rests_on = f"{counted(rates.labels, 'label')} to {counted(rates.images, 'image')}"
    were_drawn = f" ({counted(part.drawn, 'response')} drawn)" if part.drawn else ""
    if rates.estimate == "corrected" and part.reference is not None:
        return (
            f"corrected, that is what {encode(part.reference)} says of all {part.responses:,} responses, "
            f"moved by how {rests_on} differ from it{were_drawn}"
        )
    if rates.estimate == "weighted":
        return f"weighted, each of {rests_on} by the responses that it stands for{were_drawn}"
    why = part.why_no_rates or f"labels to {LEAST_IMAGES} images are the least"
    return f"no rates from {rests_on}{were_drawn}: {why}"


def reasons(found: Differences, encode: Encode) -> Iterator[str]:
    """What a row has otherwise, the weightiest first, each in a few words."""
    if found.simulated:
        yield "only one of both is simulated"
    if found.judges is not None:
        yield from _judge(*found.judges, encode)
    if found.only_first or found.only_second:
        yield _samples(found)
    if found.changed:
        yield f"{counted(found.changed, 'shared sample')} with another text or image"
    yield from map(encode, found.deviations_second)
    yield from (f"not {encode(each)}" for each in found.deviations_first)
    if found.snapshots is not None:
        before, after = (_names(models, encode) for models in found.snapshots)
        yield f"its judge answered as {after}, not {before}"


def _judge(first: JudgeIdentity, second: JudgeIdentity, encode: Encode) -> Iterator[str]:
    if first.name != second.name:
        yield f"judged by {encode(second.name)}, not {encode(first.name)}"
        return
    for name in sorted(first.settings.keys() | second.settings.keys()):
        before, after = (each.settings.get(name, "unset") for each in (first, second))
        if before != after:
            yield encode(Untrusted(f"judge {name}: {_short(after)}, not {_short(before)}"))


def _short(value: str) -> str:
    return value if len(value) <= 40 else value[:37] + "..."


def _samples(found: Differences) -> str:
    first = found.shared + found.only_first
    if not found.only_second:
        return f"only {found.shared:,} of the {counted(first, 'sample')}"
    more = counted(found.only_second, "other sample")
    if not found.shared:
        return f"{more}, none of the {first:,}"
    if not found.only_first:
        return f"all {counted(first, 'sample')} and {found.only_second:,} more"
    return f"only {found.shared:,} of the {counted(first, 'sample')}, and {found.only_second:,} others"


def _names(models: frozenset[Untrusted], encode: Encode) -> str:
    return ", ".join(map(encode, sorted(models)))
