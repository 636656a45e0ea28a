"""The rates as Markdown, for a paper or an issue: tables and what qualifies them, no account of the run.

Every name is literal text: nothing a stranger wrote becomes a link, a mention, an image or HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vlsb.analysis.summary import Summary
from vlsb.reports.documents import in_order
from vlsb.reports.encode import for_markdown
from vlsb.reports.figures import NO_FIGURE, RATE_HEADINGS, rate_figures
from vlsb.reports.marks import Marks, by_category, mark
from vlsb.reports.notes import Remark, badges, outcome_counts, remarks, said_once
from vlsb.reports.report import Sentence, text_of

_UNITS = "Rates are percent of the judged samples (n), with 95 % intervals clustered by image."


def to_markdown(summaries: Sequence[Summary]) -> str:
    """Return a table with one row a run, one by category, and what qualifies the numbers of each run."""
    marks = mark(in_order(summaries))
    several = len(marks.summaries) > 1
    blocks = ["## VLSBench safety rates", _runs_table(marks), _UNITS, *_reasons(marks)]
    if categories := _categories(marks, several=several):
        blocks += ["### By category", categories] if several else [categories]
    for summary in said_once(marks.summaries):
        if found := [f"- {line}" for line in _qualifications(summary)]:
            blocks += [f"### {for_markdown(summary.run)}, judge {_judge(summary)}"] if several else []
            blocks.append("\n".join(found))
    return "\n\n".join(blocks) + "\n"


def _runs_table(marks: Marks) -> str:
    rows = (
        (
            _marked(marks, place),
            for_markdown(each.target),
            _judge(each),
            ", ".join(badges(each)),
            *rate_figures(each.rates),
        )
        for place, each in enumerate(marks.summaries)
    )
    return _table(("run", "target", "judge", "samples"), rows)


def _reasons(marks: Marks) -> list[str]:
    blocks = []
    for note in marks.notes():
        blocks.append(f"{note.sign} {text_of(note.heading, for_markdown)}")
        lines = (Sentence("- ", names, ": ", why) for names, why in note.lines)
        blocks.append("\n".join(each.text(for_markdown) for each in lines))
    return blocks


def _categories(marks: Marks, *, several: bool) -> str:
    """Every category of every run; a category's runs stand below each other."""
    has_judges = len({each.judge for each in marks.summaries}) > 1
    rows = [
        (
            for_markdown(name),
            *([_marked(marks, place)] if several else []),
            *([_judge(marks.summaries[place])] if has_judges else []),
            *rate_figures(rates),
        )
        for name, place, rates in by_category(marks.summaries)
    ]
    names = ("category", *(["run"] if several else []), *(["judge"] if has_judges else []))
    return _table(names, rows) if rows else ""


def _qualifications(summary: Summary) -> Iterator[str]:
    yield from (f"`{outcome}`: {count:,} ({why})" for outcome, count, why in outcome_counts(summary))
    yield from map(_sentence, remarks(summary))
    yield from (f"Deviation from the paper's protocol: {for_markdown(each)}" for each in summary.deviations)


def _marked(marks: Marks, place: int) -> str:
    """A run's name with its dagger."""
    return " ".join(filter(None, (for_markdown(marks.summaries[place].run), marks.sign(place))))


def _sentence(remark: Remark) -> str:
    text = text_of(remark.text, for_markdown)
    return f"**Warning:** {text}" if remark.is_warning else text


def _judge(summary: Summary) -> str:
    return NO_FIGURE if summary.judge is None else for_markdown(summary.judge)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rules = [":--" for _ in names] + ["--:" for _ in RATE_HEADINGS]
    return "\n".join(_row(each) for each in ([*names, *RATE_HEADINGS], rules, *rows))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
