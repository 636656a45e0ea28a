"""`vlsb sweep --prepare` where there is a network, and `--offline` where there is none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb
from tests.support.engine_environment import write_environment
from tests.support.hub import HubHandler, hub_at
from tests.support.sweeps import tables
from tests.unit.data.test_dataset_hub import packed_mini_set
from vlsb.data import HUB_REPOSITORY

COMMIT = "c" * 40
MODEL = "someone/tiny"
SAMPLES = 30
"""In the embedded set, which stands for the whole data set."""


class Hub:
    """The repositories of a stand-in for the Hub, by their paths, and what was fetched of them."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.fetched: list[str] = []


class Handler(HubHandler):
    hub: Hub

    def reply(self) -> None:
        for name, files in self.hub.repositories.items():
            place = name if name.startswith("datasets/") else f"models/{name}"
            if re.fullmatch(f"/api/{place}(/revision/[^/?]+)?.*", self.path):
                siblings = [{"rfilename": each, "size": len(content)} for each, content in files.items()]
                about = {"id": name.removeprefix("datasets/"), "sha": COMMIT, "siblings": siblings}
                return self.answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
            match = re.fullmatch(f"/{name}/resolve/[^/]+/(.+)", self.path)
            if match and match[1] in files:
                if self.command == "GET":
                    self.hub.fetched.append(match[1])
                etag = f'"{hashlib.sha256(files[match[1]]).hexdigest()}"'
                return self.answer(200, files[match[1]], {"X-Repo-Commit": COMMIT, "ETag": etag})
            if match:
                return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": COMMIT})
        return self.refuse(404, "RepoNotFound")


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    files = {each.name: each.read_bytes() for each in checkpoint(tmp_path / "weights").iterdir()}
    return Hub({f"datasets/{HUB_REPOSITORY}": packed_mini_set(), MODEL: files})


@pytest.fixture
def address(hub: Hub) -> Iterator[str]:
    with hub_at(Handler, hub) as found:
        yield found


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    engine = str(write_environment(tmp_path / "engine"))
    path = tmp_path / "plan.yaml"
    models = [{"model": MODEL, "engine": engine}, {"model": "llava_hf", "weights": MODEL, "engine": engine}]
    path.write_text(json.dumps({"models": models, "judges": ["demo"], "output-dir": str(tmp_path / "sweep")}))
    return path


def at(address: str, home: Path) -> dict[str, str]:
    """A machine for which the Hub is at an address."""
    return {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def test_what_was_prepared_is_all_that_cells_without_a_network_need(
    vlsb: Vlsb, tmp_path: Path, plan: Path, hub: Hub, address: str, closed_port: int
) -> None:
    prepared = vlsb("sweep", plan, "--prepare", env=at(address, tmp_path))
    hub.fetched.clear()
    again = vlsb("sweep", plan, "--prepare", env=at(address, tmp_path))
    ended = vlsb("sweep", plan, "--offline", env=at(f"http://127.0.0.1:{closed_port}", tmp_path))

    assert prepared.code == again.code == 0, prepared.err
    assert hub.fetched == []
    assert ended.code == 0, ended.err
    found = tables(vlsb, tmp_path / "sweep")
    assert [each["judged"] for each in found.values()] == [SAMPLES] * 2


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (MODEL, f"{MODEL} is not in the cache of the Hugging Face Hub"),
        (f"datasets/{HUB_REPOSITORY}", "With a network, run: vlsb data fetch"),
    ],
)
def test_cells_without_a_network_say_what_is_missing_as_the_preparation_did(
    missing: str, said: str, vlsb: Vlsb, tmp_path: Path, plan: Path, hub: Hub, address: str, closed_port: int
) -> None:
    del hub.repositories[missing]
    prepared = vlsb("sweep", plan, "--prepare", env=at(address, tmp_path))

    ended = vlsb("sweep", plan, "--offline", env=at(f"http://127.0.0.1:{closed_port}", tmp_path))

    assert prepared.code == ended.code == 2
    assert any(missing.removeprefix("datasets/") in line for line in prepared.errors)
    for name in ("someone_tiny", "llava_hf"):
        assert said in (tmp_path / "sweep" / "logs" / f"{name}.log").read_text()
