"""Tables at a terminal: what is folded where a row is too wide, and what never is."""

from __future__ import annotations

from vlsb.records import Untrusted
from vlsb.reports.tables import Table, tables_text

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
