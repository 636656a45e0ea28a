"""How one endpoint wants to be asked and shows its thoughts: decided once, at the preflight, and recorded.

Never sample by sample: reasoning models want `max_completion_tokens` and no temperature, some endpoints
refuse or ignore `response_format`, models that think need more room than the protocol has, and each changes
the experiment.

A tag tells a thought from an answer only where nobody but the model, or its chat template, can have written
it: at the very beginning. Whatever a text quotes further on is text, tags included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vlsb.config import SAMPLING_FIELDS, Sampling

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


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the official fields are written for one endpoint. The default writes them as they are.

    `thinks` says that the model reasons before it answers, `thinks_apart` that its reasoning never comes as
    its text. `opened_by` is the tag that its chat template begins the reasoning with where that does come as
    its text, empty for none. `max_tokens` are what it gets then in the place of the protocol's, None where it
    gets these.
    """

    tokens_field: str = "max_tokens"
    unsent: tuple[str, ...] = ()
    structured: bool = True
    thinks: bool = False
    thinks_apart: bool = False
    max_tokens: int | None = None
    opened_by: str = ""

    def sampling_fields(self, sampling: Sampling) -> dict[str, Any]:
        """Return the sampling fields of a body; the user's own `extra` fields win."""
        fields: dict[str, Any] = {self.tokens_field: self.max_tokens or sampling.max_tokens}
        # top_p before temperature, as the authors' script has them.
        for name in reversed(SAMPLING_FIELDS):
            if name != "max_tokens" and (value := getattr(sampling, name)) is not None:
                fields[name] = value
        kept = {name: value for name, value in fields.items() if name not in self.unsent}
        return kept | dict(sampling.extra)

    def describe(self) -> dict[str, Any]:
        """JSON for the manifest; what is said of thinking only where the model thinks."""
        thinking = {
            "thinks": True,
            "thinks_apart": self.thinks_apart,
            "max_tokens": self.max_tokens,
            "opened_by": self.opened_by,
        }
        return {
            "tokens_field": self.tokens_field,
            "unsent": list(self.unsent),
            "structured": self.structured,
            **(thinking if self.thinks else {}),
        }


def parse_dialect(described: Mapping[str, Any]) -> Dialect:
    """Read the dialect that an earlier session decided on. Raises KeyError, TypeError or ValueError."""
    field, unsent, structured = described["tokens_field"], described["unsent"], described["structured"]
    thinks, apart, tokens = (described.get(name) for name in ("thinks", "thinks_apart", "max_tokens"))
    opened_by = described.get("opened_by", "")
    is_dialect = isinstance(field, str) and isinstance(unsent, list) and isinstance(structured, bool)
    thinking_fits = isinstance(thinks, bool | None) and isinstance(apart, bool | None)
    if not is_dialect or not thinking_fits or not all(isinstance(each, str) for each in unsent):
        raise ValueError("not a dialect")
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise ValueError("not a number of tokens")
    if opened_by not in ("", *THOUGHT_TAGS):
        raise ValueError("not a tag that begins a thought")
    return Dialect(field, tuple(unsent), structured, bool(thinks), bool(apart), tokens, opened_by)


def parse_decision(described: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Read a dialect as `parse_dialect` does, and return JSON that has all of its fields; None stays None."""
    return None if described is None else parse_dialect(described).describe()


def split_thought(text: str, opened_by: str = "") -> tuple[str | None, str]:
    """Return the thought in front of an answer and the answer, both as they are; None where there is none.

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
    """Tell whether a text begins with the tag of a thought."""
    return bool(_leading_tag(text))


def holds_thought_end(text: str) -> bool:
    """Tell whether a tag that ends thoughts stands anywhere in a text."""
    return any(end in text for end in THOUGHT_TAGS.values())


def _leading_tag(text: str) -> str:
    stripped = text.lstrip()
    return next((tag for tag in THOUGHT_TAGS if stripped.startswith(tag)), "")
