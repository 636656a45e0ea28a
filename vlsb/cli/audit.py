"""`vlsb audit`: people label a part of a run's responses, blind, and judges are measured against them."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import TABLES, command
from vlsb.cli.labelling import Labelling, Sheet, require_terminal
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError
from vlsb.evaluation.labels import open_labels, store_labels
from vlsb.evaluation.options import Option
from vlsb.files import new_file
from vlsb.judging.human import human_judge, human_settings
from vlsb.reports.audit import audit_report, audit_tables
from vlsb.reports.encode import for_csv
from vlsb.reports.labelling import LabelDesk, parse_sheet, require_drawn, to_csv, to_label_studio
from vlsb.reports.report import Report
from vlsb.reports.stored import StoredRun
from vlsb.store.audit import draw_audit, require_audit
from vlsb.store.manifest import require_run
from vlsb.store.state import load_state

audit_app = typer.Typer(no_args_is_help=True, help="Label a part of a run by hand, and measure its judges.")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run whose responses are labelled.")]


@audit_app.command("sample")
@command()
def sample_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="The run whose responses are labelled; several, to label the same images in each.",
        ),
    ],
    n: Annotated[
        int, Option("About how many responses to draw.", metavar="N", variable="VLSB_AUDIT_N", min=1)
    ] = 200,
    seed: Annotated[
        int | None, Option("Seed of the draw. (default: 0)", metavar="N", variable="VLSB_AUDIT_SEED")
    ] = None,
) -> None:
    """Draw the responses that people are to label: whole images, by label, category and disagreement.

    What was drawn stays drawn: the same command again changes nothing, a larger --n adds to it. With the same
    images of two runs labelled, vlsb compare --corrected tells a safer model from a laxer judge.
    """
    runs = list({run.resolve(): run for run in runs}.values())
    for run in runs:
        require_run(run)
    audits = draw_audit(runs, n=n, seed=seed)
    images = len({item.image_path for audit in audits for item in audit.items})
    responses = sum(len(audit.items) for audit in audits)
    Screen().answer(
        f"{responses} responses to {images} images are drawn, of {len(audits[0].frame)} images in "
        f"{len(audits[0].strata)} strata (seed {audits[0].seed}). Label them with:",
        *(f"  vlsb audit label {shlex.quote(str(run))} --annotator NAME" for run in runs),
    )


@audit_app.command("label")
@command()
def label_command(
    run: Run,
    annotator: opt.Annotator,
    data_root: opt.ShownDataRoot = None,
) -> None:
    """Label the drawn responses here, one key each: nobody's label is shown, and each key is stored at once.

    Stop and go on as you like. Images are only shown when asked for.
    """
    require_terminal()
    judge, audit = human_judge(annotator), require_audit(run)
    desk = LabelDesk(StoredRun.read(run, data_root), audit)
    with open_labels(run, annotator, pending=len(desk.items)) as store:
        sheets = [
            Sheet(
                task=desk.task(item, response, store.judges[0], store.state),
                response=response,
                description=desk.samples[item.sample_id].image_description,
                read_image=partial(desk.read_image, item, response),
            )
            for item, response in desk.in_order(judge)
        ]
        labelling = Labelling(store, sheets)
        try:
            labelling.run()
        finally:
            Screen().notice(f"{labelling.labelled} of {len(sheets)} responses are labelled by {annotator}.")


@audit_app.command("export")
@command()
def export_command(
    run: Run,
    annotator: opt.Annotator,
    format_: Annotated[
        str,
        Option("For which program.", choices=("csv", "label-studio"), variable="VLSB_AUDIT_EXPORT_FORMAT"),
    ] = "csv",
    output: Annotated[
        Path | None,
        Option("The file to write. (default: one in the run)", metavar="FILE", variable="VLSB_AUDIT_OUTPUT"),
    ] = None,
    data_root: opt.ShownDataRoot = None,
) -> None:
    """Write the drawn responses to a file for a spreadsheet or Label Studio, with no judge's label in it."""
    writers = {"csv": (to_csv, "csv"), "label-studio": (to_label_studio, "json")}
    write, ending = writers[format_]
    judge = human_judge(annotator)
    stored = StoredRun.read(run, data_root)
    desk = LabelDesk(stored, require_audit(run))
    judges = stored.state.manifest.judges
    file = next((each.file for each in judges if each.settings == human_settings(annotator)), None)
    tasks = [desk.task(item, response, file, stored.state) for item, response in desk.in_order(judge)]
    path = output or run / f"audit-{annotator}.{ending}"
    try:
        with new_file(path) as target:
            target.write(write(tasks).encode("utf-8", "backslashreplace"))
    except FileExistsError as error:
        raise ConfigError(f"{path} exists. Move it, or name another with --output.") from error
    except OSError as error:
        raise ConfigError(f"--output {path}: cannot be written ({error.strerror}).") from error
    Screen().answer(f"{len(tasks)} responses are in {path}. They are the model's words about harmful pairs.")


@audit_app.command("import")
@command()
def import_command(
    run: Run,
    sheet: Annotated[Path, typer.Argument(metavar="FILE", help="The filled-in sheet, or the export.")],
    annotator: opt.Annotator,
    completed_by: Annotated[
        str | None,
        Option(
            "Whose labels to take from a Label Studio project with several annotators, by number or address.",
            metavar="WHO",
            variable="VLSB_AUDIT_COMPLETED_BY",
        ),
    ] = None,
) -> str:
    """Take the labels of a filled-in CSV, or of Label Studio's JSON export, over into the run.

    Every row is checked against what was drawn; if one is wrong, nothing is changed.
    """
    human_judge(annotator)
    require_audit(run)
    try:
        content = sheet.read_bytes()
    except OSError as error:
        raise ConfigError(f"{sheet}: cannot be read ({error.strerror}).") from error
    return store_sheet(run, annotator, content, completed_by)


def store_sheet(run: Path, annotator: str, sheet: bytes, completed_by: str | None = None) -> str:
    """Store the labels of a sheet in a run, and say how many are new. Where one is wrong, none is stored."""
    human_judge(annotator)
    audit = require_audit(run)
    labels = parse_sheet(sheet, completed_by=completed_by)
    items = {item.name: response for item, response in audit.current(load_state(run))}
    require_drawn(labels, items)
    if not labels:
        return "0 labels were read: nothing was changed."
    given = [(items[each.item], each.label, each.note) for each in labels]
    stored = store_labels(run, annotator, given, in_sheet=for_csv)
    return (
        f"{len(labels)} labels were read: {stored.new} new, {stored.changed} changed, "
        f"{stored.unchanged} as they were."
    )


@audit_app.command("report")
@command(form=Option("How to write the report.", choices=TABLES, variable="VLSB_AUDIT_FORMAT"))
def report_command(run: Run) -> Report:
    """Compare human labels with each other and with each judge's, and correct the judges' rates by them."""
    measured = audit_report(run)
    if not measured.annotators:
        raise ConfigError(f"{run}: nobody has labelled yet. See vlsb audit label and vlsb audit import.")
    return audit_tables(measured)
