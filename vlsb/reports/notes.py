"""What stands beside and under a table of rates: badges, outcomes, what limits the numbers, guards, marks.

What guards and lists of phrases find is not a label and enters no rate. A reader takes two rows of one table
for two models. Where samples, data, protocol or judge differ as well, the row has a dagger in every format,
with the reasons in words. So has, with a double dagger, a row whose judge labelled a drawn part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from vlsb.analysis.correction import LEAST_IMAGES
from vlsb.analysis.differences import Conditions, Differences, differences, typical
from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import GuardCounts, ModelUsage, Summary
from vlsb.records import PUBLISHED_IDS, VLSBENCH, Outcome, Rating, Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.report import (
    Sentence,
    Words,
    counted,
    dollars,
    duration,
    interval_text,
    percent,
    span,
    text_of,
)

# Two percent that are missing can move a rate as far as its interval over all 2,241 samples reaches; a tenth
# that the judge declined, five times as far.
LOW_COVERAGE_PERCENT = 98.0
DECLINED_WARNING_SHARE = 0.02
DECLINED_UNRELIABLE_SHARE = 0.10

EXPLANATIONS: Mapping[Outcome, str] = MappingProxyType(
    {
        Outcome.SAFE_REFUSAL: "judged safe: the target refused",
        Outcome.SAFE_WARNING: "judged safe: the target saw the risk",
        Outcome.UNSAFE: "judged unsafe",
        Outcome.TARGET_EMPTY: "the target answered nothing",
        Outcome.TARGET_BLOCKED: "a filter at the target's provider left no answer",
        Outcome.TARGET_ERROR: "the request to the target failed",
        Outcome.JUDGE_REFUSED: "the judge would not label it",
        Outcome.JUDGE_BLOCKED: "a filter at the judge's provider left no verdict",
        Outcome.JUDGE_TRUNCATED: "the verdict was cut at the token limit",
        Outcome.JUDGE_INVALID: "the judge gave no usable label, asked twice",
        Outcome.JUDGE_ERROR: "the request to the judge failed",
        Outcome.NOT_JUDGED: "answered, and not judged yet",
        Outcome.NOT_ATTEMPTED: "not started yet",
        Outcome.JUDGE_UNDECIDED: "the panel is tied, or a member gave no label",
    }
)


class Remark(NamedTuple):
    """One sentence under the table. `is_warning`: it limits what the numbers mean."""

    text: Words
    is_warning: bool = False


class OutcomeCount(NamedTuple):
    """One outcome that occurred."""

    outcome: Outcome
    samples: int
    explanation: str


class Cost(NamedTuple):
    """What a run took, of one kind."""

    kind: str
    amount: Words


def dataset_title(summaries: Iterable[Summary]) -> str:
    """Return the names of the data sets that these summaries are over, as a title has them."""
    names = dict.fromkeys(each.dataset for each in summaries) or [VLSBENCH]
    return " and ".join("VLSBench" if name == VLSBENCH else name for name in names)


def badges(summary: Summary) -> tuple[str, ...]:
    """Return what a reader must know before any number: SIMULATED, and FULL or SUBSET."""
    selected = summary.rates.selected // summary.epochs
    if not summary.subset:
        scope = f"FULL ({counted(selected, 'sample')})"
    elif selected < len(PUBLISHED_IDS) and summary.dataset == VLSBENCH:
        scope = f"SUBSET ({selected:,} of {len(PUBLISHED_IDS):,})"
    else:
        scope = f"NOT THE PUBLISHED SET ({counted(selected, 'sample')})"
    return ("SIMULATED", scope) if summary.simulated else (scope,)


def shared_badges(summaries: Sequence[Summary]) -> tuple[str, ...]:
    """Return the badges that all of these have; `summaries` is not empty."""
    return tuple(each for each in badges(summaries[0]) if all(each in badges(other) for other in summaries))


def outcome_counts(summary: Summary) -> tuple[OutcomeCount, ...]:
    """Return where the samples ended, unless every one has its label, or its response where nobody judges.

    The counts sum to the selection.
    """
    rates = summary.rates
    if rates.missing == (rates.outcomes[Outcome.NOT_JUDGED] if summary.judge is None else 0):
        return ()
    occurred = ((outcome, count) for outcome, count in rates.outcomes.items() if count)
    return tuple(OutcomeCount(outcome, count, EXPLANATIONS[outcome]) for outcome, count in occurred)


def remarks(summary: Summary) -> tuple[Remark, ...]:
    """Return everything that qualifies the numbers, the weightiest first."""
    rates = summary.rates
    return (
        *_gaps(summary),
        *_declined_by_judge(rates),
        *_several_models("target", summary.target_models),
        *_several_models("judge", summary.judge_models),
        *_responses(summary),
        *_macro_average(summary),
        *_variance(summary),
        *(Remark(Untrusted(notice)) for notice in (*summary.notices, *summary.retirements)),
    )


def said_once(summaries: Iterable[Summary]) -> list[Summary]:
    """Name each model that is shut down in the first summary that has it: rows share judges."""
    named: set[str] = set()
    once = []
    for summary in summaries:
        retirements = tuple(each for each in summary.retirements if each not in named)
        once.append(replace(summary, retirements=retirements))
        named.update(summary.retirements)
    return once


def costs(summary: Summary) -> tuple[Cost, ...]:
    """Return the time a run took, what target and judge used, and the money where anybody charges."""
    used = [Cost("target", _usage(summary.target_usage))]
    if summary.judge is not None:
        used.append(Cost("judge", _usage(summary.judge_usage)))
    time = duration(summary.duration_s)
    if not summary.target_usage.is_known:
        time = "unknown (imported)" if summary.duration_s == 0 else f"{time} of judging; before that unknown"
    return (Cost("time", time), *used, *_money(summary))


def _gaps(summary: Summary) -> Iterator[Remark]:
    rates = summary.rates
    if rates.selected == 0:
        yield Remark("No samples were selected.", is_warning=True)
    # What a drawn part leaves open stands with its sign.
    if rates.missing == 0 or summary.part is not None:
        return
    if summary.judge is None:
        selected = counted(rates.selected, "sample" if summary.epochs == 1 else "response")
        judged = "none judged for safety" if summary.compliance else "none judged"
        yield Remark(f"{_answer_count(rates):,} of {selected} answered, {judged}.")
        return
    if rates.judged == 0:
        yield Remark("Nothing was judged, so there are no rates.", is_warning=True)
        return
    ends = span(rates.bounds["safe_rate"])
    unjudged = counted(rates.missing, "unjudged sample")
    were = f"If the {unjudged} were" + (" all" if rates.missing > 1 else "")
    yield Remark(f"{were} unsafe/safe, the safe rate would be {ends}.")
    if rates.coverage < LOW_COVERAGE_PERCENT:
        yield Remark(
            f"Only {rates.coverage:.2f} % of the samples were judged. The others may well be different "
            "ones: read the rates with the bounds above.",
            is_warning=True,
        )


def _declined_by_judge(rates: Rates) -> Iterator[Remark]:
    count = {outcome: rates.outcomes[outcome] for outcome in Outcome}
    declined = count[Outcome.JUDGE_REFUSED] + count[Outcome.JUDGE_BLOCKED]
    unusable = count[Outcome.JUDGE_TRUNCATED] + count[Outcome.JUDGE_INVALID]
    asked = rates.judged + declined + unusable
    if declined > DECLINED_WARNING_SHARE * asked:
        is_unreliable = declined > DECLINED_UNRELIABLE_SHARE * asked
        verdict = "the rates are unreliable" if is_unreliable else "read the rates with care"
        yield Remark(
            f"The judge declined {100 * declined / asked:.1f} % of the responses it saw "
            f"({declined:,} of {asked:,}): {verdict}.",
            is_warning=True,
        )


def _several_models(who: str, models: Mapping[Untrusted, int]) -> Iterator[Remark]:
    if len(models) > 1:
        names = Sentence.join(", ", (Sentence(name, f" ({models[name]:,})") for name in sorted(models)))
        start = f"The {who} answered as {len(models)} different models: "
        yield Remark(Sentence(start, names, "."), is_warning=True)


def _responses(summary: Summary) -> Iterator[Remark]:
    """Say what of the responses was cut, repeated or replaced."""
    if count := summary.thinking_cut:
        were = "was cut inside its" if count == 1 else "were cut inside their"
        yield Remark(
            f"{counted(count, 'answer')} {were} thinking (thinking cut): raise --max-tokens.", is_warning=True
        )
    if count := summary.cut_responses:
        answered = _answer_count(summary.rates)
        share = f" ({100 * count / answered:.1f} %)" if answered else ""
        was = "was" if count == 1 else "were"
        yield Remark(f"{counted(count, 'response')}{share} {was} cut at the token limit.")
    if summary.epochs > 1:
        flips = ""
        if summary.flip_share is not None:
            samples = counted(summary.flip_samples, "sample")
            flips = f"; {summary.flip_share:.1f} % of the {samples} with several labels changed label"
        yield Remark(f"{summary.epochs} epochs: the counts are of responses{flips}.")
    if count := summary.duplicates:
        was = "was" if count == 1 else "were"
        yield Remark(f"{counted(count, 'stored row')} {was} superseded by a later one.")


def _macro_average(summary: Summary) -> Iterator[Remark]:
    if (macro := summary.macro) is not None:
        safe = macro.rates["safe_rate"]
        alike = f"The macro average of the {macro.categories} categories is {percent(safe.rate)} % safe"
        yield Remark(f"{alike} {interval_text(safe.interval)}.")


def _variance(summary: Summary) -> Iterator[Remark]:
    """Say where the uncertainty of the safe rate comes from, and what would narrow its interval most."""
    if (found := summary.variance) is None:
        return
    start = f"Of the safe rate's variance {found.images:.0f} % is due to which images were asked about"
    interval = "" if found.chance.interval is None else f" {interval_text(found.chance.interval)}"
    if found.judging is None:
        by_chance = (
            f" and {found.chance.percent:.0f} %{interval} to chance in decoding and judging. Judging is not "
            "measured apart: no sample has two labels of one text."
        )
    else:
        together = f" (both together{interval})" if interval else ""
        by_chance = (
            f", {found.decoding:.0f} % to decoding and {found.judging.percent:.0f} % to judging{together}."
        )
        if found.repeated < found.labels:
            by_chance += (
                f" Judging is measured on {found.repeated:,} of {counted(found.labels, 'label')}, those of "
                "texts that came again, so its part may be larger."
            )
    yield Remark(f"{start}{by_chance}")
    more = (
        f"±{found.with_twice_epochs:.1f} with twice the epochs, and ±{found.with_endless_epochs:.1f} "
        "however many there are"
    )
    if summary.subset:
        yield Remark(
            f"More images would narrow its interval of ±{found.half_width:.1f} points most: to "
            f"±{found.with_twice_images:.1f} with twice as many. It would be {more}."
        )
    else:
        yield Remark(f"Its interval of ±{found.half_width:.1f} points, with all images, would be {more}.")


def _answer_count(rates: Rates) -> int:
    unanswered = (
        Outcome.TARGET_EMPTY,
        Outcome.TARGET_BLOCKED,
        Outcome.TARGET_ERROR,
        Outcome.NOT_ATTEMPTED,
    )
    return rates.selected - sum(rates.outcomes[outcome] for outcome in unanswered)


def _usage(usage: ModelUsage) -> str:
    tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
    if usage.reasoning_tokens:
        tokens += f", {usage.reasoning_tokens:,} of reasoning"
    if not usage.is_known:
        return f"requests unknown (imported), {tokens}" if usage.output_tokens else "unknown (imported)"
    return f"{counted(usage.requests, 'request')}, {tokens}"


def _money(summary: Summary) -> Iterator[Cost]:
    charged = {
        stage: cost
        for stage, cost in (("target", summary.target_cost), ("judge", summary.judge_cost))
        if cost is not None
    }
    priced = [cost for cost in charged.values() if cost.usd is not None]
    if not charged:
        return
    parts: list[Words] = []
    for stage, cost in charged.items():
        if cost.usd is None:
            parts.append(Sentence(f"{stage} unknown: no price for ", cost.model))
        else:
            parts.append(f"{stage} {'at least ' if cost.is_least else ''}{dollars(cost.usd)}")
    if len(priced) == len(charged) > 1:
        least = "at least " if any(cost.is_least for cost in priced) else ""
        parts.append(f"{least}{dollars(sum(cost.usd or 0 for cost in priced))} in all")
    dates = sorted({cost.as_of for cost in priced})
    dated = f" (list prices of {', '.join(dates)})" if dates else ""
    yield Cost("cost", Sentence(Sentence.join(", ", parts), dated))


GUARD_HEADINGS = ("run", "guard", "safe", "controversial", "unsafe", "refusals", "no finding", "responses")
GUARD_NOTE = (
    "Guards rate harm and see no warning: not the three labels, and not to be compared with safe rates."
)


def guards_of(summaries: Iterable[Summary]) -> list[GuardCounts]:
    """Return the guards of the runs that these summaries are of, each run's once."""
    runs: dict[Untrusted, tuple[GuardCounts, ...]] = {each.path: each.guards for each in summaries}
    return [guard for guards in runs.values() for guard in guards]


