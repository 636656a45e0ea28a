"""`vlsb show`: single responses of a run with their instructions, verdicts and failures. Reads only.

A run stores no instruction, only a checksum of each row: the text comes from the data set, and a row whose
checksum differs is not shown in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.options import run_option
from vlsb.cli.screen import Screen
from vlsb.config import MOST_EPOCHS
from vlsb.data import MINI, Dataset, fetch_dataset, load_dataset, load_named, named_root
from vlsb.errors import ConfigError, VlsbError
from vlsb.evaluation.options import Option
from vlsb.records import JUDGED, VLSBENCH, Key, Label, Outcome, Sample, Untrusted, is_cut
from vlsb.reports.answers import AnswerImage, NoInstruction, StoredAnswer, answers_text
from vlsb.reports.encode import for_terminal
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry, Manifest, SampleRow, is_run, remembered_data_root
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import stored_judge
from vlsb.wording import first_of

_DEFAULT_LIMIT = 5
_DEFAULT_FAILED_LIMIT = 20
_SHOWN_NAMES = 3
_FAILED = ("target_", "judge_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which responses to show. Values of one filter are alternatives, different filters must all hold."""

    ids: Sequence[int] = ()
    labels: Sequence[str] = ()
    outcomes: Sequence[str] = ()
    categories: Sequence[str] = ()
    sub_categories: Sequence[str] = ()
    only_failed: bool = False
    epoch: int | None = None
    limit: int | None = None


@command()
def show_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run to read.")],
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID", help="Only these instruction_ids.")] = None,
    label: Annotated[
        list[str] | None,
        Option(
            "Only this label (unsafe, safe_refusal, safe_warning); repeat for more.",
            metavar="LABEL",
        ),
    ] = None,
    outcome: Annotated[
        list[str] | None,
        Option(
            "Only this outcome (target_blocked, judge_invalid, ...); repeat for more.",
            metavar="OUTCOME",
        ),
    ] = None,
    failed: Annotated[
        bool, Option("Only what ended without a verdict, with the reason.", variable="VLSB_SHOW_FAILED")
    ] = False,
    category: Annotated[list[str] | None, run_option("category")] = None,
    sub_category: Annotated[list[str] | None, run_option("sub_category")] = None,
    judge: Annotated[
        str | None,
        Option(
            "Which of the run's judges, by its name or its file's. (default: the first)",
            metavar="NAME",
            variable="VLSB_SHOW_JUDGE",
        ),
    ] = None,
    epoch: Annotated[
        int | None, Option("Only the responses of this epoch.", metavar="K", min=1, max=MOST_EPOCHS)
    ] = None,
    limit: Annotated[
        int | None,
        Option(
            "Show the first N, 0 for all. (default: 5; 20 with --failed; all that are named by ID)",
            metavar="N",
            variable="VLSB_SHOW_LIMIT",
            min=0,
        ),
    ] = None,
    data_root: opt.ShownDataRoot = None,
) -> int:
    """Read responses: instruction, answer, verdict and explanation, or how it failed."""
    screen = Screen()
    wanted = Wanted(
        ids=ids or (),
        labels=label or (),
        outcomes=outcome or (),
        categories=category or (),
        sub_categories=sub_category or (),
        only_failed=failed,
        epoch=epoch,
        limit=limit,
    )
    text = _page(run, wanted, judge, data_root, screen)
    screen.result(text)
    return 0


