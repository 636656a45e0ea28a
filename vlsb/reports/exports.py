"""A run as it is given away: as the data set for the Hub, and as logs of inspect and of the authors' script.

An endpoint can write whatever it likes into a finish reason, the name of a model or the code of an error, and
a table of 2,241 rows is room for a text. In what is given away redacted, a general name stands for a word
that nobody knows. A row of the Hub's table is a response as it stands with one judge. Neither images nor
instructions are in it: they are the data set's, and `instruction_id` finds them there.

To inspect, in version 2 of its logs, each judge is a scorer and each label the value of its score; images are
named and not held, and a sample that was never asked is not in it. The authors' `stats` and `logs` keep their
keys, for notebooks that read them. Their logs hold every output, with a label; ours hold the labelled ones,
so that counting labels over `len(logs)` still gives `stats`. What differs stands beside them, under `vlsb`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from vlsb.analysis.rates import RATES, RateName
from vlsb.analysis.summary import Summary
from vlsb.records import THINKING_CUT, VLSBENCH, Failure, Label, Outcome, Response, Untrusted
from vlsb.reports.answers import NoInstruction, StoredAnswer
from vlsb.reports.documents import to_markdown
from vlsb.reports.encode import for_json, for_markdown, for_terminal, for_utf8, json_document, versioned
from vlsb.reports.report import counted

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
        models = frozenset(_known_name(each, asked) for each in conditions.judge.models)
        conditions = replace(conditions, judge=replace(conditions.judge, models=models))
    return replace(
        summary,
        target_models=_counted(summary.target_models, for_json(summary.target)),
        judge_models=_counted(summary.judge_models, asked),
        conditions=conditions,
    )


def _counted(models: Mapping[Untrusted, int], asked: str | None) -> Mapping[Untrusted, int]:
    counts: Counter[Untrusted] = Counter()
    for name, count in models.items():
        counts[_known_name(name, asked)] += count
    return counts


def _known_name(name: Untrusted, asked: str | None) -> Untrusted:
    """Return the name of the model that was asked for, or of a snapshot of it; for any other another word."""
    if not asked or not (text := for_json(name)).startswith(asked):
        return _ANOTHER_MODEL
    tail = text.removeprefix(asked)
    return name if not tail or _SNAPSHOT.fullmatch(tail) else _ANOTHER_MODEL


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
    "image_path": "the sample's image there; null for a sample without one",
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
                None if answer.image_path is None else for_utf8(answer.image_path),
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
        warning = "models wrote these texts about harmful pairs of image and text."
        warnings += [f"**Content warning**: {warning}", ""]
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


_INSPECT_VERSION = 2
_STOPS = {each: each for each in ("stop", "max_tokens", "content_filter")} | {"length": "max_tokens"}

Json = dict[str, object]


def log_header(run: ExportedRun) -> Json:
    """Return the log without its samples."""
    first = run.summaries[0]
    keys = [answer.key for answer in run.answers[0] if answer.outcome is not Outcome.NOT_ATTEMPTED]
    identity = first.run.sha256()[:22]
    name = "VLSBench" if run.dataset == VLSBENCH else run.dataset
    ids = list(dict.fromkeys(key.sample_id for key in keys))
    scores = []
    for summary in run.summaries:
        if summary.judge is None:
            continue
        judge, rates = for_json(summary.judge), summary.rates
        # Its viewer has no place that says of a rate that it is estimated.
        percents = {} if summary.part is not None else {each: rates.rate(each) for each in RATES}
        shares = {each: rate / 100 for each, rate in percents.items() if rate is not None}
        score = {
            "name": judge,
            "scorer": judge,
            "scored_samples": rates.judged,
            "unscored_samples": rates.missing,
            "metrics": {each: {"name": each, "value": share} for each, share in shares.items()},
        }
        scores.append(score)
    return {
        "version": _INSPECT_VERSION,
        "status": "success" if len(keys) == len(run.answers[0]) else "cancelled",
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "created": run.created_at,
            "task": run.dataset,
            "task_id": identity,
            "dataset": {"name": name, "samples": len(ids), "sample_ids": ids, "shuffled": False},
            "model": for_json(first.target),
            "config": {"epochs": first.epochs},
            "packages": {"vlsb": run.version},
            "metadata": {
                "run": for_json(first.run),
                "simulated": any(each.simulated for each in run.summaries),
                "redacted": run.redaction.value,
                "deviations": [for_json(each) for each in first.deviations],
            },
        },
        "plan": {"name": "vlsb", "steps": [], "config": {}},
        "results": {
            "total_samples": len(run.answers[0]),
            "completed_samples": sum(each.response is not None for each in run.answers[0]),
            "scores": scores,
        },
        "stats": {"started_at": run.created_at, "completed_at": run.created_at},
    }


def log_samples(run: ExportedRun) -> Iterator[Json]:
    """Every sample that was asked, epoch by epoch, in the order of the data set."""
    judges = [None if each.judge is None else for_json(each.judge) for each in run.summaries]
    for answers in zip(*run.answers, strict=True):
        if answers[0].outcome is not Outcome.NOT_ATTEMPTED:
            yield _sample(run, answers, judges)


def summary_of(sample: Json) -> Json:
    """Return what the log's list of samples says of one."""
    named = ("id", "epoch", "input", "target", "scores", "metadata")
    return {name: sample[name] for name in named} | {"completed": True}


