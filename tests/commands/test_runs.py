"""`vlsb runs`: lists, merges, removals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.command import Desk, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.sweeps import tables
from vlsb.simulator import SimulatorThread
from vlsb.store.journal import lock_run

SAMPLES = 12


@pytest.fixture
def halves(desk: Desk, target: SimulatorThread) -> tuple[Path, Path]:
    """The two halves of a data set, evaluated apart."""
    data = write_dataset(desk.home / "more", sharing_rows(SAMPLES))
    for name, limit in (("first", "1-6"), ("second", "7-12")):
        words = run_words(target, data, "--name", name, "--limit", limit)
        assert desk.vlsb(*words).code == 0
    return desk.outputs / "first", desk.outputs / "second"


def test_the_list_is_sorted_and_filtered_and_is_json(desk: Desk, halves: tuple[Path, Path]) -> None:
    table = desk.vlsb("runs", "list", "outputs")
    none = desk.vlsb("runs", "list", "outputs", "--target", "nobody")
    newest = desk.vlsb("runs", "list", "outputs", "--sort", "created", "--judge", "J", "--format", "json")

    assert table.code == none.code == newest.code == 0
    assert table.out.index("outputs/first") < table.out.index("outputs/second")
    assert "0 runs" in none.out
    found = json.loads(newest.out)
    assert {each["path"] for each in found} == {"outputs/first", "outputs/second"}
    assert [(each["response_rows"], each["selected"]) for each in found] == [(6, 6), (6, 6)]
    assert all(each["schema_version"] == 1 and each["judges"] == ["j"] for each in found)


def test_runs_of_sweeps_are_listed_wherever_they_lie_in_the_order_of_their_numbers(
    desk: Desk, halves: tuple[Path, Path]
) -> None:
    """One that is damaged is listed with what is wrong; another report says where runs are."""
    for name in ("a/step-1000", "a/step-200", "b/c/step-30", "a/step-4"):
        shutil.copytree(halves[0], desk.home / "sweeps" / name)
    (desk.home / "sweeps" / "a" / "step-4" / "run.json").write_text("{")

    table = desk.vlsb("runs", "list", "sweeps", env={"COLUMNS": "120"})
    listed = json.loads(desk.vlsb("runs", "list", "sweeps", "--format", "json").out)
    targets = json.loads(desk.vlsb("runs", "list", "sweeps", "--sort", "target", "--format", "json").out)
    report = desk.vlsb("report", "sweeps")
    empty = desk.vlsb("runs", "list", desk.home / "data" / "imgs")

    names = [Path(each["path"]).name for each in listed]
    assert names == ["step-4", "step-30", "step-200", "step-1000"]
    assert [Path(each["path"]).name for each in targets] == [*names[1:], "step-4"]
    assert "run.json is damaged" in listed[0]["problem"]
    assert (table.code, "damaged" in table.out, "6/6" in table.out, "4 runs" in table.out) == (
        0,
        True,
        True,
        True,
    )
    assert (report.code, "There are runs in sweeps/a: name these" in report.error) == (2, True)
    assert (empty.code, "no run in it or below it" in empty.error) == (2, True)


def test_two_halves_merged_are_the_run_over_the_whole(
    desk: Desk, target: SimulatorThread, halves: tuple[Path, Path]
) -> None:
    whole = desk.vlsb(*run_words(target, desk.home / "more", "--name", "whole"))
    asked = len(target.completions)

    merged = desk.vlsb("runs", "merge", *halves, "--into", "outputs/merged")

    assert (whole.code, merged.code) == (0, 0), merged.err
    found = tables(desk.vlsb, desk.outputs)
    compared = {"run", "data_digest", "notices"}
    for name, value in found["whole"].items():
        if name not in compared:
            assert found["merged"][name] == value, name
    resumed = desk.vlsb(*run_words(target, desk.home / "more", "--name", "merged", "--resume"))
    assert resumed.code == 0, resumed.err
    assert len(target.completions) == asked
    assert all(each.exists() for each in halves)


def test_parts_that_share_samples_or_asked_otherwise_are_refused(
    desk: Desk, target: SimulatorThread, halves: tuple[Path, Path]
) -> None:
    words = run_words(target, desk.home / "more", "--name", "warm", "--limit", "7-9", "--temperature", "1")
    assert desk.vlsb(*words).code == 0

    same = desk.vlsb("runs", "merge", halves[0], halves[0], "--into", "outputs/x")
    warm = desk.vlsb("runs", "merge", halves[0], "outputs/warm", "--into", "outputs/x")
    there = desk.vlsb("runs", "merge", *halves, "--into", "outputs/warm")

    assert (same.code, warm.code, there.code) == (2, 2, 2)
    assert "temperature" in warm.error
    assert not (desk.outputs / "x").exists()


def test_a_run_is_removed_when_the_user_says_so_and_nobody_writes_it(
    desk: Desk, halves: tuple[Path, Path]
) -> None:
    first, second = halves

    (desk.outputs / "link").symlink_to(first)

    unasked = desk.vlsb("runs", "rm", first)
    with lock_run(second):
        busy = desk.vlsb("runs", "rm", first, second, "--yes")
    both_there = first.exists() and second.exists()
    link = desk.vlsb("runs", "rm", desk.outputs / "link", "--yes")
    removed = desk.vlsb("runs", "rm", first, first, "--yes")

    assert (unasked.code, busy.code, link.code, removed.code) == (2, 6, 2, 0)
    assert both_there
    assert not first.exists()
    assert second.exists()
    assert not list(desk.outputs.glob(".*removed"))
