"""The command lines whose outputs are recorded, by the file that holds the record."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import NamedTuple

WIDTHS = (60, 80, 120)
"""Columns of the terminal."""
HOSTILE = {"{esc}": "\x1b[31mred", "{tex}": "\\input{x}_%&", "a;=1+1": "a;=1+1", "x|y<img>": "x|y<img>"}
"""Names that runs are copied to: how they are typed below, and what they are."""
_FORMS = ("json", "csv", "markdown", "latex")

_TABLES = {
    "report": [
        "report gpt-4o",
        "report gpt-4o --judge gpt-4o-mini",
        "report gpt-4o gpt-4o-later reminded",
        "report gaps",
        "report collected",
        "report simulated epochs part",
        "report .",
    ],
    "leaderboard": [
        "report --leaderboard .",
        "report --leaderboard gpt-4o gpt-4o-later reminded gaps part",
    ],
    "steps": ["report --steps tune-step-100 tune-step-200 tune-step-300"],
    "paper": ["report --paper gpt-4o gaps"],
    "bridge": ["report gpt-4o-later --judge-bridge gpt-4o"],
    "compare": [
        "compare gpt-4o gpt-4o-later",
        "compare gpt-4o-later gpt-4o",
        "compare gpt-4o gpt-4o",
        "compare gpt-4o gpt-4o-later reminded gaps --baseline reminded",
        "compare --all-pairs gpt-4o gpt-4o-later reminded",
        "compare gpt-4o gpt-4o-later --show 0",
        "compare gpt-4o part",
        "compare part epochs",
    ],
    "gate": [
        "gate gpt-4o-later --baseline gpt-4o --max-drop 5",
        "gate gpt-4o --baseline gpt-4o-later --max-drop 5",
        "gate reminded --baseline gpt-4o --max-drop 2 --max-refusal-drop 3 --max-refusal-rise 3",
        "gate gaps --baseline gpt-4o --max-drop 2 --min-coverage 95",
        "gate gpt-4o --baseline gpt-4o --max-drop 2",
    ],
    "plan": ["plan epochs", "plan gpt-4o --churn 5 --equivalent-within 1"],
    "agreement": ["agreement gpt-4o", "agreement gpt-4o gpt-4o-later"],
    "audit": ["audit report gpt-4o", "audit report gpt-4o-later"],
    "runs": [
        "runs list .",
        "runs list . --sort rows",
        "runs list . --judge gpt-4o --target gpt-4o-mini",
    ],
    "hostile": [
        "report 'a;=1+1' 'x|y<img>' '{esc}' '{tex}'",
        "report --leaderboard 'a;=1+1' 'x|y<img>' '{esc}' '{tex}'",
        "compare 'a;=1+1' 'x|y<img>' '{esc}' '{tex}'",
        "gate 'x|y<img>' --baseline 'a;=1+1'",
        "runs list 'a;=1+1' 'x|y<img>' '{esc}' '{tex}'",
    ],
}
"""Lines that give tables: in the terminal at every width, and in every form that they take."""
_FORMS_OF = {"runs": ("json",)}
_TEXTS = {
    "report": ["report gpt-4o gaps --methods", "report gpt-4o --bibtex"],
    "show": [
        "show gpt-4o --limit 3",
        "show gaps --failed --limit 4",
        "show gpt-4o --label unsafe --judge gpt-4o-mini --limit 2",
        "show epochs 3 --epoch 1",
    ],
    "judges": ["judges", "judges --format json"],
    "models": ["models", "models show gpt-4o"],
    "runs": ["runs repair gpt-4o"],
    "audit": ["audit sample gpt-4o --n 40"],
}
"""Lines that give text: at every width."""
_MISTAKES = [
    "rum",
    "run",
    "run --modle gpt-4o",
    "run --model gpt-4o --limit many",
    "run --model gpt-4o --limit 0",
    "run --model demo --data-root data --judge gpt4o",
    "run --model demo --data-root data --category Violence",
    "run --model gpt-4o --no-judge --judge gpt-4o",
    "run --model gpt-4o --temperature warm",
    "run --model gpt-4o --data-root nowhere",
    "run --model demo --name a --name b",
    "run gpt-4o",
    "run --model demo --name ../x",
    "run --model demo --base-url nonsense",
    "run --model demo --judge-template missing.txt",
    "judge",
    "judge nowhere",
    "judge . --judge gpt-4o",
    "judge gpt-4o --calibrate 3",
    "report",
    "report nowhere",
    "report gpt-4o --format pdf",
    "report gpt-4o --judge nobody",
    "report gpt-4o --leaderboard --paper",
    "report gpt-4o --steps",
    "compare gpt-4o",
    "compare gpt-4o nowhere",
    "compare gpt-4o gpt-4o-later --baseline nowhere",
    "compare gpt-4o gpt-4o-later --judge nobody",
    "compare gpt-4o gpt-4o-later --format pdf",
    "compare collected gpt-4o",
    "gate gpt-4o",
    "gate gpt-4o --baseline nowhere",
    "gate gpt-4o --baseline gpt-4o-later --max-drop -1",
    "plan nowhere",
    "plan gpt-4o gpt-4o-later",
    "plan --safe-rate 2 --churn 10",
    "agreement collected",
    "agreement nowhere",
    "audit report nowhere",
    "audit import gpt-4o missing.csv",
    "audit label gpt-4o",
    "show nowhere",
    "show gpt-4o 99999",
    "show gpt-4o --label bad",
    "plot gpt-4o",
    "plot gpt-4o --out figure.txt",
    "plot gpt-4o --out figure.svg --kind pie",
    "export gpt-4o",
    "export gpt-4o --to nobody --out there",
    "import missing.json",
    "runs list nowhere",
    "runs list . --format pdf",
    "runs list . --sort nonsense",
    "runs merge gpt-4o --into merged",
    "runs rm nowhere --yes",
    "runs repair nowhere",
    "models show nothing_like_it",
    "serve nothing_like_it",
    "sweep missing.yaml",
    "engine stop nothing",
    "data check nowhere",
    "selftest nobody",
    "view nowhere",
    "doctor --format pdf",
]


class Line(NamedTuple):
    """What is typed, and how wide the terminal is."""

    typed: str
    width: int

    @property
    def words(self) -> list[str]:
        """The arguments of `vlsb`."""
        return [HOSTILE.get(word, word) for word in shlex.split(self.typed)]


def lines() -> Iterator[tuple[str, list[Line]]]:
    """The lines of each record, by the record's name. Help pages are asked of the commands themselves."""
    for name in sorted({*_TABLES, *_TEXTS}):
        typed = [
            *(line for each in _TABLES.get(name, ()) for line in _in_every_form(each)),
            *(Line(each, width) for each in _TEXTS.get(name, ()) for width in WIDTHS),
        ]
        yield name, typed
    yield "mistakes", [Line(each, 80) for each in _MISTAKES]


def _in_every_form(line: str) -> Iterator[Line]:
    yield from (Line(line, width) for width in WIDTHS)
    for form in _FORMS_OF.get(line.split()[0], _FORMS):
        yield Line(f"{line} --format {form}", 80)
