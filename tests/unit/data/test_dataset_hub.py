"""The hub: downloaded once, pinned, found again without a network; every fault is one line.

Each fetch imports the Hub's library anew, against a stand-in for the hub on a loopback port.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.support.hub import HubHandler, ask_hub, hub_at
from vlsb.data import check_dataset, mini_root

FIRST, SECOND = "a" * 40, "b" * 40
BASE = "/datasets/Foreshhh/vlsbench/resolve/"

FETCH = """
import json, sys
from pathlib import Path
from vlsb.data import check_dataset, fetch_dataset
from vlsb.errors import VlsbError

seen = []
revision, offline = json.loads(sys.argv[1])
try:
    fetched = fetch_dataset(revision=revision, offline=offline, on_progress=seen.append)
except VlsbError as error:
    found = {"error": type(error).__name__, "exit_code": error.exit_code, "message": error.message}
else:
    digest = check_dataset(fetched.files).digest
    found = {"revision": fetched.revision, "repository": fetched.repository, "digest": digest}
print(json.dumps(found | {"progress": [(each.detail, each.done_bytes, each.total_bytes) for each in seen]}))
"""


def packed_mini_set(*, unused_bytes: int = 0) -> dict[str, bytes]:
    """The files of the mini set; its archive can be made larger by an image that no row needs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(mini_root() / "imgs", "imgs")
        unused = tarfile.TarInfo("imgs/unused.png")
        unused.size = unused_bytes
        archive.addfile(unused, io.BytesIO(bytes(unused_bytes)))
    return {"data.json": (mini_root() / "data.json").read_bytes(), "imgs.tar": buffer.getvalue()}


class Refusal(NamedTuple):
    """An answer that the stand-in gives to everything."""

    status: int
    code: str = ""


@dataclass
class Hub:
    """A stand-in for the hub: what it serves, how it misbehaves, and what it was asked."""

    main: str = FIRST
    files: dict[str, bytes] = field(default_factory=packed_mini_set)
    refusal: Refusal | None = None
    cut_after: int | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def commit(self, revision: str) -> str | None:
        return self.main if revision == "main" else revision if revision in (FIRST, SECOND) else None


