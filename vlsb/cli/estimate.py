"""What `--dry-run` prints: what is left of a run, and what would be sent where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlsb.reports.report import counted, dollars, duration

if TYPE_CHECKING:
    from vlsb.analysis.correction import TotalForecast
    from vlsb.evaluation.forecast import ModelForecast, RunForecast, TimeForecast
    from vlsb.store.costs import RestCost


def estimate(forecast: RunForecast) -> str:
    """Write the page: requests, tokens, money and time still to come, and what would be sent where."""
    lines = [f"Dry run: {forecast.responses:,} responses selected, {forecast.judged:,} judged so far."]
    for model in forecast.models:
        lines += ["", *_model(model)]
    lines.append("")
    if forecast.together is not None:
        lines.append(f"together    {_cost(forecast.together)}")
    for price in dict.fromkeys(each.price for each in forecast.models if each.cost is not None):
        if price is not None:
            lines.append(f"Prices of {price.as_of}, from {price.source}.")
    lines.append(
        "Nothing else was sent. The samples spent are kept; without --dry-run and with --resume they count."
    )
    return "\n".join(lines)


def _model(model: ModelForecast) -> Iterator[str]:
    settings = model.settings
    yield f"{model.stage}  {settings.endpoint.model} at {', '.join(settings.base_urls)}"
    order = "text, then image" if model.stage == "target" else "image, then the judge's template"
    yield f"  sends     system prompt, {order}; at most {model.most_tokens} tokens back"
    yield f"  requests  {model.requests:,}"
    if not model.answers:
        yield "  tokens    unknown: no sample brought an answer"
    elif not model.counted:
        yield "  tokens    unknown: the endpoint does not report them"
    else:
        tokens = f"{model.input_tokens:,.0f} in, {model.output_tokens:,.0f} out"
        yield f"  tokens    about {tokens}, from {counted(model.counted, 'sample')}"
    if model.time is not None:
        yield f"  time      about {_time(model.time)}"
    if model.cost is not None:
        yield f"  cost      {_cost(model.cost)}"
    elif model.price is None and not model.is_free:
        yield f"  cost      unknown: no price for {settings.endpoint.model}; --prices takes yours"


def _time(time: TimeForecast) -> str:
    if time.unit == "connections":
        return f"{duration(time.seconds)} at {time.limit:.0f} connections, {time.latency_s:.2f} s each"
    shared = f", which {' and '.join(time.sharing)} share" if time.sharing else ""
    return f"{duration(time.seconds)} at {time.limit:,.0f} {time.unit}{shared}"


def _cost(cost: RestCost) -> str:
    if cost.now is None:
        return "unknown: the endpoint does not report its tokens"
    batch = "the price of a batch is unknown"
    if cost.as_batch is not None:
        batch = f"as a batch {amount(cost.as_batch)}"
    return f"about {amount(cost.now)}; {batch}"


def amount(forecast: TotalForecast) -> str:
    """Return `$1.20 (95 %: $1.10 to $1.31)`, or without ends where there are none."""
    if forecast.low is None or forecast.high is None:
        return dollars(forecast.total)
    return f"{dollars(forecast.total)} (95 %: {dollars(forecast.low)} to {dollars(forecast.high)})"
