"""Figures: what is on them as text, their size, their fonts, and names that would break them."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable

import pytest

pytest.importorskip("matplotlib")

from PIL import Image

from tests.unit.reports.test_terminal import COMPLETE, GAPS, HOSTILE, LONG_NAME, MARKED, with_names
from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports import plots

OTHER = dataclasses.replace(COMPLETE, run=Untrusted("other"))
TURNS = plots.Transitions(
    Untrusted("base"), Untrusted("tuned"), [[8, 1, 0], [3, 30, 4], [20, 40, 894]], False
)
JUDGES = [
    plots.JudgePair("gpt-4o", "human-ann", 91.0, 0.71, 200),
    plots.JudgePair("gpt-4o", "same", 100.0, None, 20),
]
KINDS: dict[str, Callable[[str], bytes]] = {
    "labels": lambda form: plots.labels_figure([COMPLETE, OTHER], form, width=3.3),
    "categories": lambda form: plots.categories_figure([COMPLETE, OTHER], form, width=3.3),
    "radar": lambda form: plots.radar_figure([COMPLETE, OTHER], form, width=3.3),
    "transitions": lambda form: plots.transitions_figure(TURNS, form, width=3.3),
    "agreement": lambda form: plots.agreement_figure(JUDGES, form, width=3.3, simulated=True),
}


def words(svg: bytes) -> str:
    """The text of an SVG, as a reader of the file finds it."""
    return "\n".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_runs_give_the_same_bytes_in_every_format(kind: str) -> None:
    for form in plots.FORMATS:
        assert KINDS[kind](form) == KINDS[kind](form)


@pytest.mark.parametrize("kind", KINDS)
def test_fonts_are_embedded_as_truetype(kind: str) -> None:
    """Type 3 fonts are refused by some publishers."""
    pdf = KINDS[kind]("pdf")

    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


@pytest.mark.parametrize(("width", "pixels"), [("single", 990), ("double", 2070)])
def test_a_figure_is_as_wide_as_its_column(width: str, pixels: int) -> None:
    png = plots.labels_figure([COMPLETE], "png", width=plots.WIDTHS[width])

    assert Image.open(io.BytesIO(png)).width == pixels


def test_a_bar_names_its_run_and_its_n() -> None:
    text = words(plots.labels_figure([COMPLETE, GAPS], "svg", width=6.9))

    assert "gpt-4o" in text
    assert "n = 2,241" in text
    assert "n = 2,017/2,241" in text
    assert "95 % CI of safe" in text


@pytest.mark.parametrize("draw", [plots.labels_figure, plots.categories_figure, plots.radar_figure])
def test_rows_that_are_not_alike_and_simulated_ones_are_marked(
    draw: Callable[..., bytes],
) -> None:
    simulated = [dataclasses.replace(each, simulated=True) for each in MARKED]

    text = words(draw(simulated, "svg", width=6.9))

    assert "odd_one\u00a0†" in text
    assert "† not measured as again was · SIMULATED" in text
    assert "SIMULATED" not in words(draw(MARKED, "svg", width=6.9))


def ink(png: bytes, *, at: float) -> list[int]:
    """The rows of a figure that are not white in the column at this share of its width."""
    image = Image.open(io.BytesIO(png)).convert("L")
    x = int(at * image.width)
    return [y for y in range(image.height) if image.getpixel((x, y)) < 250]


@pytest.mark.parametrize("width", plots.WIDTHS.values())
def test_a_footnote_takes_no_room_from_the_bars(width: float) -> None:
    """It is below the figure, in as many lines as it needs: the bar of one run was gone beside it."""
    reference = dataclasses.replace(MARKED[0], run=Untrusted(f"a {LONG_NAME} {LONG_NAME}"))
    noted = [reference, *(dataclasses.replace(each, simulated=True) for each in MARKED[1:])]
    alone = dataclasses.replace(COMPLETE, simulated=True)
    heights = {
        "plain": len(ink(plots.labels_figure([COMPLETE], "png", width=width), at=0.9)),
        "noted": len(ink(plots.labels_figure([alone], "png", width=width), at=0.9)),
    }
    figure = plots.labels_figure(noted, "png", width=width)
    said = words(plots.labels_figure(noted, "svg", width=width))

    assert heights["noted"] == pytest.approx(heights["plain"], rel=0.15)
    assert heights["noted"] > 15
    assert len(ink(figure, at=0.9)) > 3 * heights["noted"] * 0.8
    assert ink(figure, at=0.001) == []
    assert ink(figure, at=0.999) == []
    assert "SIMULATED" in said


def test_every_category_has_its_row_and_a_run_alone_is_the_title() -> None:
    text = words(plots.categories_figure([COMPLETE], "svg", width=3.3))

    assert {"gpt-4o", *map(plots.for_terminal, COMPLETE.by_category)} <= set(text.split("\n"))


def test_a_change_of_label_has_its_count_its_share_and_its_sign() -> None:
    text = words(KINDS["transitions"]("svg"))

    assert {"▼ 4", "▲ 40", "30", "4.0 %", "tuned (n = 1,000 responses)"} <= set(text.split("\n"))


def test_judges_show_agreement_kappa_and_n_and_a_kappa_that_is_none_is_left_out() -> None:
    lines = words(KINDS["agreement"]("svg")).split("\n")

    assert lines.count("91.0 %") == 2
    assert {"κ = 0.71", "n = 200", "n = 20", "SIMULATED"} <= set(lines)
    assert sum(line.startswith("κ") for line in lines) == 2


@pytest.mark.parametrize("text", [*HOSTILE, "_hidden", "$x^2$ \\frac{", "模型", LONG_NAME])
def test_any_name_can_be_drawn_and_none_is_a_formula_or_markup(text: str) -> None:
    summaries: list[Summary] = [with_names(text), dataclasses.replace(COMPLETE, run=Untrusted(text + "b"))]

    for draw in (plots.labels_figure, plots.categories_figure, plots.radar_figure):
        svg = draw(summaries, "svg", width=3.3).decode()
        assert "<img" not in svg
        assert svg.replace("\n", "").isprintable()


def test_a_name_that_begins_with_an_underscore_is_in_the_legend() -> None:
    hidden = dataclasses.replace(COMPLETE, run=Untrusted("_run"))

    assert "_run" in words(plots.categories_figure([hidden, OTHER], "svg", width=3.3))
