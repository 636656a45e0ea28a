"""The door for formats: an installed package brings one, takes no name of ours, and fails with one line."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.support import GOLDEN
from tests.support.command import Vlsb
from vlsb.errors import ConfigError, VlsbError
from vlsb.records import Untrusted
from vlsb.reports.report import Records, Report, Table
from vlsb.reports.writers import ENTRY_POINTS, FORMATS, OURS, installed_formats, write

WRITES = "def write(report, *, width, color):\n    "
REPORT = Report(
    tables=[Table("T", ("run", "n"), [(Untrusted("a<b>"), "1")])],
    data={"run": Untrusted("a<b>")},
    records=Records(("run",), [(Untrusted("a<b>"),)]),
)


def install(site: Path, package: str, form: str, code: str) -> None:
    """What an installer leaves of a package that brings a format."""
    about = site / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[vlsb.formats]\n{form} = {package}:write\n")
    (site / f"{package}.py").write_text(code)


def written(form: str) -> str:
    return write(REPORT, form, width=80, color=False)


def test_our_formats_stand_where_those_of_packages_do() -> None:
    points = {each.name: each.value for each in metadata.entry_points(group=ENTRY_POINTS)}

    assert {name: points[name] for name in OURS} == dict(OURS)
    assert not installed_formats()


def test_a_package_brings_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "brings_titles", "titles", f"{WRITES}return report.tables[0].title\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert written("titles") == "T"


@pytest.mark.parametrize(
    ("package", "code", "told"),
    [
        ("cannot_be_imported", "import a_module_that_is_not_there\n", "ModuleNotFoundError"),
        ("has_no_function", "", "AttributeError"),
        ("is_no_function", "write = 3\n", "TypeError"),
        ("fails", f"{WRITES}return {{}}['no such key']\n", "KeyError: 'no such key'"),
        ("prints_a_stranger", f"{WRITES}return str(report.tables[0].rows[0][0])\n", "without an encoder"),
        ("gives_no_text", f"{WRITES}return None\n", "it gave NoneType and not text"),
    ],
)
def test_a_format_that_fails_is_named_in_one_line(
    package: str, code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, package, "odd", code)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(VlsbError, match=f"^The format odd of the package {package} failed") as failed:
        written("odd")

    assert failed.value.detail is not None
    assert told in failed.value.detail.expose()


@pytest.mark.parametrize("form", ["table", "mine"])
def test_a_name_that_is_taken_is_no_format_of_another_package(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours go on as they are, and whoever asks for another format is told."""
    install(tmp_path, "first_package", "mine", f"{WRITES}return 'first'\n")
    install(tmp_path, "other_package", form, f"{WRITES}return 'other'\n")
    monkeypatch.syspath_prepend(tmp_path)
    has = "vlsb" if form == "table" else "first_package"

    assert "VLSB" not in written("table")
    assert "other" not in written("table")
    with pytest.raises(
        ConfigError, match=f"^The package other_package brings a format {form}, which {has} has already"
    ):
        written("mine")


def test_commands_take_the_format_of_a_package_and_list_it_where_one_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minimal_env: dict[str, str]
) -> None:
    code = f"{WRITES}return f'{{report.tables[0].title}}\\n'\n"
    install(tmp_path / "site", "brings_titles", "titles", code)
    monkeypatch.syspath_prepend(tmp_path / "site")
    vlsb = Vlsb(GOLDEN / "printed_runs", minimal_env)

    rates = vlsb("report", "gpt-4o", "--format", "titles")
    unknown = vlsb("report", "gpt-4o", "--format", "pdf")
    prose = vlsb("report", "gpt-4o", "--methods", "--format", "titles")

    assert (rates.code, rates.out) == (0, "VLSBench safety rates\n")
    assert unknown.code == 2
    assert unknown.error == (
        f"Error: --format pdf: not one of {', '.join(FORMATS)}, parquet, official, titles."
    )
    assert prose.code == 2


def test_help_and_our_own_formats_look_at_no_installed_package() -> None:
    """A look at all of them takes a tenth of a second where many are installed."""
    code = """
import sys
from importlib import metadata
def refuse(**asked): raise AssertionError(asked)
metadata.entry_points = refuse
from vlsb.cli import run_cli
raise SystemExit(run_cli(sys.argv[1:]))
"""
    for words in (
        ["--help"],
        ["compare", "--help"],
        ["report", "gpt-4o", "--leaderboard", "--format", "csv"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=GOLDEN / "printed_runs",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
