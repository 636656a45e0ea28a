"""How many requests each fault costs, over a real socket; waits pass on a clock of their own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gzip
import hashlib
import itertools
import json
import ssl
import subprocess
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.virtual import run_virtually
from vlsb.config import MAX_BODY_BYTES, OFFICIAL_TARGET_SAMPLING, Endpoint, Party, RetryPolicy
from vlsb.dialect import Dialect
from vlsb.endpoints.admission import Admission
from vlsb.endpoints.client import EndpointClient
from vlsb.endpoints.connect import open_client
from vlsb.endpoints.connections import ConnectionLimit
from vlsb.endpoints.credentials import Credentials, Redactor, Secret
from vlsb.endpoints.faults import Fault
from vlsb.endpoints.loops import new_event_loop
from vlsb.endpoints.rate_limits import Account
from vlsb.endpoints.replica import Replica
from vlsb.endpoints.request import Draft, Prompt, ReadImage, draft
from vlsb.endpoints.retry import Ended, EngineGuard
from vlsb.endpoints.traffic import Event, RunContext, StoppedError, Time, Traffic
from vlsb.errors import (
    AuthenticationError,
    ConfigError,
    GapsError,
    ImageError,
    QuotaError,
    UnknownModelError,
    VlsbError,
)
from vlsb.records import Completion, ImageFile, Key, Untrusted, Usage
from vlsb.simulator import (
    Action,
    Cut,
    Drip,
    Endless,
    Hangup,
    Raw,
    Reply,
    Request,
    Simulator,
    Stall,
    answer,
    blocked,
    error,
    models,
    rate_limited,
)

KIND: contextvars.ContextVar[str] = contextvars.ContextVar("transport", default="auto")
LOOP: contextvars.ContextVar[Callable[[], asyncio.AbstractEventLoop] | None] = contextvars.ContextVar(
    "loop", default=new_event_loop
)
"""What makes the loop of a test; None is the simulated one, on which nothing takes time."""
LOOPS = {"": new_event_loop, "asyncio": asyncio.new_event_loop, "virtual time": None}


# What could differ: both transports, and ours on the standard library's loop too.
TRANSPORTS = pytest.mark.parametrize("transport_kind", ["wire", "wire on asyncio", "httpx"], indirect=True)
# What waits for a deadline.
IN_VIRTUAL_TIME = pytest.mark.parametrize(
    "transport_kind", ["wire on virtual time", "httpx on virtual time"], indirect=True
)


@pytest.fixture(autouse=True)
def transport_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    transport, _, loop = getattr(request, "param", "wire").partition(" on ")
    tokens = KIND.set(transport), LOOP.set(LOOPS[loop])
    yield
    KIND.reset(tokens[0])
    LOOP.reset(tokens[1])


KEY = "canary-0123456789-value"
PNG = b"\x89PNG\r\n\x1a\n not much of a picture"
POLICY = RetryPolicy(max_attempts=3, attempt_timeout_s=30.0, sample_timeout_s=600.0)
GOOD = answer("An answer.")
HTML = Reply(body="<html>One moment</html>", headers=(("content-type", "text/html"),))
EMPTY = answer("")
QUOTA = error(429, code="insufficient_quota", type="insufficient_quota", message="You exceeded your quota")
SERVER_ERROR = error(500, type="server_error")


class Hours:
    """A clock that moves only by sleeping; the dice always fall high."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def time(self) -> Time:
        return Time(lambda: self.now, self._sleep, lambda low, high: high)


@dataclass
class ModelSettings:
    """A client and what can be seen of it."""

    client: EndpointClient
    hours: Hours
    traffic: Traffic
    events: list[Event] = field(default_factory=list)

    async def ask(self, sample_id: int = 1, compose: Callable[[Dialect], Draft] | None = None) -> Any:
        return await self.client.complete(compose or composed, key=Key(sample_id, 1))


def composed(dialect: Dialect) -> Draft:
    image, read = ImageFile(None, "image/png", len(PNG), 0), ReadImage.of(PNG)
    prompt = Prompt("You are a helpful assistant.", Untrusted("Hi"), False, image, lambda: read)
    return draft(prompt, model="model-1", sampling=OFFICIAL_TARGET_SAMPLING, dialect=dialect)


