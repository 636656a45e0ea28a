"""`vlsb doctor`: what is here, what is not, and the one command that changes it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.support import canary
from tests.support.command import Vlsb
from tests.support.datasets import write_dataset
from vlsb.cli.checkup import (
    DatasetFacts,
    DiskFacts,
    EngineFacts,
    Facts,
    Finding,
    Group,
    HubAccess,
    HubFacts,
    ServerFacts,
    State,
    findings,
)
from vlsb.cli.checkup_text import findings_json, findings_text
from vlsb.cli.survey import HubSettings, is_whole, keys, survey
from vlsb.endpoints.credentials import Secret
from vlsb.engines.hardware import Gpu, GpuListing
from vlsb.engines.install import MARKER, engine_prefix, requirements
from vlsb.engines.registry import Places, ServerRecord, boot_id, process_began_at, write_record
from vlsb.extras import MODULES
from vlsb.models.profile import CURRENT, FAMILIES, GIB, MLLAMA

ENGINES = {pin.name: EngineFacts(pin, pin.gpu_version, cuda="12.8") for pin in (CURRENT, MLLAMA)}
NO_ENGINES = {pin.name: EngineFacts(pin) for pin in (CURRENT, MLLAMA)}
WEIGHTS = frozenset(family.weights for family in FAMILIES.values())
SERVER = ServerFacts("llava_hf", "http://127.0.0.1:40000/v1", 4321, "llava-hf/llava-1.5-7b-hf")


def gpu(index: int = 0, *, total: float = 80, free: float | None = None, name: str = "NVIDIA H100") -> Gpu:
    left = total if free is None else free
    return Gpu(index, name, int(total * GIB), int(left * GIB), "570.86")


def listing(*gpus: Gpu, **more: Any) -> GpuListing:
    return GpuListing(gpus, **{"cuda": "12.8", **more})


READY = Facts(
    python="3.12.1, Linux x86_64",
    uv="0.9.2",
    listing=listing(gpu()),
    memory_bytes=64 * GIB,
    disks=(DiskFacts("~/.local/share/vlsb/engines", 500 * GIB, holds_engines=True, holds_weights=True),),
    hub=HubFacts("huggingface.co", HubAccess.REACHED, token="HF_TOKEN"),
    dataset=DatasetFacts("revision 0123456789ab in the hub's cache"),
    keys={"OPENAI_API_KEY": True, "ANTHROPIC_API_KEY": False},
    engines=ENGINES,
    weights=WEIGHTS,
    servers=(),
    extras=dict.fromkeys(MODULES, True),
)
BARE = replace(
    READY,
    extras=dict.fromkeys(MODULES, False),
    listing=GpuListing(),
    hub=HubFacts("huggingface.co", HubAccess.NOT_ASKED),
    dataset=DatasetFacts(),
    engines=NO_ENGINES,
    weights=frozenset(),
)


def named(facts: Facts, name: str, group: Group | None = None) -> Finding:
    """The one finding of that name, in that group where a name occurs in two."""
    (found,) = [each for each in findings(facts) if each.name == name and group in (None, each.group)]
    return found


def model(facts: Facts, name: str) -> Finding:
    return named(facts, name, Group.MODELS)


# Families.


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_with_an_engine_a_gpu_and_its_weights_is_ready(name: str) -> None:
    assert model(READY, name) == Finding(Group.MODELS, name, State.OK, "ready")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_without_an_engine_names_the_command_that_installs_it(name: str) -> None:
    found = model(BARE, name)

    assert (found.state, found.command) == (State.MISSING, f"vlsb engine install {name}")


def test_a_broken_engine_is_installed_again() -> None:
    broken = READY.engines | {"vllm": EngineFacts(CURRENT, problem="0.32.0 is unfinished at ~/there")}
    facts = replace(READY, engines=broken, listing=listing(gpu(), cuda="13.0"))

    assert named(facts, "vllm").what == "0.32.0 is unfinished at ~/there"
    assert model(facts, "qwen2vl").command == "vlsb engine install qwen2vl"
    assert model(facts, "mllama").state == State.OK


def test_weights_that_the_first_start_downloads_are_named() -> None:
    found = model(replace(READY, weights=frozenset()), "llava")

    assert (found.state, found.what) == (State.OK, "ready; downloads liuhaotian/llava-v1.5-7b first")


@pytest.mark.parametrize("access", [HubAccess.NOT_REACHED, HubAccess.SWITCHED_OFF])
def test_weights_that_cannot_be_had_are_a_problem(access: HubAccess) -> None:
    found = model(replace(READY, weights=frozenset(), hub=HubFacts("huggingface.co", access)), "qwen2vl")

    assert (found.state, found.command) == (State.PROBLEM, "vlsb serve qwen2vl --weights DIR")


def test_gated_weights_need_a_token_unless_they_are_here() -> None:
    without_token = replace(READY, hub=HubFacts("huggingface.co", HubAccess.REACHED))
    found = model(replace(without_token, weights=frozenset()), "mllama")

    assert (found.state, found.command) == (State.MISSING, "hf auth login")
    assert "huggingface.co" in found.what
    assert model(without_token, "mllama").state == State.OK
    assert model(replace(without_token, weights=frozenset()), "qwen2vl").state == State.OK


def test_without_a_gpu_a_family_needs_memory_enough_or_smaller_weights() -> None:
    on_cpu = {name: replace(engine, is_cpu=True, cuda=None) for name, engine in ENGINES.items()}
    facts = replace(READY, listing=GpuListing(), engines=on_cpu, memory_bytes=40 * GIB)

    assert model(facts, "llava_hf") == Finding(Group.MODELS, "llava_hf", State.OK, "ready")
    assert model(facts, "mllama") == Finding(
        Group.MODELS,
        "mllama",
        State.MISSING,
        "its weights need a GPU; small ones:",
        "vlsb serve mllama --weights DIR",
    )


def test_a_family_too_large_for_each_gpu_is_spread_over_several() -> None:
    small = [gpu(index, total=12) for index in range(4)]

    assert model(replace(READY, listing=listing(*small)), "qwen2vl").command == (
        "vlsb serve qwen2vl --tensor-parallel-size 2"
    )
    assert model(replace(READY, listing=listing(*small)), "mllama").command == (
        "vlsb serve mllama --tensor-parallel-size 4"
    )
    alone = model(replace(READY, listing=listing(*small[:1])), "qwen2vl")
    assert (alone.state, alone.command) == (State.PROBLEM, None)
    assert "24.0 GiB" in alone.what
    assert "12.0 GiB" in alone.what


def test_a_gpu_that_a_server_of_ours_fills_is_freed_by_stopping_it() -> None:
    full = replace(READY, listing=listing(gpu(free=3)))

    assert model(full, "qwen2vl").state == State.PROBLEM
    assert model(full, "qwen2vl").command is None
    ours = replace(full, servers=(SERVER,))
    assert model(ours, "qwen2vl").command == "vlsb engine stop llava_hf"
    assert model(ours, "llava_hf") == Finding(
        Group.MODELS, "llava_hf", State.OK, "running at http://127.0.0.1:40000/v1"
    )


def test_a_gpu_whose_memory_is_unknown_is_no_obstacle() -> None:
    facts = replace(READY, listing=listing(gpu(total=0, name="NVIDIA GB10")))

    assert model(facts, "mllama").state == State.OK
    assert named(facts, "GPU").what == "NVIDIA GB10, shares the machine's memory"


def test_an_engine_for_a_newer_cuda_than_the_drivers_is_a_problem() -> None:
    newer = {name: replace(engine, cuda="13.0") for name, engine in ENGINES.items()}
    facts = replace(READY, engines=newer)

    assert named(facts, "vllm").state == State.PROBLEM
    assert "runs CUDA up to 12.8: update the driver" in named(facts, "vllm").what
    assert model(facts, "llava").state == State.PROBLEM


@pytest.mark.parametrize("cuda", ["12.4", "12.9", "11.8"])
def test_a_driver_runs_what_is_built_for_its_major_version_or_an_older_one(cuda: str) -> None:
    engines = {name: replace(engine, cuda=cuda) for name, engine in ENGINES.items()}

    assert named(replace(READY, engines=engines), "vllm").state == State.OK


def test_a_cpu_engine_beside_a_gpu_is_replaced() -> None:
    on_cpu = {name: replace(engine, is_cpu=True, cuda=None) for name, engine in ENGINES.items()}
    found = model(replace(READY, engines=on_cpu), "llava_hf")

    assert (found.state, found.command) == (State.PROBLEM, "vlsb engine install llava_hf")


# The machine.


def test_gpus_of_one_kind_are_one_line_that_names_the_fullest() -> None:
    found = named(replace(READY, listing=listing(gpu(0), gpu(1, free=11), gpu(2))), "GPU")

    assert found.what == "3 x NVIDIA H100, 80.0 GiB, 11.0 GiB free on GPU 1"


def test_hidden_gpus_are_said() -> None:
    some = named(replace(READY, listing=listing(gpu(), hidden=7)), "driver")
    none = named(replace(READY, listing=GpuListing(hidden=8)), "GPU")

    assert some.what == "570.86, runs CUDA up to 12.8, 7 hidden by CUDA_VISIBLE_DEVICES"
    assert none.what == "none to use: 8 hidden by CUDA_VISIBLE_DEVICES"


def test_a_driver_that_does_not_answer_is_a_problem() -> None:
    found = named(replace(READY, listing=GpuListing(problem="nvidia-smi ended with 9: no driver")), "GPU")

    assert (found.state, found.what) == (State.PROBLEM, "nvidia-smi ended with 9: no driver")


def test_extras_that_are_not_installed_are_named() -> None:
    assert (named(READY, "extras").state, named(READY, "extras").what) == (State.OK, ", ".join(MODULES))
    some = named(replace(BARE, extras={**BARE.extras, "plot": True, "stats": True}), "extras")
    assert (some.state, some.what) == (
        State.MISSING,
        "plot, stats; without parquet, batch, import, ray, slurm",
    )
    assert named(BARE, "extras").what == f"none of {', '.join(MODULES)}"


def test_a_disk_is_too_small_for_what_is_still_to_come_only() -> None:
    small = (DiskFacts("/home", 10 * GIB, holds_engines=True, holds_weights=True),)
    engines_only = (DiskFacts("/home", 10 * GIB, holds_engines=True, holds_weights=False),)

    assert named(replace(READY, disks=small), "disk").state == State.OK
    lacking = named(replace(READY, disks=small, engines=NO_ENGINES, weights=frozenset()), "disk")
    assert lacking.state == State.PROBLEM
    assert lacking.what.endswith("; an engine and one family's weights take 36.0 GiB")
    assert named(replace(READY, disks=engines_only, weights=frozenset()), "disk").state == State.OK


def test_a_folder_named_for_the_data_that_cannot_be_used_is_a_problem_and_none_is_not() -> None:
    named_wrong = named(replace(READY, dataset=DatasetFacts(problem="there is none")), "VLSBench")
    not_there = named(BARE, "VLSBench")

    assert (named_wrong.state, named_wrong.command) == (State.PROBLEM, None)
    assert (not_there.state, not_there.command) == (State.MISSING, "vlsb data fetch")


# The screen.


def advised(facts: Facts) -> set[str | None]:
    return {each.command for each in findings(facts) if each.group is Group.MODELS}


def test_no_engine_is_to_be_installed_where_its_install_would_be_refused() -> None:
    silent = replace(BARE, listing=GpuListing(problem="nvidia-smi ended with exit code 18"))
    old = replace(BARE, listing=listing(gpu(), cuda="11.8"))

    assert advised(silent) == advised(old) == {None}
    said = {each.what for each in findings(old) if each.group is Group.ENGINES}
    assert "0.32.0 needs CUDA 13.0, and the driver runs CUDA up to 11.8: update it" in said


def ends(facts: Facts) -> list[str]:
    """The screen's last part, a sentence a line."""
    text = findings_text(findings(facts), width=400, height=90, color=False)
    return text.rstrip().split("\n\n")[-1].splitlines()


