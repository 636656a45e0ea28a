"""Weights before an engine sees them: a folder that must be whole, a hub repository that is pinned."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint, write_tensors
from tests.support.hub import HubHandler, ask_hub, hub_at
from vlsb.engines.checkpoint import content_digest, open_weights
from vlsb.errors import ConfigError


def examine(weights: Path | str) -> None:
    opened = open_weights(str(weights), revision=None, offline=False)
    opened.check_weights()
    opened.identity()


def complaint(weights: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        examine(weights)
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "weights")


# On this machine.


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none") == f"{tmp_path / 'none'}: no such folder."
    assert "no such folder" in complaint("./none")
    assert "neither a folder here nor a Hugging Face id" in complaint("a/b/c")


def test_missing_weights_are_counted(weights: Path) -> None:
    index = {
        "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    }
    (weights / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")

    assert "2 of its weight files are missing" in complaint(weights)


def test_an_index_that_leads_elsewhere_is_refused(weights: Path) -> None:
    index = {"weight_map": {"a": "../model.safetensors"}}
    (weights / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")

    assert "names files outside its folder" in complaint(weights)


def test_pickled_weights_are_refused(weights: Path) -> None:
    (weights / "model.safetensors").rename(weights / "pytorch_model.bin")

    assert "can run code" in complaint(weights)


def test_a_large_tensor_is_sampled_in_its_middle(weights: Path) -> None:
    """What the digest proves, and what it does not."""
    path, before = weights / "model.safetensors", content_digest(weights)
    raw = bytearray(path.read_bytes())

    raw[-100_000] ^= 1
    path.write_bytes(raw)
    unseen = content_digest(weights)
    raw[-50_000] ^= 1
    path.write_bytes(raw)

    assert unseen == before
    assert content_digest(weights) != before


def test_a_small_tensor_counts_whole(weights: Path) -> None:
    path, before = weights / "model.safetensors", content_digest(weights)
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    assert content_digest(weights) != before


def test_other_tensors_are_another_checkpoint(weights: Path) -> None:
    before = content_digest(weights)
    write_tensors(weights / "model.safetensors", seed=1)

    assert content_digest(weights) != before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:-1], "Was it copied whole?"),
        (lambda raw: raw + b"x", "Was it copied whole?"),
        (lambda raw: raw[:5], "not a safetensors file"),
        (lambda raw: b"version https://git-lfs.github.com/spec/v1\n", "not a safetensors file"),
        (lambda raw: struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
        (lambda raw: struct.pack("<Q", 2) + b"{{", "not a safetensors file"),
        (lambda raw: struct.pack("<Q", 13) + b'{"a":{"b":1}}', "not a safetensors file"),
    ],
)
def test_damaged_weights_are_found_before_the_engine_loads_them(
    weights: Path, damage: Any, said: str
) -> None:
    path = weights / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))

    found = complaint(weights)

    assert str(path) in found
    assert said in found


# On the hub. The library reads its environment when it is imported: each plan is a process.

COMMITS = {"main": "a" * 40, "old": "b" * 40}
PLAN = """
import json, sys
from pathlib import Path
from vlsb.errors import VlsbError
from vlsb.models.catalog import find_profile
from vlsb.engines.install import Engine
from vlsb.engines.plan import Wishes, plan_server

engine = Engine(Path("/engines/vllm"), "0.32.0", None, False, None)
wishes = Wishes(weights="org/name", **json.loads(sys.argv[1]))
try:
    made = plan_server(find_profile("llava_hf", None), wishes, engine, environment={}, has_gpu=True)
except VlsbError as error:
    found = {"error": type(error).__name__, "message": error.message}
else:
    found = {"arguments": made.arguments, "environment": dict(made.environment), "facts": made.facts}
print(json.dumps(found))
"""


@dataclass
class Hub:
    """A stand-in for the hub with one repository: its files, and how it refuses."""

    files: dict[str, bytes]
    refusal: tuple[int, str] | None = None
    is_gated: bool = False
    asked: list[str] = field(default_factory=list)
    address: str = ""


class Handler(HubHandler):
    hub: Hub

    def reply(self) -> None:
        hub = self.hub
        hub.asked.append(self.path)
        if hub.refusal:
            return self.refuse(*hub.refusal)
        if match := re.fullmatch(r"/api/models/org/name(?:/revision/(\w+))?(?:\?.*)?", self.path):
            commit = COMMITS.get(match[1] or "main", match[1])
            if commit not in COMMITS.values():
                return self.refuse(404, "RevisionNotFound")
            about = {"id": "org/name", "sha": commit, "siblings": [{"rfilename": name} for name in hub.files]}
            return self.answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        if hub.is_gated:
            return self.refuse(403, "GatedRepo")
        match = re.fullmatch(r"/org/name/resolve/(\w+)/(.+)", self.path)
        assert match is not None
        commit = COMMITS.get(match[1], match[1])
        return self.answer(200, hub.files[match[2]], {"X-Repo-Commit": commit, "ETag": f'"{match[2]}"'})


@dataclass
class Place:
    """A user's machine with an empty home, and the address of the stand-in."""

    home: Path
    hub: Hub
    address: str

    def plan(self, env: Mapping[str, str] | None = None, **wishes: Any) -> dict[str, Any]:
        """What planning for the hub's weights gave; it may print nothing else."""
        return ask_hub(PLAN, wishes, home=self.home, address=self.address, env=env)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    folder = checkpoint(tmp_path / "published")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub = Hub(files | {"README.md": b"notes"})
    (tmp_path / "home").mkdir()
    with hub_at(Handler, hub) as address:
        yield Place(tmp_path / "home", hub, address)


def test_the_hubs_weights_are_pinned_to_a_commit(place: Place) -> None:
    found = place.plan()

    assert found["arguments"][:4] == ["serve", "org/name", "--revision", COMMITS["main"]]
    assert found["facts"]["weights"] == {"hub": "org/name", "revision": COMMITS["main"]}
    assert found["facts"]["generation"] == {"eos_token_id": 2, "repetition_penalty": 1.05}
    assert "HF_HUB_OFFLINE" not in found["environment"]
    # The engine downloads those, and shows how far it is.
    assert not [path for path in place.hub.asked if path.endswith((".safetensors", ".md"))]


def test_a_revision_is_taken_by_its_commit(place: Place) -> None:
    assert place.plan(revision="old")["facts"]["weights"]["revision"] == COMMITS["old"]


def cache(place: Place) -> Path:
    """The folder of the newest commit in the hub's cache."""
    return place.home / "hf" / "hub" / "models--org--name" / "snapshots" / COMMITS["main"]


@pytest.mark.parametrize("way", ["option", "variable", "unreachable", "down"])
def test_what_is_cached_is_served_without_the_hub(place: Place, way: str, closed_port: int) -> None:
    online = place.plan()
    (cache(place) / "model.safetensors").write_bytes(place.hub.files["model.safetensors"])
    place.hub.refusal = (503, "")
    env = {
        "variable": {"HF_HUB_OFFLINE": "1"},
        "unreachable": {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port}"},
    }.get(way, {})

    found = place.plan(env, offline=way == "option")

    assert (found["facts"], found["arguments"]) == (online["facts"], online["arguments"])
    assert found["environment"]["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("is_known", [True, False])
def test_missing_weights_are_said_before_an_offline_engine_looks_for_them(
    place: Place, is_known: bool
) -> None:
    if is_known:
        place.plan()

    found = place.plan(offline=True)

    assert found["error"] == "ConfigError"
    assert "Start once with a network, or pass --weights DIR" in found["message"]
