"""Shares of full, partial and refused answers, and what their intervals rest on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.analysis.compliance import CompliedResponse, compliance_shares, run_compliance
from vlsb.analysis.rates import Interval, wilson
from vlsb.records import Compliance, Untrusted

FULL, PARTIAL, REFUSAL = Compliance


def responses(*found: Compliance | None, images: int | None = None) -> list[CompliedResponse]:
    """Responses of one category, each of an image of its own or of as many images as are asked for."""
    return [
        CompliedResponse(Untrusted(str(place % (images or len(found)))), Untrusted("c"), each)
        for place, each in enumerate(found)
    ]


def test_what_nobody_has_read_is_in_no_share() -> None:
    shares = compliance_shares(responses(FULL, FULL, REFUSAL, None, PARTIAL))

    assert (shares.selected, shares.judged) == (5, 4)
    assert [shares.percent(each) for each in Compliance] == [50.0, 25.0, 25.0]
    assert shares.counts == {FULL: 2, PARTIAL: 1, REFUSAL: 1}


def test_without_anything_read_there_is_no_share() -> None:
    shares = compliance_shares(responses(None, None))

    assert [shares.percent(each) for each in Compliance] == [None] * 3
    assert set(shares.intervals.values()) == {Interval(0.0, 100.0)}


def test_independent_responses_have_the_interval_of_a_simple_share() -> None:
    found = [FULL] * 60 + [REFUSAL] * 40

    assert compliance_shares(responses(*found)).intervals[FULL] == pytest.approx(wilson(60, 100))


def test_responses_to_one_image_tell_less_than_as_many_to_many() -> None:
    found = ([FULL] * 10 + [REFUSAL] * 10) * 5

    alone, shared = (compliance_shares(responses(*found, images=n)).intervals[FULL] for n in (100, 20))

    assert shared.high - shared.low > 1.5 * (alone.high - alone.low)


def test_categories_come_in_the_order_of_their_names() -> None:
    of = [CompliedResponse(Untrusted(name), Untrusted(name), FULL) for name in "bca"]

    found = run_compliance(Untrusted("r"), Untrusted("j"), of)

    assert list(found.by_category) == [Untrusted(name) for name in "abc"]
    assert found.shares.judged == 3


@given(st.lists(st.none() | st.sampled_from(Compliance), min_size=1, max_size=40), st.integers(1, 9))
def test_counts_sum_and_each_share_is_in_its_interval(found: list[Compliance | None], images: int) -> None:
    shares = compliance_shares(responses(*found, images=images))

    assert sum(shares.counts.values()) == shares.judged <= shares.selected
    for each in Compliance:
        if (share := shares.percent(each)) is not None:
            assert shares.intervals[each].low <= share <= shares.intervals[each].high
