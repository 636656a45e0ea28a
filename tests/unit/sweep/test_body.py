"""The copy of a run at an address: what is there is brought, what is new is stored, what fails is said."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import vlsb.sweep.body as body
from vlsb.errors import ConfigError, OutageError
from vlsb.sweep.body import Mirror, NodeTask, carry_out


def run_in(folder: Path) -> Path:
    """A run's folder with two files."""
    (folder / "verdicts").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "verdicts" / "j.jsonl").write_text("1\n")
    return folder


def test_what_was_stored_comes_back_on_another_node(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/bucket/r"
    Mirror(address, run_in(tmp_path / "a")).push()
    other = Mirror(address, tmp_path / "b")

    other.pull()

    assert (tmp_path / "b" / "verdicts" / "j.jsonl").read_text() == "1\n"


def test_a_longer_file_here_is_not_replaced(tmp_path: Path) -> None:
    mirror = Mirror(f"file://{tmp_path}/bucket/r", run_in(tmp_path / "a"))
    mirror.push()
    (tmp_path / "a" / "verdicts" / "j.jsonl").write_text("1\n2\n")

    mirror.pull()

    assert (tmp_path / "a" / "verdicts" / "j.jsonl").read_text() == "1\n2\n"


def test_an_address_that_cannot_be_written_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "_PUSH_PATIENCE_S", 0.0)
    monkeypatch.setattr(body, "_PUSH_AGAIN_S", 0.0)
    (tmp_path / "bucket").write_text("a file where a folder should be")
    mirror = Mirror(f"file://{tmp_path}/bucket/r", run_in(tmp_path / "a"))

    with pytest.raises(OutageError, match="cannot be written"):
        mirror.push_all()


def test_a_task_whose_address_means_nothing_ends_with_a_word_in_its_log(tmp_path: Path) -> None:
    task = NodeTask(["--version"], str(tmp_path / "logs" / "r.log"), {}, str(tmp_path), ["r"], "nonsense://x")

    assert asyncio.run(carry_out(task)) == ConfigError.exit_code
    assert "nonsense://x/r" in (tmp_path / "logs" / "r.log").read_text()


def test_the_hub_is_asked_for_fewer_commits() -> None:
    assert Mirror("hf://datasets/a/b/r", Path("r")).every_s > Mirror("s3://b/r", Path("r")).every_s