@contextlib.asynccontextmanager
async def lane(
    base_url: str,
    policy: RetryPolicy = POLICY,
    *,
    limit: int = 4,
    ca_bundle: Path | None = None,
    credentials: Credentials | None = None,
    guard: EngineGuard | None = None,
    dialect: Dialect | None = None,
    others: Sequence[str] = (),
) -> AsyncIterator[ModelSettings]:
    credentials = credentials or Credentials(Secret(KEY))
    hours, traffic, events = Hours(), Traffic(), []
    context = RunContext(policy, hours.time(), traffic, events.append)
    clock = hours.time().clock
    replicas = [
        Replica(
            Party("target", Endpoint("model-1", url)),
            open_client(
                url, credentials=credentials, connections=limit, ca_bundle=ca_bundle, kind=KIND.get()
            ),
            context,
            account=Account(clock),
            # Floor and ceiling in one: how a limit adapts is another file's matter.
            connections=ConnectionLimit(start=limit, ceiling=limit, floor=limit, clock=clock),
            guard=guard if url == base_url else None,
        )
        for url in (base_url, *others)
    ]
    client = EndpointClient(
        replicas[0].party,
        admission=Admission(replicas[0].party, context, replicas),
        dialect=dialect or Dialect(),
        redactor=Redactor(credentials.secrets()),
    )
    try:
        yield ModelSettings(client, hours, traffic, events)
    finally:
        for replica in replicas:
            await replica.http.aclose()


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; only a hang reaches the deadline."""

    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await scenario

    loop_factory = LOOP.get()
    if loop_factory is None:
        return run_virtually(scenario)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(bounded())


async def wait_until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for happens in the simulator
        await asyncio.sleep(0.001)


class InTurn:
    """A responder that takes the actions in turn and repeats the last one."""

    def __init__(self, *actions: Action) -> None:
        self._actions = list(actions)

    def __call__(self, _: Request) -> Action:
        return self._actions.pop(0) if len(self._actions) > 1 else self._actions[0]


@dataclass
class Told:
    """What came of asking once."""

    outcome: Completion | Ended | VlsbError
    requests: int
    slept: list[float]
    events: list[Event]
    history: list[Request]
    has_succeeded: bool

    @property
    def ended(self) -> Ended:
        assert isinstance(self.outcome, Ended), self.outcome
        return self.outcome

    @property
    def completion(self) -> Completion:
        assert isinstance(self.outcome, Completion), self.outcome
        return self.outcome


def ask(
    *actions: Action,
    policy: RetryPolicy = POLICY,
    before: Callable[[ModelSettings], None] | None = None,
    compose: Callable[[Dialect], Draft] | None = None,
) -> Told:
    """Ask one question of an endpoint that does these things in turn, the last one again and again."""

    async def scenario() -> Told:
        async with Simulator(InTurn(*actions)) as simulator, lane(simulator.base_url, policy) as asked:
            if before is not None:
                before(asked)
            try:
                outcome = await asked.ask(compose=compose)
            except VlsbError as fatal:
                outcome = fatal
            count = len(simulator.completions)
            assert count == asked.client.admission.state().requests
            assert asked.client.admission.state().in_flight == 0
            assert asked.traffic.in_flight == set()
            succeeded = asked.client.admission.has_served
            return Told(outcome, count, asked.hours.slept, asked.events, simulator.history, succeeded)

    return run(scenario())


# One request.


@TRANSPORTS
def test_a_good_reply_is_a_completion_of_one_request():
    told = ask(GOOD)

    assert told.requests == 1
    assert told.completion.text.expose() == "An answer."
    assert (told.completion.attempts, told.completion.usage) == (1, Usage(800, 40, 0))
    checksums = composed(Dialect()).pieces()[1]
    assert (told.completion.image_sha256, told.completion.request_sha256) == checksums
    assert checksums.image == hashlib.sha256(PNG).hexdigest()
    assert told.slept == []


@TRANSPORTS
def test_what_arrives_is_what_was_composed():
    told = ask(GOOD)
    request = told.history[0]

    assert request.body == b"".join(composed(Dialect()).pieces()[0])
    assert request.bearer == KEY
    assert request.headers["content-type"] == "application/json"
    assert request.path == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        pytest.param(QUOTA, QuotaError, id="A03-quota"),
        pytest.param(error(401, code="invalid_api_key"), AuthenticationError, id="A33-key"),
        pytest.param(error(404, code="model_not_found"), UnknownModelError, id="A35-model"),
    ],
)
def test_a_fault_of_the_whole_run_costs_one_request(action, kind):
    told = ask(action)

    assert type(told.outcome) is kind
    assert told.requests == 1
    assert told.slept == []


@pytest.mark.parametrize(
    ("action", "fault", "ends_as"),
    [
        pytest.param(error(400, code="bad"), Fault.ITEM_PERMANENT, "error", id="bad-request"),
        pytest.param(blocked(), Fault.PROVIDER_BLOCKED, "blocked", id="A37-blocked-input"),
        pytest.param(answer("", finish_reason="length"), Fault.BAD_PAYLOAD, "empty", id="A58-cut-to-nothing"),
    ],
)
def test_a_fault_that_no_retry_helps_costs_one_request(action, fault, ends_as):
    told = ask(action)

    assert (told.ended.decision.fault, told.ended.decision.ends_as) == (fault, ends_as)
    assert (told.requests, told.ended.attempts) == (1, 1)
    assert told.slept == []


# Retries.


@TRANSPORTS
@pytest.mark.parametrize(
    "action",
    [
        pytest.param(SERVER_ERROR, id="A18-500"),
        pytest.param(Hangup(), id="A25-closed-before-headers"),
        pytest.param(Hangup(reset=True), id="A25-reset-before-headers"),
        pytest.param(Cut(GOOD, -40), id="A26-cut-with-a-length"),
        pytest.param(Cut(replace(GOOD, chunked=True), -40), id="A26-cut-chunks"),
        pytest.param(Cut(replace(GOOD, unsized=True), -40), id="A27-cut-without-a-length"),
        pytest.param(Cut(GOOD, 20), id="cut-in-the-head"),
        pytest.param(HTML, id="A28-html"),
        pytest.param(Raw(b"HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n{}"), id="broken-length"),
        pytest.param(Raw(b"SSH-2.0-OpenSSH_9.6\r\n"), id="no-http"),
    ],
)
def test_a_fault_that_may_pass_is_tried_max_attempts_times_and_answered_when_it_passes(action):
    lasting, passing = ask(action), ask(action, action, GOOD)

    assert lasting.ended.decision.is_retryable
    assert lasting.ended.decision.ends_as == "error"
    assert (lasting.requests, lasting.ended.attempts, len(lasting.slept)) == (3, 3, 2)
    assert (passing.requests, passing.completion.attempts) == (3, 3)
    assert passing.completion.text.expose() == "An answer."


def test_the_waits_between_attempts_grow():
    assert ask(SERVER_ERROR, policy=replace(POLICY, max_attempts=5)).slept == [1, 2, 4, 8]


def test_a_server_error_that_names_a_wait_is_given_it():
    told = ask(replace(SERVER_ERROR, headers=(("retry-after", "25"),)), GOOD)

    assert told.completion.attempts == 2
    assert told.slept == [25]


def test_every_retry_is_an_event_without_content():
    told = ask(SERVER_ERROR, HTML, GOOD)

    assert [(each.kind, each.sample_id, each.code, each.attempt) for each in told.events] == [
        ("retry", 1, "server_error", 1),
        ("retry", 1, "html", 2),
    ]


# Empty answers.


def test_an_empty_answer_is_asked_for_once_more():
    told = ask(EMPTY)

    assert (told.requests, told.ended.decision.ends_as) == (2, "empty")
    assert told.has_succeeded


def test_the_tokens_of_every_unusable_answer_are_counted():
    assert ask(EMPTY).ended.usage == Usage(1600, 80, 0)


def test_an_empty_answer_after_other_faults_is_still_asked_for_once_more():
    told = ask(SERVER_ERROR, EMPTY, GOOD)

    assert (told.requests, told.completion.text.expose()) == (3, "An answer.")


# Rate limits.


def test_rate_limits_do_not_use_up_attempts():
    told = ask(*[rate_limited(20)] * 9, SERVER_ERROR, SERVER_ERROR, GOOD)

    assert told.requests == 12
    assert told.completion.attempts == 12
    assert sum(told.slept) >= 9 * 20


def test_a_rate_limit_is_waited_out_in_full():
    told = ask(rate_limited(20), GOOD)

    assert sum(told.slept) >= 20
    assert [each.kind for each in told.events] == ["rate_limit", "retry"]


def test_a_rate_limit_that_one_request_meets_pauses_the_others():
    async def scenario() -> tuple[int, float, list[str]]:
        # Four are on their way when the first limit arrives; the rest must wait for it.
        seen: list[int] = []
        all_here = asyncio.Event()

        async def respond(request: Request) -> Action:
            seen.append(request.number)
            if len(seen) == 4:
                all_here.set()
            if len(seen) <= 4:
                await all_here.wait()
                return rate_limited(30)
            return GOOD

        async with Simulator(respond) as simulator, lane(simulator.base_url) as asked:
            outcomes = await asyncio.gather(*(asked.ask(each) for each in range(12)))
            assert all(isinstance(each, Completion) for each in outcomes)
            kinds = [each.kind for each in asked.events]
            return len(simulator.completions), asked.hours.now - 1000, kinds

    requests, passed, kinds = run(scenario())

    assert requests == 12 + 4
    assert passed >= 30
    assert kinds.count("rate_limit") == 1


# Deadlines and sizes.


@IN_VIRTUAL_TIME
@pytest.mark.parametrize(
    "action",
    [
        pytest.param(Stall(), id="A23-stall"),
        pytest.param(Drip(answer("word " * 5000), bytes_per_chunk=1, interval_s=0.01), id="A24-drip"),
    ],
)
def test_an_attempt_has_a_total_deadline(action):
    told = ask(action, policy=replace(POLICY, attempt_timeout_s=3.0))

    assert (len(told.slept), told.ended.decision.code) == (2, "timeout")
    assert told.requests == 3
    assert told.ended.decision.fault is Fault.TRANSIENT


def test_a_model_that_thinks_has_a_deadline_of_its_own():
    policy = replace(POLICY, max_attempts=1, attempt_timeout_s=0.001, thinking_timeout_s=30.0)

    async def scenario() -> Any:
        async with (
            Simulator(lambda request: answer("Yes.", delay_s=0.05)) as simulator,
            lane(simulator.base_url, policy, dialect=Dialect(thinks=True)) as asked,
        ):
            return await asked.ask()

    assert run(scenario()).text.expose() == "Yes."


@IN_VIRTUAL_TIME
def test_a_slow_attempt_is_bounded_by_what_is_left_for_the_sample():
    told = ask(Stall(), policy=replace(POLICY, sample_timeout_s=20.0, backoff_s=0.0))

    assert len(told.slept) == 2
    assert "20 s" in told.ended.decision.message.expose()


def test_a_backoff_beyond_the_samples_deadline_is_not_begun():
    told = ask(SERVER_ERROR, policy=replace(POLICY, backoff_s=20.0, sample_timeout_s=10.0))

    assert (told.requests, told.slept) == (1, [])


@TRANSPORTS
def test_an_endless_body_is_read_up_to_the_cap_only():
    told = ask(Endless(chunk=b" " * 2**20), policy=replace(POLICY, max_attempts=2))

    assert (told.requests, told.ended.decision.code) == (2, "body_too_large")
    assert told.ended.decision.fault is Fault.BAD_PAYLOAD


@TRANSPORTS
@pytest.mark.parametrize("encodings", [1, 2])
def test_a_compression_bomb_is_capped_in_memory_too(encodings):
    """One read of the socket may decode to a thousand times its size, and twice encoded to a million."""
    bomb = b" " * (MAX_BODY_BYTES * 8)
    for _ in range(encodings):
        bomb = gzip.compress(bomb, compresslevel=1)
    names = ", ".join(["gzip"] * encodings)
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {names}\r\ncontent-length: {len(bomb)}\r\n\r\n"
    tracemalloc.start()
    try:
        told = ask(Raw(head.encode() + bomb), policy=replace(POLICY, max_attempts=1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert told.ended.decision.is_retryable
    assert peak < MAX_BODY_BYTES * 4


@TRANSPORTS
def test_a_compressed_reply_of_ordinary_size_is_read():
    """Some gateways compress whatever they are asked for."""
    body = gzip.compress(json.dumps(GOOD.body).encode())

    assert ask(Reply(body=body, headers=(("content-encoding", "gzip"),))).completion.attempts == 1


@TRANSPORTS
def test_no_compression_is_asked_for():
    assert ask(GOOD).history[0].headers["accept-encoding"] == "identity"


@TRANSPORTS
def test_a_large_answer_below_the_cap_is_kept_whole():
    text = "x" * (MAX_BODY_BYTES - 10_000)

    assert ask(answer(text)).completion.text.expose() == text


# Hosts that cannot be reached.


@TRANSPORTS
def test_a_host_that_answered_before_and_refuses_is_down():
    async def scenario() -> tuple[Any, int, int]:
        async with Simulator(InTurn(GOOD)) as simulator, lane(simulator.base_url) as asked:
            await asked.ask(0)
            simulator.refuse(reset=True)
            outcome = await asked.ask(1)
            return outcome, asked.client.admission.state().requests, len(simulator.completions)

    outcome, tried, seen = run(scenario())

    assert isinstance(outcome, Ended)
    assert outcome.decision.fault is Fault.TRANSIENT
    assert (tried, seen) == (4, 1)


@TRANSPORTS
def test_a_refusing_host_that_comes_back_is_answered_by():
    async def scenario() -> tuple[Any, int]:
        async with Simulator(InTurn(GOOD)) as simulator, lane(simulator.base_url) as asked:
            simulator.refuse()

            def compose(dialect: Dialect) -> Draft:
                if asked.client.admission.state().requests:
                    simulator.accept()
                return composed(dialect)

            return await asked.ask(1, compose), asked.client.admission.state().requests

    outcome, tried = run(scenario())

    assert isinstance(outcome, Completion)
    assert tried == 2


@TRANSPORTS
@pytest.mark.parametrize(
    "host",
    [
        pytest.param("no-such-host.invalid", id="unknown-name"),
        pytest.param("a" * 64 + ".invalid", id="label-too-long"),
        pytest.param("a..b.invalid", id="empty-label"),
        pytest.param("b\u00fc.invalid", id="not-ascii"),
    ],
)
def test_a_name_that_does_not_resolve_is_fatal_after_two_attempts(host):
    async def scenario() -> tuple[Any, int]:
        async with lane(f"https://{host}/v1") as asked:
            with pytest.raises(ConfigError) as caught:
                await asked.ask()
            return caught.value, asked.client.admission.state().requests

    fatal, tried = run(scenario())

    assert fatal.message == f"target model-1 at {host}: no such host"
    assert fatal.advice == "Check --base-url."
    assert tried == 2


# Certificates.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-out", str(paths[0]), "-keyout", str(paths[1])]
    try:
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl that makes certificates")
    return paths


@contextlib.asynccontextmanager
async def tls_server(certificate: tuple[Path, Path]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A TLS server with the base URL and the request heads that arrived."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    heads: list[bytes] = []
    body = json.dumps(GOOD.body).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", heads


@TRANSPORTS
def test_a_certificate_that_cannot_be_verified_is_fatal_with_one_attempt_and_shows_no_key(certificate):
    async def scenario() -> tuple[Any, int, list[bytes]]:
        async with tls_server(certificate) as (url, heads), lane(url) as asked:
            with pytest.raises(ConfigError) as caught:
                await asked.ask()
            return caught.value, asked.client.admission.state().requests, heads

    fatal, tried, heads = run(scenario())

    assert "certificate" in fatal.message
    assert fatal.exit_code == 2
    assert (tried, heads) == (1, [])


@TRANSPORTS
def test_a_certificate_of_the_users_own_bundle_is_accepted(certificate):
    async def scenario() -> Any:
        async with tls_server(certificate) as (url, _), lane(url, ca_bundle=certificate[0]) as asked:
            return await asked.ask()

    assert isinstance(run(scenario()), Completion)


# Redirects.


@TRANSPORTS
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_fatal_and_the_other_server_sees_nothing(status):
    async def scenario() -> tuple[Any, int, list[Request]]:
        async with Simulator(InTurn(GOOD)) as other:
            moved = Reply(status, headers=(("location", f"{other.base_url}/chat/completions"),))
            async with Simulator(InTurn(moved)) as simulator, lane(simulator.base_url) as asked:
                with pytest.raises(ConfigError) as caught:
                    await asked.ask()
                return caught.value, simulator.requests, other.history

    fatal, requests, elsewhere = run(scenario())

    assert "redirects" in fatal.message
    assert (requests, elsewhere) == (1, [])


# Keys.

ECHOES: Sequence[Any] = [
    pytest.param(error(401, code="invalid_api_key", message=f"Incorrect API key provided: {KEY}."), id="401"),
    pytest.param(error(400, message=f"Bad header: Authorization: Bearer {KEY}"), id="400"),
    pytest.param(error(400, code=KEY, message="no"), id="in-the-code"),
    pytest.param(error(400, param=KEY, message="no"), id="in-the-parameter"),
    pytest.param(error(402, code=KEY, message=KEY), id="402"),
    pytest.param(error(500, message=KEY), id="500"),
    pytest.param(Reply(200, KEY), id="not-json"),
    pytest.param(Reply(502, f"<html>{KEY}</html>"), id="html"),
    pytest.param(Reply(308, headers=(("location", f"https://elsewhere/?key={KEY}"),)), id="redirect"),
    pytest.param(answer(KEY), id="as-the-answer"),
    pytest.param(answer("x", reasoning=KEY), id="as-the-thought"),
    pytest.param(answer(f"<think>{KEY}", finish_reason="length"), id="as-the-cut-thought"),
    pytest.param(answer(KEY, finish_reason="content_filter"), id="as-the-filtered-answer"),
    pytest.param(answer("x", finish_reason=KEY), id="as-the-finish-reason"),
    pytest.param(answer("x", model=KEY), id="as-the-model"),
    pytest.param(rate_limited(KEY), id="as-a-wait"),
    pytest.param(error(429, code=KEY), id="in-the-code-of-a-limit"),
    pytest.param(
        Reply(
            400,
            {"error": {"code": "content_filter", "innererror": {"content_filter_result": {"echo": KEY}}}},
        ),
        id="in-the-filters-details",
    ),
    pytest.param(
        Reply(200, {"choices": [], "prompt_feedback": {"block_reason": KEY}}), id="as-the-block-reason"
    ),
]


def everything(value: Any) -> Iterator[str]:
    """Every text in a record, exposed."""
    if isinstance(value, Untrusted):
        yield value.expose()
    elif isinstance(value, str):
        yield value
    elif isinstance(value, BaseException):
        yield "".join(traceback.format_exception(value))
        yield from everything(vars(value))
    elif isinstance(value, dict):
        yield from everything([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from everything(each)
    elif hasattr(value, "__dataclass_fields__"):
        yield from everything([getattr(value, name) for name in value.__dataclass_fields__])


@pytest.mark.parametrize("action", ECHOES)
def test_a_key_that_the_endpoint_echoes_is_in_nothing_that_comes_back(action):
    told = ask(action)
    texts = list(everything([told.outcome, told.events]))

    assert texts
    assert [text for text in texts if KEY in text] == []


@pytest.mark.parametrize("length", [200, 500, 1000, 2000, 4000, 8000])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(lambda text: error(400, message=text), id="message"),
        pytest.param(lambda text: Reply(502, text), id="body"),
        pytest.param(lambda text: Reply(200, text), id="body-of-a-success"),
        pytest.param(lambda text: answer(text, finish_reason="error"), id="failed-answer"),
    ],
)
def test_cutting_a_message_does_not_leave_most_of_a_key_at_its_end(reply, length):
    told = ask(reply("x" * (length - len(KEY) + 1) + KEY + "y" * 100))

    assert [text for text in everything([told.outcome, told.events]) if KEY[:-1] in text] == []


@pytest.mark.parametrize("depth", [900, 1000, 1015])
def test_filter_details_nested_without_end_do_not_end_the_program(depth):
    nested = b"[" * depth + b"]" * depth
    body = b'{"choices":[{"finish_reason":"content_filter","content_filter_results":{"a":%b}}]}' % nested
    told = ask(Reply(body=body))

    assert (told.requests, told.ended.decision.fault) == (1, Fault.PROVIDER_BLOCKED)


@TRANSPORTS
def test_the_key_of_a_header_is_taken_out_too():
    async def scenario() -> Any:
        credentials = Credentials(None, (("api-key", Secret(KEY)),))
        async with (
            Simulator(lambda request: answer(f"You sent {request.headers['api-key']}")) as simulator,
            lane(simulator.base_url, credentials=credentials) as asked,
        ):
            outcome = await asked.ask()
            assert "authorization" not in simulator.history[0].headers
            return outcome

    assert run(scenario()).text.expose() == "You sent [redacted]"


# Unknown models, images, dialects.


def test_an_unknown_model_is_explained_by_what_the_endpoint_lists():
    async def scenario() -> tuple[Any, int]:
        async with (
            Simulator(
                InTurn(error(404, code="model_not_found")), model_names=("model-10", "zebra")
            ) as simulator,
            lane(simulator.base_url) as asked,
        ):
            with pytest.raises(UnknownModelError) as caught:
                await asked.ask()
            return caught.value, len(simulator.completions)

    fatal, requests = run(scenario())

    assert requests == 1
    assert fatal.detail is not None
    assert "model-10" in fatal.detail.expose()


@pytest.mark.parametrize(
    "listed", [error(500), Reply(body="nonsense"), Reply(body={"data": [1]}), Hangup(), models([])]
)
def test_a_model_list_that_cannot_be_read_does_not_hide_the_fault(listed):
    async def scenario() -> None:
        async with Simulator(InTurn(error(404))) as simulator, lane(simulator.base_url) as asked:
            simulator.routes["GET /v1/models"] = listed
            with pytest.raises(UnknownModelError):
                await asked.ask()

    run(scenario())


def test_an_image_that_changed_costs_no_request():
    def lost() -> ReadImage:
        raise ImageError("imgs/1.png: it changed")

    def compose(dialect: Dialect) -> Draft:
        image = ImageFile(None, "image/png", 1, 0)
        prompt = Prompt("", Untrusted("Hi"), False, image, lost)
        return draft(prompt, model="m", sampling=OFFICIAL_TARGET_SAMPLING, dialect=dialect)

    told = ask(GOOD, compose=compose)

    assert (told.requests, told.ended.attempts) == (0, 0)
    assert told.ended.decision.fault is Fault.ITEM_PERMANENT


UNSUPPORTED = error(400, code="unsupported_parameter", type="invalid_request_error", param="max_tokens")


def test_a_dialect_is_learned_only_while_it_may_be():
    def allow(asked: ModelSettings) -> None:
        asked.client.may_adapt = True

    learned, kept = ask(UNSUPPORTED, GOOD, before=allow), ask(UNSUPPORTED, GOOD)

    assert learned.completion.attempts == 2
    assert "max_completion_tokens" in learned.history[1].json
    assert [each.kind for each in learned.events] == ["dialect"]
    assert (kept.requests, kept.ended.decision.param) == (1, "max_tokens")


# Slots, stopping, cancelling.


def test_never_more_requests_than_the_limit_are_in_flight():
    async def scenario() -> tuple[int, int]:
        started = 0
        full = asyncio.Event()

        async def respond(_: Request) -> Action:
            nonlocal started
            started += 1
            if started == 3:
                full.set()
            await full.wait()
            return GOOD

        async with Simulator(respond) as simulator, lane(simulator.base_url, limit=3) as asked:
            await asyncio.gather(*(asked.ask(each) for each in range(9)))
            return simulator.most_in_flight, len(simulator.completions)

    assert run(scenario()) == (3, 9)


def test_a_stopping_run_sends_nothing_new_and_lets_what_flies_land():
    async def scenario() -> tuple[int, list[Any]]:
        landing = asyncio.Event()

        async def respond(_: Request) -> Action:
            await landing.wait()
            return GOOD

        async with Simulator(respond) as simulator, lane(simulator.base_url, limit=1) as asked:
            tasks = [asyncio.create_task(asked.ask(each)) for each in range(3)]
            await wait_until(lambda: simulator.requests)
            assert asked.traffic.in_flight == {tasks[0]}
            asked.traffic.is_stopping = True
            landing.set()
            return simulator.requests, await asyncio.gather(*tasks, return_exceptions=True)

    requests, outcomes = run(scenario())

    assert requests == 1
    assert [type(each) for each in outcomes] == [Completion, StoppedError, StoppedError]


def test_a_stopping_run_does_not_retry():
    async def scenario() -> tuple[int, Any]:
        async with Simulator(InTurn(SERVER_ERROR)) as simulator, lane(simulator.base_url) as asked:

            def stop(_: Request) -> None:
                asked.traffic.is_stopping = True

            simulator.on_request = stop
            with pytest.raises(StoppedError):
                await asked.ask()
            return simulator.requests, asked.client.admission.state().in_flight

    assert run(scenario()) == (1, 0)


@TRANSPORTS
def test_a_cancelled_request_gives_its_slot_back_and_closes_its_connection():
    async def scenario() -> tuple[int, set[Any]]:
        async with Simulator(InTurn(Stall())) as simulator, lane(simulator.base_url, limit=1) as asked:
            task = asyncio.create_task(asked.ask())
            await wait_until(lambda: simulator.in_flight)
            task.cancel()
            await asyncio.wait([task])
            await wait_until(lambda: not simulator.in_flight)
            return asked.client.admission.state().in_flight, asked.traffic.in_flight

    assert run(scenario()) == (0, set())


# Outages.


@dataclass
class Outage:
    """What an outage looked like to those who asked during it."""

    requests: int
    outcomes: list[type]
    passed_s: float
    kinds: list[str]
    attempts: list[int]


def outage(
    *, failures: int | None, asking: int = 4, limit: int = 4, sample_timeout_s: float = 600.0
) -> Outage:
    """After one answer the endpoint fails so many requests, or all; then it answers again."""

    async def scenario() -> Outage:
        failed = 0

        def respond(_: Request) -> Action:
            nonlocal failed
            if len(simulator.completions) == 1 or (failures is not None and failed >= failures):
                return GOOD
            failed += 1
            return SERVER_ERROR

        policy = replace(POLICY, max_attempts=1, sample_timeout_s=sample_timeout_s, outage_timeout_s=300.0)
        async with Simulator(respond) as simulator, lane(simulator.base_url, policy, limit=limit) as asked:
            await asked.ask(0)
            began = asked.hours.now
            work = [asyncio.create_task(asked.ask(each)) for each in range(1, asking + 1)]
            await asyncio.wait(work, return_when=asyncio.FIRST_EXCEPTION)
            asked.traffic.is_stopping = any(task.done() and task.exception() for task in work)
            found = await asyncio.gather(*work, return_exceptions=True)
            kinds = [each.kind for each in asked.events if each.kind in ("outage", "recovered", "alone")]
            attempts = [each.attempts for each in found if isinstance(each, Completion)]
            count = len(simulator.completions) - 1
            return Outage(count, [type(each) for each in found], asked.hours.now - began, kinds, attempts)

    return run(scenario())


def test_when_all_in_flight_has_failed_the_endpoint_is_down_and_no_sample_is_given_up():
    seen = outage(failures=10)

    assert seen.outcomes == [Completion] * 4
    assert seen.kinds == ["outage", "recovered"]


def test_an_outage_uses_up_neither_attempts_nor_the_samples_time():
    """One attempt and a minute are all that a sample has; the outage takes more of both."""
    seen = outage(failures=15, sample_timeout_s=60.0)

    assert seen.outcomes == [Completion] * 4
    assert seen.passed_s > 60


def test_an_outage_is_noticed_with_one_connection_too():
    seen = outage(failures=6, limit=1, asking=5)

    assert seen.outcomes == [Completion] * 5
    assert seen.kinds == ["outage", "recovered"]


def test_probes_come_one_at_a_time_and_ever_more_rarely():
    most = 0

    async def scenario() -> list[float]:
        nonlocal most
        sent: list[float] = []

        async def respond(_: Request) -> Action:
            nonlocal most
            sent.append(asked.hours.now)
            if asked.client.admission.is_down:
                most = max(most, asked.client.admission.state().in_flight)
            return GOOD if len(sent) in (1, 12) or len(sent) > 12 else SERVER_ERROR

        policy = replace(POLICY, max_attempts=1)
        async with Simulator(respond) as simulator, lane(simulator.base_url, policy) as asked:
            await asked.ask(0)
            await asyncio.gather(*(asked.ask(each) for each in range(1, 5)))
            return [later - earlier for earlier, later in itertools.pairwise(sent[5:12])]

    assert run(scenario()) == [2, 4, 8, 10, 10, 10]
    assert most == 1


def test_one_sample_that_always_fails_while_others_are_answered_ends_as_a_failure():
    async def scenario() -> list[type]:
        def respond(request: Request) -> Action:
            return SERVER_ERROR if b"poison" in request.body else GOOD

        def poisoned(dialect: Dialect) -> Draft:
            image, read = ImageFile(None, "image/png", len(PNG), 0), ReadImage.of(PNG)
            prompt = Prompt("", Untrusted("poison"), False, image, lambda: read)
            return draft(prompt, model="model-1", sampling=OFFICIAL_TARGET_SAMPLING, dialect=dialect)

        async with Simulator(respond) as simulator, lane(simulator.base_url) as asked:
            work = [asked.ask(each, poisoned if each == 3 else None) for each in range(12)]
            return [type(each) for each in await asyncio.gather(*work)]

    assert run(scenario()) == [Completion] * 3 + [Ended] + [Completion] * 8


@pytest.mark.parametrize("transport_kind", ["wire on virtual time"], indirect=True)
def test_samples_that_failed_wait_at_rest_for_what_becomes_of_another():
    """Two have no attempt left, a third takes a minute to be answered: only then are they to blame."""

    async def scenario() -> list[type]:
        def respond(request: Request) -> Action:
            if b"poison" in request.body:
                return Hangup()
            return replace(GOOD, delay_s=60.0)

        def poisoned(dialect: Dialect) -> Draft:
            image, read = ImageFile(None, "image/png", len(PNG), 0), ReadImage.of(PNG)
            prompt = Prompt("", Untrusted("poison"), False, image, lambda: read)
            return draft(prompt, model="model-1", sampling=OFFICIAL_TARGET_SAMPLING, dialect=dialect)

        policy = replace(POLICY, attempt_timeout_s=180.0)
        async with Simulator(respond) as simulator, lane(simulator.base_url, policy) as asked:
            await asked.ask(0)
            work = [asked.ask(each, None if each == 1 else poisoned) for each in (1, 2, 3)]
            return [type(each) for each in await asyncio.gather(*work)]

    assert run(scenario()) == [Completion, Ended, Ended]


def test_a_lone_sample_keeps_to_its_attempts_which_is_said():
    told = ask(SERVER_ERROR)

    assert told.ended.attempts == POLICY.max_attempts
    assert [each.kind for each in told.events][-1] == "alone"


@IN_VIRTUAL_TIME
def test_an_endpoint_that_hangs_is_down_and_the_run_goes_on_when_it_is_back():
    """A hanging probe does not keep the next one, and no sample is lost."""

    async def scenario() -> tuple[list[type], list[str]]:
        hangs = False

        def respond(_: Request) -> Action:
            return Stall() if hangs else GOOD

        policy = replace(POLICY, max_attempts=1, attempt_timeout_s=3.0, backoff_s=0.1, probe_cap_s=0.5)
        async with Simulator(respond) as simulator, lane(simulator.base_url, policy) as asked:
            await asked.ask(0)
            hangs = True
            work = [asyncio.create_task(asked.ask(each)) for each in range(1, 13)]
            await wait_until(lambda: asked.client.admission.is_down)
            hangs = False
            found = await asyncio.gather(*work)
            return [type(each) for each in found], [each.kind for each in asked.events]

    outcomes, kinds = run(scenario())

    assert outcomes == [Completion] * 12
    assert (kinds.count("outage"), kinds.count("recovered")) == (1, 1)


# Rate limits that do not end.


def test_when_nothing_is_accepted_for_as_long_as_a_sample_may_take_the_run_ends_with_exit_4():
    told = ask(rate_limited(59))

    assert isinstance(told.outcome, GapsError)
    assert told.outcome.exit_code == 4
    assert "--sample-timeout" in told.outcome.message
    assert told.requests <= 1 + POLICY.sample_timeout_s // 59


@pytest.mark.parametrize("wait_s", [601, 86_400, 3 * 86_400])
def test_a_pause_longer_than_a_sample_may_take_ends_the_run_at_once_with_exit_4(wait_s):
    told = ask(rate_limited(wait_s))

    assert isinstance(told.outcome, GapsError)
    assert told.outcome.exit_code == 4
    assert (told.requests, told.slept) == (1, [])


def test_a_day_that_is_used_up_ends_the_run_before_the_next_request_and_keeps_the_answer():
    names = ("limit", "1000"), ("remaining", "0"), ("reset", "8h0m0s")
    headers = tuple((f"x-ratelimit-{what}-requests-day", value) for what, value in names)

    async def scenario() -> tuple[Any, Any, int]:
        async with (
            Simulator(InTurn(replace(GOOD, headers=headers))) as simulator,
            lane(simulator.base_url) as one,
        ):
            first = await one.ask(1)
            with pytest.raises(GapsError) as caught:
                await one.ask(2)
            return first, caught.value, len(simulator.completions)

    first, fatal, requests = run(scenario())

    assert isinstance(first, Completion)
    assert (fatal.exit_code, requests) == (4, 1)
