"""Which sides of a run spend from one rate limit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vlsb.config import OFFICIAL_TARGET_SAMPLING, Endpoint, Lane, RetryPolicy
from vlsb.endpoints.credentials import Credentials, Secret
from vlsb.evaluation.sides import _accounts, real_time

URL = "https://api.openai.com/v1"


def share(
    *, judge: str = "gpt-4o-2024-08-06", key: str = "sk-one", url: str = URL, rpm: float | None = None
) -> Any:
    """Whether target and judge got one account; the judge's key is in a variable of another name."""
    lanes = {
        "target": Lane(Endpoint("gpt-4o", URL, "FIRST_KEY"), OFFICIAL_TARGET_SAMPLING),
        "judge": Lane(Endpoint(judge, url, "SECOND_KEY"), OFFICIAL_TARGET_SAMPLING, rpm=rpm),
    }
    credentials = {"target": Credentials(Secret("sk-one")), "judge": Credentials(Secret(key))}
    setup: Any = SimpleNamespace(lanes=lanes, policy=RetryPolicy())
    found = _accounts(setup, real_time(), {"target": URL, "judge": url}, credentials)  # type: ignore[arg-type]
    return found["target"] is found["judge"], found["target"].rates.rpm


def test_one_key_under_two_names_and_a_dated_model_are_one_account() -> None:
    assert share() == (True, None)


def test_an_account_keeps_the_lower_cap_of_its_sides() -> None:
    is_shared, rpm = share(rpm=100)

    assert is_shared
    assert rpm == pytest.approx(98.5)


@pytest.mark.parametrize(
    "other", [{"judge": "gpt-4o-mini"}, {"key": "sk-two"}, {"url": "https://example.org/v1"}]
)
def test_another_model_key_or_address_is_another_account(other: dict[str, str]) -> None:
    assert share(**other)[0] is False  # type: ignore[arg-type]
