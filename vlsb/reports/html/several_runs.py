"""What several runs come to on a page: their ranks, what each judge says, and curves over training.

It is a tree of elements, as the summary of a run is. Curves are drawn in percent of their width, so that they
fit wherever they stand; what stands at a point is drawn in pixels around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports.curves import CHANGES, STEP_HEADINGS, Curve, curves_of, step_figures
from vlsb.reports.encode import for_page
from vlsb.reports.html.summary import (
    UNITS,
    Markup,
    badge_markup,
    element,
    heading,
    rate_figure,
    reason_markup,
    scale_heading,
    wide_table,
)
from vlsb.reports.leaderboard import (
    BY_JUDGE,
    RANKS,
    Leaderboard,
    RankedRun,
    known_reasons,
    leaderboard,
    open_ranks,
)
from vlsb.reports.notes import badges, shared_badges
from vlsb.reports.report import NO_FIGURE, percent, safe_interval, share_of_selected

_HEIGHT = 220
_TICKS = (0, 25, 50, 75, 100)
_MOST_TICKS = 8
_UNDER = {"y": _HEIGHT + 18, "text_anchor": "middle", "class_": "tick"}
_MARGIN = 2.0
"""Percent of a curve's width that are left on both sides of its first and last step."""
_SERIES = 6
"""As many lines as are told apart by colour and mark; then they begin again."""

Links = Mapping[Untrusted, str]
"""Where the page of a run is, by the run's path."""


def board_markup(summaries: Sequence[Summary], links: Links) -> list[Markup]:
    """Return ranks, judges and curves; nothing where there are not two runs to rank."""
    board = leaderboard(summaries)
    if board is None or len(board.standings) < 2:
        return []
    judges = [_by_judge(board)] if len(board.judges) > 1 else []
    curves = curves_of(summaries).curves
    trainings = [list(group) for _, group in groupby(curves, key=lambda each: each.training)]
    for group in trainings:
        group.sort(key=lambda each: board.judges.index(each.judge))
    return [_ranks(board, links), *judges, *map(_training, trainings)]


def _ranks(board: Leaderboard, links: Links) -> Markup:
    marks = board.marks[board.judge]
    shared = shared_badges(marks.summaries)
    if marks.reference is not None:
        # What most rows have in common stands above the table, and in a row what is different there.
        shared = badges(marks.summaries[marks.reference])
    names = ("rank", "run", "n", "coverage", "safe", "95 % CI", "refusal", "warning")
    heads = [heading(each, is_name=place < 2) for place, each in enumerate(names)]
    rows = [_rank_row(board, each, shared, links) for each in board.standings]
    return element(
        "section",
        _title("Ranks by safe rate", f"judge {for_page(board.judge)}"),
        *badge_markup(shared),
        wide_table(
            "Ranks by safe rate",
            element("thead", element("tr", *heads, scale_heading())),
            element("tbody", *rows),
            class_="rates board sortable",
        ),
        *reason_markup(marks),
        element("p", UNITS, class_="quiet"),
        element("p", f"Below each rank {RANKS}", class_="quiet"),
        class_="card",
    )


def _title(words: str, more: str) -> Markup:
    return element("h2", words, element("span", f" {more}", class_="quiet"))


def _rank_row(board: Leaderboard, standing: RankedRun, shared: Sequence[str], links: Links) -> Markup:
    own = standing.by_judge.get(board.judge)
    any_summary = own or next(iter(standing.by_judge.values()))
    run, page = for_page(standing.run), links.get(any_summary.path)
    names = [element("strong", run) if page is None else element("a", run, href=page)]
    if standing.target != standing.run:
        names.append(element("span", for_page(standing.target), class_="quiet line"))
    names += badge_markup(each for each in badges(any_summary) if each not in shared)
    name = element("th", *names, scope="row", class_="name", data_sort=run.casefold())
    if own is None:
        cells = [element("td", NO_FIGURE, class_="number", data_sort=-1) for _ in range(6)]
        return element(
            "tr", element("td", NO_FIGURE, class_="rank", data_sort=1e9), name, *cells, element("td")
        )
    rates = own.rates
    figures = (
        (share_of_selected(rates), rates.labels),
        (f"{rates.coverage:.2f}", rates.coverage),
        (percent(rates.safe_rate), rates.safe_rate),
        (safe_interval(rates), rates.intervals["safe_rate"].low),
        (percent(rates.safe_refuse_rate), rates.safe_refuse_rate),
        (percent(rates.safe_warning_rate), rates.safe_warning_rate),
    )
    place = f"{standing.place}{board.sign(standing, board.judge)}"
    more = [element("span", ranks, class_="quiet line")] if (ranks := open_ranks(standing)) else []
    return element(
        "tr",
        element("td", place, *more, class_="rank", data_sort=standing.place),
        name,
        *(element("td", figure, class_="number", data_sort=value) for figure, value in figures),
        element("td", rate_figure(rates), class_="figure"),
    )


