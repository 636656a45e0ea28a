"""Rows that stand for something else than the row they are held against: marked, and explained below.

A reader takes two rows of one table for two models. Where samples, data, protocol or judge differ as well,
the row has a dagger in every format, and its reasons are said in words. So has, with a double dagger, a row
whose judge labelled a drawn part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vlsb.analysis.correction import LEAST_IMAGES
from vlsb.analysis.differences import Differences, JudgeIdentity, differences, typical
from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports.figures import counted
from vlsb.reports.report import Sentence, Words

DAGGER, DOUBLE_DAGGER = "†", "‡"
PARTS = "Of a drawn part, in which rare labels come more often than in the run:"


class Note(NamedTuple):
    """What one sign means: a sentence, and after the names of all rows that it is true of, why."""

    sign: str
    heading: Words
    lines: Sequence[tuple[Sentence, Sentence]]


def note_lines(note: Note, known: Collection[Sentence] = ()) -> Iterator[Words]:
    """Return the heading and a line for all rows with one reason, without those that are `known`."""
    if lines := [(names, why) for names, why in note.lines if why not in known]:
        yield note.heading
    yield from (Sentence(f"{note.sign} ", names, ": ", why) for names, why in lines)


@dataclass(frozen=True, slots=True)
class RowMarks:
    """Which rows of a report differ, by their place, from the one at `reference`.

    Without a `reference` no two rows have rates to hold against each other.
    """

    summaries: Sequence[Summary]
    reference: int | None
    differing: Mapping[int, Differences]

    def sign(self, place: int) -> str:
        """Return the dagger of a row that differs, and the double one of a drawn part."""
        part = "" if self.summaries[place].part is None else DOUBLE_DAGGER
        return (DAGGER if place in self.differing else "") + part

    def notes(self) -> list[Note]:
        """Return what the signs of these rows mean."""
        parts: dict[Sentence, list[Words]] = {}
        for place, summary in enumerate(self.summaries):
            if (why := part_words(summary)) is not None:
                parts.setdefault(why, []).append(row_name(self.summaries, place))
        others: dict[Sentence, list[Words]] = {}
        for place in self.differing:
            why = Sentence.join("; ", self.reasons(place))
            others.setdefault(why, []).append(row_name(self.summaries, place))
        notes = [
            Note(sign, heading, [(Sentence.join("; ", rows), why) for why, rows in by_reason.items()])
            for sign, heading, by_reason in (
                (DAGGER, self._heading(), others),
                (DOUBLE_DAGGER, PARTS, parts),
            )
        ]
        return [each for each in notes if each.lines]

    def reasons(self, place: int) -> list[Words]:
        """Return how a row differs from the reference, the weightiest first, each in a few words."""
        differs = self.differing.get(place)
        return [] if differs is None else list(reasons(differs))

    def _heading(self) -> Words:
        if self.reference is None:
            return ""
        name = row_name(self.summaries, self.reference)
        return Sentence("Not measured as ", name, " was, so a difference may not be the model's:")


def mark(summaries: Sequence[Summary]) -> RowMarks:
    """Mark rows in the order of a report: against the one that differs from the fewest others.

    That is a row of a run's own judge, where there is one.
    """
    judged = {
        place: each.conditions
        for place, each in enumerate(summaries)
        if each.rates.judged and each.conditions
    }
    if len(judged) < 2:
        return RowMarks(summaries, None, {})
    own = [place for place in judged if summaries[place].is_own] or list(judged)
    reference = own[typical([judged[place] for place in own])]
    differing = {
        place: different
        for place, each in judged.items()
        if (different := differences(judged[reference], each))
    }
    return RowMarks(summaries, reference, differing)


def by_category(summaries: Sequence[Summary]) -> Iterator[tuple[Untrusted, int, Rates]]:
    """Every category with each run that judged something, by its place, and the run's rates there."""
    judged = [(place, each) for place, each in enumerate(summaries) if each.rates.safe_rate is not None]
    for name in sorted({name for _, each in judged for name in each.by_category}):
        for place, each in judged:
            if name in each.by_category:
                yield name, place, each.by_category[name]


def row_name(summaries: Sequence[Summary], place: int) -> Sentence:
    """Return what tells a row apart: its run, and its judge where the run has several."""
    summary, runs = summaries[place], Counter(each.run for each in summaries)
    if runs[summary.run] == 1 or summary.judge is None:
        return Sentence(summary.run)
    return Sentence(summary.run, ", judge ", summary.judge)


def part_words(summary: Summary) -> Sentence | None:
    """Return what the rates of a drawn part are, or why it has none, to follow the row's name."""
    part, rates = summary.part, summary.rates
    if part is None:
        return None
    rests_on = f"{counted(rates.labels, 'label')} to {counted(rates.images, 'image')}"
    were_drawn = f" ({counted(part.drawn, 'response')} drawn)" if part.drawn else ""
    if rates.estimate == "corrected" and part.reference is not None:
        return Sentence(
            "corrected, that is what ",
            part.reference,
            f" says of all {part.responses:,} responses, moved by how {rests_on} differ from it{were_drawn}",
        )
    if rates.estimate == "weighted":
        return Sentence(f"weighted, each of {rests_on} by the responses that it stands for{were_drawn}")
    why = part.why_no_rates or f"labels to {LEAST_IMAGES} images are the least"
    return Sentence(f"no rates from {rests_on}{were_drawn}: {why}")


def reasons(differs: Differences) -> Iterator[Words]:
    """Return how a row differs, the weightiest first, each in a few words."""
    if differs.simulated:
        yield "only one of both is simulated"
    if differs.judges is not None:
        yield from _judge(*differs.judges)
    if differs.only_first or differs.only_second:
        yield _samples(differs)
    if differs.changed:
        yield f"{counted(differs.changed, 'shared sample')} with another text or image"
    yield from differs.deviations_second
    yield from (Sentence("not ", each) for each in differs.deviations_first)
    if differs.snapshots is not None:
        before, after = (Sentence.join(", ", sorted(models)) for models in differs.snapshots)
        yield Sentence("its judge answered as ", after, ", not ", before)


def _judge(first: JudgeIdentity, second: JudgeIdentity) -> Iterator[Words]:
    if first.name != second.name:
        yield Sentence("judged by ", second.name, ", not ", first.name)
        return
    for name in sorted(first.settings.keys() | second.settings.keys()):
        before, after = (each.settings.get(name, "unset") for each in (first, second))
        if before != after:
            yield Untrusted(f"judge {name}: {_short(after)}, not {_short(before)}")


def _short(value: str) -> str:
    return value if len(value) <= 40 else value[:37] + "..."


def _samples(differs: Differences) -> str:
    first = differs.shared + differs.only_first
    if not differs.only_second:
        return f"only {differs.shared:,} of the {counted(first, 'sample')}"
    more = counted(differs.only_second, "other sample")
    if not differs.shared:
        return f"{more}, none of the {first:,}"
    if not differs.only_first:
        return f"all {counted(first, 'sample')} and {differs.only_second:,} more"
    return f"only {differs.shared:,} of the {counted(first, 'sample')}, and {differs.only_second:,} others"
