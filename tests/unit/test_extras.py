"""The command that adds an extra fits how vlsb was installed; the environments here are made up."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

import vlsb
from vlsb.errors import ConfigError
from vlsb.extras import MODULES, Installation, lacks_extra, require_extra

PROJECT = Path(vlsb.__file__).parents[1]
METADATA = """\
Metadata-Version: 2.4
Name: vlsb
Version: 0.1.0
Requires-Dist: rich>=14
Requires-Dist: uvloop>=0.21; platform_python_implementation == 'CPython'
Provides-Extra: import
Requires-Dist: backports-zstd>=1.8; (python_version < '3.14') and extra == 'import'
Requires-Dist: defusedxml>=0.7; extra == 'import'
Requires-Dist: openpyxl>=3.1; extra == 'import'
Provides-Extra: plot
Requires-Dist: matplotlib>=3.10; extra == 'plot'
Provides-Extra: stats
Requires-Dist: numpy>=2; extra == 'stats'
Requires-Dist: scipy>=1.15; extra == 'stats'
Requires-Dist: statsmodels>=0.14.5; extra == "stats"
"""
STATS = ("numpy", "scipy", "statsmodels")


class Environment:
    """A made-up virtual environment that holds vlsb, as the metadata of its packages tell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._site = path / "lib" / "python3.11" / "site-packages"
        self.python = path / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.python.touch()
        self.write("pyvenv.cfg", "home = /usr/bin\nversion_info = 3.11.7\n")
        self.add("vlsb", INSTALLER="pip\n", METADATA=METADATA)
        self.add("pip")

    def write(self, name: str, text: str) -> None:
        """A file at the top of the environment."""
        (self.path / name).write_text(text)

    def by_uv(self) -> None:
        """As if uv had made it, and installed vlsb."""
        self.write("pyvenv.cfg", "home = /usr/bin\nuv = 0.13.9\nversion_info = 3.11.7\n")
        self.add("vlsb", INSTALLER="uv")
        (self._site / "pip").rmdir()

    def add(self, *packages: str, **files: str) -> None:
        """Packages with their metadata."""
        for name in packages:
            info = self._site / f"{name}-0.1.0.dist-info"
            info.mkdir(parents=True, exist_ok=True)
            (self._site / name).mkdir(exist_ok=True)
            for file, text in ({"METADATA": f"Name: {name}\nVersion: 0.1.0\n"} | files).items():
                if file == "INSTALLER" or file in files or not (info / file).exists():
                    (info / file).write_text(text)

    def from_folder(self, folder: Path, **directory: Any) -> None:
        """As if vlsb had been installed from a folder, which is there."""
        folder.mkdir(parents=True, exist_ok=True)
        self.from_address(folder.as_uri(), dir_info=directory)

    def from_address(self, url: str, **rest: Any) -> None:
        """As if vlsb had been installed from an address."""
        self.add("vlsb", **{"direct_url.json": json.dumps({"url": url, **rest})})

    def advice(self, extra: str, here: Path) -> str:
        """What somebody in the folder `here` is told."""
        return Installation.of(Distribution.at(self._site / "vlsb-0.1.0.dist-info")).advice(extra, here)

    def command(self, extra: str, here: Path) -> list[str]:
        """The words to type."""
        said = self.advice(extra, here)
        assert said.startswith("Install it: "), said
        return shlex.split(said.removeprefix("Install it: "))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """One that pip filled."""
    return Environment(tmp_path / "an environment")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone's folder, with a blank in its name."""
    return tmp_path / "my clone"


def test_a_tool_of_uv_is_installed_again_with_the_extras_that_it_had(
    environment: Environment, clone: Path
) -> None:
    environment.by_uv()
    environment.from_folder(clone)
    environment.add("matplotlib")
    environment.write("uv-receipt.toml", '[tool]\nrequirements = [{ name = "vlsb", extras = ["plot"] }]\n')

    assert environment.advice("stats", clone) == "Install it: uv tool install --force '.[plot,stats]'"
    assert environment.command("stats", clone / "docs")[-1] == f"{clone}[plot,stats]"


def test_a_tool_of_uv_keeps_its_python_and_what_was_added_to_it(
    environment: Environment, clone: Path
) -> None:
    environment.by_uv()
    environment.from_folder(clone, editable=True)
    environment.write(
        "uv-receipt.toml",
        f"""[tool]
        python = "3.12"
        requirements = [
            {{ name = "vlsb", editable = "{clone}" }},
            {{ name = "rich", specifier = "<20" }},
            {{ name = "mine", editable = "/src/mine" }},
            {{ name = "theirs", extras = ["x"], git = "https://user:secret@example.com/theirs?rev=main" }},
            {{ name = "other", directory = "/src/other" }},
        ]""",
    )

    words = environment.command("plot", clone)
    assert words == [
        *("uv", "tool", "install", "--force", "--python", "3.12", "--with", "rich<20"),
        *("--with-editable", "/src/mine", "--with", "theirs[x] @ git+https://example.com/theirs@main"),
        *("--with", "other @ file:///src/other", "--editable", ".[plot]"),
    ]


def test_pipx_installs_again_with_the_extras_that_were_there(environment: Environment, clone: Path) -> None:
    environment.from_folder(clone)
    environment.add("matplotlib")
    environment.write("pipx_metadata.json", json.dumps({"main_package": {"suffix": "-new"}}))

    assert environment.command("stats", clone) == [
        *("pipx", "install", "--force", "--suffix", "-new", ".[plot,stats]"),
    ]


