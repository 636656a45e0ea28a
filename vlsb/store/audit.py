"""A drawn part of a run's responses, and how many each of them stands for.

`audit.json` is what people label, and names no label that anybody gave but in its strata: whoever labels is
not to read it. `calibration-<judge>.json` is what a judge labelled before the rest. The labels are verdicts.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from vlsb import strict_json
from vlsb.analysis.audit import ResponseFacts, Stratum, draw, stratify
from vlsb.analysis.correction import DrawnPart
from vlsb.analysis.panel import members_of
from vlsb.analysis.rates import DrawnResponse
from vlsb.errors import ConfigError, StoreError
from vlsb.files import replace_file
from vlsb.records import JUDGED, Key, Outcome, Response, Untrusted
from vlsb.store.codec import Decoder, to_json
from vlsb.store.journal import lock_run
from vlsb.store.manifest import JudgeEntry, require_run
from vlsb.store.state import RunState, calibration_file, load_state

FILE = "audit.json"
SCHEMA = 1
# The stratum of what a judge gave no label.
_NO_LABEL = "none"


class AuditItem(NamedTuple):
    """A response to be labelled. `weight` is how many images of its stratum its own stands for."""

    sample_id: int
    epoch: int
    response_sha256: str
    image_path: Untrusted
    weight: float

    @property
    def key(self) -> Key:
        """The sample and epoch of the response."""
        return Key(self.sample_id, self.epoch)

    @property
    def name(self) -> str:
        """What the item is called in a spreadsheet: nothing that one takes for a number or a date."""
        return f"s{self.sample_id}e{self.epoch}-{self.response_sha256[:8]}"


class FrameImage(NamedTuple):
    """An image that could be drawn: its stratum, as a place in the list of strata, and its responses.

    Of several runs that were drawn together, those of the run that has most of it.
    """

    image_path: Untrusted
    stratum: int
    responses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSample:
    """A drawn sample, in the order of the file. `n` is how many responses were asked for.

    `judges` are the verdict files whose labels made the strata: the first one's labels, and where another
    differs.
    """

    created_at: str
    n: int
    seed: int
    judges: Sequence[str]
    strata: Sequence[Stratum]
    frame: Sequence[FrameImage]
    items: Sequence[AuditItem]

    @property
    def weights(self) -> dict[Key, float]:
        """How many responses each item stands for."""
        return {item.key: item.weight for item in self.items}

    @property
    def frame_digest(self) -> str:
        """Hex sha256 over what decides which images are drawn, but for how many."""
        images = (f"{each.image_path.sha256()} {each.stratum} {each.responses}" for each in self.frame)
        return hashlib.sha256("\n".join([str(self.seed), *images]).encode()).hexdigest()

    def current(self, state: RunState) -> list[tuple[AuditItem, Response]]:
        """Return the items whose response is still the run's, with it; one that was replaced is left out."""
        answers = ((item, state.responses.get(item.key)) for item in self.items)
        return [
            (item, r) for item, r in answers if r is not None and r.response_sha256 == item.response_sha256
        ]


def read_audit(directory: Path, file: str = FILE) -> AuditSample | None:
    """Read the sample that was drawn of a run; None if nothing was drawn. StoreError for a damaged file."""
    path = directory / file
    try:
        document = strict_json.loads(path.read_bytes())
        if document["schema"] == SCHEMA:
            return Decoder().parse(document, AuditSample)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be read", error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged. Restore it from a copy, or delete it and draw again."
        ) from error
    raise StoreError(f"{path} has a schema that this version does not read. Update vlsb.")


def require_audit(directory: Path) -> AuditSample:
    """Read the sample that was drawn of a run; ConfigError if nothing was drawn."""
    require_run(directory)
    audit = read_audit(directory)
    if audit is None:
        command = f"vlsb audit sample {shlex.quote(str(directory))}"
        raise ConfigError(f"{directory}: no sample is drawn yet. Draw one with: {command}")
    return audit


def draw_calibration(
    directory: Path, judge: str, *, n: int, against: str, is_against_asked: bool
) -> AuditSample:
    """Draw about `n` responses for a judge to label before the rest, or enlarge what was drawn for it.

    `judge` and `against`, which it is compared with, are verdict files. Unless that one is asked too, the
    part is of what it labelled. A part that was drawn larger stays as it is.
    """
    with lock_run(directory):
        file = calibration_file(judge)
        old, state = read_audit(directory, file), load_state(directory)
        if old is None or list(old.judges) != [against]:
            audit = _new_frame([state], n=n, seed=0, judge=against, only_labelled=not is_against_asked)
        elif n <= old.n:
            return old
        else:
            audit = replace(old, n=n)
        return _stored(directory, file, audit, state)


