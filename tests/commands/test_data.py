"""`vlsb data check`: what it says of a copy of the data set, good or damaged."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.command import Desk, Finished
from tests.support.datasets import sample_row, write_dataset
from tests.support.run_files import tree
from vlsb.data.mini import mini_root
from vlsb.simulator import SimulatorThread


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """A copy of the embedded mini set, to be damaged."""
    return Path(shutil.copytree(mini_root(), tmp_path / "mini"))


def rows_of(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / "data.json").read_text())
    return found


def digest(done: Finished) -> str:
    found = re.search(r"^checksum ([0-9a-f]{64})$", done.out, re.MULTILINE)
    assert found is not None, done.out
    return found[1]


# A good copy.


def test_the_mini_set_is_good_and_its_facts_are_shown(desk: Desk) -> None:
    rows = rows_of(mini_root())

    done = desk.vlsb("data", "check", mini_root())

    images = {row["image_path"] for row in rows}
    pairs = {(row["category"], row["sub_category"]) for row in rows}
    assert (done.code, done.err) == (0, "")
    assert f"{len(rows)} rows, {len(images)} images" in done.out
    assert "not the full published VLSBench" in done.out
    assert f"(category, sub-category) pairs: {len(pairs)}" in done.out
    assert "missing images: 0; broken images: 0" in done.out
    assert digest(done)


def test_the_mini_set_covers_all_six_categories_with_at_least_24_samples(desk: Desk) -> None:
    rows = rows_of(mini_root())

    done = desk.vlsb("data", "check", mini_root())

    counts = {name: sum(row["category"] == name for row in rows) for name in {r["category"] for r in rows}}
    assert len(rows) >= 24
    assert set(counts) == {"Violent", "Illegal Activity", "Self-Harm", "Erotic", "Hate", "Privacy"}
    for name, count in counts.items():
        assert re.search(rf"^ *{name} +{count} *$", done.out, re.MULTILINE)


def test_a_check_changes_nothing_in_the_folder(desk: Desk, mini: Path) -> None:
    before = tree(mini)

    desk.vlsb("data", "check", mini)

    assert tree(mini) == before


def test_the_digest_depends_on_rows_and_images_and_not_on_the_place(desk: Desk, mini: Path) -> None:
    original = digest(desk.vlsb("data", "check", mini_root()))
    copied = digest(desk.vlsb("data", "check", mini))
    (mini / "imgs/0.png").write_bytes((mini / "imgs/1.png").read_bytes())
    other_image = digest(desk.vlsb("data", "check", mini))
    rows = rows_of(mini)
    rows[0]["instruction"] += "!"
    (mini / "data.json").write_text(json.dumps(rows))
    other_row = digest(desk.vlsb("data", "check", mini))

    assert copied == original
    assert len({original, other_image, other_row}) == 3


def test_a_full_run_reports_the_digest_that_check_prints_once_every_image_was_sent(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    printed = digest(desk.vlsb("data", "check", desk.data))

    desk.run(endpoint, "--max-requests", 3)
    partial = desk.report()[0]["data_digest"]
    desk.run(endpoint, "--resume")

    assert partial is None
    assert desk.report()[0]["data_digest"] == printed


def test_known_oddities_are_shown_and_are_no_fault(desk: Desk) -> None:
    rows = [sample_row(number) for number in range(6)]
    rows[1]["instruction"] = ""
    rows[3] |= {"instruction": rows[2]["instruction"], "image_path": rows[2]["image_path"]}
    rows[5]["image_path"] = rows[4]["image_path"]
    write_dataset(desk.data, rows)

    done = desk.vlsb("data", "check", desk.data)

    assert (done.code, done.err) == (0, "")
    assert "6 rows, 4 images" in done.out
    assert "empty instructions: 1" in done.out
    assert "identical (image, instruction) pairs: 2, 3" in done.out
    assert "ids that are not their image's file name: 2" in done.out
    assert "2 used once, 2 used twice" in done.out


def test_an_image_with_another_types_name_is_said_and_is_no_fault(desk: Desk, mini: Path) -> None:
    Image.new("RGB", (8, 8), "teal").save(mini / "imgs/0.png", format="JPEG")

    done = desk.vlsb("data", "check", mini)

    assert done.code == 0
    # The mini set itself has one, as the published set has many.
    assert "names that do not fit the bytes: 2 (imgs/0.png is image/jpeg, " in done.out


# Damaged images.


def lose(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def git_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def error_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>Not found</html>")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES = (lose, empty, cut, git_lfs_pointer, error_page, folder, link_out, flipped)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_image_is_exit_2_with_one_line_naming_its_row(
    desk: Desk, mini: Path, damage: Callable[[Path], None]
) -> None:
    row = next(row for row in rows_of(mini) if row["image_path"] == "imgs/8.png")
    damage(mini / row["image_path"])

    done = desk.vlsb("data", "check", mini)

    assert done.code == 2
    assert f"instruction_id {row['instruction_id']}" in done.error
    assert "imgs/8.png" in done.error
    assert done.err.count("\n") == 1
    counts = "missing images: 1; broken images: 0" if damage is lose else "broken images: 1"
    assert counts in done.out
    assert "Resume with" not in done.err


def test_all_bad_images_are_listed_and_counted(desk: Desk, mini: Path) -> None:
    lose(mini / "imgs/2.png")
    cut(mini / "imgs/5.png")
    empty(mini / "imgs/9.png")

    done = desk.vlsb("data", "check", mini)

    assert done.code == 2
    assert "3 images cannot be used" in done.error
    assert "missing images: 1; broken images: 2" in done.out
    for name in ("imgs/2.png", "imgs/5.png", "imgs/9.png"):
        assert name in done.out


# Damaged rows.


def changed(field: str, value: object) -> Callable[[list[dict[str, Any]]], object]:
    def change(rows: list[dict[str, Any]]) -> object:
        rows[2][field] = value
        return rows

    return change


def without(field: str) -> Callable[[list[dict[str, Any]]], object]:
    def change(rows: list[dict[str, Any]]) -> object:
        del rows[2][field]
        return rows

    return change


BAD_ROWS: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "no id": (without("instruction_id"), "row 3: instruction_id"),
    "a negative id": (changed("instruction_id", -1), "row 3: instruction_id"),
    "true for an id": (changed("instruction_id", True), "row 3: instruction_id"),
    "an id twice": (changed("instruction_id", 0), "row 3 (instruction_id 0)"),
    "no instruction": (without("instruction"), "row 3 (instruction_id 2): instruction"),
    "a number for a picture": (changed("image_path", 7), "row 3 (instruction_id 2): image_path"),
    "an empty category": (changed("category", " "), "row 3 (instruction_id 2): category"),
    "null for a source": (changed("source", None), "row 3 (instruction_id 2): source"),
    "a row that is a list": (lambda rows: [*rows[:2], [1]], "row 3"),
    "an object": (lambda rows: {"rows": rows}, "not a list"),
    "nothing": (lambda rows: [], "no rows"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_exit_2_with_one_line_naming_it(desk: Desk, mini: Path, case: str) -> None:
    change, named = BAD_ROWS[case]
    (mini / "data.json").write_text(json.dumps(change(rows_of(mini))))

    done = desk.vlsb("data", "check", mini)

    assert done.code == 2
    assert named in done.error
    assert done.out == ""


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[{]", b"\xff\xfe[]", b"[NaN]", b"[" * 100_000, b"<html></html>"], ids=repr
)
def test_a_data_json_that_is_no_json_is_exit_2(desk: Desk, mini: Path, content: bytes) -> None:
    (mini / "data.json").write_bytes(content)

    done = desk.vlsb("data", "check", mini)

    assert done.code == 2
    assert "data.json" in done.error


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "imgs/../../x.png", "http://x/y.png"])
def test_an_image_path_that_leads_out_is_exit_2(desk: Desk, mini: Path, path: str) -> None:
    rows = rows_of(mini)
    rows[4]["image_path"] = path
    (mini / "data.json").write_text(json.dumps(rows))

    done = desk.vlsb("data", "check", mini)

    assert done.code == 2
    assert "instruction_id 4" in done.error


# Folders that are none.


def test_a_folder_without_rows_or_no_folder_is_exit_2(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()

    hollow = desk.vlsb("data", "check", "hollow")
    nowhere = desk.vlsb("data", "check", "nowhere")
    nothing = desk.vlsb("data", "check")

    assert (hollow.code, nowhere.code, nothing.code) == (2, 2, 2)
    assert "has no data.json" in hollow.error
    assert "does not exist" in nowhere.error
    assert "vlsb data fetch" in nothing.error
    assert "--data-root DIR" in nothing.error


def test_the_folder_may_be_named_by_data_root_as_in_other_commands(desk: Desk, mini: Path) -> None:
    by_place = desk.vlsb("data", "check", mini)

    by_option = desk.vlsb("data", "check", "--data-root", mini)
    by_both = desk.vlsb("data", "check", mini, "--data-root", mini)

    assert by_option.code == by_both.code == 0
    assert by_option.out == by_both.out == by_place.out


def test_two_different_folders_are_refused(desk: Desk, mini: Path) -> None:
    done = desk.vlsb("data", "check", mini, "--data-root", mini_root())

    assert done.code == 2
    assert "one at a time" in done.error


def test_a_folder_that_is_named_wins_over_the_variable(desk: Desk, mini: Path) -> None:
    by_variable = desk.vlsb("data", "check", env={"VLSB_DATA_ROOT": str(mini)})
    named = desk.vlsb("data", "check", mini, env={"VLSB_DATA_ROOT": "nowhere"})

    assert by_variable.code == named.code == 0
    assert named.out == by_variable.out


def test_an_archive_that_is_not_unpacked_says_what_to_do(desk: Desk, mini: Path) -> None:
    shutil.rmtree(mini / "imgs")
    (mini / "imgs.tar").write_bytes(b"")

    done = desk.vlsb("data", "check", mini)

    assert done.code == 2
    assert "imgs.tar" in done.error
