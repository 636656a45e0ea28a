"""How long a page takes to open and to filter in a real browser, at full size and ten times that.

    python -m benchmarks.page [--sizes 2241,22410] [--rounds 5]

The runs are made up, and so are the small images: noise of the size that photographs have as WebP, in the
file itself. Opening is from the navigation to the first painted list; a change is from the key or click to
the next painted frame. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.data import DATA
from benchmarks.results import Target
from benchmarks.run_directories import make_run

NAME = "page"
FULL, SIDE = 2241, 96
MOST_TO_OPEN_S, MOST_TO_CHANGE_MS, MOST_TO_CHANGE_LARGE_MS = 2.0, 100.0, 500.0
QUERIES = ("a", "step", "picture 17", "nothing has this")

OPENED = """() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => {
    if (document.querySelectorAll(".row").length === 0) throw new Error("no list");
    done(performance.now());
})))"""
CHANGED = """(act) => new Promise((done) => {
    const began = performance.now();
    if (typeof act === "string") {
        const search = document.getElementById("search");
        search.value = act;
        search.dispatchEvent(new InputEvent("input"));
    } else document.querySelectorAll("[data-choice]")[act].click();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One page: its size, the seconds to write it without drawing images, and what the browser took."""

    megabytes: float
    write_s: float
    open_s: list[float]
    search_ms: list[float]
    filter_ms: list[float]


def browser_path() -> str | None:
    """The system's Chromium, None if there is none or nothing to steer it with."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return None
    return shutil.which("chromium") or shutil.which("google-chrome")


def write_page(root: Path, samples: int) -> tuple[Path, float]:
    """The page of a made-up run, and the seconds that reading the run and writing it took."""
    from vlsb.models.prices import load_prices
    from vlsb.reports.html.content import page_content, page_document
    from vlsb.reports.html.pages import page_run
    from vlsb.reports.stored import StoredRun

    directory = make_run(root, samples)
    images = _Noise()
    began = time.perf_counter()
    run, sent = page_run(StoredRun.read(directory, root / f"rows-{samples}"), load_prices(None))
    urls = {checksum: images.url() for checksum in sent}
    text = page_document(page_content([run], images=urls), images="inline")
    took = time.perf_counter() - began - images.took_s
    path = root / f"page-{samples}.html"
    path.write_text(text, "utf-8")
    return path, took


class _Noise:
    """Images of noise as data URLs, and the time that drawing them took."""

    def __init__(self) -> None:
        self.took_s = 0.0
        self._draws = random.Random(1)

    def url(self) -> str:
        from PIL import Image

        began, file = time.perf_counter(), io.BytesIO()
        Image.frombytes("RGB", (SIDE, SIDE), self._draws.randbytes(SIDE * SIDE * 3)).save(file, "WEBP")
        self.took_s += time.perf_counter() - began
        return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def measure(page: Path, write_s: float, *, rounds: int) -> Measured:
    """Open the page so many times, and search and filter in it."""
    from playwright.sync_api import sync_playwright

    opened, searched, filtered = [], [], []
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path(), args=flags)
        for _ in range(rounds):
            window = browser.new_page(viewport={"width": 1440, "height": 900})
            window.goto(f"{page.as_uri()}#view=samples", wait_until="commit")
            window.wait_for_selector(".row")
            opened.append(window.evaluate(OPENED) / 1000)
            searched += [window.evaluate(CHANGED, query) for query in (*QUERIES, "")]
            filtered += [window.evaluate(CHANGED, choice) for choice in (0, 1, 1, 0)]
            window.close()
        browser.close()
    return Measured(page.stat().st_size / 1e6, write_s, opened, searched, filtered)


def targets(found: Mapping[int, Measured]) -> list[Target]:
    """The claims about a full run, and that ten times its size stays usable."""
    smallest, largest = min(found), max(found)
    opening = median(found[smallest].open_s)
    said = [
        Target(
            f"a page of {smallest:,} samples with images opens in {MOST_TO_OPEN_S:g} s",
            f"{opening:.2f} s",
            opening <= MOST_TO_OPEN_S,
        ),
        Target(
            f"and searches and filters in {MOST_TO_CHANGE_MS:g} ms",
            _changes(found[smallest]),
            _change(found[smallest]) <= MOST_TO_CHANGE_MS,
        ),
    ]
    if largest > smallest:
        is_met = _change(found[largest]) <= MOST_TO_CHANGE_LARGE_MS
        claim = f"one of {largest:,} searches and filters in {MOST_TO_CHANGE_LARGE_MS:g} ms"
        said.append(Target(claim, _changes(found[largest]), is_met))
    return said


def _change(measured: Measured) -> float:
    """The slower kind's median."""
    return max(median(measured.search_ms), median(measured.filter_ms))


def _changes(measured: Measured) -> str:
    slowest = max(*measured.search_ms, *measured.filter_ms)
    return f"{_change(measured):.0f} ms (slowest {slowest:.0f} ms)"


def render(result: Mapping[str, Any]) -> str:
    """Targets, and a row a size."""
    found = {int(size): Measured(**fields) for size, fields in result["sizes"].items()}
    header = (
        *("samples", "file MB", "written in s", "opened in s", "search ms", "slowest search ms"),
        *("filter ms", "slowest filter ms"),
    )
    rows = [
        (
            f"{size:,}",
            f"{each.megabytes:.1f}",
            f"{each.write_s:.1f}",
            f"{median(each.open_s):.2f}",
            *(f"{of(ms):.0f}" for ms in (each.search_ms, each.filter_ms) for of in (median, max)),
        )
        for size, each in sorted(found.items())
    ]
    browser = f"Chromium {result['browser']}."
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows), browser))


def _browser_version() -> str:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=browser_path(), args=flags)
        try:
            return str(browser.version)
        finally:
            browser.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=f"{FULL},{10 * FULL}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    if browser_path() is None:
        raise SystemExit("There is no Chromium here, or no playwright: uv sync --group extras.")
    found = {}
    for size in map(int, chosen.sizes.split(",")):
        found[size] = measure(*write_page(chosen.data, size), rounds=chosen.rounds)
        print(f"{size}: {found[size]}", file=sys.stderr, flush=True)
    sizes = {str(size): asdict(each) for size, each in found.items()}
    result = {"sizes": sizes, "browser": _browser_version(), "targets": results.as_fields(targets(found))}
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
