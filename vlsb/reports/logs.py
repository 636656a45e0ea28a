"""A run as the logs of other programs: of inspect, version 2, and of the authors' script.

To inspect each judge is a scorer and each label the value of its score; images are named and not held, and
a sample that was never asked is not in it. The authors' `stats` and `logs` keep their keys, for notebooks
that read them. Their logs hold every output, with a label; ours hold the labelled ones, so that counting
labels over `len(logs)` still gives `stats`. What differs stands beside them, under `vlsb`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlsb.analysis.rates import RATES, RateName
from vlsb.analysis.summary import Summary
from vlsb.records import VLSBENCH, Label, Outcome, Response, Untrusted
from vlsb.reports.answers import NoInstruction, StoredAnswer
from vlsb.reports.encode import for_json, json_document, versioned
from vlsb.reports.exports import ExportedRun, Redaction, known_code
from vlsb.reports.report import counted

VERSION = 2
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
        "version": VERSION,
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
        "image_path": for_json(answer.image_path),
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
        path, asked = for_json(each.image_path), each.instruction
        log = {
            "id": each.place,
            "question": None if isinstance(asked, NoInstruction) else for_json(asked),
            "image_path": path if data_root is None else f"{data_root}/{path}",
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
