"""What a run has cost, and what the rest of it may: nothing is taken for free or counted twice."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.records import make_failure, make_judge, make_manifest, make_response, make_verdict
from vlsb.analysis.correction import TotalForecast, forecast_total
from vlsb.analysis.summary import ModelCost
from vlsb.config import Endpoint
from vlsb.models.prices import Price, PriceTable, load_prices
from vlsb.records import Outcome, Untrusted, Usage
from vlsb.store.costs import (
    Measured,
    RestCost,
    costs_of_run,
    decided_tokens,
    measure_answers,
    rest_cost,
    summed,
)
from vlsb.store.manifest import IMPORTED_FROM, JudgeEntry
from vlsb.store.state import RunState

HOSTED = "https://api.example.com/v1"
BEGAN = date(2025, 1, 1)
PRICE = Price(
    models=("target-model", "judge-model", "guard-model"),
    input=2.0,
    output=10.0,
    source="https://example.com/prices",
    as_of=BEGAN,
)
PRICES = PriceTable((PRICE,))


def cost(model: str, usd: float | None, *, is_least: bool = False) -> ModelCost:
    if usd is None:
        return ModelCost(Untrusted(model))
    return ModelCost(Untrusted(model), pytest.approx(usd), is_least, PRICE.source, "2025-01-01")


def run_state(model: str = "target-model", address: str | None = HOSTED, **changes: Any) -> RunState:
    """A run that began on the first of January, whose target answered one sample with 100 tokens."""
    settings = {**make_manifest().settings, "model": model, "address": address}
    state = RunState(make_manifest(settings=settings, **changes))
    state.add_response(make_response(0, usage=Usage(1000, 100)))
    return state


def judged_by(*entries: JudgeEntry, **changes: Any) -> RunState:
    """The same run, and each of these judged the response with 10 tokens."""
    state = run_state(judges=list(entries), **changes)
    for entry in (*entries, *state.manifest.guards):
        failure = make_failure(0, Outcome.JUDGE_INVALID, usage=Usage(500, 10), attempts=1)
        state.add_failure(failure, entry.file)
    return state


# What it has cost.


def test_a_run_costs_what_target_judges_and_guards_took() -> None:
    guard = make_judge("guard-model")
    state = judged_by(make_judge(), guards=[guard])

    assert costs_of_run(state, PRICES) == [
        cost("target-model", 0.003),
        cost("judge-model", 0.0011),
        cost("guard-model", 0.0011),
    ]


def test_what_was_imported_or_never_asked_cost_this_run_nothing() -> None:
    imported = make_judge(settings={**make_judge().settings, IMPORTED_FROM: "inspect"})
    silent = make_judge("guard-model")
    state = judged_by(imported)
    state.manifest.judges.append(silent)

    assert costs_of_run(state, PRICES) == [cost("target-model", 0.003)]


@pytest.mark.parametrize(
    ("address", "costs"),
    [
        pytest.param(HOSTED, [cost("nobody-knows", None)], id="a-hosted-model-of-unknown-price-is-named"),
        pytest.param("http://127.0.0.1:8000/v1", [], id="an-engine-of-ours-is-not"),
        pytest.param(None, [], id="nor-is-what-has-no-address"),
    ],
)
def test_what_has_no_price_is_free_only_on_this_machine(address: str | None, costs: list[ModelCost]) -> None:
    assert costs_of_run(run_state("nobody-knows", address), PRICES) == costs


def test_an_answer_whose_tokens_were_not_reported_makes_the_cost_a_least_one() -> None:
    state = run_state()
    state.add_response(make_response(1, usage=Usage()))

    assert costs_of_run(state, PRICES) == [cost("target-model", 0.003, is_least=True)]


def test_the_prices_of_the_day_on_which_the_run_began_hold() -> None:
    rows = (
        replace(PRICE, input=9.0, until=date(2024, 12, 31)),
        replace(PRICE, since=BEGAN, until=BEGAN),
        replace(PRICE, input=7.0, since=date(2025, 1, 2)),
    )

    assert costs_of_run(run_state(), PriceTable(rows)) == [cost("target-model", 0.003)]


def test_prices_that_a_run_was_given_come_before_ours_and_after_those_that_are_named_now() -> None:
    openai, ours = Endpoint("gpt-4o-2024-08-06", "https://api.openai.com/v1"), load_prices()
    given = replace(PRICE, models=(openai.model,)).of_run(openai)
    with_given = run_state(openai.model, openai.base_url, prices=[given])
    named = PriceTable((replace(given, input=4.0),))

    usd = [
        found.usd
        for state, prices in (
            (run_state(openai.model, openai.base_url), ours),
            (with_given, ours),
            (with_given, named),
            (run_state(openai.model, openai.base_url, prices=[replace(given, models=("other",))]), ours),
        )
        for found in costs_of_run(state, prices)
    ]

    assert usd == pytest.approx([0.0035, 0.003, 0.005, 0.0035])


# What is still to come.


def test_the_answers_of_a_model_are_measured_and_imported_ones_say_nothing() -> None:
    state = judged_by(make_judge())
    state.add_response(make_response(1, usage=Usage(5, 5), latency_s=None))
    state.rows("judge-model.jsonl").add_verdict(make_verdict(make_response(0)))

    assert measure_answers(state, None) == [Measured(Usage(1000, 100), 0.5)]
    assert measure_answers(state, "judge-model.jsonl") == [Measured(Usage(1000, 20, 0), 0.25)]
    assert measure_answers(state, "nobody.jsonl") == []


def test_how_many_tokens_a_model_needs_is_known_where_somebody_looked() -> None:
    unseen = run_state(judges=[make_judge()])
    seen = run_state(
        decision={"max_tokens": 128},
        judges=[make_judge(), make_judge("other", decision={"max_tokens": 2048})],
        guards=[make_judge("guard", decision={"max_tokens": 64})],
    )
    files = (None, "judge-model.jsonl", "other.jsonl", "guard.jsonl", "nobody.jsonl")

    assert [decided_tokens(unseen, file) for file in files] == [None] * 5
    assert [decided_tokens(seen, file) for file in files] == [128, None, 2048, 64, None]
    assert decided_tokens(run_state(decision={}), None) is None


WITH_BATCH = replace(PRICE, batch_input=1.0, batch_output=5.0)
SEEN = [Usage(1000, 100), Usage(1000, 100, thought_tokens=100)] * 6
"""Three and four tenths of a cent; the longest answer of 500 tokens costs seven, and none at all two."""


def test_the_rest_is_forecast_between_no_answer_and_the_longest() -> None:
    found = rest_cost(WITH_BATCH, SEEN, 100, most_tokens=500)

    assert found.now == pytest.approx(forecast_total([0.003, 0.004] * 6, 100, least=0.002, most=0.007))
    assert found.as_batch == pytest.approx(forecast_total([0.0015, 0.002] * 6, 100, least=0.001, most=0.0035))


def test_what_went_through_a_batch_costs_the_full_price_when_it_is_sent_one_by_one() -> None:
    in_batch = [each.as_batch() for each in SEEN]

    assert rest_cost(WITH_BATCH, in_batch, 9, most_tokens=500) == rest_cost(
        WITH_BATCH, SEEN, 9, most_tokens=500
    )


def test_an_answer_that_nobody_counted_says_nothing_of_the_rest_and_its_weight_goes_with_it() -> None:
    weights = [1.0, 3.0] * 6
    plain = rest_cost(PRICE, SEEN, 9, most_tokens=500, weights=weights)

    assert rest_cost(PRICE, [Usage(), *SEEN], 9, most_tokens=500, weights=[50.0, *weights]) == plain
    assert plain != rest_cost(PRICE, SEEN, 9, most_tokens=500)
    with pytest.raises(ValueError, match="shorter"):
        rest_cost(PRICE, SEEN, 9, most_tokens=500, weights=weights[1:])


def test_what_nobody_knows_is_not_forecast() -> None:
    assert rest_cost(WITH_BATCH, [], 9, most_tokens=500) == RestCost(None, None)
    assert rest_cost(WITH_BATCH, [Usage()], 9, most_tokens=500) == RestCost(None, None)
    assert rest_cost(PRICE, SEEN, 9, most_tokens=500).as_batch is None


def test_a_sum_is_known_where_all_parts_are_and_has_ends_where_all_have() -> None:
    one, other = TotalForecast(4.0, 1.0, 9.0), TotalForecast(20.0, 10.0, 30.0)

    assert summed([one, other]) == TotalForecast(24.0, 11.0, 39.0)
    assert summed([one, TotalForecast(20.0, None, None)]) == TotalForecast(24.0, None, None)
    assert summed([one, None]) is None
