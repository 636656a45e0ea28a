"""Runs as they are read: what is stored of each response, beside the data set that it was asked from.

A run stores no instruction, only a checksum of each row: the text comes from the data set, and a row whose
checksum differs is not shown in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Self

from vlsb.data import MINI, Dataset, fetch_dataset, load_dataset, load_named, named_root
from vlsb.errors import ConfigError, ImageError, VlsbError
from vlsb.records import JUDGED, VLSBENCH, Key, Label, Outcome, Sample, Untrusted, is_cut
from vlsb.reports.answers import AnswerImage, NoInstruction, StoredAnswer
from vlsb.reports.encode import for_terminal
from vlsb.store.manifest import JudgeEntry, Manifest, remembered_data_root
from vlsb.store.state import Judged, RunState, collection_paused, load_state

NEAREST = 3
"""This many names that exist are shown for one that does not."""
_FAILED = ("target_", "judge_")


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run that was read, and the data set that it was made from, None where that is not at hand."""

    path: Path
    state: RunState
    dataset: Dataset | None

    @classmethod
    def read(cls, path: Path, data_root: Path | None, *, needs_data: bool = True) -> Self:
        """Read a run, and its data set where that is needed: from the folder that is named, or as before.

        Raises DatasetError for a given `data_root` that cannot be read.
        """
        with collection_paused():
            state = load_state(path)
            return cls(path, state, _dataset(path, state.manifest, data_root) if needs_data else None)

    def again(self) -> Self:
        """Read the run again, and leave its data set as it was read before."""
        with collection_paused():
            return replace(self, state=load_state(self.path))

    @property
    def lack(self) -> str:
        """Why the data set is not at hand, as one sentence."""
        root = remembered_data_root(self.path)
        return "The data set is not at hand." if root is None else f"The data set cannot be read at {root}."

    def answers(self, judge: JudgeEntry | None) -> list[StoredAnswer]:
        """Return every response that the run asks for, by sample in the data set's order, then by epoch.

        A shuffled run is in the order of its ids.
        """
        state, manifest, dataset = self.state, self.state.manifest, self.dataset
        file = None if judge is None else judge.file
        judged = Judged() if file is None else state.judged.get(file, Judged())
        samples = None if dataset is None else {sample.id: sample for sample in dataset.samples}
        images = {Untrusted(path): image.sha256 for path, image in manifest.images.items()}
        rows = list(manifest.asked_samples)
        if manifest.selection.get("shuffle") or manifest.gate is not None:
            rows.sort(key=lambda row: row.sample_id)
        answers = []
        for place, row in enumerate(rows):
            sample = None if samples is None else samples.get(row.sample_id)
            instruction: Untrusted | NoInstruction
            if sample is None:
                instruction = NoInstruction.NO_DATA if samples is None else NoInstruction.NO_ROW
            elif sample.digest() != row.digest:
                sample, instruction = None, NoInstruction.OTHER_ROW
            else:
                instruction = sample.instruction
            file_of_image = None
            if sample is not None and sample.image_path is not None and dataset is not None:
                file_of_image = AnswerImage(dataset.root / sample.image_path.expose())
                if dataset.archive is not None:
                    file_of_image = AnswerImage(dataset.archive, sample.image_path)
            for key in (Key(row.sample_id, epoch) for epoch in range(1, manifest.epochs + 1)):
                outcome, response = state.outcome(key, file), state.responses.get(key)
                failures = judged.failures if outcome.value.startswith("judge_") else state.target_failures
                pinned = None if row.image_path is None else images.get(row.image_path)
                sent = state.failed_images.get(key, pinned)
                answer = StoredAnswer(
                    key=key,
                    place=place,
                    category=row.category,
                    sub_category=row.sub_category,
                    image_path=row.image_path,
                    image_sha256=sent if response is None else response.image_sha256,
                    instruction=instruction,
                    outcome=outcome,
                    response=response,
                    is_cut=response is not None and is_cut(response.finish_reason),
                    verdict=judged.verdicts[key] if outcome in JUDGED else None,
                    # A target's failure counts only where no later session got an answer.
                    failure=failures.get(key) if outcome.value.startswith(_FAILED) else None,
                    findings={
                        Untrusted(guard.file.removesuffix(".jsonl")): finding
                        for guard in manifest.guards
                        if (finding := state.finding(key, guard.file)) is not None
                    },
                    image_file=file_of_image,
                    image_description=None if sample is None else sample.image_description,
                    safety_reason=None if sample is None else sample.safety_reason,
                )
                answers.append(answer)
        return answers

    def read_image(self, sample: Sample, checksum: str | None) -> bytes:
        """Read a sample's image. Raises ImageError for one that is not at hand as the target was sent it."""
        if self.dataset is None:
            raise ImageError("the data set is not at hand")
        content = self.dataset.read(sample)
        if checksum is not None and sha256(content).hexdigest() != checksum:
            raise ImageError("image is not the one that the target was sent", detail=sample.image_path)
        return content


