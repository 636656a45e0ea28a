"""What a run has cost, and what the rest of it will cost: the money of every report, dry run and limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from vlsb.analysis.correction import TotalForecast, forecast_total
from vlsb.analysis.summary import ModelCost
from vlsb.models.prices import Price, PriceTable, may_charge
from vlsb.records import Untrusted, Usage
from vlsb.store.manifest import IMPORTED_FROM, Manifest, asked_endpoint
from vlsb.store.state import ModelTotals, RunState


def model_cost(
    manifest: Manifest, settings: Mapping[str, Any], totals: ModelTotals, prices: PriceTable
) -> ModelCost | None:
    """Return what a model's tokens cost at the prices of the day on which the run began.

    Those that the run was given come before ours, and after those that whoever asks names.
    """
    endpoint = asked_endpoint(settings)
    if endpoint is None:
        return None
    model = Untrusted(endpoint.model)
    price = prices.find(endpoint, manifest.priced_on)
    if prices.is_ours:
        price = PriceTable(tuple(manifest.prices)).find(endpoint, manifest.priced_on) or price
    if price is None:
        return ModelCost(model) if may_charge(endpoint) else None
    return ModelCost(model, price.usd(totals.usage), totals.uncounted > 0, price.source, str(price.as_of))


def costs_of_run(state: RunState, prices: PriceTable) -> list[ModelCost]:
    """Return what each model of a run has cost: the target, every judge and guard, but nothing imported."""
    manifest = state.manifest
    models = [(manifest.settings, state.target_totals)]
    models += [
        (entry.settings, state.rows(entry.file).totals) for entry in (*manifest.judges, *manifest.guards)
    ]
    costs = (
        model_cost(manifest, settings, totals, prices)
        for settings, totals in models
        if totals.requests and IMPORTED_FROM not in settings
    )
    return [cost for cost in costs if cost is not None]


# What is still to come.


class Measured(NamedTuple):
    """What one answer took: its tokens, and its seconds."""

    usage: Usage
    latency_s: float


class Charge(NamedTuple):
    """What a judge is charged by, and how many tokens an answer has at most. `is_free`: nobody charges."""

    price: Price | None
    is_free: bool
    most_tokens: int


class RestCost(NamedTuple):
    """What the rest costs as it is sent one by one, and as a batch; None where nobody knows."""

    now: TotalForecast | None
    as_batch: TotalForecast | None


def measure_answers(state: RunState, judge: str | None) -> list[Measured]:
    """Return what the answers of the target took, or of the judge of that file; imported ones say nothing."""
    rows = state.responses.values() if judge is None else state.rows(judge).answers
    return [Measured(each.usage, each.latency_s) for each in rows if each.latency_s is not None]


def decided_tokens(state: RunState, judge: str | None) -> int | None:
    """Return how many tokens the target, or the judge of that file, needs; None where nobody has looked."""
    entries = (*state.manifest.judges, *state.manifest.guards)
    decision = (
        state.manifest.decision
        if judge is None
        else next((each.decision for each in entries if each.file == judge), None)
    )
    return None if decision is None else decision.get("max_tokens")


def rest_cost(
    price: Price,
    usages: Sequence[Usage],
    left: int,
    *,
    most_tokens: int,
    weights: Sequence[float] | None = None,
) -> RestCost:
    """Return what `left` requests cost by what others took; `weights` as in `forecast_total`.

    An answer has none to `most_tokens`, and costs what these may cost with an image that was seen.
    """
    weights = [1.0] * len(usages) if weights is None else weights

    def forecast(usd: Callable[[Usage], float | None]) -> TotalForecast | None:
        pairs = zip(map(usd, usages), weights, strict=True)
        costs = [(cost, weight) for cost, weight in pairs if cost is not None]
        limits = [
            usd(replace(each, output_tokens=tokens, thought_tokens=None))
            for each in usages
            for tokens in (0, most_tokens)
        ]
        at_limits = [cost for cost in limits if cost is not None]
        return forecast_total(
            [cost for cost, _ in costs],
            left,
            least=min(at_limits, default=0.0),
            most=max(at_limits, default=0.0),
            weights=[weight for _, weight in costs],
        )

    return RestCost(forecast(lambda usage: price.usd(usage.at_once())), forecast(price.batch_usd))


def summed(parts: Sequence[TotalForecast | None]) -> TotalForecast | None:
    """Add forecasts up, and their ends where all have some; None where one of them is unknown.

    Adding the ends is wider than need be, and right however the costs hang together.
    """
    forecasts = [each for each in parts if each is not None]
    if len(forecasts) < len(parts):
        return None
    lows = [each.low for each in forecasts if each.low is not None]
    highs = [each.high for each in forecasts if each.high is not None]
    has_ends = len(lows) == len(forecasts)
    return TotalForecast(
        sum(each.total for each in forecasts),
        sum(lows) if has_ends else None,
        sum(highs) if has_ends else None,
    )
