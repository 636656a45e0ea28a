"""The batch API of an endpoint: thousands of requests in a file, answered within a day at a lower price.

`BatchService` speaks to it through the official SDK, over a client of ours. A line of results is read as the
reply to the same request would be, and counts for that request alone: its custom id holds the sample, the
epoch, which request for them it is, and the request's checksum.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from vlsb import strict_json
from vlsb.config import MAX_BODY_BYTES, Party
from vlsb.endpoints.credentials import Redactor, safe_code
from vlsb.endpoints.faults import (
    Decision,
    ErrorBody,
    Fault,
    classify,
    classify_error,
    fatal_error,
    without_secrets,
)
from vlsb.endpoints.request import CHAT_PATH, Checksums
from vlsb.errors import GapsError, StoreError, VlsbError
from vlsb.files import draft_of
from vlsb.records import Untrusted

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_Result = TypeVar("_Result")
_Call: TypeAlias = Callable[[], Awaitable[_Result]]
NAME_FIELD = "vlsb"
"""The key in a batch's metadata under which our own name of it stands."""
_CALL_TIMEOUT_S = 60.0
_FILE_TIMEOUT_S = 3600.0
# Batches that are looked through for one of ours; the newest come first.
_MOST_LISTED = 20_000
_PIECE_BYTES = 256 * 1024
# A status that says no, but for those of a request that came twice or was not heard out.
_REFUSED = frozenset(range(400, 500)) - {408, 409, 425, 499}
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)

Reply: TypeAlias = httpx.Response | Decision
"""What came of one request of a batch: its reply, or why it has none."""


class Results(NamedTuple):
    """The replies to a batch's requests, by custom id, and how many lines of its results were left out."""

    replies: dict[str, Reply]
    left_out: int

    @property
    def answered(self) -> int:
        """How many of the replies are answers."""
        return sum(map(is_success, self.replies.values()))


@dataclass(frozen=True, slots=True)
class BatchState:
    """Where a batch stands at its provider, which counts `answered` and `failed` requests.

    `files` are those with results, `error` is why it was refused.
    """

    id: str
    status: str
    answered: int
    failed: int
    files: tuple[str, ...]
    error: Decision | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("completed", "failed", "expired", "cancelled")

    @property
    def is_refused(self) -> bool:
        """Whether nothing of it was asked."""
        return self.status == "failed" and not (self.files or self.answered or self.failed)

    def agrees(self, results: Results) -> bool:
        """Whether the results hold everything that the batch says it has."""
        all_there = len(results.replies) >= self.answered + self.failed
        return all_there and results.answered >= self.answered


class CallFailed(Exception):
    """A call of the batch API that brought nothing; `is_refused` says that nothing came of it either."""

    def __init__(self, decision: Decision, *, is_refused: bool) -> None:
        super().__init__(decision.code)
        self.decision = decision
        self.is_refused = is_refused