def _dataset(run: Path, manifest: Manifest, data_root: Path | None) -> Dataset | None:
    """Load the data set of a run: as given, where its last session read it, our own, or one in the cache."""
    name = manifest.dataset
    if data_root is not None:
        return load_named(name, data_root)
    # Nobody asked for these: without them a page goes on, and says what it lacks.
    with suppress(VlsbError):
        root = remembered_data_root(run)
        if root is not None:
            return load_named(name, root)
    with suppress(VlsbError):
        root = named_root(MINI if manifest.simulated and name == VLSBENCH else name)
        if root is not None:
            return load_named(name, root)
    with suppress(VlsbError):
        if name == VLSBENCH:
            revision = manifest.data.get("revision")
            revision = revision if isinstance(revision, str) else None
            return load_dataset(fetch_dataset(revision=revision, offline=True).files)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which responses to show. Values of one filter are alternatives, different filters must all hold."""

    ids: Sequence[int] = ()
    labels: Sequence[str] = ()
    outcomes: Sequence[str] = ()
    categories: Sequence[str] = ()
    sub_categories: Sequence[str] = ()
    only_failed: bool = False
    epoch: int | None = None

    def holds_for(self, answer: StoredAnswer) -> bool:
        """Tell whether an answer is among those to show."""
        outcome = Untrusted(answer.outcome.value)
        filters = (
            (self.labels, outcome),
            (self.outcomes, outcome),
            (self.categories, answer.category),
            (self.sub_categories, answer.sub_category),
        )
        # What was not attempted has nothing to read: it is shown where it was asked for by name.
        return (
            (bool(self.ids or self.outcomes) or answer.outcome is not Outcome.NOT_ATTEMPTED)
            and (not self.only_failed or answer.outcome.value.startswith(_FAILED))
            and (not self.ids or answer.key.sample_id in self.ids)
            and (self.epoch is None or answer.key.epoch == self.epoch)
            and all(
                not names or _comparable(value) in {_comparable(Untrusted(each)) for each in names}
                for names, value in filters
            )
        )

    def require_known(self, manifest: Manifest) -> None:
        """Raise ConfigError for a value that this run cannot have, with the nearest that it has."""
        ids = {row.sample_id for row in manifest.samples}
        for number in self.ids:
            if number not in ids:
                near = sorted(sorted(ids, key=lambda each: (abs(each - number), each))[:NEAREST])
                raise ConfigError(
                    f"{number}: no such sample in the run. Nearest: {', '.join(map(str, near))}."
                )
        _require_names("--label", self.labels, map(Untrusted, Label))
        _require_names("--outcome", self.outcomes, map(Untrusted, Outcome))
        _require_names("--category", self.categories, [row.category for row in manifest.samples])
        _require_names("--sub-category", self.sub_categories, [row.sub_category for row in manifest.samples])
        if self.epoch is not None and self.epoch > manifest.epochs:
            raise ConfigError(
                f"--epoch {self.epoch}: the run has {manifest.epochs}. Pass a number up to that."
            )


def _require_names(option: str, asked: Iterable[str], values: Iterable[Untrusted]) -> None:
    names = {_comparable(name): for_terminal(name) for name in sorted(set(values))}
    for name in asked:
        if (key := _comparable(Untrusted(name))) not in names:
            near = get_close_matches(key, names, n=NEAREST, cutoff=0.4) or names
            # Categories are the data set's words, not ours.
            nearest = Untrusted(", ".join(names[each] for each in near))
            raise ConfigError(f"{option} {name!r} is not in the run. Nearest", detail=nearest)


def _comparable(name: Untrusted) -> str:
    """A name as it is compared: in any case, without what a terminal would act on."""
    return for_terminal(name).strip().casefold()
