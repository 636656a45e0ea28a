"""Plans of histories, each drawn from a seed.

A seed has some of the features and few kinds of faults, so that those it has come together more often than if
each history had a little of everything. Some seeds are chains: many sessions about the same few samples.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tests.simulation import faults
from tests.simulation.limits import LimitPlan, draw_limit
from tests.simulation.provider import HAS_SDK, CallFault, draw_batch_plans, draw_call_fault
from vlsb.config import UPLOAD_BYTES
from vlsb.simulator import BatchPlan

RETRIED = ("target_blocked", "target_empty", "judge_invalid", "judge_refused", "judge_truncated")
USD_PER_TOKEN = 1e-6
TOKENS = (800, 40)
USD_OF_ONE = sum(TOKENS) * USD_PER_TOKEN
"""What an answer costs."""
# What is put by for a request that is on its way, which may say more than it will.
RESERVED_USD = 0.05
MOST_SAMPLES = 8
# Within so many steps most sessions that try again are over.
STEPS_OF_A_RETRY = 150
# Of sessions about three samples or more.
SHARE_UNHEARD = 0.15
UNHEARD = frozenset({"no reply", "reset", "cut"})
"""Faults after which an endpoint may be taken to be down."""
FEATURES = ("outages", "skew", "jumps", "connections", "limits", "rpm", "retry", "stubborn", "other options")

End = Literal["kill", "cancel", "interrupt", "interrupt twice", "none"]


@dataclass(frozen=True)
class SessionPlan:
    """How one session goes: which request meets which fault, and how it ends, at which step of the loop.

    `stubborn` are faults that a lane and sample meet each time. `outages` are (second, seconds): when nobody
    can connect. `skew_s` moves the calendar before it, `jumps` while it goes on: (second, by seconds). Of the
    workload, it has so many samples and judges, or all. In a history by batch, `call_faults` are what calls
    of the batch API meet, by their number, and a session that `is_at_once` goes without `--batch`.
    """

    faults: Mapping[int, str] = field(default_factory=dict)
    stubborn: Mapping[tuple[str, int], str] = field(default_factory=dict)
    outages: Sequence[tuple[float, float]] = ()
    end: End = "none"
    at_step: int = 0
    skew_s: float = 0.0
    jumps: Sequence[tuple[float, float]] = ()
    samples: int | None = None
    judges: int | None = None
    connections: int | None = None
    max_requests: int | None = None
    max_cost: float | None = None
    rpm: float | None = None
    retry: Sequence[str] = ()
    call_faults: Mapping[int, CallFault] = field(default_factory=dict)
    is_at_once: bool = False


@dataclass(frozen=True)
class Plan:
    """A workload and its sessions.

    `budget_bytes` is the memory that request bodies may take, `batches` what becomes of the batches of a
    history by batch, None otherwise, and `limit` what the endpoint enforces and names.
    """

    samples: int
    epochs: int
    judges: int
    replicas: int
    latency_s: float
    budget_bytes: int
    sessions: Sequence[SessionPlan]
    batches: Sequence[BatchPlan] | None = None
    limit: LimitPlan | None = None


def draw_plan(seed: int) -> Plan:
    """The plan of a seed."""
    draw = random.Random(f"plan {seed}")
    is_chain, is_by_batch = draw.random() < 0.1, draw.random() < 0.12
    samples = draw.randint(1, 7 if draw.random() < 0.25 and not is_chain else 3)
    epochs, judges = draw.choice((1, 1, 1, 2)), draw.choice((1, 1, 1, 2))
    replicas = draw.choice((1, 1, 2)) if not is_by_batch else 1
    batches = draw_batch_plans(draw) if is_by_batch else None
    limit = draw_limit(draw) if draw.random() < 0.12 and not is_by_batch else None
    if limit is not None:
        samples, epochs = draw.randint(3, MOST_SAMPLES), draw.choice((1, 2, 3))
    features = {each for each in FEATURES if draw.random() < 0.25}
    if is_by_batch and draw.random() < 0.5:
        features.add("limits")
    names = [*faults.PASSING] * 3 + [*faults.ENDS] * 2 + [*faults.FATAL]
    kinds = draw.sample(names, draw.choice((1, 2, 4, 8, 16)))
    count = draw.randint(3, 6) if is_chain else draw.choice((1, 1, 1, 1, 1, 2, 2, 3))
    latency_s, budget_bytes = draw.choice((0.001, 0.05, 1)), draw.choice((UPLOAD_BYTES, 4000, 20_000))
    plan = Plan(samples, epochs, judges, replicas, latency_s, budget_bytes, ())
    plan = replace(plan, batches=batches if HAS_SDK else None, limit=limit)
    sessions = [_draw_session(draw, plan, features, kinds) for _ in range(count)]
    if is_chain:
        sessions = _chain(draw, plan, sessions)
    # A request that nobody heard of tells nothing of a limit either.
    if batches is None and limit is None and plan.samples > 2:
        sessions = [
            _unheard(random.Random(f"unheard {seed} {place}"), each, plan)
            for place, each in enumerate(sessions)
        ]
    return replace(plan, sessions=[*sessions, SessionPlan()])


def _unheard(draw: random.Random, session: SessionPlan, plan: Plan) -> SessionPlan:
    """Let now and then most requests about some samples of one lane get no reply, each time they are sent."""
    if draw.random() > SHARE_UNHEARD:
        return session
    lane, samples = (
        draw.choice(["t", *"jk"[: plan.judges]]),
        draw.sample(range(plan.samples), plan.samples - 1),
    )
    unheard = {(lane, sample): draw.choice(sorted(UNHEARD)) for sample in samples[:-1]}
    return replace(session, stubborn={**session.stubborn, **unheard, (lane, samples[-1]): "slow"})


def _chain(draw: random.Random, plan: Plan, sessions: Sequence[SessionPlan]) -> list[SessionPlan]:
    """Let the same samples end in the same way in each session, and every other session try them again."""
    pairs = [(lane, sample) for lane in ("t", *"jk"[: plan.judges]) for sample in range(plan.samples)]
    stubborn = {pair: draw.choice([*faults.ENDS]) for pair in pairs if draw.random() < 0.5}
    chain = []
    for number, each in enumerate(sessions):
        is_retry = number % 2 == 1
        chain.append(
            replace(
                each,
                stubborn=stubborn,
                retry=RETRIED if is_retry else (),
                end=draw.choice(("interrupt", "interrupt", "interrupt twice", "cancel", "kill"))
                if is_retry
                else draw.choice(("none", "none", each.end)),
                at_step=draw.randint(1, STEPS_OF_A_RETRY) if is_retry else each.at_step,
            )
        )
    return chain


def _draw_session(draw: random.Random, plan: Plan, features: set[str], kinds: Sequence[str]) -> SessionPlan:
    requests = plan.samples * plan.epochs * (1 + plan.judges) + 2
    ends: tuple[End, ...] = ("kill", "kill", "kill", "cancel", "interrupt", "interrupt twice", "none")
    lanes = ["t", *"jk"[: plan.judges]]

    def has(feature: str, share: float = 0.5) -> bool:
        return feature in features and draw.random() < share

    is_limited, limits_cost = has("limits"), draw.random() < (0.6 if plan.batches is None else 0.9)
    return SessionPlan(
        faults={draw.randint(1, requests * 2): draw.choice(kinds) for _ in range(draw.randint(0, 5))},
        stubborn={
            (draw.choice(lanes), draw.randint(0, plan.samples - 1)): draw.choice(
                [*faults.ENDS] * 2 + [*kinds]
            )
            for _ in range(draw.randint(1, 2) if has("stubborn") else 0)
        },
        outages=[(draw.uniform(0, 2), draw.choice((0.3, 5, 100, 400)))] if has("outages") else (),
        end=draw.choice(ends),
        at_step=draw.randint(1, 60 + 30 * requests),
        skew_s=draw.choice((-7200, 86400)) if has("skew") else 0,
        jumps=[(draw.uniform(0, 3), draw.choice((-7200, -1, 86400)))] if has("jumps") else (),
        samples=draw.randint(1, plan.samples) if has("other options") else None,
        judges=draw.randint(1, plan.judges) if has("other options") else None,
        connections=draw.choice((1, 2, 4)) if has("connections", 0.8) else None,
        max_requests=draw.randint(1, requests) if is_limited and not limits_cost else None,
        max_cost=draw.uniform(0, requests) * draw.choice((USD_OF_ONE, RESERVED_USD))
        if is_limited and limits_cost
        else None,
        rpm=draw.choice((6, 60, 600)) if has("rpm") else None,
        retry=draw.choice((RETRIED, RETRIED[:2], RETRIED[2:])) if has("retry") else (),
        call_faults={}
        if plan.batches is None
        else {draw.randint(1, 20): draw_call_fault(draw) for _ in range(draw.randint(0, 3))},
        is_at_once=plan.batches is not None and draw.random() < 0.1,
    )
