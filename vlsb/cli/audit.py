"""`vlsb audit`: people label a part of a run's responses, blind, and judges are measured against them."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vlsb._version import __version__
from vlsb.analysis.panel import is_panel
from vlsb.cli import options as opt
from vlsb.cli.command import TABLES, command
from vlsb.cli.labelling import Labelling, Sheet, require_terminal
from vlsb.cli.screen import Screen
from vlsb.cli.show import missing_data, run_dataset
from vlsb.errors import ConfigError, ImageError, RunMismatchError
from vlsb.evaluation.options import Option
from vlsb.files import new_file
from vlsb.judging.human import human_judge, human_settings, human_verdict
from vlsb.records import Key, Response, Sample, Untrusted, is_cut
from vlsb.reports.audit import audit_report, audit_tables
from vlsb.reports.encode import for_csv
from vlsb.reports.labelling import LabelTask, SheetLabel, parse_sheet, require_no, to_csv, to_label_studio
from vlsb.reports.report import Report
from vlsb.store.audit import AuditItem, AuditSample, draw_audit, require_audit
from vlsb.store.manifest import JudgeEntry, read_manifest, require_run
from vlsb.store.state import RunState, load_state
from vlsb.store.store import RunStore, open_for_labels

audit_app = typer.Typer(no_args_is_help=True, help="Label a part of a run by hand, and measure its judges.")

_DEVIATION = (
    "a person judged, and only a part of the responses: `vlsb audit report` weighs what they stand for"
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run whose responses are labelled.")]


@audit_app.command("sample")
@command()
def sample_command(
    run: Run,
    n: Annotated[
        int, Option("About how many responses to draw.", metavar="N", variable="VLSB_AUDIT_N", min=1)
    ] = 200,
    seed: Annotated[
        int | None, Option("Another draw. (default: 0)", metavar="N", variable="VLSB_AUDIT_SEED")
    ] = None,
) -> int:
    """Draw the responses that people are to label: whole images, by label, category and disagreement.

    What was drawn stays drawn: the same command again changes nothing, a larger --n adds to it.
    """
    require_run(run)
    judges = [
        each.file for each in read_manifest(run).judges if not each.is_human and not is_panel(each.settings)
    ]
    audit = draw_audit(run, n=n, seed=seed, judges=judges)
    images = len({item.image_path for item in audit.items})
    Screen().answer(
        f"{len(audit.items)} responses to {images} images are drawn, of {len(audit.frame)} images in "
        f"{len(audit.strata)} strata (seed {audit.seed}). Label them with:",
        f"  vlsb audit label {shlex.quote(str(run))} --annotator NAME",
    )
    return 0


@audit_app.command("label")
@command()
def label_command(
    run: Run,
    annotator: opt.Annotator,
    data_root: opt.ShownDataRoot = None,
) -> int:
    """Label the drawn responses here, one key each: nobody's label is shown, and each key is stored at once.

    Stop and go on as you like. Images are only shown when asked for.
    """
    require_terminal()
    judge, audit = human_judge(annotator), require_audit(run)
    desk = _Desk(run, audit, data_root)
    with _labels(run, annotator, pending=len(desk.items)) as store:
        sheets = [
            Sheet(
                task=desk.task(item, response, store.state, store.judges[0]),
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
    return 0


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
) -> int:
    """Write the drawn responses to a file for a spreadsheet or Label Studio, with no judge's label in it."""
    writers = {"csv": (to_csv, "csv"), "label-studio": (to_label_studio, "json")}
    write, ending = writers[format_]
    judge = human_judge(annotator)
    desk = _Desk(run, require_audit(run), data_root)
    entry = next((each for each in desk.state.manifest.judges if _is_by(each, annotator)), None)
    file = None if entry is None else entry.file
    tasks = [desk.task(item, response, desk.state, file) for item, response in desk.in_order(judge)]
    path = output or run / f"audit-{annotator}.{ending}"
    try:
        with new_file(path) as target:
            target.write(write(tasks).encode("utf-8", "backslashreplace"))
    except FileExistsError as error:
        raise ConfigError(f"{path} exists. Move it, or name another with --output.") from error
    except OSError as error:
        raise ConfigError(f"--output {path}: cannot be written ({error.strerror}).") from error
    Screen().answer(f"{len(tasks)} responses are in {path}. They are the model's words about harmful pairs.")
    return 0


@audit_app.command("import")
@command()
def import_command(
    run: Run,
    sheet: Annotated[Path, typer.Argument(metavar="FILE", help="The filled-in sheet, or the export.")],
    annotator: opt.Annotator,
    completed_by: Annotated[
        str | None,
        Option(
            "Of a Label Studio project with several annotators: whose labels, by number or address.",
            metavar="WHO",
            variable="VLSB_AUDIT_COMPLETED_BY",
        ),
    ] = None,
) -> int:
    """Take the labels of a filled-in CSV, or of Label Studio's JSON export, over into the run.

    Every row is checked against what was drawn; if one is wrong, nothing is changed.
    """
    human_judge(annotator)
    audit = require_audit(run)
    try:
        labels = parse_sheet(sheet.read_bytes(), completed_by=completed_by)
    except OSError as error:
        raise ConfigError(f"{sheet}: cannot be read ({error.strerror}).") from error
    Screen().result(store_labels(run, audit, labels, annotator))
    return 0


