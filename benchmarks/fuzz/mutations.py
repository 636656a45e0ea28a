"""Mutations that keep what a parser checks first: JSON stays JSON, and tar headers sum up.

Each is used for a share of the inputs; the others get libFuzzer's own changes of bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

BLOCK = 512
_CHECKSUM = slice(148, 156)
_MAGIC = slice(257, 262)
# What JSON text can hold and Python's own writer would not write.
_SPECIALS = {
    "@huge@": "1e999",
    "@digits@": "9" * 4300,
    "@long@": "9" * 30,
    "@nan@": "NaN",
    "@deep@": "[" * 970 + "]" * 970,
    "@deeper@": '{"a":' * 1020 + "1" + "}" * 1020,
}
_SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, -1, 1.0, 0.5, 1e9, -0.0, 2**53, 2**63, 2**64, 10**40),
    *("", " ", "0", "-1", "1e3", "\ud800", "\x1b]52;c;AA\x07", "\u2028", "../x", "\x00", [], {}, [[]]),
    *_SPECIALS,
)
_TYPEFLAGS = b"\x000123456789xgXLKSADMNVI"
_TAR_FIELDS: tuple[tuple[slice, tuple[bytes, ...]], ...] = (
    (slice(0, 100), (b"imgs/0.png", b"./imgs/1.PNG", b"imgs/", b"imgs", b".", b"", b"../x.png", b"\xff.png")),
    (
        slice(124, 136),
        (
            b"00000000000\0",
            b"77777777777\0",
            b"\xff" * 12,
            b"\x80" + b"\0" * 10 + b"\1",
            b"-1\0",
        ),
    ),
    (slice(156, 157), tuple(bytes([flag]) for flag in _TYPEFLAGS)),
    (slice(257, 265), (b"ustar\x0000", b"ustar  \0")),
    (slice(345, 500), (b"", b"imgs", b"a/b")),
    (slice(386, 482), (b"00000000001\0" * 8, b"77777777777\0" * 8)),
    (slice(482, 495), (b"\1" + b"00000001000\0",)),
)

_HEADER_VALUES = (
    *(b"", b"0", b"1", b"-1", b"20", b"1.5", b"0.000001", b"999999999999", b"nan", b"1e3", b"9" * 35),
    *(b"6m0s", b"12ms", b"9999d", b"0.000001ns", b"1h1h1h", b"9999-12-31T23:59:59+23:59"),
    *(b"Fri, 31 Dec 9999 23:59:59 -9999", b"Tue, 14 Nov 2023 22:14:20 GMT", b"0001-01-01T00:00:00Z"),
)

Mutator = Callable[[bytes, int, random.Random], bytes | None]


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) in a document."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(entries):
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


def change_json(data: bytes, size: int, chance: random.Random) -> bytes | None:
    """The data with one value changed in one of its lines that are JSON; None if there is none."""
    lines = data.split(b"\n")
    candidates = [number for number, line in enumerate(lines) if line[:1] in (b"{", b"[") and len(line) > 2]
    if not candidates:
        return None
    number = chance.choice(candidates)
    try:
        holder = [json.loads(lines[number])]
        for _ in range(chance.randint(1, 3)):
            _change_one(holder, chance)
        text = json.dumps(holder[0])
    except (ValueError, RecursionError):
        return None
    for name, special in _SPECIALS.items():
        text = text.replace(f'"{name}"', special)
    lines[number] = text.encode()
    if chance.random() < 0.1:
        lines.insert(number, lines[number])
    found = b"\n".join(lines)
    return found if len(found) <= size else None


def _change_one(holder: list[Any], chance: random.Random) -> None:
    found = list(places(holder))
    container, key = chance.choice(found)
    what = chance.randrange(5)
    if what < 2 or container is holder:
        container[key] = chance.choice(_SCALARS)
    elif what == 2:
        del container[key]
    elif what == 3 and isinstance(container, dict):
        container[chance.choice([str(k) for c, k in found if isinstance(c, dict)] or ["x"])] = container[key]
    else:
        other, place = chance.choice(found)
        container[key] = json.loads(json.dumps(other[place]))


def change_headers(data: bytes, size: int, chance: random.Random) -> bytes | None:
    """The data with another value in one of its lines, or a line more."""
    lines = data.split(b"\n")
    number = chance.randrange(len(lines))
    name, colon, value = lines[number].partition(b":")
    if colon and chance.random() < 0.8:
        lines[number] = name + b": " + chance.choice(_HEADER_VALUES)
    else:
        other = chance.choice([b"requests", b"tokens", b"limit", b"remaining", b"reset"])
        parts = name.split(b"-")
        parts[chance.randrange(len(parts))] = other
        lines.insert(number, b"-".join(parts) + b":" + value)
    return b"\n".join(lines)[:size]


_REPLY_PIECES = (
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 204 No\r\n",
    ),
    *(
        b"content-length: 10\r\n",
        b"content-length: 0\r\n",
        b"transfer-encoding: chunked\r\n",
        b"connection: close\r\n",
    ),
    *(
        b"content-encoding: gzip\r\n",
        b"connection: keep-alive\r\n",
        b"\r\n",
        b"\n",
        b"x:" + b" " * 99,
        b"a\r\n@T\r\n",
    ),
    *(b"0\r\n\r\n", b"@T", b"\x1f", b"\x1d", b"\x1e", b"\x04"),
    *(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n@T", b"HTTP/1.1 429 No\r\ncontent-length: 10\r\n\r\n@T"),
    # A reply that nobody asked for, soon after another and long after it.
    b"\x1fHTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n@T",
    b"\x1dHTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n@T",
)
_BORDER = re.compile(rb"[\x1d-\x1f]|\r\n|$")


def change_script(data: bytes, size: int, chance: random.Random) -> bytes | None:
    """The script with a piece of a reply, a pause or an end put in, or one of its records twice."""
    for _ in range(chance.randint(1, 4)):
        if chance.random() < 0.2:
            records = data.split(b"\x1e")
            records.insert(chance.randint(0, len(records)), chance.choice(records))
            data = b"\x1e".join(records)
        else:
            borders = [found.start() for found in _BORDER.finditer(data)]
            at = chance.choice(borders) if chance.random() < 0.5 else chance.randint(0, len(data))
            data = data[:at] + chance.choice(_REPLY_PIECES) + data[at + chance.choice([0, 0, 0, 1, 10]) :]
    return data[:size]


def change_tar(data: bytes, size: int, chance: random.Random) -> bytes | None:
    """The archive with one block repeated, removed or moved, or a field of one header changed."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)] or [b""]
    headers = [number for number, block in enumerate(blocks) if block[_MAGIC] == b"ustar"] or [0]
    number = chance.choice(headers)
    what = chance.randrange(6)
    if what == 0:
        blocks.insert(chance.randint(0, len(blocks)), blocks[number])
    elif what == 1:
        del blocks[chance.randrange(len(blocks))]
    elif what == 2:
        other = chance.randrange(len(blocks))
        blocks[number], blocks[other] = blocks[other], blocks[number]
    else:
        field, values = chance.choice(_TAR_FIELDS)
        width = field.stop - field.start
        block = bytearray(blocks[number].ljust(BLOCK, b"\0"))
        block[field] = chance.choice(values)[:width].ljust(width, b"\0")
        blocks[number] = bytes(block)
    return with_checksums(b"".join(blocks))[:size]


def with_checksums(data: bytes) -> bytes:
    """The archive with every header's checksum made right, or it would be refused for that alone."""
    found = bytearray(data)
    for at in range(0, len(found) - BLOCK + 1, BLOCK):
        block = found[at : at + BLOCK]
        if block[_MAGIC] == b"ustar":
            block[_CHECKSUM] = b" " * 8
            found[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(found)
