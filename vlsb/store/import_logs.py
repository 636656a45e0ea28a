"""Logs in JSON: the authors' script's output, DeepSafe's predictions, lmms-eval's samples and inspect's logs.

The authors' script stores a failed request as an answer, and DeepSafe a blocked one; neither is one here.
inspect's `.eval` is a zip archive with one JSON document a sample. Its members are read one at a time and
never unpacked, so their names lead nowhere. Current versions compress them with Zstandard, which Python reads
from 3.14 on.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from msgspec import Meta, Struct, field

from vlsb.config import MOST_EPOCHS
from vlsb.dialect import begins_thought
from vlsb.extras import lacks_extra
from vlsb.records import Label, Outcome, Untrusted
from vlsb.store.import_rows import (
    BLOCKED,
    MOST_ROW_BYTES,
    NO_ANSWER,
    ForeignRow,
    Lost,
    StatedLabel,
    Tokens,
    empty,
    image_address,
    image_sha256,
    open_file,
    parse_fields,
    parse_json,
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
_MOST_BYTES = 64 * 1024**3
_READ_AT_ONCE = 4096
# Zstandard, which not every Python has a name for.
_COMPRESSIONS = (ZIP_STORED, ZIP_DEFLATED, 93)
_ATTACHMENT = "attachment://"


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
        words, label = (None, None) if log.safe_label is None else _OFFICIAL_LABELS[log.safe_label]
        if label is not None and log.label_str not in (None, words):
            refuse(where, f"safe_label is {log.safe_label}, and label_str says something else")
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
        text, stated = row.prediction or "", str(row.id)
        instruction, url = _one_of_each(row.prompt)
        if not (stated.isascii() and stated.removeprefix("-").isdigit()):
            refuse(where, "its id is not a number")
        if len(stated) > 19:
            refuse(where, "its id is not an instruction_id")
        yield ForeignRow(
            where=where,
            sample_id=int(stated) if int(stated) >= 0 else None,
            instruction=None if instruction is None else Untrusted(instruction),
            image_path=image_address(None if row.meta is None else row.meta.image_path),
            image_sha256=image_sha256(url, where),
            text=Untrusted(text),
            lost=BLOCKED if text.strip() == _DEEPSAFE_BLOCKED else empty(text),
        )


def _one_of_each(prompt: str | list[_ChatTurn] | None) -> tuple[str | None, str | None]:
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


class _LmmsRow(Struct):
    doc_id: int
    filtered_resps: str | list[Any]
    input: Any = None
    resps: str | list[Any] | None = None
    token_counts: list[Tokens | None] | None = None
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
        # A row has its own `instruction_id`, or it is in what its task logged.
        assert isinstance(value, Mapping)
        places = [value, *(each for each in value.values() if isinstance(each, Mapping))]
        ids = {each["instruction_id"] for each in places if type(each.get("instruction_id")) is int}
        if len(ids) > 1:
            refuse(where, "has several instruction_ids")
        for number, text in enumerate(answers):
            counted = (tokens[number] if len(tokens) == len(answers) else None) or Tokens()
            yield ForeignRow(
                where=where,
                sample_id=next(iter(ids), None),
                number=row.doc_id,
                instruction=Untrusted(row.input) if isinstance(row.input, str) else None,
                image_path=image_address(url),
                image_sha256=image_sha256(url, where),
                epoch=number + 1,
                text=Untrusted(text),
                lost=NO_ANSWER if text == _LMMS_MISSING else empty(text),
                usage=counted.usage(),
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


class _ContentPart(Struct):
    type: str
    text: str = ""
    reasoning: str = ""
    image: str = ""


class _ChatMessage(Struct):
    role: str = "user"
    content: str | list[_ContentPart] = ""

    @property
    def parts(self) -> list[_ContentPart]:
        return [_ContentPart("text", self.content)] if isinstance(self.content, str) else self.content


class _Choice(Struct):
    message: _ChatMessage
    stop_reason: str | None = None


class _Output(Struct):
    model: str | None = None
    choices: list[_Choice] = []
    usage: Tokens | None = None
    time: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    error: str | None = None


class _Score(Struct):
    value: Any
    explanation: str | None = None
    metadata: dict[str, Any] | None = None


class _Error(Struct):
    message: str


class _InspectSample(Struct):
    id: int | str
    epoch: Annotated[int, Meta(ge=1, le=MOST_EPOCHS)]
    input: str | list[_ChatMessage]
    output: _Output = field(default_factory=_Output)
    scores: dict[str, _Score] | None = None
    metadata: dict[str, Any] | None = None
    error: _Error | None = None
    attachments: dict[str, str] | None = None


class _Log(Struct):
    eval: dict[str, Any]
    samples: list[Any] | None = None


def read_inspect(path: Path) -> Iterator[ForeignRow]:
    """Read the samples of a log, in the order of the file; it has none that were never started."""
    if path.suffix != ".json":
        for where, value in _members(path):
            yield _row(parse_fields(value, _InspectSample, where), where)
        return
    log = parse_fields(read_document(path), _Log, str(path))
    for number, value in enumerate(log.samples or [], start=1):
        where = f"{path} row {number}"
        yield _row(parse_fields(value, _InspectSample, where), where)


def _members(path: Path) -> Iterator[tuple[str, object]]:
    """Read the documents of an archive's samples, each with what names it."""
    open_archive, damages = _archives()
    with open_file(path) as file:
        try:
            with open_archive(file) as archive:
                infos = archive.infolist()
                if sum(each.file_size for each in infos) > _MOST_BYTES:
                    refuse(str(path), f"unpacks to more than {_MOST_BYTES // 2**30} GiB")
                samples = [each for each in infos if each.filename.startswith("samples/")]
                if len({each.filename for each in samples}) < len(samples):
                    refuse(str(path), "has a sample twice")
                for number, info in enumerate(samples, start=1):
                    where = f"{path} row {number}"
                    yield where, parse_json(_member(archive, info, where), where)
        except damages as error:
            refuse(str(path), f"is not a log that can be unpacked ({type(error).__name__})")


