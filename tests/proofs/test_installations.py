"""vlsb is really installed, in every way that the documentation names; what it advises is typed, and works.

Packages come from the index that uv and pip are set to use. Each way begins with one extra and, where the way
allows it, with a package of the user's own: both have to be there afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

import vlsb
from tests.commands.test_datasets import write_signs

PROJECT = Path(vlsb.__file__).parents[1]
HAD = ("openpyxl", "defusedxml")
"""What the extra `import` brings."""
OWN = "humanize"
ADDED = "matplotlib"
"""What the extra `plot` brings, which is missing."""
_PARTS = ("vlsb", "servers", "pyproject.toml", "README.md", "LICENSE")


class Shell:
    """A user's shell: a home of its own, and a folder that commands are typed in."""

    def __init__(self, home: Path) -> None:
        self.folder = home
        theirs = re.compile("VLSB_|VIRTUAL_ENV|PYTHON|XDG_|PIPX_|UV_(TOOL|PROJECT|PYTHON|NO_|FROZEN|LOCKED)")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not theirs.match(name)},
            "HOME": str(home),
            "PATH": f"{home}/.local/bin:{Path(find_uv_bin()).parent}:{os.environ['PATH']}",
            # Packages that were fetched before are not fetched again.
            "UV_CACHE_DIR": subprocess.check_output([find_uv_bin(), "cache", "dir"], text=True).strip(),
            "PIPX_HOME": f"{home}/pipx",
        }

    def type(self, line: str, *, code: int = 0) -> str:
        """Run a line, which ends with that code; what it said."""
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def follow(self, command: str = "vlsb") -> str:
        """Ask for a figure, type what is advised, and ask again; the line that was advised."""
        asked = f"{command} plot no-run --out figure.svg"
        said = self.type(asked, code=2)
        assert f"needs the extra `plot` ({ADDED} not found)" in said
        advised = said.rstrip("\n").partition("Install it: ")[2]
        self.type(advised)
        assert "extra" not in self.type(asked, code=2)
        return advised

    def has(self, python: str, *modules: str) -> None:
        """An environment's Python imports them all."""
        self.type(f"{python} -c 'import {', '.join(modules)}'")


