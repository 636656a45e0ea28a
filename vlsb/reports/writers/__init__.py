"""The formats of reports, a module each: ours, and those of installed packages.

A format is a function that takes a `Report`, and the width and colour of a terminal. A package brings one by
an entry point of the group `vlsb.formats`, as ours are named in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Protocol

from vlsb.errors import ConfigError, VlsbError
from vlsb.records import Untrusted
from vlsb.reports.report import Report

ENTRY_POINTS = "vlsb.formats"
"""The group by which installed packages name their formats."""
OURS: Mapping[str, str] = {
    "table": "vlsb.reports.writers.terminal:write",
    "json": "vlsb.reports.writers.data:write_json",
    "csv": "vlsb.reports.writers.data:write_csv",
    "markdown": "vlsb.reports.writers.markdown:write",
    "latex": "vlsb.reports.writers.latex:write",
}
FORMATS = tuple(OURS)
"""Our own formats. They are known without a look at what is installed, which costs help pages time."""


class Writer(Protocol):
    """A format: writes a report as text, or as bytes where it is no text."""

    def __call__(self, report: Report, /, *, width: int, color: bool) -> str | bytes: ...


def write(report: Report, form: str, *, width: int, color: bool) -> str | bytes:
    """Return the report in a format of ours, or of an installed package. Raises ConfigError for any other."""
    if form in OURS:
        ours: Writer = metadata.EntryPoint(form, OURS[form], ENTRY_POINTS).load()
        return ours(report, width=width, color=color)
    formats = installed_formats()
    if form not in formats:
        raise ConfigError(f"--format {form}: not one of {', '.join((*FORMATS, *formats))}.")
    point = formats[form]
    # A package of somebody else can fail in any way, while it is imported and while it writes.
    try:
        content = point.load()(report, width=width, color=color)
    except Exception as error:
        raise _broken(point, f"{type(error).__name__}: {error}") from error
    if not isinstance(content, str | bytes):
        raise _broken(point, f"it gave {type(content).__name__}, which is neither text nor bytes")
    return content


def installed_formats() -> dict[str, metadata.EntryPoint]:
    """Return the formats of other packages by name. Raises ConfigError for a name that is taken."""
    formats: dict[str, metadata.EntryPoint] = {}
    for point in sorted(metadata.entry_points(group=ENTRY_POINTS), key=_owner):
        if point.value == OURS.get(point.name):
            continue
        if point.name in OURS or point.name in formats:
            has = _owner(formats[point.name]) if point.name in formats else "vlsb"
            raise ConfigError(
                f"The package {_owner(point)} brings a format {point.name}, which {has} has already. "
                f"Uninstall {_owner(point)}."
            )
        formats[point.name] = point
    return formats


def _owner(point: metadata.EntryPoint) -> str:
    return point.name if point.dist is None else point.dist.name


def _broken(point: metadata.EntryPoint, why: str) -> VlsbError:
    return VlsbError(
        f"The format {point.name} of the package {_owner(point)} ({point.value}) failed",
        detail=Untrusted(why),
        advice="Repair or uninstall it, or use another --format.",
    )
