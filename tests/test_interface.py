"""What others build on, as one stored document: a difference is a decision, never an accident.

VLSB_WRITE_GOLDEN=1 writes tests/golden/interface.json anew; every changed line of it belongs into the
changelog. Stored keys are never renamed, and a renamed option stays as a hidden alias.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import vlsb
from tests.support.command import Desk
from vlsb import errors
from vlsb.analysis.gate import GateDecision
from vlsb.cli.app import app
from vlsb.judging.prompts import official_template
from vlsb.simulator import SimulatorThread, error

GOLDEN = Path(__file__).parent / "golden" / "interface.json"
RUNS = Path(__file__).parent / "golden" / "runs_0.1.0"


def _options(command: Any) -> dict[str, Any]:
    found = {}
    for parameter in command.params:
        names = sorted([*parameter.opts, *parameter.secondary_opts])
        default = parameter.default() if callable(parameter.default) else parameter.default
        found[" ".join(names)] = {
            "value": "flag" if getattr(parameter, "is_flag", False) else parameter.metavar,
            "default": default if isinstance(default, bool | int | float | None) else str(default),
            "repeatable": bool(parameter.multiple),
            "variable": parameter.envvar,
            "hidden": bool(getattr(parameter, "hidden", False)),
        }
    return dict(sorted(found.items()))


def _commands(command: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    inner = getattr(command, "commands", None)
    if not inner:
        yield path, _options(command)
        return
    for name in inner:
        yield from _commands(inner[name], f"{path} {name}")


def _exit_codes() -> dict[str, int]:
    found = [each for each in vars(errors).values() if isinstance(each, type)]
    return {each.__name__: each.exit_code for each in found if issubclass(each, errors.VlsbError)}


def _key_paths(value: Any, path: str = "") -> Iterator[str]:
    """The paths to every leaf. Where names are data (models, categories), one star stands for them."""
    if isinstance(value, dict):
        are_data = path.endswith(("by_category", "by_sub_category", "by_source", "_models", ".pictures"))
        for name, inner in value.items():
            yield from _key_paths(inner, f"{path}.{'*' if are_data else name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _key_paths(inner, f"{path}[]")
    else:
        yield path.lstrip(".")


def _fields(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted({each for row in rows for each in _key_paths(row)})


def _run_files(directory: Path) -> dict[str, list[str]]:
    manifest = json.loads((directory / "run.json").read_text())
    journals = sorted(path for path in directory.rglob("*.jsonl"))
    found = {str(path.relative_to(directory)): _fields(path) for path in journals}
    return {"run.json": sorted(set(_key_paths(manifest))), **found}


def _event_kinds(directory: Path) -> list[str]:
    lines = (directory / "events.jsonl").read_text().splitlines()
    return sorted({json.loads(line)["kind"] for line in lines})


def _signatures() -> dict[str, str]:
    found = {}
    for name in vlsb.__all__:
        value = getattr(vlsb, name)
        if callable(value) and not isinstance(value, type):
            found[name] = str(inspect.signature(value))
        elif hasattr(value, "__dataclass_fields__"):
            found[name] = ", ".join(value.__dataclass_fields__)
    return found


@pytest.fixture
def interface(tmp_path: Path) -> dict[str, Any]:
    """The whole interface of this version."""
    desk = Desk(tmp_path)
    run = desk.vlsb("run", "--model", "demo", "--limit", "2", "--name", "r", "--display", "none")
    assert run.code == 0, run.err
    judged = RUNS / "judged"
    table = desk.vlsb("report", judged, "--format", "csv")
    first = json.loads((desk.run_dir / "responses.jsonl").read_text().splitlines()[0])
    with SimulatorThread(lambda request: error(400, code="bad_image")) as simulator:
        desk.run(simulator, "--name", "failed", "--limit", "1")
    return {
        "commands": dict(_commands(typer.main.get_command(app), "vlsb")),
        "exit_codes": _exit_codes(),
        "decisions": {each.name: int(each) for each in GateDecision},
        "json": sorted(set(_key_paths(desk.report(judged)))),
        "csv": next(csv.reader(io.StringIO(table.out))),
        "run": _run_files(desk.run_dir),
        "failures.jsonl": _fields(desk.outputs / "failed" / "failures.jsonl"),
        "events": _event_kinds(desk.outputs / "failed"),
        "python": _signatures(),
        "identity": {
            "judge_template": official_template().sha256,
            "mini_data": desk.report()[0]["data_digest"],
            "first_demo_request": first["request_sha256"],
            "first_demo_image": first["image_sha256"],
        },
    }


def test_the_interface_is_the_stored_one(interface: dict[str, Any]) -> None:
    found = json.dumps(interface, indent=1, sort_keys=True) + "\n"
    if os.environ.get("VLSB_WRITE_GOLDEN"):
        GOLDEN.write_text(found)

    assert json.loads(found) == json.loads(GOLDEN.read_text())
