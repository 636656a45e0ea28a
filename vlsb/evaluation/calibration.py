"""A new judge labels a drawn part of a run first: which part, beside whose labels, and at what charge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

from vlsb.errors import ConfigError
from vlsb.evaluation.session import Plan, Resolved, SessionEnd, judge_files
from vlsb.judging.kinds import Answers
from vlsb.models.prices import may_charge
from vlsb.steps import in_thread
from vlsb.store.audit import draw_calibration
from vlsb.store.costs import Charge, decided_tokens
from vlsb.store.manifest import read_manifest
from vlsb.store.state import RunState, load_state


def calibration_part(plan: Plan, n: int) -> Plan:
    """Draw about `n` responses, and return the plan for these alone.

    With two judges in the plan the first is the old one, and is asked where it has not labelled. Raises
    ConfigError where there is nothing to compare.
    """
    old, new = compared_judges(plan)
    audit = draw_calibration(plan.directory, new, n=n, against=old, is_against_asked=len(plan.judges) > 1)
    return replace(plan, only=frozenset(item.key for item in audit.items))


async def run_calibrated(
    resolved: Resolved,
    n: int,
    carry_out: Callable[[Resolved], Awaitable[SessionEnd]],
    is_agreed: Callable[[Plan], Awaitable[bool]],
) -> tuple[Plan, SessionEnd]:
    """Judge about `n` drawn responses, then the rest where that is agreed to.

    Returns the plan that was carried out last, and how it ended.
    """
    part = await in_thread(lambda _: calibration_part(resolved.plan, n))
    end = await carry_out(replace(resolved, plan=part))
    if end.reason is not None or not await is_agreed(part):
        return part, end
    return resolved.plan, await carry_out(resolved)


def compared_judges(plan: Plan) -> tuple[str, str]:
    """Return the files of the old judge and the new one."""
    if any(judge.kind.answers is not Answers.LABELS for judge in plan.judges) or len(plan.judges) > 2:
        raise ConfigError(
            "--calibrate takes one judge that gives the three labels, or the old one and the new."
        )
    manifest = read_manifest(plan.directory)
    files = list(judge_files(plan, manifest).values())
    if len(files) == 2:
        return files[0], files[1]
    state = load_state(plan.directory)
    others = (each.file for each in manifest.judges if each.file != files[0] and each.is_asked)
    old = next((file for file in others if state.rows(file).verdicts), None)
    if old is None:
        raise ConfigError(
            f"--calibrate: no other judge has labelled {plan.directory}. Name the old judge before the new "
            "one: --judge OLD --judge NEW."
        )
    return old, files[0]


def unjudged(plan: Plan) -> int:
    """Count the responses that are left to judge, over the plan's judges."""
    state = load_state(plan.directory)
    return sum(state.pending(file) for file in judge_files(plan, state.manifest).values())


def charges(plan: Plan, state: RunState) -> dict[str, Charge]:
    """Return what the plan's judges are charged, by their files."""
    prices = plan.model_prices(datetime.now(UTC).date())
    return {
        file: Charge(
            price=prices.get(name),
            is_free=name not in prices and not may_charge(plan.models[name].endpoint),
            most_tokens=decided_tokens(state, file) or plan.models[name].sampling.max_tokens,
        )
        for name, file in judge_files(plan, state.manifest).items()
    }
