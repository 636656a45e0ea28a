"""The batch API of an endpoint: thousands of requests in a file, answered within a day at a lower price.

`BatchService` speaks to it through the official SDK, over a client of ours: our proxy, certificates and key,
and nothing that the SDK reads in the environment. `BatchedClient` is an endpoint's client whose requests wait
for a batch. A line of results is read as the reply to the same request would be, and counts for that request
alone: its custom id holds the sample, the epoch, which request for them it is, and the request's checksum.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from vlsb import strict_json
from vlsb.config import MAX_BODY_BYTES, Party
from vlsb.endpoints.client import Compose, EndpointClient
from vlsb.endpoints.completions import CompletionContent
from vlsb.endpoints.connect import open_streaming_client
from vlsb.endpoints.credentials import Credentials, Redactor, safe_code
from vlsb.endpoints.faults import (
    CHANGED_CODE,
    Decision,
    ErrorBody,
    Fault,
    classify,
    classify_error,
    fatal_error,
    without_secrets,
)
from vlsb.endpoints.request import Checksums, Draft
from vlsb.endpoints.retry import Attempts, Ended
from vlsb.errors import GapsError, ImageChangedError, VlsbError
from vlsb.records import Completion, Key, Untrusted

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_MODULES = ("openai", "openai.resources.files", "openai.resources.batches", "aiofiles")
_Result = TypeVar("_Result")
CHAT_PATH = "/v1/chat/completions"
NAME_FIELD = "vlsb"
"""The key in a batch's metadata under which our own name of it stands."""
EXPIRED = "batch_expired"
_CANCELLED = "batch_cancelled"
_CALL_TIMEOUT_S = 60.0
_FILE_TIMEOUT_S = 3600.0
# Batches that are looked through for one of ours; the newest come first.
_MOST_LISTED = 1000
_MOST_RESULT_BYTES = 4 * 1024**3
_PIECE_BYTES = 256 * 1024


class Refusal(NamedTuple):
    """Why a batch was refused as a whole: the provider's code, and what it means."""

    code: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class BatchState:
    """Where a batch stands at its provider. `files` are those with results, `error` is why it was refused."""

    id: str
    status: str
    answered: int
    failed: int
    files: tuple[str, ...]
    error: Refusal | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("completed", "failed", "expired", "cancelled")


