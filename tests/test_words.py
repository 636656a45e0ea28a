"""What users read says what their field says: one list of words, held over messages, help and documents.

Names in code are no prose: only texts with a blank in them are read, and documents outside their code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache

import pytest

from tests.support.source import PACKAGE, trees
from tests.test_docs import COMMANDS, PAGES, PROJECT, ROOT

FORBIDDEN = re.compile(
    r"\bpictures?\b|\bdigests?\b|\bslices?\b|\bledgers?\b|\blanes?\b"
    r"|\b(?:an?|the|one|each|every|either|other|both|two|per) sides?\b"
    # `vlsb gate` is a command.
    r"|(?<!vlsb )\bgates?\b|\bepisodes?\b|\bpac(?:e|es|ed|ing)\b|\bcap(?:s|ped)?\b|\bbreakers?\b"
    # "the Hugging Face Hub", and "the Hub" after it, are names.
    r"|(?-i:\bhub\b)"
    r"|\bbe asked\b|\brefuse[sd]? to serve\b"
    r"|\bconductors?\b|\bleash(?:es)?\b|\bkeepers?\b|\btickets?\b|\bpip runs?\b|\bexpected ids\b",
    re.IGNORECASE,
)
RIDDLES = re.compile(
    r"\botherwise than\b|\b(?:that|which|or|target \w+) (?:is|are) none\b|\bnone such\b|\bno such thing\b"
    r"|, which is said\b",
    re.IGNORECASE,
)
"""Sentences that a reader has to take apart; each has a plain way to say it."""
ALLOWED = {
    # What the simulated model says is an answer, not our words.
    "vlsb/simulator/demo.py",
    # Stored in run directories, where a resume compares and old reports repeat it.
    "hold every picture)",
    # A key of `run.json`.
    '"pictures": {',
}
_CODE = re.compile(r"^```\w*\n.*?^```$|`[^`\n]+`|\]\([^)]*\)|^    .*$|<!-- .*? -->", re.DOTALL | re.MULTILINE)


@cache
def messages() -> list[tuple[str, str]]:
    """Every text of the source that can be a sentence, with its place. Docstrings are not shown."""
    return list(_messages())


def _messages() -> Iterator[tuple[str, str]]:
    for path, tree in trees():
        apart = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                apart |= {id(part) for part in node.values}
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
                text = node.value
            else:
                continue
            if " " in text:
                yield f"{path.relative_to(PROJECT)}:{node.lineno}", text


def pages() -> Iterator[tuple[str, str]]:
    """The prose of README and documents; of the changelog what is not released yet."""
    for page in PAGES:
        text = page.read_text("utf-8")
        if page.name == "CHANGELOG.md":
            text = text.partition("## Unreleased")[2].partition("\n## ")[0]
        yield page.name, _CODE.sub("", text)


def helps() -> Iterator[tuple[str, str]]:
    """What the help pages are made of."""
    for words, command in {(): ROOT, **COMMANDS}.items():
        yield " ".join(words), command.help or ""
        for option in command.params:
            yield f"{' '.join(words)} {option.opts[0]}", option.help or ""


def found(text: str) -> list[str]:
    return FORBIDDEN.findall(text)


def is_allowed(place: str, text: str) -> bool:
    return any(place.startswith(each) or each in text for each in ALLOWED)


@pytest.mark.parametrize("read", [messages, pages, helps])
def test_nothing_that_users_read_has_a_word_that_their_field_has_another_for(
    read: Callable[[], Iterable[tuple[str, str]]],
) -> None:
    texts = list(read())

    assert [
        (place, found(text), text[:90])
        for place, text in texts
        if found(text) and not is_allowed(place, text)
    ] == []
    assert len(texts) > 15


def test_no_allowance_is_left_over() -> None:
    needed = [(place, text) for place, text in messages() if found(text)]

    assert [
        each for each in ALLOWED if not any(each in place or each in text for place, text in needed)
    ] == []


@pytest.mark.parametrize("text", ["the picture is gone", "on the hub", "The lane waits", "cannot be asked"])
def test_a_word_of_ours_would_be_found(text: str) -> None:
    assert found(text)


@pytest.mark.parametrize("read", [messages, pages, helps])
def test_nothing_that_users_read_is_a_riddle(read: Callable[[], Iterable[tuple[str, str]]]) -> None:
    assert [(place, RIDDLES.findall(text), text[:90]) for place, text in read() if RIDDLES.search(text)] == []


@pytest.mark.parametrize("text", ["It has otherwise than A: x", "a verdict that is none", "all if none such"])
def test_a_riddle_would_be_found(text: str) -> None:
    assert RIDDLES.search(text)


def test_docstrings_of_acts_begin_with_a_verb() -> None:
    """Properties name a thing; a function does something, and its docstring says what with a verb."""
    nominal = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_property = any("property" in ast.unparse(each) for each in node.decorator_list)
            if not is_property and re.match(r"(?:What|Whether|The)\b", ast.get_docstring(node) or ""):
                nominal.append(f"{path.relative_to(PACKAGE)}: {node.name}")

    assert nominal == []


def test_no_noun_names_two_classes() -> None:
    """A leading underscore makes no other noun of it."""
    places: dict[str, list[str]] = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                place = f"{path.relative_to(PACKAGE)}: {node.name}"
                places.setdefault(node.name.lstrip("_"), []).append(place)

    assert [each for each in places.values() if len(each) > 1] == []
