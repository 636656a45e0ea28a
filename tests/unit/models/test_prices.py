"""What models cost and until when they are served: the files that ship, a user's own, and the arithmetic."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from msgspec.structs import replace

from vlsb.config import Endpoint
from vlsb.errors import ConfigError
from vlsb.models.prices import Price, PriceTable, find_retirement, load_prices, may_charge
from vlsb.records import Usage

OPENAI = "https://api.openai.com/v1"
DAY = date(2026, 11, 25)
PRICE = Price(
    models=("m",),
    input=2.0,
    cached_input=0.5,
    output=10.0,
    batch_input=1.0,
    batch_output=5.0,
    source="https://example.org/prices",
    as_of=DAY,
)


def test_every_price_names_its_host_source_and_date_and_no_two_hold_at_once() -> None:
    rows = load_prices().prices

    for row in rows:
        assert row.host is not None
        assert row.source.startswith("https://")
        assert row.as_of <= DAY
        assert row.cached_input is None or row.cached_input < row.input
        assert row.batch_input is None or row.batch_input == row.input / 2
        assert row.batch_output is None or row.batch_output == row.output / 2
    for number, row in enumerate(rows):
        for other in rows[:number]:
            if row.host == other.host and set(row.models) & set(other.models):
                assert other.until is not None
                assert row.since is not None
                assert other.until < row.since


def test_a_price_belongs_to_a_model_at_a_host_on_a_day() -> None:
    prices = load_prices()
    gemini = Endpoint("gemini-3.8-flash", "https://generativelanguage.googleapis.com/v1beta/openai")

    assert prices.find(Endpoint("gpt-4o-2024-08-06", OPENAI), DAY) is not None
    assert prices.find(Endpoint("gpt-4o", "https://mine.openai.azure.com/v1"), DAY) is None
    assert prices.find(Endpoint("gpt-4o-2024-05-13", OPENAI), DAY) is None
    cheap, dear = (prices.find(gemini, date(*day)) for day in ((2026, 12, 31), (2027, 1, 1)))
    assert cheap is not None
    assert dear is not None
    assert dear.input == 2 * cheap.input


@pytest.mark.parametrize(
    ("usage", "usd", "batch_usd"),
    [
        (Usage(1000, 100), 0.003, 0.0015),
        (Usage(1000, 100, reasoning_tokens=60), 0.003, 0.0015),
        (Usage(1000, 100, cached_tokens=600), 0.0021, 0.0015),
        (Usage(1000, 100, thought_tokens=50), 0.0035, 0.00175),
        (Usage(1000, None), 0.002, 0.001),
        (Usage(1000, 100, batch_input_tokens=600, batch_output_tokens=40), 0.0022, 0.0015),
        (Usage(1000, 100, batch_input_tokens=1000), 0.002, 0.0015),
        (Usage(1000, 100, batch_output_tokens=100), 0.0025, 0.0015),
        (
            Usage(1000, 100, cached_tokens=600, batch_input_tokens=1000, batch_output_tokens=100),
            0.0015,
            0.0015,
        ),
        (Usage(None, 100), None, None),
    ],
)
def test_a_request_costs_what_its_tokens_do(usage: Usage, usd: float | None, batch_usd: float | None) -> None:
    assert PRICE.usd(usage) == (None if usd is None else pytest.approx(usd))
    assert PRICE.batch_usd(usage) == (None if batch_usd is None else pytest.approx(batch_usd))


def test_a_million_tokens_cost_the_price_to_the_cent() -> None:
    dear = replace(PRICE, batch_input=1.5, batch_output=7.5)

    assert dear.usd(Usage(1_000_000, 1_000_000)) == 12.0
    assert dear.batch_usd(Usage(1_000_000, 1_000_000)) == 9.0


def test_an_unknown_discount_is_none_that_is_given() -> None:
    plain = Price(models=("m",), input=2.0, output=10.0, source="s", as_of=DAY)

    assert plain.usd(Usage(1000, 0, cached_tokens=1000)) == pytest.approx(0.002)
    for unknown in (plain, replace(plain, batch_input=1.0), replace(plain, batch_output=5.0)):
        assert unknown.batch_usd(Usage(1000, 100)) is None
        assert unknown.usd(Usage(1000, 100, batch_input_tokens=1000, batch_output_tokens=100)) is None


def test_a_batch_reserves_money_for_the_largest_image_that_the_model_may_count() -> None:
    """`--max-cost` is compared with it before anything is sent."""
    known, unknown = replace(PRICE, image_tokens=1000), PRICE

    assert known.most_batch_usd(500, 100, has_image=False) == pytest.approx(0.001)
    assert known.most_batch_usd(500, 100, has_image=True) == pytest.approx(0.002)
    assert replace(PRICE, image_tokens=0).most_batch_usd(500, 100, has_image=True) == pytest.approx(0.001)
    assert unknown.most_batch_usd(500, 100, has_image=True) == pytest.approx(0.051)


def test_a_run_remembers_what_its_model_costs_and_nothing_else_of_the_users_file() -> None:
    file = replace(
        PRICE,
        models=("m", "secret-project"),
        host="api.example.com",
        source="contract 7 with ACME",
        quoted_by=("a memo",),
        since=DAY,
        until=DAY,
    )
    endpoint = Endpoint("models/m", "https://api.example.com/v1")
    remembered = file.of_run(endpoint)

    assert remembered == replace(
        file,
        models=("m",),
        source="--prices, as the run was given them",
        quoted_by=(),
        since=None,
        until=None,
    )
    assert PriceTable((remembered,)).find(endpoint, date(2031, 1, 1)) == remembered


def test_gemini_names_a_model_with_or_without_its_folder() -> None:
    google = "https://generativelanguage.googleapis.com/v1beta/openai"
    bare, long = (
        load_prices().find(Endpoint(f"{folder}gemini-3.8-flash", google), DAY) for folder in ("", "models/")
    )

    assert bare is not None
    assert bare == long


def test_a_file_of_the_users_replaces_ours(tmp_path: Path) -> None:
    row = {"models": ["gpt-4o"], "input": 1, "output": 2, "source": "contract 7", "as_of": "2026-11-01"}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"prices": [row]}))
    prices = load_prices(file)

    found = prices.find(Endpoint("gpt-4o", "https://mine.openai.azure.com/v1"), DAY)
    assert found is not None
    assert found.input == 1
    assert prices.find(Endpoint("gpt-4o-mini", OPENAI), DAY) is None


def one_row(**changes: object) -> str:
    row = {"models": ["m"], "input": 1, "output": 1, "source": "", "as_of": "2026-11-01", **changes}
    return json.dumps({"prices": [{name: value for name, value in row.items() if value is not None}]})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        (one_row(models=[]), "length"),
        (one_row(input=-1), ">="),
        (one_row(output=None), "`output`"),
        (one_row(as_of="soon"), "date"),
        (one_row(price=3), "unknown field"),
        ('{"currency": "EUR", "prices": []}', "regex"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_with_the_place(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "prices.json"
    file.write_text(text)

    with pytest.raises(ConfigError, match=why) as raised:
        load_prices(file)
    assert "--prices" in raised.value.message


def test_a_file_of_a_mebibyte_is_read_and_a_larger_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(one_row().ljust(2**20))

    assert len(load_prices(file).prices) == 1
    file.write_text(one_row().ljust(2**20 + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_prices(file)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--prices"):
        load_prices(tmp_path / "none.json")


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "gpt-4o-mini"])
def test_the_official_judge_and_its_like_are_shut_down_on_14_january_2027(model: str) -> None:
    found = find_retirement(Endpoint(model, OPENAI))

    assert found is not None
    assert found.on == date(2027, 1, 14)
    assert find_retirement(Endpoint(model, "https://mine.openai.azure.com/v1")) is None


@pytest.mark.parametrize(
    ("today", "words"),
    [
        (date(2026, 11, 25), "is shut down by its provider on 2027-01-14 (in 50 days)"),
        (date(2027, 1, 13), "is shut down by its provider on 2027-01-14 (tomorrow)"),
        (date(2027, 1, 14), "was shut down by its provider on 2027-01-14:"),
        (date(2028, 1, 1), "was shut down by its provider on 2027-01-14:"),
    ],
)
def test_a_retirement_is_told_by_the_clock_that_is_passed_in(today: date, words: str) -> None:
    found = find_retirement(Endpoint("gpt-4o", OPENAI))

    assert found is not None
    assert f"The judge gpt-4o {words}" in found.warning("judge", "gpt-4o", today)
    assert found.notice("gpt-4o", today) == (
        f"gpt-4o {words.partition(' on ')[0]} on 2027-01-14: "
        f"nobody can repeat this with it from then on ({found.source})."
    )


@pytest.mark.parametrize(
    ("address", "charges"),
    [
        (OPENAI, True),
        ("http://127.0.0.1:8000/v1", False),
        ("http://loopback/v1", False),
        ("simulator:", False),
    ],
)
def test_nobody_charges_for_what_runs_here(address: str, charges: bool) -> None:
    assert may_charge(Endpoint("m", address)) is charges
