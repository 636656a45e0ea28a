"""Commands of installed packages, by the entry-point group `vlsb.commands`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Vlsb
from tests.support.packages import leave_package
from vlsb.cli import app

COUNT = """
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli.command import command
from vlsb.errors import ConfigError
from vlsb.store.state import load_state


@command()
def count(run: Annotated[Path, typer.Argument(metavar="RUN", help="The run.")], least: int = 0) -> str:
    \"\"\"Count the responses of a run.\"\"\"
    responses = len(load_state(run).responses)
    if responses < least:
        raise ConfigError(f"{run} has {responses} responses.")
    return f"{responses} responses"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` that installers leave packages in."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    app._command.cache_clear()
    for name in [each for each in sys.modules if each.startswith("other_")]:
        del sys.modules[name]


def test_a_command_of_a_package_is_listed_and_runs_like_ours(vlsb: Vlsb, site: Path) -> None:
    leave_package(
        site, "other_count", {"vlsb.commands": {"count": "other_count:count"}}, code=COUNT, summary="Counts."
    )
    vlsb("demo", "--output-dir", "runs")
    (run,) = (vlsb.directory / "runs").iterdir()

    listed, page, counted = vlsb("--help"), vlsb("count", "--help"), vlsb("count", run)

    assert "Commands of other packages:\n  count  Counts. (of the package other_count)\n" in listed.out
    assert "Count the responses of a run." in page.out
    assert counted.out == "30 responses\n"
    assert vlsb("count", run, "--least", 31).error == f"Error: {run} has 30 responses."


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import gone",
            "its command broken is other_broken:broken, which cannot be imported: ModuleNotFound",
        ),
        ("raise SystemExit(0)", "which cannot be imported: SystemExit: 0. Repair or uninstall it."),
        ("broken = 3", "The command broken of the package other_broken (other_broken:broken) is not one: "),
    ],
)
def test_a_broken_one_is_one_line_and_stops_no_other(vlsb: Vlsb, site: Path, code: str, said: str) -> None:
    leave_package(site, "other_broken", {"vlsb.commands": {"broken": "other_broken:broken"}}, code=code)

    broken = vlsb("broken")

    assert broken.code == 2
    assert said in broken.error
    assert vlsb("--help").code == 0
    assert vlsb("judges").code == 0


def test_a_command_of_a_package_takes_no_name_of_ours(vlsb: Vlsb, site: Path) -> None:
    taken = {"judges": "other_taken:judges", "\x1b[31mred": "other_taken:judges"}
    leave_package(site, "other_taken", {"vlsb.commands": taken}, code="raise SystemExit(3)")

    listed = vlsb("--help").out

    assert "hardened" in vlsb("judges").out
    assert "  judges  Left out: the name is taken or no name. (of the package other_taken)" in " ".join(
        listed.split("\n")
    )
    assert "\x1b" not in listed


def test_a_name_that_nobody_has_is_guessed_among_all(vlsb: Vlsb, site: Path) -> None:
    leave_package(site, "other_count", {"vlsb.commands": {"count": "other_count:count"}}, code=COUNT)

    assert "Did you mean 'count'" in vlsb("cuont").error
