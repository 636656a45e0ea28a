"""The order in which names are listed."""

from __future__ import annotations

from vlsb.store.listing import natural_key


def test_names_are_in_the_order_of_their_numbers_whatever_their_letters_and_digits_are() -> None:
    """A superscript is a digit to Python, and no number."""
    names = ["Step-1000", "step-200", "²", "step-30", "٣٠", "step"]

    assert sorted(names, key=natural_key) == ["٣٠", "step", "step-30", "step-200", "Step-1000", "²"]
