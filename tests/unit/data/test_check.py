"""The full check, and the mini set that passes it with its known oddities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.datasets import sample_row, write_dataset
from tests.support.records import digest_of
from vlsb.data import PairCount, check_dataset, load_dataset, mini_root
from vlsb.records import PUBLISHED_IDS, Untrusted
from vlsb.reports.data_check import dataset_text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the mini set, to be damaged."""
    return Path(shutil.copytree(mini_root(), tmp_path / "mini"))


def test_the_mini_set_passes_with_its_expected_oddities() -> None:
    report = check_dataset(mini_root())

    assert report.bad_images == ()
    assert (report.counts.row_count, report.counts.image_count, report.counts.instruction_count) == (
        30,
        25,
        30,
    )
    assert report.counts.image_uses == ((1, 21), (2, 3), (3, 1))
    assert report.counts.empty_instruction_ids == (24,)
    assert report.counts.duplicate_ids == ()
    assert report.counts.renamed_count == 17
    assert report.media_types == (("image/jpeg", 1), ("image/png", 24))
    assert [(each.sample_ids, each.media_type) for each in report.misnamed_images] == [((7,), "image/jpeg")]
    assert not report.is_full


def test_the_ids_of_the_published_set_with_other_content_are_not_the_published_set(tmp_path: Path) -> None:
    write_dataset(tmp_path, [sample_row(each, image_path="imgs/0.png") for each in PUBLISHED_IDS])

    report = check_dataset(tmp_path)

    assert (report.has_published_ids, report.is_full) == (True, False)
    assert (len(report.altered_ids), report.published_rows) == (len(PUBLISHED_IDS), 0)
    text = dataset_text(report, width=80, color=False)
    assert "same ids, other content in 2,241 of 2,241 rows" in text
    assert "as published" not in text


def test_images_that_are_the_same_bytes_under_many_names_are_counted(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4)
    for name in ("1.png", "2.png"):
        shutil.copy(tmp_path / "imgs" / "0.png", tmp_path / "imgs" / name)

    report = check_dataset(tmp_path)

    assert report.distinct_images == 2
    assert "images that differ in their bytes: 2 of 4" in dataset_text(report, width=80, color=False)


def test_the_mini_set_is_small_and_its_ids_are_in_order() -> None:
    assert [sample.id for sample in load_dataset(mini_root()).samples] == list(range(30))
    assert all(path.stat().st_size < 12_000 for path in (mini_root() / "imgs").iterdir())


def test_every_problem_is_collected(root: Path) -> None:
    images = root / "imgs"
    (images / "12.png").unlink()
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:-30])
    (images / "5.png").write_text("<html>")

    report = check_dataset(root)

    bad = [(each.sample_ids, each.is_missing) for each in report.bad_images]
    assert bad == [((3,), False), ((5,), False), ((12, 13, 14), True)]
    assert "cut or damaged" in report.bad_images[0].reason
    assert "HTML" in report.bad_images[1].reason
    assert report.counts.row_count == 30


def test_the_digest_is_the_one_a_run_computes(root: Path) -> None:
    """Also for a cut image, which a run does not notice."""
    image = root / "imgs" / "3.png"
    image.write_bytes(image.read_bytes()[:-30])
    dataset = load_dataset(root)

    report = check_dataset(root)

    assert [bad.is_missing for bad in report.bad_images] == [False]
    assert report.digest == digest_of(dataset)


def test_an_exact_duplicate_is_named_by_its_ids(root: Path) -> None:
    rows = json.loads((root / "data.json").read_text())
    rows.append(rows[4] | {"instruction_id": 30, "category": "Hate"})
    (root / "data.json").write_text(json.dumps(rows))

    assert check_dataset(root).counts.duplicate_ids == ((4, 30),)


def test_a_sub_category_is_counted_under_each_of_its_categories(root: Path) -> None:
    rows = json.loads((root / "data.json").read_text())
    rows[0]["sub_category"] = "Cybercrime"
    (root / "data.json").write_text(json.dumps(rows))

    pairs = check_dataset(root).counts.pairs

    assert PairCount(Untrusted("Illegal Activity"), Untrusted("Cybercrime"), 1) in pairs
    assert PairCount(Untrusted("Violent"), Untrusted("Cybercrime"), 1) in pairs
