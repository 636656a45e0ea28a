"""A provider's batch API, which outlives the sessions of a history: how its batches go, and what was paid.

A batch that was made stands at the provider whether or not the session that made it lives on, and whether or
not the reply that said so arrived.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from importlib.util import find_spec

import orjson

from tests.simulation import faults
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, BatchPlan, Reply, Request, error
from vlsb.simulator.batches import Batches

REFUSALS = ("429", "429 with a wait")
"""Replies after which nothing was made: who gets one may rightly ask again."""

HAS_SDK = all(map(find_spec, ("openai", "aiofiles")))
"""Whether the extra `batch` is installed: without it no history is by batch."""

MOST_BATCHES = 12
# More downloads than a session tries.
MOST_HALVES = 9

Key = tuple[str, int]
"""A lane, `t` for the target or a judge's name, and a sample."""


@dataclass(frozen=True)
class CallFault:
    """A fault that a call of the batch API meets; one that `is_lost` was carried out all the same."""

    name: str
    is_lost: bool = False


def draw_call_fault(draw: random.Random) -> CallFault:
    """Draw a fault of a call."""
    name = draw.choice([*faults.PASSING] * 4 + [*faults.FATAL])
    may_be_lost = name in faults.PASSING and name not in REFUSALS
    return CallFault(name, is_lost=may_be_lost and draw.random() < 0.5)


def _reversed(lines: list[bytes]) -> list[bytes]:
    return lines[::-1]


def _twice(lines: list[bytes]) -> list[bytes]:
    return [*lines, *lines]


def _among_others(lines: list[bytes]) -> list[bytes]:
    return [b"not JSON", *lines, orjson.dumps({"custom_id": "1-1-1-foreign", "response": None}), b""]


def _half_at_first(content: bytes, download: int) -> bytes:
    return content[: len(content) // 2] if download == 1 else content


def _half_for_long(content: bytes, download: int) -> bytes:
    return content[: len(content) // 2] if download <= MOST_HALVES else content


def draw_batch_plans(draw: random.Random) -> list[BatchPlan]:
    """Draw what becomes of the batches of a history: all end in part, or each as it happens."""
    if draw.random() < 0.3:
        ends, serve = draw.choice(("expired", "cancelled")), draw.choice((_half_at_first, _half_for_long))
        plan = BatchPlan(ends=ends, answers=draw.randint(1, 3), names_unasked=False, serve=serve)
        return [plan] * MOST_BATCHES
    return [_draw_batch_plan(draw) for _ in range(MOST_BATCHES)]


def _draw_batch_plan(draw: random.Random) -> BatchPlan:
    ends = draw.choice(("completed",) * 7 + ("expired", "cancelled", "failed"))
    creation = draw.choice((None,) * 5 + (error(500), error(503)))
    return BatchPlan(
        polls=draw.choice((0, 0, 1, 3)),
        ends=ends,
        answers=draw.randint(0, 3) if ends in ("expired", "cancelled") else None,
        names_unasked=draw.random() < 0.5,
        error=draw.choice(("invalid_json_line", "token_limit_exceeded")),
        spoil=draw.choice((list, list, list, _reversed, _twice, _among_others)),
        creation=creation,
        is_made=creation is None or draw.random() < 0.5,
        unlisted=draw.choice((0, 0, 1, 3, 9)),
        unknown=draw.choice((0, 0, 0, 1, 3)),
        late=draw.choice((0, 0, 2)),
        fileless=draw.choice((0, 0, 2)),
        serve=draw.choice((_whole, _whole, _half_at_first, _half_for_long)),
    )


def _whole(content: bytes, _: int) -> bytes:
    return content


class Provider(Batches):
    """The batch API of all sessions of a history.

    `respond` answers a request of a batch, in the session that runs. `call_faults` are what its calls meet,
    by their number in that session.
    """

    def __init__(self, plans: Sequence[BatchPlan], draw: random.Random) -> None:
        super().__init__(self._ask)
        self.plan = lambda number: plans[number - 1] if number <= len(plans) else BatchPlan()
        self.respond: Callable[[Request], Action]
        self.call_faults: Mapping[int, CallFault] = {}
        self.calls = 0
        self._draw = draw
        self._again = Counter[Key]()
        self._bought = Counter[Key]()

    async def answer(self, request: Request) -> Action | None:
        """Answer a call, or let it meet its fault."""
        self.calls += 1
        fault = self.call_faults.get(self.calls)
        if fault is None:
            return await super().answer(request)
        whole = await super().answer(request) if fault.is_lost else Reply()
        assert isinstance(whole, Reply)
        return faults.ALL[fault.name](self._draw, whole)

    def ask_again(self, names: Iterable[str]) -> None:
        """Note that the user lets these requests be paid for once more; custom ids."""
        asked = dict(_named(line) for lines in self.submitted for line in lines)
        self._again.update(asked[name] for name in names if name in asked)

    def buy(self, request: Request) -> None:
        """Note that an answer was given, which somebody pays for."""
        self._bought[key_of(request)] += 1

    def paid_too_often(self, times: int) -> set[Key]:
        """Return what is paid for more than so many times, beyond what the user said.

        What a batch asks that has not ended will be paid for, whether anybody looks at it or not.
        """
        count = self._bought.copy()
        for batch in self._batches.values():
            if batch.status in ("validating", "in_progress") and batch.plan.ends == "completed":
                count.update(key for _, key in map(_named, batch.lines))
        return {key for key in count if count[key] > times + self._again[key]}

    def as_it_is(self) -> Provider:
        """Return a provider that goes on from here, whatever becomes of this one."""
        other = copy(self)
        other._respond = other._ask
        other.submitted, other.paid = self.submitted.copy(), self.paid.copy()
        other._files, other._bought = self._files.copy(), self._bought.copy()
        other._batches = {name: deepcopy(each) for name, each in self._batches.items()}
        return other

    async def _ask(self, request: Request) -> Action:
        return self.respond(request)


def key_of(request: Request) -> Key:
    """Return what a request asks for."""
    return (request.model or "" if request.is_judge else "t", sample_of(request))


def _named(line: bytes) -> tuple[str, Key]:
    row = orjson.loads(line)
    return row["custom_id"], key_of(Request(0, "POST", row["url"], {}, orjson.dumps(row["body"]), 0.0))
