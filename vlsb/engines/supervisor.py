"""Keeping an engine up through a run: noticing its death, starting it again, finding the sample that kills.

Whatever was in flight when the engine died is suspect. After the restart the suspects go first and one at
a time: the one that is alone in flight when the engine dies again is the culprit, and is not sent a third
time, in no epoch. A death that has a culprit does not count against the restarts.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx

from vlsb.endpoints.retry import EngineGuard, Fate, InFlight
from vlsb.engines.launch import RunningServer, exited_error
from vlsb.errors import ServerError, VlsbError

STOP_GRACE_S = 15.0
# How long an engine may be unwell before it is ended. One that is dying exits within seconds; one on a busy
# machine may need many to say that it is well.
_DYING_S = 60.0
_HEALTH_TIMEOUT_S = 30.0
_LOAD_TIMEOUT_S = 5.0
_POLL_S = 0.2

Start = Callable[[RunningServer | None], Awaitable[RunningServer]]


class Supervisor(EngineGuard):
    """Looks after one engine. `start` starts it, and again on the address and with the key of the last one.

    `observe` is called with the number of each restart. With `keep`, an engine that is up at the end is given
    over to it instead of being stopped.
    """

    def __init__(
        self,
        start: Start,
        *,
        max_restarts: int,
        say: Callable[[str], None],
        observe: Callable[[int], None],
        keep: Callable[[RunningServer], None] | None = None,
    ) -> None:
        self._start = start
        self._max_restarts = max_restarts
        self._say = say
        self._observe = observe
        self._keep = keep
        self._server: RunningServer | None = None
        self._is_up = False
        self._failed: VlsbError | None = None
        self._deaths = 0
        self._restarts = 0
        self._unexplained = 0
        # Every request in flight, with the number of deaths when it was sent.
        self._in_flight: dict[InFlight, int] = {}
        self._suspects: set[InFlight] = set()
        self._coming_back: set[InFlight] = set()
        # Samples, not requests: another epoch asks the same.
        self._culprits: set[int] = set()
        self._change = asyncio.Event()
        self._on_change: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RunningServer]:
        """Give the engine, started and looked after while the block runs, stopped at its end."""
        self._server = await self._start(None)
        self._is_up = True
        watch = asyncio.create_task(self._watch())
        try:
            yield self._server
        finally:
            watch.cancel()
            is_kept = False
            try:
                await asyncio.wait([watch])
                if self._keep is not None and self._is_up and self._server.process.exit_code() is None:
                    self._keep(self._server)
                    is_kept = True
                elif self._keep is not None:
                    self._say(f"{self._server.name} is not kept: its engine has ended.")
            finally:
                if not is_kept:
                    await self._server.process.stop(STOP_GRACE_S)

    async def admit(self, request: InFlight) -> bool:
        """Return when the request may be sent; at once with False for a sample that killed the engine.

        Raises ServerError when the engine is gone for good.
        """
        while not self.admits(request):
            if self.has_killed(request):
                return False
            if self._failed is not None:
                raise self._failed
            await self._change.wait()
        return True

    def admits(self, request: InFlight) -> bool:
        """Tell whether the engine is up, and this request's turn has come."""
        if not self._is_up or self.has_killed(request):
            return False
        return not self._suspects or (request in self._suspects and not self._in_flight)

    def has_killed(self, request: InFlight) -> bool:
        """Tell whether its sample was alone in flight when the engine died."""
        return request.sample_id in self._culprits

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever what `admits` says may have changed."""
        self._on_change = on_change

    def depart(self, request: InFlight) -> None:
        """Return the request is sent."""
        self._in_flight[request] = self._deaths

    def leave(self, request: InFlight) -> None:
        """Return the attempt is over; a request that did not die with the engine is suspect no longer."""
        if self._in_flight.pop(request, None) is None:
            return
        if request in self._coming_back:
            self._coming_back.discard(request)
        else:
            self._suspects.discard(request)
        self._wake_all()

    async def fate(self, request: InFlight) -> Fate:
        """Tell whether an attempt that just failed, and has not left yet, did so because the engine died."""
        left_after = self._in_flight[request]
        if left_after == self._deaths and await self._is_alive():
            return Fate.ALIVE
        while left_after == self._deaths and self._failed is None:
            await self._change.wait()
        if self.has_killed(request):
            return Fate.KILLED_BY_SAMPLE
        self._coming_back.add(request)
        return Fate.LOST

    async def _is_alive(self) -> bool:
        """Tell whether the engine is well; one that is not is ended, so that it can be started again."""
        server, deaths = self._server, self._deaths
        assert server is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(_DYING_S):
                while deaths == self._deaths and server.process.exit_code() is None:
                    if await _is_healthy(server):
                        # The next engine answers at the same address.
                        return deaths == self._deaths
                    await asyncio.sleep(_POLL_S)
        if deaths == self._deaths:
            await server.process.stop(STOP_GRACE_S)
        return False

    async def _watch(self) -> None:
        """Start the engine again whenever it has ended, as long as that may help."""
        try:
            while self._failed is None:
                assert self._server is not None
                code = await self._server.process.wait()
                self._is_up = False
                self._note_death()
                if self._unexplained > self._max_restarts:
                    self._say(
                        f"The engine died after {self._restarts} restarts. Allow more with --max-restarts."
                    )
                    self._failed = exited_error(self._server, code)
                else:
                    await self._restart()
                self._wake_all()
        except Exception as error:
            # Whoever waits for the engine must learn of it, and only from this task.
            self._failed = ServerError(f"the engine is watched no longer ({type(error).__name__}).")
            self._wake_all()
            raise

    def _note_death(self) -> None:
        """Take note of a death: who was in flight is suspect, who was alone under suspicion is guilty."""
        victims = set(self._in_flight)
        self._deaths += 1
        if len(victims) == 1 and victims <= self._suspects:
            culprit = victims.pop().sample_id
            self._culprits.add(culprit)
            self._suspects = {each for each in self._suspects if each.sample_id != culprit}
            # Its first death was its doing too.
            self._unexplained = max(0, self._unexplained - 1)
        else:
            self._suspects |= victims
            self._unexplained += 1
        self._wake_all()

    async def _restart(self) -> None:
        self._restarts += 1
        self._observe(self._restarts)
        self._say("The engine died and is started again; what was in flight is sent again, one by one.")
        try:
            self._server = await self._start(self._server)
        except VlsbError as error:
            self._failed = error
        else:
            self._is_up = True
            self._say("The engine is up again.")

    def _wake_all(self) -> None:
        """Let everybody who waits for a change look again."""
        self._change.set()
        self._change = asyncio.Event()
        self._on_change()


async def _is_healthy(server: RunningServer) -> bool:
    client = server.client()
    try:
        async with asyncio.timeout(_HEALTH_TIMEOUT_S):
            return (await client.get("/health")).status_code == 200
    except (httpx.RequestError, TimeoutError):
        return False
    finally:
        await client.aclose()


# A label's value may hold any character, an escaped quote and a closing brace included.
_SAMPLE = re.compile(
    r"""(?P<name>[a-zA-Z_:][\w:]*)
    (?:\{(?P<labels>(?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?
    [ \t]+(?P<value>\S+)""",
    re.VERBOSE | re.ASCII,
)
_REASON = re.compile(r'(?:^|,)\s*finished_reason="((?:[^"\\]|\\.)*)"')

_ANSWERED = frozenset({"stop", "length"})


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """One look at an engine. Counters grow from its start; `cache_share` is of the fullest rank.

    `answered` counts requests that ended by `stop` or `length`, `unanswered` all others (aborted, failed).
    """

    running: int | None = None
    waiting: int | None = None
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    cache_share: float | None = None
    answered: int | None = None
    unanswered: int | None = None


def parse_metrics(text: str) -> EngineLoad:
    """Return the load that a `/metrics` page tells. What is not a sample is passed over."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for line in text.splitlines():
        if (sample := _SAMPLE.match(line)) is None:
            continue
        try:
            value = float(sample["value"])
        except ValueError:
            continue
        if not math.isfinite(value) or value < 0:
            continue
        name = sample["name"]
        if name == "vllm:request_success_total":
            reason = _REASON.search(sample["labels"] or "")
            name = "answered" if reason is not None and reason[1] in _ANSWERED else "unanswered"
        values[name].append(value)
    shares = values.get("vllm:kv_cache_usage_perc") or values.get("vllm:gpu_cache_usage_perc")
    return EngineLoad(
        running=_total(values.get("vllm:num_requests_running")),
        waiting=_total(values.get("vllm:num_requests_waiting")),
        prompt_tokens=_total(values.get("vllm:prompt_tokens_total")),
        generation_tokens=_total(values.get("vllm:generation_tokens_total")),
        cache_share=min(1.0, max(shares)) if shares else None,
        answered=_total(values.get("answered")),
        unanswered=_total(values.get("unanswered")),
    )


async def read_load(client: httpx.AsyncClient) -> EngineLoad | None:
    """Return what the engine behind a client says of its load; None if it does not."""
    try:
        async with asyncio.timeout(_LOAD_TIMEOUT_S):
            reply = await client.get("/metrics")
    except (httpx.RequestError, TimeoutError):
        return None
    return parse_metrics(reply.content.decode("utf-8", "replace")) if reply.status_code == 200 else None


def _total(values: list[float] | None) -> int | None:
    return None if not values else round(sum(values))