def test_the_screen_ends_with_what_this_machine_is_ready_for_and_what_not_with_the_reason() -> None:
    local = ", ".join(FAMILIES)
    assert ends(READY) == [
        f"ready for: the demo, hosted models (OPENAI_API_KEY), local models ({local}), parquet shards"
    ]
    assert ends(replace(BARE, keys={"OPENAI_API_KEY": False})) == [
        "ready for: the demo",
        "not ready for: hosted models (no key is set), local models (no engine), "
        "parquet shards (no extra `parquet`), the full data set (not here)",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("facts", [READY, BARE], ids=["ready", "bare"])
def test_the_screen_keeps_its_width_and_shows_every_finding(facts: Facts, width: int) -> None:
    text = findings_text(findings(facts), width=width, height=50, color=False)

    assert max(map(len, text.splitlines())) <= width
    assert all(found.name in text for found in findings(facts))
    assert all(found.command in text for found in findings(facts) if found.command)


@pytest.mark.parametrize("facts", [READY, BARE], ids=["ready", "bare"])
def test_it_is_one_screen_of_24_lines(facts: Facts) -> None:
    text = findings_text(findings(facts), width=80, height=24, color=False)

    assert len(text.splitlines()) < 24
    assert "" not in text.splitlines()
    assert "" in findings_text(findings(facts), width=80, height=50, color=False).splitlines()


def test_a_mark_says_how_a_thing_was_found_without_a_colour() -> None:
    text = findings_text(findings(BARE), width=80, height=50, color=False)

    assert "\x1b" not in text
    assert "✓ OPENAI_API_KEY  ○ ANTHROPIC_API_KEY" in text
    assert "○ VLSBench     not here (2.5 GB)  → vlsb data fetch" in text


def test_a_strangers_words_reach_neither_the_terminal_nor_json_raw() -> None:
    facts = replace(READY, listing=listing(gpu(name="\x1b]0;title\x07[red]GPU\x7f\n✓ fake")))

    text = findings_text(findings(facts), width=80, height=50, color=True)
    row = next(line for line in text.splitlines() if "[red]GPU" in line)
    assert "title" not in text
    assert "\x07" not in text
    assert "fake" in row
    assert "\x7f" not in findings_json(findings(facts))


def test_json_has_every_finding_with_its_command() -> None:
    document = json.loads(findings_json(findings(BARE)))

    assert document["schema"] == 1
    assert {
        "group": "models",
        "name": "mllama",
        "state": "missing",
        "what": "no engine",
        "command": "vlsb engine install mllama",
    } in document["findings"]
    assert len(document["findings"]) == len(findings(BARE))


# Looking.


class Hub:
    """A hub that answers every request with one status, or with nothing until the test ends."""

    def __init__(self, status: int | None) -> None:
        self.paths: list[str] = []
        self.released = Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.paths.append(self.path)
                hub.authorization = self.headers.get("authorization")
                if status is None:
                    hub.released.wait()
                    return
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not to stderr."""

        self.authorization: str | None = None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub() -> Iterator[Callable[[int | None], Hub]]:
    """Starts hubs that are closed with the test: `hub(200)`, `hub(None)` for one that never answers."""
    started: list[Hub] = []

    def start(status: int | None) -> Hub:
        started.append(Hub(status))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user without programs, settings or data."""
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home), "PATH": str(tmp_path / "no programs")}


