"""How long a provider asks us to wait, read from any spelling of its headers.

Nothing here raises and nothing returns a wait that is negative, infinite or absurd: a value that
cannot be meant is treated as absent (RFC 9110 section 10.2.3, and what providers really send).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# A week: longer than any provider's window; beyond it the number is broken or hostile.
ABSURD_S = 7 * 24 * 3600.0

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_CHAIN = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ms|us|µs|ns|d|h|m|s))+")
_LINK = re.compile(r"([0-9.]+)(ms|us|µs|ns|d|h|m|s)")
_PLAIN = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12}")
_WEEKDAYS = frozenset({"mon", "tue", "wed", "thu", "fri", "sat", "sun"})
_RESET = re.compile(
    r"(?:x-)?(?:anthropic-)?rate-?limit-(?:reset-(?P<kind>[a-z_]+)|(?P<kind2>[a-z-]+)-reset|reset)"
)


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds the provider asks for, or None. `headers` are lower-cased, `now` is Unix time.

    `retry-after-ms` wins over `retry-after` (seconds or a date), which wins over the largest reset of
    a limit that has nothing left.
    """
    milliseconds = _plain(headers.get("retry-after-ms", ""))
    asked = None if milliseconds is None else _sensible(milliseconds / 1000)
    asked = asked or duration_s(headers.get("retry-after", ""), now=_reference(headers, now))
    return asked or reset_after_s(headers, now=now)


def reset_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds until the exhausted limits are restored: the largest reset named, or None."""
    reference = _reference(headers, now)
    resets = [(exhausted, duration_s(value, now=reference)) for exhausted, value in _resets(headers)]
    known = [(exhausted, wait) for exhausted, wait in resets if wait is not None]
    # A limit with something left does not explain a 429; its reset would only make us wait longer.
    relevant = [wait for exhausted, wait in known if exhausted is not False] or [wait for _, wait in known]
    return max(relevant, default=None)


def duration_s(value: str, *, now: float) -> float | None:
    """Seconds from `20`, `1.5`, `6m0s`, `12ms`, an RFC 3339 timestamp or an HTTP date; else None."""
    text = value.strip()
    if not text or len(text) > 64:
        return None
    if (seconds := _plain(text)) is not None:
        return _sensible(seconds)
    if _CHAIN.fullmatch(text):
        return _sensible(sum(float(n) * _UNITS_S[unit] for n, unit in _LINK.findall(text)))
    moment = _timestamp(text)
    return None if moment is None else _sensible(moment - now)


def _plain(text: str) -> float | None:
    """A bare non-negative number; unlike `float`, no `nan`, `inf`, `1_000` or 35 digits."""
    number = text.strip()
    return float(number) if _PLAIN.fullmatch(number) else None


def _sensible(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) and 0 < seconds <= ABSURD_S else None


def _timestamp(text: str) -> float | None:
    if not text[:4].isdigit() and text[:3].lower() not in _WEEKDAYS:
        return None
    try:
        moment = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
        # A timestamp without a zone is UTC in every header that has one.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _reference(headers: Mapping[str, str], now: float) -> float:
    """The provider's own clock where it shows one: our clock may be wrong."""
    date = _timestamp(headers["date"].strip()) if headers.get("date", "").strip() else None
    return now if date is None else date


def _resets(headers: Mapping[str, str]) -> Iterator[tuple[bool | None, str]]:
    """(is the limit exhausted, None when unsaid; the reset's value) for every reset header."""
    for name, value in headers.items():
        if match := _RESET.fullmatch(name):
            kind = match["kind"] or match["kind2"]
            left = _remaining(headers, kind)
            yield (None if left is None else left <= 0), value


def _remaining(headers: Mapping[str, str], kind: str | None) -> float | None:
    return count_header(headers, "remaining", kind)


def count_header(headers: Mapping[str, str], what: str, kind: str | None) -> float | None:
    """A limit's `limit` or `remaining` count for a kind (`requests`, `tokens`), in any spelling."""
    names = (
        [f"x-ratelimit-{what}-{kind}", f"x-rate-limit-{what}-{kind}", f"anthropic-ratelimit-{kind}-{what}"]
        if kind
        else [f"x-ratelimit-{what}", f"ratelimit-{what}"]
    )
    return next((count for name in names if (count := _plain(headers.get(name, ""))) is not None), None)
