"""A server that is stopped, told to end or killed, whenever that happens: nothing of it is left."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.proofs.serving.test_serve import Bench, ended, status_of
from tests.support.command import Vlsb
from tests.support.fake_engine import STAGES, living
from tests.support.waiting import wait_until
from vlsb.engines.registry import Ending, read_records, stop_server


@pytest.fixture
def bench(tmp_path: Path, vlsb: Vlsb, minimal_env: dict[str, str]) -> Iterator[Bench]:
    made = Bench(tmp_path, vlsb, minimal_env)
    yield made
    made.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_a_server_runs_until_it_is_told_to_stop_and_that_is_success(bench: Bench, number: int) -> None:
    process = bench.start(CHILDREN="plain")
    record = bench.ready(process)
    key = record.key.reveal()
    assert status_of(record, "/v1/models") == 401
    assert status_of(record, "/v1/models", key=key) == 200
    assert len(living(bench.mark)) >= 3

    process.signal(number)
    finished = ended(process)

    assert finished.code == 0, finished
    bench.assert_nothing_left()
    assert f"llava_hf is ready: {record.base_url}, model name llava_hf" in finished.out
    assert "\n  vlsb run --model llava_hf\n" in finished.out
    assert "Stopping. Ctrl-C again kills it at once.\n" in finished.err
    assert re.search(r"^llava_hf has ended, after [\d.]+ s", finished.err, re.MULTILINE)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "chat"])
def test_a_stop_during_the_start_leaves_nothing(bench: Bench, tmp_path: Path, stage: str) -> None:
    process = bench.start(HOLD=str(tmp_path / "never"), HOLD_AT=stage, CHILDREN="plain")
    bench.started()

    process.signal(signal.SIGINT)
    finished = ended(process)

    assert finished.code == 130
    assert finished.out == ""
    assert finished.err.splitlines()[-1] == "Error: llava_hf: stopped before it was ready."
    bench.assert_nothing_left()


def test_a_second_ctrl_c_kills_an_engine_that_does_not_listen(bench: Bench) -> None:
    process = bench.start(TERM="ignore", CHILDREN="stubborn")
    bench.ready(process)

    process.signal(signal.SIGINT)
    process.wait_until_said("Stopping.")
    process.signal(signal.SIGINT)
    finished = ended(process)

    assert finished.code == 130
    assert finished.error == "Error: llava_hf: killed."
    bench.assert_nothing_left()


def test_a_second_ctrl_c_during_the_start_kills_too(bench: Bench, tmp_path: Path) -> None:
    process = bench.start(HOLD=str(tmp_path / "never"), TERM="ignore", CHILDREN="stubborn")
    bench.started()

    process.signal(signal.SIGINT)
    process.wait_until_said("Stopping.")
    process.signal(signal.SIGINT)
    finished = ended(process)

    assert finished.code == 130
    assert finished.error == "Error: llava_hf: killed before it was ready."
    bench.assert_nothing_left()


def test_an_engine_that_dies_by_itself_ends_the_command_with_its_cause(bench: Bench) -> None:
    process = bench.start(CHILDREN="plain")
    record = bench.ready(process)

    os.kill(record.pid, signal.SIGKILL)
    finished = ended(process)

    assert finished.code == 7
    assert "SIGKILL" in finished.err
    assert str(record.log) in finished.err
    bench.assert_nothing_left()


def test_two_names_are_served_side_by_side(bench: Bench, tmp_path: Path, vlsb: Vlsb) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.llava_hf.yaml").write_text(f"model: {bench.weights}\n")
    first = bench.start()
    one = bench.ready(first)
    words = ("serve", "mine", "--servers-dir", str(own), "--engine", str(bench.engine))
    second = vlsb.start(*words, env=bench.environment())
    other = bench.ready(second, "mine")

    assert urlsplit(one.base_url).port != urlsplit(other.base_url).port
    second.signal(signal.SIGINT)
    finished = ended(second)
    assert finished.code == 0
    assert f"  vlsb run --model mine --servers-dir {own}\n" in finished.out
    assert status_of(one, "/health") == 200


def test_whatever_kills_us_leaves_no_engine_and_no_obstacle(bench: Bench) -> None:
    process = bench.start(CHILDREN="plain")
    record = bench.ready(process)

    process.kill()
    wait_until(lambda: not living(bench.mark), what="the end of every process of the engine")
    again = bench.start()

    assert bench.ready(again).pid != record.pid
    assert len(bench.state_files) == 1


def test_a_detached_server_that_loses_its_head_leaves_nothing(bench: Bench) -> None:
    bench.run("--detach", CHILDREN="stubborn")
    (record,) = read_records(bench.places)

    os.kill(record.pid, signal.SIGKILL)

    wait_until(lambda: not living(bench.mark), what="the end of every process of the engine")
    assert read_records(bench.places) == []
    assert bench.state_files == []


def test_a_stop_from_elsewhere_ends_a_server_as_ctrl_c_does(bench: Bench) -> None:
    process = bench.start()
    record = bench.ready(process)

    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(stop_server, bench.places, record)
        assert ended(process).code == 0

    assert stopping.result() is Ending.STOPPED
    bench.assert_nothing_left()