def looked(environment: dict[str, str], **more: Any) -> Facts:
    known = {"data_root": None, "is_offline": True, "hub_timeout_s": 30.0} | more
    return asyncio.run(survey(environment, **known))


def test_an_empty_machine_has_nothing_and_that_is_no_error(environment: dict[str, str]) -> None:
    facts = looked(environment)

    assert (facts.listing, facts.servers, facts.weights) == (GpuListing(), (), frozenset())
    assert [engine.version for engine in facts.engines.values()] == [None, None]
    assert facts.hub == HubFacts("huggingface.co", HubAccess.NOT_ASKED)
    assert [disk.place for disk in facts.disks] == ["~/.local/share/vlsb/engines"]
    assert facts.disks[0].holds_weights


@pytest.mark.parametrize(("status", "access"), [(200, "reached"), (401, "reached"), (503, "not reached")])
def test_a_hub_that_answers_is_reached(
    environment: dict[str, str], hub: Callable[[int | None], Hub], status: int, access: str
) -> None:
    there = hub(status)
    facts = looked(environment | {"HF_ENDPOINT": there.address, "HF_TOKEN": canary.CANARY}, is_offline=False)

    assert facts.hub.access == access
    assert facts.hub.reason == ("HTTP 503" if status == 503 else "")
    assert there.paths == ["/api/datasets/Foreshhh/vlsbench"]
    assert there.authorization is None