def test_a_clone_is_synced_with_all_its_extras_and_nothing_is_removed(clone: Path) -> None:
    environment = Environment(clone / ".venv")
    environment.by_uv()
    environment.from_folder(clone, editable=True)
    environment.add("matplotlib")

    synced = ["uv", "sync", "--inexact"]
    extras = ["--extra", "plot", "--extra", "stats"]
    assert environment.command("stats", clone / "docs") == [*synced, *extras]
    assert environment.command("stats", clone.parent) == [*synced, "--project", str(clone), *extras]


def test_a_project_that_depends_on_vlsb_gets_the_extra_into_its_dependencies(
    tmp_path: Path, clone: Path
) -> None:
    project = tmp_path / "study"
    environment = Environment(project / ".venv")
    environment.by_uv()
    environment.from_folder(clone)
    (project / "uv.lock").write_text('[[package]]\nname = "vlsb"\n')

    assert environment.command("plot", project) == ["uv", "add", f"{clone}[plot]"]


def test_an_environment_of_the_moment_is_asked_for_with_the_extra(tmp_path: Path, clone: Path) -> None:
    environment = Environment(tmp_path / "archive-v0" / "dEn2IVQwY5orPj0k")
    environment.by_uv()
    environment.from_folder(clone)

    assert environment.command("plot", clone) == ["uvx", "--from", ".[plot]", "vlsb"]


def test_pip_installs_into_the_environment_that_vlsb_is_in(environment: Environment, clone: Path) -> None:
    environment.from_folder(clone, editable=True)

    pip = [str(environment.python), "-m", "pip", "install"]
    assert environment.command("plot", clone) == [*pip, "--editable", ".[plot]"]


def test_pip_of_uv_is_told_the_environment(environment: Environment, clone: Path) -> None:
    environment.by_uv()
    environment.from_folder(clone)

    uv = ["uv", "pip", "install", "--python", str(environment.python)]
    assert environment.command("plot", clone) == [*uv, ".[plot]"]


@pytest.mark.parametrize(
    ("url", "facts", "wanted"),
    [
        (None, {}, "vlsb[plot]"),
        (
            "https://user:secret@example.com/vlsb.git",
            {"vcs_info": {"vcs": "git", "commit_id": "0" * 40, "requested_revision": "main"}},
            "vlsb[plot] @ git+https://example.com/vlsb.git@main",
        ),
        (
            "file:///srv/vlsb.git",
            {"vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
            "vlsb[plot] @ git+file:///srv/vlsb.git",
        ),
        (
            "https://user:secret@example.com/vlsb-0.1.0-py3-none-any.whl",
            {"archive_info": {}},
            "vlsb[plot] @ https://example.com/vlsb-0.1.0-py3-none-any.whl",
        ),
    ],
)
def test_what_is_installed_again_is_what_was_installed_without_a_password(
    environment: Environment, tmp_path: Path, url: str | None, facts: dict[str, Any], wanted: str
) -> None:
    if url is not None:
        environment.from_address(url, **facts)

    assert environment.command("plot", tmp_path)[-1] == wanted


def test_a_clone_that_is_gone_is_asked_for(environment: Environment, clone: Path, tmp_path: Path) -> None:
    environment.from_folder(clone)
    clone.rmdir()

    said = environment.advice("plot", tmp_path)
    assert re.fullmatch(r"In a clone of vlsb, install it: '.+/python' -m pip install '\.\[plot\]'", said)


def test_an_extra_counts_as_installed_when_all_its_packages_are_there(
    environment: Environment, clone: Path
) -> None:
    """Except for those that only some Pythons need."""
    environment.from_folder(clone)
    environment.add("numpy", "scipy", "openpyxl", "defusedxml")
    assert environment.command("plot", clone)[-1] == ".[import,plot]"

    environment.add("statsmodels")
    assert environment.command("plot", clone)[-1] == ".[import,plot,stats]"


@pytest.mark.parametrize(
    ("file", "text"),
    [("uv-receipt.toml", "[tool"), ("uv-receipt.toml", ""), ("pipx_metadata.json", "[]")],
)
def test_records_of_an_unknown_form_leave_the_name_of_the_extra(
    environment: Environment, file: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.write(file, text)
    monkeypatch.setattr(sys, "path", [str(environment.python.parents[1] / "lib/python3.11/site-packages")])

    error = lacks_extra("plot", "vlsb plot needs it")

    assert (error.message, error.advice) == ("vlsb plot needs it", "Install vlsb with it: vlsb[plot]")


def test_every_extra_of_the_project_is_known_with_modules_of_its_packages() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]

    assert sorted(MODULES) == sorted(project["optional-dependencies"])
    for extra, lines in project["optional-dependencies"].items():
        packages = {re.split(r"[><=;\[ ]", line)[0] for line in lines}
        assert set(MODULES[extra]) <= packages


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "plot", ("no_such_module", "json"))

    with pytest.raises(
        ConfigError, match=r"vlsb plot needs the extra `plot` \(no_such_module not found\)"
    ) as raised:
        require_extra("plot", "vlsb plot")

    assert "plot" in raised.value.advice


def test_no_other_text_of_the_program_advises_how_to_install_an_extra() -> None:
    advice = re.compile(r"uv sync|vlsb\[|uv tool install|pip install|--extra\b")
    found = {
        path.name
        for path in (PROJECT / "vlsb").rglob("*.py")
        if advice.search(path.read_text("utf-8")) and "engines" not in path.parts
    }

    assert found == {"extras.py"}


def test_the_page_on_installing_says_what_every_extra_is_for() -> None:
    page = (PROJECT / "docs" / "first-run.md").read_text("utf-8")

    assert sorted(re.findall(r"^\| `(\w+)` \| \S", page, re.MULTILINE)) == sorted(MODULES)
