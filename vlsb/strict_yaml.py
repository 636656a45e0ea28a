"""YAML that people write, with the line of everything: bounded, UTF-8, no key twice, nothing unusable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlsb.errors import ConfigError

if TYPE_CHECKING:
    # A mapping, a sequence or a scalar, which tell themselves apart by `id`.
    from typing import Any as Node

MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Document:
    """A file's contents in Python's own types, and where each part of it stands."""

    place: str
    values: dict[str, Any]
    root: Node

    def key_lines(self) -> Iterator[tuple[str, int]]:
        """Give the keys at the top with their lines, counted from 1."""
        for key, _ in self.root.value:
            yield key.value, key.start_mark.line + 1

    def line(self, *path: str | int) -> int:
        """Find the line of a part, such as `("models", 2, "dtype")`, or of the nearest part above it."""
        node, line = self.root, int(self.root.start_mark.line) + 1
        for step in path:
            if node.id == "sequence" and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 1
            elif pairs := [pair for pair in node.value if node.id == "mapping" and pair[0].value == step]:
                line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
            else:
                break
        return line


def load(path: Path, what: str, *, max_bytes: int = MAX_BYTES) -> Document:
    """Read the mapping in a file, called `what` (an engine config). Raises ConfigError with the line."""
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ConfigError(f"{path}: larger than {max_bytes // 1024} KiB, so not {what}.")
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not YAML ({error.problem or 'a damaged file'}).") from error
    # Values of its own types are built by Python's constructors: a date of month 13 is theirs to refuse.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML that can be read.") from error
    if not isinstance(root, yaml.MappingNode) or not isinstance(values, dict):
        raise ConfigError(f"{path}: {what} is a list of lines `key: value`.")
    _require_single_keys(root, path)
    document = Document(str(path), values, root)
    _require_usable(document)
    return document


def _require_single_keys(root: Node, path: Path) -> None:
    """Refuse a key that is set twice, where the library takes the last, and one that is not a text."""
    # An anchor's node stands in several places, also in itself.
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node.value, str):
            continue
        seen.add(id(node))
        if node.id == "sequence":
            waiting += node.value
            continue
        keys = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key.value, str) or key.tag not in ("tag:yaml.org,2002:str", _MERGE):
                raise ConfigError(f"{path}, line {line}: a key must be a word.")
            if key.value in keys:
                raise ConfigError(f"{path}, line {line}: {key.value} is set twice.")
            keys.add(key.value)
            waiting.append(value)


_MERGE = "tag:yaml.org,2002:merge"


def _require_usable(document: Document) -> None:
    """Refuse values that only YAML can write: infinite numbers, texts that no file holds."""
    # An alias may stand for what it is in.
    seen: set[int] = set()
    waiting: list[tuple[tuple[str | int, ...], object]] = [((), document.values)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict | list):
            if id(value) not in seen:
                seen.add(id(value))
                inner = value.items() if isinstance(value, dict) else enumerate(value)
                # A key is a text, too.
                waiting += [((*path, key), each) for key, part in inner for each in (part, key)]
        elif isinstance(value, float) and not math.isfinite(value):
            _refuse(document, path, f"{value} is not a number that can be used")
        elif isinstance(value, str) and not _is_text(value):
            _refuse(document, path, "it has a character that no file and no request can hold")


def _is_text(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _refuse(document: Document, path: tuple[str | int, ...], why: str) -> None:
    key = next((f"{each}: " for each in reversed(path) if isinstance(each, str) and _is_text(each)), "")
    raise ConfigError(f"{document.place}, line {document.line(*path)}: {key}{why}.")
