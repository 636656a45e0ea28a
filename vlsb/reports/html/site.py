"""The runs below some paths as `PageServer` serves them, read anew when their files change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from vlsb.analysis.summary import Summary
from vlsb.data import media_type, thumbnail_webp
from vlsb.errors import VlsbError
from vlsb.models.prices import PriceTable
from vlsb.records import Sample, Untrusted
from vlsb.reports.encode import for_page
from vlsb.reports.figures import rate_figures
from vlsb.reports.html.content import board_content, page_content
from vlsb.reports.html.pages import SIDE, page_run
from vlsb.reports.html.server import Served
from vlsb.reports.html.summary import rate_figure
from vlsb.reports.stored import StoredRun
from vlsb.store.listing import find_runs
from vlsb.store.manifest import read_head
from vlsb.store.state import FINDINGS, VERDICTS
from vlsb.store.summaries import summarize_run

# Thumbnails of 4 KB or so: 16 MB at most, and a run of the full set has 1,957 images.
_KEPT_IMAGES = 4096
_ENDINGS = (".json", ".jsonl")

Json = dict[str, Any]


class RunSite:
    """The runs below some paths, as `PageServer` serves them. A run is known by a checksum of its place."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        data_root: Path | None,
        prices: PriceTable,
        store_labels: Callable[[Path, str, bytes], str],
    ) -> None:
        """`store_labels` stores in a run what an annotator of this name has put into a sheet."""
        self._paths, self._data_root, self._prices = paths, data_root, prices
        self._store_labels = store_labels
        # One thread at a time reads runs: they come from one disk and cost what the interpreter gives.
        self._lock = Lock()
        self._runs: dict[Path, StoredRun] = {}
        self._content: tuple[str, Json] | None = None
        self._summaries: dict[str, tuple[str, list[Summary]]] = {}
        self._sent: dict[str, tuple[StoredRun, Sample]] = {}
        self._small = lru_cache(_KEPT_IMAGES)(self._draw_small)

    def runs(self) -> list[Json]:
        """Return name, target, judges and time of the last change of every run, the newest first."""
        runs = [_listed(key, path) for key, path in self._places().items()]
        return sorted(runs, key=lambda each: str(each["changed_at"]), reverse=True)

    def rates(self, key: str) -> Json:
        """Return the safe rate by each judge of a run, with interval and counts."""
        return {"rates": [_rates(each) for each in self._summarized(key, self._places()[key])]}

    def board(self, keys: Sequence[str]) -> Json:
        """Return what these runs, or all, come to; one that is damaged is left out and named."""
        stamp, places = self.stamp(keys), self._places()
        chosen = {key: places[key] for key in keys} if keys else places
        summaries: list[Summary] = []
        left_out = []
        for key, path in chosen.items():
            try:
                summaries += self._summarized(key, path)
            except VlsbError as error:
                left_out.append(for_page(Untrusted(f"{path.resolve().name}: {error.message}")))
        links = {Untrusted(str(path)): f"page?run={key}" for key, path in chosen.items()}
        live: Json = {"stamp": stamp, "keys": list(keys), "board": True}
        return board_content(summaries, links, left_out=left_out, live=live)

    def _summarized(self, key: str, path: Path) -> list[Summary]:
        stamp = _stamp(_files(path))
        with self._lock:
            if self._summaries.get(key, ("", []))[0] != stamp:
                self._summaries[key] = (stamp, summarize_run(path, prices=self._prices))
            return self._summaries[key][1]

    def stamp(self, keys: Sequence[str]) -> str:
        """Return a checksum over names, sizes and times of the files of these runs, or of all."""
        places = self._places()
        chosen = {key: places[key] for key in keys} if keys else places
        return sha256(
            "".join(f"{key}{_stamp(_files(path))}" for key, path in chosen.items()).encode()
        ).hexdigest()

    def content(self, keys: Sequence[str]) -> Json:
        """Return the content of a page about these runs, or the list of all where none is named."""
        live: Json = {"stamp": self.stamp(keys), "keys": list(keys)}
        if not keys:
            return page_content([], images={}, live=live | {"list": self.runs()})
        places = self._places()
        name = " ".join((*keys, live["stamp"]))
        with self._lock:
            if self._content is None or self._content[0] != name:
                runs = [page_run(self._read(places[key]), self._prices) for key in keys]
                sent = {checksum: each for _, images in runs for checksum, each in images.items()}
                self._sent |= sent
                urls = {checksum: f"image/{checksum}" for checksum in sent}
                self._content = (name, page_content([page for page, _ in runs], images=urls, live=live))
            return self._content[1]

    def image(self, checksum: str, *, is_full: bool) -> Served:
        """Return an image that a page shows: drawn anew and small, or as the target was sent it."""
        if not is_full:
            return Served(self._small(checksum), "image/webp")
        content = self._image(checksum)
        return Served(content, media_type(content))

    def label(self, key: str, annotator: str, sheet: bytes) -> str:
        """Store a person's labels in a run."""
        return self._store_labels(self._places()[key], annotator, sheet)

    def _image(self, checksum: str) -> bytes:
        run, sample = self._sent[checksum]
        return run.read_image(sample, checksum)

    def _draw_small(self, checksum: str) -> bytes:
        return thumbnail_webp(self._image(checksum), side=SIDE)

    def _read(self, path: Path) -> StoredRun:
        """Read a run; its data set is read once, which is most of the work."""
        stored = self._runs.get(path)
        self._runs[path] = StoredRun.read(path, self._data_root) if stored is None else stored.again()
        return self._runs[path]

    def _places(self) -> dict[str, Path]:
        """Return where each run is: looked up anew, since runs begin while they are looked at."""
        return {sha256(bytes(path.resolve())).hexdigest()[:16]: path for path in find_runs(self._paths)}


class _File(NamedTuple):
    """A file of a run as it is now."""

    name: str
    size: int
    mtime_ns: int


def _files(path: Path) -> list[_File]:
    """Return the files of a run that hold what a page shows."""
    files = []
    for folder in (path, path / VERDICTS, path / FINDINGS):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(_ENDINGS) and not entry.name.startswith("."):
                    status = entry.stat(follow_symlinks=False)
                    files.append(_File(entry.name, status.st_size, status.st_mtime_ns))
    return sorted(files)


def _stamp(files: Sequence[_File]) -> str:
    """Return what changes whenever one of the files does."""
    return sha256(repr(files).encode()).hexdigest()[:16]


def _listed(key: str, path: Path) -> Json:
    files = _files(path)
    changed = max((file.mtime_ns for file in files), default=0) / 1e9
    listed: Json = {
        "key": key,
        "stamp": _stamp(files),
        "name": for_page(Untrusted(path.resolve().name)),
        "changed_at": datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds"),
    }
    try:
        head = read_head(path)
    except VlsbError as error:
        return listed | {"error": for_page(Untrusted(error.message))}
    return listed | {
        "target": for_page(head.target),
        "judges": [for_page(Untrusted(each.stem)) for each in head.judges],
        "simulated": head.simulated,
    }


def _rates(summary: Summary) -> Json:
    rates = summary.rates
    estimated = "" if summary.part is None or rates.safe_rate is None else f", {rates.estimate}"
    return {
        "judge": None if summary.judge is None else f"{for_page(summary.judge)}{estimated}",
        "figures": list(rate_figures(rates)),
        "figure": rate_figure(rates),
    }
