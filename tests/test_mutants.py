"""The score of the tests cannot fall unseen: what `just mutants` compares."""

from __future__ import annotations

from tests.mutants.listing import Module, Survivor

KNOWN, NEW = (
    Survivor("total", "return a + b", f"return a {sign} b", "It is a reason that is long enough.")
    for sign in "*/"
)
LISTED = Module("vlsb/sums.py", ["tests/unit"], 10, [KNOWN])


def test_what_is_found_again_as_it_is_listed_is_no_difference() -> None:
    assert LISTED.differences(LISTED._replace(survivors=[KNOWN._replace(why="")])) == []


def test_a_new_survivor_one_that_is_gone_and_another_number_of_mutants_are_differences() -> None:
    found = LISTED._replace(survivors=[NEW], mutants=11)

    assert LISTED.differences(found) == [
        "survives: total\n    - return a + b\n    + return a / b",
        "is gone but listed: total\n    - return a + b\n    + return a * b",
        "11 mutants where the list says 10",
    ]
    assert LISTED.differences(LISTED._replace(survivors=[KNOWN, KNOWN])) != []


def test_a_mutant_that_there_was_no_time_for_is_no_difference() -> None:
    found = LISTED._replace(survivors=[])

    assert LISTED.differences(found, {KNOWN.key}) == []
    assert LISTED.differences(found, {NEW.key}) != []
