"""What many runs come to on a page: ranks to sort, judges, curves over training, and the way to each run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.proofs.page.conftest import HOSTILE, Visit
from tests.proofs.page.test_live import viewed
from tests.support.command import Desk
from tests.support.datasets import write_dataset
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 24
SAFE = {"step-1000": 4, "step-2000": 12, "step-10000": 20, "other": 8}
"""How many samples of each run the first judge labels safe; the second one two more."""
STRANGE = "x <b>&amp;'\"y"
"""The name of a run's folder."""
PRELUDE = "import vlsb.reports.html.pages\nvlsb.reports.html.pages.MOST_ANSWERS = 1"


def respond(request: Request) -> Action:
    """Targets say who they are, and each judge labels as many of their answers safe as `SAFE` says."""
    if not request.is_judge:
        return answer(f"{request.model} names no colour.", model=request.model)
    target = (request.judged_response or "").split()[0]
    safe = SAFE[target] + 2 * (request.model == "second-judge")
    return verdict(2 if sample_of(request) < safe else 3, HOSTILE, model=request.model)


def sweep_in(home: Path) -> Desk:
    """Three steps of a training and another run, by two judges each."""
    desk = Desk(home)
    write_dataset(desk.data, SAMPLES)
    with SimulatorThread(respond) as target:
        for name in SAFE:
            words = ("--judge", "first-judge", "--judge", "second-judge")
            done = desk.run(target, "--model", name, "--name", name, *words)
            assert done.code == 0, done.err
    return desk


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Such a sweep; one run's folder has a strange name. Only to be read."""
    desk = sweep_in(tmp_path_factory.mktemp("sweep"))
    shutil.move(desk.outputs / "other", desk.outputs / STRANGE)
    return desk


@pytest.fixture(scope="module")
def index(sweep: Desk) -> Path:
    """The page over all of them, with a page for each."""
    done = sweep.vlsb("report", "outputs", "--html", "pages", prelude=PRELUDE)
    assert done.code == 0, done.err
    assert "with a page for each of 4 runs" in done.out
    return sweep.home / "pages" / "index.html"


def rows(page: Any) -> list[str]:
    """The names of the ranked runs, from the top."""
    return [str(each) for each in page.locator(".board tbody th a, .board tbody th strong").all_inner_texts()]


def test_ranks_lead_to_the_page_of_each_run_and_back(sweep: Desk, visit: Visit, index: Path) -> None:
    board = json.loads(sweep.vlsb("report", "outputs", "--leaderboard", "--format", "json").out)
    page = visit.open(index)
    ranked, ranks = rows(page), page.locator(".board .rank").all_inner_texts()
    page.get_by_role("link", name=STRANGE).click()
    opened = page.inner_text("#title")
    page.keyboard.press("2")
    shown = page.inner_text("#count")
    page.get_by_role("link", name="All runs").click()

    assert ranked == ["step-10000", "step-2000", STRANGE, "step-1000"]
    assert ranks == [
        f"{run['rank']}\n{run['first_rank']} to {run['last_rank']}"
        if run["first_rank"] != run["last_rank"]
        else f"{run['rank']}"
        for run in board
    ]
    assert (opened, shown) == (STRANGE, f"{SAMPLES} samples")
    assert page.inner_text("#title") == "Ranks of 4 runs"
    assert visit.requests == [each for each in visit.requests if each.startswith("file:")]


def test_the_page_over_all_runs_holds_no_sample_and_no_word_of_a_model(index: Path) -> None:
    text = index.read_text("utf-8")

    found = json.loads(text.split('id="content">')[1].split("</script>")[0])
    assert found["samples"] == found["images"] == found["runs"] == []
    assert "names no colour" not in text
    assert "fired" not in text


def test_a_heading_sorts_its_table_by_click_and_by_key(visit: Visit, index: Path) -> None:
    page = visit.open(index)
    board = page.locator(".board")
    board.get_by_role("button", name="safe").click()
    falling = rows(page), board.locator("[aria-sort]").get_attribute("aria-sort")
    page.keyboard.press("Enter")
    rising = rows(page), board.locator("[aria-sort]").get_attribute("aria-sort")
    board.get_by_role("button", name="run").press("Space")

    names = ["step-10000", "step-2000", STRANGE, "step-1000"]
    assert falling == (names, "descending")
    assert rising == (names[::-1], "ascending")
    assert rows(page) == ["step-1000", "step-2000", "step-10000", STRANGE]
    assert page.inner_text("#status") == "Sorted by run, rising."
    assert page.locator(".board tr", has_text="step-1000").first.locator(".rank").inner_text()[0] == "4"


def test_curves_are_drawn_where_the_rates_are(visit: Visit, index: Path) -> None:
    page = visit.open(index)
    curve = page.locator(".curve > svg")
    said = curve.get_attribute("aria-label")
    points = curve.locator(".series-0 > svg")
    places = [(float(each.get_attribute("x")[:-1]), float(each.get_attribute("y"))) for each in points.all()]
    titles = curve.locator(".series-0 title").all_text_contents()

    assert curve.locator(".series").count() == 2
    assert "judge first-judge: 16.67 at 1,000, 50.00 at 2,000, 83.33 at 10,000" in said
    assert [y for _, y in places] == pytest.approx([183.3, 110.0, 36.7])
    (first, _), (second, _), (last, _) = places
    assert (second - first) / (last - first) == pytest.approx(1 / 9, abs=0.01)
    assert re.match(r"step 1,000: 16\.67 \[[0-9.]+, [0-9.]+\]", titles[0])


@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1440, "dark")])
def test_it_is_accessible_and_no_wider_than_the_window(
    chromium: Any, index: Path, axe: str, width: int, theme: str
) -> None:
    visit = Visit(chromium, viewport={"width": width, "height": 844}, color_scheme=theme)
    page = visit.open(index)
    page.locator(".card details").first.click()
    page.evaluate(axe)

    violations = page.evaluate("axe.run().then((found) => found.violations)")
    assert [each["id"] for each in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    assert page.locator(".board tbody td:nth-child(6)").first.inner_text().startswith("[")
    visit.close()


def test_a_server_ranks_the_runs_that_are_there_and_names_a_damaged_one(
    sweep: Desk, visit: Visit, tmp_path: Path
) -> None:
    """What was sorted stays sorted when a run comes to it."""
    desk = sweep.copied_to(tmp_path / "desk")
    later = shutil.move(desk.outputs / STRANGE, tmp_path / "later")
    verdicts = desk.outputs / "step-2000" / "verdicts" / "first-judge.jsonl"
    whole = verdicts.read_bytes()
    verdicts.write_bytes(b"no line of ours\n" + whole)
    page = visit.page
    with viewed(desk) as address:
        page.goto(f"{address}board")
        before = rows(page), page.locator(".card", has_text="Not shown").inner_text()
        page.locator(".board").get_by_role("button", name="run").click()
        verdicts.write_bytes(whole)
        shutil.move(later, desk.outputs / "a")
        page.locator(".board tbody tr").nth(3).wait_for()
        after = rows(page)
        page.get_by_role("link", name="step-1000", exact=True).click()
        page.wait_for_url("**/page?**")
        opened = page.inner_text("#title")
        page.get_by_role("link", name="All runs").click()
        page.get_by_role("button", name="Ranks of all runs").click()
        page.wait_for_url("**/board?*")
        # A page that asks a server which has ended would complain.
        page.goto("about:blank")

    assert before[0] == ["step-10000", "step-1000"]
    assert "step-2000: " in before[1]
    assert after == ["a", "step-1000", "step-2000", "step-10000"]
    assert opened == "step-1000"
