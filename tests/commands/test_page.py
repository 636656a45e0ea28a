"""`vlsb report --html`: what is written where, and what is never replaced."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.command import Desk
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import labelling
from tests.support.run_files import tree
from vlsb.data import thumbnail_webp
from vlsb.data.image_files import quiet_decoder
from vlsb.reports import html
from vlsb.reports.encode import json_island
from vlsb.reports.html import pages
from vlsb.reports.html.content import GENERATOR, MODULES, viewer_script
from vlsb.simulator import SimulatorThread


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run of four samples, of which two share an image. Only to be read."""
    desk = Desk(tmp_path_factory.mktemp("page"))
    write_dataset(desk.data, [sample_row(each, image_path=f"imgs/{each // 2}.png") for each in range(4)])
    with SimulatorThread(labelling({0: 1, 1: 2})) as simulator:
        assert desk.run(simulator).code == 0
    return desk


def content(path: Path) -> dict[str, Any]:
    """What a page is about, as its viewer reads it."""
    text = path.read_text("utf-8")
    found: dict[str, Any] = json.loads(text.split('id="content">')[1].split("</script>")[0])
    return found


def test_a_page_is_one_file_that_holds_every_sample_and_each_image_once(desk: Desk) -> None:
    before = tree(desk.run_dir)
    done = desk.vlsb("report", desk.run_dir, "--html", "page.html")

    written = content(desk.home / "page.html")
    assert done.code == 0, done.err
    assert "with 2 images" in done.out
    assert [each["answers"][0]["outcomes"] for each in written["samples"]] == [
        *(["safe_refusal"], ["safe_warning"], ["unsafe"], ["unsafe"])
    ]
    assert [each["image"] for each in written["samples"]] == [1, 1, 2, 2]
    assert all(each.startswith("data:image/webp;base64,") for each in written["images"])
    assert tree(desk.run_dir) == before
    assert (desk.home / "page.html").stat().st_mode & 0o077 == 0


