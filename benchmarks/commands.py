"""The contenders' names and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a contender: where it asks, about what, how much at a time in each lane."""

    origin: str
    data: Path
    samples: int
    connections: int
    ca_bundle: Path | None
    output: Path

    @property
    def trust(self) -> list[str]:
        """The option that trusts the stub's certificate."""
        return [] if self.ca_bundle is None else ["--ca-bundle", str(self.ca_bundle)]


def vlsb_words(call: Call, *more: str) -> list[str]:
    """The public command, as a user types it."""
    return [
        *(sys.executable, "-m", "vlsb", "run", "--display", "none"),
        *("--model", "target", "--base-url", f"{call.origin}/target/v1"),
        *("--judge", "judge", "--judge-base-url", f"{call.origin}/judge/v1"),
        *("--data-root", str(call.data), "--limit", str(call.samples)),
        *("--output-dir", str(call.output), "--name", "run"),
        *("--max-connections", str(call.connections), "--judge-max-connections", str(call.connections)),
        *call.trust,
        *more,
    ]


def _script(module: str, *first: str) -> Callable[[Call], list[str]]:
    def words(call: Call) -> list[str]:
        return [
            *(sys.executable, "-m", f"benchmarks.contenders.{module}", *first),
            *("--origin", call.origin, "--data", str(call.data), "--limit", str(call.samples)),
            *("--connections", str(call.connections), "--output", str(call.output / "lines.jsonl")),
            *call.trust,
        ]

    return words


FLOOR, VLSB, SDK = "floor", "vlsb", "sdk"
COMMANDS: dict[str, Callable[[Call], list[str]]] = {
    FLOOR: _script("floor", "pybase64"),
    "floor, stdlib base64": _script("floor", "binascii"),
    VLSB: vlsb_words,
    "vlsb over httpx": lambda call: vlsb_words(call, "--transport", "httpx"),
    SDK: _script("sdk"),
    "httpx": _script("plain_httpx", "httpx"),
    "httpx2": _script("plain_httpx", "httpx2"),
}
EVERYBODY = (FLOOR, VLSB, SDK, "httpx", "httpx2")
