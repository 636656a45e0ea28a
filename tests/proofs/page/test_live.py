"""`vlsb view`: who may ask, what it tells while a run grows, and the one thing that it writes."""

from __future__ import annotations

import asyncio
import http.client
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.proofs.page.conftest import Visit
from tests.support.command import Desk
from tests.support.datasets import write_dataset
from tests.support.endpoint import persona, sample_of
from tests.support.run_files import tree
from vlsb.simulator import Reply, Request, SimulatorThread

SAMPLES = 8


@contextmanager
def viewed(desk: Desk, *words: object) -> Iterator[str]:
    """The address at which the runs of a desk are seen."""
    with desk.vlsb.start("view", "outputs", *words) as process:
        process.wait_until(lambda: "http://" in process.out, what="an address")
        yield process.out.split()[0]


@pytest.fixture(scope="module")
def shared(runs: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, str]]:
    """Two finished runs, seen. Only to be read."""
    desk = runs.copied_to(tmp_path_factory.mktemp("view") / "desk")
    with viewed(desk) as address:
        yield desk, address


def open_run(page: Any, address: str, name: str) -> None:
    """Go to the list of runs, and to the page of one."""
    page.goto(address)
    page.get_by_role("link", name=name).click()
    page.wait_for_url("**/page?**")


def ask(address: str, path: str = "", method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Status and body of a request below the address."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, parts.path + path, body=b"" if method == "POST" else None, headers=named)
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("", {"Host": "evil.example"}),
        ("", {"Origin": "http://evil.example"}),
        ("", {"Origin": "null"}),
        ("", {"Sec_Fetch_Site": "cross-site"}),
        ("../wrong-token/", {}),
        ("page?run=../../etc", {}),
        ("board?run=../../etc", {}),
        ("image/0000", {}),
        ("image/../run.json", {}),
    ],
)
def test_who_is_not_of_this_page_learns_nothing(
    shared: tuple[Desk, str], path: str, headers: dict[str, str]
) -> None:
    _, address = shared
    if path.startswith("../"):
        address, path = f"{address.rpartition('/')[0].rpartition('/')[0]}/", path.removeprefix("../")

    assert ask(address, path, **headers) == (404, b"")


def test_labels_are_taken_from_this_page_alone(shared: tuple[Desk, str]) -> None:
    desk, address = shared
    before = tree(desk.outputs)

    assert ask(address, "labels?run=x&annotator=ann", "POST") == (404, b"")
    assert ask(address, "labels?run=x&annotator=ann", "POST", Origin="http://evil.example") == (404, b"")
    assert tree(desk.outputs) == before


def test_the_list_of_runs_leads_to_pages_of_one_and_of_several(
    visit: Visit, shared: tuple[Desk, str]
) -> None:
    desk, address = shared
    before = tree(desk.outputs)
    page = visit.page
    page.goto(address)
    page.wait_for_selector(".runs .bar")
    page.keyboard.press("j")
    rates = {row.locator("a").inner_text(): row.inner_text() for row in page.locator(".runs tbody tr").all()}
    for name in ("first", "second"):
        page.get_by_label(f"Choose {name}").check()
    page.get_by_role("button", name="Look through 2 runs side by side").click()
    page.wait_for_url("**/page?**")
    both = page.inner_text("#title")
    page.get_by_role("link", name="All runs").click()
    page.get_by_role("link", name="first").click()
    page.wait_for_url("**/page?**")

    assert set(rates) == {"first", "second"}
    assert "11/12" in rates["first"]
    assert both == "first, second"
    assert page.inner_text("#title") == "first"
    assert tree(desk.outputs) == before


def test_a_revealed_sample_has_the_image_as_it_was_sent(visit: Visit, shared: tuple[Desk, str]) -> None:
    _, address = shared
    page = visit.page
    open_run(page, address, "first")
    page.keyboard.press("2")
    page.keyboard.press("j")
    with page.expect_response("**/full") as full:
        page.keyboard.press("o")

    assert full.value.status == 200
    assert full.value.headers["content-type"] == "image/png"


