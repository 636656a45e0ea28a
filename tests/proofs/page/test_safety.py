"""What a page must never do: run a stranger's text, ask anybody for anything, show what is covered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.proofs.page.conftest import FAILED_ID, HOSTILE_ID, SAMPLES, Visit, write_page
from tests.support import canary
from tests.support.command import Desk

VIEWS = (
    "view=summary",
    f"view=samples&sample={HOSTILE_ID}",
    f"view=samples&sample={FAILED_ID}",
    "view=compare",
    "view=label",
)
MARKUP = "img[src='x'], a[href^='javascript'], main svg[onload], main script, main style"


def test_no_text_of_a_stranger_becomes_markup_or_runs(visit: Visit, two: Path) -> None:
    """In instruction, category, source, description, response, explanation, error message, model name."""
    texts = []
    for state in VIEWS:
        page = visit.open(two, state)
        page.reload()
        page.keyboard.press("o")
        page.locator("details").evaluate_all("(all) => all.forEach((each) => { each.open = true; })")
        texts.append(page.inner_text("body"))

        assert page.evaluate("window.fired") is None
        assert page.locator(MARKUP).count() == 0
    assert all("<img src=x onerror=" in text for text in texts[:2])
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", "".join(texts))


def test_a_page_asks_nobody_for_anything(visit: Visit, one: Path) -> None:
    for state in VIEWS:
        page = visit.open(one, state)
        page.reload()
        page.keyboard.press("o")
    page.wait_for_load_state("networkidle")

    asked = {url for url in visit.requests if not url.startswith("data:")}
    assert {url.partition("#")[0] for url in asked} == {one.as_uri()}


def test_the_policy_lets_only_this_style_and_this_script_act(visit: Visit, one: Path) -> None:
    page = visit.open(one)
    policy = page.get_attribute("meta[http-equiv]", "content")
    refused = page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            fetch("https://example.org/").catch(() => {});
        })"""
    )
    visit.complaints.clear()

    assert "default-src 'none'" in policy
    assert "unsafe-" not in policy
    assert refused == "connect-src"


def test_what_is_unsafe_is_covered_until_it_is_revealed(visit: Visit, one: Path) -> None:
    """The text is not in the document, and the image's words are not in the accessibility tree."""
    page = visit.open(one, "view=samples&sample=2")
    before = page.evaluate("document.querySelector('main').innerText")
    tree = page.locator("#detail").aria_snapshot()
    page.hover("#detail .big-image")
    hovered = page.locator("#detail img").evaluate("(image) => getComputedStyle(image).filter")
    page.emulate_media(media="print")
    printed = page.locator("#detail img").evaluate("(image) => getComputedStyle(image).visibility")
    page.emulate_media(media="screen")
    page.locator(".veil").first.click()

    assert "The first answer to 2" not in before
    assert "The first answer to 2" not in tree
    assert "One colour." not in tree
    assert "blur(" in hovered
    assert printed == "hidden"
    assert "The first answer to 2" in page.inner_text("#detail")
    page.get_by_role("button", name="Cover all again").click()
    assert page.locator("#detail img.blurred").count() == 1


def test_a_category_is_revealed_at_once(visit: Visit, one: Path) -> None:
    page = visit.open(one, "view=samples&sample=0")
    page.get_by_text("Reveal by category").click()
    page.locator("#categories").get_by_label("Violent").check()

    revealed = page.locator(".row", has_not=page.locator(".blurred")).locator(".place").all_inner_texts()
    assert {place.split(" / ")[0] for place in revealed} == {"Violent"}
    assert page.locator("#detail img.blurred").count() == 0


def test_a_redacted_page_holds_no_image_and_no_end_of_a_response(runs: Desk, visit: Visit) -> None:
    path = write_page(runs, "redacted.html", "outputs/first", "--redact")
    text = path.read_text("utf-8")
    page = visit.open(path, f"view=samples&sample={HOSTILE_ID}")
    page.keyboard.press("o")

    assert "data:image" not in text
    assert "img-src 'none'" in text
    assert "One colour." not in text
    assert "more characters left out" in page.inner_text("#detail")
    assert "display:none" not in page.inner_text(".response")
    assert page.locator("img").count() == 0


def test_a_page_names_no_place_and_no_key_of_its_machine(runs: Desk, two: Path) -> None:
    text = two.read_text("utf-8")

    canary.assert_unseen(text)
    assert str(runs.home) not in text
    assert "127.0.0.1" not in text


def test_a_folder_opens_by_double_click_with_its_images(runs: Desk, visit: Visit) -> None:
    folder = write_page(runs, "folder", "outputs/first")
    page = visit.open(folder / "index.html", "view=samples&sample=0")
    loaded: Any = page.locator("#detail img").evaluate(
        "(image) => image.decode().then(() => image.naturalWidth)"
    )

    assert loaded > 0
    assert len(list((folder / "images").glob("*.webp"))) == SAMPLES
    assert {url.rpartition("/")[0] for url in visit.requests} <= {
        folder.as_uri(),
        f"{folder.as_uri()}/images",
    }