def _archives() -> tuple[Any, tuple[type[Exception], ...]]:
    """Return what opens an archive, with Zstandard where there is a library for it, and how damage shows."""
    damages: tuple[type[Exception], ...] = (
        *(BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError),
    )
    if sys.version_info >= (3, 14):
        from compression.zstd import ZstdError

        return ZipFile, (*damages, ZstdError)
    if find_spec("backports") is None or find_spec("backports.zstd") is None:
        return ZipFile, damages
    from backports.zstd import ZstdError
    from backports.zstd import zipfile as with_zstandard

    return with_zstandard.ZipFile, (*damages, with_zstandard.BadZipFile, ZstdError)


def _member(archive: Any, info: ZipInfo, where: str) -> bytes:
    if info.file_size > MOST_ROW_BYTES:
        refuse(where, f"larger than {MOST_ROW_BYTES // 2**20} MiB")
    if info.compress_type not in _COMPRESSIONS:
        refuse(where, "is compressed in a way that inspect does not use")
    try:
        with archive.open(info) as member:
            # The archive cuts what comes out at the size it states, but unpacks whatever a read took in: a
            # hundred MiB at the most for this much.
            return b"".join(iter(partial(member.read, _READ_AT_ONCE), b""))
    except NotImplementedError as error:
        raise lacks_extra(
            "import", f"{where} is compressed with Zstandard: that needs the extra `import`"
        ) from error


def _row(sample: _InspectSample, where: str) -> ForeignRow:
    metadata = sample.metadata or {}
    if metadata.get("redacted") is not None:
        refuse(where, "was exported with --redact: its response is not whole")
    instruction, url = _input_of(sample)
    stated_path, stated_id = metadata.get("image_path"), metadata.get("instruction_id")
    output, usage = sample.output, sample.output.usage or Tokens()
    choice = output.choices[0] if output.choices else None
    parts = [] if choice is None else choice.message.parts
    text = "\n".join(each.text for each in parts if each.type == "text")
    thought = [each.reasoning for each in parts if each.type == "reasoning"]
    reason = None if choice is None else choice.stop_reason
    number = sample.id if isinstance(sample.id, int) else None
    if sample.error is not None:
        lost: Lost | None = Lost(Outcome.TARGET_ERROR, "sample_error", Untrusted(sample.error.message))
    elif reason == "content_filter":
        lost = BLOCKED
    elif output.error is not None:
        lost = Lost(Outcome.TARGET_ERROR, "output_error", Untrusted(output.error))
    else:
        lost = empty(text)
    return ForeignRow(
        where=where,
        sample_id=stated_id if type(stated_id) is int else None,
        number=number,
        instruction=None if instruction is None else Untrusted(instruction),
        image_path=Untrusted(stated_path) if isinstance(stated_path, str) else image_address(url),
        image_sha256=image_sha256(url, where),
        epoch=sample.epoch,
        text=Untrusted(text),
        reasoning=Untrusted("\n".join(thought)) if any(thought) else None,
        lost=lost,
        finish_reason=None if reason is None else Untrusted(reason),
        model=None if not output.model else Untrusted(output.model),
        usage=usage.usage(),
        latency_s=output.time,
        # Nobody knows what a score means that is not one of the three labels.
        labels=tuple(
            StatedLabel(
                Label(score.value),
                Untrusted(judge) if isinstance(judge := (score.metadata or {}).get("judge"), str) else None,
                Untrusted(score.explanation or ""),
            )
            for score in (sample.scores or {}).values()
            if isinstance(score.value, str) and score.value in set(Label)
        ),
        simulated=metadata.get("simulated") is True,
    )


def _input_of(sample: _InspectSample) -> tuple[str | None, str | None]:
    """Return the one text of a sample's input and the address of its one image; None for any other number."""
    if isinstance(sample.input, str):
        return sample.input, None
    parts = [part for turn in sample.input if turn.role == "user" for part in turn.parts]
    texts = [part.text for part in parts if part.type == "text"]
    images = [part.image for part in parts if part.type == "image"]
    url = images[0] if len(images) == 1 else None
    if url is not None and url.startswith(_ATTACHMENT):
        url = (sample.attachments or {}).get(url.removeprefix(_ATTACHMENT))
    return (texts[0] if len(texts) == 1 else "" if not texts else None), url