def test_a_hub_that_never_answers_is_given_up(
    environment: dict[str, str], hub: Callable[[int | None], Hub]
) -> None:
    settings = environment | {"HF_ENDPOINT": hub(None).address}
    facts = looked(settings, is_offline=False, hub_timeout_s=0.2)

    assert (facts.hub.access, facts.hub.reason) == (HubAccess.NOT_REACHED, "no answer within 0.2 s")


def test_a_hub_that_is_not_there_is_a_fact(
    environment: dict[str, str], hub: Callable[[int | None], Hub]
) -> None:
    gone = hub(200)
    gone.close()

    assert looked(environment | {"HF_ENDPOINT": gone.address}, is_offline=False).hub.access == "not reached"


def test_a_hub_that_is_switched_off_is_not_asked(
    environment: dict[str, str], hub: Callable[[int | None], Hub]
) -> None:
    there = hub(200)
    off = environment | {"HF_ENDPOINT": there.address, "HF_HUB_OFFLINE": "1"}

    assert looked(off, is_offline=False).hub.access == HubAccess.SWITCHED_OFF
    assert looked(environment | {"HF_ENDPOINT": there.address}).hub.access == HubAccess.NOT_ASKED
    assert there.paths == []


def test_a_password_in_the_hubs_address_is_not_repeated(environment: dict[str, str]) -> None:
    facts = looked(environment | {"HF_ENDPOINT": f"https://me:{canary.CANARY}@hub.example"}, is_offline=False)

    assert facts.hub.access == HubAccess.NOT_REACHED
    assert "HF_ENDPOINT" in facts.hub.reason
    canary.assert_unseen(repr(facts))


