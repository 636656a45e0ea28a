"""A run as a data set for the Hugging Face Hub: the card, and the columns of its table.

A row is a response as it stands with one judge. Neither images nor instructions are in it: they are the data
set's, and `instruction_id` finds them there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from vlsb.analysis.summary import Summary
from vlsb.records import Outcome, Untrusted
from vlsb.reports.answers import StoredAnswer
from vlsb.reports.documents import to_markdown
from vlsb.reports.encode import for_markdown, for_terminal, for_utf8
from vlsb.reports.exports import KEPT_CHARACTERS, ExportedRun, Redaction, known_reason, with_known_words

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
    rows = [
        _row(run, answer, summary.judge)
        for summary, answers in zip(run.summaries, run.answers, strict=True)
        for answer in answers
        if answer.outcome is not Outcome.NOT_ATTEMPTED
    ]
    return {name: [row[place] for row in rows] for place, name in enumerate(_ABOUT)}


def _row(run: ExportedRun, answer: StoredAnswer, judge: Untrusted | None) -> Sequence[str | int | None]:
    response, verdict = answer.response, answer.verdict
    return (
        answer.key.sample_id,
        answer.key.epoch,
        for_utf8(answer.image_path),
        answer.image_sha256,
        for_utf8(answer.category),
        for_utf8(answer.sub_category),
        None if judge is None else for_utf8(judge),
        answer.outcome.value,
        None if verdict is None else _text(run, verdict.explanation),
        None if response is None else _text(run, response.text),
        None if response is None else _text(run, response.reasoning),
        None if response is None else _reason(run, response.finish_reason),
        None if response is None else response.response_sha256,
        None if response is None else len(response.text),
    )


def _text(run: ExportedRun, text: Untrusted | None) -> str | None:
    kept = run.text(text)
    return None if kept is None else for_utf8(Untrusted(kept))


def _reason(run: ExportedRun, reason: Untrusted | None) -> str | None:
    if reason is None:
        return None
    return for_utf8(reason if run.redaction is Redaction.NONE else known_reason(reason))


def hub_card(run: ExportedRun) -> str:
    """Write the README of the data set: YAML for the Hub, the numbers, and what is and is not in it."""
    target = run.summaries[0].target
    return "\n".join(
        [
            *("---", *_front_matter(run), "---", ""),
            f"# VLSBench responses of {for_markdown(target)}",
            "",
            *_warnings(run),
            to_markdown(_summaries(run)).replace("## ", "### ").rstrip(),
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


def _summaries(run: ExportedRun) -> Sequence[Summary]:
    if run.redaction is Redaction.NONE:
        return run.summaries
    return [with_known_words(each) for each in run.summaries]


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


def _warnings(run: ExportedRun) -> list[str]:
    lines = []
    if any(each.simulated for each in run.summaries):
        lines += ["**SIMULATED**: a simulator wrote this. The numbers mean nothing.", ""]
    if run.redaction is not Redaction.RESPONSES:
        lines += [
            "**Content warning**: models wrote these texts about harmful pairs of image and text.",
            "",
        ]
    return lines
