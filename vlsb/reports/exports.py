"""A run as it is given away: what stays of the texts and words of others, and the data set for the Hub.

An endpoint can write whatever it likes into a finish reason, the name of a model or the code of an error, and
a table of 2,241 rows is room for a text. In what is given away redacted, a general name stands for a word
that nobody knows. A row of the Hub's table is a response as it stands with one judge. Neither images nor
instructions are in it: they are the data set's, and `instruction_id` finds them there.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from vlsb.analysis.summary import Summary
from vlsb.records import THINKING_CUT, Failure, Outcome, Untrusted
from vlsb.reports.answers import StoredAnswer
from vlsb.reports.documents import to_markdown
from vlsb.reports.encode import for_json, for_markdown, for_terminal, for_utf8

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


TABLE = "data/responses.parquet"

_ABOUT = {
    "instruction_id": "the sample of [VLSBench](https://huggingface.co/datasets/Foreshhh/vlsbench)",
    "epoch": "which of the sample's responses, from 1",
    "image_path": "the sample's image there",
    "image_sha256": "the image that the target was sent; null where that is not known",
    "category": "the sample's category",
    "sub_category": "the sample's sub-category",
    "judge": "who judged; null where nobody did",
    "outcome": "the label, or why there is none",
    "explanation": "the judge's words",
    "response": "the target's words",
    "reasoning": "what the target thought before, where it was shown",
    "finish_reason": "as the endpoint said it; a word that no provider uses only where no text is left out",
    "response_sha256": "of the whole response",
    "response_characters": "of the whole response",
}
_LEFT = {
    Redaction.NONE: "No text of a response is left out.",
    Redaction.TAILS: f"Responses, reasoning and explanations are cut at {KEPT_CHARACTERS} characters.",
    Redaction.RESPONSES: "Responses, reasoning and explanations are left out.",
}


def hub_columns(run: ExportedRun) -> Mapping[str, list[str | int | None]]:
    """Return the columns of the table, by name; text is UTF-8 that any reader takes."""
    columns: dict[str, list[str | int | None]] = {name: [] for name in _ABOUT}
    for summary, answers in zip(run.summaries, run.answers, strict=True):
        judge = None if summary.judge is None else for_utf8(summary.judge)
        for answer in answers:
            if answer.outcome is Outcome.NOT_ATTEMPTED:
                continue
            response, verdict = answer.response, answer.verdict
            reason = None if response is None else response.finish_reason
            if reason is not None and run.redaction is not Redaction.NONE:
                reason = known_reason(reason)
            row = (
                answer.key.sample_id,
                answer.key.epoch,
                for_utf8(answer.image_path),
                answer.image_sha256,
                for_utf8(answer.category),
                for_utf8(answer.sub_category),
                judge,
                answer.outcome.value,
                None if verdict is None else _text(run, verdict.explanation),
                None if response is None else _text(run, response.text),
                None if response is None else _text(run, response.reasoning),
                None if reason is None else for_utf8(reason),
                None if response is None else response.response_sha256,
                None if response is None else len(response.text),
            )
            for column, cell in zip(columns.values(), row, strict=True):
                column.append(cell)
    return columns


def _text(run: ExportedRun, text: Untrusted | None) -> str | None:
    kept = run.text(text)
    return None if kept is None else for_utf8(Untrusted(kept))


def hub_card(run: ExportedRun) -> str:
    """Write the README of the data set: YAML for the Hub, the numbers, and what is and is not in it."""
    target, summaries, warnings = run.summaries[0].target, run.summaries, []
    if run.redaction is not Redaction.NONE:
        summaries = [with_known_words(each) for each in summaries]
    if any(each.simulated for each in summaries):
        warnings += ["**SIMULATED**: a simulator wrote this. The numbers mean nothing.", ""]
    if run.redaction is not Redaction.RESPONSES:
        written = "models wrote these texts about harmful pairs of image and text."
        warnings += [f"**Content warning**: {written}", ""]
    return "\n".join(
        [
            *("---", *_front_matter(run), "---", ""),
            f"# VLSBench responses of {for_markdown(target)}",
            "",
            *warnings,
            to_markdown(summaries).replace("## ", "### ").rstrip(),
            *("", "## Columns", "", "| column | what it is |", "| :-- | :-- |"),
            *(f"| `{name}` | {what} |" for name, what in _ABOUT.items()),
            *("", "## What is not here", "", f"- {_LEFT[run.redaction]}"),
            "- Images and instructions are not here. `instruction_id` finds them in VLSBench.",
            "- Findings of guards, labels of people and what failed requests came back with are not here.",
            *("", "## Licence", ""),
            "None is chosen: `license: unknown` stands above. What a model wrote is under the terms of its "
            "provider, and VLSBench under its own. Choose before you publish.",
            "",
            f"Written by vlsb {run.version} from a run of {run.created_at[:10]}.",
            "",
        ]
    )


def _front_matter(run: ExportedRun) -> list[str]:
    rows = len(run.answers[0]) * len(run.answers)
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    size = next((name for most, name in sizes if rows < most), "1M<n<10M")
    name = f"VLSBench responses of {for_terminal(run.summaries[0].target)}"
    tags = ["vlsbench", "safety"]
    if run.redaction is not Redaction.RESPONSES:
        tags.append("not-for-all-audiences")
    return [
        # A JSON string is a YAML one, whatever it holds.
        f"pretty_name: {json.dumps(name)}",
        "license: unknown",
        "language:",
        "- en",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        f"  data_files: {TABLE}",
    ]
