"""A disk that takes no more, in the middle of a run: said once, nothing torn, nothing shown as a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import SAMPLES, Finished, Vlsb
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import asked, persona
from tests.support.run_files import journals, stored_ids, whole_lines
from vlsb.simulator import Reply, Request, Responder, SimulatorThread, answer, verdict

FILE_LIMIT_BYTES = 24 * 1024
"""Above what `run.json` needs, below what a padded journal comes to."""
PADDING = "and so on " * 100
# A file-size limit ends a write like a full disk does: a part is taken, then nothing (EFBIG for ENOSPC).
FULL_DISK = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_LIMIT_BYTES},) * 2)"


def long_answers(request: Request) -> Reply:
    """`responses.jsonl` fills up first."""
    return answer(PADDING, delay_s=0.005) if not request.is_judge else persona(request)


def long_explanations(request: Request) -> Reply:
    """The verdicts fill up first."""
    return verdict(3, PADDING, delay_s=0.005) if request.is_judge else persona(request)


class LongFailures:
    """`failures.jsonl` fills up first: no answer is usable, and each is kept for audit."""

    def __init__(self) -> None:
        self._first: set[bool] = set()

    def __call__(self, request: Request) -> Reply:
        is_first = request.is_judge not in self._first
        self._first.add(request.is_judge)
        if is_first or request.is_judge:
            return persona(request)
        return answer(PADDING, finish_reason="content_filter", delay_s=0.005)


def run(vlsb: Vlsb, simulator: SimulatorThread, *more: str, prelude: str | None = None) -> Finished:
    url = simulator.base_url
    lanes = ("--base-url", url, "--judge-base-url", url, "--backoff", "0.01")
    return vlsb("run", "--model", "m", "--judge", "j", "--data-root", "data", *lanes, *more, prelude=prelude)


@pytest.mark.parametrize(
    ("make_responder", "journal"),
    [
        (lambda: long_answers, "responses.jsonl"),
        (lambda: long_explanations, "verdicts/"),
        (LongFailures, "failures.jsonl"),
    ],
    ids=["responses", "verdicts", "failures"],
)
def test_a_journal_that_cannot_grow_stops_the_run_with_nothing_torn(
    tmp_path: Path, make_responder: Callable[[], Responder], journal: str
) -> None:
    write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(make_responder()) as simulator:
        ended = run(vlsb, simulator, prelude=FULL_DISK)

    assert ended.code == 5, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    (said,) = ended.errors
    assert journal in said
    assert said.endswith("Raise the limit on the size of a file (`ulimit -f`).")
    assert ended.resume_command[:2] == ["vlsb", "run"]
    assert_only_whole_records(tmp_path / "outputs" / "m")


def assert_only_whole_records(directory: Path) -> None:
    found = journals(directory)
    assert found
    for name, contents in found.items():
        assert contents == whole_lines(contents), name
        assert len(contents) <= FILE_LIMIT_BYTES
        for line in contents.split(b"\n")[:-1]:
            assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize("responder", [long_answers, long_explanations])
def test_with_room_again_the_printed_command_finishes_the_run(tmp_path: Path, responder: Responder) -> None:
    full, roomy = (Vlsb(make(tmp_path / name)) for name in ("full", "roomy"))
    with SimulatorThread(responder) as simulator:
        straight = run(roomy, simulator)
        ended = run(full, simulator, prelude=FULL_DISK)
        before = journals(tmp_path / "full" / "outputs" / "m")
        responded, judged = stored_ids(tmp_path / "full" / "outputs" / "m")
        sent = len(simulator.completions)
        resumed = full.resume(ended)
        later = simulator.completions[sent:]

    assert straight.code == 0, straight.err
    assert ended.code == 5, ended
    assert resumed.code == 0, resumed.err
    assert full.summary() == roomy.summary()
    assert set(asked(later, judge=False)).isdisjoint(responded)
    assert set(asked(later, judge=True)).isdisjoint(judged)
    after = journals(tmp_path / "full" / "outputs" / "m")
    assert all(after[name].startswith(contents) for name, contents in before.items())


def make(directory: Path) -> Path:
    directory.mkdir()
    write_dataset(directory / "data", sharing_rows(SAMPLES))
    return directory


def test_a_disk_too_full_for_the_manifest_sends_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona) as simulator:
        ended = run(vlsb, simulator, prelude=FULL_DISK.replace(str(FILE_LIMIT_BYTES), "1024"))
        sent = simulator.requests
        again = run(vlsb, simulator)

    assert ended.code == 5, ended
    assert len(ended.errors) == 1
    assert sent == 0
    assert ended.last.startswith("Nothing was stored. Check the place: --output-dir")
    assert again.code == 0, again.err


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_an_output_directory_below_a_file_is_said_in_one_line(tmp_path: Path, more: tuple[str, ...]) -> None:
    write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    (tmp_path / "file").write_text("in the way")
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona) as simulator:
        ended = run(vlsb, simulator, "--output-dir", "file/outputs", *more)

    assert ended.code in (2, 5), ended
    assert ended.out == ""
    assert len(ended.errors) == 1
    assert "file" in ended.errors[0]
    assert simulator.requests == 0
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def complete(tmp_path: Path) -> dict[str, Any]:
    """The summary of a finished run in `tmp_path`."""
    write_dataset(tmp_path / "data", sharing_rows(SAMPLES))
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona) as simulator:
        ended = run(vlsb, simulator)
    assert ended.code == 0, ended.err
    return vlsb.summary()


def test_a_report_needs_no_room(tmp_path: Path, complete: dict[str, Any]) -> None:
    no_room = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536,) * 2)"

    ended = Vlsb(tmp_path)("report", "outputs", "--format", "json", prelude=no_room)

    assert ended.code == 0, ended.err
    assert json.loads(ended.out)[0]["judged"] == complete["judged"] == SAMPLES
