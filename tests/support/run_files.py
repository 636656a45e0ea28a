"""What a run leaves behind: its journals, their records, and whether anything below a folder changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def tree(root: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time of change and digest of everything below a directory, by relative path."""
    return {str(path.relative_to(root)): _fingerprint(path) for path in [root, *sorted(root.rglob("*"))]}


def _fingerprint(path: Path) -> tuple[int, int, str]:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() else b""
    return status.st_mode, status.st_mtime_ns, hashlib.sha256(content).hexdigest()


def journals(run: Path) -> dict[str, bytes]:
    """The bytes of every journal, by its place in the run directory."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.jsonl"))}


def whole_lines(contents: bytes) -> bytes:
    """Everything up to the last newline."""
    return contents[: contents.rfind(b"\n") + 1]


def records(contents: bytes) -> list[dict[str, Any]]:
    """Every whole record."""
    return [json.loads(line) for line in whole_lines(contents).split(b"\n")[:-1]]


def stored_ids(run: Path) -> tuple[set[int], set[int]]:
    """The samples with a stored response, and those with a stored verdict."""
    responses: set[int] = set()
    verdicts: set[int] = set()
    for name, contents in journals(run).items():
        if name == "responses.jsonl" or name.startswith("verdicts/"):
            found = responses if name == "responses.jsonl" else verdicts
            found.update(row["sample_id"] for row in records(contents))
    return responses, verdicts
