"""The batch API of an endpoint: thousands of requests in a file, answered within a day at a lower price.

`BatchService` speaks to it through the official SDK, over a client of ours. A line of results is read as the
reply to the same request would be, and counts for that request alone: its custom id holds the sample, the
epoch, which request for them it is, and the request's checksum.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from vlsb.config import MAX_BODY_BYTES, Party
from vlsb.endpoints.completions import Reply, ends_run, is_success, read_batch_line, read_count, unanswered
from vlsb.endpoints.connect import sdk_failure
from vlsb.endpoints.credentials import Redactor, safe_code
from vlsb.endpoints.faults import (
    NOTHING_SENT,
    Decision,
    ErrorBody,
    Fault,
    classify,
    classify_error,
    fatal_error,
    without_secrets,
)
from vlsb.endpoints.request import CHAT_PATH
from vlsb.errors import GapsError, StoreError, VlsbError
from vlsb.files import draft_of, open_private

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_Result = TypeVar("_Result")
_Given = ParamSpec("_Given")
_Method: TypeAlias = "Callable[Concatenate[BatchService, _Given], Coroutine[Any, Any, _Result]]"
# The key in a batch's metadata under which our own name of it stands.
_NAME = "vlsb"
_FILE_TIMEOUT_S = 3600.0
# Batches that are looked through for one of ours; the newest come first.
_MOST_LISTED = 20_000
_PIECE_BYTES = 256 * 1024
# A status that says no, but for those of a request that came twice or was not heard out.
_REFUSED = frozenset(range(400, 500)) - {408, 409, 425, 499}


class Results(NamedTuple):
    """The replies to a batch's requests, how many are answers, and how many lines were left out."""

    replies: dict[str, Reply]
    answered: int
    left_out: int


@dataclass(frozen=True, slots=True)
class BatchState:
    """Where a batch stands at its provider, which counts `answered` and `failed` requests.

    `status` is how it ended, empty until then. Where it `failed`, nothing of it was asked, because of the
    `error`; one that failed later was cancelled. `files` are those with results.
    """

    id: str
    status: str
    answered: int
    failed: int
    files: tuple[str, ...]
    error: Decision


@dataclass(eq=False)
class CallFailed(Exception):
    """A call of the batch API that brought nothing; `is_refused` says that nothing came of it either."""

    decision: Decision
    is_refused: bool


