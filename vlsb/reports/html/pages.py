"""The page of runs on the disk: a file, a folder with its images, or a page for each run and one over all."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from vlsb.analysis.summary import Summary
from vlsb.data import thumbnail_webp
from vlsb.data.image_files import quiet_decoder
from vlsb.errors import ConfigError, ImageError, StoreError
from vlsb.files import replace_file
from vlsb.models.prices import PriceTable
from vlsb.records import Sample, Untrusted
from vlsb.reports.encode import for_terminal
from vlsb.reports.exports import with_known_words
from vlsb.reports.html.content import GENERATOR, PageRun, board_content, page_content, page_document
from vlsb.reports.report import counted
from vlsb.reports.stored import StoredRun
from vlsb.store.audit import read_audit
from vlsb.store.listing import find_runs
from vlsb.store.manifest import JudgeEntry, read_manifest
from vlsb.store.summaries import summarize_state

MOST_INLINE = 300
"""This many images fit into one file that opens at once; for more there is a folder, or `--single`."""

MOST_ANSWERS = 10_000
"""This many responses of several runs are looked through in one page; for more, each run has its own."""

# Pixels of a thumbnail's longer side: as wide as the page shows it, and half of that where one file has many.
SIDE, _SMALL_SIDE = 384, 192
# The generator's name stands in the head of a page of ours, which is shorter than this.
_HEAD_BYTES = 4096
_INDEX, _IMAGES = "index.html", "images"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

Say = Callable[[str], None]
Sent = Mapping[str, tuple[StoredRun, Sample]]
"""Of each image that was sent and may still be at hand, by checksum: a run and a sample that have it."""


def page_run(run: StoredRun, prices: PriceTable) -> tuple[PageRun, Sent]:
    """Return what a page shows of a run, and the images that it may show."""
    manifest = run.state.manifest
    judges: Sequence[JudgeEntry | None] = manifest.judges or [None]
    audit = read_audit(run.path)
    page = PageRun(
        name=Untrusted(run.path.resolve().name),
        manifest=manifest,
        people=frozenset(each.file for each in manifest.judges if each.is_human),
        summaries=[
            summarize_state(run.state, run.path, None if each is None else each.file, prices=prices)
            for each in judges
        ],
        answers=[run.answers(each) for each in judges],
        items={} if audit is None else {item.key: item for item, _ in audit.current(run.state)},
    )
    samples = {} if run.dataset is None else {each.id: each for each in run.dataset.samples}
    sent = {
        each.image_sha256: (run, samples[each.key.sample_id])
        for each in page.answers[0]
        if each.image_sha256 is not None and each.image_file is not None
    }
    return page, sent


def write_page(
    paths: Sequence[Path],
    out: Path,
    *,
    single: bool,
    redact: bool,
    data_root: Path | None,
    prices: PriceTable,
    say: Say,
) -> str:
    """Write the page about these runs to `out`, a file if its name ends in .html, else a folder, and say so.

    Raises ConfigError before anything is written where that cannot be done.
    """
    is_file = out.suffix.lower() in (".html", ".htm")
    if single and not is_file:
        raise ConfigError(f"--single writes one file: --html {out}.html.")
    _require_place(out, is_file=is_file)
    places = find_runs(paths)
    load = partial(_load, data_root=data_root, prices=prices, say=say)
    manifests = map(read_manifest, () if single or len(places) == 1 else places)
    if (count := sum(len(each.samples) * each.epochs for each in manifests)) > MOST_ANSWERS:
        if is_file:
            raise ConfigError(
                f"{count:,} responses are too many for one page. Give a folder, as in --html "
                f"{out.with_suffix('')}: a page for each run, and one over all of them."
            )
        return _write_pages(out, places, load, redact=redact, say=say)
    runs = [load(path) for path in places]
    pages = [page for page, _ in runs]
    sent: Sent = {} if redact else {key: each for _, images in runs for key, each in images.items()}
    if is_file and not single and len(sent) > MOST_INLINE:
        raise ConfigError(
            f"{counted(len(sent), 'image')} are too many for one file. Give a folder, as in --html "
            f"{out.with_suffix('')}, or add --single for a large file with smaller images."
        )
    images = _thumbnails(sent, side=_SMALL_SIDE if len(sent) > MOST_INLINE and is_file else SIDE, say=say)
    with _writing(out):
        if is_file:
            urls = {
                checksum: f"data:image/webp;base64,{b64encode(image).decode('ascii')}"
                for checksum, image in images.items()
            }
            out.parent.mkdir(parents=True, exist_ok=True)
            path, how = out, "inline"
        else:
            folder = _image_folder(out)
            names = _write_images(folder, images)
            _remove_images(folder, keep=names.values())
            urls = {checksum: f"{_IMAGES}/{name}" for checksum, name in names.items()}
            path, how = out / _INDEX, "folder"
        document = page_document(
            page_content(pages, images=urls, redact=redact), images=how if urls else "none"
        )
        replace_file(path, [document.encode()])
    return f"The page is {path} ({_megabytes(out)}), {_contents(len(images), redact)}."


def _write_pages(
    out: Path, places: Sequence[Path], load: Callable[[Path], tuple[PageRun, Sent]], *, redact: bool, say: Say
) -> str:
    """Write a page for each run, one run at a time, and the page over all of them; images are shared.

    Pages and images of an earlier time that these do not need are removed.
    """
    summaries: list[Summary] = []
    links: dict[Untrusted, str] = {}
    names: dict[str, str] = {}
    with _writing(out):
        folder = _image_folder(out)
        for number, path in enumerate(places, start=1):
            run, images = load(path)
            sent = {} if redact else images
            made = _thumbnails({key: sent[key] for key in sent if key not in names}, side=SIDE, say=say)
            names |= _write_images(folder, made)
            urls = {checksum: f"{_IMAGES}/{names[checksum]}" for checksum in sent if checksum in names}
            content = page_content([run], images=urls, redact=redact, board=_INDEX)
            name = f"{number:02d}-{_NOT_IN_NAMES.sub('-', for_terminal(run.name)).strip('-.')}.html"
            links |= {each.path: name for each in run.summaries}
            summaries += map(with_known_words, run.summaries) if redact else run.summaries
            replace_file(out / name, [page_document(content, images="folder" if urls else "none").encode()])
        document = page_document(board_content(summaries, links), images="none")
        replace_file(out / _INDEX, [document.encode()])
        for stale in set(out.glob("[0-9]*-*.html")) - {out / name for name in links.values()}:
            if _is_page(stale):
                stale.unlink()
        _remove_images(folder, keep=names.values())
    return (
        f"The page is {out / _INDEX}, with a page for each of {counted(len(places), 'run')} "
        f"({_megabytes(out)}), {_contents(len(names), redact)}."
    )


def _load(path: Path, *, data_root: Path | None, prices: PriceTable, say: Say) -> tuple[PageRun, Sent]:
    run = StoredRun.read(path, data_root)
    if run.dataset is None:
        say(f"{run.lack} Instructions and images are missing: pass --data-root.")
    return page_run(run, prices)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"--html {out}: cannot be written ({error.strerror}).") from error


def _megabytes(out: Path) -> str:
    files = out.rglob("*") if out.is_dir() else [out]
    return f"{sum(each.stat().st_size for each in files if each.is_file()) / 1e6:.1f} MB"


def _contents(images: int, redact: bool) -> str:
    if redact:
        return "without images and without the rest of responses"
    return f"with {counted(images, 'image')}"


def _image_folder(out: Path) -> Path:
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = out / _IMAGES
    if folder.is_symlink():
        raise ConfigError(f"--html {out}: its folder {_IMAGES} is a link. Remove it, or name another folder.")
    folder.mkdir(exist_ok=True)
    return folder


def _write_images(folder: Path, images: Mapping[str, bytes]) -> dict[str, str]:
    """Write a file for each image, and return the files' names by checksum."""
    names = {checksum: f"{checksum[:24]}.webp" for checksum in images}
    for checksum, name in names.items():
        # A page may be a stranger's: nothing is written through a link in it.
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(images[checksum])
    return names