def draw_audit(directories: Sequence[Path], *, n: int, seed: int | None) -> list[AuditSample]:
    """Draw about `n` responses of each run, of the same images in all, or enlarge what was drawn; store that.

    What was drawn stays drawn, with the strata of then: the same call again changes nothing, and a further
    run takes over the draw of the others. Raises ConfigError for fewer than before, another seed, draws of
    other images, or a run without responses.
    """
    with ExitStack() as locks:
        for directory in directories:
            locks.enter_context(lock_run(directory))
        states = [load_state(directory) for directory in directories]
        drawn = [read_audit(directory) for directory in directories]
        known = next((each for each in drawn if each is not None), None)
        for directory, old in zip(directories, drawn, strict=True):
            if known is None or old is None:
                continue
            if seed not in (None, old.seed) or n < old.n:
                raise ConfigError(
                    f"{directory}: a sample of {old.n} was drawn with seed {old.seed}. A larger --n adds to "
                    f"it; for another sample, delete {directory / FILE} first (labels stay, and count where "
                    "drawn)."
                )
            if old.frame_digest != known.frame_digest:
                raise ConfigError(
                    f"{directory}: its sample was not drawn together with those before it. To draw "
                    f"the same images in all, delete {directory / FILE} first (labels stay, and count where "
                    "drawn)."
                )
        fresh = _new_frame(states, n=n, seed=seed or 0) if known is None else replace(known, items=[])
        samples = []
        for directory, old, state in zip(directories, drawn, states, strict=True):
            audit = old or replace(fresh, judges=_asked(state))
            is_drawn = old is not None and n == old.n
            samples.append(audit if is_drawn else _stored(directory, FILE, replace(audit, n=n), state))
        return samples


def _asked(state: RunState) -> list[str]:
    """Return the verdict files of the judges that are models."""
    return [each.file for each in state.manifest.judges if each.is_asked]


def _stored(directory: Path, file: str, audit: AuditSample, state: RunState) -> AuditSample:
    """Draw what the audit's `n` asks for, and write it to its file."""
    audit = replace(audit, items=list(_items(audit, state)))
    # Readable JSON, with one line a stratum, an image and an item.
    fields, parts = to_json(audit), []
    for name in ("strata", "frame", "items"):
        lines = ",\n".join(map(strict_json.dumps, fields.pop(name)))
        parts.append(f' "{name}": [\n{lines}\n]')
    head = strict_json.dumps({"schema": SCHEMA} | fields, indent=1).removesuffix("\n}")
    text = ",\n".join([head, *parts]) + "\n}\n"
    try:
        replace_file(directory / file, [text.encode("ascii")])
    except OSError as error:
        raise StoreError.of(f"{directory / file}: cannot be written", error) from error
    return audit


def _new_frame(
    states: Sequence[RunState], *, n: int, seed: int, judge: str | None = None, only_labelled: bool = False
) -> AuditSample:
    """Make the strata of images that all of these runs have responses to, by all their judges or by one.

    A stratum's label is that of the first judge; of several runs it is theirs side by side.
    """
    rows = {row.sample_id: row for row in states[0].manifest.samples}
    keys_of = [_responses_by_image(state) for state in states]
    facts, sizes = [], {}
    for image in (each for each in keys_of[0] if all(each in keys for keys in keys_of)):
        sizes[image] = max(len(keys[image]) for keys in keys_of)
        for key in dict.fromkeys(key for keys in keys_of for key in keys[image]):
            firsts, disagrees = [], False
            for state in states:
                outcomes = [state.outcome(key, each) for each in ([judge] if judge else _asked(state))]
                labels = [outcome.value for outcome in outcomes if outcome in JUDGED]
                firsts.append(labels[0] if labels and outcomes[0] in JUDGED else _NO_LABEL)
                disagrees |= len(set(labels)) > 1
            if not only_labelled or _NO_LABEL not in firsts:
                facts.append(ResponseFacts(image, "+".join(firsts), rows[key.sample_id].category, disagrees))
    if not facts:
        what = "judged" if only_labelled else "there"
        where = "of the run is" if len(states) == 1 else "to one image in all of these runs is"
        raise ConfigError(f"No response {where} {what} yet: there is nothing to label.")
    strata = stratify(facts, n)
    ordered = sorted(
        set(strata.values()),
        key=lambda each: (
            str(each.label),
            "" if each.category is None else each.category.sha256(),
            str(each.disagrees),
        ),
    )
    return AuditSample(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        n=n,
        seed=seed,
        judges=[judge] if judge else _asked(states[0]),
        strata=ordered,
        frame=[FrameImage(path, ordered.index(strata[path]), sizes[path]) for path in sorted(strata)],
        items=[],
    )


def _responses_by_image(state: RunState) -> Mapping[Untrusted, list[Key]]:
    paths = {row.sample_id: row.cluster for row in state.manifest.samples}
    keys: dict[Untrusted, list[Key]] = {}
    for key in state.asked_for():
        if key in state.responses:
            keys.setdefault(paths[key.sample_id], []).append(key)
    return keys


