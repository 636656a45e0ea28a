"""`modules.toml`: the modules that are mutated, their tests, and the mutants that no test notices."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Collection
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
    """A module, and what was found when it was mutated last; `measured` is the `digest` that it had then."""

    path: str
    tests: list[str]
    mutants: int
    survivors: list[Survivor]
    measured: str = ""

    @property
    def score(self) -> int:
        """How many of a hundred mutants its tests notice, rounded down."""
        return (self.mutants - len(self.survivors)) * 100 // max(self.mutants, 1)

    def digest(self) -> str:
        """Hash the module and the tests that judge it, as they are now, to sixteen hex digits.

        It says what changed since the last measurement, in a clone of one commit too.
        """
        found = hashlib.sha256()
        for each in (self.path, *self.tests):
            place = PROJECT / each
            for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
                found.update(file.read_bytes())
        return found.hexdigest()[:16]

    def differences(self, found: Module, untried: Collection[tuple[str, str, str]] = ()) -> list[str]:
        """List what is not as this says: each is a reason to fail, but for mutants there was no time for."""
        ours, theirs = (Counter(each.key for each in module.survivors) for module in (self, found))
        problems = [
            f"{verb}: {function}\n    - {original}\n    + {mutated}"
            for verb, keys in (("survives", theirs - ours), ("is gone but listed", ours - theirs))
            for function, original, mutated in keys
            if (function, original, mutated) not in untried
        ]
        if found.mutants != self.mutants:
            problems.append(f"{found.mutants} mutants where the list says {self.mutants}")
        return problems


def read() -> dict[str, Module]:
    """Return the modules by their paths."""
    listed = tomllib.loads(LIST.read_text("utf-8"))
    return {
        path: Module(
            path,
            facts["tests"],
            facts["mutants"],
            [Survivor(**each) for each in facts.get("survivors", [])],
            facts.get("measured", ""),
        )
        for path, facts in listed.items()
    }


def write(modules: dict[str, Module]) -> None:
    """Store the list."""
    lines = [HEAD]
    for module in modules.values():
        lines += [f'["{module.path}"]', f"tests = {json.dumps(module.tests)}", f"mutants = {module.mutants}"]
        lines.append(f'measured = "{module.measured}"')
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
