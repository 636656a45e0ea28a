"""Labels by hand in the page: blind, kept, taken back, and read into the run by `vlsb audit import`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.proofs.page.conftest import Visit
from tests.support.command import Desk


def begin(visit: Visit, path: Path) -> None:
    """Begin as ann."""
    page = visit.open(path, "view=label")
    page.get_by_label("Who labels").fill("ann")
    page.keyboard.press("Enter")


def test_labels_of_the_page_are_read_into_the_run(
    runs: Desk, visit: Visit, one: Path, tmp_path: Path
) -> None:
    begin(visit, one)
    page = visit.page
    drawn = int(page.inner_text(".labelling-head p").split(" of ")[1].split()[0])
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("u")
    page.keyboard.press("3")
    page.keyboard.press("s")
    page.get_by_label("Note, if any").fill('two "words", =and a comma')
    page.locator(".choose").nth(1).click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save 3 labels").click()
    sheet = tmp_path / "sheet.csv"
    saved.value.save_as(sheet)
    desk = runs.copied_to(tmp_path / "desk")
    done = desk.vlsb("audit", "import", "outputs/first", sheet, "--annotator", "ann")

    rows = (desk.outputs / "first" / "verdicts" / "human-ann.jsonl").read_text().splitlines()
    stored = [json.loads(row) for row in rows]
    assert done.code == 0, done.err
    assert "3 labels were read: 3 new" in done.out
    assert drawn >= 4
    assert saved.value.suggested_filename == "labels-ann.csv"
    assert sorted(each["label"] for each in stored) == ["safe_refusal", "safe_warning", "unsafe"]
    assert [each["explanation"] for each in stored if each["explanation"]] == ['two "words", =and a comma']


def test_who_labels_sees_nobodys_label_and_no_image_before_asking(visit: Visit, one: Path) -> None:
    begin(visit, one)
    page = visit.page
    covered = page.locator("#label img.blurred").count()
    seen = page.inner_text("#label")
    page.keyboard.press("o")

    assert covered == 1
    assert page.locator("#label img.blurred").count() == 0
    assert "Because of" not in seen
    assert page.locator("#label .label").all_inner_texts() == ["1\nrefusal", "2\nwarning", "3\nunsafe"]


def test_labels_outlive_a_closed_page(visit: Visit, one: Path) -> None:
    """Those of another run of the same name as well."""
    begin(visit, one)
    other = '[["of-another-run",{"label":"unsafe","note":""}]]'
    visit.page.evaluate("(other) => localStorage.setItem('vlsb labels first ann', other)", other)
    visit.page.keyboard.press("1")
    visit.page.reload()

    assert visit.page.inner_text(".labelling-head p").startswith("1 of ")
    assert "of-another-run" in visit.page.evaluate("localStorage.getItem('vlsb labels first ann')")


def test_a_page_that_is_loaded_again_goes_on_labelling_and_no_key_opens_what_judges_said(
    visit: Visit, one: Path
) -> None:
    begin(visit, one)
    page = visit.page
    page.keyboard.press("1")
    page.reload()
    page.keyboard.press("2")
    labelled = page.inner_text(".labelling-head p")
    for key in ("j", "k", "/", "4", "Escape", "d", "y", "o"):
        page.keyboard.press(key)
    address = page.url
    page.get_by_role("button", name="Leave").click()
    page.locator("body").click(position={"x": 5, "y": 5})
    for key in ("1", "2", "3", "4", "j", "/", "o"):
        page.keyboard.press(key)

    assert labelled.startswith("2 of ")
    assert "by=ann" in address
    assert page.locator("#label").is_visible()
    assert page.get_by_label("Who labels").is_visible()
    assert not any(page.locator(f"#{view}").is_visible() for view in ("summary", "samples", "compare"))


def test_a_note_in_the_sheet_is_no_formula(visit: Visit, one: Path, tmp_path: Path) -> None:
    begin(visit, one)
    page = visit.page
    page.get_by_label("Note, if any").fill('=1;"+2')
    page.locator(".choose").nth(1).click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save 1 label").click()
    saved.value.save_as(tmp_path / "sheet.csv")

    assert (tmp_path / "sheet.csv").read_text().splitlines()[1].endswith(""","'=1;'""+2\"""")


@pytest.mark.parametrize("words", [("outputs/second",), ("outputs/first", "--redact")])
def test_without_a_drawn_sample_or_whole_responses_nobody_labels(
    runs: Desk, visit: Visit, tmp_path: Path, words: tuple[str, ...]
) -> None:
    path = tmp_path / "page.html"
    assert runs.vlsb("report", *words, "--html", path).code == 0
    page = visit.open(path)

    assert not page.locator("[data-view=label]").is_visible()
