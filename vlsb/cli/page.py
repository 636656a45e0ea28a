"""`vlsb report` with `--html`: runs as a page. Reads runs and data set, writes the file or the folder."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from vlsb.cli.screen import Screen
from vlsb.cli.show import missing_data, run_dataset, stored_answers
from vlsb.data import Dataset, thumbnail_webp
from vlsb.data.pictures import quiet_decoder
from vlsb.errors import ConfigError, ImageError, StoreError
from vlsb.files import replace_file
from vlsb.judging.human import GUIDE
from vlsb.models.prices import PriceTable
from vlsb.records import Key, Sample, Untrusted
from vlsb.reports.figures import counted
from vlsb.reports.html.content import PageRun, page_content
from vlsb.reports.html.document import GENERATOR, page_document
from vlsb.store.audit import AuditItem, read_audit
from vlsb.store.manifest import JudgeEntry
from vlsb.store.state import RunState, collection_paused, load_state
from vlsb.store.summaries import find_runs, summarize_state

MOST_INLINE = 300
"""So many images fit into one file that opens at once; for more there is a folder, or `--single`."""

_SIDE, _SMALL_SIDE = 384, 192
_HEAD_BYTES = 4096
_INDEX, _IMAGES = "index.html", "images"


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run with what its page needs, and the data set that it was made from, None if that is not at hand."""

    page: PageRun
    dataset: Dataset | None
    sent: Mapping[str, Sample]
    """Of each image that was sent and may still be at hand, by checksum: a sample that has it."""


def write_page(
    paths: Sequence[Path],
    out: Path,
    *,
    single: bool,
    redact: bool,
    data_root: Path | None,
    prices: PriceTable,
    screen: Screen,
) -> None:
    """Write the page about these runs to `out`: a file if its name ends in .html, else a folder.

    Raises ConfigError before anything is written where that cannot be done.
    """
    is_file = out.suffix.lower() in (".html", ".htm")
    if single and not is_file:
        raise ConfigError(f"--single writes one file: --html {out}.html.")
    _require_place(out, is_file=is_file)
    runs = [load_run(path, data_root=data_root, prices=prices, screen=screen) for path in find_runs(paths)]
    sent = {} if redact else {checksum: run for run in runs for checksum in run.sent}
    if is_file and not single and len(sent) > MOST_INLINE:
        raise ConfigError(
            f"{counted(len(sent), 'image')} are many for one file. Give a folder, as in --html "
            f"{out.with_suffix('')}, or add --single for a large file with smaller images."
        )
    images = _thumbnails(
        sent, side=_SMALL_SIDE if len(sent) > MOST_INLINE and is_file else _SIDE, screen=screen
    )
    try:
        written = (
            _write_file(out, runs, images, redact) if is_file else _write_folder(out, runs, images, redact)
        )
    except OSError as error:
        raise StoreError(f"--html {out}: cannot be written ({error.strerror}).") from error
    size = sum(each.stat().st_size for each in (out.rglob("*") if out.is_dir() else [out]) if each.is_file())
    shown = (
        "without images and without the rest of responses"
        if redact
        else f"with {counted(len(images), 'image')}"
    )
    screen.result(f"The page is {written} ({size / 1e6:.1f} MB), {shown}.")


def load_run(path: Path, *, data_root: Path | None, prices: PriceTable, screen: Screen) -> LoadedRun:
    """Read a run for its page, and say what its data set lacks."""
    with collection_paused():
        state = load_state(path)
        dataset = run_dataset(path, state.manifest, data_root)
        if dataset is None:
            screen.notice(f"{missing_data(path)} Instructions and images are missing: pass --data-root.")
        return page_run(path, state, dataset, prices=prices)


def page_run(path: Path, state: RunState, dataset: Dataset | None, *, prices: PriceTable) -> LoadedRun:
    """A run that was read, as its page shows it."""
    judges: Sequence[JudgeEntry | None] = state.manifest.judges or [None]
    page = PageRun(
        name=Untrusted(path.resolve().name),
        manifest=state.manifest,
        people=frozenset(each.file for each in state.manifest.judges if each.is_human),
        summaries=[
            summarize_state(state, path, None if each is None else each.file, prices=prices)
            for each in judges
        ],
        answers=[stored_answers(state, each, dataset) for each in judges],
        items=_drawn(path, state),
    )
    return LoadedRun(page, dataset, _sent(page, dataset))


