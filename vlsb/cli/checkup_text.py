"""The findings of `vlsb doctor` as a screen and as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from vlsb._version import __version__
from vlsb.cli.checkup import Finding, Group, State
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal, json_document, versioned
from vlsb.reports.writers.terminal import MIN_WIDTH, text_console

SCHEMA = 1
"""Of the JSON. Fields may be added at the end under the same number."""

_GROUP_WIDTH = 10
_LONGEST = 400
_MARKS = {State.OK: ("✓", "green"), State.MISSING: ("○", "yellow"), State.PROBLEM: ("✗", "red")}


def findings_json(found: Sequence[Finding]) -> str:
    """One object: the version, and a list of findings in the order of the screen."""
    rows = [
        {
            "group": finding.group.value,
            "name": finding.name,
            "state": finding.state.value,
            "what": finding.what,
            "command": finding.command,
        }
        for finding in found
    ]
    return json_document({**versioned(SCHEMA), "vlsb": __version__, "findings": rows})


def findings_text(found: Sequence[Finding], *, width: int, height: int, color: bool) -> str:
    """The screen, at most `width` columns wide (80 at least) but for commands, which are never broken.

    Where it would not fit into `height` lines, the blank ones between its parts go.
    """
    out = io.StringIO()
    console = text_console(out, width=width, color=color)
    lines = [Text(f"vlsb {__version__}", style="bold"), *_lines(found, max(width, MIN_WIDTH))]
    # One line is the prompt's.
    is_short = len(lines) >= height
    for line in lines:
        if line.plain or not is_short:
            console.print(line, soft_wrap=True)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _lines(found: Sequence[Finding], width: int) -> Iterator[Text]:
    name_width = max(
        (len(each.name) for each in found if each.group not in (Group.KEYS, Group.READY)), default=0
    )
    for group in Group:
        members = [finding for finding in found if finding.group == group]
        if group == Group.READY:
            yield Text()
            yield from (line for each in members for line in _sentence(each, width))
            continue
        label = Text(f"{group.value:<{_GROUP_WIDTH}}", style="bold")
        rows = (
            [_key_row(members, width)]
            if group == Group.KEYS
            else [_row(each, name_width, width) for each in members]
        )
        lines = [line for row in rows for line in row]
        yield Text()
        for index, line in enumerate(lines):
            yield (Text(" " * len(label)) if index else label) + line


def _sentence(finding: Finding, width: int) -> list[Text]:
    """What the screen ends with, across its whole width."""
    head = Text(f"{finding.name}: ", style="bold")
    lines = list((head + Text(_clean(finding.what))).wrap(Console(width=width), width))
    for line in lines:
        line.rstrip()
    return lines


def _name_with_mark(finding: Finding, name: str) -> Text:
    mark, style = _MARKS[finding.state]
    if finding.state == State.MISSING and finding.command is None:
        style = "dim"  # nothing to do about it
    return Text(f"{mark} ", style=style) + Text(name)


def _key_row(keys: Sequence[Finding], width: int) -> list[Text]:
    """Keys beside each other: their names and marks say it all."""
    lines = [Text()]
    for key in keys:
        entry = _name_with_mark(key, _clean(key.name) + "  ")
        if lines[-1].plain and _GROUP_WIDTH + len(lines[-1]) + len(entry) - 2 > width:
            lines.append(Text())
        lines[-1] = lines[-1] + entry
    return lines


def _row(finding: Finding, name_width: int, width: int) -> list[Text]:
    """What a finding says, wrapped below itself, and its command at the end where there is room."""
    head = _name_with_mark(finding, f"{_clean(finding.name):<{name_width}}  ")
    room = width - _GROUP_WIDTH - len(head)
    said = Text(_clean(finding.what), style="red" if finding.state == State.PROBLEM else "")
    lines = list(said.wrap(Console(width=width), room)) or [Text()]
    lines[-1].rstrip()
    if finding.command is not None:
        command = Text("→ ", style="dim") + Text(finding.command, style="cyan")
        if cell_len(lines[-1].plain) + 2 + cell_len(command.plain) <= room:
            lines[-1] = lines[-1] + Text("  ") + command
        else:
            lines.append(command)
    return [(Text(" " * len(head)) if index else head) + line for index, line in enumerate(lines)]


def _clean(text: str) -> str:
    """Paths, an engine's version and a GPU's name are not ours."""
    return for_terminal(Untrusted(text))[:_LONGEST]
