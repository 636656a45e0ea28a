"""A wait is read from every spelling that providers use, and from nothing that cannot be meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlsb.endpoints.headers import (
    ABSURD_S,
    NamedLimit,
    Unit,
    duration_s,
    named_limits,
    reset_after_s,
    retry_after_s,
)

# Fri, 29 Sep 2023 16:26:37 GMT
NOW = 1696004797.0
HEADER_NAMES = (
    "retry-after",
    "retry-after-ms",
    "date",
    "x-ratelimit-reset",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-remaining-tokens",
    "x-rate-limit-reset-tokens",
    "x-ratelimit-reset-tokens_usage_based",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-requests-remaining",
)


def is_sensible(wait: float | None) -> bool:
    return wait is None or 0 < wait <= 7 * 24 * 3600


# What is understood.


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"retry-after": "7"}, 7.0, id="A10-azure-seconds"),
        pytest.param({"x-ratelimit-reset-tokens": "55"}, 55.0, id="A10-bare-seconds"),
        pytest.param({"x-rate-limit-reset-tokens": "55"}, 55.0, id="A10-misspelt"),
        pytest.param({"x-rate-limit-reset-requests": "12"}, 12.0, id="A10-misspelt-requests"),
        pytest.param({"retry-after": "20"}, 20.0, id="A11-seconds"),
        pytest.param({"retry-after": "1.5"}, 1.5, id="A11-float"),
        pytest.param({"retry-after": " 20 "}, 20.0, id="A11-spaces"),
        pytest.param({"retry-after": "Fri, 29 Sep 2023 16:26:57 GMT"}, 20.0, id="A12-date"),
        pytest.param(
            {"retry-after": "Fri, 29 Sep 2023 17:00:30 GMT", "date": "Fri, 29 Sep 2023 17:00:00 GMT"},
            30.0,
            id="A12-date-against-their-clock",
        ),
        pytest.param(
            {"retry-after": "Fri, 29 Sep 2023 16:26:57 GMT", "date": "no date at all"},
            20.0,
            id="A12-broken-date-header",
        ),
        pytest.param({"retry-after-ms": "1250"}, 1.25, id="A13-milliseconds"),
        pytest.param({"retry-after-ms": "1250", "retry-after": "20"}, 1.25, id="A13-precedence"),
        pytest.param({"retry-after-ms": "soon", "retry-after": "20"}, 20.0, id="A13-unreadable-is-absent"),
        pytest.param({"retry-after-ms": "-5", "retry-after": "20"}, 20.0, id="A13-negative-is-absent"),
        pytest.param({"retry-after-ms": "0", "retry-after": "20"}, 20.0, id="A13-zero-is-absent"),
        pytest.param({"retry-after-ms": "9" * 12, "retry-after": "20"}, 20.0, id="A13-absurd-is-absent"),
        pytest.param({"retry-after": "600"}, 600.0, id="A15-long-wait-is-reported"),
        pytest.param({"retry-after": "86400"}, 86400.0, id="A15-a-day"),
        pytest.param({"x-ratelimit-reset-requests": "1s"}, 1.0, id="A16-go-second"),
        pytest.param({"x-ratelimit-reset-requests": "6m0s"}, 360.0, id="A16-go-chain"),
        pytest.param({"x-ratelimit-reset-tokens": "12ms"}, 0.012, id="A16-go-milliseconds"),
        pytest.param({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5, id="A16-go-hours"),
        pytest.param({"x-ratelimit-reset-tokens_usage_based": "8s"}, 8.0, id="A16-usage-based"),
        pytest.param(
            {"anthropic-ratelimit-requests-reset": "2023-09-29T16:27:07Z"}, 30.0, id="A16-rfc3339-zulu"
        ),
        pytest.param(
            {"anthropic-ratelimit-input-tokens-reset": "2023-09-29T18:27:07+02:00"},
            30.0,
            id="A16-rfc3339-offset",
        ),
        pytest.param(
            {"anthropic-ratelimit-output-tokens-reset": "2023-09-29T16:27:07.250Z"},
            30.25,
            id="A16-rfc3339-fraction",
        ),
        pytest.param(
            {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 360.0, id="A16-largest"
        ),
        pytest.param(
            {"retry-after": "3", "x-ratelimit-reset-tokens": "6m0s"}, 3.0, id="A16-only-without-retry-after"
        ),
        pytest.param(
            {"retry-after": "-1", "x-ratelimit-reset-tokens": "9s"}, 9.0, id="A16-unusable-retry-after"
        ),
        pytest.param(
            {
                "x-ratelimit-remaining-requests": "4999",
                "x-ratelimit-reset-requests": "1h0m0s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "9s",
            },
            9.0,
            id="A16-exhausted-limit-counts",
        ),
        pytest.param({}, None, id="A17-missing"),
        pytest.param({"content-type": "application/json"}, None, id="A17-unrelated"),
    ],
)
def test_a_wait_is_read_from_each_spelling(headers, expected):
    assert retry_after_s(headers, now=NOW) == pytest.approx(expected)


# What is not.


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "0.0",
        "-1",
        "-10",
        "nan",
        "inf",
        "-inf",
        "Infinity",
        pytest.param("9" * 35, id="35-digits"),
        "99999999999",
        "1e3",
        "1_000",
        "0x10",
        "٣",
        pytest.param("", id="empty"),
        pytest.param("   ", id="blank"),
        "soon",
        "Zun, 29 Sep 2023 16:26:57 GMT",
        "Fri, 29 Sep 2023 16:26:37 GMT",
        "Fri, 29 Sep 2023 16:26:27 GMT",
        "Fri, 29 Sep 2123 16:26:57 GMT",
        "Fri, 29 Sep 100000 16:26:57 GMT",
        "Fri, 99 Sep 2023 16:26:57 GMT",
        "100000-09-29T16:26:57Z",
        "2023-09-29T16:26:00Z",
        "2023-99-29T16:26:00Z",
        "0s",
        "-5s",
        "5 parsecs",
        "6m0s and then some",
        pytest.param("1s" * 100_000, id="a-long-chain"),
        pytest.param("9" * 100_000, id="a-long-number"),
    ],
)
@pytest.mark.parametrize(
    "name", ["retry-after", "x-ratelimit-reset-tokens", "x-rate-limit-reset-tokens", "x-ratelimit-reset"]
)
def test_a_value_that_cannot_be_meant_is_absent(name, value):
    assert retry_after_s({name: value}, now=NOW) is None


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "", "9" * 35, "1e3", "6m0s"])
def test_milliseconds_that_cannot_be_meant_are_absent(value):
    assert retry_after_s({"retry-after-ms": value}, now=NOW) is None


def test_an_unusable_reset_does_not_hide_a_usable_one():
    headers = {"x-ratelimit-reset-requests": "-1", "x-ratelimit-reset-tokens": "4s"}

    assert reset_after_s(headers, now=NOW) == 4.0


def test_periods_of_minus_one_are_ignored():
    headers = {"x-ratelimit-renewalperiod-tokens": "-1", "x-ratelimit-reset-tokens": "0", "retry-after": "5"}

    assert retry_after_s(headers, now=NOW) == 5.0


# Anything at all.


@given(
    st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{1,9} [A-Z+0-9-]{1,6}")
    | st.from_regex(r"[0-9]{4,6}-[0-9]{2}-[0-9]{2}T[0-9:.]{1,15}(Z|[+-][0-9]{2}:[0-9]{2})")
    | st.from_regex(r"([0-9.]{1,14}(ms|us|ns|d|h|m|s)){1,4}")
)
def test_nothing_shaped_like_a_date_or_duration_makes_a_wait_absurd(text):
    assert is_sensible(duration_s(text, now=NOW))


@given(
    st.dictionaries(
        st.sampled_from(HEADER_NAMES) | st.text(), st.text() | st.floats().map(str) | st.integers().map(str)
    )
)
def test_no_headers_make_a_wait_absurd(headers):
    assert is_sensible(retry_after_s(headers, now=NOW))
    assert is_sensible(reset_after_s(headers, now=NOW))


@given(st.integers(1, int(ABSURD_S)))
def test_whole_seconds_are_read_exactly(seconds):
    assert retry_after_s({"retry-after": str(seconds)}, now=NOW) == seconds


@given(st.integers(1, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_go_duration_is_the_sum_of_its_links(minutes, seconds, milliseconds):
    text = f"{minutes}m{seconds}s{milliseconds}ms"

    assert duration_s(text, now=NOW) == pytest.approx(minutes * 60 + seconds + milliseconds / 1000)


# What headers name, in their own unit: a row a provider and spelling.

MOMENT = 1_760_000_000.0
REQUESTS, TOKENS, INPUT, OUTPUT = Unit.REQUESTS, Unit.TOKENS, Unit.INPUT, Unit.OUTPUT
DAY_S = 86400.0


def three(name: str, *values: str) -> dict[str, str]:
    """A header for the limit, for what is left and for the reset; `name` has a place for the word."""
    return {
        name.format(what): value for what, value in zip(("limit", "remaining", "reset"), values, strict=False)
    }


NAMED = {
    "OpenAI requests": (
        three("x-ratelimit-{}-requests", "5000", "4999", "12ms"),
        [NamedLimit(REQUESTS, 5000, 4999, 0.012)],
    ),
    "OpenAI tokens": (
        three("X-RateLimit-{}-Tokens", "160000", "159976", "6m0s"),
        [NamedLimit(TOKENS, 160000, 159976, 360)],
    ),
    "Azure, GitHub Models": (
        {
            **three("x-ratelimit-{}-requests", "20000", "19999", "3"),
            "x-ratelimit-renewalperiod-requests": "60",
        },
        [NamedLimit(REQUESTS, 20000, 19999, 3, 60)],
    ),
    "Azure, what is left alone": (
        {"x-ratelimit-remaining-requests": "19"},
        [NamedLimit(REQUESTS, None, 19, None)],
    ),
    "Cerebras a minute": (
        three("x-ratelimit-{}-requests-minute", "5", "0", "42"),
        [NamedLimit(REQUESTS, 5, 0, 42, 60)],
    ),
    "Cerebras, SambaNova a day": (
        three("x-ratelimit-{}-requests-day", "2400", "2200", "86000"),
        [NamedLimit(REQUESTS, 2400, 2200, 86000, DAY_S)],
    ),
    "Cerebras an hour, tokens": (
        three("x-ratelimit-{}-tokens-hour", "1000000", "999995"),
        [NamedLimit(TOKENS, 1_000_000, 999_995, None, 3600)],
    ),
    "a second": (
        three("x-ratelimit-{}-requests-second", "10", "9"),
        [NamedLimit(REQUESTS, 10, 9, None, 1)],
    ),
    "Mistral requests": (
        three("x-ratelimit-{}-req-minute", "50", "49"),
        [NamedLimit(REQUESTS, 50, 49, None, 60)],
    ),
    "Mistral ten seconds": (
        three("x-ratelimit-{}-req-10-second", "4", "0"),
        [NamedLimit(REQUESTS, 4, 0, None, 10)],
    ),
    "Mistral by size": (
        three("x-ratelimitbysize-{}-minute", "500000", "499000"),
        [NamedLimit(TOKENS, 500_000, 499_000, None, 60)],
    ),
    "Anthropic requests": (
        {
            "anthropic-ratelimit-requests-limit": "1000",
            "anthropic-ratelimit-requests-remaining": "999",
            "anthropic-ratelimit-requests-reset": "2025-10-09T08:53:30Z",
        },
        [NamedLimit(REQUESTS, 1000, 999, 10)],
    ),
    "Anthropic input and output tokens": (
        {
            "anthropic-ratelimit-input-tokens-limit": "80000",
            "anthropic-ratelimit-output-tokens-limit": "16000",
        },
        [NamedLimit(INPUT, 80000), NamedLimit(OUTPUT, 16000)],
    ),
    "OpenRouter, a moment in milliseconds": (
        three("x-ratelimit-{}", "20", "0", f"{(MOMENT + 30) * 1000:.0f}"),
        [NamedLimit(REQUESTS, 20, 0, 30)],
    ),
    "the IETF's fields": (
        {"ratelimit-policy": '"ten";q=10;w=1', "ratelimit": '"ten";r=9;t=1'},
        [NamedLimit(REQUESTS, 10, 9, 1, 1)],
    ),
    "the IETF's older fields": (
        {"ratelimit-policy": "100;w=30", **three("ratelimit-{}", "100", "99", "28")},
        [NamedLimit(REQUESTS, 100, 99, 28, 30)],
    ),
    "none": ({"content-type": "application/json", "x-ratelimit-limit-requests": "many"}, []),
}


@pytest.mark.parametrize(("headers", "limits"), NAMED.values(), ids=NAMED)
def test_every_spelling_of_a_limit_is_read_in_its_own_unit(
    headers: dict[str, str], limits: list[NamedLimit]
) -> None:
    assert named_limits(headers, now=MOMENT) == limits
