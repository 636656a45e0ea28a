"""`vlsb doctor`: what is here, what is not, and the one command that changes it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.support import canary
from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb
from tests.support.datasets import write_dataset
from tests.support.engine_wheels import write_environment
from tests.unit.engines.test_checks import row
from tests.unit.engines.test_hardware import HEADING
from tests.unit.engines.test_hardware import listing as smi_listing
from vlsb.cli.doctor import dataset_facts, findings_json, findings_text
from vlsb.endpoints.credentials import Secret
from vlsb.engines.checkpoint import Weights
from vlsb.engines.checks import Disk, Machine
from vlsb.engines.doctor import (
    CheckResult,
    DatasetFacts,
    EngineFacts,
    Facts,
    Group,
    HubAccess,
    HubFacts,
    State,
    findings,
    keys,
    survey,
    token_place,
)
from vlsb.engines.hardware import Gpu, GpuListing
from vlsb.engines.install import MARKER, Engine, engine_prefix, requirements
from vlsb.engines.registry import Places, ServerRecord, boot_id, process_began_at, write_record
from vlsb.extras import MODULES
from vlsb.models.profile import CURRENT, FAMILIES, GIB, MLLAMA

HUB_PATH = "/api/datasets/Foreshhh/vlsbench"


def engines(*, cuda: str | None = "12.8", is_cpu: bool = False) -> dict[str, EngineFacts]:
    """Both engines of the families, as they would be found."""
    return {
        pin.name: EngineFacts(pin, Engine(Path("vllm"), pin.gpu_version, None, is_cpu, None, cuda))
        for pin in (CURRENT, MLLAMA)
    }


NO_ENGINES = {pin.name: EngineFacts(pin) for pin in (CURRENT, MLLAMA)}
# Of a size that is not known, so that the family's parameters count.
HERE = Weights("here", Path("/nowhere"), "c" * 40, must_stay_offline=True)
WEIGHTS = dict.fromkeys(FAMILIES, (HERE,))
DISK = Disk(Path("/data/engines"), 1, 500 * GIB)


def server(name: str, **more: Any) -> ServerRecord:
    """A server of ours that runs: this very process."""
    began_at = process_began_at(os.getpid())
    assert began_at is not None
    usual: dict[str, Any] = {
        "family": name,
        "pid": os.getpid(),
        "started_at": began_at,
        "owner_pid": os.getpid(),
        "owner_started_at": began_at,
        "base_url": "http://127.0.0.1:40001/v1",
        "served_name": name,
        "key": Secret("the-key-of-a-server-0123456789"),
        "facts": {},
        "deviations": (),
        "log": Path("log"),
        "weights": "somewhere",
        "engine": "0.32.0",
        "boot": boot_id(),
    }
    return ServerRecord(name=name, **usual | more)


def gpu(index: int = 0, *, total: float = 80, free: float | None = None, name: str = "NVIDIA H100") -> Gpu:
    left = total if free is None else free
    return Gpu(index, name, int(total * GIB), int(left * GIB), "570.86")


def listing(*gpus: Gpu, **more: Any) -> GpuListing:
    return GpuListing(gpus, **{"cuda": "12.8", **more})


READY = Facts(
    python="3.12.1, Linux x86_64",
    uv="0.9.2",
    machine=Machine(listing(gpu()), 64 * GIB, DISK, DISK, DISK),
    hub=HubFacts("huggingface.co", HubAccess.REACHED, token="HF_TOKEN"),
    dataset=DatasetFacts("revision 0123456789ab in the hub's cache"),
    keys={"OPENAI_API_KEY": True, "ANTHROPIC_API_KEY": False},
    engines=engines(),
    weights=WEIGHTS,
    servers=(),
    extras=dict.fromkeys(MODULES, True),
)
BARE = replace(
    READY,
    extras=dict.fromkeys(MODULES, False),
    machine=replace(READY.machine, listing=GpuListing()),
    hub=HubFacts("huggingface.co", HubAccess.NOT_ASKED),
    dataset=DatasetFacts(),
    engines=NO_ENGINES,
    weights={},
)


def on(*gpus: Gpu, facts: Facts = READY, **more: Any) -> Facts:
    """The same on a machine with these GPUs."""
    return replace(facts, machine=replace(facts.machine, listing=listing(*gpus, **more)))


def named(facts: Facts, name: str, group: Group | None = None) -> CheckResult:
    """The one finding of that name, in that group where a name occurs in two."""
    (found,) = [each for each in findings(facts) if each.name == name and group in (None, each.group)]
    return found


def model(facts: Facts, name: str) -> CheckResult:
    return named(facts, name, Group.MODELS)


# Families.


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_with_an_engine_a_gpu_and_its_weights_is_ready(name: str) -> None:
    assert model(READY, name) == CheckResult(Group.MODELS, name, State.OK, "ready")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_without_an_engine_names_the_command_that_installs_it(name: str) -> None:
    found = model(BARE, name)

    assert (found.state, found.command) == (State.MISSING, f"vlsb engine install {name}")


def test_a_broken_engine_is_installed_again() -> None:
    broken = READY.engines | {"vllm": EngineFacts(CURRENT, problem="0.32.0 is unfinished at ~/there")}
    facts = replace(on(gpu(), cuda="13.0"), engines=broken)

    assert named(facts, "vllm").what == "0.32.0 is unfinished at ~/there"
    assert model(facts, "qwen2vl").command == "vlsb engine install qwen2vl"
    assert model(facts, "mllama").state == State.OK


def test_weights_that_the_first_start_downloads_are_named() -> None:
    found = model(replace(READY, weights={}), "llava")

    assert (found.state, found.what) == (State.OK, "ready; downloads liuhaotian/llava-v1.5-7b first")


@pytest.mark.parametrize("access", [HubAccess.NOT_REACHED, HubAccess.SWITCHED_OFF])
def test_weights_that_cannot_be_had_are_a_problem(access: HubAccess) -> None:
    found = model(replace(READY, weights={}, hub=HubFacts("huggingface.co", access)), "qwen2vl")

    assert (found.state, found.command) == (State.PROBLEM, "vlsb serve qwen2vl --weights DIR")


def test_gated_weights_need_a_token_unless_they_are_here() -> None:
    without_token = replace(READY, hub=HubFacts("huggingface.co", HubAccess.REACHED))
    found = model(replace(without_token, weights={}), "mllama")

    assert (found.state, found.command) == (State.MISSING, "hf auth login")
    assert "huggingface.co" in found.what
    assert model(without_token, "mllama").state == State.OK
    assert model(replace(without_token, weights={}), "qwen2vl").state == State.OK


def test_without_a_gpu_a_family_needs_memory_enough_or_smaller_weights() -> None:
    machine = replace(READY.machine, listing=GpuListing(), memory_bytes=40 * GIB)
    facts = replace(READY, machine=machine, engines=engines(is_cpu=True, cuda=None))

    assert model(facts, "llava_hf") == CheckResult(Group.MODELS, "llava_hf", State.OK, "ready")
    assert model(facts, "mllama") == CheckResult(
        Group.MODELS,
        "mllama",
        State.MISSING,
        "its weights need a GPU; small ones:",
        "vlsb serve mllama --weights DIR",
    )


def test_no_engine_is_to_be_installed_for_weights_that_this_machine_cannot_hold() -> None:
    """The start refuses them before it installs the engine, and so does the row of the family."""
    small = replace(BARE.machine, memory_bytes=8 * GIB)
    large = model(replace(BARE, machine=small), "llava_hf")
    narrow = model(on(gpu(total=12), facts=BARE, cuda="13.0"), "qwen2vl")

    assert (large.state, large.what) == (State.MISSING, "its weights need a GPU; small ones:")
    assert large.command == "vlsb serve llava_hf --weights DIR"
    assert narrow.what.startswith("needs about ")
    assert "vlsb engine install" not in str(narrow.command)
    local = "local models (its weights need a GPU)"
    assert local in ends(replace(BARE, machine=small))[1]


def test_a_family_too_large_for_each_gpu_is_spread_over_several() -> None:
    small = [gpu(index, total=12) for index in range(4)]

    assert model(on(*small), "qwen2vl").command == "vlsb serve qwen2vl --tensor-parallel-size 2"
    assert model(on(*small), "mllama").command == "vlsb serve mllama --tensor-parallel-size 4"
    alone = model(on(*small[:1]), "mllama")
    assert (alone.state, alone.command) == (State.PROBLEM, None)
    assert alone.what == "needs about 21.9 GiB on a GPU; GPU 0 has 12.0 GiB"


def test_a_gpu_that_a_server_of_ours_fills_is_freed_by_stopping_it() -> None:
    full = on(gpu(free=3))

    assert model(full, "qwen2vl").state == State.PROBLEM
    assert model(full, "qwen2vl").command is None
    running = replace(full.machine, servers=("llava_hf",))
    ours = replace(full, servers=(server("llava_hf"),), machine=running)
    assert model(ours, "qwen2vl").command == "vlsb engine stop llava_hf"
    assert model(ours, "llava_hf") == CheckResult(
        Group.MODELS, "llava_hf", State.OK, "running at http://127.0.0.1:40001/v1"
    )


def test_a_gpu_whose_memory_is_unknown_is_no_obstacle() -> None:
    facts = on(gpu(total=0, name="NVIDIA GB10"))

    assert model(facts, "mllama").state == State.OK
    assert named(facts, "GPU").what == "NVIDIA GB10, shares the machine's memory"


def test_an_engine_for_a_newer_cuda_than_the_drivers_is_a_problem() -> None:
    facts = replace(READY, engines=engines(cuda="13.0"))

    assert named(facts, "vllm").state == State.PROBLEM
    assert "needs CUDA 13.0, and the driver runs CUDA up to 12.8: update it" in named(facts, "vllm").what
    assert model(facts, "llava").state == State.PROBLEM


@pytest.mark.parametrize("cuda", ["12.4", "12.9", "11.8"])
def test_a_driver_runs_what_is_built_for_its_major_version_or_an_older_one(cuda: str) -> None:
    assert named(replace(READY, engines=engines(cuda=cuda)), "vllm").state == State.OK


# The machine.


def test_gpus_of_one_kind_are_one_line_that_names_the_fullest() -> None:
    found = named(on(gpu(0), gpu(1, free=11), gpu(2)), "GPU")

    assert found.what == "3 x NVIDIA H100, 80.0 GiB, 11.0 GiB free on GPU 1"


def test_hidden_gpus_are_said() -> None:
    some = named(on(gpu(), hidden=7), "driver")
    none = named(on(hidden=8), "GPU")

    assert some.what == "570.86, runs CUDA up to 12.8, 7 hidden by CUDA_VISIBLE_DEVICES"
    assert none.what == "none to use: 8 hidden by CUDA_VISIBLE_DEVICES"


def test_a_driver_that_does_not_answer_is_a_problem() -> None:
    found = named(on(problem="nvidia-smi ended with 9: no driver"), "GPU")

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
    small = replace(DISK, free_bytes=10 * GIB)
    facts = replace(READY, machine=replace(READY.machine, engines=small, weights=small, converted=small))
    apart = replace(DISK, device=2)
    engines_only = replace(facts, machine=replace(facts.machine, weights=apart, converted=apart))

    assert model(facts, "qwen2vl").state == State.OK
    lacking = model(replace(facts, weights={}), "qwen2vl")
    assert (lacking.state, lacking.what) == (
        State.PROBLEM,
        "its weights need 15.4 GiB; 10.0 GiB are free",
    )
    newer = on(gpu(), facts=facts, cuda="13.0")
    without = model(replace(newer, engines=NO_ENGINES, weights={}), "qwen2vl")
    assert without.what == "the engine and its weights need 35.4 GiB; 10.0 GiB are free"
    assert model(replace(engines_only, weights={}), "qwen2vl").state == State.OK


def test_a_folder_named_for_the_data_that_cannot_be_used_is_a_problem_and_none_is_not() -> None:
    named_wrong = named(replace(READY, dataset=DatasetFacts(problem="there is none")), "VLSBench")
    not_there = named(BARE, "VLSBench")

    assert (named_wrong.state, named_wrong.command) == (State.PROBLEM, None)
    assert (not_there.state, not_there.command) == (State.MISSING, "vlsb data fetch")


# The screen.


def advised(facts: Facts) -> set[str | None]:
    return {each.command for each in findings(facts) if each.group is Group.MODELS}


def test_no_engine_is_to_be_installed_where_its_install_would_be_refused() -> None:
    silent = on(facts=BARE, problem="nvidia-smi ended with exit code 18")
    old = on(gpu(), facts=BARE, cuda="11.8")

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
    facts = on(gpu(name="\x1b]0;title\x07[red]GPU\x7f\n✓ fake"))

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
    usual = {"is_offline": True, "hub_path": HUB_PATH, "hub_timeout_s": 30.0} | more
    return asyncio.run(survey(environment, DatasetFacts(), **usual))


def test_an_empty_machine_has_nothing_and_that_is_no_error(environment: dict[str, str]) -> None:
    facts = looked(environment)

    assert (facts.machine.listing, facts.servers) == (GpuListing(), [])
    assert [each.engine for each in facts.engines.values()] == [None, None]
    assert facts.hub == HubFacts("huggingface.co", HubAccess.NOT_ASKED)
    assert any("free at ~/.local/share/vlsb/engines" in each.what for each in findings(facts))


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

    assert token_place(environment) == "~/.cache/huggingface/token"
    assert token_place(environment | {"HF_TOKEN": canary.CANARY}) == "HF_TOKEN"
    assert token_place(environment | {"HF_TOKEN": " ", "HF_TOKEN_PATH": "/none"}) is None


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

    found = looked(environment).engines["vllm"]
    assert found.engine is not None
    assert (found.engine.version, found.engine.is_cpu, found.engine.cuda) == ("0.32.0", True, "12.8")
    assert found.place == ""


def test_an_unfinished_engine_is_a_problem(environment: dict[str, str]) -> None:
    (build_engine(environment) / MARKER).unlink()

    engine = looked(environment).engines["vllm"]
    assert engine.engine is None
    assert engine.problem == "0.32.0 is unfinished at ~/.local/share/vlsb/engines/vllm-0.32.0-cpu"


def test_a_data_root_is_told_by_its_samples(tmp_path: Path) -> None:
    shards = tmp_path / "shards" / "data"
    shards.mkdir(parents=True)
    (shards / "train-0.parquet").touch()

    root = write_dataset(tmp_path / "dataset")
    assert dataset_facts(root).place == f"6 samples at {root}"
    assert dataset_facts(shards.parent).place == f"parquet shards (1) at {shards.parent}"
    assert "does not exist" in (dataset_facts(tmp_path / "no").problem or "")


# The command.


def test_the_command_prints_one_screen_and_ends_well_on_a_bare_machine(
    vlsb: Vlsb, minimal_env: dict[str, str], tmp_path: Path
) -> None:
    """The keys of the environment are named and never shown: the fixture looks for them."""
    home = Path(minimal_env["HOME"])
    write_record(Places.of({"HOME": str(home)}), server("llava_next", log=home / "log"))
    ended = vlsb("doctor", "--offline", env={"PATH": str(tmp_path), "HF_TOKEN": canary.CANARY})

    assert (ended.code, ended.err) == (0, "")
    assert "✓ CANARY_KEY" in ended.out
    assert "✓ token        in HF_TOKEN" in ended.out
    assert "✓ llava_next   running at http://127.0.0.1:40001/v1" in ended.out
    assert "the-key-of-a-server" not in ended.out
    assert "vlsb data fetch" in ended.out


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


# As a start judges.


def snapshot(cache: Path, family: str, size: int) -> None:
    """A family's weights in the Hub's cache at one commit, of so many bytes that take no room on the disk."""
    folder = cache / f"models--{FAMILIES[family].weights.replace('/', '--')}"
    config = {"architectures": [FAMILIES[family].architecture], "torch_dtype": "float16"}
    weights = checkpoint(folder / "snapshots" / ("c" * 40), family, config=config)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c" * 40)
    with (weights / "model.safetensors").open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize(
    ("rows", "cuda", "size", "state"),
    [
        ([row(free=24200)], "13.0", 13 * GIB, "ok"),
        # Room for the weights, and less free than an engine takes.
        ([row(free=21000)], "13.0", 13 * GIB, "problem"),
        # The other GPU has room.
        ([row(free=21000), row(1)], "13.0", 13 * GIB, "ok"),
        ([row()], "13.0", 30 * GIB, "problem"),
        ([row(), row(1)], "13.0", 30 * GIB, "problem"),
        ([row()], "12.4", 13 * GIB, "problem"),
    ],
    ids=["fits", "busy", "another is free", "large", "large for one", "old driver"],
)
def test_a_familys_row_says_what_its_start_would_say(
    vlsb: Vlsb, tmp_path: Path, rows: list[str], cuda: str, size: int, state: str
) -> None:
    """Both on one screen: the family's row by what was looked at, and `--model` by the checks of a start."""
    engine = write_environment(tmp_path / "engine", {"vllm": "0.32.0"})
    torch = next((tmp_path / "engine").glob("lib/python3.*/site-packages")) / "torch"
    torch.mkdir()
    (torch / "version.py").write_text("cuda: Optional[str] = '13.0'\n")
    smi = smi_listing(tmp_path / "smi", "\n".join(rows), HEADING.replace("12.4", cuda))
    path = os.pathsep.join([smi["PATH"], str(engine.parent), os.defpath])
    words = ("doctor", "--offline", "--format", "json")

    # Large files, which the fixtures would read.
    with tempfile.TemporaryDirectory() as folder:
        snapshot(Path(folder), "llava_hf", size)
        environment = {"PATH": path, "HF_HUB_CACHE": folder}
        ended = [vlsb(*words, env=environment), vlsb(*words, "--model", "llava_hf", env=environment)]

    found = [json.loads(each.out)["findings"] for each in ended]
    of_row, of_start = (
        next(each for each in findings if (each["group"], each["name"]) == ("models", "llava_hf"))
        for findings in found
    )
    assert (of_row["state"], of_start["state"]) == (state, state), (of_row, of_start)


@pytest.mark.parametrize("name", ["qwen2vl", "llava"])
def test_weights_in_the_hubs_cache_are_ready_and_others_are_downloaded(
    vlsb: Vlsb, tmp_path: Path, name: str
) -> None:
    """The original LLaVA is not whole without its vision tower."""
    snapshot(tmp_path / "hub", name, 100)
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    script = (
        "import json; from vlsb.engines.doctor import whole_weights\n"
        "from vlsb.models.profile import FAMILIES\n"
        "print(json.dumps([name for name, each in FAMILIES.items() if whole_weights(each)]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, check=True
    )

    assert json.loads(found.stdout) == ([name] if name == "qwen2vl" else [])