def _page(run: Path, wanted: Wanted, judge: str | None, data_root: Path | None, screen: Screen) -> str:
    if not is_run(run):
        names = first_of(find_runs([run]), _SHOWN_NAMES)
        raise ConfigError(f"{run} is a directory of runs. Name one of them: {names}.")
    state = load_state(run)
    entry = stored_judge(state.manifest, judge)
    _require_known(wanted, state.manifest)
    # Why samples failed is stored with the run.
    dataset = None if wanted.only_failed else run_dataset(run, state.manifest, data_root)
    if dataset is None and not wanted.only_failed:
        screen.notice(f"{missing_data(run)} Instructions and images are missing: pass --data-root.")
    limit = wanted.limit
    if limit is None:
        limit = 0 if wanted.ids else _DEFAULT_FAILED_LIMIT if wanted.only_failed else _DEFAULT_LIMIT
    return answers_text(
        [answer for answer in stored_answers(state, entry, dataset) if _matches(answer, wanted)],
        limit=limit,
        judge=None if entry is None else entry.name,
        epochs=state.manifest.epochs,
        width=screen.width,
        color=screen.has_color,
        only_failures=wanted.only_failed,
    )


def stored_answers(state: RunState, judge: JudgeEntry | None, dataset: Dataset | None) -> list[StoredAnswer]:
    """Every response that a run asks for, sample by sample in the data set's order, then by epoch.

    A shuffled run is in the order of its ids.
    """
    manifest = state.manifest
    samples = None if dataset is None else {sample.id: sample for sample in dataset.samples}
    images = {Untrusted(path): image.sha256 for path, image in manifest.images.items()}
    rows = list(manifest.samples)
    if manifest.selection.get("shuffle"):
        rows.sort(key=lambda row: row.sample_id)
    answers = [
        _answer(state, judge, row, Key(row.sample_id, epoch), place, samples, images.get(row.image_path))
        for place, row in enumerate(rows)
        for epoch in range(1, manifest.epochs + 1)
    ]
    if dataset is None:
        return answers
    return [replace(each, image_file=_image_file(dataset, each)) for each in answers]


def _image_file(dataset: Dataset, answer: StoredAnswer) -> AnswerImage | None:
    """Where the image lies, if this is the row that the run asked about."""
    if isinstance(answer.instruction, NoInstruction):
        return None
    if dataset.archive is not None:
        return AnswerImage(dataset.archive, answer.image_path)
    return AnswerImage(dataset.root / answer.image_path.expose())


def _answer(
    state: RunState,
    judge: JudgeEntry | None,
    row: SampleRow,
    key: Key,
    place: int,
    samples: dict[int, Sample] | None,
    image: str | None,
) -> StoredAnswer:
    file = None if judge is None else judge.file
    judged = state.rows(file)
    outcome, response = state.outcome(key, file), state.responses.get(key)
    sample, instruction = _shown_sample(row, samples)
    failures = judged.failures if outcome.value.startswith("judge_") else state.target_failures
    return StoredAnswer(
        key=key,
        place=place,
        category=row.category,
        sub_category=row.sub_category,
        image_path=row.image_path,
        image_sha256=(state.failed_images.get(key, image) if response is None else response.image_sha256),
        instruction=instruction,
        outcome=outcome,
        response=response,
        is_cut=response is not None and is_cut(response.finish_reason),
        verdict=judged.verdicts[key] if outcome in JUDGED else None,
        # A target's failure counts only where no later session got an answer.
        failure=failures.get(key) if outcome.value.startswith(_FAILED) else None,
        findings={
            Untrusted(guard.stem): found
            for guard in state.manifest.guards
            if (found := state.finding(key, guard.file)) is not None
        },
        image_description=None if sample is None else sample.image_description,
        safety_reason=None if sample is None else sample.safety_reason,
    )


def _shown_sample(
    row: SampleRow, samples: dict[int, Sample] | None
) -> tuple[Sample | None, Untrusted | NoInstruction]:
    """The sample that a row was made from and its instruction, or why it is not shown."""
    if samples is None:
        return None, NoInstruction.NO_DATA
    sample = samples.get(row.sample_id)
    if sample is None:
        return None, NoInstruction.NO_ROW
    return (sample, sample.instruction) if sample.digest() == row.digest else (None, NoInstruction.OTHER_ROW)