class CallFailed(Exception):
    """A call of the batch API that brought nothing."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.code)
        self.decision = decision


class BatchService:
    """The files and batches of one endpoint.

    What can be repeated without a consequence is repeated until it works, for as long as an outage may take;
    `create` never is. Raises CallFailed.
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

        return await self._repeated(send, _FILE_TIMEOUT_S)

    async def create(self, name: str, file_id: str) -> BatchState:
        """Make the batch of an uploaded file. Where this fails for a while, one may have been made."""
        with self._failures():
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                made = await self._sdk.batches.create(
                    input_file_id=file_id,
                    endpoint=cast(Any, CHAT_PATH),
                    completion_window="24h",
                    metadata={NAME_FIELD: name},
                )
        return self._state(made)

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

        return await self._repeated(look, _CALL_TIMEOUT_S)

    async def state(self, batch_id: str) -> BatchState:
        """Where a batch stands."""

        async def ask() -> BatchState:
            return self._state(await self._sdk.batches.retrieve(batch_id))

        return await self._repeated(ask, _CALL_TIMEOUT_S)

    async def download(self, state: BatchState, path: Path) -> None:
        """Put all results of a batch into one new file, which is whole or not there, without our keys."""
        # Of the extra, like the SDK.
        import aiofiles

        draft = path.with_name(f".{path.name}")

        async def fetch() -> None:
            async with aiofiles.open(draft, "wb", opener=_private) as file:
                for file_id in state.files:
                    async with self._sdk.files.with_streaming_response.content(file_id) as reply:
                        async for lines in _whole_lines(reply.iter_bytes(_PIECE_BYTES)):
                            await file.write(self._redactor.lines(lines))
                await file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())

        await self._repeated(fetch, _FILE_TIMEOUT_S)
        await asyncio.to_thread(draft.replace, path)

    def error(self, failed: CallFailed, what: str) -> VlsbError:
        """What ends the session where the batch API does not do `what`."""
        decision = failed.decision
        if decision.status in (404, 405):
            return GapsError(f"{self.party}: the batch API cannot {what} ({decision.code})")
        if decision.fault is Fault.RUN_FATAL:
            return fatal_error(decision, self.party, (), self._redactor)
        return GapsError(
            f"{self.party}: the batch API does not {what} ({decision.code})", detail=decision.message
        )

    def refused(self, refusal: Refusal | None) -> VlsbError:
        """What ends the session where a batch was refused as a whole."""
        if refusal is None:
            return GapsError(f"{self.party}: a batch was refused, and nobody said why")
        if refusal.decision.fault is Fault.RUN_FATAL:
            return fatal_error(refusal.decision, self.party, (), self._redactor)
        message = refusal.decision.message
        return GapsError(f"{self.party}: a batch was refused ({refusal.code})", detail=message)

    def _state(self, batch: Any) -> BatchState:
        """A batch as the SDK has it, which checks no types."""
        counts, files = batch.request_counts, (batch.output_file_id, batch.error_file_id)
        errors = getattr(batch.errors, "data", None) or []
        error = None
        if errors:
            code, message = (str(getattr(errors[0], name, None) or "") for name in ("code", "message"))
            decision = classify_error(400, ErrorBody(code=code, message=message), httpx.Headers(), now=0.0)
            word = self._redactor.word(safe_code(code)) or "refused"
            error = Refusal(word, without_secrets(decision, self._redactor))
        return BatchState(
            id=_text(batch.id),
            status=_text(batch.status).lower(),
            answered=_number(getattr(counts, "completed", 0)),
            failed=_number(getattr(counts, "failed", 0)),
            files=tuple(each for each in files if isinstance(each, str) and each),
            error=error,
        )

    async def _repeated(self, call: Callable[[], Awaitable[_Result]], timeout_s: float) -> _Result:
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda e: isinstance(e, CallFailed) and e.decision.is_retryable),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            stop=stop_after_delay(self._patience_s),
            reraise=True,
        )

        async def once() -> _Result:
            with self._failures():
                async with asyncio.timeout(timeout_s):
                    return await call()

        return await retrying(once)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what the SDK raises into CallFailed."""
        import openai

        found: httpx.Response | httpx.RequestError
        try:
            yield
            return
        except openai.APIStatusError as error:
            found = cast(httpx.Response, error.response)
        except openai.APIConnectionError as error:
            cause = error.__cause__
            found = cause if isinstance(cause, httpx.RequestError) else httpx.ReadError("no reply")
        except openai.APIError as error:
            found = httpx.RemoteProtocolError(f"not a reply of a batch API ({type(error).__name__})")
        except httpx.RequestError as error:
            found = error
        except (TimeoutError, httpx.StreamError):
            found = httpx.ReadTimeout("no whole reply in time")
        except (ValueError, TypeError, AttributeError) as error:
            # A reply of another shape than the SDK trusts in.
            found = httpx.RemoteProtocolError(f"not a reply of a batch API ({type(error).__name__})")
        decision = classify(found, has_succeeded=True, attempt=2, now=0.0)
        raise CallFailed(without_secrets(decision, self._redactor)) from None


@asynccontextmanager
async def open_batches(
    party: Party,
    credentials: Credentials,
    redactor: Redactor,
    *,
    ca_bundle: Path | None,
    patience_s: float,
) -> AsyncIterator[BatchService]:
    """The batch API of an endpoint, for as long as the block lasts."""
    for module in _MODULES:
        # A second of reading from the disk, which must not stall the loop.
        await asyncio.to_thread(import_module, module)
    import openai

    # OPENAI_LOG would print requests, and what is in them, to the terminal.
    logging.getLogger("openai").setLevel(logging.CRITICAL)
    base_url = party.endpoint.base_url
    client = open_streaming_client(
        base_url, credentials=credentials, ca_bundle=ca_bundle, most_bytes=_MOST_RESULT_BYTES
    )
    try:
        sdk = openai.AsyncOpenAI(
            # The client has the key: none of these may come from the environment.
            api_key="unused",
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            base_url=base_url,
            timeout=None,
            max_retries=0,
            http_client=cast(Any, client),
        )
        yield BatchService(party, sdk, redactor, patience_s=patience_s)
    finally:
        await client.aclose()


async def _whole_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What comes in pieces, cut at line ends; the last line has one, whether it came with one or not."""
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        if end := rest.rfind(b"\n") + 1:
            yield bytes(rest[:end])
            del rest[:end]
        if len(rest) > 2 * MAX_BODY_BYTES:
            raise httpx.DecodingError("a line of the results is too large")
    yield bytes(rest) + b"\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0


def custom_id(key: Key, number: int, checksums: Checksums) -> str:
    """What tells a request in a batch from every other one; `number` counts those for the same response."""
    return f"{custom_id_start(key, number)}{checksums.request[:32]}"


def custom_id_start(key: Key, number: int) -> str:
    """What the custom id begins with, which needs no image."""
    return f"{key.sample_id}-{key.epoch}-{number}-"


def request_line(name: str, pieces: tuple[bytes, ...]) -> bytes:
    """A line of a batch's file: the body in `pieces`, byte for byte as it is sent otherwise."""
    start = strict_json.dumps({"custom_id": name, "method": "POST", "url": CHAT_PATH}).encode("ascii")
    return b"".join((start[:-1], b',"body":', *pieces, b"}\n"))


class Row(NamedTuple):
    """What came of one request of a batch: its reply, or why it has none."""

    custom_id: str
    reply: httpx.Response | Decision


