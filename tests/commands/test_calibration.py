"""`vlsb judge --calibrate`: a drawn part first, what it says of the judge, and only then the rest."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

from tests.support.command import Desk, Finished, least_environment
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import asked, sample_of
from tests.support.waiting import DEADLINE_S
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES, PART = 120, 40
# With the 800 tokens in and 40 out of the simulator's answers: one dollar a request, half of it in a batch.
A_DOLLAR = {
    "input": 1000,
    "output": 5000,
    "batch_input": 500,
    "batch_output": 2500,
    "source": "a made-up contract",
    "as_of": "2026-11-25",
}


def old_label(number: int) -> int:
    return 1 if number % 10 == 0 else 2 if number % 10 < 4 else 3


def new_label(number: int) -> int:
    return 2 if number % 6 == 5 else old_label(number)


def respond(request: Request) -> Action:
    number = sample_of(request)
    if not request.is_judge:
        return answer(f"Answer {number}.")
    return verdict(new_label(number) if request.model == "new-judge" else old_label(number))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run with its first judge's labels. Only to be copied."""
    desk = Desk(tmp_path_factory.mktemp("calibration"))
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        assert desk.run(simulator).code == 0
    return desk


@pytest.fixture
def desk(judged: Desk, tmp_path: Path) -> Desk:
    return judged.copied_to(tmp_path / "desk")


def words(
    desk: Desk, simulator: SimulatorThread, *more: object, judges: tuple[str, ...] = ("new-judge",)
) -> list[object]:
    named = [word for judge in judges for word in ("--judge", judge)]
    where = ("--judge-base-url", simulator.base_url, "--data-root", desk.data, "--backoff", "0.01")
    return ["judge", desk.run_dir, *named, *where, *more]


def calibrate(desk: Desk, simulator: SimulatorThread, *more: object) -> Finished:
    return desk.vlsb(*words(desk, simulator, "--calibrate", PART, *more))


def rest_command(done: Finished) -> list[str]:
    program, *found = shlex.split(done.last.removeprefix("Judge the rest with: "))
    assert program == "vlsb", done.err
    return found


