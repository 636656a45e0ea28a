"""Pages of two runs in a real Chromium, which the system has to bring: without one, tests are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, Request, SimulatorThread, answer, error, verdict

AXE = "axe-core@4.14.1"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = (
    "</script><script>window.fired=1</script><img src=x onerror=window.fired=2>'\"><svg onload=window.fired=3"
    "><a href='javascript:window.fired=4'>link</a><!-- {{script}} {{content}} &lt; \u202egnihton\u2066 ]]>"
    "\x1b[31m <style>*{display:none}"
)
"""What tries to become markup, leave its script element, be filled in, or turn the line round."""
HOSTILE_ID, FAILED_ID = 3, 5
SAMPLES = 12
LABELS = {0: 1, 1: 2, 2: 3, 4: 1}
"""Labels of the first run; the others are 3. The second run's are one higher, and 1 after 3."""


def respond(request: Request) -> Action:
    """Both targets and the judge: the words of an answer name its sample and its target."""
    number = sample_of(request)
    is_second = "second" in (request.judged_response or "") or request.model == "second"
    if request.is_judge:
        if number == FAILED_ID:
            return error(400, code="strange", message=f"The judge says no. {HOSTILE}")
        label = LABELS.get(number, 3)
        label = label % 3 + 1 if is_second and number in LABELS else label
        return verdict(label, HOSTILE if number == HOSTILE_ID else f"Because of {number}.", model=HOSTILE)
    name = "second" if is_second else "first"
    words = f"The {name} answer to {number} names a colour."
    return answer(f"{words} {HOSTILE}" if number == HOSTILE_ID else words, model=HOSTILE)


def rows() -> list[dict[str, Any]]:
    """The samples: every text of one is hostile, as far as a selection lets it."""
    hostile = {
        "instruction": f"Question {HOSTILE_ID}? {HOSTILE}",
        **dict.fromkeys(
            ("category", "sub_category", "source", "image_description", "safety_reason"), HOSTILE
        ),
    }
    return [sample_row(each, **(hostile if each == HOSTILE_ID else {})) for each in range(SAMPLES)]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Two runs of the same samples, the first one with a drawn sample to label. Only to be read."""
    desk = Desk(tmp_path_factory.mktemp("page"))
    write_dataset(desk.data, rows())
    with SimulatorThread(respond) as simulator:
        for name in ("first", "second"):
            done = desk.run(simulator, "--model", name, "--name", name, "--fail-on-error", 2)
            assert done.code == 0, done.err
    done = desk.vlsb("audit", "sample", "outputs/first", "--n", 6)
    assert done.code == 0, done.err
    return desk


def write_page(desk: Desk, name: str, *words: object) -> Path:
    """A page of these runs, written by the command."""
    path = desk.home / name
    done = desk.vlsb("report", *words, "--html", path)
    assert done.code == 0, done.err
    return path


@pytest.fixture(scope="session")
def one(runs: Desk) -> Path:
    """The page of the first run."""
    return write_page(runs, "one.html", "outputs/first")


@pytest.fixture(scope="session")
def two(runs: Desk) -> Path:
    """The page of both runs."""
    return write_page(runs, "two.html", "outputs/first", "outputs/second")


@contextmanager
def started_chromium() -> Iterator[Any]:
    """The system's own browser; skips where there is none."""
    library = pytest.importorskip("playwright.sync_api")
    path = next((found for each in BROWSERS if (found := shutil.which(each))), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    # A browser's sandbox takes no user root, as in a container.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with library.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for the tests of a module: as long as its driver is there, no other event loop can run."""
    with started_chromium() as browser:
        yield browser


class Visit:
    """One window on a page, with everything that it asked for and complained about."""

    def __init__(self, browser: Any, **settings: Any) -> None:
        self._context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | settings)
        self.page = self._context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: Path, state: str = "") -> Any:
        """The page at an address that means this state."""
        self.page.goto(f"{path.as_uri()}#{state}")
        return self.page

    def close(self) -> None:
        """Close the window; whatever the page complained about is a failure."""
        self._context.close()
        assert self.complaints == []


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    """A window of 1440 by 900."""
    found = Visit(chromium)
    yield found
    found.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checker of accessibility, which is not part of this project."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        [npm, "install", "--no-save", "--ignore-scripts", "--prefix", folder, AXE],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"{AXE} cannot be installed: {done.stderr[-200:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")