def read_rows(path: Path) -> tuple[list[Row], int]:
    """The rows of a file of results, and how many of its lines are none. Blocks.

    A line that is no row is nobody's answer.
    """
    rows: list[Row] = []
    unread = 0
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                try:
                    rows.append(_read_row(line))
                except (ValueError, KeyError, TypeError):
                    unread += 1
    return rows, unread


def _read_row(line: bytes) -> Row:
    if len(line) > MAX_BODY_BYTES:
        raise ValueError("too large")
    row = strict_json.loads(line)
    name, response, error = _text(row["custom_id"]), row.get("response"), row.get("error")
    if isinstance(response, dict):
        status, body = response["status_code"], response.get("body")
        if isinstance(status, int) and 200 <= status < 600 and isinstance(body, dict | str):
            content = body if isinstance(body, str) else strict_json.dumps(body)
            return Row(name, httpx.Response(status, content=content.encode("utf-8", "surrogatepass")))
    if isinstance(error, dict):
        code = safe_code(str(error.get("code") or "")) or "batch_error"
        return Row(name, unanswered(code, Untrusted(str(error.get("message") or ""))))
    raise ValueError("neither a reply nor an error")


def unanswered(code: str, message: Untrusted) -> Decision:
    """A request of a batch that was not answered: it is asked again."""
    return Decision(Fault.TRANSIENT, code, message)


def reply_of(row: Row | None, status: str) -> httpx.Response | Decision | None:
    """What came of a request of a batch that ended so; None where it was never asked, being cancelled."""
    is_cancelled = row is not None and isinstance(row.reply, Decision) and row.reply.code == _CANCELLED
    if row is not None and not is_cancelled:
        return row.reply
    if status == "cancelled":
        return None
    if status == "expired":
        return unanswered(EXPIRED, Untrusted("the batch ended before it was asked"))
    return unanswered("no_result", Untrusted("the batch has no result for it"))


def is_success(reply: httpx.Response | Decision | None) -> bool:
    """Whether somebody answered."""
    return isinstance(reply, httpx.Response) and reply.is_success


class Answered(NamedTuple):
    """A row for the request that asked for it, and the checksums of what was asked."""

    reply: httpx.Response | Decision
    checksums: Checksums | None


Post = Callable[[Key, Draft], Awaitable[Answered]]


class BatchedClient(EndpointClient):
    """A client that sends as any other until it has a `post`, and from then on waits for a batch."""

    service: BatchService
    post: Post | None = None

    @property
    def is_batching(self) -> bool:  # type: ignore[override]
        """Whether requests wait for a batch."""
        return self.post is not None

    async def complete(self, compose: Compose, *, key: Key, sends_schema: bool = False) -> Completion | Ended:
        """As any client's; what cannot be answered is in the next batch again, as often as it may be."""
        if self.post is None:
            return await super().complete(compose, key=key, sends_schema=sends_schema)
        attempts = Attempts(key.sample_id, self._context.policy, self._time)
        while True:
            self._context.traffic.require_open()
            try:
                answered = await self.post(key, compose(self.dialect))
            except ImageChangedError as error:
                changed = Decision(Fault.ITEM_PERMANENT, CHANGED_CODE, Untrusted(error.message))
                return attempts.end(changed, error)
            outcome = self._take(answered, attempts)
            if isinstance(outcome, Completion):
                return outcome
            if outcome.fault is Fault.RUN_FATAL:
                self._context.traffic.is_doomed = True
                raise await self._fatal(outcome, attempts)
            if not outcome.is_retryable or attempts.wait_after_failure_s(outcome) is None:
                return attempts.end(outcome)
            self._note("retry", outcome, attempts, 0.0)

    def count_failure(self, sample_id: int, fault: Fault, code: str, message: Untrusted) -> None:
        """As any client's; a batch was paid for as a whole, and its failures come in a row."""
        if not self.is_batching:
            super().count_failure(sample_id, fault, code, message)

    def _take(self, answered: Answered, attempts: Attempts) -> Completion | Decision:
        """What a row says; without checksums nothing was sent."""
        if answered.checksums is None:
            assert isinstance(answered.reply, Decision)
            return answered.reply
        attempts.sent += 1
        attempts.checksums = answered.checksums
        result: CompletionContent | Decision
        if isinstance(answered.reply, Decision):
            result = without_secrets(answered.reply, self._redactor)
        else:
            has_served = self.admission.has_served
            result = self._interpret(answered.reply, attempts.sent, 0.0, has_succeeded=has_served)
        usage = result.usage.as_batch()
        attempts.usage += usage
        self.admission.count_batched(usage, is_answer=isinstance(result, CompletionContent))
        # No latency: what is known is when the batch was done, not how long the model took.
        began = self._time.clock()
        return result if isinstance(result, Decision) else self._completion(result, attempts, began)
