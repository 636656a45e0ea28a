"""The tables of the page on providers, and its data file, from the program and the replies tests replay."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.support.provider_errors import ROWS
from vlsb.models.providers import PROVIDERS, Provider

_REST = re.compile("remaining|reset")
HOSTED = [each for each in PROVIDERS if each.base_url]


def names() -> str:
    """What a user types, and where that leads."""
    rows = []
    for each in PROVIDERS:
        shown = [f"`{each.pattern}`"] if each.pattern else []
        shown += [f"`{organisation}/{each.pattern}`" for organisation in each.organisations]
        shown += [f"`{each.prefix}...`"] if each.prefix else []
        address = f"`{each.base_url}`" if each.base_url else f"`--base-url`, at {' or '.join(each.hosts)}"
        key = f"`{each.key_variable}`" if each.key_variable else "none"
        rows.append((each.name, " or ".join(shown) or "any", address, key))
    return _table(("provider", "`--model`", "address", "key"), rows)


def differences() -> str:
    """What a user has to know of each; the rest is in `facts`."""
    return _table(
        ("provider", "left out", "note"),
        [
            (
                each.name,
                ", ".join(
                    [*(f"`{field}`" for field in each.unsent), *([] if each.structured else ["schema"])]
                )
                or "nothing",
                each.notes,
            )
            for each in HOSTED
            if each.unsent or each.notes or not each.structured
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


def facts() -> list[dict[str, Any]]:
    """Return all that is known of each provider, with its source; those without a row of their own too."""
    names = dict.fromkeys([*(each.name for each in PROVIDERS), *(row.provider for row in ROWS)])
    own = {each.name: each for each in PROVIDERS}
    return [
        {"provider": name, **(_own_facts(own[name]) if name in own else {}), "does_not_answer": _errors(name)}
        for name in names
    ]


def _own_facts(provider: Provider) -> dict[str, Any]:
    return {
        "left_out": list(provider.unsent),
        "schema": "sent" if provider.structured else "JSON in words",
        "withholds_by": provider.blocks,
        "limits_in_headers": [name for name in provider.limit_headers if not _REST.search(name)],
        "read": list(provider.sources),
        "not_read": provider.remembered,
        "thinking": [
            {
                "models": each.models.pattern,
                "off": each.off if each.off is None else dict(each.off),
                "on": each.on if each.on is None else dict(each.on),
                "left_out_then": list(each.unsent),
            }
            for each in provider.thinking
        ],
    }


def _errors(provider: str) -> list[dict[str, Any]]:
    return [
        {"status": row.status, "sends": row.spelling, "becomes": str(row.becomes), "source": row.source}
        for row in ROWS
        if row.provider == provider
    ]


TABLES: Mapping[str, Callable[[], str]] = {
    "provider names": names,
    "provider differences": differences,
    "provider batches": batches,
}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])
