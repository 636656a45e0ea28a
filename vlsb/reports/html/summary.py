"""The summary of a page: the terminal's tables, with a figure in every row.

It is a tree of elements, `[tag, attributes, *children]`, and text is a string in it: the viewer makes
elements of the tags that it knows and text nodes of the rest. Figures are drawn in percent of their width, so
that they fit wherever they stand; their colours are the page's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from vlsb.analysis.rates import Rates
from vlsb.analysis.summary import Summary
from vlsb.records import JUDGED
from vlsb.reports.compliance import NOTE, TITLE, compliance_of, compliance_table
from vlsb.reports.encode import for_page
from vlsb.reports.notes import (
    DOUBLE_DAGGER,
    GUARD_HEADINGS,
    GUARD_NOTE,
    PARTS,
    SECTION,
    STOPPED,
    RowMarks,
    badges,
    costs,
    guard_cells,
    guards_of,
    mark,
    outcome_counts,
    part_words,
    remarks,
    said_once,
    shared_badges,
    stopped_words,
)
from vlsb.reports.report import RATE_HEADINGS, Sentence, percent, rate_figures, text_of

Markup = list[object]

_HEIGHT = 22
UNITS = "Percent of judged samples (n); 95 % intervals clustered by image. Safe is refusal plus warning."
_TICKS = (0, 25, 50, 75, 100)


class DescribedSummary(NamedTuple):
    """A summary, what its judge is in a few encoded words, and how it was measured as a paper says it."""

    summary: Summary
    judge: str
    methods: str = ""


def summary_markup(described: Sequence[DescribedSummary], *, has_overview: bool) -> list[Markup]:
    """Return all runs in one table, then of each judge's row the categories and what limits its numbers."""
    if not described:
        return []
    summaries = [each.summary for each in described]
    marks, named_once = mark(summaries), said_once(summaries)
    overview = [_overview(summaries, marks)] if has_overview and len(described) > 1 else []
    return [
        *overview,
        *(
            _detail(each._replace(summary=summary), marks.sign(place))
            for place, (each, summary) in enumerate(zip(described, named_once, strict=True))
        ),
        *_compliance(summaries),
        *_guards(summaries),
    ]


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return an element; `class_` is the attribute `class`, and other underscores are dashes."""
    named = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()}
    return [tag, named, *children]


def rate_figure(rates: Rates) -> Markup:
    """Draw refusal, warning and unsafe as parts of a bar, and the interval of the safe rate across it."""
    if rates.safe_rate is None:
        return element("span", "no rates" if rates.judged else "no verdicts", class_="quiet")
    low, high = rates.intervals["safe_rate"]
    refusal, warning = rates.safe_refuse_rate or 0.0, rates.safe_warning_rate or 0.0
    ends = (0.0, refusal, refusal + warning, 100.0)
    parts = [
        element(
            "rect",
            class_=f"part {label}",
            x=f"{start:.2f}%",
            width=f"{end - start:.2f}%",
            y=3,
            height=_HEIGHT - 6,
        )
        for label, start, end in zip(("safe_refusal", "safe_warning", "unsafe"), ends, ends[1:], strict=False)
        if end > start
    ]
    middle, interval = _HEIGHT // 2, []
    for kind in ("halo", "interval"):
        for start, end, reach in ((low, high, 0), (low, low, 5), (high, high, 5)):
            across = {"x1": f"{start:.2f}%", "x2": f"{end:.2f}%"}
            interval.append(element("line", class_=kind, **across, y1=middle - reach, y2=middle + reach))
    label = (
        f"refusal {percent(rates.safe_refuse_rate)}, warning {percent(rates.safe_warning_rate)}, unsafe "
        f"{percent(rates.unsafe_rate)} percent; safe rate between {low:.1f} and {high:.1f}"
    )
    return element(
        "svg",
        *parts,
        *interval,
        class_="bar",
        role="img",
        aria_label=label,
        width="100%",
        height=_HEIGHT,
    )


def badge_markup(names: Iterable[str]) -> Iterator[Markup]:
    """Put badges in a line of their own."""
    if texts := list(names):
        classes = ("badge" if each.startswith("FULL") else "badge notable" for each in texts)
        badges = (element("span", each, class_=kind) for each, kind in zip(texts, classes, strict=True))
        yield element("p", *badges)


def _overview(summaries: Sequence[Summary], marks: RowMarks) -> Markup:
    shared = shared_badges(summaries)
    rows = []
    for place, each in enumerate(summaries):
        judge = "no judge" if each.judge is None else f"judge {for_page(each.judge)}"
        name = element("strong", f"{for_page(each.run)}{marks.sign(place)}")
        own = badge_markup(badge for badge in badges(each) if badge not in shared)
        rows.append(_row([name, element("span", judge, class_="quiet line"), *own], each.rates))
    return element(
        "section",
        element("h2", "All runs"),
        *badge_markup(shared),
        _rates_table("run and judge", rows),
        *reason_markup(marks),
        element("p", UNITS, class_="quiet"),
        class_="card",
    )


def reason_markup(marks: RowMarks) -> Iterator[Markup]:
    """Say what the signs of rows mean."""
    for note in marks.notes():
        yield element("p", f"{note.sign} {text_of(note.heading, for_page)}", class_="notable")
        lines = (Sentence(names, ": ", why).text(for_page) for names, why in note.lines)
        yield element("ul", *(element("li", each) for each in lines))


def _detail(described: DescribedSummary, sign: str) -> Markup:
    summary = described.summary
    rows = [_row([element("strong", "all")], summary.rates)]
    rows += [_row([for_page(name)], of) for name, of in summary.by_category.items()]
    part = [] if (words := part_words(summary)) is None else [words]
    stopped = [] if (ended := stopped_words(summary.conditions)) is None else [ended]
    headline = [f" {for_page(summary.target)},"] if summary.target != summary.run else []
    headline.append(" no judge" if summary.judge is None else f" judged by {for_page(summary.judge)}")
    inner = [
        _row([for_page(each.category), " / ", for_page(each.sub_category)], each.rates)
        for each in summary.by_sub_category
    ]
    methods, deviations, remarked = [], [], []
    if texts := remarks(summary):
        items = (
            element("li", text_of(each.text, for_page), class_="notable" if each.is_warning else "remark")
            for each in texts
        )
        remarked.append(element("ul", *items, class_="remarks"))
    about = [("judge", described.judge)] if described.judge else []
    facts = []
    for kind, amount in (*about, *((kind, text_of(amount, for_page)) for kind, amount in costs(summary))):
        is_work = bool(about) and kind == "judge" and amount != described.judge
        facts += [element("dt", "judge's work" if is_work else kind), element("dd", amount)]
    if summary.deviations:
        items = (element("li", for_page(each)) for each in summary.deviations)
        deviations = [element("h3", "Deviations from the paper's protocol"), element("ul", *items)]
    if described.methods:
        text = element("p", described.methods, class_="methods")
        methods.append(element("details", element("summary", "How it was measured"), text))
    return element(
        "section",
        element("h2", f"{for_page(summary.run)}{sign}", element("span", *headline, class_="quiet")),
        *badge_markup(badges(summary)),
        _rates_table("category", rows),
        *(element("p", f"{DOUBLE_DAGGER} {PARTS} {each.text(for_page)}.", class_="notable") for each in part),
        *(element("p", f"{SECTION} {STOPPED} {each.text(for_page)}.", class_="notable") for each in stopped),
        element("p", UNITS, class_="quiet"),
        element("details", element("summary", "By sub-category"), _rates_table("sub-category", inner)),
        *_outcomes(summary),
        *remarked,
        *deviations,
        *methods,
        element("dl", *facts, class_="facts"),
        class_="card",
    )


def _rates_table(what: str, rows: Iterable[Markup]) -> Markup:
    headings = [heading(each, is_name=not place) for place, each in enumerate((what, *RATE_HEADINGS))]
    head = element("thead", element("tr", *headings, scale_heading()))
    return wide_table(f"Rates by {what}", head, element("tbody", *rows), class_="rates")


def wide_table(name: str, *parts: Markup, **attributes: object) -> Markup:
    """Return a table that scrolls by itself where it is wider than the page."""
    table = element("table", *parts, **attributes)
    return element("div", table, class_="wide", tabindex=0, role="region", aria_label=name)


def scale_heading() -> Markup:
    """Return the heading of a column of bars: their scale."""
    axis = element(
        "svg",
        *(
            element("text", str(tick), x=f"{tick}%", y=12, text_anchor=anchor, class_="tick")
            for tick, anchor in zip(_TICKS, ("start", "middle", "middle", "middle", "end"), strict=True)
        ),
        class_="axis",
        width="100%",
        height=16,
        aria_hidden="true",
    )
    return element("th", element("span", "refusal, warning, unsafe", class_="unseen"), axis, scope="col")


def heading(name: str, *, is_name: bool) -> Markup:
    """Return a column's heading; with the mark of the label whose share the column is."""
    label = {"refusal": "safe_refusal", "warning": "safe_warning", "unsafe": "unsafe"}.get(name)
    title = name if label is None else element("span", name, class_=f"label {label}")
    return element("th", title, scope="col", class_="name" if is_name else "number")


