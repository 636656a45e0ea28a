"""What an endpoint's model accepts: decided once, before a run, and never sample by sample.

Reasoning models want `max_completion_tokens` and no temperature; some endpoints refuse or ignore
`response_format`. Either changes the experiment, so the decision is made at the preflight and recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlsb.config import Sampling

if TYPE_CHECKING:
    from vlsb.endpoints.faults import Decision

_REASONING_NAMES = re.compile(r"(?:.*/)?(?:o[1-9](?:-.*)?|gpt-[5-9](?:[.\-].*)?)$")
_STRUCTURED_WORDS = re.compile(r"response_format|json_schema|structured output|guided", re.IGNORECASE)
_OPTIONAL = ("temperature", "top_p")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the official fields are written for one endpoint. The default writes them as they are."""

    tokens_field: str = "max_tokens"
    unsent: tuple[str, ...] = ()
    structured: bool = True

    def sampling_fields(self, sampling: Sampling) -> dict[str, Any]:
        """The sampling fields of a body; the user's own `extra` fields win."""
        fields: dict[str, Any] = {self.tokens_field: sampling.max_tokens}
        if sampling.top_p is not None:
            fields["top_p"] = sampling.top_p
        if sampling.temperature is not None:
            fields["temperature"] = sampling.temperature
        kept = {name: value for name, value in fields.items() if name not in self.unsent}
        return kept | dict(sampling.extra)

    def describe(self) -> dict[str, Any]:
        """JSON for the manifest."""
        return {"tokens_field": self.tokens_field, "unsent": list(self.unsent), "structured": self.structured}


def first_guess(model: str) -> Dialect:
    """The dialect that a model's name suggests; the preflight corrects it."""
    if _REASONING_NAMES.match(model):
        return Dialect(tokens_field="max_completion_tokens", unsent=_OPTIONAL)
    return Dialect()


def parse_dialect(described: Mapping[str, Any]) -> Dialect:
    """The dialect that an earlier session decided on. Raises KeyError, TypeError or ValueError otherwise."""
    field, unsent, structured = described["tokens_field"], described["unsent"], described["structured"]
    is_dialect = isinstance(field, str) and isinstance(unsent, list) and isinstance(structured, bool)
    if not is_dialect or not all(isinstance(each, str) for each in unsent):
        raise ValueError("not a dialect")
    return Dialect(field, tuple(unsent), structured)


def adapt(dialect: Dialect, decision: Decision, *, sends_schema: bool) -> Dialect | None:
    """The dialect to try after a rejected preflight request; None if something else was wrong."""
    # Reports read dialects too, and need no HTTP stack.
    from vlsb.endpoints.faults import Fault

    if decision.fault is not Fault.ITEM_PERMANENT or decision.status not in (400, 422):
        return None
    message = decision.message.expose()
    if decision.param == "max_tokens" and dialect.tokens_field == "max_tokens":
        return replace(dialect, tokens_field="max_completion_tokens")
    if decision.param in _OPTIONAL and decision.param not in dialect.unsent:
        return replace(dialect, unsent=(*dialect.unsent, decision.param))
    names_schema = decision.param.startswith("response_format") or _STRUCTURED_WORDS.search(message)
    if sends_schema and dialect.structured and names_schema:
        return replace(dialect, structured=False)
    return None
