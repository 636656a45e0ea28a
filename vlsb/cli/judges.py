"""`vlsb judges`: which judges have a name here, what each sees and what it cannot tell."""

from __future__ import annotations

from vlsb import strict_json
from vlsb.cli import options as opt
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, VlsbError
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
    "A model plays the official judge: --judge gpt-4o, --judge qwen3-vl, --judge org/name. Another kind on a",
    "model of yours: --judge hardened:qwen3-vl. Guards and phrases enter no rate; their table is their own.",
    "The majority of three judges or more that have judged a run: vlsb judge RUN --judge panel:A,B,C.",
)


def judges_command(judges_dir: opt.JudgesDir = None, judges_format: opt.JudgesFormat = "table") -> int:
    """List the judges that have a name: what each sees, gives and cannot tell."""
    screen = Screen()
    try:
        if judges_format not in ("table", "json"):
            raise ConfigError(f"--format {judges_format}: not one of table, json.")
        kinds = load_judges(judges_dir)
        if judges_format == "json":
            screen.result(strict_json.dumps([_row(kind) for kind in kinds.values()], indent=2))
        else:
            screen.result("\n".join((*(_paragraph(kind) for kind in kinds.values()), *_END)))
    except VlsbError as error:
        screen.error(error)
        return error.exit_code
    return 0


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


def _paragraph(kind: JudgeKind) -> str:
    lines = (
        kind.name,
        f"  {kind.about}",
        f"  gives        {_GIVES[kind.answers]}",
        f"  sees         {', '.join(kind.sees)}",
        f"  cannot tell  {kind.cannot_tell}",
        f"  model        {kind.model or 'none'}",
        f"  source       {kind.source}, read {kind.read_on}",
        "",
    )
    return for_terminal(Untrusted("\n".join(lines)), lines=True)
