"""Make a failing history short: leave out and make simpler what it fails without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from tests.simulation.plans import Plan, SessionPlan
from vlsb.simulator import BatchPlan

MOST_TRIES = 300


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The simplest plan found that still fails."""
    tries = 0
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for simpler in _simpler(plan):
            tries += 1
            if tries > MOST_TRIES:
                return plan
            if fails(simpler):
                plan, is_smaller = simpler, True
                break
    return plan


def _simpler(plan: Plan) -> Iterator[Plan]:
    for number in range(len(plan.sessions) - 1):
        yield replace(plan, sessions=[*plan.sessions[:number], *plan.sessions[number + 1 :]])
    for name in ("samples", "epochs", "judges", "replicas"):
        value = getattr(plan, name)
        for less in sorted({1, value // 2, value - 1}):
            if 1 <= less < value:
                yield replace(plan, **{name: less})
    if plan.limit is not None:
        yield replace(plan, limit=None)
    for number, batch in enumerate(plan.batches or ()):
        if batch != BatchPlan():
            batches = [*(plan.batches or ())]
            batches[number] = BatchPlan()
            yield replace(plan, batches=batches)
    if plan.batches and plan.batches[-1] == BatchPlan():
        yield replace(plan, batches=plan.batches[:-1])
    for number, session in enumerate(plan.sessions[:-1]):
        for simpler in _simpler_session(session):
            yield replace(plan, sessions=[*plan.sessions[:number], simpler, *plan.sessions[number + 1 :]])


def _simpler_session(session: SessionPlan) -> Iterator[SessionPlan]:
    for name in ("faults", "stubborn", "call_faults"):
        faults = getattr(session, name)
        for number in faults:
            yield replace(session, **{name: {key: faults[key] for key in faults if key != number}})
    plain = SessionPlan()
    for each in fields(SessionPlan):
        if each.name not in ("faults", "stubborn", "call_faults", "at_step") and getattr(
            session, each.name
        ) != getattr(plain, each.name):
            yield replace(session, **{each.name: getattr(plain, each.name)})
