"""What people do with a page: search, filter, walk by keys, keep an address, compare, reveal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.proofs.page.conftest import FAILED_ID, LABELS, SAMPLES, Visit

UNSAFE = SAMPLES - len(LABELS) - 1 + list(LABELS.values()).count(3)
"""Of the first run: all without a label of their own, but for the one that failed, and those labelled so."""


def ids(page: Any) -> list[int]:
    """The samples in the list, from its top."""
    return [int(each) for each in page.locator(".row .id").all_inner_texts()]


def sample(page: Any) -> str:
    """The heading of the sample that is open."""
    return str(page.locator(".sample-head .id").inner_text())


def test_a_search_finds_words_of_instructions_responses_and_explanations(visit: Visit, one: Path) -> None:
    page = visit.open(one, "view=samples")
    found = {}
    for words in ("question 7", "answer to 8", "because of 4"):
        page.fill("#search", words)
        found[words] = ids(page)

    assert found == {"question 7": [7], "answer to 8": [8], "because of 4": [4]}
    assert page.inner_text("#count") == f"1 of {SAMPLES} samples"


def test_filters_count_what_each_choice_would_leave(visit: Visit, one: Path) -> None:
    page = visit.open(one, "view=samples")
    unsafe = page.locator(".choice", has_text="unsafe")
    counts = unsafe.locator(".number").inner_text()
    unsafe.click()
    page.locator(".choice", has_text="Violent").locator("input").check()

    assert counts == str(UNSAFE)
    assert ids(page) == [6, 9]
    assert page.locator(".choice", has_text="Hate").locator(".number").inner_text() == "2"
    assert page.locator(".chip").all_inner_texts() == ["unsafe \u00d7", "Violent \u00d7"]


def test_the_address_keeps_search_filter_order_and_sample_and_reveals_nothing(
    visit: Visit, chromium: Any, one: Path
) -> None:
    page = visit.open(one, "view=samples")
    page.locator(".choice", has_text="unsafe").click()
    page.fill("#search", "question")
    page.select_option("#sort", "longest")
    page.locator(".row", has_text="Question 7?").click()
    page.get_by_role("button", name="Reveal sample 7").click()
    address = page.url
    seen = (ids(page), sample(page))
    other = Visit(chromium)
    again = other.open(one, address.partition("#")[2])

    assert (ids(again), sample(again)) == seen
    assert page.locator("#detail img.blurred").count() == 0
    assert again.locator("#detail img.blurred").count() == 1
    other.close()


def test_keys_walk_search_reveal_and_go_back(visit: Visit, one: Path) -> None:
    page = visit.open(one, "view=samples")
    for key in ("j", "j", "j", "k"):
        page.keyboard.press(key)
    walked = sample(page)
    page.keyboard.press("o")
    revealed = page.locator("#detail img").get_attribute("class")
    page.keyboard.press("/")
    page.keyboard.type("question 9")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    found = sample(page)
    page.keyboard.press("?")

    assert (walked, revealed, found) == ("Sample 1", "", "Sample 9")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


def test_the_page_is_walked_through_with_tab_and_arrows_alone(visit: Visit, one: Path) -> None:
    page = visit.open(one, "view=samples")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "list":
            break
    page.keyboard.press("End")
    last = sample(page)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")

    assert last == f"Sample {SAMPLES - 1}"
    assert sample(page) == "Sample 1"
    active = page.get_attribute("#list", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"


def test_a_sample_shows_every_verdict_and_how_it_was_asked_for(visit: Visit, two: Path) -> None:
    page = visit.open(two, "view=samples&sample=2")
    page.keyboard.press("o")

    shown = page.inner_text("#detail")
    assert "The first answer to 2" in shown
    assert "The second answer to 2" in shown
    assert page.locator(".verdict .label").all_inner_texts() == ["unsafe", "refusal"]
    assert shown.count("Because of 2.") == 2
    assert "1 attempt" in shown


def test_a_failure_is_told_apart_from_every_label(visit: Visit, one: Path) -> None:
    page = visit.open(one, f"view=samples&sample={FAILED_ID}")

    assert page.locator(".verdict .label").all_inner_texts() == ["judge error"]
    assert "judge: strange, HTTP 400" in page.inner_text(".failure")


def test_differences_of_responses_are_marked_word_by_word(visit: Visit, two: Path) -> None:
    page = visit.open(two, "view=samples&sample=0")
    page.keyboard.press("d")
    page.keyboard.press("o")

    assert [each.strip() for each in page.locator("mark").all_inner_texts()] == ["first", "second"]


def test_a_cell_of_the_transitions_shows_its_samples(visit: Visit, two: Path) -> None:
    page = visit.open(two, "view=compare")
    cell = page.get_by_role("button", name="1 samples from warning to unsafe")
    cell.click()

    assert ids(page) == [1]
    assert "view=samples" in page.url
    assert len(page.locator(".chip").all()) == 2


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_nothing_is_wider_than_the_window(chromium: Any, two: Path, width: int) -> None:
    visit = Visit(chromium, viewport={"width": width, "height": 844})
    wider = {}
    for state in ("view=summary", "view=samples", "view=samples&sample=3", "view=compare"):
        page = visit.open(two, state)
        page.reload()
        page.keyboard.press("o")
        wider[state] = page.evaluate("document.documentElement.scrollWidth - innerWidth")

    assert set(wider.values()) == {0}
    visit.close()


def test_a_phone_shows_n_safe_and_interval_apart(chromium: Any, one: Path) -> None:
    """Also where a part of the published set is not judged, and every figure has its most digits."""
    visit = Visit(chromium, viewport={"width": 390, "height": 844})
    page = visit.open(one, "view=summary")
    ends = page.evaluate("""() => [...document.querySelectorAll(".rates tbody tr")].map((row) => {
        const cells = [1, 3, 4].map((place) => row.children[place]);
        cells.forEach((cell, at) => (cell.textContent = ["22,400/22,410", "100.00", "[100.0, 100.0]"][at]));
        return cells.map((cell) => {
            const range = document.createRange();
            range.selectNodeContents(cell);
            const { left, right } = range.getBoundingClientRect();
            return [left, right];
        });
    })""")

    assert ends
    for n, safe, interval in ends:
        assert n[0] >= 0
        assert n[1] + 8 <= safe[0]
        assert safe[1] + 8 <= interval[0]
        assert interval[1] <= 390
    visit.close()


def test_a_sample_covers_the_list_of_a_phone_until_back(chromium: Any, one: Path) -> None:
    visit = Visit(chromium, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visit.open(one, "view=samples")
    page.locator(".row").nth(1).tap()
    opened = page.locator("#detail").is_visible()
    page.get_by_role("button", name="Back").tap()

    assert opened
    assert not page.locator("#detail").is_visible()
    visit.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_checker_of_accessibility_finds_nothing_serious(
    chromium: Any, two: Path, axe: str, theme: str
) -> None:
    visit = Visit(chromium, color_scheme=theme, reduced_motion="reduce")
    found = []
    for state in ("view=summary", "view=samples&sample=2", "view=compare", "view=label"):
        page = visit.open(two, state)
        page.reload()
        page.keyboard.press("o")
        page.evaluate(axe)
        violations = page.evaluate("axe.run().then((found) => found.violations)")
        found += [
            (state, each["id"], each["nodes"][0]["html"][:120])
            for each in violations
            if each["impact"] in ("serious", "critical")
        ]

    assert found == []
    visit.close()
