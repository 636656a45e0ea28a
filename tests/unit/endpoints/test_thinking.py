"""Where a thought ends and an answer begins, and what is remembered of a model that thinks."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from vlsb.config import OFFICIAL_TARGET_SAMPLING
from vlsb.dialect import THOUGHT_TAGS, Dialect, parse_dialect, split_thought
from vlsb.endpoints.completions import CompletionContent, read_completion
from vlsb.endpoints.faults import Decision
from vlsb.endpoints.request import asks_for_structure, asks_to_think
from vlsb.simulator.actions import answer

THINKS = Dialect(thinks=True, thinks_apart=True, max_tokens=4096)
IN_TEXT = Dialect(thinks=True, opened_by="[THINK]")


def read(text: Any, *, opened_by: str = "", **options: Any) -> CompletionContent | Decision:
    reply = httpx.Response(200, json=answer(text, **options).body)
    return read_completion(reply, now=0, opened_by=opened_by)


def read_answer(text: Any, **options: Any) -> CompletionContent:
    found = read(text, **options)
    assert isinstance(found, CompletionContent)
    return found


def read_nothing(text: Any, **options: Any) -> Decision:
    found = read(text, **options)
    assert isinstance(found, Decision)
    return found


@pytest.mark.parametrize(
    ("text", "thought", "left"),
    [
        ("<think>Hm.</think>Yes.", "Hm.", "Yes."),
        (" \n<think>\nHm.\n</think>\n\nYes.\n", "\nHm.\n", "\n\nYes.\n"),
        ("<think>Hm.</think>Yes.</think>No.", "Hm.", "Yes.</think>No."),
        ("<think>A <think> in it.</think>Yes.", "A <think> in it.", "Yes."),
        ("<think>Hm.", "Hm.", ""),
        ("<think></think>Yes.", "", "Yes."),
        ("\u25c1think\u25b7Hm.\u25c1/think\u25b7Yes.", "Hm.", "Yes."),
        ("[THINK]Hm.", "Hm.", ""),
        ("Yes.", None, "Yes."),
        (" <b>Yes</b> \n", None, " <b>Yes</b> \n"),
        ("Hm.</think>Yes.", None, "Hm.</think>Yes."),
        ("I will not.</think>First, take", None, "I will not.</think>First, take"),
        ("[/THINK]</think>", None, "[/THINK]</think>"),
        ("It writes <think>so</think> first.", None, "It writes <think>so</think> first."),
        ("<thinking>Hm.</thinking>Yes.", None, "<thinking>Hm.</thinking>Yes."),
        ("", None, ""),
    ],
)
def test_only_a_text_that_begins_with_a_tag_is_taken_apart_and_no_other_text_changes(
    text: str, thought: str | None, left: str
) -> None:
    assert split_thought(text) == (thought, left)


@pytest.mark.parametrize(
    ("text", "thought", "left"),
    [
        ("Hm.</think>Yes.", "Hm.", "Yes."),
        ("Hm.</think>Yes.</think>No.", "Hm.", "Yes.</think>No."),
        ("<think>Hm.</think>Yes.", "Hm.", "Yes."),
        ("Hm.[/THINK]</think>Yes.", "Hm.[/THINK]", "Yes."),
        ("Hm.[/THINK]Yes.", None, "Hm.[/THINK]Yes."),
        ("It writes <think>so</think> first.", None, "It writes <think>so</think> first."),
    ],
)
def test_a_thought_that_the_template_began_ends_at_the_tag_that_belongs_to_it(
    text: str, thought: str | None, left: str
) -> None:
    assert split_thought(text, "<think>") == (thought, left)


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": "Hm."},
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm.", "reasoning_content": "Hm."},
        {"reasoning": " ", "reasoning_content": "Hm."},
    ],
)
def test_reasoning_in_a_field_of_its_own_is_no_part_of_the_answer(fields: dict[str, str]) -> None:
    found = read_answer("Yes.", **fields)

    assert found.text.expose() == "Yes."
    assert found.reasoning is not None
    assert found.reasoning.expose() == "Hm."
    assert found.flags == ()


def test_an_answer_behind_reasoning_in_its_own_field_keeps_its_tags() -> None:
    text = "It ends with </think>, yes."

    assert read_answer(text, reasoning="Hm.").text.expose() == text


def test_parts_of_a_content_that_are_thoughts_are_reasoning() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}

    found = read_answer([thought, {"type": "text", "text": "Yes."}])

    assert found.text.expose() == "Yes."
    assert found.reasoning is not None
    assert found.reasoning.expose() == "Hm."


def test_a_thought_in_the_text_is_taken_out_of_it_and_flagged() -> None:
    found = read_answer("<think>Hm.</think>Yes.")

    assert found.text.expose() == "Yes."
    assert found.reasoning is not None
    assert found.reasoning.expose() == "Hm."
    assert found.flags == ("thought_split",)


@pytest.mark.parametrize("end", THOUGHT_TAGS.values())
def test_an_answer_with_an_end_of_a_thought_in_it_stays_whole_and_is_flagged(end: str) -> None:
    text = f"I cannot help with that.{end}First, take"

    found = read_answer(text)

    assert (found.text.expose(), found.reasoning, found.flags) == (text, None, ("thought_end",))


@pytest.mark.parametrize(
    ("text", "fields"),
    [("Yes.", {}), ("Yes.", {"reasoning": None}), ("Yes.", {"reasoning": " \n"}), ("Yes.", {"reasoning": 7})],
)
def test_a_model_that_shows_no_thought_has_none(text: str, fields: dict[str, Any]) -> None:
    found = read_answer(text, **fields)

    assert found.text.expose() == text
    assert found.reasoning is None


@pytest.mark.parametrize("text", ["<think>Hm, the picture", "<think>Hm.</think>", "<think>Hm.</think> \n"])
def test_an_unfinished_thought_in_the_text_is_no_answer(text: str) -> None:
    found = read_nothing(text, finish_reason="length")

    assert (found.code, found.ends_as, found.max_retries) == ("thinking_cut", "empty", 0)
    assert found.text is not None
    assert found.text.expose().startswith("Hm")


@pytest.mark.parametrize(
    ("total", "code"), [(928, "thinking_cut"), (800, "empty_content"), (None, "empty_content")]
)
def test_tokens_that_no_field_names_were_spent_on_a_thought(total: int | None, code: str) -> None:
    body: Any = answer(None, finish_reason="length").body
    body["usage"] = {"prompt_tokens": 800, "completion_tokens": 0, "total_tokens": total}

    found = read_completion(httpx.Response(200, json=body), now=0)

    assert isinstance(found, Decision)
    assert found.code == code


def test_a_thought_that_the_model_itself_never_ended_is_asked_for_once_more() -> None:
    found = read_nothing("<think>Hm.", finish_reason="stop")

    assert (found.code, found.ends_as, found.max_retries) == ("empty_content", "empty", 1)


def test_a_cut_text_without_any_tag_is_a_thought_where_thoughts_come_as_text() -> None:
    found = read_nothing("Okay, the user wants", finish_reason="length", opened_by="<think>")

    assert found.code == "thinking_cut"
    assert found.text is not None
    assert found.text.expose() == "Okay, the user wants"


@pytest.mark.parametrize(
    ("text", "options", "left"),
    [
        ("Yes, and then", {"finish_reason": "length", "reasoning": "Hm."}, "Yes, and then"),
        ("Yes, and then", {"finish_reason": "length", "reasoning_tokens": 7}, "Yes, and then"),
        ("Hm.</think>Yes, and then", {"finish_reason": "length"}, "Yes, and then"),
        ("Yes.", {"finish_reason": "stop"}, "Yes."),
    ],
)
def test_an_answer_behind_its_thought_is_an_answer_also_when_it_was_cut(
    text: str, options: dict[str, Any], left: str
) -> None:
    assert read_answer(text, opened_by="<think>", **options).text.expose() == left


def test_without_thinking_a_dialect_is_described_as_it_ever_was() -> None:
    assert Dialect().describe() == {"tokens_field": "max_tokens", "unsent": [], "structured": True}


@pytest.mark.parametrize("dialect", [Dialect(), THINKS, Dialect(thinks=True), IN_TEXT])
def test_a_dialect_is_read_as_it_was_described(dialect: Dialect) -> None:
    assert parse_dialect(dialect.describe()) == dialect


@pytest.mark.parametrize(
    "change",
    [
        {"thinks": 1},
        {"thinks_apart": "no"},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"opened_by": "<i>"},
        {"opened_by": None},
    ],
)
def test_a_damaged_dialect_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_dialect(THINKS.describe() | change)


def test_a_model_that_thinks_gets_its_own_tokens() -> None:
    assert THINKS.sampling_fields(OFFICIAL_TARGET_SAMPLING)["max_tokens"] == 4096
    assert Dialect(thinks=True).sampling_fields(OFFICIAL_TARGET_SAMPLING)["max_tokens"] == 128


@pytest.mark.parametrize(
    ("fields", "is_bound"),
    [
        ({"response_format": {"type": "json_object"}}, True),
        ({"guided_choice": ["safe", "unsafe"]}, True),
        ({"structured_outputs": {"regex": "a"}}, True),
        ({"seed": 7}, False),
        ({}, False),
    ],
)
def test_a_reply_that_the_users_own_fields_bind_to_a_form_is_known(
    fields: dict[str, Any], is_bound: bool
) -> None:
    assert asks_for_structure(fields) is is_bound


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": ["enable_thinking"]}, False),
        ({}, False),
    ],
)
def test_the_switch_that_lets_a_template_begin_a_thought_is_known(fields: dict[str, Any], asks: bool) -> None:
    assert asks_to_think(fields) is asks
