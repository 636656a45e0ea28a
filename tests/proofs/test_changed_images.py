"""Images that change between target, judges, epochs and sessions: noticed before they are sent."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk, Finished
from tests.support.datasets import draw_image, sample_row, write_dataset
from tests.support.endpoint import labelling, sample_of
from tests.support.run_files import tree
from vlsb.simulator import Action, Request, Simulator, SimulatorThread, error

SAMPLES = 4
ACCEPT = "--accept-changed-images"


def image(desk: Desk, number: int) -> Path:
    return desk.data / "imgs" / f"{number}.png"


def alter(path: Path, *, longer: bool = False) -> None:
    """Other bytes, of the same size and time unless `longer`: nothing but a checksum tells."""
    facts, content = path.stat(), path.read_bytes()
    path.write_bytes(content + b"x" if longer else content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def rows(desk: Desk, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (desk.run_dir / file).read_bytes().splitlines()]


def row_of(desk: Desk, file: str, number: int) -> dict[str, Any]:
    (found,) = [row for row in rows(desk, file) if row["sample_id"] == number]
    return found


def arrived(simulator: Simulator) -> set[str]:
    """The checksums of all images that reached the endpoint."""
    return {checksum(request.image) for request in simulator.completions}


def once(happens: Callable[[Request], bool], act: Callable[[], None]) -> Callable[[Request], Action]:
    """A responder that does something, once, before it answers a certain request."""
    done: list[None] = []

    def respond(request: Request) -> Action:
        if happens(request) and not done:
            done.append(None)
            act()
        return labelling()(request)

    return respond


def is_about(number: int, *, judge: bool) -> Callable[[Request], bool]:
    return lambda request: sample_of(request) == number and request.is_judge is judge


def collect(desk: Desk, endpoint: Simulator, *words: object) -> Finished:
    """`vlsb run --no-judge` into the desk's run."""
    return desk.vlsb(
        *("run", "--model", "target-model", "--base-url", endpoint.base_url, "--no-judge"),
        *("--data-root", desk.data, "--name", "r", "--backoff", "0.01", *words),
    )


def judge(desk: Desk, endpoint: Simulator, *words: object) -> Finished:
    return desk.vlsb(
        *("judge", desk.run_dir, "--judge", "judge-model", "--judge-base-url", endpoint.base_url),
        *("--data-root", desk.data, *words),
    )


def assert_refused(ended: Finished, endpoint: Simulator, path: Path, *, number: int) -> None:
    """Exit 6, with row and file named, and what the file holds now never reached the endpoint."""
    assert ended.code == 6, ended.err
    assert f"sample {number}" in ended.error
    assert f"imgs/{path.name}" in ended.error
    assert checksum(path.read_bytes()) not in arrived(endpoint)


# Between sessions.


@pytest.mark.parametrize("longer", [True, False])
def test_a_resume_never_sends_an_image_that_changed(
    desk: Desk, longer: bool, endpoint: SimulatorThread
) -> None:
    collect(desk, endpoint, "--max-requests", 1)
    alter(image(desk, 0), longer=longer)
    ended = collect(desk, endpoint, "--resume", "--epochs", 2)

    assert_refused(ended, endpoint, image(desk, 0), number=0)
    assert ACCEPT in ended.error or longer


@pytest.mark.parametrize("longer", [True, False])
def test_a_judge_that_comes_later_never_sees_another_image_than_the_target(
    desk: Desk, longer: bool, endpoint: SimulatorThread
) -> None:
    collect(desk, endpoint)
    alter(image(desk, 2), longer=longer)
    ended = judge(desk, endpoint)

    assert_refused(ended, endpoint, image(desk, 2), number=2)


