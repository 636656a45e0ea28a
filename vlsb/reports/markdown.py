"""The terminal's tables as Markdown, for a paper or an issue.

Every name is literal text: nothing a stranger wrote becomes a link, a mention, an image or HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlsb.analysis.summary import Summary
from vlsb.reports.documents import in_order
from vlsb.reports.encode import for_markdown
from vlsb.reports.figures import NO_FIGURE, RATE_HEADINGS, rate_figures
from vlsb.reports.notes import Remark, badges, costs, outcome_counts, remarks

_UNITS = "Rates are percent of the judged samples (n), with 95 % intervals clustered by image."


def to_markdown(summaries: Sequence[Summary]) -> str:
    """Return a table with one row a run, then each run's categories, gaps and deviations."""
    ordered = in_order(summaries)
    blocks = ["## VLSBench safety rates", _runs_table(ordered), _UNITS]
    for summary in ordered:
        blocks += _details(summary, heading=len(ordered) > 1)
    return "\n\n".join(blocks) + "\n"


def _runs_table(summaries: Sequence[Summary]) -> str:
    rows = (
        (
            for_markdown(each.run),
            for_markdown(each.target),
            _judge(each),
            ", ".join(badges(each)),
            *rate_figures(each.rates),
        )
        for each in summaries
    )
    return _table(("run", "target", "judge", "samples"), rows)


def _details(summary: Summary, *, heading: bool) -> list[str]:
    categories = ((for_markdown(name), *rate_figures(of)) for name, of in summary.by_category.items())
    title = f"### {for_markdown(summary.run)}, judge {_judge(summary)}"
    lines = [f"`{outcome}`: {count:,} ({why})" for outcome, count, why in outcome_counts(summary)]
    lines += [_sentence(each) for each in remarks(summary, encode=for_markdown)]
    lines += [f"Deviation from the paper's protocol: {for_markdown(each)}" for each in summary.deviations]
    lines += [f"{kind}: {amount}" for kind, amount in costs(summary, encode=for_markdown)]
    table = [_table(("category",), categories)] if summary.rates.judged else []
    return [*([title] if heading else []), *table, "\n".join(f"- {line}" for line in lines)]


def _sentence(remark: Remark) -> str:
    return f"**Warning:** {remark.text}" if remark.is_warning else remark.text


def _judge(summary: Summary) -> str:
    return NO_FIGURE if summary.judge is None else for_markdown(summary.judge)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rules = [":--" for _ in names] + ["--:" for _ in RATE_HEADINGS]
    return "\n".join(_row(each) for each in ([*names, *RATE_HEADINGS], rules, *rows))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
