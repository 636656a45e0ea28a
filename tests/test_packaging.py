"""What a user installs: the wheel's contents, its version, and nothing of the machine it was written on."""

from __future__ import annotations

import configparser
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import vlsb
from vlsb.judging.prompts import OFFICIAL_TEMPLATE_SHA256

PROJECT = Path(vlsb.__file__).parents[1]

# Absolute paths of a machine, and package hosts: neither belongs into a file that others check out.
MACHINE = re.compile(
    r"(?<![\w.~$}*-])/(?:work|root|home|Users|opt|mnt|workspace)/"
    r"|(?:index-url|extra-index-url|find-links)\s*="
    r"|https?://[\w.-]*(?:pypi|pythonhosted|artifactory|nexus|devpi|mirror)[\w.-]*",
)


def git(*arguments: str) -> str:
    """What git says about the checkout; skips where there is none, as in a source archive."""
    if shutil.which("git") is None or not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    # The checkout may belong to somebody else, as in a container.
    command = ["git", "-c", f"safe.directory={PROJECT}", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout


def build_command() -> list[str]:
    """uv, which every command of the README runs under, or else the `build` package."""
    uv = os.environ.get("UV") or shutil.which("uv")
    return [uv, "build"] if uv else [sys.executable, "-m", "build"]


def test_the_wheel_holds_everything_that_the_program_reads(tmp_path: Path) -> None:
    built = subprocess.run(
        [*build_command(), "--wheel", str(PROJECT), *("--out-dir", str(tmp_path))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    about = f"vlsb-{vlsb.__version__}.dist-info"
    scripts = configparser.ConfigParser()
    scripts.read_string(held[f"{about}/entry_points.txt"].decode())

    package = PROJECT / "vlsb"
    sources = {
        f"vlsb/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wheel.name == f"vlsb-{vlsb.__version__}-py3-none-any.whl"
    configs = {f"vlsb/servers/{path.name}": path.read_bytes() for path in (PROJECT / "servers").iterdir()}
    assert {name: held.get(name) for name in sources | configs} == sources | configs
    assert {"vlsb/py.typed", "vlsb/data/mini/data.json", "vlsb/data/mini/imgs/0.png"} <= set(held)
    template = held["vlsb/judging/judges/official_template.txt"]
    assert hashlib.sha256(template).hexdigest() == OFFICIAL_TEMPLATE_SHA256
    assert held[f"{about}/licenses/LICENSE"] == (PROJECT / "LICENSE").read_bytes()
    assert dict(scripts["console_scripts"]) == {"vlsb": "vlsb.cli:main"}
    assert {name.split("/")[0] for name in held} == {"vlsb", about}


def test_the_version_is_the_same_wherever_it_is_asked_for(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "vlsb", "--version"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (said.returncode, said.stdout, said.stderr) == (0, f"vlsb {vlsb.__version__}\n", "")
    assert importlib.metadata.version("vlsb") == vlsb.__version__


def test_the_changelog_knows_the_version() -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text("utf-8")

    assert f"## [{vlsb.__version__}]" in changelog


def test_no_lock_file_is_tracked() -> None:
    """It would name the package host of whoever wrote it last."""
    assert "uv.lock" not in git("ls-files").splitlines()


def test_no_tracked_file_names_a_machines_path_or_package_host() -> None:
    found = []
    for name in git("ls-files", "-z").split("\0"):
        path = PROJECT / name
        if not path.is_file() or path == Path(__file__):
            continue
        text = path.read_bytes().decode("utf-8", "ignore")
        found += [f"{name}: {match[0]}" for match in MACHINE.finditer(text)]

    assert found == []
