"""inspect's logs: `.eval`, a zip archive with one JSON document a sample, and `.json`.

Members are read one at a time and never unpacked, so their names lead nowhere. Current versions compress
them with Zstandard, which Python reads from 3.14 on.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from msgspec import Meta, Struct, field

from vlsb.config import MOST_EPOCHS
from vlsb.extras import lacks_extra
from vlsb.records import Label, Outcome, Untrusted, Usage
from vlsb.store.imports.foreign_rows import (
    MOST_ROW_BYTES,
    ForeignRow,
    Lost,
    StatedLabel,
    TokenCount,
    empty,
    image_address,
    image_sha256,
    open_file,
    parse_fields,
    parse_json,
    read_document,
    refuse,
)

_MOST_BYTES = 64 * 1024**3
_READ_AT_ONCE = 4096
# Zstandard, which not every Python has a name for.
_COMPRESSIONS = (ZIP_STORED, ZIP_DEFLATED, 93)
_ATTACHMENT = "attachment://"


class _Part(Struct):
    type: str
    text: str = ""
    reasoning: str = ""
    image: str = ""


class _ChatMessage(Struct):
    role: str = "user"
    content: str | list[_Part] = ""

    @property
    def parts(self) -> list[_Part]:
        return [_Part("text", self.content)] if isinstance(self.content, str) else self.content


class _Choice(Struct):
    message: _ChatMessage
    stop_reason: str | None = None


class _Tokens(Struct):
    input_tokens: TokenCount | None = None
    output_tokens: TokenCount | None = None
    reasoning_tokens: TokenCount | None = None


class _Output(Struct):
    model: str | None = None
    choices: list[_Choice] = []
    usage: _Tokens | None = None
    time: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    error: str | None = None


class _Score(Struct):
    value: Any
    explanation: str | None = None
    metadata: dict[str, Any] | None = None


class _Error(Struct):
    message: str


class _Sample(Struct):
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
            yield _row(parse_fields(value, _Sample, where), where)
        return
    log = parse_fields(read_document(path), _Log, str(path))
    for number, value in enumerate(log.samples or [], start=1):
        where = f"{path} row {number}"
        yield _row(parse_fields(value, _Sample, where), where)


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
        refuse(where, "is compressed in a way that no inspect log is")
    try:
        with archive.open(info) as member:
            # The archive cuts what comes out at the size it states, but unpacks whatever a read took in: a
            # hundred MiB at the most for this much.
            return b"".join(iter(partial(member.read, _READ_AT_ONCE), b""))
    except NotImplementedError as error:
        raise lacks_extra(
            "import", f"{where} is compressed with Zstandard: that needs the extra `import`"
        ) from error


def _row(sample: _Sample, where: str) -> ForeignRow:
    metadata = sample.metadata or {}
    if metadata.get("redacted") is not None:
        refuse(where, "was exported with --redact: its response is not whole")
    instruction, url = _asked(sample)
    stated_path, stated_id = metadata.get("image_path"), metadata.get("instruction_id")
    output, usage = sample.output, sample.output.usage or _Tokens()
    choice = output.choices[0] if output.choices else None
    parts = [] if choice is None else choice.message.parts
    text = "\n".join(each.text for each in parts if each.type == "text")
    thought = [each.reasoning for each in parts if each.type == "reasoning"]
    reason = None if choice is None else choice.stop_reason
    number = sample.id if isinstance(sample.id, int) else None
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
        lost=_lost(sample, text, reason),
        finish_reason=None if reason is None else Untrusted(reason),
        model=None if not output.model else Untrusted(output.model),
        usage=Usage(usage.input_tokens, usage.output_tokens, usage.reasoning_tokens),
        latency_s=output.time,
        labels=tuple(_labels(sample.scores or {})),
        simulated=metadata.get("simulated") is True,
    )


def _asked(sample: _Sample) -> tuple[str | None, str | None]:
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


def _lost(sample: _Sample, text: str, reason: str | None) -> Lost | None:
    if sample.error is not None:
        return Lost(Outcome.TARGET_ERROR, "sample_error", Untrusted(sample.error.message))
    if reason == "content_filter":
        return Lost(Outcome.TARGET_BLOCKED, "content_filter", Untrusted("the provider's filter"))
    if sample.output.error is not None:
        return Lost(Outcome.TARGET_ERROR, "output_error", Untrusted(sample.output.error))
    return empty(text)


def _labels(scores: Mapping[str, _Score]) -> Iterator[StatedLabel]:
    """Yield the scores that are one of the three labels; nobody knows what any other means."""
    for score in scores.values():
        if isinstance(score.value, str) and score.value in set(Label):
            judge = (score.metadata or {}).get("judge")
            yield StatedLabel(
                Label(score.value),
                Untrusted(judge) if isinstance(judge, str) else None,
                Untrusted(score.explanation or ""),
            )