def _sample(run: ExportedRun, answers: Sequence[StoredAnswer], judges: Sequence[str | None]) -> Json:
    answer = answers[0]
    asked = "" if isinstance(answer.instruction, NoInstruction) else for_json(answer.instruction)
    messages: list[Json] = [{"role": "user", "content": asked}]
    message, usage = _answered(run, answer.response)
    if answer.response is not None:
        messages.append(message)
    about: Json = {
        "instruction_id": answer.key.sample_id,
        "image_path": None if answer.image_path is None else for_json(answer.image_path),
        "image_sha256": answer.image_sha256,
        "category": for_json(answer.category),
        "sub_category": for_json(answer.sub_category),
        "outcomes": {judge or "": each.outcome.value for each, judge in zip(answers, judges, strict=True)},
    }
    about |= {"simulated": True} if any(each.simulated for each in run.summaries) else {}
    about |= {} if run.redaction is Redaction.NONE else {"redacted": run.redaction.value}
    reason = None if answer.response is None else answer.response.finish_reason
    stop = "unknown" if reason is None else _STOPS.get(for_json(reason).lower(), "unknown")
    choice = {
        "message": message,
        "stop_reason": "content_filter" if answer.outcome is Outcome.TARGET_BLOCKED else stop,
    }
    sample: Json = {
        "id": answer.key.sample_id,
        "epoch": answer.key.epoch,
        "input": asked,
        "target": "",
        "messages": messages,
        "output": {"model": for_json(run.summaries[0].target), "choices": [choice], **usage},
        "scores": {
            judge: {
                "value": each.verdict.label.value,
                "explanation": run.text(each.verdict.explanation),
                "metadata": {"judge": judge},
            }
            for each, judge in zip(answers, judges, strict=True)
            if judge is not None and each.verdict is not None
        },
        "metadata": about,
    }
    # A failed request to the target; of an answer that is empty or blocked the output tells.
    if answer.outcome is Outcome.TARGET_ERROR and answer.failure is not None:
        code = answer.failure.code if run.redaction is Redaction.NONE else known_code(answer.failure)
        sample["error"] = {"message": for_json(Untrusted(code)), "traceback": "", "traceback_ansi": ""}
    return sample


def _answered(run: ExportedRun, response: Response | None) -> tuple[Json, Json]:
    """Return the target's message, and what is known of its tokens and seconds.

    Tokens are there where both counts are known: inspect has no word for an unknown one.
    """
    message: Json = {"role": "assistant", "content": "", "source": "generate"}
    if response is None:
        return message, {}
    text, thought = run.text(response.text) or "", run.text(response.reasoning)
    message["content"] = text
    if thought is not None:
        message["content"] = [{"type": "reasoning", "reasoning": thought}, {"type": "text", "text": text}]
    output: Json = {}
    usage = response.usage
    if usage.input_tokens is not None and usage.output_tokens is not None:
        output["usage"] = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            **({} if usage.reasoning_tokens is None else {"reasoning_tokens": usage.reasoning_tokens}),
        }
    if response.latency_s is not None:
        output["time"] = response.latency_s
    return message, output


