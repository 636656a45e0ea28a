"""The loop's thread opens no file, syncs no file, and encodes, decodes or hashes no image.

A run is watched from within: an audit hook hears of every file that is opened, and what would block on a
disk or an image says on which thread it is called.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Vlsb
from tests.support.datasets import write_dataset
from tests.support.endpoint import persona
from vlsb.simulator import Request, SimulatorThread

SAMPLES = 6
MANY = 40

# Runs before the program, in its process; at its end writes what was done on a thread with a running loop,
# and what was done elsewhere, so that a watch that sees nothing is noticed.
WATCH = """
import asyncio, atexit, hashlib, json, os, sys
import pybase64
from PIL import Image

seen = {"loop": [], "elsewhere": []}

def note(what):
    place = "elsewhere" if asyncio._get_running_loop() is None else "loop"
    if what not in seen[place]:
        seen[place].append(what)

def heard(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.fsdecode(arguments[0])
        # A module that is loaded at its first use is not a file of the run.
        if not path.endswith((".py", ".pyc", ".so")):
            note("open " + os.path.basename(path))

def watched(owner, name, what):
    original = getattr(owner, name)
    def call(*arguments, **named):
        note(what)
        return original(*arguments, **named)
    setattr(owner, name, call)

class Digest:
    def __init__(self, content=b"", **named):
        self._digest = original_sha256(**named)
        self.update(content)
    def update(self, content):
        # Prompts and records are digested where they are made; pictures are not.
        if len(content) > 16384:
            note("sha256")
        self._digest.update(content)
    def __getattr__(self, name):
        return getattr(self._digest, name)

original_sha256 = hashlib.sha256
hashlib.sha256 = Digest
watched(os, "fsync", "fsync")
watched(os, "fdatasync", "fsync")
watched(pybase64, "b64encode", "base64")
watched(Image, "open", "decode")
sys.addaudithook(heard)
atexit.register(lambda: open(os.environ["HOME"] + "/seen.json", "w").write(json.dumps(seen)))
"""
INLINE = """
async def inline(function, *arguments, **named):
    return function(*arguments, **named)
asyncio.to_thread = inline
"""


@pytest.fixture
def endpoint() -> Iterator[SimulatorThread]:
    with SimulatorThread(persona) as simulator:
        yield simulator


def watched_run(tmp_path: Path, endpoint: SimulatorThread, prelude: str) -> dict[str, list[str]]:
    vlsb = Vlsb(tmp_path)
    root = write_dataset(tmp_path / "data", SAMPLES)
    for image in root.glob("imgs/*"):
        # Large enough to be told from a prompt; the decoder ignores what follows the image.
        image.write_bytes(image.read_bytes() + bytes(100_000))
    arguments = ["--model", "m", "--base-url", endpoint.base_url, "--judge", "j"]
    arguments += ["--judge-base-url", endpoint.base_url, "--data-root", str(root)]
    ended = vlsb("run", *arguments, prelude=prelude)
    assert ended.code == 0, ended.err
    return json.loads((tmp_path / "seen.json").read_text())


def test_nothing_that_waits_for_a_disk_or_an_image_runs_on_the_loop(
    tmp_path: Path, endpoint: SimulatorThread
) -> None:
    seen = watched_run(tmp_path, endpoint, WATCH)

    assert seen["loop"] == []
    assert {"sha256", "base64", "decode", "fsync", "open run.json", "open responses.jsonl"} <= set(
        seen["elsewhere"]
    )


def test_the_watch_notices_what_runs_on_the_loop(tmp_path: Path, endpoint: SimulatorThread) -> None:
    """The same run with every thread taken away: the claim above can fail."""
    seen = watched_run(tmp_path, endpoint, WATCH + INLINE)

    assert {"base64", "fsync", "open responses.jsonl"} <= set(seen["loop"])


STUCK = """
import os, time
from vlsb.store.journal import Journal

sync = Journal.sync
def stuck(self):
    while not os.path.exists(os.environ["HOME"] + "/answered"):
        time.sleep(0.01)
    sync(self)
Journal.sync = stuck
"""


def test_a_disk_that_takes_its_time_to_sync_stalls_no_request(tmp_path: Path) -> None:
    """No sync ends before the last answer was sent, and the run goes on all the same."""
    answered: list[Request] = []

    def count(request: Request) -> None:
        answered.append(request)
        if len(answered) == 2 * MANY:
            (tmp_path / "answered").touch()

    vlsb, root = Vlsb(tmp_path), write_dataset(tmp_path / "data", MANY)
    with SimulatorThread(persona, on_answered=count) as endpoint:
        arguments = ["--model", "m", "--base-url", endpoint.base_url, "--judge", "j"]
        arguments += ["--judge-base-url", endpoint.base_url, "--data-root", str(root)]
        ended = vlsb("run", *arguments, prelude=STUCK)

    assert ended.code == 0, ended.err