class Handler(HubHandler):
    hub: Hub

    def reply(self) -> None:
        hub = self.hub
        hub.asked.append((self.command, self.path, self.headers.get("Range")))
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refusal:
            return self.refuse(*hub.refusal)
        if match := re.fullmatch("/api/datasets/Foreshhh/vlsbench(?:/revision/([^/?]+))?.*", self.path):
            commit = hub.commit(match[1] or "main")
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            siblings = [{"rfilename": name} for name in hub.files]
            body = json.dumps({"id": "Foreshhh/vlsbench", "sha": commit, "siblings": siblings}).encode()
            return self.answer(200, body, {"Content-Type": "application/json"})
        if not self.path.startswith(BASE):
            return self.refuse(404, "RepoNotFound")
        revision, _, name = self.path.removeprefix(BASE).partition("/")
        commit = hub.commit(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        if name not in hub.files:
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        return self.serve(hub.files[name], commit)

    def serve(self, content: bytes, commit: str) -> None:
        about = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked:
            start = int(asked[1])
            about["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[start:], about)
        return self.answer(200, content, about)

    def write(self, body: bytes) -> None:
        cut = self.hub.cut_after
        if cut is not None and len(body) > cut and self.path.endswith("imgs.tar"):
            self.hub.cut_after = None
            self.close_connection = True
            body = body[:cut]
        super().write(body)


@dataclass
class Place:
    """A user's machine: an empty home, and the address of the stand-in."""

    home: Path
    hub: Hub
    address: str

    def fetch(
        self,
        revision: str | None = None,
        *,
        offline: bool = False,
        env: dict[str, str] | None = None,
        before: str = "",
    ) -> dict[str, Any]:
        """What a fetch gave; it may print nothing else. `before` is run first."""
        return ask_hub(before + FETCH, [revision, offline], home=self.home, address=self.address, env=env)

    def gets(self) -> list[tuple[str, str | None]]:
        """Which files were asked for, each with its range."""
        return [(path, part) for method, path, part in self.hub.asked if method == "GET" and BASE in path]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    hub = Hub()
    with hub_at(Handler, hub) as address:
        yield Place(tmp_path, hub, address)


def mini_digest() -> str:
    return check_dataset(mini_root()).digest


def test_a_first_fetch_downloads_both_files_and_says_how_far_it_is(place: Place) -> None:
    found = place.fetch()

    assert (found["revision"], found["repository"]) == (FIRST, "Foreshhh/vlsbench")
    assert found["digest"] == mini_digest()
    assert [path for path, _ in place.gets()] == [f"{BASE}main/data.json", f"{BASE}{FIRST}/imgs.tar"]
    for name, content in place.hub.files.items():
        steps = [(done, total) for file, done, total in found["progress"] if file == name]
        assert steps[-1] == (len(content), len(content))
        assert steps == sorted(steps)


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_what_was_fetched_is_found_offline(place: Place, env: dict[str, str]) -> None:
    place.fetch()
    place.hub.asked.clear()

    found = place.fetch(offline=not env, env=env)

    assert (found["revision"], found["digest"]) == (FIRST, mini_digest())
    assert place.hub.asked == []


@pytest.mark.parametrize("is_reached", [True, False], ids=["down", "out of reach"])
def test_what_was_fetched_is_used_where_the_hub_does_not_serve(
    place: Place, closed_port: int, is_reached: bool
) -> None:
    place.fetch()
    place.hub.refusal = Refusal(503)

    env = {} if is_reached else {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port}"}
    assert place.fetch(env=env)["revision"] == FIRST


def test_a_moved_branch_is_followed(place: Place) -> None:
    place.fetch()
    place.hub.main = SECOND

    assert place.fetch()["revision"] == SECOND


def test_a_pinned_revision_stays_and_needs_no_network_once_it_is_there(place: Place) -> None:
    place.fetch()
    place.hub.main = SECOND
    place.hub.asked.clear()

    found = place.fetch(FIRST)

    assert found["revision"] == FIRST
    assert place.hub.asked == []


def test_a_revision_is_pinned_before_it_was_ever_fetched(place: Place) -> None:
    assert place.fetch(SECOND)["revision"] == SECOND


def test_a_broken_transfer_goes_on_where_it_broke(place: Place) -> None:
    # The library writes, and so resumes, in pieces of 10 MiB.
    piece = 10 * 1024**2
    place.hub.files = packed_mini_set(unused_bytes=piece)
    place.hub.cut_after = piece + 5000

    found = place.fetch()

    assert found["digest"] == mini_digest()
    ranges = [part for path, part in place.gets() if path.endswith("imgs.tar")]
    assert ranges == [None, f"bytes={piece}-"]
    steps = [done for file, done, _ in found["progress"] if file == "imgs.tar"]
    assert steps[-1] == len(place.hub.files["imgs.tar"])


@pytest.mark.parametrize(
    ("env", "offline"), [({"HF_HUB_OFFLINE": "1"}, False), ({}, True)], ids=["variable", "argument"]
)
def test_offline_and_not_cached_says_what_to_run(place: Place, env: dict[str, str], offline: bool) -> None:
    found = place.fetch(offline=offline, env=env)

    assert (found["error"], found["exit_code"]) == ("DatasetError", 2)
    assert "vlsb data fetch" in found["message"]
    assert "--data-root DIR" in found["message"]
    assert place.hub.asked == []


def test_offline_with_another_revision_names_it_in_the_command(place: Place) -> None:
    place.fetch()

    assert f"vlsb data fetch --revision {SECOND}" in place.fetch(SECOND, offline=True)["message"]


def test_an_unreachable_hub_is_named(place: Place, closed_port: int) -> None:
    found = place.fetch(env={"HF_ENDPOINT": f"http://127.0.0.1:{closed_port}"})

    assert found["exit_code"] == 2
    assert f"http://127.0.0.1:{closed_port}/datasets/Foreshhh/vlsbench cannot be reached" in found["message"]


@pytest.mark.parametrize(
    ("refusal", "error", "words"),
    [
        (Refusal(401), "AuthenticationError", "HF_TOKEN"),
        (Refusal(401, "RepoNotFound"), "AuthenticationError", "HF_TOKEN"),
        (Refusal(403, "GatedRepo"), "AuthenticationError", "HF_TOKEN"),
        (Refusal(403), "AuthenticationError", "HF_TOKEN"),
        (Refusal(404, "RepoNotFound"), "DatasetError", "does not exist"),
        (Refusal(404), "DatasetError", "HTTP 404"),
        (Refusal(429), "DatasetError", "HTTP 429"),
        (Refusal(503), "DatasetError", "HTTP 503"),
    ],
)
def test_a_refusal_is_one_line_with_what_to_do(
    place: Place, refusal: Refusal, error: str, words: str
) -> None:
    place.hub.refusal = refusal

    found = place.fetch()

    assert found["error"] == error
    assert words in found["message"]


def test_a_revision_that_does_not_exist_is_named(place: Place) -> None:
    found = place.fetch("no-such-tag")

    assert (found["error"], found["exit_code"]) == ("DatasetError", 2)
    assert "no revision 'no-such-tag'" in found["message"]


def test_a_revision_that_is_no_revision_is_refused(place: Place) -> None:
    assert place.fetch("../../etc")["error"] == "DatasetError"


def test_a_revision_without_the_archive_is_refused(place: Place) -> None:
    del place.hub.files["imgs.tar"]

    assert "has no imgs.tar" in place.fetch()["message"]


def test_a_token_of_the_environment_is_sent(place: Place) -> None:
    place.fetch(env={"HF_TOKEN": "hf_made_up"})

    assert place.hub.tokens == {"Bearer hf_made_up"}


def test_a_cache_that_cannot_be_written_is_one_line(place: Place) -> None:
    (place.home / "hf").write_bytes(b"a file")

    found = place.fetch()

    assert found["exit_code"] in (2, 5)


def test_a_disk_without_room_is_found_before_the_download(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9))

    found = place.fetch()

    assert (found["error"], found["exit_code"]) == ("StoreError", 5)
    assert "HF_HOME" in found["message"]
    assert place.gets() == []


def test_a_disk_that_fills_up_is_one_line(place: Place) -> None:
    fill = "from huggingface_hub import file_download\n"
    fill += "def http_get(*_, **__): raise OSError(28, 'No space left on device')\n"

    found = place.fetch(before=fill + "file_download.http_get = http_get\n")

    assert (found["error"], found["exit_code"]) == ("StoreError", 5)
