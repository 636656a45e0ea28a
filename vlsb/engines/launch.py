"""Starting an engine and returning when it has answered a question about an image.

The key is made here and travels by environment alone. The first name that is served is the model's, the
second one nobody else can know: by it an engine of ours is told from whatever else answers on the port.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import secrets
import shlex
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from vlsb import strict_json
from vlsb.endpoints.connect import Client, open_client
from vlsb.endpoints.credentials import (
    Credentials,
    Redactor,
    Secret,
    engine_environment,
    is_secret_name,
    secrets_of,
)
from vlsb.endpoints.transport import Upload
from vlsb.engines.diagnosis import (
    PORT_TAKEN,
    EngineLog,
    diagnose,
    download_folder,
    downloading_bytes,
    log_end,
    log_text,
    step_of,
)
from vlsb.engines.install import repair_advice
from vlsb.engines.process import EngineProcess, open_log, start_process
from vlsb.errors import ServerError, ServerExitedError, ServerTimeoutError
from vlsb.records import Untrusted
from vlsb.steps import OnProgress, Step

if TYPE_CHECKING:
    from vlsb.engines.plan import ServerPlan

HOST = "127.0.0.1"
KEY_VARIABLE = "VLLM_API_KEY"
# An engine that does not serve yet has nothing to finish.
_UNREADY_GRACE_S = 10.0
_PORT_TRIES = 3
_LOOK_S = 0.2
_MOST_LINES = 50


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers at `base_url` (its /v1) for the model `served_name`. Who has it must stop it.

    `repair` is what to do should its environment turn out to be broken.
    """

    name: str
    base_url: str
    key: Secret
    served_name: str
    pid: int
    log: Path
    process: EngineProcess = field(repr=False)
    repair: str = ""

    def client(self) -> Client:
        """Open a client of the server's root, with its key; whoever opens it closes it."""
        root = self.base_url.removesuffix("/v1")
        return open_client(root, credentials=Credentials(self.key), connections=1, ca_bundle=None)


class _PortTaken(Exception):
    """Another process took the port between our look and the engine's."""


async def launch(
    plan: ServerPlan,
    *,
    port: int | None,
    log: Path,
    environment: Mapping[str, str],
    on_progress: OnProgress,
    start_timeout_s: float,
    key: Secret | None = None,
) -> RunningServer:
    """Start the planned server; it ends with us, unless its process is released.

    Without `port` a free one is taken, without `key` a new one made. While a download grows the time does
    not run. Raises ServerExitedError or ServerTimeoutError, and leaves no process when it raises or is
    cancelled.
    """
    if port is not None and _bound(port) is None:
        # With a key it is a restart, for clients that know this one address.
        hint = "Pass another --port, or none." if key is None else "It was this server's until it died."
        raise ServerError(f"{plan.model.name}: port {port} is taken by another process. {hint}")
    for tries_left in reversed(range(_PORT_TRIES)):
        chosen = port or _bound(0)
        assert chosen is not None
        start = _Start(plan, chosen, key, log, environment, on_progress)
        try:
            return await start.run(start_timeout_s)
        except _PortTaken:
            if port is not None or not tries_left:
                raise start.exit_error(1) from None
    raise AssertionError("the last try raises")


