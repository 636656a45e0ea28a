"""What is left of a run, by samples that went through target and judge: requests, tokens, time, money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from statistics import fmean
from typing import Literal, NamedTuple

from vlsb.config import ModelSettings
from vlsb.evaluation.progress import ModelView, judge_names
from vlsb.evaluation.session import Plan, SessionEnd
from vlsb.models.prices import Price, may_charge
from vlsb.records import JUDGED, Outcome
from vlsb.store.costs import RestCost, decided_tokens, measure_answers, rest_cost, summed
from vlsb.store.state import RunState


class TimeForecast(NamedTuple):
    """How long requests take at the limit that takes longest: so many of `unit`, which models may share."""

    seconds: float
    limit: float
    unit: Literal["connections", "requests a minute", "tokens a minute"]
    latency_s: float
    sharing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelForecast:
    """What is left to ask of one model, by so many `answers` that were seen, of which `counted` have tokens.

    Without a `cost` its price is unknown, or the tokens are, or nobody charges for it (`is_free`).
    """

    stage: str
    settings: ModelSettings
    requests: int
    most_tokens: int
    answers: int
    counted: int
    input_tokens: float
    output_tokens: float
    price: Price | None
    is_free: bool
    cost: RestCost | None
    time: TimeForecast | None = None


@dataclass(frozen=True, slots=True)
class RunForecast:
    """What is left of a run; `together` is the money of several models, None where one of them has none."""

    responses: int
    judged: int
    models: tuple[ModelForecast, ...]
    together: RestCost | None


def forecast_run(state: RunState, end: SessionEnd, plan: Plan, *, today: date) -> RunForecast:
    """Forecast the rest of a run from what its sessions have stored."""
    outcomes = [state.outcome(key, end.judge) for key in state.asked_for()]
    # A judge's file by the name that the session gives it.
    files = dict(zip(judge_names(len(plan.judges)), end.judges, strict=False))
    prices = plan.model_prices(today)
    rests = {
        stage: _forecast(state, stage, files.get(stage), settings, prices.get(stage))
        for stage, settings in plan.models.items()
    }
    models = tuple(
        replace(each, time=_time(state, files.get(stage), each, end.models.get(stage), rests))
        for stage, each in rests.items()
    )
    costs = [each.cost for each in models if each.cost is not None]
    together = None
    if 1 < len(models) == len(costs):
        together = RestCost(summed([each.now for each in costs]), summed([each.as_batch for each in costs]))
    return RunForecast(len(outcomes), sum(each in JUDGED for each in outcomes), models, together)


def _forecast(
    state: RunState, stage: str, file: str | None, settings: ModelSettings, price: Price | None
) -> ModelForecast:
    """Forecast what is left to ask of the target, or of the judge of that file, without its time."""
    requests, measured = _requests_left(state, file), measure_answers(state, file)
    usages = [usage for usage, _ in measured if usage.is_whole]
    most_tokens = decided_tokens(state, file) or settings.sampling.max_tokens
    sent = [usage.input_tokens or 0 for usage in usages]
    received = [(usage.output_tokens or 0) + (usage.thought_tokens or 0) for usage in usages]
    cost = None
    if price is not None and measured:
        cost = rest_cost(price, usages, requests, most_tokens=most_tokens)
    return ModelForecast(
        stage=stage,
        settings=settings,
        requests=requests,
        most_tokens=most_tokens,
        answers=len(measured),
        counted=len(usages),
        input_tokens=requests * fmean(sent) if sent else 0.0,
        output_tokens=requests * fmean(received) if received else 0.0,
        price=price,
        is_free=price is None and not may_charge(settings.endpoint),
        cost=cost,
    )


def _requests_left(state: RunState, file: str | None) -> int:
    """Count responses still to be asked for, or to be judged by the judge of that file."""
    outcomes = ((key, state.outcome(key, file)) for key in state.asked_for())
    if file is None:
        return sum(o is Outcome.NOT_ATTEMPTED or o is Outcome.TARGET_ERROR for _, o in outcomes)
    return sum(o not in JUDGED and state.finding(key, file) is None for key, o in outcomes)


def _time(
    state: RunState,
    file: str | None,
    model: ModelForecast,
    view: ModelView | None,
    rests: Mapping[str, ModelForecast],
) -> TimeForecast | None:
    """Forecast the time at the limit that takes longest: connections or, where known, those of a minute.

    Other models of `rests` may spend the same. None where no answer was seen.
    """
    measured = measure_answers(state, file)
    if not measured:
        return None
    latency_s = fmean(each.latency_s for each in measured)
    connections = 1 if view is None else view.limit
    times = [TimeForecast(model.requests * latency_s / connections, connections, "connections", latency_s)]
    others = sorted((view.shares_with if view else frozenset()) & rests.keys())
    names = (model.stage, *others)
    sharing = names if others else ()
    if view is not None and view.rpm is not None:
        requests = sum(rests[name].requests for name in names)
        seconds = 60 * requests / view.rpm
        times.append(TimeForecast(seconds, view.rpm, "requests a minute", latency_s, sharing))
    if view is not None and view.tpm is not None:
        tokens = sum(rests[name].input_tokens + rests[name].output_tokens for name in names)
        times.append(TimeForecast(60 * tokens / view.tpm, view.tpm, "tokens a minute", latency_s, sharing))
    return max(times, key=lambda each: each.seconds)
