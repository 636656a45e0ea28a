"""Rows that stand for something else than the row they are held against: marked, and explained below.

A reader takes two rows of one table for two models. Where samples, data, protocol or judge differ as well,
the row has a dagger in every format, and its reasons are said in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlsb.analysis.differences import Differences, JudgeIdentity, differences, typical
from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports.encode import Encode
from vlsb.reports.figures import counted

DAGGER = "†"


@dataclass(frozen=True, slots=True)
class Marks:
    """Which rows of a report differ, by their place, from the one at `reference`.

    Without a `reference` no two rows have rates to hold against each other.
    """

    summaries: Sequence[Summary]
    reference: int | None
    differing: Mapping[int, Differences]

    def sign(self, place: int) -> str:
        """The dagger of a row that differs, else nothing."""
        return DAGGER if place in self.differing else ""

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
    """The marks of rows in the order of a report: against the row that differs from the fewest others."""
    judged = [place for place, each in enumerate(summaries) if each.rates.judged and each.conditions]
    conditions = [each for place in judged if (each := summaries[place].conditions)]
    if len(conditions) < 2:
        return Marks(summaries, None, {})
    reference = typical(conditions)
    found = {
        place: different
        for place, each in zip(judged, conditions, strict=True)
        if (different := differences(conditions[reference], each))
    }
    return Marks(summaries, judged[reference], found)


def by_category(summaries: Sequence[Summary]) -> Iterator[tuple[Untrusted, int, Rates]]:
    """Every category with each run that judged something, by its place, and the run's rates there."""
    judged = [(place, each) for place, each in enumerate(summaries) if each.rates.judged]
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
