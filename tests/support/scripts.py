"""What tests tell the simulator: queues of actions, behaviours by sample, mixed faults."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from vlsb.simulator.actions import (
    Action,
    Cut,
    Hangup,
    Json,
    Reply,
    Responder,
    answer,
    error,
    rate_limited,
    verdict,
)
from vlsb.simulator.requests import Request


def plain_responder(request: Request) -> Action:
    """The same answer to every target request, and "Unsafe" to every judge request."""
    return verdict(3) if request.is_judge else answer("Here is a plain answer.")


class ActionQueue:
    """Actions to take next, one for each request; a callable is asked when its turn comes."""

    def __init__(self) -> None:
        self._waiting: deque[Action | Responder] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def enqueue(self, *actions: Action | Responder) -> None:
        """Add actions in the order in which they are to be taken."""
        self._waiting.extend(actions)

    def take(self, request: Request) -> Action | Awaitable[Action]:
        """Remove the next action and give it; `IndexError` when there is none."""
        action = self._waiting.popleft()
        return action(request) if callable(action) else action


class Script:
    """A responder for tests: first the lane's queue, then the behaviours by sample, then `otherwise`."""

    def __init__(self, otherwise: Responder = plain_responder) -> None:
        self.target = ActionQueue()
        self.judge = ActionQueue()
        self._otherwise = otherwise
        self._behaviours: list[Callable[[Request], Action | None]] = []

    def by_sample(self, behaviour: Callable[[Request], Action | None]) -> None:
        """Ask `behaviour` about every request that no queue took; None leaves it to the next.

        `Request.instruction` names the sample in both lanes, `Request.identity` the single request.
        """
        self._behaviours.append(behaviour)

    def __call__(self, request: Request) -> Action | Awaitable[Action]:
        queue = self.judge if request.is_judge else self.target
        if queue:
            return queue.take(request)
        decided = (behaviour(request) for behaviour in self._behaviours)
        action = next((each for each in decided if each is not None), None)
        return self._otherwise(request) if action is None else action


FAULT_KINDS = ("rate_limit", "server_error", "hangup", "broken_body")


def mixed_faults(
    responder: Responder,
    *,
    share: float = 0.2,
    seed: int,
    most_per_request: int = 2,
    kinds: Collection[str] = FAULT_KINDS,
) -> Responder:
    """`responder`, with a share of the distinct requests failing once or more before it is asked.

    Which ones fail, how often (at most `most_per_request`) and how is a matter of the seed and the
    request's identity, never of the order of arrival. `kinds` are those of `FAULT_KINDS` that occur.
    """
    by_kind = _faults()
    faults = [fault for kind in FAULT_KINDS if kind in kinds for fault in by_kind[kind]]
    failed: dict[str, int] = {}

    def respond(request: Request) -> Action | Awaitable[Action]:
        draw = hashlib.sha256(f"{seed}:{request.identity}".encode()).digest()
        is_chosen = int.from_bytes(draw[:8]) < share * 2**64
        so_far = failed.get(request.identity, 0)
        if not is_chosen or so_far > draw[8] % most_per_request:
            return responder(request)
        failed[request.identity] = so_far + 1
        return faults[(int.from_bytes(draw[9:11]) + so_far) % len(faults)]

    return respond


def _faults() -> dict[str, tuple[Action, ...]]:
    half = answer("Half of an answer that never arrives whole.")
    html = Reply(
        body="<html><body>One moment, please.</body></html>", headers=(("content-type", "text/html"),)
    )
    return {
        "rate_limit": (rate_limited(0.05), rate_limited(), Reply(429, [{"error": _resource_exhausted()}])),
        "server_error": (
            error(500, type="server_error"),
            error(503, type="server_error"),
            Reply(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        ),
        "hangup": (Hangup(), Hangup(reset=True)),
        "broken_body": (
            Cut(half, -40),
            Cut(replace(half, unsized=True), -40),
            Cut(replace(half, chunked=True), -40),
            html,
            Reply(),
            Reply(
                body={
                    "error": {"message": "Internal Server Error", "code": 500},
                    "user_id": "user_simulated",
                }
            ),
            Reply(body={"id": "chatcmpl-simulated", "object": "chat.completion", "model": "simulated"}),
            answer("Half of an answer", finish_reason="error"),
        ),
    }


def _resource_exhausted() -> Json:
    kind = "type.googleapis.com/google.rpc."
    violation = {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}
    details = [
        {"@type": f"{kind}QuotaFailure", "violations": [violation]},
        {"@type": f"{kind}RetryInfo", "retryDelay": "0.05s"},
    ]
    return {"code": 429, "message": "Too many requests.", "status": "RESOURCE_EXHAUSTED", "details": details}


class RateLimit:
    """A responder that serves so many requests a minute and answers the rest with 429.

    Windows are fixed and begin with the first request. With `says_limits` every reply carries the headers
    `x-ratelimit-{limit,remaining,reset}-requests`; without, a 429 has nothing but its status.
    """

    def __init__(self, responder: Responder, *, rpm: int, says_limits: bool, window_s: float = 60.0) -> None:
        self.served: list[float] = []
        self.refused: list[float] = []
        self._responder = responder
        self._rpm = rpm
        self._says_limits = says_limits
        self._window_s = window_s
        self._window_began = float("-inf")
        self._used = 0

    async def __call__(self, request: Request) -> Action:
        now = request.received_at
        if now >= self._window_began + self._window_s:
            # The first window begins with the first request, the next ones on its beat.
            missed = max(0, int((now - self._window_began) / self._window_s)) if self.served else 0
            self._window_began = self._window_began + missed * self._window_s if self.served else now
            self._used = 0
        if self._used >= self._rpm:
            self.refused.append(now)
            return replace(rate_limited(), headers=self._headers(now))
        self._used += 1
        self.served.append(now)
        action = self._responder(request)
        reply = await action if isinstance(action, Awaitable) else action
        return replace(reply, headers=self._headers(now)) if isinstance(reply, Reply) else reply

    def _headers(self, now: float) -> tuple[tuple[str, str], ...]:
        if not self._says_limits:
            return ()
        reset_s = self._window_began + self._window_s - now
        return (
            ("x-ratelimit-limit-requests", str(self._rpm)),
            ("x-ratelimit-remaining-requests", str(self._rpm - self._used)),
            ("x-ratelimit-reset-requests", f"{reset_s:.3f}s"),
        )
