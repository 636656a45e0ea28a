"""What every test may ask for: a place without anybody's settings, and the command line in it."""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import canary
from tests.support.command import Desk, Vlsb, least_environment, straight_summary
from tests.support.endpoint import labelling, persona
from vlsb.endpoints.loops import STOPPING_SIGNALS
from vlsb.simulator import SimulatorThread

# A slow or busy machine must not fail a property. The proofs try many more examples.
settings.register_profile(
    "patient", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("patient"), max_examples=150)
settings.load_profile("patient")


EXTRAS = ("matplotlib", "openai", "openpyxl", "playwright", "ray", "statsmodels", "submitit")
"""What the group `extras` brings."""


def pytest_configure() -> None:
    """Have Ctrl-C heard: a shell's background jobs ignore it, and so would every command that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without collections of garbage: there is none, and to look for it takes as long as the rest."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What a first run is told before anything else can be seen of it."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return []
    lines = [
        "vlsb: units and commands, about four minutes on two cores; the first dots after half a minute.",
        "`uv run just proofs` runs the long ones: real kills, full disks, a browser, Ray and Slurm.",
    ]
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if missing:
        lines.append(f"Tests of {', '.join(missing)} are skipped: `uv run just test` installs them.")
    return lines


@pytest.fixture(autouse=True)
def no_file_shows_the_key(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, the key that its commands used is in no file that they wrote."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        assert canary.files_that_show_it(folder) == []


@pytest.fixture(autouse=True)
def every_signal_is_as_it_was() -> Iterator[None]:
    """A command that a later test starts would inherit what this one ignores, and not hear its Ctrl-C."""
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    yield
    ignored = [
        number
        for number, handler in before.items()
        if signal.getsignal(number) is signal.SIG_IGN is not handler
    ]
    for number, handler in before.items():
        signal.signal(number, handler)
    assert ignored == []


@pytest.fixture
def target() -> Iterator[SimulatorThread]:
    """An endpoint that answers as a target and labels as a judge, by what it is asked."""
    with SimulatorThread(persona) as simulator:
        yield simulator


@pytest.fixture
def minimal_env(tmp_path: Path) -> dict[str, str]:
    """An environment without anybody's home or settings; the canary key is in it."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return least_environment(home)


@pytest.fixture
def vlsb(tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[Vlsb]:
    """`vlsb("run", "--model", "demo")` runs the command line and returns `code`, `out` and `err`."""
    command_line = Vlsb(tmp_path, minimal_env)
    yield command_line
    command_line.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A working directory with a data set of four samples, and the command line in it."""
    made = Desk(tmp_path)
    yield made
    made.vlsb.close()


@pytest.fixture
def endpoint() -> Iterator[SimulatorThread]:
    """A server that answers each sample in its own words as a target, and "Unsafe" as a judge."""
    with SimulatorThread(labelling()) as simulator:
        yield simulator


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine where nobody listens, and nobody will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a run that nothing interrupts."""
    return straight_summary(tmp_path_factory.mktemp("straight"))
