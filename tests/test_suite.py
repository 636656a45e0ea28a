"""How the tests are run: what the README's command takes, what `just proofs` does, and that it says so."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from copy import copy

import pytest

from tests.conftest import pytest_report_header
from tests.support import PROJECT

SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
PROOFS = PROJECT / "tests" / "proofs"


def test_the_readmes_command_takes_every_test_but_the_proofs() -> None:
    taken = [place for pattern in SETTINGS["testpaths"] for place in PROJECT.glob(pattern)]
    files = {path for path in (PROJECT / "tests").rglob("test_*.py") if PROOFS not in path.parents}

    assert {path for path in files if not {path, *path.parents} & set(taken)} == set()
    assert not {PROOFS, *PROOFS.parents} & set(taken)


def test_continuous_integration_runs_the_proofs_too() -> None:
    lines = (PROJECT / ".ci" / "run").read_text("utf-8").splitlines()

    assert lines.index("run uv run pytest") < lines.index("run uv run just proofs")
    assert '    uv run --group extras pytest tests/proofs "$@"' in (PROJECT / "justfile").read_text("utf-8")


def test_a_run_of_all_says_first_what_it_does_how_long_that_takes_and_what_is_left() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "--collect-only",
        "-o",
        "testpaths=tests/test_suite.py",
    ]
    said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout

    assert "minutes on two cores" in said
    assert "`uv run just proofs` runs the long ones" in said


def test_a_run_of_some_files_says_nothing_of_the_others(pytestconfig: pytest.Config) -> None:
    config = copy(pytestconfig)
    config.args_source = pytest.Config.ArgsSource.ARGS

    assert pytest_report_header(config) == []
