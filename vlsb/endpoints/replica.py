"""One address of a model: its client and its account, what it can take now, and who is probing it.

Most models have one. Several engines of one model, or several addresses, are its replicas: each may be full,
rate-limited or down by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict
from urllib.parse import urlsplit

from vlsb.config import Party
from vlsb.endpoints.connect import Client
from vlsb.endpoints.connections import ConnectionLimit, Health
from vlsb.endpoints.faults import Decision
from vlsb.endpoints.headers import NamedLimit
from vlsb.endpoints.rate_limits import Account, Departure
from vlsb.endpoints.retry import Attempts, EngineGuard, Rejections
from vlsb.endpoints.timings import Wait
from vlsb.endpoints.traffic import Event, RunContext
from vlsb.errors import OutageError, VlsbError
from vlsb.records import Usage

Obstacle = tuple[Wait, float | None]
"""What a request has to wait for, and how many seconds; None for a change."""
_CONCURRENCY = "concurren"
_TOO_STEEP = "slow_down"


class ReplicaFields(TypedDict, total=False):
    """The fields of an event that tell replicas apart."""

    replica: int
    address: str


def place_of(base_url: str, number: int | None) -> ReplicaFields:
    """Say which of several replicas one is, as events do; nothing for one that is alone."""
    return {} if number is None else {"replica": number, "address": urlsplit(base_url).netloc}


class Replica:
    """Where a model can be asked. `number` tells it from the others, None for one that is alone.

    `rejections` ends it where every sample ends for the same reason.
    """

    def __init__(
        self,
        party: Party,
        http: Client,
        context: RunContext,
        *,
        account: Account,
        connections: ConnectionLimit,
        guard: EngineGuard | None = None,
    ) -> None:
        self.party = party
        self.http = http
        self.account = account
        self.connections = connections
        self.guard = guard or EngineGuard()
        self.health = Health(context.time.clock)
        self.number: int | None = None
        self.in_flight = 0
        self.sent = 0
        self.rejections = Rejections(str(party))
        self._context = context
        self._policy = context.policy
        self._clock = context.time.clock
        self._reported_limit = connections.limit
        self._probes: set[Pass] = set()
        self._probe_count = 0
        self._next_probe_at = 0.0
        self._on_change: Callable[[], None] = lambda: None

    def join(self, on_change: Callable[[], None], number: int | None) -> None:
        """Become one of a model's: `on_change` is called when requests that wait may have a chance."""
        self._on_change, self.number = on_change, number
        self.guard.watch(on_change)

    @property
    def place(self) -> ReplicaFields:
        """As `place_of`."""
        return place_of(self.party.endpoint.base_url, self.number)

    @property
    def is_down(self) -> bool:
        """Whether it is taken to be down."""
        return self.health.down_since is not None

    def obstacle(self) -> Obstacle | None:
        """Say what a request has to wait for; None if it may leave.

        Raises GapsError or OutageError when waiting is no use.
        """
        if (down_since := self.health.down_since) is not None:
            now = self._clock()
            left_s = down_since + self._policy.outage_timeout_s - now
            if left_s <= 0:
                raise OutageError(
                    f"{self.party}: no answer for {self._policy.outage_timeout_s:g} s ({self.health.code}). "
                    "Resume when it is back, or wait longer with --outage-timeout."
                )
            if now < self._next_probe_at:
                return Wait.OUTAGE, min(left_s, self._next_probe_at - now)
            youngest = max((probe.departure.at for probe in self._probes), default=-math.inf)
            if now - youngest < self._policy.probe_cap_s:
                return Wait.OUTAGE, None
        self.account.require_patience(str(self.party), self._policy.sample_timeout_s)
        if (wait_s := self.account.rates.wait_s()) > 0:
            return Wait.RATE, wait_s
        is_full = self.in_flight >= self.connections.limit and down_since is None
        return (Wait.CONNECTION, None) if is_full else None

    def probe_patience_s(self) -> float | None:
        """Seconds after which a probe that hangs does not keep the next one; None while it is up."""
        if (since := self.health.down_since) is None:
            return None
        left_s = since + self._policy.outage_timeout_s - self._clock()
        return max(0.001, min(self._policy.probe_cap_s, left_s))

    def depart(self, attempts: Attempts) -> Pass:
        """A request leaves for it."""
        self.guard.depart(attempts.request)
        self.in_flight += 1
        self.sent += 1
        admitted = Pass(
            self,
            attempts,
            self.account.rates.depart(),
            self.health.depart(),
            is_probe=self.is_down,
            is_retry=attempts.sent > 0,
            outages=self.health.outages,
        )
        if admitted.is_probe:
            self._probes.add(admitted)
            self._probe_count += 1
        return admitted

    def read_limits(self, admitted: Pass, limits: Sequence[NamedLimit]) -> None:
        """Take in what the headers of a reply name."""
        self.account.rates.read_headers(admitted.departure, limits)

    def count_reply(self, admitted: Pass, usage: Usage | None) -> None:
        """It replied, and is up; with `usage` the model served the request."""
        self.account.accept(admitted.departure, usage)
        self._count_alive(admitted)
        if usage is not None:
            self.connections.count_success(in_flight=self.in_flight, is_retry=admitted.is_retry)
            self._report_limit("")

    def count_refusal(self, admitted: Pass, decision: Decision) -> None:
        """It asked for a pause. Raises GapsError when there is no use in waiting."""
        self._count_alive(admitted)
        pause_s, code = self.account.refuse(admitted.departure, decision.retry_after_s), decision.code
        if pause_s is not None:
            cuts = code == _TOO_STEEP or _CONCURRENCY in code
            self.connections.refuse(pause_s=pause_s, cuts=cuts, too_steep=code == _TOO_STEEP)
            self._report_limit(code)
            kind = "long_wait" if pause_s > self._policy.long_wait_s else "rate_limit"
            self._observe(kind, code=code, wait_s=pause_s, status=decision.status)
        self.account.require_patience(str(self.party), self._policy.sample_timeout_s, decision.message)

    def count_failure(self, admitted: Pass, code: str) -> None:
        """Nothing usable came back; excused if it is down, or was while this request was out."""
        self.connections.begin_round()
        self.account.rates.settle(admitted.departure)
        sample_id, health = admitted.attempts.sample_id, self.health
        if health.count_failure(admitted.booking, sample_id, code, self.connections.limit):
            self._probe_count = 0
            self._next_probe_at = self._clock() + self._probe_pause_s()
            self._observe("outage", sample_id=sample_id, code=code)
            self._on_change()
        is_excused = self.is_down or admitted.is_probe or admitted.outages != health.outages
        admitted.attempts.is_excused = is_excused

    def leave(self, admitted: Pass) -> None:
        """Note that the attempt is over, whatever came of it."""
        self.in_flight -= 1
        self.health.leave(admitted.booking)
        if admitted in self._probes:
            self._probes.discard(admitted)
            self._next_probe_at = self._clock() + self._probe_pause_s()
        self.guard.leave(admitted.attempts.request)
        self._on_change()

    def _count_alive(self, admitted: Pass) -> None:
        down_s = self.health.count_answer()
        if down_s is not None:
            self._probes.clear()
            self.connections.restart()
            self._report_limit("")
            self._observe("recovered", sample_id=admitted.attempts.sample_id, wait_s=down_s)
            self._on_change()

    def _probe_pause_s(self) -> float:
        return min(self._policy.probe_cap_s, self._policy.backoff_s * 2.0 ** min(self._probe_count, 30))

    def _report_limit(self, code: str) -> None:
        limit = self.connections.limit
        if limit != self._reported_limit:
            self._reported_limit = limit
            self._observe("limit", code=code, limit=limit)
            self._on_change()

    def give_up(self, error: VlsbError) -> None:
        """Nothing is sent to it any more: others are left."""
        self._observe("replica_lost", code=type(error).__name__, reason=error.message)
        self._on_change()

    def _observe(
        self,
        kind: str,
        *,
        sample_id: int | None = None,
        code: str = "",
        wait_s: float | None = None,
        status: int | None = None,
        limit: int | None = None,
        reason: str = "",
    ) -> None:
        about = Event(
            kind, self.party.stage, sample_id, code, wait_s, status=status, limit=limit, reason=reason
        )
        self._context.observe(replace(about, **self.place))


@dataclass(slots=True, eq=False)
class Pass:
    """One attempt that may be sent to a replica: what was booked there, and how many outages it had then."""

    replica: Replica
    attempts: Attempts
    departure: Departure
    booking: int
    is_probe: bool
    is_retry: bool
    outages: int
