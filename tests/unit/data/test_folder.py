"""Loading a folder: rows, the lines that name a bad one, and the digest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.records import digest_of
from vlsb.data import load_dataset, mini_root
from vlsb.errors import DatasetError
from vlsb.records import Untrusted


def row(sample_id: object = 0, **changes: object) -> dict[str, Any]:
    fields = {
        "instruction_id": sample_id,
        "instruction": "What is this?",
        "image_path": "imgs/0.png",
        "category": "Hate",
        "sub_category": "Religious Intolerance",
        "source": "anything",
    }
    return fields | changes


def folder(root: Path, content: object) -> Path:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (root / "data.json").write_bytes(raw)
    return root


def complaint(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load_dataset(root)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message


def test_rows_become_samples_in_their_order(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path, [row(5), row(2, instruction="", extra=[1])]))

    assert [sample.id for sample in dataset.samples] == [5, 2]
    assert dataset.samples[1].instruction == Untrusted("")
    assert dataset.samples[0].source == Untrusted("anything")


def test_an_id_may_be_a_string_of_digits(tmp_path: Path) -> None:
    assert load_dataset(folder(tmp_path, [row("17")])).samples[0].id == 17


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    raw = b"\xef\xbb\xbf" + json.dumps([row()]).encode()

    assert len(load_dataset(folder(tmp_path, raw)).samples) == 1


def test_a_lone_surrogate_is_read_by_the_standard_library(tmp_path: Path) -> None:
    dataset = load_dataset(folder(tmp_path, [row(instruction="\ud800 half")]))

    assert dataset.samples[0].instruction == Untrusted("\ud800 half")


@pytest.mark.parametrize(
    "sample_id", [True, False, None, 1.0, -1, "", "-1", "1.0", "x", "٣", [], {}, 2**63, "9" * 30]
)
def test_an_id_that_is_no_whole_number_is_refused_with_its_row(tmp_path: Path, sample_id: object) -> None:
    assert complaint(folder(tmp_path, [row(), row(sample_id)])).startswith(
        "data.json row 2: instruction_id must"
    )


@pytest.mark.parametrize("field", ["instruction", "image_path", "category", "sub_category", "source"])
@pytest.mark.parametrize("value", [None, 3, True, [], {}])
def test_a_field_that_is_no_text_is_refused_with_its_row(tmp_path: Path, field: str, value: object) -> None:
    message = complaint(folder(tmp_path, [row(), row(16, **{field: value})]))

    assert message.startswith(f"data.json row 2 (instruction_id 16): {field} must be text")


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    lacking = row()
    del lacking["source"]

    assert "source must be text, found nothing" in complaint(folder(tmp_path, [lacking]))


@pytest.mark.parametrize("category", ["", "  "])
def test_an_empty_category_is_refused(tmp_path: Path, category: str) -> None:
    assert "category is empty" in complaint(folder(tmp_path, [row(category=category)]))


def test_an_id_used_twice_names_both_rows(tmp_path: Path) -> None:
    message = complaint(folder(tmp_path, [row(1), row(2), row("1")]))

    assert message.startswith("data.json row 3 (instruction_id 1): row 1 has the same id")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON (Expecting value: line 1"),
        (b"[{]", "line 1 column 3"),
        (b"{}", "holds an object, not a list"),
        (b'"rows"', "holds text, not a list"),
        (b"[]", "no rows"),
        (b"[3]", "row 1: a number, not an object"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b'["\xff"]', "in position 2"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["\\ud800", ' + b"1" * 5000 + b"]", "digits"),
        (b'[{"instruction_id": ' + b"1" * 5000 + b"}]", "digits"),
        (b'[{"instruction_id": ' + b"1" * 30 + b"}]", "whole number"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_in_one_line(tmp_path: Path, raw: bytes, words: str) -> None:
    message = complaint(folder(tmp_path, raw))

    assert message.startswith("data.json")
    assert words in message


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "data.json").open("wb") as stream:
        stream.truncate(64 * 1024 * 1024 + 1)

    assert "larger than 64 MiB" in complaint(tmp_path)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert "does not exist" in complaint(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "not a folder" in complaint(tmp_path / "file")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (None, "has no data.json."),
        ("imgs.tar", "only imgs.tar"),
    ],
)
def test_another_layout_is_told_the_expected_one(tmp_path: Path, other: str | None, words: str) -> None:
    if other:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).touch()

    message = complaint(tmp_path)

    assert words in message
    assert "data.json and imgs/" in message


def test_the_fields_of_2025_are_carried_where_a_row_has_them(tmp_path: Path) -> None:
    later = {"image_description": "A cat.", "safety_reason": "None at all."}

    samples = load_dataset(folder(tmp_path, [row(0, **later), row(1), row(2, safety_reason=None)])).samples

    assert samples[0].image_description == Untrusted("A cat.")
    assert samples[0].safety_reason == Untrusted("None at all.")
    assert [(each.image_description, each.safety_reason) for each in samples[1:]] == [(None, None)] * 2


def test_the_fields_of_2025_are_in_no_digest(tmp_path: Path) -> None:
    samples = load_dataset(folder(tmp_path, [row(0, image_description="A cat."), row(1)])).samples

    assert samples[0].digest() == load_dataset(folder(tmp_path, [row(0)])).samples[0].digest()


@pytest.mark.parametrize("field", ["image_description", "safety_reason"])
def test_a_field_of_2025_that_is_no_text_is_refused(tmp_path: Path, field: str) -> None:
    assert f"{field} must be text" in complaint(folder(tmp_path, [row(0, **{field: 3})]))


def test_a_fifo_named_like_the_rows_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.json")

    assert "not a regular file" in complaint(tmp_path)


def test_a_folder_named_like_the_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.json").mkdir()

    assert "not a regular file" in complaint(tmp_path)


def test_the_digest_is_of_the_content_not_of_the_place_or_the_order(tmp_path: Path) -> None:
    shutil.copytree(mini_root(), tmp_path / "copy", copy_function=shutil.copyfile)
    here, there = load_dataset(mini_root()), load_dataset(tmp_path / "copy")

    digests = {digest_of(each) for each in (here, there)} | {digest_of(here, here.samples[::-1])}

    assert len(digests) == 1


def test_the_digest_sees_a_changed_image_a_bad_one_and_a_smaller_selection(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(mini_root(), root)
    dataset = load_dataset(root)
    digests = [digest_of(dataset)]
    digests.append(digest_of(dataset, dataset.samples[:-1]))
    (root / "imgs" / "3.png").write_bytes((root / "imgs" / "4.png").read_bytes())
    digests.append(digest_of(dataset))
    (root / "imgs" / "3.png").unlink()
    digests.append(digest_of(dataset))

    assert len(set(digests)) == 4
