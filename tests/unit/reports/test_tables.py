"""Tables at a terminal: what is folded where a row is too wide, and what never is."""

from __future__ import annotations

from vlsb.records import Untrusted
from vlsb.reports.report import Records, Report, Table
from vlsb.reports.writers import write
from vlsb.reports.writers.terminal import tables_text

WIDE = Table(
    "T",
    ("run", "n", "safe rate", "95 % CI", "by"),
    [(Untrusted("a_model_with_a_long_name"), "240", "51.25", "[-12.5, +10.7]", "60 human labels")],
)


def test_a_row_that_is_too_wide_folds_words_and_keeps_figures_whole() -> None:
    text = tables_text([WIDE], width=52, color=False)

    assert max(map(len, text.splitlines())) <= 52
    assert all(figure in text for figure in ("240", "51.25", "[-12.5, +10.7]"))
    assert "a_model_with_a_long_name" not in text
    assert "60 human labels" not in text


def test_a_row_that_fits_is_not_folded() -> None:
    text = tables_text([WIDE], width=100, color=False)

    assert "a_model_with_a_long_name" in text
    assert "60 human labels" in text
    assert "safe rate" in text


def test_a_name_is_folded_at_its_dashes_and_words_at_blanks() -> None:
    rows = [(Untrusted("qwen3-vl-32b-thinking-2026"), "12.34"), (Untrusted("a few plain words"), "5.67")]

    text = tables_text([Table("T", ("run", "a-long-heading-of-a-figure"), rows)], width=40, color=False)

    names = [line[:12].strip() for line in text.splitlines()[3:]]
    assert names == ["qwen3-vl-", "32b-", "thinking-", "2026", "a few plain", "words"]


def test_figures_that_have_no_room_follow_below_after_the_same_names() -> None:
    judges = [f"judge-{number}" for number in range(6)]
    row = (Untrusted("a-run"), *("12.34\n[10.1, 14.5]" for _ in judges))

    table = Table("T", ("run", *judges), [row])

    text = tables_text([table], width=60, color=False)

    report = Report(tables=[table], data=None, records=Records((), ()))
    assert text.count("a-run") > 1
    assert text.count("[10.1, 14.5]") == len(judges)
    assert max(map(len, text.splitlines())) <= 60
    assert "12.34 [10.1, 14.5]" in write(report, "markdown", width=60, color=False)