def _items(audit: AuditSample, state: RunState) -> Iterator[AuditItem]:
    """Yield what is drawn: earlier items with their new weight, and every response of other images."""
    strata = {each.image_path: audit.strata[each.stratum] for each in audit.frame}
    sizes = {each.image_path: each.responses for each in audit.frame}
    before: dict[Untrusted, list[AuditItem]] = {}
    for item in audit.items:
        before.setdefault(item.image_path, []).append(item)
    keys = _responses_by_image(state)
    for image, weight in draw(strata, sizes, audit.n, seed=audit.seed):
        for item in before.get(image, ()):
            yield item._replace(weight=weight)
        for key in () if image in before else keys.get(image, ()):
            yield AuditItem(*key, state.responses[key].response_sha256, image, weight)


# What part of a run a judge labelled: all of it, or what was drawn for people or for a calibration.


_NO_DRAW = "the draw of these labels is not there (audit.json), so nobody knows what they stand for"
_DRAWS_DIFFER = "the members of the panel labelled different parts, so nobody knows what it stands for"
_STOPPED = "what --calibrate drew is not labelled whole; the same command goes on with it"


class FoundPart(NamedTuple):
    """A drawn part, and what an estimate needs of each response that it stands for."""

    part: DrawnPart
    draws: Mapping[Key, DrawnResponse]


def draws_of(directory: Path, state: RunState, entry: JudgeEntry) -> tuple[str, ...]:
    """Return the files of the draws that a judge has labelled alone; none for one that labels everything.

    People label what was drawn, and so does a calibrated judge until it has been asked about the rest. A
    panel has the draws of its members. The file of people's draw need not be there.
    """
    if members := members_of(entry.settings):
        entries = (state.manifest.judge(f"{name}.jsonl") for name in members)
        return tuple(dict.fromkeys(file for each in entries for file in draws_of(directory, state, each)))
    waiting = [key for key in state.responses if state.outcome(key, entry.file) is Outcome.NOT_JUDGED]
    if entry.is_human:
        return (FILE,) if waiting else ()
    file = calibration_file(entry.file)
    if not waiting or (audit := read_audit(directory, file)) is None:
        return ()
    # Responses that came after the draw are no part's: as any other judge, it has not come to them yet.
    frame = _frame(audit, state)
    return (file,) if any(key in frame for key in waiting) else ()


def require_whole(directory: Path, state: RunState, entry: JudgeEntry) -> None:
    """Raise ConfigError for a judge that labelled a drawn part: its labels do not compare one by one."""
    if draws_of(directory, state, entry):
        raise ConfigError(
            f"{directory}: {entry.stem} has labelled a drawn part of this run, in "
            "which rare labels come more often than in the run. Name a judge that labelled all of it with "
            "--judge."
        )


def find_part(directory: Path, state: RunState, entry: JudgeEntry) -> FoundPart | None:
    """Return the drawn part that a judge labelled; None for one that is to label everything."""
    draws = draws_of(directory, state, entry)
    if not draws:
        return None
    if len(draws) > 1:
        return FoundPart(DrawnPart(why_no_rates=_DRAWS_DIFFER), {})
    if (audit := read_audit(directory, draws[0])) is None:
        return FoundPart(DrawnPart(why_no_rates=_NO_DRAW), {})
    weights = {item.key: item.weight for item, _ in audit.current(state)}
    is_stopped = not entry.is_human and any(
        state.outcome(key, entry.file) is Outcome.NOT_JUDGED for key in weights
    )
    # The first judge of the run that labelled everything, beside this one.
    reference = next(
        (
            each
            for each in state.manifest.judges
            if each.file != entry.file
            and each.is_asked
            and any(state.label(key, each.file) for key in state.responses)
            and not draws_of(directory, state, each)
        ),
        None,
    )
    frame = _frame(audit, state)
    return FoundPart(
        DrawnPart(
            drawn=len(weights),
            responses=len(frame),
            reference=None if reference is None else Untrusted(reference.stem),
            # As the calibration itself: the old judge's rates, and the change that is to be expected.
            slope=None if entry.is_human else 1.0,
            why_no_rates=_STOPPED if is_stopped else "",
        ),
        {
            key: DrawnResponse(
                weights.get(key, 0.0), None if reference is None else state.label(key, reference.file)
            )
            for key in frame
        },
    )


def _frame(audit: AuditSample, state: RunState) -> set[Key]:
    """Return the responses that could be drawn, as far as the run has them."""
    drawn_from = {each.image_path for each in audit.frame}
    images = {row.sample_id: row.cluster for row in state.manifest.samples}
    return {key for key in state.responses if images.get(key.sample_id) in drawn_from}
