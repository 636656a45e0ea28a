"""Packages of others as an installer leaves them: code, and what says which entry points it has."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def leave_package(
    folder: Path, name: str, points: Mapping[str, Mapping[str, str]], *, code: str = "", summary: str = ""
) -> None:
    """Leave a package of one module in a folder of `sys.path`; `points` are its entry points by group."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: {summary}\n"
    )
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in each.items()) for group, each in points.items()
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    if code:
        (folder / f"{name}.py").write_text(code)


def leave_example(folder: Path, example: str) -> None:
    """Leave a package of `examples/` in a folder that is on `sys.path`."""
    project = tomllib.loads((EXAMPLES / example / "pyproject.toml").read_text())["project"]
    name = project["name"].replace("-", "_")
    leave_package(folder, name, project["entry-points"], summary=project["description"])
    shutil.copytree(EXAMPLES / example / name, folder / name)
