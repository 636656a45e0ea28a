"""Checkpoints from the hub: fetched once in one form, found again without a network; every fault is one line.

The library reads its environment when it is imported, so each fetch is a process of its own, against a
stand-in for the hub on a loopback port.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import HubHandler, ask_hub, hub_at

COMMIT = "c" * 40
REPOSITORY = "someone/llava"
FILES = {
    "README.md": b"words",
    "config.json": b'{"architectures": ["LlavaLlamaForCausalLM"]}',
    "mm_projector.bin": b"projector",
    "pytorch_model-00001-of-00001.bin": b"weights " * 1000,
    "pytorch_model.bin.index.json": b"{}",
    "tokenizer.model": b"pieces",
}
WANTED = sorted(set(FILES) - {"README.md", "mm_projector.bin"})

FETCH = """
import json, sys
from vlsb.errors import VlsbError
from vlsb.engines.checkpoint import fetch_checkpoint

repository, revision, offline = json.loads(sys.argv[1])
heard = []
try:
    folder = fetch_checkpoint(repository, revision, offline=offline, on_progress=heard.append)
    found = {"folder": folder.name, "files": sorted(each.name for each in folder.iterdir())}
except VlsbError as error:
    found = {"error": type(error).__name__, "message": error.message}
seen = [[each.detail.rpartition("/")[2], each.done_bytes, each.total_bytes] for each in heard]
print(json.dumps(found | {"heard": seen}))
"""


class Hub:
    """A stand-in for the hub and a user's machine: what it serves, how it refuses, what it was asked."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.files = dict(FILES)
        self.refusal: tuple[int, str] | None = None
        self.downloads_refusal: tuple[int, str] | None = None
        self.fetched: list[str] = []
        self.address = ""

    def fetch(
        self, repository: str = REPOSITORY, revision: str | None = None, *, offline: bool = False, **env: str
    ) -> dict[str, Any]:
        """What a fetch in a process of its own gave."""
        wishes = [repository, revision, offline]
        return ask_hub(FETCH, wishes, home=self.home, address=self.address, env=env)


class Handler(HubHandler):
    hub: Hub

    def reply(self) -> None:
        hub = self.hub
        if hub.refusal:
            return self.refuse(*hub.refusal)
        if match := re.fullmatch(f"/api/models/{REPOSITORY}(?:/revision/([^/?]+))?.*", self.path):
            if match[1] not in (None, "main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            siblings = [{"rfilename": name} for name in hub.files]
            about = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
            return self.answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        match = re.fullmatch(f"/{REPOSITORY}/resolve/[^/]+/(.+)", self.path)
        if match is None:
            return self.refuse(404, "RepoNotFound")
        if hub.downloads_refusal:
            return self.refuse(*hub.downloads_refusal)
        if self.command == "GET":
            hub.fetched.append(match[1])
        content = hub.files[match[1]]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": etag})


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    with hub_at(Handler, hub) as hub.address:
        yield hub


def test_a_checkpoint_is_fetched_without_what_it_does_not_need(hub: Hub) -> None:
    found = hub.fetch()

    assert found["folder"] == COMMIT
    assert found["files"] == sorted(set(hub.fetched)) == WANTED
    weights = [step for step in found["heard"] if step[0].startswith("pytorch_model-")]
    assert weights[-1][1:] == [8000, 8000]


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_what_was_fetched_is_found_without_a_network(env: dict[str, str], hub: Hub, closed_port: int) -> None:
    hub.fetch()
    hub.fetched.clear()

    assert hub.fetch(offline=not env, **env)["files"] == WANTED
    assert hub.fetch(HF_ENDPOINT=f"http://127.0.0.1:{closed_port}")["files"] == WANTED
    assert hub.fetched == []


def test_what_was_not_fetched_is_refused_offline_with_the_cache_it_is_not_in(hub: Hub) -> None:
    found = hub.fetch(offline=True)

    assert found["error"] == "ConfigError"
    assert "switched off" in found["message"]
    assert str(hub.home) in found["message"]


@pytest.mark.parametrize(
    ("refusal", "error", "said"),
    [
        ((401, "GatedRepo"), "AuthenticationError", "accept its terms"),
        ((403, "GatedRepo"), "AuthenticationError", "accept its terms"),
        ((403, ""), "AuthenticationError", "HF_TOKEN"),
        ((404, "RepoNotFound"), "ConfigError", "does not exist, or is private"),
        ((503, ""), "ConfigError", "cannot be reached (HTTP 503)"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(refusal: tuple[int, str], error: str, said: str, hub: Hub) -> None:
    hub.refusal = refusal

    found = hub.fetch()

    assert found["error"] == error
    assert said in found["message"]


def test_a_gated_checkpoint_shows_itself_when_its_files_are_asked_for(hub: Hub) -> None:
    """The hub describes such a repository to everybody."""
    hub.downloads_refusal = (401, "GatedRepo")

    found = hub.fetch()

    assert found["error"] == "AuthenticationError"
    assert f"{REPOSITORY} is gated" in found["message"]


def test_a_revision_that_is_not_there_is_named(hub: Hub) -> None:
    found = hub.fetch(revision="elsewhere")

    assert found["error"] == "ConfigError"
    assert "no revision 'elsewhere'" in found["message"]


def test_a_repository_without_a_config_is_no_checkpoint(hub: Hub) -> None:
    del hub.files["config.json"]

    assert "no config.json" in hub.fetch()["message"]


def test_a_hub_that_cannot_be_reached_is_said(hub: Hub, closed_port: int) -> None:
    found = hub.fetch(HF_ENDPOINT=f"http://127.0.0.1:{closed_port}")

    assert found["error"] == "ConfigError"
    assert "cannot be reached" in found["message"]