def _by_judge(board: Leaderboard) -> Markup:
    names = ("run", *map(for_page, board.judges))
    heads = [heading(each, is_name=not place) for place, each in enumerate(names)]
    rows = [
        element(
            "tr",
            element(
                "th", for_page(each.run), scope="row", class_="name", data_sort=for_page(each.run).casefold()
            ),
            *(_judge_cell(each.by_judge.get(judge), board.sign(each, judge)) for judge in board.judges),
        )
        for each in board.standings
    ]
    # Why runs are marked under the other judges, as far as the ranks have not said it.
    others: list[Markup] = []
    for judge in board.judges[1:]:
        marks, on_ranks = board.marks[judge], known_reasons(board)
        if any(why not in on_ranks for note in marks.notes() for _, why in note.lines):
            others += [element("h3", f"By {for_page(judge)}"), *reason_markup(marks)]
    return element(
        "section",
        element("h2", "Safe rate by each judge"),
        wide_table(
            "Safe rate by each judge",
            element("thead", element("tr", *heads)),
            element("tbody", *rows),
            class_="judges sortable",
        ),
        *others,
        element("p", BY_JUDGE, class_="quiet"),
        class_="card",
    )


def _judge_cell(summary: Summary | None, sign: str) -> Markup:
    if summary is None:
        return element("td", NO_FIGURE, class_="number", data_sort=-1)
    rates = summary.rates
    n = f", n {share_of_selected(rates)}" if rates.missing else ""
    # The interval and the rate on a line from 0 to 100 percent; the figures stand above it.
    low, high = rates.intervals["safe_rate"]
    figure = element(
        "svg",
        _line((0, 5), (100, 5), "grid"),
        _line((low, 5), (high, 5), "interval"),
        element("circle", cx=f"{rates.safe_rate or 0:.2f}%", cy=5, r=3, class_="rate"),
        class_="bar",
        width="100%",
        height=10,
        aria_hidden="true",
    )
    return element(
        "td",
        f"{percent(rates.safe_rate)}{sign}",
        element("span", f"{safe_interval(rates)}{n}", class_="quiet line"),
        figure,
        class_="number",
        data_sort=rates.safe_rate,
    )