def test_the_place_of_a_token_is_told_and_not_the_token(environment: dict[str, str]) -> None:
    home = Path(environment["HOME"]) / ".cache" / "huggingface"
    home.mkdir(parents=True)
    (home / "token").write_text("not the canary, which no file may hold")

    assert HubSettings.of(environment).token == "~/.cache/huggingface/token"
    assert HubSettings.of(environment | {"HF_TOKEN": canary.CANARY}).token == "HF_TOKEN"
    assert HubSettings.of(environment | {"HF_TOKEN": " ", "HF_TOKEN_PATH": "/none"}).token is None


def test_the_hubs_cache_is_where_its_library_has_it(environment: dict[str, str]) -> None:
    def cache(**more: str) -> str:
        return str(HubSettings.of(environment | more).cache)

    assert cache() == f"{environment['HOME']}/.cache/huggingface/hub"
    assert cache(XDG_CACHE_HOME="/x") == "/x/huggingface/hub"
    assert cache(HF_HOME="/h", XDG_CACHE_HOME="/x") == "/h/hub"
    assert cache(HF_HUB_CACHE="/c", HF_HOME="/h") == "/c"


def test_keys_are_the_known_providers_those_named_and_others_that_are_set() -> None:
    found = keys(
        {"GEMINI_API_KEY": "x", "GROQ_API_KEY": "y", "TOGETHER_API_KEY": " ", "VLSB_API_KEY_ENV": "MINE"}
    )

    assert found == {
        "OPENAI_API_KEY": False,
        "ANTHROPIC_API_KEY": False,
        "GEMINI_API_KEY": True,
        "XAI_API_KEY": False,
        "MINE": False,
        "GROQ_API_KEY": True,
    }


