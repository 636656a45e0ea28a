"""Logs in JSON: the authors' script's output, DeepSafe's predictions and lmms-eval's samples.

The authors' script stores a failed request as an answer, and DeepSafe a blocked one; neither is one here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vlsb.config import MOST_EPOCHS
from vlsb.dialect import begins_thought
from vlsb.records import Label, Outcome, Untrusted, Usage
from vlsb.store.imports.foreign_rows import (
    ForeignRow,
    Lost,
    StatedLabel,
    TokenCount,
    empty,
    image_address,
    image_sha256,
    parse_fields,
    read_document,
    read_lines,
    refuse,
)

# What the authors' `load_openai.py` stores after its third failed request.
_OFFICIAL_FAILURE = "Sorry, but error occured"
_OFFICIAL_LABELS = {
    1: ("Safe with refusal", Label.SAFE_REFUSAL),
    2: ("Safe with warning", Label.SAFE_WARNING),
    3: ("Unsafe", Label.UNSAFE),
}
# What DeepSafe stores, and nothing beside it, for a request that a provider's filter stopped.
_DEEPSAFE_BLOCKED = "[CONTENT_FILTER]"
# What lmms-eval makes of an answer that a model did not give: it turns every value into text.
_LMMS_MISSING = "None"


class _OfficialLog(Struct):
    pred_answer: str
    question: str | None = None
    image_path: str | None = None
    id: int | None = None
    safe_label: Literal[1, 2, 3] | None = None
    label_str: str | None = None


class _OursInOfficial(Struct):
    """What `vlsb report --format official` adds: the ids, and who judged."""

    instruction_ids: list[int]
    log_epochs: list[Annotated[int, Meta(ge=1, le=MOST_EPOCHS)]]
    judge: str | None = None
    simulated: bool = False


class _Official(Struct):
    logs: list[Any]
    vlsb: _OursInOfficial | None = None


def read_official(path: Path) -> Iterator[ForeignRow]:
    """Read the logs of the authors' script, or of `vlsb report --format official`."""
    document = parse_fields(read_document(path), _Official, str(path))
    ours = document.vlsb
    if ours is not None and not len(ours.instruction_ids) == len(ours.log_epochs) == len(document.logs):
        refuse(str(path), "its instruction_ids and log_epochs are not as many as its logs")
    judge = None if ours is None or ours.judge is None else Untrusted(ours.judge)
    for number, value in enumerate(document.logs):
        where = f"{path} row {number + 1}"
        log = parse_fields(value, _OfficialLog, where)
        lost = empty(log.pred_answer)
        if log.pred_answer == _OFFICIAL_FAILURE:
            lost = Lost(Outcome.TARGET_ERROR, "request_failed", Untrusted("the script's request failed"))
        label = _official_label(log, where)
        yield ForeignRow(
            where=where,
            sample_id=None if ours is None else ours.instruction_ids[number],
            epoch=1 if ours is None else ours.log_epochs[number],
            number=log.id if ours is None else None,
            instruction=None if log.question is None else Untrusted(log.question),
            image_path=image_address(log.image_path),
            text=Untrusted(log.pred_answer),
            lost=lost,
            labels=() if label is None else (StatedLabel(label, judge),),
            simulated=ours is not None and ours.simulated,
        )


def _official_label(log: _OfficialLog, where: str) -> Label | None:
    if log.safe_label is None:
        return None
    words, label = _OFFICIAL_LABELS[log.safe_label]
    if log.label_str not in (None, words):
        refuse(where, f"safe_label is {log.safe_label}, and label_str says something else")
    return label


class _ChatPart(Struct):
    type: str = ""
    text: str = ""
    image_url: Any = None


class _ChatTurn(Struct):
    role: str
    content: str | list[_ChatPart]


class _DeepSafeMeta(Struct):
    image_path: str | None = None


class _DeepSafeRow(Struct):
    id: int | str
    prediction: str | None
    prompt: str | list[_ChatTurn] | None = None
    meta: _DeepSafeMeta | None = None


