"""`vlsb export`: a run as another program's log, or as a data set to publish. Nothing is uploaded."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from vlsb._version import __version__
from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError
from vlsb.evaluation.options import Option
from vlsb.extras import require_extra
from vlsb.records import Outcome
from vlsb.reports.encode import json_document
from vlsb.reports.exports import TABLE, ExportedRun, Redaction, hub_card, hub_columns
from vlsb.reports.logs import log_header, log_samples, summary_of
from vlsb.reports.report import counted
from vlsb.reports.stored import StoredRun
from vlsb.store.export import require_new, write_archive, write_folder, write_text
from vlsb.store.manifest import JudgeEntry, require_run, require_vlsbench
from vlsb.store.summaries import summarize_state

# What leaves this machine holds no response unless that is asked for.
_USUAL = {"inspect": Redaction.NONE, "hub": Redaction.RESPONSES}


@command()
def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run to export.")],
    to: Annotated[str, Option("For whom.", choices=("inspect", "hub"), variable="VLSB_EXPORT_TO")],
    out: Annotated[
        Path,
        Option(
            "What to write, which must not exist: FILE.eval or FILE.json for inspect, a folder for the Hub.",
            metavar="PATH",
            variable="VLSB_EXPORT_OUT",
        ),
    ],
    redact: Annotated[
        str | None,
        Option(
            "What to leave out of what models wrote: nothing, all but the beginnings, or everything. "
            "(default: none for inspect, everything for the Hugging Face Hub)",
            choices=tuple(Redaction),
            variable="VLSB_EXPORT_REDACT",
        ),
    ] = None,
    data_root: opt.ShownDataRoot = None,
) -> int:
    """Write a run as a log of inspect, or as a data set for the Hugging Face Hub. Nothing is uploaded."""
    screen = Screen()
    redaction = _USUAL[to] if redact is None else Redaction(redact)
    require_run(run)
    require_new(out)
    exported, people = _exported(run, data_root, redaction, screen, has_instructions=to == "inspect")
    if to == "inspect":
        if out.suffix == ".eval":
            write_archive(out, _members(exported))
        elif out.suffix == ".json":
            write_text(out, json_document(log_header(exported) | {"samples": list(log_samples(exported))}))
        else:
            raise ConfigError(f"--out {out}: a log of inspect ends in .eval or .json.")
    else:
        require_extra("parquet", "A table for the Hugging Face Hub")
        write_folder(out, hub_card(exported), TABLE, hub_columns(exported))
    asked = [each for each in exported.answers[0] if each.outcome is not Outcome.NOT_ATTEMPTED]
    responses = counted(sum(each.response is not None for each in asked), "response")
    judges = counted(sum(each.judge is not None for each in exported.summaries), "judge")
    screen.answer(f"{out}: {counted(len(asked), 'sample')}, {responses}, {judges}")
    for line in _left_out(exported, to, people):
        screen.notice(line)
    if to == "hub":
        screen.notice(f"Nothing was uploaded. Read {out / 'README.md'} and choose a licence first.")
    else:
        screen.notice(f"Look at it with: inspect view --log-dir {shlex.quote(str(out.parent))}")
    return 0


def _exported(
    run: Path, data_root: Path | None, redaction: Redaction, screen: Screen, *, has_instructions: bool
) -> tuple[ExportedRun, int]:
    """Return the run with its judges, and how many people's labels stay here."""
    stored = StoredRun.read(run, data_root, needs_data=has_instructions)
    state = stored.state
    if not has_instructions:
        require_vlsbench(run, state.manifest, "the card for the Hugging Face Hub")
    entries = [each for each in state.manifest.judges if not each.is_human]
    if has_instructions and stored.dataset is None:
        screen.notice(f"{stored.lack} Instructions are missing: pass --data-root.")
    judges: list[JudgeEntry | None] = [*entries] or [None]
    exported = ExportedRun(
        summaries=[summarize_state(state, run, None if each is None else each.file) for each in judges],
        answers=[stored.answers(each) for each in judges],
        created_at=state.manifest.created_at,
        version=__version__,
        redaction=redaction,
        dataset=state.manifest.dataset,
    )
    return exported, len(state.manifest.judges) - len(entries)


def _members(exported: ExportedRun) -> Iterator[tuple[str, str]]:
    header = log_header(exported)
    start = {name: header[name] for name in ("version", "eval", "plan")}
    yield "_journal/start.json", json_document(start)
    summaries = []
    for sample in log_samples(exported):
        summaries.append(summary_of(sample))
        yield f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json_document(sample)
    yield "summaries.json", json_document(summaries)
    yield "header.json", json_document(header)


def _left_out(exported: ExportedRun, to: str, people: int) -> Iterator[str]:
    instructions = ", instructions" if to == "hub" else ""
    yield f"Left out: images{instructions}, findings of guards, what failed requests came back with."
    if exported.redaction is Redaction.TAILS:
        yield "Left out: all but the beginnings of responses, reasoning and explanations (--redact tails)."
    if exported.redaction is Redaction.RESPONSES:
        yield "Left out: responses, reasoning and explanations (--redact none keeps them)."
    waiting = sum(each.outcome is Outcome.NOT_ATTEMPTED for each in exported.answers[0])
    if waiting:
        yield f"Left out: {counted(waiting, 'sample')} that nobody asked about yet."
    if people:
        yield f"Left out: the labels of {counted(people, 'annotator')}."
