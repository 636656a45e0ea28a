"""The reliability page names tests that exist, one at least for each promise."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "reliability.md").read_text("utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROWS = [
    line
    for line in PAGE.split("\n")
    if line.startswith("| ") and not line.startswith(("| ---", "| promise |"))
]


@cache
def defined_in(file: str) -> frozenset[str]:
    """The tests that a file defines, by name; none for a file that does not exist."""
    path = PROJECT / file
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    found = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in found if name.startswith("test_"))


def test_every_test_named_on_the_page_exists() -> None:
    named = NAMED.findall(PAGE)

    missing = [f"{file}::{test}" for file, test in named if test not in defined_in(file)]

    assert named
    assert missing == []


def test_every_promise_names_its_test_and_is_one_sentence() -> None:
    assert ROWS
    for line in ROWS:
        promise, proof = line.strip("| ").split(" | ")
        assert NAMED.fullmatch(proof), line
        assert re.fullmatch(r"[A-Z`][^|]*\.", promise), line
        assert not re.search(r"\. [A-Z]", promise), line


def test_every_mention_of_a_test_is_in_the_form_that_is_checked() -> None:
    assert len(NAMED.findall(PAGE)) == PAGE.count("::") == len(ROWS)


def test_no_promise_is_made_twice() -> None:
    promises = [line.strip("| ").split(" | ")[0] for line in ROWS]

    assert len(set(promises)) == len(promises)