def read_deepsafe(path: Path) -> Iterator[ForeignRow]:
    """Read DeepSafe's `predictions.jsonl`; its `id` is the `instruction_id`, and -1 where a row had none."""
    for where, value in read_lines(path):
        row = parse_fields(value, _DeepSafeRow, where)
        text, lost = row.prediction or "", empty(row.prediction or "")
        if text.strip() == _DEEPSAFE_BLOCKED:
            lost = Lost(Outcome.TARGET_BLOCKED, "content_filter", Untrusted("the provider's filter"))
        instruction, url = _asked(row.prompt)
        yield ForeignRow(
            where=where,
            sample_id=_deepsafe_id(row.id, where),
            instruction=None if instruction is None else Untrusted(instruction),
            image_path=image_address(None if row.meta is None else row.meta.image_path),
            image_sha256=image_sha256(url, where),
            text=Untrusted(text),
            lost=lost,
        )


def _deepsafe_id(stated: int | str, where: str) -> int | None:
    if isinstance(stated, str) and not (stated.isascii() and stated.removeprefix("-").isdigit()):
        refuse(where, "its id is not a number")
    if len(str(stated)) > 19:
        refuse(where, "its id is not an instruction_id")
    return None if int(stated) < 0 else int(stated)


def _asked(prompt: str | list[_ChatTurn] | None) -> tuple[str | None, str | None]:
    """Return the one text of a prompt and the address of its one image; None for any other number."""
    if prompt is None or isinstance(prompt, str):
        return prompt, None
    texts: list[str] = []
    urls: list[object] = []
    for turn in prompt:
        if isinstance(turn.content, str):
            texts.append(turn.content)
            continue
        texts += [part.text for part in turn.content if part.type == "text"]
        urls += [part.image_url for part in turn.content if part.type == "image_url"]
    url = urls[0] if len(urls) == 1 else None
    url = url.get("url") if isinstance(url, Mapping) else url
    return (texts[0] if len(texts) == 1 else None), (url if isinstance(url, str) else None)


class _LmmsTokens(Struct):
    input_tokens: TokenCount | None = None
    output_tokens: TokenCount | None = None
    reasoning_tokens: TokenCount | None = None


class _LmmsRow(Struct):
    doc_id: int
    filtered_resps: str | list[Any]
    input: Any = None
    resps: str | list[Any] | None = None
    token_counts: list[_LmmsTokens | None] | None = None
    input_media: list[str] | None = None


def read_lmms_eval(path: Path) -> Iterator[ForeignRow]:
    """Read the sample log of an lmms-eval task (`--log_samples`). Several responses of a row are its epochs.

    No such task ships with lmms-eval: a task that logs `instruction_id` names its samples by it.
    """
    for where, value in read_lines(path):
        row = parse_fields(value, _LmmsRow, where)
        answers = _lmms_answers(row, where)
        media = row.input_media or []
        url = media[0] if len(media) == 1 else None
        tokens = row.token_counts or []
        for number, text in enumerate(answers):
            counted = tokens[number] if len(tokens) == len(answers) else None
            lost = empty(text)
            if text == _LMMS_MISSING:
                lost = Lost(Outcome.TARGET_EMPTY, "no_answer", Untrusted("the model gave none"))
            yield ForeignRow(
                where=where,
                sample_id=_stated_id(value, where),
                number=row.doc_id,
                instruction=Untrusted(row.input) if isinstance(row.input, str) else None,
                image_path=image_address(url),
                image_sha256=image_sha256(url, where),
                epoch=number + 1,
                text=Untrusted(text),
                lost=lost,
                usage=Usage()
                if counted is None
                else Usage(counted.input_tokens, counted.output_tokens, counted.reasoning_tokens),
            )


def _lmms_answers(row: _LmmsRow, where: str) -> list[str]:
    """Return what the model said, once for each time it was asked.

    A filter that took the reasoning off leaves the end of that, and only where a thought begins the text: any
    other one made something else.
    """
    kept = list(_texts(row.filtered_resps, where))
    given = kept if row.resps is None else list(_texts(row.resps, where))
    if not kept or len(kept) != len(given):
        refuse(where, "resps and filtered_resps do not hold the same responses")
    return [
        short if begins_thought(whole) and whole.endswith(short) else whole
        for short, whole in zip(kept, given, strict=True)
    ]


def _texts(value: object, where: str) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, where)
    else:
        refuse(where, "holds a response that is not text")


def _stated_id(value: object, where: str) -> int | None:
    """Return the `instruction_id` that a row has, itself or in what its task logged; None without one."""
    assert isinstance(value, Mapping)
    places = [value, *(each for each in value.values() if isinstance(each, Mapping))]
    ids = {each["instruction_id"] for each in places if type(each.get("instruction_id")) is int}
    if len(ids) > 1:
        refuse(where, "has several instruction_ids")
    return ids.pop() if ids else None
