"""Help pages: a short one with what people use, one with everything, and no word of the parser's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.main

from tests.support.command import Vlsb
from vlsb.cli.app import ENTRIES, app
from vlsb.cli.commands import GUIDES
from vlsb.evaluation.options import as_flag

ROOT: Any = typer.main.get_command(app)

Page = Callable[..., str]


def commands_and_groups(command: Any = ROOT, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of everything that has a help page of its own."""
    yield words
    for name, child in getattr(command, "commands", {}).items():
        yield from commands_and_groups(child, (*words, name))


def options(command: str) -> list[Any]:
    """What a command takes as an option."""
    return [each for each in ROOT.commands[command].params if each.param_type_name == "option"]


def boxes(page: str) -> dict[str, list[str]]:
    """The boxes of a help page: the options of each, by its title, in their order."""
    found: dict[str, list[str]] = {}
    for line in page.splitlines():
        if title := re.match(r"╭─ (.+?) ─*╮", line):
            inside = found.setdefault(title[1], [])
        elif option := re.match(r"│ {1,6}(?:\* +)?(--[a-z-]+)", line):
            inside.append(option[1])
    return found


@pytest.fixture
def page(vlsb: Vlsb) -> Page:
    """What a command prints in a terminal of that width, and nothing of it on stderr."""

    def printed(*words: str, width: int = 80) -> str:
        done = vlsb(*words, env={"COLUMNS": str(width)})
        assert (done.code, done.err) == (0, "")
        return done.out

    return printed


@pytest.mark.parametrize("width", [72, 80, 120])
@pytest.mark.parametrize("command", GUIDES)
def test_help_shows_examples_and_common_options_and_ends_with_how_to_see_the_others(
    page: Page, command: str, width: int
) -> None:
    shown = page(command, "--help", width=width)

    guide = GUIDES[command]
    assert boxes(shown) == {"Common": [as_flag(name) for name in guide.common]}
    examples = " ".join(shown.split("Examples:")[1].split("╭")[0].split())
    assert examples == " ".join(guide.examples)
    assert len(guide.examples) == 3
    others = len(options(command)) - len(guide.common)
    assert others > 0
    last = shown.rstrip().splitlines()[-1].strip()
    assert last == f"vlsb {command} --help-all shows the other {others} options."


@pytest.mark.parametrize("command", GUIDES)
def test_the_short_page_is_read_at_one_glance(page: Page, command: str) -> None:
    assert len(page(command, "--help").splitlines()) <= 40


@pytest.mark.parametrize("command", GUIDES)
def test_help_all_shows_the_common_options_first_and_every_other_one_once(page: Page, command: str) -> None:
    shown = boxes(page(command, "--help-all"))

    assert next(iter(shown.items())) == ("Common", [as_flag(name) for name in GUIDES[command].common])
    assert sorted(each for box in shown.values() for each in box) == sorted(
        each.opts[0] for each in options(command)
    )
    if command in ("run", "judge"):
        assert list(shown)[-1] == "Connections and patience"


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in GUIDES])
def test_a_help_page_that_shows_all_is_no_longer_than_a_screen_or_two(page: Page, name: str) -> None:
    shown = page(name, "--help")

    assert len(shown.splitlines()) <= 45
    assert "--help-all" not in shown


@pytest.mark.parametrize("words", list(commands_and_groups()), ids=" ".join)
def test_no_help_page_shows_a_value_behind_a_switch_or_a_type_of_python(
    page: Page, words: tuple[str, ...]
) -> None:
    """`<bool>` stood behind every switch, as if it took a value."""
    for flag in ("--help", "--help-all") if " ".join(words) in GUIDES else ("--help",):
        shown = page(*words, flag, width=100)

        assert re.findall(r"<(?:bool|int|str|path|list)\b|x[<>]=", shown) == []
        usage = next(line for line in shown.splitlines() if "Usage: " in line)
        assert re.findall(r"[{}]|\.\.\.\]?\.\.\.", usage) == []


def test_a_number_outside_its_range_is_refused_with_its_bound(vlsb: Vlsb) -> None:
    """The pages do not show ranges."""
    done = vlsb("run", "--epochs", "0")

    assert done.code == 2
    assert "'--epochs': it must be at least 1. See `vlsb run --help`." in done.error
