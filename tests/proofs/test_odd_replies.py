"""Odd replies by the thousand, read by two readers."""

from __future__ import annotations

from hypothesis import given, settings

from tests.unit.endpoints.test_transport_differential import assert_read_alike, odd_replies


@settings(max_examples=3000, deadline=None)
@given(data=odd_replies())
def test_thousands_of_odd_replies_are_read_alike_or_refused(data: bytes) -> None:
    assert_read_alike(data)
