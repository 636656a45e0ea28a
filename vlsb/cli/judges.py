"""`vlsb judges`: which judges have a name here, what each sees and what it cannot tell."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

from vlsb import strict_json
from vlsb.cli.command import LIST, command
from vlsb.cli.options import run_option
from vlsb.cli.screen import list_width
from vlsb.evaluation.options import Option
from vlsb.judging.kinds import Answers, JudgeKind, load_judges
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal

SCHEMA = 1
"""Of each object of the JSON list."""

_GIVES = {
    Answers.LABELS: "the three labels",
    Answers.GUARD: "a guard's rating, apart",
    Answers.PHRASES: "refusal or not, apart",
}
_END = (
    "A model plays the official judge: --judge gpt-4o, --judge qwen3-vl, --judge org/name. Another kind on a "
    "model of yours: --judge hardened:qwen3-vl. Guards and phrases enter no rate; their table is their own.",
    "The majority of three judges or more that have judged a run: vlsb judge RUN --judge panel:A,B,C.",
)
_HEAD = 15
"""The columns before the words of a paragraph's line."""


@command(form=Option("How to write the list.", choices=LIST))
def judges_command(format_: str, judges_dir: Annotated[Path | None, run_option("judges_dir")] = None) -> str:
    """List the judges that have a name: what each sees, gives and cannot tell."""
    kinds = load_judges(judges_dir)
    if format_ == "json":
        return strict_json.dumps([_row(kind) for kind in kinds.values()], indent=2)
    width = list_width()
    end = (textwrap.fill(line, width) for line in _END)
    return "\n".join((*(_paragraph(kind, width) for kind in kinds.values()), *end))


def _row(kind: JudgeKind) -> dict[str, object]:
    return {
        "schema_version": SCHEMA,
        "name": kind.name,
        "gives": kind.answers.value,
        "model": kind.model or None,
        "sees": list(kind.sees),
        "about": kind.about,
        "cannot_tell": kind.cannot_tell,
        "source": kind.source,
        "read_on": kind.read_on,
    }


def _paragraph(kind: JudgeKind, width: int) -> str:
    facts = {
        "gives": _GIVES[kind.answers],
        "sees": ", ".join(kind.sees),
        "cannot tell": kind.cannot_tell,
        "model": kind.model or "none",
        "source": f"{kind.source}, read {kind.read_on}",
    }
    lines = [kind.name, _folded("  ", kind.about, width, later="  ")]
    lines += [_folded(f"  {name}".ljust(_HEAD), words, width) for name, words in facts.items()]
    return for_terminal(Untrusted("\n".join((*lines, ""))), lines=True)


def _folded(head: str, words: str, width: int, later: str = " " * _HEAD) -> str:
    """Fold the words after a head and under each other; addresses and names stay whole."""
    return textwrap.fill(
        words,
        width,
        initial_indent=head,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
