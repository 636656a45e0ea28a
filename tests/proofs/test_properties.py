"""The properties of the other tests, tried with many more examples than those take the time for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings

from tests.support import PROJECT
from tests.unit.endpoints.test_transport_differential import assert_read_alike, odd_replies

TESTS = PROJECT / "tests"
PLACES = sorted(
    {
        "/".join(path.relative_to(PROJECT).parts[:3])
        for room in ("unit", "commands")
        for path in (TESTS / room).rglob("test_*.py")
        if "\n@given(" in path.read_text("utf-8")
    }
)


@pytest.mark.parametrize("place", PLACES)
def test_what_holds_for_some_examples_holds_for_hundreds(place: str) -> None:
    words = ["-n", "0", "-q", "-m", "hypothesis", "--hypothesis-profile", "thorough", place]

    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stdout
    assert " passed" in ended.stdout


@settings(max_examples=3000)
@given(data=odd_replies())
def test_thousands_of_odd_replies_are_read_alike_or_refused(data: bytes) -> None:
    assert_read_alike(data)
