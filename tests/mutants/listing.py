"""`modules.toml`: the modules that are mutated, their tests, and the mutants that no test notices."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "explanation" / "reliability.md"
LIST = Path(__file__).with_name("modules.toml")
TABLE_HEAD = "|module|faults|noticed, %|"
HEAD = """\
# What `just mutants` mutates, the tests that judge it, and every mutant that they do not notice.
# `just mutants MODULE --write` writes it again and keeps the reasons; those of new survivors are left to you.
"""


class Survivor(NamedTuple):
    """A mutant that no test notices; `why` that is right."""

    function: str
    original: str
    mutated: str
    why: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by, wherever its function stands."""
        return self[:3]


class Module(NamedTuple):
    """A module, and what was found when it was mutated last."""

    path: str
    tests: list[str]
    mutants: int
    survivors: list[Survivor]

    @property
    def score(self) -> int:
        """How many of a hundred mutants its tests notice, rounded down."""
        return (self.mutants - len(self.survivors)) * 100 // max(self.mutants, 1)


def read() -> dict[str, Module]:
    """Return the modules by their paths."""
    listed = tomllib.loads(LIST.read_text("utf-8"))
    return {
        path: Module(
            path, facts["tests"], facts["mutants"], [Survivor(**each) for each in facts.get("survivors", [])]
        )
        for path, facts in listed.items()
    }


def write(modules: dict[str, Module]) -> None:
    """Store the list."""
    lines = [HEAD]
    for module in modules.values():
        lines += [f'["{module.path}"]', f"tests = {json.dumps(module.tests)}", f"mutants = {module.mutants}"]
        if module.survivors:
            lines.append("survivors = [")
            for each in module.survivors:
                fields = ", ".join(f"{name} = {_quoted(value)}" for name, value in each._asdict().items())
                lines.append(f"  {{ {fields} }},")
            lines.append("]")
        lines.append("")
    LIST.write_text("\n".join(lines), "utf-8")


def _quoted(text: str) -> str:
    return f"'{text}'" if "'" not in text and text.isprintable() else json.dumps(text, ensure_ascii=False)


def table(modules: dict[str, Module]) -> str:
    """Return the table of the page about reliability."""
    rows = [
        f"|`{path.removeprefix('vlsb/').removesuffix('.py')}`|{module.mutants}|{module.score}|"
        for path, module in modules.items()
    ]
    return "\n".join([TABLE_HEAD, "|---|--:|--:|", *rows]) + "\n"
