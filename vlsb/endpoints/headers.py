"""What a provider's headers say about its limits, and how long they ask us to wait, in any spelling.

Nothing here raises and nothing returns a wait that is negative, infinite or absurd: a value that
cannot be meant is treated as absent (RFC 9110 section 10.2.3, and what providers really send).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

# A week: longer than any provider's window; beyond it the number is broken or hostile.
ABSURD_S = 7 * 24 * 3600.0

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_CHAIN = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ms|us|µs|ns|d|h|m|s))+")
_LINK = re.compile(r"([0-9.]+)(ms|us|µs|ns|d|h|m|s)")
_PLAIN = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12}")
_WEEKDAYS = frozenset({"mon", "tue", "wed", "thu", "fri", "sat", "sun"})
_RESET = re.compile(
    r"(?:x-)?(?:anthropic-)?rate-?limit-(?:reset-(?P<kind>[a-z_-]+)|(?P<kind2>[a-z-]+)-reset|reset)"
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
    waits: list[float] = []
    exhausted: list[float] = []
    for name, value in headers.items():
        match = _RESET.fullmatch(name)
        wait_s = _reset(value, reference) if match else None
        if match is not None and wait_s is not None:
            waits.append(wait_s)
            names = ["x-ratelimit-remaining", "ratelimit-remaining"]
            if kind := match["kind"] or match["kind2"]:
                names = [f"x-ratelimit-remaining-{kind}", f"x-rate-limit-remaining-{kind}"]
                names.append(f"anthropic-ratelimit-{kind}-remaining")
            counts = (_plain(headers.get(name, "")) for name in names)
            if next((left for left in counts if left is not None), 0.0) <= 0:
                exhausted.append(wait_s)
    # A limit with something left does not explain a 429; its reset would only make us wait longer.
    return max(exhausted or waits, default=None)


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
    """Return the provider's own clock where it shows one: our clock may be wrong."""
    date = _timestamp(headers["date"].strip()) if headers.get("date", "").strip() else None
    return now if date is None else date


class Unit(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT = "input tokens"
    OUTPUT = "output tokens"


@dataclass(frozen=True, slots=True)
class NamedLimit:
    """A limit as the headers of one reply name it; None is what they leave out.

    `period_s` is None where the name does not say: a minute, unless the reset contradicts it.
    """

    unit: Unit
    limit: float | None = None
    left: float | None = None
    reset_s: float | None = None
    period_s: float | None = None


_WINDOWS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "month": 30 * 86400.0}
_UNITS = {
    "requests": Unit.REQUESTS,
    "req": Unit.REQUESTS,
    "tokens": Unit.TOKENS,
    "input-tokens": Unit.INPUT,
    "output-tokens": Unit.OUTPUT,
}
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))
_NAMED = re.compile(
    r"(?:x-)?(?:anthropic-)?rate-?limit(?P<by_size>bysize)?-(?:"
    rf"(?P<what>limit|remaining|reset|renewalperiod)(?:-(?P<unit>{_UNIT}))?"
    rf"(?:-(?P<count>[0-9]{{1,3}}))?(?:-(?P<window>{'|'.join(_WINDOWS_S)}))?"
    rf"|(?P<unit2>{_UNIT})-(?P<what2>limit|remaining|reset))"
)
# The fields of the IETF's draft: `RateLimit: "name";r=9;t=1` and `RateLimit-Policy: "name";q=10;w=60`.
_ITEM = re.compile(r'\s*"?(?P<name>[^";,=]*)"?\s*(?P<fields>(?:;\s*[a-z]+=[^;,]*)+)')
_FIELD = re.compile(r";\s*(q|w|r|t|qu)=\"?([^;,\"]*)")
# Above this a reset is not a duration but a moment, in seconds or milliseconds since 1970.
_A_MOMENT = 1e9
_IN_MILLISECONDS = 1e11


def named_limits(headers: Mapping[str, str], *, now: float) -> list[NamedLimit]:
    """Every limit that the headers of a reply name, in its own unit and window. `now` is Unix time."""
    lowered = [(name.lower(), value) for name, value in headers.items()]
    about_limits = [field for field in lowered if "ratelimit" in field[0] or "rate-limit" in field[0]]
    if not about_limits:
        return []
    numbers: dict[tuple[Unit, float | None], dict[str, float]] = {}
    reference = _reference(headers, now)
    for name, value in about_limits:
        match = _NAMED.fullmatch(name)
        if match is None:
            continue
        unit = Unit.TOKENS if match["by_size"] else _UNITS[match["unit"] or match["unit2"] or "requests"]
        window = _WINDOWS_S[match["window"]] * int(match["count"] or 1) if match["window"] else None
        what = match["what"] or match["what2"]
        number = _reset(value, reference) if what == "reset" else _plain(value)
        if number is not None:
            numbers.setdefault((unit, window), {})[what] = number
    limits = []
    for (unit, window), one in numbers.items():
        period_s = one.get("renewalperiod") or None if window is None else window
        limits.append(NamedLimit(unit, one.get("limit"), one.get("remaining"), one.get("reset"), period_s))
    return _with_policy(headers, limits)


def _reset(value: str, now: float) -> float | None:
    number = float(value) if re.fullmatch(r"[0-9]{10,14}", value.strip()) else None
    if number is None or number < _A_MOMENT:
        return duration_s(value, now=now)
    return _sensible((number / 1000 if number > _IN_MILLISECONDS else number) - now)


def _with_policy(headers: Mapping[str, str], limits: list[NamedLimit]) -> list[NamedLimit]:
    """Return the limits, with those of the IETF's fields or the window that these give to a plain one."""
    policies = _items(headers.get("ratelimit-policy", ""))
    if not policies:
        return limits
    states = _items(headers.get("ratelimit", ""))
    if not states:
        fields = next(iter(policies.values()))
        window = _plain(fields.get("w", "")) or None
        return [
            NamedLimit(each.unit, each.limit, each.left, each.reset_s, each.period_s or window)
            for each in limits
        ]
    named = []
    for name, fields in policies.items():
        state = states.get(name, {})
        if fields.get("qu", "requests") == "requests":
            limit, left = _plain(fields.get("q", "")), _plain(state.get("r", ""))
            reset_s, window = duration_s(state.get("t", ""), now=0.0), _plain(fields.get("w", "")) or None
            named.append(NamedLimit(Unit.REQUESTS, limit, left, reset_s, window))
    return named + limits


def _items(value: str) -> dict[str, dict[str, str]]:
    return {item["name"]: dict(_FIELD.findall(item["fields"])) for item in _ITEM.finditer(value[:1000])}
