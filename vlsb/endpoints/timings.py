"""Where the time of an endpoint's requests goes: a few readings of the clock a request.

Counts and sums alone are kept: they say what limited a run. No content, no ids: numbers of seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import IntEnum

from vlsb.steps import Durations


class Moments:
    """Moments of one exchange on the monotonic clock; 0 for what did not happen. Transports set them.

    `opened_at`: a connection is held; `sent_at`: the last byte of the request was handed to the system;
    `first_byte_at`: the head of the reply is there.
    """

    __slots__ = ("began_at", "first_byte_at", "opened_at", "sent_at")

    def __init__(self) -> None:
        self.began_at = time.monotonic()
        self.opened_at = self.sent_at = self.first_byte_at = 0.0


class Wait(IntEnum):
    """What the head of a line waits for; LOOP: for its turn on the event loop, and nothing else."""

    NOTHING = 0
    CONNECTION = 1
    RATE = 2
    OUTAGE = 3
    LOOP = 4


class HeadOfLine:
    """For how long nothing could leave, by cause. A line has one head, so sums never overlap."""

    __slots__ = ("_clock", "_since", "_sums", "_what")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sums = [0.0 for _ in Wait]
        self._what = Wait.NOTHING
        self._since = clock()

    @property
    def what(self) -> Wait:
        """What it waits for now."""
        return self._what

    def waits_for(self, what: Wait) -> None:
        """Note that the head goes on to the next thing."""
        now = self._clock()
        self._sums[self._what] += now - self._since
        self._what, self._since = what, now

    def waited_s(self, what: Wait) -> float:
        """Seconds spent on one cause so far, the wait that is under way included."""
        return self._sums[what] + (self._clock() - self._since if self._what is what else 0.0)

    def pauses_s(self) -> tuple[float, float]:
        """Seconds of rate limits and of outages so far: what every waiting request waits for alike."""
        return self.waited_s(Wait.RATE), self.waited_s(Wait.OUTAGE)


class Timings:
    """One endpoint's time, step by step. `STEPS` are its attributes, in the order in which they happen."""

    STEPS = (
        "slot",
        "rate",
        "outage",
        "room",
        "body",
        "connect",
        "upload",
        "first_byte",
        "reply",
        "request",
        "retry",
        "total",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self.head = HeadOfLine(clock)
        self.slot, self.rate, self.outage = Durations(), Durations(), Durations()
        self.room, self.body = Durations(), Durations()
        self.connect, self.upload, self.first_byte = Durations(), Durations(), Durations()
        self.reply, self.request = Durations(), Durations()
        self.retry, self.total = Durations(), Durations()

    @property
    def steps(self) -> Mapping[str, Durations]:
        """Every step by its name."""
        return {name: getattr(self, name) for name in self.STEPS}

    def add_queueing(
        self, waited_s: float, pauses_before: tuple[float, float], engine_s: float = 0.0
    ) -> None:
        """A request stood in line for `waited_s`, `engine_s` of it for an engine that was not up.

        Whatever was no pause was waiting for its turn.
        """
        rate_s, outage_s = self.head.pauses_s()
        rate_s, outage_s = rate_s - pauses_before[0], outage_s - pauses_before[1] + engine_s
        self.rate.add(rate_s)
        self.outage.add(outage_s)
        self.slot.add(max(0.0, waited_s - rate_s - outage_s))

    def add_exchange(self, marks: Moments) -> None:
        """A request is over, answered or not: count the steps that it came to."""
        now = time.monotonic()
        self.request.add(now - marks.began_at)
        if marks.opened_at:
            self.connect.add(marks.opened_at - marks.began_at)
        if marks.opened_at and marks.sent_at:
            self.upload.add(marks.sent_at - marks.opened_at)
        if marks.sent_at and marks.first_byte_at:
            # A reply may come before the whole request was read.
            self.first_byte.add(max(0.0, marks.first_byte_at - marks.sent_at))
        if marks.first_byte_at:
            self.reply.add(now - marks.first_byte_at)
