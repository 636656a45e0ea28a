"""`vlsb import` and `vlsb export`: what another program logged as a run, and a run as another program's log.

Also as a data set to publish; nothing is uploaded.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from vlsb._version import __version__
from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.options import run_option
from vlsb.cli.screen import Screen
from vlsb.config import DEFAULT_OUTPUT_DIR
from vlsb.data import fetch_dataset, load_dataset
from vlsb.errors import ConfigError, ImageError
from vlsb.evaluation.options import Option
from vlsb.extras import require_extra
from vlsb.models.catalog import name_of_place, safe_name
from vlsb.records import ImageFile, Outcome, Sample, Untrusted
from vlsb.reports.encode import for_terminal, json_document
from vlsb.reports.exports import (
    TABLE,
    ExportedRun,
    Redaction,
    hub_card,
    hub_columns,
    log_header,
    log_samples,
    summary_of,
)
from vlsb.reports.report import counted
from vlsb.reports.stored import StoredRun
from vlsb.store.export import require_new, write_archive, write_folder, write_text
from vlsb.store.import_rows import match_rows
from vlsb.store.importing import (
    READERS,
    Imported,
    ImportedData,
    ImportSource,
    find_format,
    import_run,
)
from vlsb.store.manifest import JudgeEntry, require_run, require_vlsbench
from vlsb.store.summaries import summarize_state

_AUTO = "auto"
_SHOWN_LEFT_OUT = 5


@command()
def import_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Logs of one model, all by the same program.")
    ],
    model: Annotated[
        str, Option("The target's name, as reports show it.", metavar="NAME", variable="VLSB_IMPORT_MODEL")
    ],
    output_dir: Annotated[Path, run_option("output_dir")] = Path(DEFAULT_OUTPUT_DIR),
    name: Annotated[
        str | None,
        Option(
            "Name of the run's directory. (default: the model's)", metavar="NAME", variable="VLSB_IMPORT_NAME"
        ),
    ] = None,
    format_: Annotated[
        str,
        Option(
            "Which program wrote the files.",
            choices=(_AUTO, *READERS),
            variable="VLSB_IMPORT_FORMAT",
        ),
    ] = _AUTO,
    data_root: Annotated[
        Path | None,
        Option(
            "A copy of VLSBench: the data set that was asked about. (default: the Hugging Face Hub's cache)",
            metavar="DIR",
            also="--data",
        ),
    ] = None,
    skip_unknown: Annotated[
        bool,
        Option(
            "Leave out rows that belong to no sample or to several, and count them.",
            variable="VLSB_IMPORT_SKIP_UNKNOWN",
        ),
    ] = False,
    judged_by: Annotated[
        str | None,
        Option(
            "The judge who gave the files' labels, if they do not say. (default: such labels are left out)",
            metavar="NAME",
            variable="VLSB_IMPORT_JUDGED_BY",
        ),
    ] = None,
) -> None:
    """Read what another program logged into a run, which can be judged, audited and compared."""
    screen = Screen()
    target = model.strip()
    if not target:
        raise ConfigError("--model is empty. Pass the target's name.")
    if name is not None and name != safe_name(name):
        raise ConfigError(f"--name {name!r}: use letters, digits, '.', '_' and '-' (at most 100).")
    directory = output_dir / (safe_name(name_of_place(target)) if name is None else name)
    programs = {find_format(path) for path in files} if format_ == _AUTO else {format_}
    if len(programs) > 1:
        raise ConfigError(
            f"The files are of several programs: {', '.join(sorted(programs))}. Import each apart."
        )
    source = ImportSource(form=programs.pop(), files=files, target=target, judged_by=judged_by)
    origin: dict[str, str] = {}
    if data_root is not None:
        dataset = load_dataset(data_root)
    else:
        fetched = fetch_dataset(revision=None, offline=True)
        dataset = load_dataset(fetched.files)
        origin = {"repository": fetched.repository, "revision": fetched.revision}

    def image_sha256(sample: Sample) -> str | None:
        try:
            return hashlib.sha256(dataset.read(sample)).hexdigest()
        except ImageError:
            return None

    matched = match_rows(source.rows(), dataset.samples, image_sha256=image_sha256, skip_unknown=skip_unknown)
    # Of images that are not there judging says what it misses.
    samples = {sample.id: sample for sample, _ in matched.rows}
    inspected = dataset.inspect(samples.values(), known={}, skip_bad=True)
    images = {each: image for each, image in inspected.items() if isinstance(image, ImageFile)}
    data = ImportedData(images=images, origin=origin, root=data_root)
    imported = import_run(
        directory, source, matched, data, judge_file=lambda judge: f"{safe_name(judge)}.jsonl"
    )
    if matched.left_out:
        screen.notice(f"{counted(len(matched.left_out), 'row')} left out, as --skip-unknown asks:")
        for where, reason in matched.left_out[:_SHOWN_LEFT_OUT]:
            screen.notice(f"  {where}: {reason}")
        if (more := len(matched.left_out) - _SHOWN_LEFT_OUT) > 0:
            screen.notice(f"  and {more:,} more")
    screen.answer(*_lines(directory, source, imported))
    screen.notice(f"Judge it with: vlsb judge {shlex.quote(str(directory))}")


def _lines(directory: Path, source: ImportSource, imported: Imported) -> Iterator[str]:
    head = "already imported, nothing to do" if imported.was_there else f"imported from {source.form}"
    yield f"{for_terminal(Untrusted(str(directory)))}: {head}"
    yield f"  {counted(imported.responses, 'response')}"
    for outcome, count in sorted(imported.failures.items()):
        yield f"  {counted(count, 'failure')}: {outcome.value}"
    for judge, count in imported.verdicts.items():
        yield f"  {counted(count, 'verdict')} by {for_terminal(judge)} (imported)"
    if imported.unattributed:
        yield (
            f"  {counted(imported.unattributed, 'label')} left out: the files do not say who gave them. "
            "--judged-by NAME does."
        )
    if imported.of_failures:
        labels = counted(imported.of_failures, "label")
        yield f"  {labels} left out: given to a failure, which is not an answer"


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
            header = log_header(exported)

            def members() -> Iterator[tuple[str, str]]:
                start = {name: header[name] for name in ("version", "eval", "plan")}
                yield "_journal/start.json", json_document(start)
                summaries = []
                for sample in log_samples(exported):
                    summaries.append(summary_of(sample))
                    yield f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json_document(sample)
                yield "summaries.json", json_document(summaries)
                yield "header.json", json_document(header)

            write_archive(out, members())
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