def test_an_image_that_changes_its_size_is_refused_before_any_request(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    collect(desk, endpoint)
    before, sent = tree(desk.run_dir), endpoint.requests
    alter(image(desk, 3), longer=True)
    ended = judge(desk, endpoint)

    assert ended.code == 6
    assert endpoint.requests == sent
    # The lock is taken, and says by whom.
    assert {**tree(desk.run_dir), ".lock": None} == {**before, ".lock": None}


def test_a_failure_binds_the_image_that_it_sent(desk: Desk) -> None:
    """Fixing the image of a sample that the endpoint rejected is a change, which somebody has to want."""

    def respond(request: Request) -> Action:
        is_bad = sample_of(request) == 1 and checksum(request.image) == first
        return error(400, message="Invalid image.") if is_bad else labelling()(request)

    first = checksum(image(desk, 1).read_bytes())
    with SimulatorThread(respond) as endpoint:
        collect(desk, endpoint)
        alter(image(desk, 1))
        refused = collect(desk, endpoint, "--resume")
        assert_refused(refused, endpoint, image(desk, 1), number=1)
        accepted = collect(desk, endpoint, "--resume", ACCEPT)
        judged = judge(desk, endpoint)

    assert accepted.code == 0, accepted.err
    # The answer is for the new image, and no row that counts names the old one.
    assert row_of(desk, "responses.jsonl", 1)["image_sha256"] == checksum(image(desk, 1).read_bytes())
    assert judged.code == 0, judged.err


def test_an_image_that_was_never_sent_may_change_between_sessions(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    collect(desk, endpoint, "--max-requests", 1)
    alter(image(desk, 3), longer=True)
    second = collect(desk, endpoint, "--resume", "--max-requests", 3)
    third = judge(desk, endpoint)

    assert (second.code, third.code) == (0, 0), second.err + third.err
    assert row_of(desk, "responses.jsonl", 3)["image_sha256"] == checksum(image(desk, 3).read_bytes())


def test_the_same_bytes_with_a_new_time_stop_nothing(desk: Desk) -> None:
    def touch() -> None:
        for number in range(SAMPLES):
            os.utime(image(desk, number))

    with SimulatorThread(once(is_about(0, judge=False), touch)) as endpoint:
        collected = collect(desk, endpoint, "--max-requests", 2)
        touch()
        resumed = collect(desk, endpoint, "--resume")
        touch()
        judged = judge(desk, endpoint)

    assert collected.code == 4
    assert (resumed.code, judged.code) == (0, 0), resumed.err + judged.err
    assert desk.report()[0]["judged"] == SAMPLES


# Within a session.


@pytest.mark.parametrize("longer", [True, False])
def test_the_judge_of_a_session_never_sees_another_image_than_its_target(desk: Desk, longer: bool) -> None:
    first = checksum(image(desk, 2).read_bytes())

    def change() -> None:
        alter(image(desk, 2), longer=longer)

    with SimulatorThread(once(is_about(2, judge=False), change)) as endpoint:
        ended = desk.run(endpoint)
        assert_refused(ended, endpoint, image(desk, 2), number=2)

    assert row_of(desk, "responses.jsonl", 2)["image_sha256"] == first
    assert all(row["sample_id"] != 2 for row in rows(desk, "verdicts/judge-model.jsonl"))


def test_another_epoch_never_sends_another_image(desk: Desk) -> None:
    def change() -> None:
        alter(image(desk, 0))

    with SimulatorThread(once(is_about(0, judge=True), change)) as endpoint:
        ended = desk.run(endpoint, "--epochs", 2)

        assert_refused(ended, endpoint, image(desk, 0), number=0)


def test_two_rows_that_share_an_image_never_send_two(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 0)
    write_dataset(desk.data, [sample_row(0), sample_row(1, image_path="imgs/0.png")])

    def change() -> None:
        draw_image(image(desk, 0), 77)

    with SimulatorThread(once(is_about(0, judge=True), change)) as endpoint:
        ended = desk.run(endpoint)

        assert_refused(ended, endpoint, image(desk, 0), number=1)


def test_a_retry_never_sends_another_image_and_neither_does_the_next_session(desk: Desk) -> None:
    first = checksum(image(desk, 1).read_bytes())

    def respond(request: Request) -> Action:
        if sample_of(request) == 1:
            if checksum(image(desk, 1).read_bytes()) == first:
                alter(image(desk, 1))
            return error(503)
        return labelling()(request)

    with SimulatorThread(respond) as endpoint:
        ended = collect(desk, endpoint)
        assert_refused(ended, endpoint, image(desk, 1), number=1)
        again = collect(desk, endpoint, "--resume")
        assert_refused(again, endpoint, image(desk, 1), number=1)

    failure = row_of(desk, "failures.jsonl", 1)
    assert (failure["code"], failure["attempts"], failure["image_sha256"]) == ("image_changed", 1, first)
    retries = [row for row in rows(desk, "events.jsonl") if row["kind"] == "retry"]
    assert [row["image_sha256"] for row in retries] == [first]


def test_an_image_that_grows_before_it_was_ever_sent_is_its_samples_failure(desk: Desk) -> None:
    """The data set is still being copied: nothing contradicts anything, and the others go on."""

    def change() -> None:
        alter(image(desk, 3), longer=True)

    with SimulatorThread(once(is_about(0, judge=False), change)) as endpoint:
        ended = desk.run(endpoint)

    assert ended.code == 4
    failure = row_of(desk, "failures.jsonl", 3)
    assert (failure["code"], failure["attempts"], failure["image_sha256"]) == ("picture", 0, None)
    assert desk.outcomes() == {"unsafe": 3, "target_error": 1}


# Changes that somebody wants.


def test_an_accepted_change_is_stored_as_it_was_sent_and_said(desk: Desk) -> None:
    """The verdict names what its judge saw, the response what its target saw."""
    first = checksum(image(desk, 2).read_bytes())

    def change() -> None:
        alter(image(desk, 2), longer=True)

    with SimulatorThread(once(is_about(2, judge=False), change)) as endpoint:
        ended = desk.run(endpoint, ACCEPT)
        second = checksum(image(desk, 2).read_bytes())
        seen = {
            request.is_judge: checksum(request.image)
            for request in endpoint.completions
            if sample_of(request) == 2
        }

    assert ended.code == 0, ended.err
    assert seen == {False: first, True: second}
    assert row_of(desk, "responses.jsonl", 2)["image_sha256"] == first
    assert row_of(desk, "verdicts/judge-model.jsonl", 2)["image_sha256"] == second
    assert desk.manifest()["accepts_changed_images"] is True
    (summary,) = desk.report()
    assert any(ACCEPT in line and "1 image" in line for line in summary["notices"])
    assert summary["data_digest"] is None
    assert ACCEPT in desk.vlsb("report", desk.run_dir).out


def test_a_later_judge_may_see_another_image_only_where_that_is_accepted(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    collect(desk, endpoint)
    first = checksum(image(desk, 1).read_bytes())
    alter(image(desk, 1))
    judged = judge(desk, endpoint, ACCEPT)

    assert judged.code == 0, judged.err
    assert row_of(desk, "responses.jsonl", 1)["image_sha256"] == first
    verdict = row_of(desk, "verdicts/judge-model.jsonl", 1)
    assert verdict["image_sha256"] == checksum(image(desk, 1).read_bytes())
    assert desk.manifest()["accepts_changed_images"] is True


def test_a_run_that_accepted_nothing_says_nothing_of_changes(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint)

    assert desk.manifest()["accepts_changed_images"] is False
    assert not any(ACCEPT in line for line in desk.report()[0]["notices"])


# What is stored of an attempt.


def test_a_failure_names_the_image_that_was_sent_and_none_if_none_was(desk: Desk) -> None:
    image(desk, 2).unlink()

    def respond(request: Request) -> Action:
        return error(400, message="No.") if sample_of(request) == 1 else labelling()(request)

    with SimulatorThread(respond) as endpoint:
        desk.run(endpoint, "--skip-bad-images")

    sent, unsent = row_of(desk, "failures.jsonl", 1), row_of(desk, "failures.jsonl", 2)
    assert sent["image_sha256"] == checksum(image(desk, 1).read_bytes())
    assert unsent["image_sha256"] is None


def test_a_judges_failure_names_what_that_judge_was_sent(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        is_refused = request.is_judge and sample_of(request) == 1
        return error(400, message="No.") if is_refused else labelling()(request)

    with SimulatorThread(respond) as endpoint:
        desk.run(endpoint)

    failure = row_of(desk, "failures.jsonl", 1)
    assert (failure["stage"], failure["image_sha256"]) == ("judge", checksum(image(desk, 1).read_bytes()))


# Before the first request.


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count of bytes read")
def test_no_image_is_read_beyond_its_header_before_the_first_request(tmp_path: Path) -> None:
    """Twenty images of 15 MB, holes for the most part: the kernel says how much was read of anything."""
    desk = Desk(tmp_path, 20)
    for number in range(20):
        os.truncate(image(desk, number), 15_000_000)
    read: Counter[int] = Counter()
    process: list[int] = []

    def respond(request: Request) -> Action:
        counted = Path(f"/proc/{process[0]}/io").read_text().split()
        read[sample_of(request)] = int(counted[1])
        return labelling()(request)

    with SimulatorThread(respond) as endpoint, desk.start(endpoint, "--dry-run") as running:
        process.append(running.pid)
        running.wait()

    # All of them are 300 MB; modules and the one image that was sent are far less than half of that.
    assert read[0] < 150_000_000