def write_snapshot(cache: Path, repository: str, files: dict[str, str]) -> Path:
    """A repository in the hub's cache with these files at its newest revision."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    for name, text in files.items():
        (snapshot / name).write_text(text)
    return snapshot


def test_weights_are_whole_with_every_part_that_their_index_names(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    snapshot = write_snapshot(
        tmp_path, "me/it", {"config.json": "{}", "m.index.json": index, "model-1.safetensors": ""}
    )

    assert not is_whole(tmp_path, "me/it")
    (snapshot / "model-2.safetensors").symlink_to(tmp_path / "blob")
    assert not is_whole(tmp_path, "me/it")
    (tmp_path / "blob").touch()
    assert is_whole(tmp_path, "me/it")
    (snapshot / "other.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    assert is_whole(tmp_path, "me/it")


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ({"config.json": "{}", "model.safetensors": ""}, True),
        ({"config.json": "{}", "pytorch_model.bin": ""}, False),
        ({"config.json": "{}"}, False),
        ({"model.safetensors": ""}, False),
        ({"config.json": "{}", "model.safetensors": "", "model.safetensors.index.json": "[]"}, False),
        ({"config.json": "{}", "model.safetensors": "", "model.safetensors.index.json": "not json"}, False),
    ],
)
def test_weights_of_one_part_need_a_config_beside_them(
    tmp_path: Path, files: dict[str, str], whole: bool
) -> None:
    write_snapshot(tmp_path, "me/it", files)

    assert is_whole(tmp_path, "me/it") is whole
    assert not is_whole(tmp_path, "me/other")


def test_weights_that_need_unpickling_count_for_what_is_converted_only(tmp_path: Path) -> None:
    write_snapshot(tmp_path, "me/it", {"config.json": "{}", "pytorch_model.bin": ""})

    assert is_whole(tmp_path, "me/it", takes_bin=True)
    assert not is_whole(tmp_path, "me/it")


def test_weights_in_the_hubs_cache_are_found(environment: dict[str, str], tmp_path: Path) -> None:
    repository = FAMILIES["llava_hf"].weights
    for each in (repository, FAMILIES["llava"].weights):
        write_snapshot(tmp_path / "hub", each, {"config.json": "{}", "model.safetensors": ""})

    # The original LLaVA is not whole without its vision tower.
    assert looked(environment | {"HF_HUB_CACHE": str(tmp_path / "hub")}).weights == {repository}


def build_engine(environment: dict[str, str]) -> Path:
    """What an install of the current CPU engine leaves, as far as it is looked at."""
    prefix = engine_prefix(CURRENT, Places.of(environment), has_gpu=False)
    torch = prefix / "lib" / "python3.12" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = '12.8'\n")
    (prefix / "bin").mkdir()
    for name in ("python", "vllm"):
        (prefix / "bin" / name).touch(0o755)
    marker = {
        "schema": 1,
        "version": "0.32.0",
        "is_cpu": True,
        "prefix": str(prefix),
        "requirements": requirements(CURRENT, has_gpu=False),
    }
    (prefix / MARKER).write_text(json.dumps(marker))
    return prefix


def test_an_engine_that_was_installed_is_found_with_the_cuda_of_its_torch(
    environment: dict[str, str],
) -> None:
    build_engine(environment)

    engine = looked(environment).engines["vllm"]
    assert (engine.version, engine.is_cpu, engine.cuda, engine.place) == ("0.32.0", True, "12.8", "")


def test_an_unfinished_engine_is_a_problem(environment: dict[str, str]) -> None:
    (build_engine(environment) / MARKER).unlink()

    engine = looked(environment).engines["vllm"]
    assert engine.version is None
    assert engine.problem == "0.32.0 is unfinished at ~/.local/share/vlsb/engines/vllm-0.32.0-cpu"


def test_a_data_root_is_told_by_its_samples(environment: dict[str, str], tmp_path: Path) -> None:
    shards = tmp_path / "shards" / "data"
    shards.mkdir(parents=True)
    (shards / "train-0.parquet").touch()

    root = write_dataset(tmp_path / "dataset")
    assert looked(environment, data_root=root).dataset.place == f"6 samples at {root}"
    assert (
        looked(environment, data_root=shards.parent).dataset.place == f"parquet shards (1) at {shards.parent}"
    )
    assert "does not exist" in (looked(environment, data_root=tmp_path / "no").dataset.problem or "")


# The command.


def state_with_a_server(home: Path) -> Places:
    """The state folder of a user one of whose servers (this very process) runs; its key is no canary."""
    places = Places.of({"HOME": str(home)})
    began_at = process_began_at(os.getpid())
    assert began_at is not None
    write_record(
        places,
        ServerRecord(
            name="llava_next",
            family="llava_next",
            pid=os.getpid(),
            started_at=began_at,
            owner_pid=os.getpid(),
            owner_started_at=began_at,
            base_url="http://127.0.0.1:40001/v1",
            served_name="llava_next",
            key=Secret("the-key-of-a-server-0123456789"),
            facts={},
            deviations=(),
            log=home / "log",
            weights="somewhere",
            engine="0.32.0",
            boot=boot_id(),
        ),
    )
    return places


def test_the_command_prints_one_screen_and_ends_well_on_a_bare_machine(
    vlsb: Vlsb, minimal_env: dict[str, str], tmp_path: Path
) -> None:
    """The keys of the environment are named and never shown: the fixture looks for them."""
    home = Path(minimal_env["HOME"])
    state_with_a_server(home)
    ended = vlsb("doctor", "--offline", env={"PATH": str(tmp_path), "HF_TOKEN": canary.CANARY})

    assert (ended.code, ended.err) == (0, "")
    assert "✓ CANARY_KEY" in ended.out
    assert "✓ token        in HF_TOKEN" in ended.out
    assert "✓ llava_next   running at http://127.0.0.1:40001/v1" in ended.out
    assert "the-key-of-a-server" not in ended.out
    assert "vlsb engine install mllama" in ended.out


def test_the_command_writes_json(vlsb: Vlsb, tmp_path: Path) -> None:
    ended = vlsb("doctor", "--offline", "--format", "json", env={"PATH": str(tmp_path)})

    found = json.loads(ended.out)["findings"]
    assert ended.code == 0
    assert {"machine", "data", "keys", "engines", "models", "servers", "ready"} == {
        each["group"] for each in found
    }


def test_another_format_is_a_mistake(vlsb: Vlsb) -> None:
    ended = vlsb("doctor", "--format", "xml")

    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "Error: --format xml: not one of table, json.\n"


def test_a_named_model_is_checked_as_its_start_would_be(vlsb: Vlsb, tmp_path: Path) -> None:
    """Its row says what stands in the way, whatever family or variant it is of; nothing is started."""
    words = ("doctor", "--offline", "--format", "json", "--model")

    missing = vlsb(*words, "qwen2vl_vlguard", env={"PATH": str(tmp_path)})
    unknown = vlsb(*words, "llava_hff", env={"PATH": str(tmp_path)})

    rows = {each["name"]: each for each in json.loads(missing.out)["findings"] if each["group"] == "models"}
    assert next(iter(rows)) == "qwen2vl_vlguard"
    assert rows["qwen2vl_vlguard"]["state"] == "missing"
    assert rows["qwen2vl_vlguard"]["command"] == "vlsb engine install qwen2vl_vlguard"
    assert (unknown.code, unknown.err) == (
        2,
        "Error: llava_hff: no local model of that name. Did you mean llava_hf?\n",
    )
