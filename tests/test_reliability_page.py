"""The reliability page names tests that exist, one for each promise."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.mutants.listing import read, table

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "explanation" / "reliability.md").read_text("utf-8")
LINES = [line for line in PAGE.split("\n") if line.startswith("- ")]
DEFINED = re.compile(r"^ *(?:async )?def (test_\w+)\(", re.MULTILINE)
PROMISE = re.compile(r"- ([A-Z`].*?\.) `(test_\w+)`")


def defined_tests() -> Counter[str]:
    """Every test by its name, with the number of files that define it."""
    texts = [path.read_text("utf-8") for path in (PROJECT / "tests").rglob("test_*.py")]
    return Counter(name for text in texts for name in DEFINED.findall(text))


def test_every_test_named_on_the_page_exists_once() -> None:
    """By its name alone: files move, and a name that stands twice would prove nothing."""
    named, defined = re.findall(r"`(test_\w+)`", PAGE), defined_tests()

    assert len(named) == len(LINES) > 100
    assert {test: defined[test] for test in named if defined[test] != 1} == {}


def test_every_promise_names_its_test_and_is_one_sentence() -> None:
    for line in LINES:
        promise = PROMISE.fullmatch(line)
        assert promise, line
        assert not re.search(r"\. [A-Z]", promise[1]), line


def test_no_promise_is_made_twice() -> None:
    promises = [line.partition(" `test_")[0] for line in LINES]

    assert len(set(promises)) == len(promises)


def test_the_score_of_a_modules_tests_is_the_one_that_was_measured_and_every_survivor_has_a_reason() -> None:
    modules = read()

    assert f"\n\n{table(modules)}\n" in PAGE
    assert [each for module in modules.values() for each in module.survivors if len(each.why) < 20] == []
    assert [
        path
        for module in modules.values()
        for path in [module.path, *module.tests]
        if not (PROJECT / path).exists()
    ] == []
