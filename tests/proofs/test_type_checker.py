"""The type checker keeps text from strangers away from everybody but an encoder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import PROJECT

ATTEMPTS = """
from pathlib import Path

from rich.console import Console
from rich.text import Text

from vlsb.errors import ConfigError
from vlsb.records import Untrusted
from vlsb.reports.encode import for_csv, for_json, for_markdown, for_terminal
from vlsb.reports.report import Sentence, Table, text_of


def bypass(stranger: Untrusted, place: Path, console: Console) -> None:
    Text(stranger)  # refused
    Text("said: ").append(stranger)  # refused
    "said: " + stranger  # refused
    stranger + " was said"  # refused
    " ".join([stranger])  # refused
    shown: str = stranger  # refused
    place.write_text(stranger)  # refused
    with place.open("w") as file:
        file.write(stranger)  # refused
    place / stranger  # refused
    stranger.encode()  # refused
    stranger[:10]  # refused
    for_terminal("a string of ours")  # refused
    for_csv("a string of ours")  # refused
    for_markdown("a string of ours")  # refused
    for_json("a string of ours")  # refused
    ConfigError(stranger)  # refused
    ConfigError("wrong", detail="a string of ours")  # refused
    sentence = Sentence("said: ", stranger)
    Text(sentence)  # refused
    "said: " + sentence  # refused
    sentence + " was said"  # refused
    " ".join([sentence])  # refused
    told: str = sentence  # refused
    place.write_text(sentence)  # refused
    for_terminal(sentence)  # refused
    Table("a title", [], [[{"said": stranger}]])  # refused


def correct(stranger: Untrusted, place: Path, console: Console) -> Untrusted:
    console.print(Text(for_terminal(stranger)))
    place.write_text(for_csv(stranger) + for_markdown(stranger) + for_json(stranger))
    ConfigError("wrong", detail=stranger)
    sentence = Sentence.join(", ", [stranger, "ours", Sentence("said: ", stranger)])
    place.write_text(sentence.text(for_csv) + text_of(stranger, for_markdown))
    Table(sentence, ["ours", stranger], [["ours", sentence]])
    return Untrusted("joined: " + for_terminal(stranger))
"""


def test_the_type_checker_refuses_every_way_around_an_encoder(tmp_path: Path) -> None:
    """And only those: the correct uses in the same file pass."""
    attempts = tmp_path / "attempts.py"
    attempts.write_text(ATTEMPTS)
    refused = {
        number for number, line in enumerate(ATTEMPTS.split("\n"), start=1) if line.endswith("# refused")
    }

    command = ["-m", "mypy", "--config-file", str(PROJECT / "pyproject.toml")]
    command += ["--cache-dir", os.devnull, "--no-error-summary", "--no-color-output", str(attempts)]
    found = subprocess.run(
        [sys.executable, *command], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )

    lines = [line.split(":", 3) for line in found.stdout.splitlines() if ": error:" in line]
    assert {int(number) for _, number, *_ in lines} == refused, found.stdout + found.stderr
    assert {Path(path).name for path, *_ in lines} == {"attempts.py"}, found.stdout
