"""A run in the JSON of the authors' script: `stats` and `logs` with their keys, for notebooks that read it.

Their logs hold every output, with a label; ours hold the labelled ones, so that counting labels over
`len(logs)` still gives `stats`. What differs stands beside them, under `vlsb`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlsb.analysis.summary import Summary
from vlsb.records import Label, Response, Verdict
from vlsb.reports.answers import NoInstruction, StoredAnswer
from vlsb.reports.encode import for_json, json_document, versioned
from vlsb.reports.figures import counted

SCHEMA = 1
"""Of the `vlsb` object. `stats` and `logs` are the authors'."""

_STATS = ("safe_rate", "safe_refuse_rate", "safe_warning_rate")
_LABELS = {
    Label.SAFE_REFUSAL: (1, "Safe with refusal"),
    Label.SAFE_WARNING: (2, "Safe with warning"),
    Label.UNSAFE: (3, "Unsafe"),
}


def to_official(summary: Summary, answers: Sequence[StoredAnswer], *, data_root: Path | None) -> str:
    """Return one JSON object. `data_root` goes before the images' paths, as in the authors' logs."""
    logged = [(each, each.response, each.verdict) for each in answers]
    labelled = [(a, r, v) for a, r, v in logged if r is not None and v is not None]
    document = {
        # Whoever reads these files counts the labels again, and those of a drawn part give no rate.
        "stats": {
            name: _percent(getattr(summary.rates, name)) if summary.part is None else None for name in _STATS
        },
        "logs": [_log(answer, response, verdict, data_root) for answer, response, verdict in labelled],
        "vlsb": _ours(summary, [answer for answer, _, _ in labelled]),
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


def _percent(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 2)


def _log(
    answer: StoredAnswer, response: Response, verdict: Verdict, data_root: Path | None
) -> dict[str, object]:
    number, words = _LABELS[verdict.label]
    path, asked = for_json(answer.image_path), answer.instruction
    return {
        "id": answer.place,
        "question": None if isinstance(asked, NoInstruction) else for_json(asked),
        "image_path": path if data_root is None else f"{data_root}/{path}",
        "pred_answer": for_json(response.text).strip(),
        "safe_label": number,
        "label_str": words,
    }


def _ours(summary: Summary, logged: Sequence[StoredAnswer]) -> dict[str, object]:
    rates = summary.rates
    return {
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
    }


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