def _drawn(path: Path, state: RunState) -> dict[Key, AuditItem]:
    audit = read_audit(path)
    return {} if audit is None else {item.key: item for item, _ in audit.current(state)}


def _sent(page: PageRun, dataset: Dataset | None) -> dict[str, Sample]:
    if dataset is None:
        return {}
    samples = {each.id: each for each in dataset.samples}
    return {
        answer.image_sha256: samples[answer.key.sample_id]
        for answer in page.answers[0]
        if answer.image_sha256 is not None and answer.image_file is not None
    }


def _thumbnails(sent: Mapping[str, LoadedRun], *, side: int, screen: Screen) -> dict[str, bytes]:
    """By checksum, what was sent as a small image; those that are not at hand any more are left out."""
    if len(sent) > MOST_INLINE:
        screen.notice(f"Making {counted(len(sent), 'small image')}.")
    with quiet_decoder(), ThreadPoolExecutor(os.cpu_count(), "vlsb-thumbnail") as pool:
        made = pool.map(partial(_thumbnail, side=side), sent.items())
        found = {checksum: image for checksum, image in zip(sent, made, strict=True) if image is not None}
    if missing := len(sent) - len(found):
        screen.notice(f"{counted(missing, 'image')} cannot be shown: not what was sent, or unreadable.")
    return found


def _thumbnail(sent: tuple[str, LoadedRun], *, side: int) -> bytes | None:
    checksum, run = sent
    with suppress(ImageError):
        return thumbnail_webp(read_sent(run, checksum), side=side)
    return None


def read_sent(run: LoadedRun, checksum: str) -> bytes:
    """The image of that checksum. Raises ImageError where it is not at hand as it was sent."""
    if run.dataset is None:
        raise ImageError("the data set is not at hand")
    content = run.dataset.read(run.sent[checksum])
    if sha256(content).hexdigest() != checksum:
        raise ImageError("image is not the one that the target was sent")
    return content


def _require_place(out: Path, *, is_file: bool) -> None:
    """Raise ConfigError where the page would replace what is none."""
    if is_file and out.is_dir():
        raise ConfigError(f"--html {out} is a folder. Name a file, or a folder without .html.")
    if is_file and out.exists() and not _is_page(out):
        raise ConfigError(f"--html {out} is there and is no page of vlsb. Name another file.")
    if not is_file and out.exists() and not (out.is_dir() and (_holds_page(out) or not any(out.iterdir()))):
        raise ConfigError(
            f"--html {out} is there and holds no page. Name a new folder, or a file with .html."
        )


def _holds_page(folder: Path) -> bool:
    return (folder / _INDEX).is_file() and _is_page(folder / _INDEX)


def _is_page(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return GENERATOR.encode() in opened.read(_HEAD_BYTES)
    except OSError as error:
        raise ConfigError(f"--html {file}: cannot be read ({error.strerror}).") from error


def _write_file(out: Path, runs: Iterable[LoadedRun], images: Mapping[str, bytes], redact: bool) -> Path:
    urls = {
        checksum: f"data:image/webp;base64,{b64encode(image).decode('ascii')}"
        for checksum, image in images.items()
    }
    content = page_content([each.page for each in runs], images=urls, guide=GUIDE, redact=redact)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, [page_document(content, images="inline" if urls else "none").encode()])
    return out


def _write_folder(out: Path, runs: Iterable[LoadedRun], images: Mapping[str, bytes], redact: bool) -> Path:
    """Images of an earlier page that this one does not show are removed."""
    names = {checksum: f"{checksum[:24]}.webp" for checksum in images}
    folder = out / _IMAGES
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    for stale in set(folder.glob("*.webp")) - {folder / name for name in names.values()}:
        stale.unlink()
    for checksum, name in names.items():
        (folder / name).write_bytes(images[checksum])
    urls = {checksum: f"{_IMAGES}/{name}" for checksum, name in names.items()}
    content = page_content([each.page for each in runs], images=urls, guide=GUIDE, redact=redact)
    replace_file(out / _INDEX, [page_document(content, images="folder" if urls else "none").encode()])
    return out / _INDEX
