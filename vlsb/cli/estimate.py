"""What a run would cost, from one sample that went through target and judge (`--dry-run`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlsb.endpoints.request import parse_dialect
from vlsb.records import JUDGED, Outcome, Usage
from vlsb.reports.figures import duration

if TYPE_CHECKING:
    from vlsb.config import ModelSettings
    from vlsb.evaluation.progress import ModelView
    from vlsb.evaluation.session import Plan, SessionEnd
    from vlsb.store.state import RunState

Measured = tuple[Usage, float]


def estimate(state: RunState, end: SessionEnd, plan: Plan) -> str:
    """The page: requests, tokens and time still to come, and what would be sent where."""
    outcomes = [state.outcome(key, end.judge) for key in state.asked_for()]
    unanswered = sum(o is Outcome.NOT_ATTEMPTED or o is Outcome.TARGET_ERROR for o in outcomes)
    unjudged = sum(o not in JUDGED for o in outcomes)
    left = {"target": unanswered, "judge": unjudged}
    lines = [f"Dry run: {len(outcomes):,} responses selected, {len(outcomes) - unjudged:,} judged so far."]
    for stage, settings in plan.models.items():
        tokens = settings.sampling.max_tokens
        if stage == "target" and (decision := state.manifest.decision) is not None:
            tokens = parse_dialect(decision).max_tokens or tokens
        view, measured = end.models.get(stage), _last_usage(state, end, stage)
        lines += _model(stage, settings, left[stage], measured, view, most_tokens=tokens)
    lines.append(
        "Nothing else was sent. The sample spent is kept; without --dry-run and with --resume it counts."
    )
    return "\n".join(lines)


def _last_usage(state: RunState, end: SessionEnd, stage: str) -> Measured | None:
    """Usage and latency of the model's last completion."""
    if stage == "target":
        found = [(r.usage, r.latency_s) for r in state.responses.values()]
    else:
        rows = state.judged[end.judge].verdicts.values() if end.judge in state.judged else ()
        found = [(v.usage, v.latency_s) for v in rows]
    return found[-1] if found else None


def _model(
    stage: str,
    settings: ModelSettings,
    left: int,
    measured: Measured | None,
    view: ModelView | None,
    *,
    most_tokens: int,
) -> Iterator[str]:
    yield ""
    yield f"{stage}  {settings.endpoint.model} at {settings.endpoint.base_url}"
    order = "text, then image" if stage == "target" else "image, then the judge's template"
    yield f"  sends     system prompt, {order}; at most {most_tokens} tokens back"
    yield f"  requests  {left:,}"
    if measured is None:
        yield "  tokens    unknown: the sample brought no answer"
        return
    usage, latency_s = measured
    if usage.input_tokens is None:
        yield "  tokens    unknown: the endpoint reports no usage"
    else:
        tokens_in, tokens_out = left * usage.input_tokens, left * (usage.output_tokens or 0)
        yield f"  tokens    about {tokens_in:,} in, {tokens_out:,} out"
    yield f"  time      about {_time(left, latency_s, view)}"


def _time(left: int, latency_s: float, view: ModelView | None) -> str:
    """At the limits in force: connections and, where known, requests a minute."""
    connections = 1 if view is None else view.limit
    seconds = left * latency_s / connections
    limit = f"{connections} connections, {latency_s:.2f} s each"
    if view is not None and view.rpm is not None and left * 60 / view.rpm > seconds:
        seconds, limit = left * 60 / view.rpm, f"{view.rpm:,.0f} requests a minute"
    return f"{duration(seconds)} at {limit}"
