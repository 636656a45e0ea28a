"""`just mutants` on a project of one module: what it measures, what it writes, and when it fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mutants.listing import HEAD, TABLE_HEAD
from tests.support import PROJECT

SOURCE = """\
def share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
"""
TEST = """\
from vlsb.shares import share


def test_a_share_is_a_part_of_the_whole() -> None:
    assert share(1, 4) == 0.25
    {more}
"""
NOTHING_OF_NOTHING = "assert share(1, 0) == 0.0"


class Small:
    """A project whose one module is mutated, with a runner of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module, self.test = folder / "vlsb" / "shares.py", folder / "tests" / "test_shares.py"
        self.page = folder / "docs" / "explanation" / "reliability.md"
        shutil.copytree(PROJECT / "tests" / "mutants", folder / "tests" / "mutants")
        self.list = folder / "tests" / "mutants" / "modules.toml"
        for path, text in (
            (folder / "vlsb" / "__init__.py", ""),
            (folder / "tests" / "__init__.py", ""),
            (
                folder / "pyproject.toml",
                '[tool.mutmut]\nsource_paths = ["vlsb/"]\n[tool.pytest.ini_options]\n',
            ),
            (self.module, SOURCE),
            (self.page, f"Before.\n\n{TABLE_HEAD}\n|---|\n\nAfter.\n"),
            (self.list, f'{HEAD}\n["vlsb/shares.py"]\ntests = ["tests/test_shares.py"]\nmutants = 0\n'),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.write_test(NOTHING_OF_NOTHING)

    def write_test(self, more: str) -> None:
        self.test.write_text(TEST.format(more=more))

    def mutants(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.mutants", *words]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=240, check=False
        )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose score is written."""
    pytest.importorskip("mutmut")
    small = Small(tmp_path_factory.mktemp("mutants") / "small")
    ended = small.mutants("--write")
    assert ended.returncode == 0, ended.stderr
    return small.folder


@pytest.fixture
def small(measured: Path, tmp_path: Path) -> Small:
    small = Small(tmp_path / "fresh")
    shutil.copy(measured / "tests" / "mutants" / "modules.toml", small.list)
    shutil.copy(measured / "docs" / "explanation" / "reliability.md", small.page)
    return small


def test_a_score_is_written_into_the_list_and_onto_the_page(small: Small) -> None:
    page = small.page.read_text()

    assert page.startswith(f"Before.\n\n{TABLE_HEAD}\n|---|--:|--:|\n|`shares`|")
    assert page.endswith("|100|\n\nAfter.\n")
    assert "survivors = " not in small.list.read_text()


def test_nothing_is_measured_where_nothing_changed_also_where_there_is_no_history(small: Small) -> None:
    """As in a clone of one commit, or of one that git does not let this user read."""
    ended = small.mutants("--changed", "--minutes", "5")

    assert ended.stdout == "changed since they were measured: no module of the list\n"
    assert ended.returncode == 0


def test_a_test_that_claims_less_fails_the_command_with_what_it_no_longer_notices(small: Small) -> None:
    small.write_test("")

    ended = small.mutants("--changed", "--minutes", "5")

    assert ended.returncode == 1
    assert "survives: share\n    - return part / whole if whole else 0.0\n" in ended.stdout


def test_a_module_that_changed_and_is_tested_as_well_passes(small: Small) -> None:
    small.module.write_text(f'"""Shares."""\n{SOURCE}')

    ended = small.mutants("--changed", "--minutes", "5")

    assert ended.stdout.startswith("changed since they were measured: vlsb/shares.py\n")
    assert ended.returncode == 0, ended.stdout


def test_mutants_that_hang_end_with_the_minutes_and_are_no_difference(small: Small) -> None:
    before = small.list.read_text()
    small.module.write_text(
        f"{SOURCE}\n\ndef half(n: int) -> int:\n    while n > 1:\n        n = n - 1\n    return n\n"
    )
    small.write_test(f"{NOTHING_OF_NOTHING}\n    from vlsb.shares import half\n    assert half(9) == 1")
    began = time.monotonic()

    ended = small.mutants("--minutes", "0.15", "--write")

    assert "no time for" in ended.stdout
    assert small.list.read_text() == before
    assert time.monotonic() - began < 100


def test_tests_that_fail_without_a_mutant_are_shown(small: Small) -> None:
    small.write_test("assert share(1, 2) == 7")

    ended = small.mutants()

    assert ended.returncode == 1
    assert "fails without a mutant" in ended.stderr


def test_the_missing_group_is_named(small: Small) -> None:
    (small.folder / "libcst.py").write_text("raise ModuleNotFoundError(name='libcst')")

    ended = small.mutants()

    assert ended.returncode == 1
    assert (
        ended.stderr
        == "There is no libcst here. Use `uv run just mutants`, or `uv sync --group mutants` first.\n"
    )
