"""Rates as other programs read them."""

from __future__ import annotations

from collections.abc import Sequence

from vlsb.analysis.summary import Summary
from vlsb.reports.documents import rates_report
from vlsb.reports.writers import write


def to_json(summaries: Sequence[Summary]) -> str:
    """A list with one object a summary."""
    return write(rates_report(summaries), "json", width=80, color=False)


def to_csv(summaries: Sequence[Summary]) -> str:
    """The same as flat rows."""
    return write(rates_report(summaries), "csv", width=80, color=False)
