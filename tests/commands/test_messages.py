"""No text names an option or a command that does not exist: messages, README, docs against the real ones."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from typer.exceptions import TyperException
from uv import find_uv_bin

from tests.support.source import trees
from tests.test_docs import COMMANDS, PAGES, PROJECT, ROOT, page_flags, parse
from vlsb.engines.install import install_environment

HOLE = "PLACEHOLDER"
"""What stands where a text has a value."""

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w-])")
_QUOTED = re.compile(r"`(vlsb(?: [^`]*)?)`")
# "... with: vlsb engine install FAMILY", to the end of the text.
_AFTER_COLON = re.compile(r"(?:with|first|again|later|yourself): (vlsb [^`\n.]+)")

OPTIONS = {flag for command in (ROOT, *COMMANDS.values()) for each in command.params for flag in each.opts}
OPTIONS |= {flag for command in COMMANDS.values() for flag in page_flags(command)}
# Of other programs, by the command whose help has them; vLLM's are in engine_options.
OTHERS = {
    "uv add": {"--project"},
    "uv pip install": {"--color", "--directory", "--editable"}
    | {"--only-binary", "--python", "--torch-backend"},
    "uv venv": {"--no-project", "--python"},
    "uv sync": {"--extra", "--inexact", "--project"},
    "uv tool install": {"--editable", "--force", "--python", "--with", "--with-editable"},
    "uv tool run": {"--from"},
    # Programs that are not on every machine (nvidia-smi, docker, just, tar, ray, squeue, inspect, pipx), and
    # spellings in explanations.
    "": {
        "--a",
        "--address",
        "--array",
        "--dereference",
        "--head",
        "--list",
        "--log-dir",
        "--me",
        "--noheader",
        "--no-x",
        "--query-gpu",
        "--resources",
        "--shm-size",
        "--suffix",
    },
}


@cache
def texts() -> list[tuple[str, str]]:
    """Every text of the program's source with its place; what is put into one is a placeholder."""
    return [text for path, tree in trees() for text in texts_of(path, tree)]


def texts_of(path: Path, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The texts of one file."""
    nodes, name = list(ast.walk(tree)), path.relative_to(PROJECT)
    within = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield f"{name}:{node.lineno}", "".join(_part(each) for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within:
            yield f"{name}:{node.lineno}", node.value


def _part(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else HOLE


def engine_options() -> set[str]:
    """The options of the engines that we start, as their own help lists them."""
    files = (PROJECT / "tests" / "golden" / "engine_options").glob("vllm-*.txt")
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    return {f"--{line.split()[0]}" for line in lines if line and not line.startswith("#")}


KNOWN = OPTIONS | engine_options() | set().union(*OTHERS.values())
WRITTEN = [(page.name, page.read_text("utf-8")) for page in PAGES if page.name != "CHANGELOG.md"]


def unknown_options(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(place, each) for place, text in found for each in _OPTION.findall(text) if each not in KNOWN]


def test_no_message_names_an_option_that_does_not_exist() -> None:
    assert unknown_options(texts()) == []
    assert unknown_options([("a message", "Pass --modle NAME.")]) == [("a message", "--modle")]


def test_readme_and_docs_name_no_option_that_does_not_exist() -> None:
    assert unknown_options(WRITTEN) == []


@pytest.mark.parametrize("program", [name for name in OTHERS if name])
def test_the_options_of_other_programs_are_theirs(program: str) -> None:
    _, *words = program.split()
    command = [find_uv_bin(), *words, "--help"]
    environment = install_environment(os.environ)
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert {each for each in OTHERS[program] if each not in said.stdout} == set()


def test_no_entry_of_the_other_programs_is_left_over() -> None:
    named = {option for _, text in (*texts(), *WRITTEN) for option in re.findall(r"--[a-z][a-z-]*", text)}

    assert set().union(*OTHERS.values()) - named == set()


def commands() -> list[tuple[str, str]]:
    """Every command of ours that a text tells somebody to type."""
    return [
        (place, found)
        for place, text in texts()
        for pattern in (_QUOTED, _AFTER_COLON)
        for found in pattern.findall(text)
    ]


def complaint(line: str) -> str:
    """Why a command cannot be typed like this; empty if it can."""
    try:
        parse(line.replace("...", HOLE).rstrip("."), is_in_running_text=True)
    except (AssertionError, TyperException) as error:
        return str(error)
    return ""


def test_every_command_that_a_text_advises_can_be_typed() -> None:
    assert [(place, line, said) for place, line in commands() if (said := complaint(line))] == []


@pytest.mark.parametrize("broken", ["see `vlsb engine instal llava`.", "Go on with: vlsb run --resum"])
def test_a_command_that_does_not_exist_would_be_found(broken: str) -> None:
    (line,) = [found for pattern in (_QUOTED, _AFTER_COLON) for found in pattern.findall(broken)]

    assert complaint(line)
