"""Where a thought ends and an answer begins, in a text that holds both.

A tag tells a thought from an answer only where nobody but the model, or its chat template, can have written
it: at the very beginning. Whatever a text quotes further on is text, tags included.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

USUAL_TAG = "<think>"
THOUGHT_TAGS: Mapping[str, str] = MappingProxyType(
    {
        USUAL_TAG: "</think>",
        # Of Kimi-VL and of Magistral.
        "\u25c1think\u25b7": "\u25c1/think\u25b7",
        "[THINK]": "[/THINK]",
    }
)
"""The tags that begin a thought, with those that end it."""


def split_thought(text: str, opened_by: str = "") -> tuple[str | None, str]:
    """The thought in front of an answer and the answer, both as they are; None where there is none.

    A server without a parser for a model's reasoning gives `<think>thought</think>answer`. `opened_by` is the
    tag that its chat template begins the thought with, which is then part of the prompt and not of the text.
    A thought ends at the first tag that ends it; one that does not end has no answer behind it.
    """
    if tag := _leading_tag(text):
        thought, _, answer = text.lstrip().removeprefix(tag).partition(THOUGHT_TAGS[tag])
        return thought, answer
    if opened_by in THOUGHT_TAGS:
        thought, end, answer = text.partition(THOUGHT_TAGS[opened_by])
        if end and opened_by not in thought:
            return thought, answer
    return None, text


def begins_thought(text: str) -> bool:
    """Whether a text begins with the tag of a thought."""
    return bool(_leading_tag(text))


def holds_thought_end(text: str) -> bool:
    """Whether a tag that ends thoughts stands anywhere in a text."""
    return any(end in text for end in THOUGHT_TAGS.values())


def _leading_tag(text: str) -> str:
    stripped = text.lstrip()
    return next((tag for tag in THOUGHT_TAGS if stripped.startswith(tag)), "")
