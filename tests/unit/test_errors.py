"""Errors, and what several of them say in the same words."""

from __future__ import annotations

from vlsb.errors import first_of


def test_a_list_that_fits_is_said_whole() -> None:
    assert first_of(["a", "b"], 2) == "a, b"
    assert first_of([], 2) == ""


def test_of_a_longer_list_the_first_are_said_and_how_many_more_there_are() -> None:
    assert first_of(range(5), 2) == "0, 1 and 3 more"
    assert first_of(["a: x", "b: y"], 1, separator="; ") == "a: x; and 1 more"
    assert first_of(range(1235), 1) == "0 and 1,234 more"
