"""A row of another program's file belongs to exactly one sample, or to none: nothing is guessed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.records import make_sample
from vlsb.errors import ConfigError
from vlsb.records import Sample, Untrusted
from vlsb.store.import_rows import ForeignRow, Matched, match_rows

# 3 and 4 ask the same of two images; 5 and 6 are the same in everything, as two rows of VLSBench are.
SAMPLES = [
    *(make_sample(number) for number in range(3)),
    make_sample(3, instruction="Asked twice."),
    make_sample(4, instruction="Asked twice."),
    make_sample(5, instruction="Twins.", image_path="imgs/5.png"),
    make_sample(6, instruction="Twins.", image_path="imgs/5.png"),
]


def row(instruction: str | None = None, image: str | None = None, **stated: Any) -> ForeignRow:
    return ForeignRow(
        where="log row 1",
        instruction=None if instruction is None else Untrusted(instruction),
        image_path=None if image is None else Untrusted(image),
        text=Untrusted("An answer."),
        **stated,
    )


def match(*rows: ForeignRow, skip_unknown: bool = False) -> Matched:
    return match_rows(rows, SAMPLES, image_sha256=checksum, skip_unknown=skip_unknown)


def checksum(sample: Sample) -> str | None:
    return f"image of {sample.id}"


@pytest.mark.parametrize(
    ("stated", "sample_id"),
    [
        (row(sample_id=2), 2),
        (row("Question 1?", sample_id=1), 1),
        (row("Question 1?"), 1),
        (row("Question 1?", "/somewhere/else.png"), 1),
        (row("Asked twice.", "/data/vlsbench/imgs/4.png"), 4),
        (row("Asked twice.", "C:\\data\\imgs\\3.png"), 3),
        (row("Asked twice.", image_sha256="image of 3"), 3),
        (row("Asked twice.", number=4), 4),
        (row("Twins.", "imgs/5.png", number=6), 6),
    ],
)
def test_a_row_finds_its_sample_by_everything_that_it_states(stated: ForeignRow, sample_id: int) -> None:
    assert [sample.id for sample, _ in match(stated).rows] == [sample_id]


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        (row(), "names neither an instruction_id nor an instruction"),
        (row(number=1), "names neither"),
        (row(sample_id=99), "no sample has the instruction_id 99"),
        (row("Question 2?", sample_id=1), "its instruction is not that of sample 1"),
        (row("Question 1?", "imgs/2.png", sample_id=1), "its image is not that of sample 1"),
        (row("Question 1? "), "no sample has this instruction"),
        (row("Question 1?", "imgs/2.png"), "no sample has this instruction with this image"),
        (row("Asked twice."), r"several samples fit \(3, 4\)"),
        (row("Asked twice.", number=1), "several samples fit"),
        (row("Twins.", "imgs/5.png"), r"several samples fit \(5, 6\)"),
    ],
)
def test_a_row_of_no_sample_or_of_several_is_refused_by_its_number(stated: ForeignRow, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"log row 1: {reason}"):
        match(row(sample_id=0), stated)

    left = match(row(sample_id=0), stated, skip_unknown=True)
    assert [sample.id for sample, _ in left.rows] == [0]
    assert [each.where for each in left.left_out] == ["log row 1"]


@pytest.mark.parametrize("skip_unknown", [True, False])
def test_two_rows_of_one_sample_are_refused_whatever_may_be_skipped(skip_unknown: bool) -> None:
    again = replace(row(sample_id=1), where="log row 7")

    with pytest.raises(ConfigError, match="log row 7: sample 1 was already in log row 1"):
        match(row(sample_id=1), again, skip_unknown=skip_unknown)


def test_rows_come_in_the_order_of_the_data_set_and_epochs_apart() -> None:
    found = match(row(sample_id=2), row(sample_id=0, epoch=2), row(sample_id=0))

    assert [(sample.id, each.epoch) for sample, each in found.rows] == [(0, 1), (0, 2), (2, 1)]


def test_many_refusals_are_counted_and_the_first_are_shown() -> None:
    with pytest.raises(ConfigError, match="and 7 more"):
        match(*(row(sample_id=90 + number) for number in range(12)))
