"""`vlsb view`: runs in a browser on this machine, live while they are going. Writes nothing but labels."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, NamedTuple

from vlsb.analysis.summary import Summary
from vlsb.cli import options as opt
from vlsb.cli.audit import store_labels
from vlsb.cli.command import command
from vlsb.cli.page import LoadedRun, page_run, read_sent
from vlsb.cli.screen import Screen
from vlsb.cli.show import run_dataset
from vlsb.data import Dataset, media_type, thumbnail_webp
from vlsb.data.image_files import quiet_decoder
from vlsb.errors import ConfigError, VlsbError
from vlsb.evaluation.options import Option
from vlsb.judging.human import GUIDE, human_judge
from vlsb.models.prices import PriceTable, load_prices
from vlsb.records import Untrusted
from vlsb.reports.encode import for_page
from vlsb.reports.figures import rate_figures
from vlsb.reports.html.content import board_content, page_content
from vlsb.reports.html.server import PageServer, Served
from vlsb.reports.html.summary import rate_figure
from vlsb.reports.labelling import parse_sheet
from vlsb.store.audit import require_audit
from vlsb.store.listing import find_runs
from vlsb.store.manifest import read_head
from vlsb.store.state import FINDINGS, VERDICTS, collection_paused, load_state
from vlsb.store.summaries import summarize_run

_SIDE = 384
_KEPT_IMAGES = 4096
_ENDINGS = (".json", ".jsonl")

Json = dict[str, Any]


@command()
def view_command(
    paths: opt.Paths,
    port: Annotated[
        int | None,
        Option(
            "Port on 127.0.0.1. (default: a free one)",
            metavar="N",
            variable="VLSB_VIEW_PORT",
            min=1,
            max=65535,
        ),
    ] = None,
    open_: Annotated[bool, Option("Open it in the system's browser.", variable="VLSB_VIEW_OPEN")] = False,
    data_root: opt.ShownDataRoot = None,
    prices: opt.Prices = None,
) -> int:
    """Look through runs in a browser, also while they are going. Ctrl-C ends it."""
    screen = Screen()
    find_runs(paths)
    site = RunSite(paths, data_root=data_root, prices=load_prices(prices))
    server = _server(site, port)
    # Warning filters belong to the process, and images are drawn by many threads.
    with quiet_decoder(), server:
        try:
            screen.result(
                f"{server.address}\nFor this machine alone, and for whoever has the address. Ctrl-C ends it."
            )
            if open_:
                webbrowser.open(server.address)
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def _server(site: RunSite, port: int | None) -> PageServer:
    try:
        return PageServer(site, port=port or 0)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot be used ({error.strerror}). Leave it out for a free one."
        ) from error


class RunSite:
    """The runs below some paths, as `PageServer` serves them. A run is known by a checksum of its place."""

    def __init__(self, paths: Sequence[Path], *, data_root: Path | None, prices: PriceTable) -> None:
        self._paths, self._data_root, self._prices = paths, data_root, prices
        # One thread at a time reads runs: they come from one disk and cost what the interpreter gives.
        self._lock = Lock()
        self._datasets: dict[Path, Dataset | None] = {}
        self._content: tuple[str, Json] | None = None
        self._summaries: dict[str, tuple[str, list[Summary]]] = {}
        self._sent: dict[str, LoadedRun] = {}
        self._small = lru_cache(_KEPT_IMAGES)(self._draw_small)

    def runs(self) -> list[Json]:
        """Name, target, judges and time of the last change of every run, the newest first."""
        found = [_listed(key, path) for key, path in self._places().items()]
        return sorted(found, key=lambda each: str(each["changed_at"]), reverse=True)

    def rates(self, key: str) -> Json:
        """The safe rate by each judge of a run, with interval and counts."""
        return {"rates": [_rates(each) for each in self._summarized(key, self._places()[key])]}

    def board(self, keys: Sequence[str]) -> Json:
        """What these runs come to, or all where none is named; one that is damaged is left out and named."""
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
        """A checksum over names, sizes and times of the runs' files; of all runs where none is named."""
        places = self._places()
        chosen = {key: places[key] for key in keys} if keys else places
        return sha256(
            "".join(f"{key}{_stamp(_files(path))}" for key, path in chosen.items()).encode()
        ).hexdigest()

    def content(self, keys: Sequence[str]) -> Json:
        """The content of a page about these runs, or the list of all where none is named."""
        live: Json = {"stamp": self.stamp(keys), "keys": list(keys)}
        if not keys:
            return page_content([], images={}, guide={}, live=live | {"list": self.runs()})
        places = self._places()
        name = " ".join((*keys, live["stamp"]))
        with self._lock:
            if self._content is None or self._content[0] != name:
                runs = [self._load(places[key]) for key in keys]
                self._sent |= {checksum: run for run in runs for checksum in run.sent}
                images = {checksum: f"image/{checksum}" for run in runs for checksum in run.sent}
                pages = [each.page for each in runs]
                self._content = (name, page_content(pages, images=images, guide=GUIDE, live=live))
            return self._content[1]

    def image(self, checksum: str, *, is_full: bool) -> Served:
        """An image that a page shows: drawn anew and small, or as the target was sent it."""
        if not is_full:
            return Served(self._small(checksum), "image/webp")
        content = read_sent(self._sent[checksum], checksum)
        return Served(content, media_type(content))

    def label(self, key: str, annotator: str, sheet: bytes) -> str:
        """Store a person's labels in a run."""
        human_judge(annotator)
        path = self._places()[key]
        return store_labels(path, require_audit(path), parse_sheet(sheet), annotator)

    def _draw_small(self, checksum: str) -> bytes:
        return thumbnail_webp(read_sent(self._sent[checksum], checksum), side=_SIDE)

    def _load(self, path: Path) -> LoadedRun:
        with collection_paused():
            state = load_state(path)
            if path not in self._datasets:
                self._datasets[path] = run_dataset(path, state.manifest, self._data_root)
            return page_run(path, state, self._datasets[path], prices=self._prices)

    def _places(self) -> dict[str, Path]:
        """Where each run is: looked up anew, since runs begin while they are looked at."""
        return {sha256(bytes(path.resolve())).hexdigest()[:16]: path for path in find_runs(self._paths)}


class _File(NamedTuple):
    """A file of a run as it is now."""

    name: str
    size: int
    mtime_ns: int


def _files(path: Path) -> list[_File]:
    """The files of a run that hold what a page shows."""
    found = []
    for folder in (path, path / VERDICTS, path / FINDINGS):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(_ENDINGS) and not entry.name.startswith("."):
                    status = entry.stat(follow_symlinks=False)
                    found.append(_File(entry.name, status.st_size, status.st_mtime_ns))
    return sorted(found)


def _stamp(files: Sequence[_File]) -> str:
    """What changes whenever one of the files does."""
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