def store_labels(run: Path, audit: AuditSample, labels: Sequence[SheetLabel], annotator: str) -> str:
    """Store a person's labels for what was drawn, and say how many are new. ConfigError: none is stored."""
    items = {item.name: response for item, response in audit.current(load_state(run))}
    _require_known(labels, items)
    if not labels:
        return "0 labels were read: nothing was changed."
    with _labels(run, annotator, pending=len(labels)) as store:
        (file,) = store.judges
        changed = [each for each in labels if _is_news(each, store.state, items[each.item].key, file)]
        replaced = sum(store.state.label(items[each.item].key, file) is not None for each in changed)
        for each in changed:
            store.add_verdict(human_verdict(items[each.item], each.label, note=each.note), file)
        store.sync()
    return (
        f"{len(labels)} labels were read: {len(changed) - replaced} new, {replaced} changed, "
        f"{len(labels) - len(changed)} as they were."
    )


def _is_news(given: SheetLabel, state: RunState, key: Key, file: str) -> bool:
    """Whether a sheet says another label than the run has, or has a note to it that the run has not."""
    if state.label(key, file) is not given.label:
        return True
    # A sheet has a note in one line: one that went out and came back is the same.
    known = state.judged[file].verdicts[key].explanation
    return len(given.note) > 0 and for_csv(given.note) != for_csv(known)


def _require_known(labels: Sequence[SheetLabel], items: Mapping[str, Response]) -> None:
    """Raise ConfigError for labels of what was not drawn, of another response, or of one item twice."""
    problems, seen = [], set()
    for each in labels:
        response = items.get(each.item)
        if response is None or response.response_sha256 != each.response_sha256:
            problems.append(f"{each.item[:40]!r} is not an item of this run with that response")
        elif each.item in seen:
            problems.append(f"{each.item} has two labels")
        seen.add(each.item)
    require_no(problems)


@audit_app.command("report")
@command(form=Option("How to write the report.", choices=TABLES))
def report_command(run: Run) -> Report:
    """Compare human labels with each other and with each judge's, and correct the judges' rates by them."""
    found = audit_report(run)
    if not found.annotators:
        raise ConfigError(f"{run}: nobody has labelled yet. See vlsb audit label and vlsb audit import.")
    return audit_tables(found)


class _Desk:
    """A run's drawn responses with what was asked: checked against what the target was sent."""

    def __init__(self, run: Path, audit: AuditSample, data_root: Path | None) -> None:
        self.state = load_state(run)
        self.items = audit.current(self.state)
        dataset = run_dataset(run, self.state.manifest, data_root)
        if dataset is None:
            raise ConfigError(f"{missing_data(run)} Nobody can label without it: pass --data-root.")
        self._dataset = dataset
        digests = {row.sample_id: row.digest for row in self.state.manifest.samples}
        wanted = {item.sample_id for item, _ in self.items}
        self.samples: dict[int, Sample] = {
            each.id: each
            for each in dataset.samples
            if each.id in wanted and each.digest() == digests.get(each.id)
        }
        if missing := sorted(wanted - set(self.samples)):
            raise RunMismatchError(
                f"The data set at hand has another row, or none, for {len(missing)} drawn samples "
                f"(the first is {missing[0]}). Pass the run's own with --data-root."
            )

    def in_order(self, judge: str) -> list[tuple[AuditItem, Response]]:
        """The items in an order of this judge's own, which says nothing of their strata."""
        return sorted(self.items, key=lambda each: Untrusted(f"{judge} {each[0].name}").sha256())

    def task(self, item: AuditItem, response: Response, state: RunState, file: str | None) -> LabelTask:
        """The item as a person sees it, with the label that it has in that file."""
        label = None if file is None else state.label(response.key, file)
        verdict = None if file is None or label is None else state.judged[file].verdicts[item.key]
        return LabelTask(
            item=item.name,
            image_path=item.image_path,
            instruction=self.samples[item.sample_id].instruction,
            response=response.text,
            response_sha256=response.response_sha256,
            is_cut=is_cut(response.finish_reason),
            label=label,
            note=Untrusted("") if verdict is None else verdict.explanation,
        )

    def read_image(self, item: AuditItem, response: Response) -> bytes:
        """The image that the target was sent, where that is known. Raises ImageError for any other."""
        content = self._dataset.read(self.samples[item.sample_id])
        if response.image_sha256 is not None and hashlib.sha256(content).hexdigest() != response.image_sha256:
            raise ImageError("image is not the one that the target was sent", detail=item.image_path)
        return content


def _is_by(entry: JudgeEntry, annotator: str) -> bool:
    return entry.settings == human_settings(annotator)


@contextmanager
def _labels(run: Path, annotator: str, *, pending: int) -> Iterator[RunStore]:
    """The run opened for a person's labels: a session of its own, like any judge's."""
    judge = human_judge(annotator)
    store = open_for_labels(
        run,
        JudgeEntry(
            name=Untrusted(judge),
            file=f"{judge}.jsonl",
            simulated=False,
            is_added=True,
            settings=human_settings(annotator),
            decision=None,
            deviations=[Untrusted(_DEVIATION)],
        ),
    )
    ended = "complete"
    try:
        store.add_event(
            "session_started", pending=pending, vlsb=__version__, judge=store.judges[0], only_judge=True
        )
        yield store
    except BaseException as error:
        ended = type(error).__name__
        raise
    finally:
        store.add_event("session_ended", reason=ended)
        asyncio.run(store.close())
