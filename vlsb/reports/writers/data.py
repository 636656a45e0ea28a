"""A report for programs: its data as JSON, its records as CSV, both with unrounded numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass

from vlsb.analysis.rates import Interval
from vlsb.records import Untrusted
from vlsb.reports.encode import csv_document, for_json, json_document
from vlsb.reports.report import Report, Sentence


def write_json(report: Report, *, width: int, color: bool) -> str:
    """Return the report's data as JSON."""
    return json_document(plain(report.data))


def write_csv(report: Report, *, width: int, color: bool) -> str:
    """Return the report's records as CSV."""
    return csv_document([report.records.columns, *report.records.rows])


def plain(value: object) -> object:
    """Return data as JSON has it: an interval as a list, any other named tuple or dataclass as an object."""
    # Nearly all are figures, of which a report of many runs has hundreds of thousands.
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Untrusted):
        return for_json(value)
    if isinstance(value, Sentence):
        return value.text(for_json)
    if isinstance(value, Interval):
        return list(value)
    if isinstance(value, (dict, Mapping)):
        return {plain(name): plain(each) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Iterable):
        return [plain(each) for each in value]
    return value
