"""A run as a log of inspect, version 2: each judge is a scorer, each label the value of its score.

Images are named and not held. A sample that was never asked is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlsb.analysis.rates import RATES
from vlsb.analysis.summary import Summary
from vlsb.records import VLSBENCH, Outcome, Response, Untrusted
from vlsb.reports.answers import NoInstruction, StoredAnswer
from vlsb.reports.encode import for_json
from vlsb.reports.exports import ExportedRun, Redaction, known_code

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
            "scores": [_score_of_run(each) for each in run.summaries if each.judge is not None],
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


def _score_of_run(summary: Summary) -> Json:
    assert summary.judge is not None
    name, rates = for_json(summary.judge), summary.rates
    # Its viewer has no place that says of a rate that it is estimated.
    percents = {} if summary.part is not None else {each: rates.rate(each) for each in RATES}
    shares = {each: rate / 100 for each, rate in percents.items() if rate is not None}
    return {
        "name": name,
        "scorer": name,
        "scored_samples": rates.judged,
        "unscored_samples": rates.missing,
        "metrics": {each: {"name": each, "value": share} for each, share in shares.items()},
    }


def _sample(run: ExportedRun, answers: Sequence[StoredAnswer], judges: Sequence[str | None]) -> Json:
    answer = answers[0]
    asked = "" if isinstance(answer.instruction, NoInstruction) else for_json(answer.instruction)
    message = _message(run, answer)
    return {
        "id": answer.key.sample_id,
        "epoch": answer.key.epoch,
        "input": asked,
        "target": "",
        "messages": [{"role": "user", "content": asked}, *([] if answer.response is None else [message])],
        "output": _output(run, answer, message),
        "scores": {
            judge: {
                "value": each.verdict.label.value,
                "explanation": run.text(each.verdict.explanation),
                "metadata": {"judge": judge},
            }
            for each, judge in zip(answers, judges, strict=True)
            if judge is not None and each.verdict is not None
        },
        "metadata": _metadata(run, answers, judges),
        **_error(run, answer),
    }


def _message(run: ExportedRun, answer: StoredAnswer) -> Json:
    response = answer.response
    text = (None if response is None else run.text(response.text)) or ""
    thought = None if response is None else run.text(response.reasoning)
    content: object = text
    if thought is not None:
        content = [{"type": "reasoning", "reasoning": thought}, {"type": "text", "text": text}]
    return {"role": "assistant", "content": content, "source": "generate"}


def _output(run: ExportedRun, answer: StoredAnswer, message: Json) -> Json:
    response = answer.response
    choice = {"message": message, "stop_reason": _stop_reason(answer)}
    output: Json = {"model": for_json(run.summaries[0].target), "choices": [choice]}
    if response is not None:
        output |= _usage(response)
        if response.latency_s is not None:
            output["time"] = response.latency_s
    return output


def _stop_reason(answer: StoredAnswer) -> str:
    if answer.outcome is Outcome.TARGET_BLOCKED:
        return "content_filter"
    reason = None if answer.response is None else answer.response.finish_reason
    return "unknown" if reason is None else _STOPS.get(for_json(reason).lower(), "unknown")


def _usage(response: Response) -> Json:
    """Tokens, where both counts are known: inspect has no word for an unknown one."""
    usage = response.usage
    if usage.input_tokens is None or usage.output_tokens is None:
        return {}
    counts = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        **({} if usage.reasoning_tokens is None else {"reasoning_tokens": usage.reasoning_tokens}),
    }
    return {"usage": counts}


def _metadata(run: ExportedRun, answers: Sequence[StoredAnswer], judges: Sequence[str | None]) -> Json:
    answer = answers[0]
    about: Json = {
        "instruction_id": answer.key.sample_id,
        "image_path": for_json(answer.image_path),
        "image_sha256": answer.image_sha256,
        "category": for_json(answer.category),
        "sub_category": for_json(answer.sub_category),
        "outcomes": {judge or "": each.outcome.value for each, judge in zip(answers, judges, strict=True)},
    }
    if any(each.simulated for each in run.summaries):
        about["simulated"] = True
    return about if run.redaction is Redaction.NONE else about | {"redacted": run.redaction.value}


def _error(run: ExportedRun, answer: StoredAnswer) -> Json:
    """A failed request to the target, as inspect tells of one; the output shows what was empty or blocked."""
    if answer.outcome is not Outcome.TARGET_ERROR or answer.failure is None:
        return {}
    code = answer.failure.code if run.redaction is Redaction.NONE else known_code(answer.failure)
    return {"error": {"message": for_json(Untrusted(code)), "traceback": "", "traceback_ansi": ""}}