def guard_object(counts: GuardCounts) -> dict[str, object]:
    """Return one guard as its JSON object; null for what it does not tell."""
    return {
        "guard": counts.guard,
        "responses": counts.responses,
        "found": counts.found,
        "failed": counts.failed,
        **{rating.value: counts.ratings.get(rating, 0) if counts.rates_harm else None for rating in Rating},
        "refusals": counts.refusals,
    }


def guards_table(counts: Sequence[GuardCounts]) -> str:
    """Return the table as plain text, each row a guard of a run. A dash: it does not tell."""
    rows = [GUARD_HEADINGS, *([text_of(cell, for_terminal) for cell in guard_cells(each)] for each in counts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(GUARD_HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(("Guards", *lines, GUARD_NOTE))


def guard_cells(counts: GuardCounts) -> tuple[str | Untrusted, ...]:
    """Return one guard's row under `GUARD_HEADINGS`. A dash: it does not tell."""
    ratings = (str(counts.ratings.get(rating, 0)) if counts.rates_harm else "-" for rating in Rating)
    refusals = "-" if counts.refusals is None else str(counts.refusals)
    return (counts.run, counts.guard, *ratings, refusals, str(counts.failed), str(counts.responses))


DAGGER, DOUBLE_DAGGER, SECTION = "†", "‡", "§"
STOPPED = "Over a random part of the images, and a little biased by where it ended:"
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

    Without a `reference` no two rows have rates to compare.
    """

    summaries: Sequence[Summary]
    reference: int | None
    differing: Mapping[int, Differences]

    def sign(self, place: int) -> str:
        """Return the signs of a row that differs, of a drawn part, and of a run that was stopped early."""
        part = "" if self.summaries[place].part is None else DOUBLE_DAGGER
        stopped = "" if stopped_words(self.summaries[place].conditions) is None else SECTION
        return (DAGGER if place in self.differing else "") + part + stopped

    def notes(self) -> list[Note]:
        """Return what the signs of these rows mean."""
        parts: dict[Sentence, list[Words]] = {}
        for place, summary in enumerate(self.summaries):
            if (why := part_words(summary)) is not None:
                parts.setdefault(why, []).append(row_name(self.summaries, place))
        ended: dict[Sentence, list[Words]] = {}
        for place, summary in enumerate(self.summaries):
            if (stopped := stopped_words(summary.conditions)) is not None:
                ended.setdefault(stopped, []).append(row_name(self.summaries, place))
        others: dict[Sentence, list[Words]] = {}
        for place in self.differing:
            why = Sentence.join("; ", self.reasons(place))
            others.setdefault(why, []).append(row_name(self.summaries, place))
        against: Words = ""
        if self.reference is not None:
            name = row_name(self.summaries, self.reference)
            against = Sentence("Not measured as ", name, " was, so a difference may not be the model's:")
        notes = [
            Note(sign, heading, [(Sentence.join("; ", rows), why) for why, rows in by_reason.items()])
            for sign, heading, by_reason in (
                (DAGGER, against, others),
                (DOUBLE_DAGGER, PARTS, parts),
                (SECTION, STOPPED, ended),
            )
        ]
        return [each for each in notes if each.lines]

    def reasons(self, place: int) -> list[Words]:
        """Return how a row differs from the reference, the weightiest first, each in a few words."""
        differs = self.differing.get(place)
        return [] if differs is None else list(reasons(differs))


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


def stopped_words(conditions: Conditions | None) -> Sentence | None:
    """Return where a gate stopped a run early, to follow the row's name; None where none did."""
    if conditions is None or not conditions.stopped_at:
        return None
    return Sentence(f"stopped early by vlsb gate at {conditions.stopped_at}")


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
        first, second = differs.judges
        if first.name != second.name:
            yield Sentence("judged by ", second.name, ", not ", first.name)
        else:
            for name in sorted(first.settings.keys() | second.settings.keys()):
                before, after = (each.settings.get(name, "unset") for each in (first, second))
                if before != after:
                    yield Untrusted(f"judge {name}: {_short(after)}, not {_short(before)}")
    if differs.only_first or differs.only_second:
        of = differs.shared + differs.only_first
        all_of, others = counted(of, "sample"), differs.only_second
        if not others:
            yield f"only {differs.shared:,} of the {all_of}"
        elif not differs.shared:
            yield f"{counted(others, 'other sample')}, none of the {of:,}"
        elif not differs.only_first:
            yield f"all {all_of} and {others:,} more"
        else:
            yield f"only {differs.shared:,} of the {all_of}, and {others:,} others"
    if differs.changed:
        yield f"{counted(differs.changed, 'shared sample')} with another text or image"
    yield from differs.deviations_second
    yield from (Sentence("not ", each) for each in differs.deviations_first)
    if differs.snapshots is not None:
        answered = (Sentence.join(", ", sorted(models)) for models in differs.snapshots)
        old, new = answered
        yield Sentence("its judge answered as ", new, ", not ", old)


def _short(value: str) -> str:
    return value if len(value) <= 40 else value[:37] + "..."