def lines_of(example: str) -> int:
    """Count the lines of a whole package of `examples/`, its pyproject.toml among them."""
    files = (PROJECT / "examples" / example).rglob("*")
    kinds = (".py", ".toml", ".yaml")
    return sum(len(each.read_text().splitlines()) for each in files if each.suffix in kinds)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell beside a clone. A uv and a pip of ours without an index cannot install anything."""
    made = Shell(tmp_path)
    found = subprocess.run(
        [find_uv_bin(), "pip", "install", "--dry-run", "--target", str(tmp_path / "none"), OWN],
        env=made.environment,
        capture_output=True,
        check=False,
    )
    if found.returncode != 0:
        pytest.skip("no package index")
    return made


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a user cloned, as far as it is installed."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in _PARTS:
        source = PROJECT / name
        copy: Callable[..., object] = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    return folder


def test_a_tool_of_uv_keeps_its_extras_and_packages(shell: Shell, clone: Path) -> None:
    shell.folder = clone
    shell.type(f"uv tool install --with {OWN} '.[import]'")

    advised = shell.follow()

    assert advised == f"uv tool install --force --with {OWN} '.[import,plot]'"
    shell.has("~/.local/share/uv/tools/vlsb/bin/python", ADDED, *HAD, OWN)


def test_a_tool_of_uv_that_follows_a_clone_still_follows_it(shell: Shell, clone: Path) -> None:
    """Typed from somewhere else, where the clone needs its whole path."""
    shell.type(f"uv tool install --editable '{clone}[import]'")

    advised = shell.follow()

    assert advised == f"uv tool install --force --editable '{clone}[import,plot]'"
    (clone / "vlsb" / "_version.py").write_text('__version__ = "7.7.7"\n')
    assert shell.type("vlsb --version") == "vlsb 7.7.7\n"


def test_a_synced_clone_keeps_its_extras_and_packages(shell: Shell, clone: Path) -> None:
    shell.folder = clone
    shell.type("uv sync --no-dev --extra import")
    shell.type(f"uv pip install {OWN}")

    advised = shell.follow("uv run --no-dev vlsb")

    assert advised == "uv sync --inexact --extra import --extra plot"
    shell.has(".venv/bin/python", ADDED, *HAD, OWN)


def test_a_project_that_depends_on_vlsb_keeps_its_extras(shell: Shell, clone: Path) -> None:
    shell.type("uv init --bare study")
    shell.folder /= "study"
    shell.type(f"uv add '{clone}[import]' {OWN}")

    advised = shell.follow("uv run vlsb")

    assert advised == f"uv add '{clone}[import,plot]'"
    # What is synced exactly is what the project says.
    shell.type("uv sync")
    shell.has(".venv/bin/python", ADDED, *HAD, OWN)


def test_pip_adds_to_what_is_there(shell: Shell, clone: Path) -> None:
    shell.type("uv venv --seed my-env")
    shell.type(f"my-env/bin/python -m pip install '{clone}[import]' {OWN}")

    advised = shell.follow("my-env/bin/vlsb")

    assert advised == f"{shell.folder}/my-env/bin/python -m pip install '{clone}[import,plot]'"
    shell.has("my-env/bin/python", ADDED, *HAD, OWN)


def test_pip_of_uv_adds_to_what_is_there(shell: Shell, clone: Path) -> None:
    shell.folder = clone
    shell.type("uv venv ../my-env")
    shell.type(f"uv pip install --python ../my-env --editable '.[import]' {OWN}")

    advised = shell.follow("../my-env/bin/vlsb")

    python = clone.parent / "my-env" / "bin" / "python"
    assert advised == f"uv pip install --python {python} --editable '.[import,plot]'"
    shell.has(str(python), ADDED, *HAD, OWN)


def test_pipx_keeps_its_extras_and_what_was_injected(shell: Shell, clone: Path) -> None:
    shell.type("uv tool install pipx")
    shell.type(f"pipx install '{clone}[import]'")
    shell.type(f"pipx inject vlsb {OWN}")

    advised = shell.follow()

    assert advised == f"pipx install --force '{clone}[import,plot]'"
    shell.has("pipx/venvs/vlsb/bin/python", ADDED, *HAD, OWN)


def test_an_environment_of_the_moment_is_made_with_the_extra(shell: Shell, clone: Path) -> None:
    shell.folder = clone
    said = shell.type("uvx --from '.[import]' vlsb plot no-run --out figure.svg", code=2)

    advised = said.rstrip("\n").partition("Install it: ")[2]

    assert advised == "uvx --from '.[import,plot]' vlsb"
    assert "extra" not in shell.type(f"{advised} plot no-run --out figure.svg", code=2)


def test_a_clone_that_is_gone_is_asked_for(shell: Shell, clone: Path) -> None:
    shell.type(f"uv tool install '{clone}'")
    elsewhere = clone.rename(clone.with_name("elsewhere"))

    said = shell.type("vlsb plot no-run --out figure.svg", code=2)

    advised = said.rstrip("\n").partition("In a clone of vlsb, install it: ")[2]
    assert advised == "uv tool install --force '.[plot]'"
    shell.folder = elsewhere
    shell.type(advised)
    shell.has("~/.local/share/uv/tools/vlsb/bin/python", ADDED)


def test_a_package_of_judges_is_installed_beside_vlsb(shell: Shell, clone: Path) -> None:
    """The example, as it stands."""
    shell.type("uv venv -q env")
    shell.type(f"uv pip install -q --python env '{clone}' '{PROJECT / 'examples' / 'judge'}'")

    listed = shell.type("env/bin/vlsb judges --format json")

    assert '"brief"' in listed
    assert lines_of("judge") <= 40


def test_a_package_of_a_data_set_is_installed_beside_vlsb(shell: Shell, clone: Path) -> None:
    """The example, as it stands, in a run against the simulator."""
    shell.type("uv venv -q env")
    shell.type(f"uv pip install -q --python env '{clone}' '{PROJECT / 'examples' / 'dataset'}'")
    write_signs(shell.folder / "signs")

    shell.type("env/bin/vlsb run --model demo --dataset road-signs --data-root signs --name signs")

    assert "the data set road-signs, not of VLSBench" in shell.type("env/bin/vlsb report outputs")
    assert lines_of("dataset") <= 40


def test_a_package_of_a_format_is_installed_beside_vlsb(shell: Shell, clone: Path) -> None:
    """The example, as it stands; a word that is no format is refused with those that there are."""
    shutil.copytree(PROJECT / "tests" / "golden" / "printed_runs" / "gpt-4o", shell.folder / "a<b>")
    shell.type("uv venv -q env")
    shell.type(f"uv pip install -q --python env '{clone}' '{PROJECT / 'examples' / 'format'}'")

    page = shell.type("env/bin/vlsb report 'a<b>' --format html")
    ranks = shell.type("env/bin/vlsb report --leaderboard 'a<b>' --format html --output ranks.html")
    refused = shell.type("env/bin/vlsb report 'a<b>' --format pdf", code=2)

    assert "<caption>VLSBench safety rates</caption>" in page
    assert "<td>a&lt;b&gt;</td>" in page
    assert ranks == ""
    assert "<caption>Ranks by safe rate" in (shell.folder / "ranks.html").read_text()
    assert refused.rstrip().endswith("not one of table, json, csv, markdown, latex, parquet, official, html.")
    assert lines_of("format") <= 40