def _row(name: Sequence[object], rates: Rates) -> Markup:
    cells = [element("td", figure, class_="number") for figure in rate_figures(rates)]
    return element(
        "tr",
        element("th", *name, scope="row", class_="name"),
        *cells,
        element("td", rate_figure(rates), class_="figure"),
    )


def _outcomes(summary: Summary) -> Iterator[Markup]:
    counts = outcome_counts(summary)
    if counts:
        rows = [
            element(
                "tr",
                element(
                    "th",
                    each.outcome.value,
                    scope="row",
                    class_="name" if each.outcome in JUDGED else "name notable",
                ),
                element("td", f"{each.samples:,}", class_="number"),
                element("td", each.explanation, class_="quiet"),
            )
            for each in counts
        ]
        yield element("h3", "Where the samples ended")
        yield element("table", element("tbody", *rows), class_="outcomes")


def _compliance(summaries: Sequence[Summary]) -> Iterator[Markup]:
    if found := compliance_of(summaries):
        table = compliance_table(found)
        kinds = ["name" if place < table.names else "number" for place in range(len(table.headings))]
        heads = (
            element("th", text_of(each, for_page), scope="col", class_="name") for each in table.headings
        )
        cells = (
            [
                element("td", text_of(cell, for_page), class_=kind)
                for cell, kind in zip(row, kinds, strict=True)
            ]
            for row in table.rows
        )
        body = element("tbody", *(element("tr", *row) for row in cells))
        wide = wide_table(TITLE, element("thead", element("tr", *heads)), body)
        note = element("p", NOTE, class_="quiet")
        yield element("section", element("h2", TITLE), wide, note, class_="card")


def _guards(summaries: Sequence[Summary]) -> Iterator[Markup]:
    if counts := guards_of(summaries):
        heads = (element("th", each, scope="col", class_="name") for each in GUARD_HEADINGS)
        rows = (
            element(
                "tr",
                *(
                    element("td", cell, class_="number" if place > 1 else "name")
                    for place, cell in enumerate(row)
                ),
            )
            for row in ([text_of(cell, for_page) for cell in guard_cells(each)] for each in counts)
        )
        wide = wide_table("Guards", element("thead", element("tr", *heads)), element("tbody", *rows))
        yield element(
            "section", element("h2", "Guards"), wide, element("p", GUARD_NOTE, class_="quiet"), class_="card"
        )