def _remove_images(folder: Path, *, keep: Iterable[str]) -> None:
    for stale in set(folder.glob("*.webp")) - {folder / name for name in keep}:
        stale.unlink()


def _thumbnails(sent: Sent, *, side: int, say: Say) -> dict[str, bytes]:
    """Draw what was sent as small images, by checksum; those that are not at hand any more are left out."""
    if len(sent) > MOST_INLINE:
        say(f"Making {counted(len(sent), 'small image')}.")

    def draw(checksum: str) -> bytes | None:
        run, sample = sent[checksum]
        with suppress(ImageError):
            return thumbnail_webp(run.read_image(sample, checksum), side=side)
        return None

    with quiet_decoder(), ThreadPoolExecutor(os.cpu_count(), "vlsb-thumbnail") as pool:
        drawn = zip(sent, pool.map(draw, sent), strict=True)
        images = {checksum: image for checksum, image in drawn if image is not None}
    if missing := len(sent) - len(images):
        say(f"{counted(missing, 'image')} cannot be shown: not what was sent, or unreadable.")
    return images


def _require_place(out: Path, *, is_file: bool) -> None:
    """Raise ConfigError where the page would replace something else."""
    if is_file and out.is_dir():
        raise ConfigError(f"--html {out} is a folder. Name a file, or a folder without .html.")
    if is_file and out.exists() and not _is_page(out):
        raise ConfigError(f"--html {out} exists and is not a page of vlsb. Name another file.")
    index = out / _INDEX
    holds_page = index.is_file() and _is_page(index)
    if not is_file and out.exists() and not (out.is_dir() and (holds_page or not any(out.iterdir()))):
        raise ConfigError(f"--html {out} exists and holds no page. Name a new folder, or a file with .html.")


def _is_page(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return GENERATOR.encode() in opened.read(_HEAD_BYTES)
    except OSError as error:
        raise ConfigError(f"--html {file}: cannot be read ({error.strerror}).") from error