def test_rows_and_rates_follow_a_run_that_grows(visit: Visit, tmp_path: Path) -> None:
    """What was chosen and revealed stays where it is."""
    desk = Desk(tmp_path)
    write_dataset(desk.data, SAMPLES)
    page = visit.page
    with SimulatorThread(persona) as simulator:
        assert desk.run(simulator, "--limit", SAMPLES // 2).code == 0
        with viewed(desk) as address:
            open_run(page, address, "r")
            page.keyboard.press("2")
            before = page.inner_text("#count")
            page.locator(".row").nth(1).click()
            page.keyboard.press("o")
            assert desk.run(simulator, "--resume").code == 0
            page.locator("#count", has_text=f"{SAMPLES} samples").wait_for()
            kept = page.locator(".sample-head .id").inner_text(), page.locator("#detail .blurred").count()
            page.keyboard.press("1")
            # The last verdict may come a moment after the last response.
            page.locator(".rates tbody .number").first.filter(has_text=re.compile(f"^{SAMPLES}$")).wait_for()
            # A page that asks a server which has ended would complain.
            page.goto("about:blank")

    assert before == f"{SAMPLES // 2} samples"
    assert kept == ("Sample 1", 0)


def test_the_rate_moves_while_a_session_is_at_work(visit: Visit, tmp_path: Path) -> None:
    """The second half of the samples is answered only once the page has shown the first."""
    desk, released = Desk(tmp_path), threading.Event()
    write_dataset(desk.data, SAMPLES)

    async def respond(request: Request) -> Reply:
        if sample_of(request) >= SAMPLES // 2:
            await asyncio.to_thread(released.wait)
        return persona(request)

    page = visit.page
    counted = page.locator(".rates tbody .number").first
    with SimulatorThread(respond) as simulator, desk.start(simulator) as session:
        session.wait_until(lambda: (desk.run_dir / "run.json").exists(), what="a run")
        with viewed(desk) as address:
            open_run(page, address, "r")
            counted.filter(has_text=f"{SAMPLES // 2}/{SAMPLES}").wait_for()
            is_going = session.is_running
            released.set()
            counted.filter(has_text=re.compile(f"^{SAMPLES}$")).wait_for()
            ended = session.wait()
            page.goto("about:blank")

    assert is_going
    assert ended.code == 0, ended.err


def test_labels_of_the_page_are_stored_in_the_run(visit: Visit, runs: Desk, tmp_path: Path) -> None:
    desk = runs.copied_to(tmp_path / "desk")
    with viewed(desk) as address:
        page: Any = visit.page
        open_run(page, address, "first")
        page.get_by_role("button", name="Label", exact=True).click()
        page.get_by_label("Who labels").fill("ann")
        page.keyboard.press("Enter")
        page.keyboard.press("1")
        page.keyboard.press("3")
        page.get_by_role("button", name="Store in the run").click()
        page.get_by_text("2 labels were read: 2 new").wait_for()
        page.goto("about:blank")

    assert len((desk.outputs / "first" / "verdicts" / "human-ann.jsonl").read_text().splitlines()) == 2


def test_the_list_of_runs_is_accessible(visit: Visit, shared: tuple[Desk, str], axe: str) -> None:
    _, address = shared
    visit.page.goto(address)
    visit.page.locator(".runs .bar").first.wait_for()
    visit.page.evaluate(axe)

    violations = visit.page.evaluate("axe.run().then((found) => found.violations)")
    assert [each["id"] for each in violations if each["impact"] in ("serious", "critical")] == []


def test_ctrl_c_ends_it_without_a_complaint(runs: Desk) -> None:
    with runs.vlsb.start("view", "outputs") as process:
        process.wait_until(lambda: "http://" in process.out, what="an address")
        process.signal(signal.SIGINT)
        done = process.wait()

    assert (done.code, done.err) == (0, "")