def _repeated(
    timeout_s: float = 60.0, *, only_refused: bool = False
) -> Callable[[_Method[_Given, _Result]], _Method[_Given, _Result]]:
    """Have a call repeated where that may help, for as long as an outage may take. It raises CallFailed."""

    def may_help(error: BaseException) -> bool:
        failed = error if isinstance(error, CallFailed) else None
        return bool(failed and failed.decision.is_retryable and (failed.is_refused or not only_refused))

    def decorate(call: _Method[_Given, _Result]) -> _Method[_Given, _Result]:
        async def once(self: BatchService, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
            try:
                async with asyncio.timeout(timeout_s):
                    return await call(self, *args, **kwargs)
            except Exception as error:
                if (failure := sdk_failure(error)) is None:
                    raise
            decision = classify(failure, has_succeeded=True, attempt=2, now=0.0)
            is_refused = isinstance(failure, NOTHING_SENT) or decision.status in _REFUSED
            raise CallFailed(without_secrets(decision, self.redactor), is_refused)

        @wraps(call)
        async def repeated(self: BatchService, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
            retrying = AsyncRetrying(
                retry=retry_if_exception(may_help),
                wait=wait_random_exponential(multiplier=0.5, max=30),
                stop=stop_after_delay(self.patience_s),
                reraise=True,
            )
            return await retrying(once, self, *args, **kwargs)

        return repeated

    return decorate


@dataclass(frozen=True, slots=True)
class BatchService:
    """The files and batches of one endpoint.

    What can be repeated without a consequence is repeated, for as long as an outage may take; `create` only
    where it was refused. Raises CallFailed.
    """

    party: Party
    sdk: AsyncOpenAI
    redactor: Redactor
    patience_s: float

    @_repeated(_FILE_TIMEOUT_S)
    async def upload(self, name: str, content: BytesIO) -> str:
        """Store a batch's requests; the id of the file."""
        content.seek(0)
        file = (f"{name}.jsonl", content, "application/jsonl")
        return _text((await self.sdk.files.create(file=file, purpose="batch")).id)

    @_repeated(only_refused=True)
    async def create(self, name: str, file_id: str) -> BatchState:
        """Make the batch of an uploaded file. One may have been made where this fails and was not refused."""
        request: dict[str, Any] = {"endpoint": CHAT_PATH, "completion_window": "24h"}
        metadata = {_NAME: name}
        return self._state(await self.sdk.batches.create(input_file_id=file_id, metadata=metadata, **request))

    @_repeated(_FILE_TIMEOUT_S)
    async def find(self, name: str, file_id: str) -> BatchState | None:
        """Look for the batch of that name or file in the provider's list; None if it is not listed."""
        seen = 0
        async for each in self.sdk.batches.list(limit=100):
            metadata = each.metadata if isinstance(each.metadata, dict) else {}
            if metadata.get(_NAME) == name or each.input_file_id == file_id:
                return self._state(each)
            seen += 1
            if seen >= _MOST_LISTED:
                break
        return None

    @_repeated()
    async def state(self, batch_id: str) -> BatchState:
        """Tell where a batch stands."""
        return self._state(await self.sdk.batches.retrieve(batch_id))

    @_repeated(_FILE_TIMEOUT_S)
    async def download(self, state: BatchState, path: Path) -> None:
        """Put all results of a batch into one new file, which is whole or not there, without our keys."""
        # Of the extra, like the SDK.
        import aiofiles

        draft = draft_of(path)
        try:
            draft.unlink(missing_ok=True)
            async with aiofiles.open(draft, "xb", opener=open_private) as file:
                for file_id in state.files:
                    async with self.sdk.files.with_streaming_response.content(file_id) as reply:
                        pieces = reply.iter_bytes(_PIECE_BYTES)
                        async for lines in self.redactor.whole_lines(pieces, 2 * MAX_BODY_BYTES):
                            await file.write(lines)
                await file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            await asyncio.to_thread(draft.replace, path)
        except OSError as error:
            raise StoreError.of(f"{path}: cannot be written", error) from error

    def error(self, what: str, decision: Decision) -> VlsbError:
        """Return what ends the session where this happened to a batch, or to a call about one."""
        if decision.fault is Fault.RUN_FATAL and decision.status not in (404, 405):
            return fatal_error(decision, self.party, (), self.redactor)
        return GapsError(f"{self.party}: {what} ({decision.code})", detail=decision.message)

    def _state(self, batch: Any) -> BatchState:
        """A batch as the SDK has it, which checks no types."""
        first = next(iter(getattr(batch.errors, "data", None) or ()), None)
        code, message = (str(getattr(first, name, None) or "") for name in ("code", "message"))
        error = classify_error(400, ErrorBody(code=code, message=message), httpx.Headers(), now=0.0)
        if error.fault is not Fault.RUN_FATAL:
            error = replace(error, code=safe_code(code) or "no reason given")
        named = batch.output_file_id, batch.error_file_id
        files = tuple(each for each in named if isinstance(each, str) and each)
        counts, status = batch.request_counts, _text(batch.status).lower()
        answered, failed = (read_count(getattr(counts, name, None)) or 0 for name in ("completed", "failed"))
        if status == "failed" and (files or answered or failed):
            status = "cancelled"
        status = status if status in ("completed", "failed", "expired", "cancelled") else ""
        error = without_secrets(error, self.redactor)
        return BatchState(_text(batch.id), status, answered, failed, files, error)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("not a text")
    return value


def read_results(path: Path, asked: Collection[str]) -> Results:
    """Read what a file of results says to the requests of a batch. Blocks.

    A line that cannot be read, or that is about another request, is nobody's answer. The first answer to a
    request counts, and no error line stands against it.
    """
    names, replies, left_out = frozenset(asked), dict[str, Reply](), 0
    with path.open("rb") as lines:
        for line in filter(bytes.strip, lines):
            try:
                name, reply = read_batch_line(line)
            except (ValueError, KeyError, TypeError):
                left_out += 1
                continue
            before = replies.get(name)
            left_out += name not in names or before is not None
            if name in names and (before is None or (is_success(reply) and not is_success(before))):
                replies[name] = reply
    return Results(replies, sum(map(is_success, replies.values())), left_out)


def reply_of(reply: Reply | None, status: str, *, is_new: bool = True) -> Reply | None:
    """Return what came of a request of a batch that ended so; None if it was not asked, or nobody knows.

    What ended an earlier session, as a spent quota does, says nothing of now: it is asked again.
    """
    if reply is not None and not (isinstance(reply, Decision) and reply.code == "batch_cancelled"):
        return reply if is_new or not ends_run(reply) else None
    if status == "completed":
        return unanswered("no_result", "the batch has no result for it")
    return unanswered("batch_expired", "it was not asked in time") if status == "expired" else None
