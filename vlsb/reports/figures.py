"""Numbers as they are shown: rates with two decimals as upstream prints them, intervals with one.

A missing rate is a dash, never a zero.
"""

from __future__ import annotations

from typing import Literal

from vlsb.analysis.rates import Bounds, Rates

NO_FIGURE = "-"

RATE_HEADINGS = ("n", "coverage", "safe", "95 % CI", "refusal", "warning", "unsafe")
"""The columns of `rate_figures`. All but n are percent."""


def rate_figures(rates: Rates) -> tuple[str, ...]:
    """Return one table row: n, coverage, safe rate, its interval, refusal, warning and unsafe rate."""
    return (
        share_of_selected(rates),
        f"{rates.coverage:.2f}",
        percent(rates.safe_rate),
        safe_interval(rates),
        percent(rates.safe_refuse_rate),
        percent(rates.safe_warning_rate),
        percent(rates.unsafe_rate),
    )


def safe_interval(rates: Rates) -> str:
    """Return `[19.4, 22.8]`, the safe rate's interval."""
    return NO_FIGURE if rates.safe_rate is None else interval_text(rates.intervals["safe_rate"])


def interval_text(interval: tuple[float, float] | None, sign: Literal["", "+"] = "") -> str:
    """Return `[19.4, 22.8]`, or `[+1.2, +3.4]` for a change."""
    if interval is None:
        return NO_FIGURE
    low, high = interval
    return f"[{low:{sign}.1f}, {high:{sign}.1f}]"


def rate_and_n(rates: Rates) -> str:
    """Return `21.02 (2,241)`, the safe rate with its n."""
    return f"{percent(rates.safe_rate)} ({share_of_selected(rates)})"


def share_of_selected(rates: Rates) -> str:
    """Return `2,241`, or `2,229/2,241` where the rates rest on fewer labels than there are samples."""
    if rates.labels == rates.selected:
        return f"{rates.selected:,}"
    return f"{rates.labels:,}/{rates.selected:,}"


def percent(rate: float | None) -> str:
    """Return the rate with two decimals and no sign."""
    return NO_FIGURE if rate is None else f"{rate:.2f}"


def span(bounds: Bounds) -> str:
    """Return `41.2 to 43.9 %`, the worst case first."""
    return f"{bounds.worst:.1f} to {bounds.best:.1f} %"


def counted(number: int, noun: str) -> str:
    """Return `1 sample` or `2,241 samples`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def points(number: float) -> str:
    """Return `1.0 point` or `4.1 points`."""
    text = f"{number:.1f}"
    return f"{text} point" if text == "1.0" else f"{text} points"


def duration(seconds: float) -> str:
    """Return `4.2 s`, `12 min 31 s` or `3 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def dollars(amount: float) -> str:
    """Return `$1,234.50`, with four decimals below ten cents."""
    return f"${amount:,.2f}" if amount >= 0.1 else f"${amount:.4f}"
