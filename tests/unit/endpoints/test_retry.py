"""When a request is sent again, and when an endpoint is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.config import RetryPolicy
from vlsb.endpoints.faults import Fault
from vlsb.endpoints.retry import ENDED_ALIKE_LIMIT, Rejections, backoff_s
from vlsb.endpoints.traffic import Time
from vlsb.errors import GapsError
from vlsb.records import Untrusted

POLICY = RetryPolicy(backoff_s=1.0, backoff_cap_s=30.0, outage_timeout_s=300.0)


# Backoff.


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_backoff_is_within_its_cap(retries, share):
    time = Time(lambda: 0.0, asyncio.sleep, lambda low, high: low + share * (high - low))

    assert 0 <= backoff_s(POLICY, retries, time) <= POLICY.backoff_cap_s


def test_a_backoff_doubles_until_its_cap():
    time = Time(lambda: 0.0, asyncio.sleep, lambda low, high: high)

    assert [backoff_s(POLICY, retries, time) for retries in range(7)] == [1, 2, 4, 8, 16, 30, 30]


# Rejections.


def reject(found: Rejections, samples: Iterable[int], code: str = "context") -> None:
    for sample_id in samples:
        found.count(sample_id, Fault.ITEM_PERMANENT, code, Untrusted("their words"))


def test_twenty_distinct_samples_rejected_alike_end_the_run():
    found = Rejections("target model-1")
    reject(found, [7] * 50)
    reject(found, range(100, 100 + ENDED_ALIKE_LIMIT - 2))

    with pytest.raises(GapsError) as caught:
        reject(found, [200])

    assert caught.value.exit_code == 4
    assert "target model-1" in caught.value.message
    assert "context" in caught.value.message
    assert caught.value.detail == Untrusted("their words")


@pytest.mark.parametrize("what", ["success", "another reason", "a failure that may pass"])
def test_anything_else_in_between_starts_the_count_of_rejections_again(what: str):
    found = Rejections("judge")
    reject(found, range(ENDED_ALIKE_LIMIT - 1))
    if what == "success":
        found.reset()
    elif what == "another reason":
        reject(found, [50], "too_large")
    else:
        found.count(50, Fault.TRANSIENT, "http_500", Untrusted(""))

    reject(found, range(100, 100 + ENDED_ALIKE_LIMIT - 1))