class _Start:
    """One try to start the engine, on one port and with one key."""

    def __init__(
        self,
        plan: ServerPlan,
        port: int,
        key: Secret | None,
        log: Path,
        environment: Mapping[str, str],
        on_progress: OnProgress,
    ) -> None:
        self._plan = plan
        self._name = plan.model.name
        self._root = f"http://{HOST}:{port}"
        self._key = key or Secret(secrets.token_urlsafe(32))
        self._repair = repair_advice(plan.engine, plan.model.family)
        self._own_name = f"vlsb-{secrets.token_hex(16)}"
        self._address = ("--host", HOST, "--port", str(port), "--served-model-name", self._name)
        self._environment = {
            **engine_environment(environment, asks_hub=plan.asks_hub),
            **plan.environment,
            KEY_VARIABLE: self._key.reveal(),
        }
        # As an activated environment has it: engines call `ninja` and compilers that they brought.
        path = [str(plan.engine.executable.parent), self._environment.get("PATH") or os.defpath]
        self._environment["PATH"] = os.pathsep.join(path)
        self._redactor = Redactor([self._key, *secrets_of({**environment, **self._environment})])
        self._on_progress = on_progress
        self._folder = download_folder(plan.weights, self._environment)
        with open_log(log):
            self._log = EngineLog(log)
        # A download that broke off earlier may have left parts.
        self._downloaded = downloading_bytes(self._folder)
        self._now = Step("loading", "the engine")
        on_progress(self._now)

    async def run(self, timeout_s: float) -> RunningServer:
        """Return the server once it has answered; nothing of it is left if this does not return."""
        arguments = [*self._command(), self._own_name]
        process = start_process(arguments, environment=self._environment, log=self._log.path)
        try:
            await self._until_ready(process, timeout_s)
        except BaseException:
            await process.stop(_UNREADY_GRACE_S)
            raise
        return RunningServer(
            self._name,
            f"{self._root}/v1",
            self._key,
            self._plan.served_name,
            process.pid,
            self._log.path,
            process,
            self._repair,
        )

    def exit_error(self, code: int) -> ServerExitedError:
        """Return the error that says why the engine ended, or shows how its log does."""
        text = self._log.text()
        if cause := diagnose(text, code, repair=self._repair):
            return ServerExitedError(f"{self._name}: {cause.message} The engine's log: {self._log.path}")
        # Without the key, and with no variable that may hold another one.
        variables = [
            f"{name}={value}" for name, value in self._plan.environment.items() if not is_secret_name(name)
        ]
        by_hand = shlex.join([*(["env", *variables] if variables else []), *self._command()])
        ending = f"exit code {code}"
        if code < 0:
            ending = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return ServerExitedError(
            f"{self._name}: the engine ended with {ending}. To run it by hand: {by_hand} "
            f"Its log, {self._log.path}, ends with",
            detail=self._redactor.message(log_end(text)),
        )

    async def _until_ready(self, process: EngineProcess, timeout_s: float) -> None:
        ready = asyncio.ensure_future(
            await_ready(
                self._root,
                name=self._name,
                own_name=self._own_name,
                key=self._key,
                check=lambda: self._say(Step("checking", "one token for an image", line=self._now.line)),
            )
        )
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s) as clock:
                while not ready.done():
                    self._look(process, lambda: clock.reschedule(loop.time() + timeout_s))
                    await asyncio.wait([ready], timeout=_LOOK_S)
                await ready
        except TimeoutError:
            detail = f" ({self._now.detail})" if self._now.detail else ""
            raise ServerTimeoutError(
                f"{self._name}: not ready after {timeout_s:g} s; it was {self._now.stage}{detail}. Give it "
                f"more with --start-timeout, or see its log: {self._log.path}"
            ) from None
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    def _look(self, process: EngineProcess, extend: Callable[[], object]) -> None:
        """Hear what the engine says, see whether it lives; `extend` is called when a download has grown."""
        code = process.exit_code()
        for line in self._log.new_lines()[-_MOST_LINES:]:
            # What the engine says of its start may be read after it has come up.
            is_up = self._now.stage == "checking"
            now = self._now if is_up else step_of(line) or self._now
            self._say(replace(now, line=self._redactor.message(Untrusted(line))))
        if code is not None:
            cause = diagnose(self._log.text(), code)
            raise _PortTaken if cause is not None and cause.code == PORT_TAKEN else self.exit_error(code)
        size = downloading_bytes(self._folder)
        if size > self._downloaded:
            self._downloaded = size
            self._say(replace(self._now, stage="downloading", detail="the weights", done_bytes=size))
            extend()

    def _say(self, step: Step) -> None:
        self._now = step
        self._on_progress(step)

    def _command(self) -> list[str]:
        return [str(self._plan.engine.executable), *self._plan.arguments, *self._address]


