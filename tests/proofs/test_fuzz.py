"""`just fuzz` can be started and can find: its targets hold for their seeds, and planted faults do not pass.

Without atheris, which is fetched for the fuzzing itself.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import PROJECT
from vlsb.endpoints import transport

FOLDER = PROJECT / "benchmarks" / "fuzz"
MODULES = ("mutations", "seeds", "connections", "targets", "replay", "run")
TARGETS = ("replies", "verdicts", "headers", "rows", "run_files", "archives", "connections")
Connection = transport._Connection


@pytest.fixture
def fuzz(monkeypatch):
    """The modules of the fuzz by name, which are gone again afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.modules["connections"].close()
        for name in MODULES:
            sys.modules.pop(name, None)


def test_every_target_that_is_offered_can_be_fuzzed(fuzz: dict[str, ModuleType]) -> None:
    assert fuzz["run"].TARGETS == tuple(fuzz["targets"].TARGETS) == TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds(fuzz: dict[str, ModuleType], tmp_path: Path, name: str) -> None:
    seeds = list(fuzz["seeds"].seeds_of(name))

    for seed in seeds:
        fuzz["targets"].TARGETS[name].check(seed, tmp_path)

    assert seeds


def play(fuzz: dict[str, ModuleType]) -> None:
    for seed in fuzz["seeds"].seeds_of("connections"):
        fuzz["connections"].check(seed)


@pytest.fixture
def surplus_is_kept(monkeypatch) -> None:
    """The fault that gives an answer to another: what nobody asked for is the reply to the next request."""
    received, exchange = Connection.data_received, Connection.exchange
    kept: dict[Connection, bytes] = {}

    def data_received(self: Connection, data: bytes) -> None:
        if self._is_asked:
            received(self, data)
        else:
            kept[self] = data

    async def exchange_with_surplus(self: Connection, *request: object) -> transport.WholeReply:
        if self in kept:
            asyncio.get_running_loop().call_soon(data_received, self, kept.pop(self))
        return await exchange(self, *request)

    monkeypatch.setattr(Connection, "data_received", data_received)
    monkeypatch.setattr(Connection, "exchange", exchange_with_surplus)
    monkeypatch.setattr(Connection, "has_unread", lambda self: False)


@pytest.mark.usefixtures("surplus_is_kept")
def test_the_fuzz_notices_surplus_that_is_kept_for_the_next_request(fuzz: dict[str, ModuleType]) -> None:
    with pytest.raises(AssertionError, match="was given to"):
        play(fuzz)


@pytest.mark.usefixtures("surplus_is_kept")
def test_the_mutations_find_surplus_of_which_no_seed_has_any(fuzz: dict[str, ModuleType]) -> None:
    plain, chance = next(fuzz["seeds"].seeds_of("connections")), random.Random(0)
    fuzz["connections"].check(plain)

    def mutate_and_play() -> None:
        for _ in range(1000):
            fuzz["connections"].check(fuzz["mutations"].change_script(plain, 4096, chance))

    with pytest.raises(AssertionError, match="was given to"):
        mutate_and_play()


def test_the_fuzz_notices_a_request_that_never_ends(fuzz, monkeypatch) -> None:
    monkeypatch.setattr(Connection, "_end", lambda self, exc: None)

    with pytest.raises(AssertionError, match="outlived its connection"):
        play(fuzz)


def test_the_fuzz_notices_a_request_that_waits_for_nothing(fuzz, monkeypatch) -> None:
    async def send_nothing(self: Connection, *_: object) -> None:
        """Nothing reaches the server, which therefore never answers."""

    monkeypatch.setattr(Connection, "_send", send_nothing)

    with pytest.raises(fuzz["connections"].Stuck):
        play(fuzz)


def test_the_fuzz_notices_what_asyncio_would_only_log(fuzz, monkeypatch) -> None:
    def feed(self: transport.ReplyReader, data: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(transport.ReplyReader, "feed", feed)

    with pytest.raises(ZeroDivisionError):
        play(fuzz)


def test_the_fuzz_notices_a_reply_that_changes_with_how_it_was_split(fuzz, monkeypatch) -> None:
    reader, feed = transport.ReplyReader, transport.ReplyReader.feed
    monkeypatch.setattr(reader, "feed", lambda self, data: feed(self, data.replace(b"@T", b"@U")))

    with pytest.raises(AssertionError, match="read otherwise when split"):
        play(fuzz)


def test_what_only_looks_like_a_token_is_no_finding(fuzz: dict[str, ModuleType]) -> None:
    fuzz["connections"].check(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nt-00000000")


def test_what_a_server_still_sends_when_its_reply_is_long_read_is_no_reply_to_the_next_request(fuzz) -> None:
    sized = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n@T"

    fuzz["connections"].check(b"\x1e".join([sized + b"\x1f" * 3000 + sized, sized, sized]))
