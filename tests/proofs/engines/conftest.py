"""Tests against real engines. They run where VLSB_TEST_ENGINES names the folder of their environments.

That is the folder that `vlsb engine install` fills (`~/.local/share/vlsb/engines`). Engines are large: one
runs at a time, however many test processes there are. With VLSB_TEST_FAMILIES (`llava_hf,mllama`) only the
tests of these families run. `just engines` does all of it, the installs too.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.proofs.engines.desk import Desk, marked
from tests.support.command import Vlsb
from vlsb.engines.hardware import gpus
from vlsb.engines.install import Engine, find_engine
from vlsb.engines.registry import Places
from vlsb.errors import EngineMissingError
from vlsb.models.profile import CURRENT, FAMILIES, NEWER, EnginePin

VARIABLE = "VLSB_TEST_ENGINES"
FAMILIES_VARIABLE = "VLSB_TEST_FAMILIES"
PAPERS_SCRIPT = Path(__file__).with_name("tiny_checkpoints.py")
NEWER_SCRIPT = Path(__file__).with_name("tiny_families.py")
# Besides a checkpoint a family: one that thinks, and one that brings code and has no family here.
NEWER_CHECKPOINTS = (*NEWER, "qwen3_vl_think", "internvl_chat")
PINS = {
    **{name: family.engine for name, family in FAMILIES.items()},
    **dict.fromkeys(NEWER_CHECKPOINTS, CURRENT),
}
"""The engine of each tiny checkpoint."""
SCRIPT_TIMEOUT_S = 300.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"engines: needs real engines; {VARIABLE} names their folder")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    unwanted = {item for item in ours if not _is_wanted(item)}
    for item in ours:
        item.add_marker(pytest.mark.engines)
        if VARIABLE not in os.environ:
            item.add_marker(pytest.mark.skip(reason=f"{VARIABLE} names no folder of engines"))
    items[:] = [item for item in items if item not in unwanted]
    config.hook.pytest_deselected(items=list(unwanted))


def _is_wanted(item: pytest.Item) -> bool:
    """Whether a test is of a family that was asked for. One that names none is of `llava`."""
    wanted = os.environ.get(FAMILIES_VARIABLE, "")
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "pin" in parameters:
        families = {name for name, pin in PINS.items() if pin == parameters["pin"]}
    else:
        families = {parameters.get("family", "llava")}
    return not wanted or bool(families & set(wanted.split(",")))


def engine_of(pin: EnginePin) -> Engine:
    """The engine of a pin in the tests' folder; where there is none, the test is skipped with the reason."""
    folder = Path(os.environ[VARIABLE])
    places = Places(state=folder, engines=folder, converted=folder)
    try:
        # Only that folder: whatever is on PATH is another engine.
        return find_engine(pin, "auto", places, environment={"PATH": ""}, has_gpu=bool(gpus(os.environ)))
    except EngineMissingError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The current engine, for what needs its Python."""
    return engine_of(FAMILIES["llava"].engine)


@pytest.fixture
def turn() -> Iterator[None]:
    """A turn to run an engine in: one at a time on this machine."""
    with (Path(os.environ[VARIABLE]) / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def engine_environment(tmp_path: Path) -> dict[str, str]:
    """The variables of an engine in a test: no hub, little memory, a home of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def run_python(python: Path, *arguments: str | Path, **options: Any) -> str:
    """Run an engine's Python to its end; returns its stdout, fails with its stderr."""
    done = subprocess.run(
        [python, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SCRIPT_TIMEOUT_S,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        **options,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def ask(engine: Engine) -> Callable[..., Any]:
    """Runs code in the engine's Python with a JSON value as `given`; returns what it stores as `found`."""

    def asked(code: str, given: Mapping[str, Any]) -> Any:
        begin = "import json, sys\ngiven = json.loads(sys.stdin.read())\n"
        end = "\nprint('\\n' + json.dumps(found))\n"
        assert engine.python is not None
        out = run_python(engine.python, "-c", begin + code + end, input=json.dumps(given))
        return json.loads(out.splitlines()[-1])

    return asked


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny checkpoint, written when it is first asked for."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(family: str) -> Path:
        if not (root / family).is_dir():
            python = engine_of(PINS[family]).python
            assert python is not None
            run_python(python, PAPERS_SCRIPT if family in FAMILIES else NEWER_SCRIPT, root, family)
        return root / family

    return folder


@pytest.fixture
def desk(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[Desk]:
    engines = Path(os.environ[VARIABLE]).resolve()
    desk = Desk(vlsb, tmp_path, engines.parents[1], minimal_env)
    assert desk.places.engines == engines, f"{VARIABLE} must end in vlsb/engines"
    yield desk
    for process in marked(desk.mark):
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