def test_a_name_without_html_is_a_folder_whose_stale_images_go(desk: Desk) -> None:
    folder = desk.home / "folder"
    assert GENERATOR in (Path(html.__file__).parent / "viewer" / "page.html").read_text()
    assert desk.vlsb("report", desk.run_dir, "--html", folder).code == 0
    (folder / "images" / "stale.webp").touch()
    assert desk.vlsb("report", desk.run_dir, "--html", folder).code == 0

    written = content(folder / "index.html")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.webp")} == set(written["images"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--html", "data"), "exists and holds no page"),
        (("--html", "data/stranger.html"), "is not a page of vlsb"),
        (("--html", "folder", "--single"), "--single writes one file"),
        (("--redact",), "add --html"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is_replaced(
    desk: Desk, words: tuple[str, ...], said: str
) -> None:
    (desk.data / "stranger.html").write_text("<title>Somebody's</title>")
    before = tree(desk.data)
    done = desk.vlsb("report", desk.run_dir, *words)

    assert (done.code, said in done.error) == (2, True)
    assert tree(desk.data) == before


def test_many_images_are_one_file_on_demand_only(desk: Desk) -> None:
    prelude = "import vlsb.reports.html.pages\nvlsb.reports.html.pages.MOST_INLINE = 1"
    refused = desk.vlsb("report", desk.run_dir, "--html", "many.html", prelude=prelude)
    taken = desk.vlsb("report", desk.run_dir, "--html", "many.html", "--single", prelude=prelude)

    assert pages.MOST_INLINE > 1
    assert (refused.code, "--html many" in refused.error, "--single" in refused.error) == (2, True, True)
    assert taken.code == 0


def test_an_image_that_is_not_the_one_that_was_sent_is_not_shown(desk: Desk, tmp_path: Path) -> None:
    copy = desk.copied_to(tmp_path / "copy")
    Image.new("RGB", (9, 9)).save(copy.data / "imgs" / "0.png")
    done = copy.vlsb("report", copy.run_dir, "--html", "page.html", "--data-root", copy.data)

    assert "1 image cannot be shown: not what was sent" in done.err
    assert len(content(copy.home / "page.html")["images"]) == 1


def test_without_the_data_set_a_page_says_what_is_missing(desk: Desk, tmp_path: Path) -> None:
    copy = desk.copied_to(tmp_path / "copy")
    (copy.run_dir / ".data-root").unlink()
    done = copy.vlsb("report", copy.run_dir, "--html", "page.html")

    (first, *_) = content(copy.home / "page.html")["samples"]
    assert "pass --data-root" in done.err
    assert "instruction" not in first
    assert "pass --data-root" in first["no_instruction"]


def test_rows_that_were_not_measured_alike_are_marked_and_no_address_is_named(
    desk: Desk, tmp_path: Path
) -> None:
    copy = desk.copied_to(tmp_path / "copy")
    with SimulatorThread(labelling()) as simulator:
        assert copy.run(simulator, "--limit", 2, "--name", "less").code == 0
    done = copy.vlsb("report", "outputs/r", "outputs/less", "--html", "page.html")

    summary = json.dumps(content(copy.home / "page.html")["summary"], ensure_ascii=False)
    assert done.code == 0, done.err
    assert "less\u2020" in summary
    assert "less: only 2 of the 4 samples" in summary
    assert "We evaluated target-model with vlsb" in summary
    assert "127.0.0.1" not in summary


def test_a_small_image_has_nothing_of_the_files_metadata() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "taken at home"
    Image.new("RGB", (300, 200)).save(file, "JPEG", exif=exif, comment=b"by me")
    with quiet_decoder():
        small = thumbnail_webp(file.getvalue(), side=64)

    assert b"taken at home" in file.getvalue()
    assert not re.search(rb"taken at home|by me|EXIF|XMP", small)
    assert Image.open(io.BytesIO(small)).size == (64, 43)


def test_an_island_ends_where_its_element_does() -> None:
    hostile = "</script><!-- <script> &amp; \u2028 \ud800 \x7f"
    island = json_island({hostile: hostile})

    assert not re.search("[<>&\u2028\x7f]", island)
    assert json.loads(island) == {hostile: hostile}


def test_no_two_modules_of_the_viewer_declare_the_same_name() -> None:
    """They are joined into one script, where the second would replace the first."""
    declared = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)
    folder = Path(html.__file__).parent / "viewer"
    names = [name for each in MODULES for name in declared.findall((folder / each).read_text("utf-8"))]

    assert {path.name for path in folder.glob("*.js")} == set(MODULES)
    assert len(names) == len(set(names))
    assert not re.search(r"^(import|export)\b", viewer_script(), re.MULTILINE)


def test_many_responses_of_several_runs_are_a_page_for_each_run(desk: Desk, tmp_path: Path) -> None:
    """Pages of runs that are no longer there go, those of a stranger stay."""
    copy = desk.copied_to(tmp_path / "copy")
    shutil.copytree(copy.run_dir, copy.outputs / "s")
    prelude = "import vlsb.reports.html.pages\nvlsb.reports.html.pages.MOST_ANSWERS = 7"
    refused = copy.vlsb("report", "outputs", "--html", "all.html", prelude=prelude)
    written = copy.vlsb("report", "outputs", "--html", "all", prelude=prelude)
    (copy.home / "all" / "7-mine.html").write_text("<title>Somebody's</title>")
    shutil.rmtree(copy.outputs / "r")
    shutil.copytree(copy.outputs / "s", copy.outputs / "t")
    again = copy.vlsb("report", "outputs", "--html", "all", "--redact", prelude=prelude)

    assert pages.MOST_ANSWERS > 2 * 2241
    assert (refused.code, "8 responses are too many for one page" in refused.error) == (2, True)
    assert (written.code, again.code) == (0, 0), again.err
    names = {each.name for each in (copy.home / "all").glob("*.html")}
    assert names == {"index.html", "01-s.html", "02-t.html", "7-mine.html"}
    assert not list((copy.home / "all" / "images").iterdir())
    assert content(copy.home / "all" / "02-t.html")["board"] == "index.html"