def test_a_part_is_judged_and_the_command_that_goes_on_asks_for_no_response_twice(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        part = calibrate(desk, simulator)
        drawn = asked(simulator.completions, judge=True)
        again = calibrate(desk, simulator)
        rest = desk.vlsb(*rest_command(part))
        every = asked(simulator.completions, judge=True)

    assert (part.code, again.code, rest.code) == (0, 0, 0), part.err + again.err + rest.err
    assert PART <= len(drawn) < PART + 3
    assert sorted(every) == list(range(SAMPLES))
    assert again.out == part.out


def test_a_part_holds_every_label_of_the_first_judge_and_whole_images(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        calibrate(desk, simulator)
        drawn = asked(simulator.completions, judge=True)

    images = {row[0]: row[2] for row in desk.manifest()["samples"]}
    of_image = Counter(images.values())
    assert Counter(images[number] for number in drawn) == {
        image: of_image[image] for image in {images[number] for number in drawn}
    }
    labels = Counter(map(old_label, drawn))
    assert labels[1] > PART / 10 + 1
    assert set(labels) == {1, 2, 3}


def test_the_part_says_how_far_the_judge_is_and_what_the_rest_costs(desk: Desk) -> None:
    prices = desk.home / "prices.json"
    prices.write_text(json.dumps({"prices": [{"models": ["new-judge"], **A_DOLLAR}]}))
    with SimulatorThread(respond) as simulator:
        done = calibrate(desk, simulator, "--prices", prices)
        sent = len(simulator.completions)
        agreed = json.loads(desk.vlsb("agreement", desk.run_dir, "--format", "json").out)

    (pair,) = agreed["pairs"]
    assert pair["is_weighted"]
    kappa = pair["kappa"]
    figures = f"{kappa['value']:.3f} [{kappa['low']:.2f}, {kappa['high']:.2f}]"
    assert figures in " ".join(done.out.split())
    found = re.search(r"safe_rate +(\S+) +(\S+) +(\S+) +\[(\S+), (\S+)\]", done.out)
    assert found is not None, done.out
    now, expected, change, low, high = map(float, found.groups())
    true = 100 * sum((new_label(n) < 3) - (old_label(n) < 3) for n in range(SAMPLES)) / SAMPLES
    assert now == pytest.approx(100 * sum(old_label(n) < 3 for n in range(SAMPLES)) / SAMPLES, abs=0.005)
    assert expected == pytest.approx(now + change, abs=0.011)
    assert low <= true <= high
    left = SAMPLES - sent
    assert re.search(rf"so far +{sent} .* \${sent}\.00", done.out)
    rest = re.search(rf"the rest +{left} .* \${left}\.00 +\[([\d.]+), ([\d.]+)\]", done.out)
    assert rest is not None, done.out
    # Every answer took as much; the rest may take less or more.
    assert 0.8 * left < float(rest[1]) < left < float(rest[2]) < 1.5 * left
    assert re.search(rf"as a batch +\${left / 2:.2f}", done.out)


def test_a_part_is_not_taken_for_the_run(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        calibrate(desk, simulator)
        part = desk.vlsb("report", desk.run_dir)
        desk.vlsb(*words(desk, simulator))
        whole = desk.vlsb("report", desk.run_dir)
        agreed = json.loads(desk.vlsb("agreement", desk.run_dir, "--format", "json").out)

    assert "‡ Of a drawn part" in part.out
    assert "‡" not in whole.out
    (pair,) = agreed["pairs"]
    assert (pair["is_weighted"], pair["responses"]) == (False, SAMPLES)


def test_a_larger_part_adds_to_the_smaller_one(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        calibrate(desk, simulator)
        first = set(asked(simulator.completions, judge=True))
        done = desk.vlsb(*words(desk, simulator, "--calibrate", PART + 20))
        every = asked(simulator.completions, judge=True)

    assert done.code == 0, done.err
    assert PART + 20 <= len(every) == len(set(every)) < PART + 23
    assert first < set(every)


def test_yes_goes_on_with_the_rest(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        done = calibrate(desk, simulator, "--yes")

    assert done.code == 0, done.err
    assert "new-judge beside judge-model" in done.out
    assert [each["judged"] for each in desk.report()] == [SAMPLES, SAMPLES]


@pytest.mark.parametrize(("typed", "least", "most"), [("y", SAMPLES, SAMPLES), ("n", PART, PART + 2)])
def test_a_user_at_a_terminal_is_asked(desk: Desk, typed: str, least: int, most: int) -> None:
    ours, theirs = os.openpty()
    with SimulatorThread(respond) as simulator:
        command = map(str, words(desk, simulator, "--calibrate", PART, "--display", "plain"))
        with subprocess.Popen(
            [sys.executable, "-m", "vlsb", *command],
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.PIPE,
            cwd=desk.home,
            env=least_environment(desk.home),
        ) as process:
            os.close(theirs)
            said = b""
            while b"[y/N]" not in said:
                said += os.read(ours, 4096)
            os.write(ours, typed.encode() + b"\n")
            assert process.stdout is not None
            out = process.stdout.read().decode()
            code = process.wait(DEADLINE_S)
        os.close(ours)

    assert code == 0, said
    assert "beside judge-model" in out
    counts = {each["judge"]: each["judged"] for each in desk.report()}
    assert least <= counts["new-judge"] <= most


def test_a_part_that_was_stopped_goes_on_as_a_part(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        stopped = calibrate(desk, simulator, "--max-requests", 10)
        command = stopped.resume_command[1:]
        at = command.index("--max-requests")
        done = desk.vlsb(*command[:at], *command[at + 2 :])
        drawn = asked(simulator.completions, judge=True)

    assert stopped.code == 4
    assert done.code == 0, done.err
    assert "beside judge-model" in done.out
    assert PART <= len(drawn) == len(set(drawn)) < PART + 3


def test_both_judges_are_asked_where_nobody_has_judged(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    write_dataset(desk.data, sharing_rows(SAMPLES))
    with SimulatorThread(respond) as simulator:
        where = ("--model", "m", "--base-url", simulator.base_url, "--name", "r", "--data-root", desk.data)
        run = desk.vlsb("run", "--no-judge", *where)
        alone = calibrate(desk, simulator)
        done = desk.vlsb(*words(desk, simulator, "--calibrate", PART, judges=("judge-model", "new-judge")))
        judged = asked(simulator.completions, judge=True)

    assert run.code == 0, run.err
    assert alone.code == 2
    assert "--judge OLD --judge NEW" in alone.error
    assert done.code == 0, done.err
    assert "new-judge beside judge-model" in done.out
    assert set(Counter(judged).values()) == {2}
    assert PART <= len(judged) / 2 < PART + 3


def test_what_gives_no_label_is_not_calibrated(desk: Desk) -> None:
    done = desk.vlsb(
        "judge", desk.run_dir, "--judge", "refusal_phrases", "--calibrate", PART, "--data-root", desk.data
    )

    assert done.code == 2
    assert "three labels" in done.error


def test_without_the_extra_it_says_how_to_get_it(desk: Desk) -> None:
    command = ("judge", desk.run_dir, "--judge", "x", "--calibrate", PART, "--data-root", desk.data)

    done = desk.vlsb(*command, prelude="import sys; sys.modules['scipy'] = None")

    assert done.code == 2
    assert "needs the extra `stats` (scipy not found). Install it: " in done.error
