"""The formats of reports, a module each: ours, and those of installed packages.

A format is a function that takes a `Report`, and the width and colour of a terminal. A package brings one by
an entry point of the group `vlsb.formats`, as ours are named in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Protocol

from vlsb.errors import ConfigError, VlsbError
from vlsb.plugins import entry_points, owner
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


class Format(Protocol):
    """Writes a report as text."""

    def __call__(self, report: Report, /, *, width: int, color: bool) -> str: ...


def write(report: Report, form: str, *, width: int, color: bool) -> str:
    """Return the report in a format of ours, or of an installed package.

    Raises ConfigError for a format that nobody has, VlsbError for one that fails.
    """
    if form in OURS:
        ours: Format = metadata.EntryPoint(form, OURS[form], ENTRY_POINTS).load()
        return ours(report, width=width, color=color)
    formats = installed_formats()
    if form not in formats:
        raise ConfigError(f"--format {form}: not one of {', '.join((*FORMATS, *formats))}.")
    # Code of somebody else can fail in any way, while it is imported and while it writes.
    try:
        content = formats[form].load()(report, width=width, color=color)
        if not isinstance(content, str):
            raise TypeError(f"it gave {type(content).__name__} and not text")
    except Exception as error:
        raise VlsbError(
            f"The format {form} of the package {owner(formats[form])} failed",
            detail=Untrusted(f"{type(error).__name__}: {error}"),
            advice="Repair or uninstall that package, or use another --format.",
        ) from error
    return content


def installed_formats() -> dict[str, metadata.EntryPoint]:
    """Return the formats of other packages by name. Raises ConfigError for a name that is taken."""
    formats: dict[str, metadata.EntryPoint] = {}
    for point in entry_points(ENTRY_POINTS):
        if point.value == OURS.get(point.name):
            continue
        if point.name in OURS or point.name in formats:
            has = owner(formats[point.name]) if point.name in formats else "vlsb"
            raise ConfigError(
                f"The package {owner(point)} brings a format {point.name}, which {has} has already. "
                f"Uninstall {owner(point)}."
            )
        formats[point.name] = point
    return formats
