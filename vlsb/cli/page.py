"""`vlsb report` with `--html`: runs as a page. Reads runs and data set, writes the file or the folder."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from vlsb.analysis.summary import Summary
from vlsb.cli.screen import Screen
from vlsb.cli.show import missing_data, run_dataset, stored_answers
from vlsb.data import Dataset, thumbnail_webp
from vlsb.data.image_files import quiet_decoder
from vlsb.errors import ConfigError, ImageError, StoreError
from vlsb.files import replace_file
from vlsb.judging.human import GUIDE
from vlsb.models.prices import PriceTable
from vlsb.records import Key, Sample, Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.exports import with_known_words
from vlsb.reports.figures import counted
from vlsb.reports.html.content import GENERATOR, PageRun, board_content, page_content, page_document
from vlsb.store.audit import AuditItem, read_audit
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry, read_manifest
from vlsb.store.state import RunState, collection_paused, load_state
from vlsb.store.summaries import summarize_state

MOST_INLINE = 300
"""So many images fit into one file that opens at once; for more there is a folder, or `--single`."""

MOST_ANSWERS = 10_000
"""So many responses of several runs are looked through in one page; for more, each run has its own."""

_SIDE, _SMALL_SIDE = 384, 192
_HEAD_BYTES = 4096
_INDEX, _IMAGES = "index.html", "images"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


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
    places = find_runs(paths)
    load = partial(load_run, data_root=data_root, prices=prices, screen=screen)
    if not single and len(places) > 1 and (count := sum(map(_answer_count, places))) > MOST_ANSWERS:
        if is_file:
            raise ConfigError(
                f"{count:,} responses are many for one page. Give a folder, as in --html "
                f"{out.with_suffix('')}: a page for each run, and one over all of them."
            )
        return _write_pages(out, places, load, redact=redact, screen=screen)
    runs = [load(path) for path in places]
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
    screen.answer(f"The page is {written} ({_megabytes(out)}), {_shown(len(images), redact)}.")


def _megabytes(out: Path) -> str:
    files = out.rglob("*") if out.is_dir() else [out]
    return f"{sum(each.stat().st_size for each in files if each.is_file()) / 1e6:.1f} MB"


def _shown(images: int, redact: bool) -> str:
    if redact:
        return "without images and without the rest of responses"
    return f"with {counted(images, 'image')}"


def _answer_count(path: Path) -> int:
    manifest = read_manifest(path)
    return len(manifest.samples) * manifest.epochs


def _write_pages(
    out: Path, places: Sequence[Path], load: Callable[[Path], LoadedRun], *, redact: bool, screen: Screen
) -> None:
    """A page for each run, one run at a time, and the page over all of them; images are shared.

    Pages and images of an earlier time that these do not need are removed.
    """
    summaries: list[Summary] = []
    links: dict[Untrusted, str] = {}
    names: dict[str, str] = {}
    try:
        folder = _image_folder(out)
        for number, path in enumerate(places, start=1):
            run = load(path)
            sent = {} if redact else dict.fromkeys(run.sent, run)
            made = _thumbnails({each: run for each in sent if each not in names}, side=_SIDE, screen=screen)
            names |= _written_images(folder, made)
            urls = {checksum: f"{_IMAGES}/{names[checksum]}" for checksum in sent if checksum in names}
            content = page_content([run.page], images=urls, guide=GUIDE, redact=redact, board=_INDEX)
            name = f"{number:02d}-{_NOT_IN_NAMES.sub('-', for_terminal(run.page.name)).strip('-.')}.html"
            links |= {each.path: name for each in run.page.summaries}
            summaries += map(with_known_words, run.page.summaries) if redact else run.page.summaries
            replace_file(out / name, [page_document(content, images="folder" if urls else "none").encode()])
        document = page_document(board_content(summaries, links), images="none")
        replace_file(out / _INDEX, [document.encode()])
        for stale in set(out.glob("[0-9]*-*.html")) - {out / name for name in links.values()}:
            if _is_page(stale):
                stale.unlink()
        _remove_images(folder, keep=names.values())
    except OSError as error:
        raise StoreError(f"--html {out}: cannot be written ({error.strerror}).") from error
    screen.answer(
        f"The page is {out / _INDEX}, with a page for each of {counted(len(places), 'run')} "
        f"({_megabytes(out)}), {_shown(len(names), redact)}."
    )


def _image_folder(out: Path) -> Path:
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = out / _IMAGES
    if folder.is_symlink():
        raise ConfigError(f"--html {out}: its folder {_IMAGES} is a link. Remove it, or name another folder.")
    folder.mkdir(exist_ok=True)
    return folder


def _written_images(folder: Path, images: Mapping[str, bytes]) -> dict[str, str]:
    """The names of the files that images are in, by checksum."""
    names = {checksum: f"{checksum[:24]}.webp" for checksum in images}
    for checksum, name in names.items():
        # A page may be a stranger's: nothing is written through a link in it.
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(images[checksum])
    return names


def _remove_images(folder: Path, *, keep: Iterable[str]) -> None:
    for stale in set(folder.glob("*.webp")) - {folder / name for name in keep}:
        stale.unlink()


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
    folder = _image_folder(out)
    names = _written_images(folder, images)
    _remove_images(folder, keep=names.values())
    urls = {checksum: f"{_IMAGES}/{name}" for checksum, name in names.items()}
    content = page_content([each.page for each in runs], images=urls, guide=GUIDE, redact=redact)
    replace_file(out / _INDEX, [page_document(content, images="folder" if urls else "none").encode()])
    return out / _INDEX