def exited_error(server: RunningServer, code: int) -> ServerExitedError:
    """Why a server that had been ready has ended: the cause if it is recognised, else the end of its log."""
    text = log_text(server.log)
    if cause := diagnose(text, code, repair=server.repair):
        return ServerExitedError(f"{server.name}: {cause.message} The engine's log: {server.log}")
    return ServerExitedError(
        f"{server.name}: the engine ended by itself (exit code {code}). Its log, {server.log}, ends with",
        detail=Redactor([server.key]).message(log_end(text)),
    )


def _bound(port: int) -> int | None:
    """Return a port that is free here, any for 0; None where it is taken."""
    with socket.socket() as probe:
        # As engines bind: connections that linger from an earlier server are in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])


# Whether it answers, and is ours.

_POLL_S = 0.25
# Health and the model list take milliseconds; a loaded machine may need seconds for them.
_PROBE_TIMEOUT_S = 20.0
# An engine that has just come up may still fail the first requests; one that is not well fails them all, and
# one that is about to end does so within a second, which says more than its reply.
_CHECKS = 3
_CHECK_WAIT_S = 1.0
PROBE_SIZE = (240, 150)
BLUE = (40, 80, 200)
_LARGEST_MESSAGE = 500


class NotYet(Exception):
    """The engine does not answer as it will: ask again."""


async def await_ready(root: str, *, name: str, own_name: str, key: Secret, check: Callable[[], None]) -> None:
    """Return once the engine at `root` has described an image in one token. `own_name` only it can know.

    Polls without end: the caller bounds the time, and sees whether the engine lives. `check` is called when
    it is up. Raises ServerError when it is up and refuses.
    """
    client = open_client(root, credentials=Credentials(key), connections=1, ca_bundle=None)
    polling = AsyncRetrying(retry=retry_if_exception_type(NotYet), wait=wait_fixed(_POLL_S))
    refusals = 0
    try:
        async for attempt in polling:
            with attempt:
                if (await _reply(client, "/health")).status_code != 200:
                    raise NotYet
                # Another server on our port has the health, too, and lists other names or wants another key.
                models = _object(await _reply(client, "/v1/models")).get("data")
                listed = models if isinstance(models, list) else []
                if own_name not in [each.get("id") for each in listed if isinstance(each, dict)]:
                    raise NotYet
        check()
        async for attempt in polling.copy(wait=wait_fixed(_CHECK_WAIT_S)):
            with attempt:
                upload = Upload([image_question(own_name)])
                reply = await _reply(client, "/v1/chat/completions", upload)
                choices = _object(reply).get("choices")
                first = choices[0] if isinstance(choices, list) and choices else None
                # An answer that was aborted does not count.
                if not isinstance(first, dict) or first.get("finish_reason") not in ("stop", "length"):
                    refusals += 1
                    if refusals < _CHECKS:
                        raise NotYet
                    words = reply.content[:_LARGEST_MESSAGE].decode("utf-8", "replace")
                    detail = Untrusted(f"status {reply.status_code}, {words}")
                    raise ServerError(
                        f"{name}: the engine is up but does not describe an image",
                        detail=Redactor([key]).message(detail),
                    )
    finally:
        await client.aclose()


async def _reply(client: Client, path: str, upload: Upload | None = None) -> httpx.Response:
    """Return what the engine says; NotYet if it does not.

    Its first image may take it as long as its start may.
    """
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S if upload is None else None):
            return await (client.get(path) if upload is None else client.ask(path, upload))
    except (TimeoutError, httpx.RequestError) as error:
        raise NotYet from error


def _object(reply: httpx.Response) -> dict[str, Any]:
    try:
        value = strict_json.loads(reply.content) if reply.status_code == 200 else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def image_question(model: str) -> bytes:
    """Return the body of a chat about the probe image that is to be answered in one token."""
    url = f"data:image/png;base64,{base64.b64encode(probe_image()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Describe the image."},
    ]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
        "temperature": 0,
    }
    return strict_json.dumps(body).encode()


def probe_image(color: tuple[int, int, int] = BLUE) -> bytes:
    """A PNG of red and another colour, wider than high, that every family takes."""
    from PIL import Image

    width, height = PROBE_SIZE
    image = Image.new("RGB", PROBE_SIZE, color)
    image.paste((200, 40, 40), (0, 0, width // 2, height))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