class BatchService:
    """The files and batches of one endpoint.

    What can be repeated without a consequence is repeated until it works, for as long as an outage may take;
    `create` only where it was refused. Raises CallFailed.
    """

    def __init__(self, party: Party, sdk: AsyncOpenAI, redactor: Redactor, *, patience_s: float) -> None:
        self.party = party
        self._sdk = sdk
        self._redactor = redactor
        self._patience_s = patience_s

    async def upload(self, name: str, content: BytesIO) -> str:
        """Store a batch's requests; the id of the file."""

        async def send() -> str:
            content.seek(0)
            file = (f"{name}.jsonl", content, "application/jsonl")
            return _text((await self._sdk.files.create(file=file, purpose="batch")).id)

        return await self._call(send, _FILE_TIMEOUT_S)

    async def create(self, name: str, file_id: str) -> BatchState:
        """Make the batch of an uploaded file. One may have been made where this fails and was not refused."""
        wanted: dict[str, Any] = {"endpoint": CHAT_PATH, "completion_window": "24h"}

        async def make() -> BatchState:
            metadata = {NAME_FIELD: name}
            made = self._sdk.batches.create(input_file_id=file_id, metadata=metadata, **wanted)
            return self._state(await made)

        return await self._call(make, only_refused=True)

    async def find(self, name: str, file_id: str) -> BatchState | None:
        """The batch of that name or of that file in the provider's list; None if it is not there."""

        async def look() -> BatchState | None:
            seen = 0
            async for each in self._sdk.batches.list(limit=100):
                metadata = each.metadata if isinstance(each.metadata, dict) else {}
                if metadata.get(NAME_FIELD) == name or each.input_file_id == file_id:
                    return self._state(each)
                seen += 1
                if seen >= _MOST_LISTED:
                    break
            return None

        return await self._call(look, _FILE_TIMEOUT_S)

    async def state(self, batch_id: str) -> BatchState:
        """Where a batch stands."""

        async def ask() -> BatchState:
            return self._state(await self._sdk.batches.retrieve(batch_id))

        return await self._call(ask)

    async def download(self, state: BatchState, path: Path) -> None:
        """Put all results of a batch into one new file, which is whole or not there, without our keys."""
        # Of the extra, like the SDK.
        import aiofiles

        draft = draft_of(path)

        async def fetch() -> None:
            draft.unlink(missing_ok=True)
            async with aiofiles.open(draft, "xb", opener=_private) as file:
                for file_id in state.files:
                    async with self._sdk.files.with_streaming_response.content(file_id) as reply:
                        pieces = reply.iter_bytes(_PIECE_BYTES)
                        async for lines in self._redactor.whole_lines(pieces, 2 * MAX_BODY_BYTES):
                            await file.write(lines)
                await file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())

        try:
            await self._call(fetch, _FILE_TIMEOUT_S)
            await asyncio.to_thread(draft.replace, path)
        except OSError as error:
            raise StoreError.of(f"{path}: cannot be written", error) from error

    def error(self, what: str, decision: Decision | None) -> VlsbError:
        """What ends the session where this happened to a batch, or to a call about one."""
        if decision is None:
            return GapsError(f"{self.party}: {what}, and nobody said why")
        if decision.fault is Fault.RUN_FATAL and decision.status not in (404, 405):
            return fatal_error(decision, self.party, (), self._redactor)
        return GapsError(f"{self.party}: {what} ({decision.code})", detail=decision.message)

    def _state(self, batch: Any) -> BatchState:
        """A batch as the SDK has it, which checks no types."""
        counts, files = batch.request_counts, (batch.output_file_id, batch.error_file_id)
        error: Decision | None = None
        if errors := getattr(batch.errors, "data", None):
            code, message = (str(getattr(errors[0], name, None) or "") for name in ("code", "message"))
            error = classify_error(400, ErrorBody(code=code, message=message), httpx.Headers(), now=0.0)
            if error.fault is not Fault.RUN_FATAL:
                error = dataclasses.replace(error, code=safe_code(code) or "refused")
            error = without_secrets(error, self._redactor)
        return BatchState(
            id=_text(batch.id),
            status=_text(batch.status).lower(),
            answered=_number(getattr(counts, "completed", 0)),
            failed=_number(getattr(counts, "failed", 0)),
            files=tuple(each for each in files if isinstance(each, str) and each),
            error=error,
        )

    async def _call(
        self, call: _Call[_Result], timeout_s: float = _CALL_TIMEOUT_S, *, only_refused: bool = False
    ) -> _Result:
        """What a call brings, repeated where that may help; what the SDK raises is CallFailed."""
        import openai

        async def once() -> _Result:
            found: httpx.Response | httpx.RequestError
            try:
                async with asyncio.timeout(timeout_s):
                    return await call()
            except openai.APIStatusError as error:
                found = cast(httpx.Response, error.response)
            except openai.APIConnectionError as error:
                cause = error.__cause__
                found = cause if isinstance(cause, httpx.RequestError) else httpx.ReadError("no reply")
            except httpx.RequestError as error:
                found = error
            except (TimeoutError, httpx.StreamError):
                found = httpx.ReadTimeout("no whole reply in time")
            except (openai.APIError, ValueError, TypeError, AttributeError) as error:
                # A reply of another shape than the SDK trusts in.
                found = httpx.RemoteProtocolError(f"not a reply of a batch API ({type(error).__name__})")
            decision = classify(found, has_succeeded=True, attempt=2, now=0.0)
            is_refused = isinstance(found, _NEVER_SENT) or decision.status in _REFUSED
            raise CallFailed(without_secrets(decision, self._redactor), is_refused=is_refused)

        def may_help(error: BaseException) -> bool:
            if not isinstance(error, CallFailed) or not error.decision.is_retryable:
                return False
            return error.is_refused or not only_refused

        retrying = AsyncRetrying(
            retry=retry_if_exception(may_help),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            stop=stop_after_delay(self._patience_s),
            reraise=True,
        )
        return await retrying(once)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("not a text")
    return value


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0


def read_results(path: Path, asked: Collection[str]) -> Results:
    """What a file of results says to the requests of a batch. Blocks.

    A line that cannot be read, or that is about another request, is nobody's answer. The first answer to a
    request counts, and no error line stands against it.
    """
    wanted, replies, left_out = frozenset(asked), dict[str, Reply](), 0
    with path.open("rb") as lines:
        for line in filter(bytes.strip, lines):
            try:
                name, reply = _read_line(line)
            except (ValueError, KeyError, TypeError):
                left_out += 1
                continue
            before = replies.get(name)
            left_out += name not in wanted or before is not None
            if name in wanted and (before is None or (is_success(reply) and not is_success(before))):
                replies[name] = reply
    return Results(replies, left_out)


def _read_line(line: bytes) -> tuple[str, Reply]:
    if len(line) > MAX_BODY_BYTES:
        raise ValueError("too large")
    row = strict_json.loads(line)
    name, response, error = _text(row["custom_id"]), row.get("response"), row.get("error")
    if isinstance(response, dict):
        status, body = response["status_code"], response.get("body")
        if isinstance(status, int) and 200 <= status < 600 and isinstance(body, dict | str):
            content = body if isinstance(body, str) else strict_json.dumps(body)
            return name, httpx.Response(status, content=content.encode("utf-8", "surrogatepass"))
    if isinstance(error, dict):
        code = safe_code(str(error.get("code") or "")) or "batch_error"
        return name, _unanswered(code, str(error.get("message") or ""))
    raise ValueError("neither a reply nor an error")


def _unanswered(code: str, message: str) -> Decision:
    """A request of a batch that was not answered: it is asked again."""
    return Decision(Fault.TRANSIENT, code, Untrusted(message))


def reply_of(reply: Reply | None, status: str) -> Reply | None:
    """What came of a request of a batch that ended so; None where it was not asked, or nobody knows."""
    if reply is not None and not (isinstance(reply, Decision) and reply.code == "batch_cancelled"):
        return reply
    if status == "completed":
        return _unanswered("no_result", "the batch has no result for it")
    return _unanswered("batch_expired", "it was not asked in time") if status == "expired" else None


def is_success(reply: Reply | None) -> bool:
    """Whether somebody answered."""
    return isinstance(reply, httpx.Response) and reply.is_success


class Answered(NamedTuple):
    """A reply to the request that asked for it, the checksums of what was asked, and the dollars put by."""

    reply: Reply
    checksums: Checksums
    reserved_usd: float