SCHEMA = 1
"""Of the `vlsb` object. `stats` and `logs` are the authors'."""

_STATS: tuple[RateName, ...] = ("safe_rate", "safe_refuse_rate", "safe_warning_rate")
_LABELS = {
    Label.SAFE_REFUSAL: (1, "Safe with refusal"),
    Label.SAFE_WARNING: (2, "Safe with warning"),
    Label.UNSAFE: (3, "Unsafe"),
}


def to_official(summary: Summary, answers: Sequence[StoredAnswer], *, data_root: Path | None) -> str:
    """Return one JSON object. `data_root` goes before the images' paths, as in the authors' logs."""
    rates, logs, logged = summary.rates, [], []
    for each in answers:
        if each.response is None or each.verdict is None:
            continue
        number, words = _LABELS[each.verdict.label]
        path, asked = None if each.image_path is None else for_json(each.image_path), each.instruction
        log = {
            "id": each.place,
            "question": None if isinstance(asked, NoInstruction) else for_json(asked),
            "image_path": path if data_root is None or path is None else f"{data_root}/{path}",
            "pred_answer": for_json(each.response.text).strip(),
            "safe_label": number,
            "label_str": words,
        }
        logs.append(log)
        logged.append(each)
    # Whoever reads these files counts the labels again, and those of a drawn part give no rate.
    stats = {name: None if summary.part is not None else rates.rate(name) for name in _STATS}
    document = {
        "stats": {name: None if rate is None else round(rate, 2) for name, rate in stats.items()},
        "logs": logs,
        "vlsb": {
            **versioned(SCHEMA),
            "run": for_json(summary.run),
            "target": for_json(summary.target),
            "judge": None if summary.judge is None else for_json(summary.judge),
            "simulated": summary.simulated,
            "subset": summary.subset,
            "selected": rates.selected,
            "judged": rates.judged,
            "coverage": rates.coverage,
            "epochs": summary.epochs,
            "deviations": [for_json(each) for each in summary.deviations],
            "note": " ".join(_notes(summary, logged)),
            "instruction_ids": [answer.key.sample_id for answer in logged],
            "log_epochs": [answer.key.epoch for answer in logged],
        },
    }
    return json_document(document, indent=1)


def missing_questions(answers: Sequence[StoredAnswer]) -> str | None:
    """Advise what to do about logs without a question; None if each has one."""
    missing = sum(
        each.verdict is not None and isinstance(each.instruction, NoInstruction) for each in answers
    )
    if missing == 0:
        return None
    return f"question is null in {counted(missing, 'log')}: pass --data-root with the data set of the run."


def _notes(summary: Summary, logged: Sequence[StoredAnswer]) -> Iterator[str]:
    rates = summary.rates
    yield (
        "stats are percent of the judged samples. The authors' script divides by all outputs, and an "
        "output may be an error message that was judged."
    )
    if rates.missing:
        yield (
            f"{rates.missing} of {rates.selected} selected samples have no label: they are absent from logs "
            "and from stats."
        )
    if rates.judged == 0:
        yield "Nothing was judged, so stats are null."
    elif summary.part is not None:
        yield (
            "The labels are of a drawn part, in which rare ones come more often than in the run, so stats "
            "are null: vlsb report has what can be said."
        )
    yield "id is the sample's place in the selection, from 0; instruction_ids and log_epochs follow logs."
    if summary.epochs > 1:
        yield f"logs hold up to {summary.epochs} responses a sample, with the same id."
    if missing := missing_questions(logged):
        yield missing
    if summary.simulated:
        yield "SIMULATED: the numbers mean nothing."