class _Scale(NamedTuple):
    """The steps of all curves of a training, and where they are in percent of its width."""

    first: int
    last: int

    def place(self, step: float) -> float:
        share = (step - self.first) / max(1, self.last - self.first)
        return _MARGIN + (100 - 2 * _MARGIN) * share

    def ticks(self) -> Iterator[int]:
        """Yield round steps, a few of them."""
        span = self.last - self.first
        sizes = (size * 10**power for power in range(13) for size in (1, 2, 5))
        size = next(each for each in sizes if span / each <= _MOST_TICKS)
        start = -(-self.first // size) * size
        yield from range(start, self.last + 1, size)


def _training(curves: Sequence[Curve]) -> Markup:
    """Draw the curves of all judges, and the figures of each."""
    scale = _Scale(min(each.points[0].step for each in curves), max(each.points[-1].step for each in curves))
    legend = []
    if len(curves) > 1:
        items = []
        for place, each in enumerate(curves):
            kind = f"key {_series(place)}"
            key = element("svg", *_mark(place), class_=kind, width=14, height=14, aria_hidden="true")
            items.append(element("li", key, for_page(each.judge)))
        legend.append(element("ul", *items, class_="legend"))
    return element(
        "section",
        _title("Safe rate over training", for_page(curves[0].training)),
        *legend,
        element("div", _figure(curves, scale), class_="curve"),
        *(_steps(each, is_open=len(curves) == 1) for each in curves),
        element("p", "Percent of judged samples by step, with 95 % intervals.", class_="quiet"),
        element("p", CHANGES, class_="quiet"),
        class_="card",
    )


def _figure(curves: Sequence[Curve], scale: _Scale) -> Markup:
    grid = []
    for tick in _TICKS:
        label = element("text", str(tick), x=-8, y=4, text_anchor="end", class_="tick")
        level = element("svg", label, x="0%", y=f"{_height(tick):.1f}")
        grid += [_line((0, _height(tick)), (100, _height(tick)), "grid"), level]
    steps = []
    for tick in scale.ticks():
        text = f"{tick:,}" if tick < 1000 or tick % 100 else f"{tick / 1000:,g}k"
        steps.append(element("text", text, x=f"{scale.place(tick):.2f}%", **_UNDER))
    rates = "; ".join(
        f"judge {for_page(curve.judge)}: "
        + ", ".join(f"{percent(each.summary.rates.safe_rate)} at {each.step:,}" for each in curve.points)
        for curve in curves
    )
    lines = [_series_markup(each, place, len(curves), scale) for place, each in enumerate(curves)]
    return element(
        "svg",
        *grid,
        *steps,
        *lines,
        role="img",
        aria_label=f"Safe rates in percent by step. {rates}",
        width="100%",
        height=_HEIGHT + 24,
    )


def _series_markup(curve: Curve, place: int, count: int, scale: _Scale) -> Markup:
    """Draw one line; beside others it is moved a little, so that intervals do not hide each other."""
    spots = [(scale.place(each.step), _height(each.summary.rates.safe_rate or 0.0)) for each in curve.points]
    lines = [_line(start, end, "path") for start, end in pairwise(spots)]
    points = []
    for each, (across, down) in zip(curve.points, spots, strict=True):
        rates = each.summary.rates
        low, high = (_height(end) - down for end in rates.intervals["safe_rate"])
        title = f"step {each.step:,}: {percent(rates.safe_rate)} {safe_interval(rates)}"
        point = element(
            "svg",
            element("title", title),
            _pixels((0, low), (0, high)),
            *(_pixels((-3, end), (3, end)) for end in (low, high)),
            element("svg", *_mark(place), x=-7, y=-7, width=14, height=14),
            x=f"{across:.2f}%",
            y=f"{down:.1f}",
        )
        points.append(point)
    moved = f"translate({4 * place - 2 * (count - 1)} 0)"
    return element("g", *lines, *points, class_=_series(place), transform=moved)


def _mark(place: int) -> Iterator[Markup]:
    """Draw a disc, square, ring or frame in the middle of 14 by 14 pixels."""
    kind = "mark" if place % 4 < 2 else "mark hollow"
    if place % 2:
        yield element("rect", x=3.5, y=3.5, width=7, height=7, class_=kind)
    else:
        yield element("circle", cx=7, cy=7, r=4, class_=kind)


def _series(place: int) -> str:
    return f"series series-{place % _SERIES}"


def _height(rate: float) -> float:
    return _HEIGHT * (1 - rate / 100)


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> Markup:
    """Draw a line whose ends are across in percent, and down in pixels."""
    ends = {"x1": f"{start[0]:.2f}%", "y1": f"{start[1]:.1f}", "x2": f"{end[0]:.2f}%", "y2": f"{end[1]:.1f}"}
    return element("line", class_=kind, **ends)


def _pixels(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    ends = {"x1": start[0], "y1": f"{start[1]:.1f}", "x2": end[0], "y2": f"{end[1]:.1f}"}
    return element("line", class_="path", **ends)


def _steps(curve: Curve, *, is_open: bool) -> Markup:
    heads = (heading(each, is_name=False) for each in STEP_HEADINGS)
    rows = [
        element(
            "tr",
            element("th", f"{each.step:,}{curve.marks.sign(place)}", scope="row", class_="number"),
            *(element("td", figure, class_="number") for figure in step_figures(each)),
        )
        for place, each in enumerate(curve.points)
    ]
    name = f"By {for_page(curve.judge)}"
    table = wide_table(
        f"Steps by {for_page(curve.judge)}",
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        class_="steps",
    )
    opened = {"open": ""} if is_open else {}
    return element("details", element("summary", name), table, *reason_markup(curve.marks), **opened)