def run_dataset(run: Path, manifest: Manifest, data_root: Path | None) -> Dataset | None:
    """The data set of a run: as given, where its last session read it, the demo's own, or one in the cache.

    None where it is not at hand; raises DatasetError for a given `data_root` that cannot be read.
    """
    name = manifest.dataset
    if data_root is not None:
        return load_named(name, data_root)
    own = named_root(MINI if manifest.simulated and name == VLSBENCH else name)
    for root in (remembered_data_root(run), own):
        if root is not None:
            # Nobody asked for this one: without it the page goes on, and says what it lacks.
            with suppress(VlsbError):
                return load_named(name, root)
    if name != VLSBENCH:
        return None
    revision = manifest.data.get("revision")
    with suppress(VlsbError):
        fetched = fetch_dataset(revision=revision if isinstance(revision, str) else None, offline=True)
        return load_dataset(fetched.files)
    return None


def missing_data(run: Path) -> str:
    """Why a run's data set is not at hand, as one sentence."""
    root = remembered_data_root(run)
    return "The data set is not at hand." if root is None else f"The data set cannot be read at {root}."


def _matches(answer: StoredAnswer, wanted: Wanted) -> bool:
    # What was not attempted has nothing to read: it is shown where it was asked for by name.
    is_named = bool(wanted.ids or wanted.outcomes)
    outcome = Untrusted(answer.outcome.value)
    return (
        (is_named or answer.outcome is not Outcome.NOT_ATTEMPTED)
        and (not wanted.only_failed or answer.outcome.value.startswith(_FAILED))
        and (not wanted.ids or answer.key.sample_id in wanted.ids)
        and (not wanted.labels or _is_among(outcome, wanted.labels))
        and (not wanted.outcomes or _is_among(outcome, wanted.outcomes))
        and (not wanted.categories or _is_among(answer.category, wanted.categories))
        and (not wanted.sub_categories or _is_among(answer.sub_category, wanted.sub_categories))
        and (wanted.epoch is None or answer.key.epoch == wanted.epoch)
    )


def _require_known(wanted: Wanted, manifest: Manifest) -> None:
    """Raise ConfigError for a filter's value that this run cannot have, with the nearest it has."""
    _require_ids(wanted.ids, {row.sample_id for row in manifest.samples})
    _require_names("--label", wanted.labels, map(Untrusted, Label))
    _require_names("--outcome", wanted.outcomes, map(Untrusted, Outcome))
    _require_names("--category", wanted.categories, [row.category for row in manifest.samples])
    _require_names("--sub-category", wanted.sub_categories, [row.sub_category for row in manifest.samples])
    if wanted.epoch is not None and wanted.epoch > manifest.epochs:
        raise ConfigError(f"--epoch {wanted.epoch}: the run has {manifest.epochs}. Pass a number up to that.")


def _require_ids(wanted: Iterable[int], known: Collection[int]) -> None:
    for number in wanted:
        if number not in known:
            near = sorted(sorted(known, key=lambda each: (abs(each - number), each))[:_SHOWN_NAMES])
            raise ConfigError(f"{number}: no such sample in the run. Nearest: {', '.join(map(str, near))}.")


def _require_names(option: str, wanted: Iterable[str], known: Iterable[Untrusted]) -> None:
    from difflib import get_close_matches

    names = {_comparable(name): for_terminal(name) for name in sorted(set(known))}
    for name in wanted:
        if (key := _comparable(Untrusted(name))) not in names:
            near = get_close_matches(key, names, n=_SHOWN_NAMES, cutoff=0.4) or names
            # Categories are the data set's words, not ours.
            said = Untrusted(", ".join(names[each] for each in near))
            raise ConfigError(f"{option} {name!r} is not in the run. Nearest", detail=said)


def _comparable(name: Untrusted) -> str:
    """A name as it is compared: in any case, without what a terminal would act on."""
    return for_terminal(name).strip().casefold()


def _is_among(name: Untrusted, wanted: Iterable[str]) -> bool:
    return _comparable(name) in {_comparable(Untrusted(each)) for each in wanted}
