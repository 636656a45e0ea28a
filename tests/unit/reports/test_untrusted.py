"""Text from strangers reaches nobody but an encoder: by reading the code, and at run time."""

from __future__ import annotations

import ast
import json
from functools import cache

import pytest
from rich.text import Text

from tests.support.records import make_failure
from tests.support.source import PACKAGE, trees
from vlsb import strict_json
from vlsb.records import Untrusted
from vlsb.reports.report import Sentence

# Who may see the raw text, and why.
EXPOSED_IN = {
    "evaluation/arms.py": "puts a caption into the request, and wraps it again",
    "evaluation/vision.py": "looks for the words of the right answers in a reply; shows nothing",
    "evaluation/pipeline.py": "image paths are the keys of what was sent for them",
    "store/state.py": "image paths are the keys of what was sent for them",
    "engines/prompt_check.py": "looks for known complaints in what an engine's Python wrote",
    "reports/encode.py": "the encoders of the terminal, CSV, Markdown and JSON",
    "store/import_rows.py": "compares image_path with the end of a path that a log states",
    "store/importing.py": "image paths are the keys of run.json's images; names a judge as imported",
    "store/codec.py": "encodes records as JSON lines, ASCII-escaped",
    "store/manifest.py": "encodes run.json, ASCII-escaped; compares image paths",
    "store/summaries.py": "adds the digits of its file to a judge's name, and wraps it again",
    "evaluation/session.py": "image paths are the keys of run.json's images",
    "endpoints/request.py": "encodes the request's text part as JSON",
    "endpoints/faults.py": "redacts and cuts what an endpoint said, and wraps it again",
    "endpoints/credentials.py": "takes keys out of text and wraps it again",
    "endpoints/client.py": "looks for a field's name in a rejection; shows nothing",
    "records.py": "compares a finish reason with known words; shows nothing",
    "judging/prompts.py": "puts question and response into the judge's request and wraps it again",
    "judging/verdicts.py": "parses verdicts and what guards say strictly; what it keeps is wrapped again",
    "reports/stored.py": "joins image_path to the data set's folder, for a path that is encoded",
    "data/image_files.py": "turns image_path into a path below the data folder, after its checks",
    "data/samples.py": "compares names with the user's filters; near names are wrapped again",
}


@cache
def uses() -> set[tuple[str, str, bool]]:
    """Where the raw text's names stand: the file, the name, and whether it is an attribute or in a string."""
    found = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr="expose" | "_text" as name):
                    found.add((path.relative_to(PACKAGE).as_posix(), name, True))
                case ast.Constant(value="expose" | "_text" as name):
                    found.add((path.relative_to(PACKAGE).as_posix(), name, False))
    return found


def attributes(name: str) -> set[str]:
    """The modules that touch an attribute of that name."""
    return {place for place, each, is_attribute in uses() if is_attribute and each == name}


def test_raw_text_is_seen_only_where_a_reason_is_given() -> None:
    """A module that is no longer on the list's reasons has to leave the list, too."""
    assert attributes("expose") == set(EXPOSED_IN)
    assert all(EXPOSED_IN.values())


def test_nobody_reaches_around_expose() -> None:
    """Not by the private field, and not by a name in a string."""
    assert {place for place, _, is_attribute in uses() if not is_attribute} <= {"records.py"}
    assert attributes("_text") <= {"records.py"}


@pytest.mark.parametrize(
    "leak",
    [
        str,
        "{}".format,
        "{:>10}".format,
        lambda text: f"{text}",
        lambda text: f"{text:20}",
        lambda text: f"{text!s}",
        lambda text: "%s" % text,  # noqa: UP031 the old operator is one of the ways
        lambda text: "a" + text,
        lambda text: text + "a",
        lambda text: "".join([text]),
        lambda text: print(text),
        lambda text: Text(text),
        lambda text: json.dumps({"text": text}),
        lambda text: strict_json.dumps({"text": text}),
    ],
)
def test_untrusted_text_cannot_be_turned_into_text_by_accident(leak) -> None:
    with pytest.raises((TypeError, AttributeError)):
        leak(Untrusted("\x1b[31mred"))


@pytest.mark.parametrize("leak", [str, "{}".format, lambda text: f"{text}", lambda text: "".join([text])])
def test_a_sentence_with_a_strangers_words_cannot_be_turned_into_text_by_accident(leak) -> None:
    with pytest.raises(TypeError):
        leak(Sentence("said: ", Untrusted("\x1b[31mred")))


def test_sentences_of_the_same_words_are_equal_however_they_were_put_together() -> None:
    """Reports say once what several rows have in common."""
    name = Untrusted("gpt-4o")

    joined = Sentence.join(", ", [name, Sentence("a", "", "b"), "c"])

    assert joined == Sentence(name, ", ab, c")
    assert len({joined, Sentence(name, ", ", "ab, c")}) == 1
    assert joined != Sentence("gpt-4o, ab, c")


@pytest.mark.parametrize("show", [repr, "{!r}".format, lambda text: "%r" % [text], lambda text: f"{[text]}"])
def test_a_representation_tells_the_length_and_nothing_else(show) -> None:
    shown = show(Untrusted("a secret plan"))

    assert "13 characters" in shown
    assert "secret" not in shown


def test_a_record_that_holds_a_strangers_text_prints_without_it() -> None:
    """As in a traceback or a debugger's log line."""
    failure = make_failure(message=Untrusted("a secret plan"))

    assert "secret" not in repr(failure)
    assert "secret" not in str(failure)
