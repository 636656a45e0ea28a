"""`vlsb import`: what another program logged, as a run that can be judged, audited, reported and compared."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli.command import command
from vlsb.cli.options import run_option
from vlsb.cli.screen import Screen
from vlsb.config import DEFAULT_OUTPUT_DIR
from vlsb.data import fetch_dataset, load_dataset
from vlsb.errors import ConfigError, ImageError
from vlsb.evaluation.options import Option
from vlsb.models.catalog import name_of_place, safe_name
from vlsb.records import ImageFile, Sample, Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.report import counted
from vlsb.store.import_rows import match_rows
from vlsb.store.importing import (
    READERS,
    Imported,
    ImportedData,
    ImportSource,
    find_format,
    import_run,
)

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
            "Leave rows out that belong to no sample, or to several, and count them.",
            variable="VLSB_IMPORT_SKIP_UNKNOWN",
        ),
    ] = False,
    judged_by: Annotated[
        str | None,
        Option(
            "Who gave the files' labels, where they do not say. (default: such labels are left out)",
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
