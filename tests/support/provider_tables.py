"""The tables of `docs/reference/providers.md`, made from the program and the replies that tests replay."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.support.provider_errors import ROWS, Becomes, Row
from vlsb.models.providers import PROVIDERS, Provider

_REST = re.compile("remaining|reset")
HOSTED = [each for each in PROVIDERS if each.base_url]


def names() -> str:
    """What a user types, and where that leads."""
    rows = []
    for each in PROVIDERS:
        shown = [f"`{each.shown}`"] if each.shown else []
        shown += [f"`{organisation}/{each.shown}`" for organisation in each.organisations]
        shown += [f"`{each.prefix}...`"] if each.prefix else []
        address = f"`{each.base_url}`" if each.base_url else f"`--base-url`, at {' or '.join(each.hosts)}"
        key = f"`{each.key_variable}`" if each.key_variable else "none"
        rows.append((each.name, " or ".join(shown) or "any", address, key))
    return _table(("provider", "`--model`", "address", "key"), rows)


def differences() -> str:
    """How each is asked first, how it withholds, and where that was read."""
    return _table(
        ("provider", "left out", "schema", "withholds by", "limits in headers", "else", "read", "not read"),
        [
            (
                each.name,
                ", ".join(f"`{field}`" for field in each.unsent) or "nothing",
                "sent" if each.structured else "JSON in words",
                each.blocks,
                ", ".join(f"`{name}`" for name in each.limit_headers if not _REST.search(name)) or "none",
                each.notes,
                _links(each),
                each.remembered,
            )
            for each in HOSTED
        ],
    )


def thinking() -> str:
    """The fields that switch thinking."""
    return _table(
        ("provider", "models", "off", "on", "left out then"),
        [
            (
                provider.name,
                f"`{each.models.pattern}`",
                _fields(each.off),
                _fields(each.on),
                ", ".join(f"`{field}`" for field in each.unsent),
            )
            for provider in HOSTED
            for each in provider.thinking
        ],
    )


def batches() -> str:
    """Who has a batch API as OpenAI's, what it takes of the price, and how much one file may hold."""
    return _table(
        ("provider", "of the normal price", "requests", "file", "read"),
        [
            (
                each.name,
                f"{each.batch.share:.0%}",
                f"{each.batch.most_requests:,}",
                f"{each.batch.most_bytes / 1e6:,.0f} MB",
                ", ".join(f"[{number}]({source})" for number, source in enumerate(each.batch.sources, 1)),
            )
            for each in PROVIDERS
            if each.batch is not None
        ],
    )


def errors() -> str:
    """For each provider and outcome what it sends, linked to its source."""
    grouped: dict[tuple[str, Becomes], list[str]] = {}
    for row in ROWS:
        grouped.setdefault((row.provider, row.becomes), []).append(_linked(row))
    return _table(
        ("provider", "becomes", "what it sends"),
        [(provider, str(becomes), ", ".join(sent)) for (provider, becomes), sent in grouped.items()],
    )


TABLES: Mapping[str, Callable[[], str]] = {
    "provider names": names,
    "provider differences": differences,
    "provider thinking": thinking,
    "provider batches": batches,
    "provider errors": errors,
}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _links(provider: Provider) -> str:
    return ", ".join(f"[{number}]({source})" for number, source in enumerate(provider.sources, 1))


def _fields(fields: Mapping[str, Any] | None) -> str:
    return "-" if fields is None else ", ".join(f"`{k}`: `{json.dumps(v)}`" for k, v in fields.items())


def _linked(row: Row) -> str:
    said = str(row.status) if row.spelling.startswith("status ") else f"{row.status} {row.spelling}"
    address, _, note = row.source.partition(" ")
    if not address.startswith("https:"):
        return f"{said} ({row.source})"
    note = note.replace("*", "\\*")
    return f"[{said}]({address}) {note}".strip()
