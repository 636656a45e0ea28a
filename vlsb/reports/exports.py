"""What an export is made of: a run with its judges, and how much of the texts and words of others stays.

An endpoint can write whatever it likes into a finish reason, the name of a model or the code of an error, and
a table of 2,241 rows is room for a text. In what is given away redacted, a general name stands for a word
that nobody knows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from vlsb.analysis.summary import Summary
from vlsb.records import THINKING_CUT, Failure, Untrusted
from vlsb.reports.answers import StoredAnswer
from vlsb.reports.encode import for_json

_OTHER = Untrusted("another word")
_ANOTHER_MODEL = Untrusted("another name")
_REASONS = frozenset(
    {"stop", "length", "max_tokens", "end_turn", "stop_sequence", "eos", "eos_token", "tool_calls"}
    | {"function_call", "content_filter", "content_filtered", "refusal", "safety", "recitation", "complete"}
)
_OUR_CODES = frozenset(
    {
        THINKING_CUT,
        "picture",
        "image_changed",
        "engine_killed",
        "engine_lost",
        "empty_content",
        "empty_choices",
    }
    | {"blocked_input", "blocked_output", "context", "timeout", "closed", "connect", "protocol", "html"}
    | {"not_json", "empty_body", "body_too_large", "length", "refused", "no_description", "request_failed"}
)
_HTTP_CODE = re.compile(r"http_[0-9]{3}")
# What providers put behind a model's name: the day of a snapshot, or a version.
_SNAPSHOT = re.compile(r"[-@:]?v?[0-9][0-9.\-]{0,15}")


def known_reason(reason: Untrusted) -> Untrusted:
    """Return a finish reason where it is one that providers use."""
    return reason if for_json(reason).lower() in _REASONS else _OTHER


def known_code(failure: Failure) -> str:
    """Return a failure's code where it is a word of ours, else the class of its fault."""
    code = failure.code
    return code if code in _OUR_CODES or _HTTP_CODE.fullmatch(code) else failure.fault


def with_known_words(summary: Summary) -> Summary:
    """Return a summary that names only models that were asked for, and their snapshots.

    All others count as one.
    """
    asked = None if summary.judge is None else for_json(summary.judge).rpartition(":")[2]
    conditions = summary.conditions
    if conditions is not None and conditions.judge is not None:
        models = frozenset(_known_names(conditions.judge.models, asked))
        conditions = replace(conditions, judge=replace(conditions.judge, models=models))
    return replace(
        summary,
        target_models=_counted(summary.target_models, for_json(summary.target)),
        judge_models=_counted(summary.judge_models, asked),
        conditions=conditions,
    )


def _counted(models: Mapping[Untrusted, int], asked: str | None) -> Mapping[Untrusted, int]:
    counts: Counter[Untrusted] = Counter()
    for name, known_name in zip(models, _known_names(models, asked), strict=True):
        counts[known_name] += models[name]
    return counts


def _known_names(models: Iterable[Untrusted], asked: str | None) -> list[Untrusted]:
    """Return the names with another word for those of neither the model that was asked for nor a snapshot."""
    names = []
    for name in models:
        text = for_json(name)
        is_of_model = bool(asked) and text.startswith(asked or "")
        tail = text[len(asked or "") :]
        names.append(name if is_of_model and (not tail or _SNAPSHOT.fullmatch(tail)) else _ANOTHER_MODEL)
    return names


KEPT_CHARACTERS = 120
"""Of each text whose tail is left out: enough to see a refusal, too little for a recipe."""
_CUT = " […]"


class Redaction(StrEnum):
    """What is left out of what models wrote: nothing, all but the beginnings, or everything."""

    NONE = "none"
    TAILS = "tails"
    RESPONSES = "responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRun:
    """A run as it is exported. `summaries` and `answers` are by judge, in the same order; one without a judge
    where nobody judged. `created_at` is when the run began.
    """

    summaries: Sequence[Summary]
    answers: Sequence[Sequence[StoredAnswer]]
    created_at: str
    version: str
    redaction: Redaction
    dataset: str

    def text(self, text: Untrusted | None) -> str | None:
        """Return what stays of a text that a model wrote; None where nothing does."""
        if text is None or self.redaction is Redaction.RESPONSES:
            return None
        whole = for_json(text)
        is_cut = self.redaction is Redaction.TAILS and len(whole) > KEPT_CHARACTERS
        return whole[:KEPT_CHARACTERS] + _CUT if is_cut else whole
