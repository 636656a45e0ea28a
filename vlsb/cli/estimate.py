"""What a run would cost, from some samples that went through target and judge (`--dry-run`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from vlsb.analysis.correction import TotalForecast
from vlsb.evaluation.progress import judge_names
from vlsb.models.prices import Price, may_charge
from vlsb.records import JUDGED, Outcome
from vlsb.reports.report import counted, dollars, duration
from vlsb.store.costs import Measured, RestCost, decided_tokens, measure_answers, rest_cost, summed

if TYPE_CHECKING:
    from vlsb.config import ModelSettings
    from vlsb.evaluation.progress import ModelView
    from vlsb.evaluation.session import Plan, SessionEnd
    from vlsb.store.state import RunState


class _Rest(NamedTuple):
    """What is left to ask of one model: requests, and the tokens of them all, 0 where nobody counts them."""

    requests: int
    tokens: float


def estimate(state: RunState, end: SessionEnd, plan: Plan, *, today: date) -> str:
    """Write the page: requests, tokens, money and time still to come, and what would be sent where."""
    outcomes = [state.outcome(key, end.judge) for key in state.asked_for()]
    unjudged = sum(o not in JUDGED for o in outcomes)
    # A judge's file by the name that the session gives it.
    files = dict(zip(judge_names(len(plan.judges)), end.judges, strict=False))
    lines = [f"Dry run: {len(outcomes):,} responses selected, {len(outcomes) - unjudged:,} judged so far."]
    prices, costs = plan.model_prices(today), {}
    rests = {}
    for stage in plan.models:
        left = _left(state, files.get(stage))
        usages = [usage for usage, _ in measure_answers(state, files.get(stage)) if usage.is_whole]
        spent = [
            (usage.input_tokens or 0) + (usage.output_tokens or 0) + (usage.thought_tokens or 0)
            for usage in usages
        ]
        rests[stage] = _Rest(left, left * fmean(spent) if spent else 0.0)
    for stage, settings in plan.models.items():
        tokens = decided_tokens(state, files.get(stage)) or settings.sampling.max_tokens
        measured, rest = measure_answers(state, files.get(stage)), _left(state, files.get(stage))
        view = end.models.get(stage)
        sharing = [stage, *sorted((view.shares_with if view else frozenset()) & rests.keys())]
        lines += _model(stage, settings, rest, measured, most_tokens=tokens)
        if measured:
            latency_s = fmean(latency_s for _, latency_s in measured)
            lines.append(f"  time      about {_time(rest, latency_s, view, {e: rests[e] for e in sharing})}")
        price = prices.get(stage)
        if price is not None and measured:
            usages = [usage for usage, _ in measured if usage.is_whole]
            costs[stage] = rest_cost(price, usages, rest, most_tokens=tokens)
            lines.append(f"  cost      {cost_text(*costs[stage])}")
        elif price is None and may_charge(settings.endpoint):
            lines.append(f"  cost      unknown: no price for {settings.endpoint.model}; --prices takes yours")
    lines += _together([costs.get(stage) for stage in plan.models], [prices[stage] for stage in costs])
    lines.append(
        "Nothing else was sent. The samples spent are kept; without --dry-run and with --resume they count."
    )
    return "\n".join(lines)


def _left(state: RunState, judge: str | None) -> int:
    """Count responses still to be asked for, or to be judged by the judge of that file."""
    outcomes = ((key, state.outcome(key, judge)) for key in state.asked_for())
    if judge is None:
        return sum(o is Outcome.NOT_ATTEMPTED or o is Outcome.TARGET_ERROR for _, o in outcomes)
    return sum(o not in JUDGED and state.finding(key, judge) is None for key, o in outcomes)


def _model(
    stage: str, settings: ModelSettings, left: int, measured: Sequence[Measured], *, most_tokens: int
) -> Iterator[str]:
    yield ""
    yield f"{stage}  {settings.endpoint.model} at {', '.join(settings.base_urls)}"
    order = "text, then image" if stage == "target" else "image, then the judge's template"
    yield f"  sends     system prompt, {order}; at most {most_tokens} tokens back"
    yield f"  requests  {left:,}"
    if not measured:
        yield "  tokens    unknown: no sample brought an answer"
        return
    counted_usages = [usage for usage, _ in measured if usage.is_whole]
    if not counted_usages:
        yield "  tokens    unknown: the endpoint does not report them"
    else:
        tokens_in = left * fmean(usage.input_tokens or 0 for usage in counted_usages)
        tokens_out = left * fmean(
            (usage.output_tokens or 0) + (usage.thought_tokens or 0) for usage in counted_usages
        )
        samples = counted(len(counted_usages), "sample")
        yield f"  tokens    about {tokens_in:,.0f} in, {tokens_out:,.0f} out, from {samples}"


def _time(left: int, latency_s: float, view: ModelView | None, sharing: Mapping[str, _Rest]) -> str:
    """Say the time at the limit that takes longest: connections or, where known, requests or tokens a minute.

    `sharing` is the rest of all models that spend these, this one first.
    """
    connections = 1 if view is None else view.limit
    limits = [(left * latency_s / connections, f"{connections} connections, {latency_s:.2f} s each")]
    shared = f", which {' and '.join(sharing)} share" if len(sharing) > 1 else ""
    if view is not None and view.rpm is not None:
        requests = sum(each.requests for each in sharing.values())
        limits.append((60 * requests / view.rpm, f"{view.rpm:,.0f} requests a minute{shared}"))
    if view is not None and view.tpm is not None:
        tokens = sum(each.tokens for each in sharing.values())
        limits.append((60 * tokens / view.tpm, f"{view.tpm:,.0f} tokens a minute{shared}"))
    seconds, limit = max(limits, key=lambda each: each[0])
    return f"{duration(seconds)} at {limit}"


def cost_text(now: TotalForecast | None, batch: TotalForecast | None) -> str:
    if now is None:
        return "unknown: the endpoint does not report its tokens"
    as_batch = "the price of a batch is unknown" if batch is None else f"as a batch {amount(batch)}"
    return f"about {amount(now)}; {as_batch}"


def amount(found: TotalForecast) -> str:
    """Return `$1.20 (95 %: $1.10 to $1.31)`, or without ends where there are none."""
    if found.low is None or found.high is None:
        return dollars(found.total)
    return f"{dollars(found.total)} (95 %: {dollars(found.low)} to {dollars(found.high)})"


def _together(costs: Sequence[RestCost | None], prices: Sequence[Price]) -> Iterator[str]:
    """Say the sum over models, where each is known, and where the prices are from.

    Its interval adds the models' ends: wider than it need be, and right however their costs hang together.
    """
    yield ""
    if len(costs) > 1 and all(costs):
        now, batch = ([each[way] for each in costs if each is not None] for way in (0, 1))
        yield f"together    {cost_text(summed(now), summed(batch))}"
    for price in dict.fromkeys(prices):
        yield f"Prices of {price.as_of}, from {price.source}."
