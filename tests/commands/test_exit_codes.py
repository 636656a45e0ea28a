"""Every way in which a run ends early: its exit code, one line that says why, and how to go on."""

from __future__ import annotations

import fcntl
import json
import shlex
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.canary import NO_CANARY
from tests.support.command import Desk, run_words
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import asked, labelling, sample_of
from tests.support.scripts import Script
from vlsb.simulator import (
    Action,
    Reply,
    Request,
    SimulatorThread,
    Stall,
    answer,
    blocked,
    error,
    models,
    verdict,
)


def resume_line(stderr: str) -> str:
    """The last line, which must be the resume command."""
    last = stderr.rstrip("\n").split("\n")[-1]
    assert last.startswith("Resume with: vlsb run "), stderr
    assert last.endswith(" --resume")
    return last.removeprefix("Resume with: ")


# 2: usage, configuration, data. Nothing is sent.

USAGE = {
    "an unknown option": (["run", "--no-such-option"], "--no-such-option"),
    "an unknown command": (["rnu"], "rnu"),
    "a key on the command line": (["run", "--api-key", "sk-abcdefghijklmnop"], "--api-key"),
    "no number": (["run", "--model", "demo", "--max-connections", "many"], "--max-connections"),
    "a number out of range": (["run", "--model", "demo", "--max-connections", "0"], "--max-connections"),
    "no model": (["run"], "--model"),
    "an unknown model": (["run", "--model", "gtp-4o"], "Did you mean gpt-4o?"),
    "a judge that no engine here can play": (
        ["run", "--model", "demo", "--judge", "qwen3guard"],
        "--judge-base-url",
    ),
    "no data set": (["run", "--model", "m", "--base-url", "http://127.0.0.1:9/v1"], "--data-root"),
    "a bad limit": (["run", "--model", "demo", "--limit", "0"], "--limit"),
    "a limit backwards": (["run", "--model", "demo", "--limit", "9-3"], "--limit"),
    "a limit behind the end": (["run", "--model", "demo", "--limit", "900-901"], "selection is empty"),
    "an unknown category": (["run", "--model", "demo", "--category", "Violnt"], "Violent"),
    "an unknown sample": (["run", "--model", "demo", "--sample-id", "777"], "777"),
    "a bad display": (["run", "--model", "demo", "--display", "fancy"], "--display"),
    "a bad share": (["run", "--model", "demo", "--fail-on-error", "some"], "--fail-on-error"),
    "a reserved field": (["run", "--model", "demo", "-M", "messages=1"], "messages"),
    "a field without a value": (["run", "--model", "demo", "-M", "seed"], "KEY=VALUE"),
    "a header without a variable": (["run", "--model", "demo", "--header", "api-key"], "NAME=VARIABLE"),
    "a header with a value": (["run", "--model", "demo", "--header", "api-key=sk-1.2/3"], "NAME=VARIABLE"),
    "retry without resume": (["run", "--model", "demo", "--retry", "target_blocked"], "--resume"),
    "retry of a label": (["run", "--model", "demo", "--resume", "--retry", "unsafe"], "unsafe"),
    "a bad report format": (["report", ".", "--format", "pdf"], "--format"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_usage_mistake_is_one_line_and_exit_2(desk: Desk, case: str) -> None:
    words, named = USAGE[case]
    env = {"OPENAI_API_KEY": "not-a-real-key"} if "127.0.0.1" in " ".join(words) else {}

    done = desk.vlsb(*words, env=env)

    assert done.code == 2
    assert named in done.error
    assert done.out == ""
    assert "Resume with" not in done.err
    assert not desk.outputs.exists()


@pytest.mark.parametrize(
    "words", [["run", "--api-key", "sk-abcdef-secret"], ["run", "--header", "x=sk-a.b/c"]]
)
def test_what_may_be_a_key_is_not_repeated(desk: Desk, words: list[str]) -> None:
    done = desk.vlsb(*words, "--model", "demo")

    assert done.code == 2
    assert words[-1].removeprefix("x=") not in done.err


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("not a url", "not a"),
        ("ftp://127.0.0.1/v1", "http"),
        ("http://127.0.0.1:99999/v1", "URL"),
        ("http://models.example/v1", "--allow-http"),
        ("https://user:secret@models.example/v1", "leave user names"),
        ("https://models.example/v1?key=secret", "queries"),
    ],
)
def test_a_bad_base_url_is_exit_2(desk: Desk, url: str, named: str) -> None:
    done = desk.run(url, judge="http://127.0.0.1:9/v1")

    assert done.code == 2
    assert named in done.error
    assert "--base-url" in done.error
    assert "secret" not in done.err


def test_a_missing_data_root_is_exit_2_and_named(desk: Desk) -> None:
    done = desk.run("http://127.0.0.1:9/v1", "--data-root", "nowhere")

    assert done.code == 2
    assert "nowhere" in done.error


def test_bad_images_are_exit_2_naming_all_rows_with_nothing_spent(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    (desk.data / "imgs/1.png").unlink()
    (desk.data / "imgs/3.png").write_text("version https://git-lfs.github.com/spec/v1\n")

    done = desk.run(endpoint)

    assert done.code == 2
    assert "instruction_id 1, 3" in done.error
    assert "--skip-bad-images" in done.error
    assert endpoint.requests == 0
    assert not desk.outputs.exists()


def test_a_bad_row_is_exit_2_naming_it(desk: Desk) -> None:
    write_dataset(desk.data, [sample_row(0), sample_row(7, category=3)])

    done = desk.run("http://127.0.0.1:9/v1")

    assert done.code == 2
    assert "row 2 (instruction_id 7): category" in done.error


# 2 and 3 from the endpoint, at the preflight.

REFUSALS: dict[str, tuple[int, Action, str]] = {
    "redirect": (2, Reply(307, b"", (("location", "https://elsewhere.example/v1"),)), "elsewhere.example"),
    "unknown model": (2, error(404, code="model_not_found"), "no such model"),
    "nothing there": (2, Reply(404, "not here"), "nothing answers"),
    "401": (3, error(401, code="invalid_api_key"), "invalid_api_key"),
    "403": (3, error(403, code="unsupported_country_region_territory"), "unsupported_country"),
    "quota": (3, error(429, code="insufficient_quota", type="insufficient_quota"), "insufficient_quota"),
    "402": (3, error(402, message="Add credits."), "Add credits."),
}


@pytest.mark.parametrize("lane", ["target", "judge"])
@pytest.mark.parametrize("case", REFUSALS)
def test_a_fatal_answer_at_the_preflight_costs_one_request_and_keeps_the_run(
    desk: Desk, case: str, lane: str
) -> None:
    code, refusal, named = REFUSALS[case]
    script = Script(labelling())
    (script.target if lane == "target" else script.judge).enqueue(refusal)

    with SimulatorThread(script) as simulator:
        done = desk.run(simulator)
        sent = (len(asked(simulator.completions, judge=False)), len(asked(simulator.completions, judge=True)))

    assert done.code == code
    assert named in done.error
    assert f"{lane} {lane}-model at 127.0.0.1:{simulator.port}: " in done.error
    assert sent == ((1, 0) if lane == "target" else (1, 1))
    # A response is stored: only a key or a bill leaves the same command something to go on with.
    if lane == "judge" and code == 3:
        resume_line(done.err)
    else:
        assert "Resume with" not in done.err
        assert done.last == done.error
    missing = {"not_attempted": 4} if lane == "target" else {"not_attempted": 3, "not_judged": 1}
    assert desk.outcomes() == missing


@pytest.mark.parametrize("case", ["redirect", "unknown model", "401", "quota"])
def test_a_fatal_answer_in_the_middle_keeps_what_is_finished_and_resumes(desk: Desk, case: str) -> None:
    code, refusal, named = REFUSALS[case]
    script = Script(labelling())
    script.target.enqueue(*[labelling()] * 2, refusal)

    with SimulatorThread(script) as simulator:
        # Whatever is looked up for the message, nothing else may leave meanwhile.
        simulator.routes["GET /v1/models"] = replace(models(["another-model"]), delay_s=0.3)
        done = desk.run(simulator, "--max-connections", 1)
        first = desk.outcomes()
        resumed = desk.run(simulator, "--resume")
        sent = asked(simulator.completions, judge=False)

    assert done.code == code
    assert named in done.error
    resume_line(done.err)
    assert first["not_attempted"] == 2
    assert "target_error" not in first
    assert resumed.code == 0
    assert sorted(sent) == [0, 1, 2, 2, 3]


def test_an_unreachable_host_is_exit_2(desk: Desk) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connecting is refused
        done = desk.run(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")

    assert done.code == 2
    assert "connection refused" in done.error


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        (["--model", "gpt-4o", "--judge", "demo"], "OPENAI_API_KEY"),
        (["--model", "claude-sonnet-4-5", "--judge", "demo"], "ANTHROPIC_API_KEY"),
        (["--model", "demo", "--judge", "gpt-4o"], "OPENAI_API_KEY"),
        (["--model", "demo", "--judge", "gemini-2.5-pro"], "GEMINI_API_KEY"),
        (["--model", "gpt-4o", "--api-key-env", "MY_KEY", "--judge", "demo"], "MY_KEY"),
    ],
)
def test_a_missing_key_is_exit_3_and_names_its_variable(desk: Desk, words: list[str], variable: str) -> None:
    done = desk.vlsb("run", *words, "--data-root", desk.data, env=NO_CANARY)

    assert done.code == 3
    assert variable in done.error
    assert done.last == done.error


def test_a_host_whose_key_variable_is_unknown_asks_for_it(desk: Desk) -> None:
    done = desk.run("https://models.example/v1", env=NO_CANARY | {"OPENAI_API_KEY": "sk-not-for-strangers"})

    assert done.code == 3
    # Each side has its own, and both are named at once.
    assert ["--api-key-env NAME" in line for line in done.errors] == [True, False]
    assert ["--judge-api-key-env NAME" in line for line in done.errors] == [False, True]


# 4: gaps.


def failing(numbers: set[int], action: Action) -> Script:
    script = Script(labelling())
    script.by_sample(lambda r: action if not r.is_judge and sample_of(r) in numbers else None)
    return script


def test_gaps_are_exit_4_with_the_table_and_the_resume_command(desk: Desk) -> None:
    with SimulatorThread(failing({2}, error(400, code="bad_picture"))) as simulator:
        done = desk.run(simulator)

    assert done.code == 4
    assert "1 of 4 samples have no verdict" in done.error
    assert "target_error" in done.out
    resume_line(done.err)
    assert desk.outcomes() == {"target_error": 1, "unsafe": 3}


@pytest.mark.parametrize("lane", ["target", "judge"])
def test_a_preflight_that_keeps_failing_is_exit_4_with_the_rest_not_attempted(desk: Desk, lane: str) -> None:
    script = Script(labelling())
    script.by_sample(lambda r: error(503) if r.is_judge is (lane == "judge") else None)

    with SimulatorThread(script) as simulator:
        done = desk.run(simulator, "--max-attempts", 3)

    assert done.code == 4
    assert "3 attempts" in done.error
    assert len(asked(simulator.completions, judge=lane == "judge")) == 3
    assert desk.outcomes() == {f"{lane}_error": 1, "not_attempted": 3}
    if lane == "judge":
        resume_line(done.err)
    else:
        assert done.last == done.error


def test_twenty_samples_rejected_alike_stop_the_run_with_exit_4(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=40)
    with SimulatorThread(failing(set(range(1, 40)), error(400, code="bad_picture"))) as simulator:
        done = desk.run(simulator, "--max-connections", 1)

    assert done.code == 4
    assert "bad_picture" in done.error
    assert desk.outcomes()["not_attempted"] >= 18
    resume_line(done.err)


def test_an_outage_that_lasts_is_exit_4_with_the_rest_not_attempted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=40)
    with SimulatorThread(failing(set(range(1, 40)), error(503))) as simulator:
        done = desk.run(simulator, "--max-attempts", 1, "--outage-timeout", 0.2, "--max-connections", 1)

    assert done.code == 4
    assert "--outage-timeout" in done.error
    assert desk.outcomes()["not_attempted"] >= 1
    resume_line(done.err)


# 5 and 6: the run directory.


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A finished run. Not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("original"))
    with SimulatorThread(labelling()) as simulator:
        assert desk.run(simulator).code == 0
    return desk


@pytest.fixture
def finished(original: Desk, tmp_path: Path) -> Desk:
    return original.copied_to(tmp_path)


NOWHERE = "http://127.0.0.1:9/v1"
"""A loopback URL for commands that must end before they send anything."""


@pytest.mark.parametrize("command", ["run", "report"])
@pytest.mark.parametrize(
    "damage",
    [b"\x00\x00\n", b"{}\n", b"[]\n", b'{"sample_id": 1, "text"\n'],
    ids=["zeros", "empty", "a list", "half"],
)
def test_a_damaged_line_is_exit_5_with_path_and_line(finished: Desk, command: str, damage: bytes) -> None:
    responses = finished.run_dir / "responses.jsonl"
    lines = responses.read_bytes().splitlines(keepends=True)
    responses.write_bytes(b"".join([lines[0], damage, *lines[2:]]))
    before = responses.read_bytes()

    done = finished.run(NOWHERE, "--resume") if command == "run" else finished.vlsb("report", "outputs/r")

    assert done.code == 5
    assert "outputs/r/responses.jsonl line 2" in done.error
    assert responses.read_bytes() == before
    if command == "run":
        resume_line(done.err)


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"schema": 99}', "[]", '{"schema": 1}'])
def test_a_damaged_run_json_is_exit_5_and_named(finished: Desk, content: str) -> None:
    (finished.run_dir / "run.json").write_text(content)

    resumed = finished.run(NOWHERE, "--resume")
    reported = finished.vlsb("report", finished.run_dir)

    assert (resumed.code, reported.code) == (5, 5)
    assert "run.json" in resumed.error
    assert "run.json" in reported.error
    resume_line(resumed.err)


def test_a_run_that_is_being_written_is_exit_6_and_untouched(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        return Stall() if not request.is_judge else verdict(3)

    with SimulatorThread(respond) as simulator, desk.start(simulator) as process:
        process.wait_until(lambda: simulator.in_flight == 1, what="the first request")
        done = desk.run(simulator, "--resume")
        assert simulator.requests == 1

    assert done.code == 6
    assert str(process.pid) in done.error
    assert "Resume with" not in done.err


def test_a_lock_whose_holder_died_is_free(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run_dir.mkdir(parents=True)
    (desk.run_dir / ".lock").write_text("process 1 on elsewhere")

    done = desk.run(endpoint)

    assert done.code == 0


def test_a_lock_held_on_a_new_run_is_exit_6(desk: Desk) -> None:
    desk.run_dir.mkdir(parents=True)
    with (desk.run_dir / ".lock").open("w") as lock, SimulatorThread(labelling()) as simulator:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = desk.run(simulator)

    assert done.code == 6
    assert simulator.requests == 0


# The resume command.


def test_the_resume_command_is_one_line_in_a_narrow_pipe_and_works_as_typed(desk: Desk) -> None:
    words: list[Any] = ["--system-prompt", "Be brief; it's 'fine'.", "-M", 'stop=["a b"]', "--limit", "2-4"]
    script = Script(labelling())
    script.target.enqueue(labelling(), error(401))

    with SimulatorThread(script) as simulator:
        done = desk.run(simulator, *words, "--max-connections", 1, env={"COLUMNS": "40"})
        command = shlex.split(resume_line(done.err))
        resumed = desk.vlsb(*command[1:])

    assert done.code == 3
    assert len(done.error) > 40
    assert resumed.code == 0, resumed.err
    assert desk.outcomes() == {"unsafe": 3}


@pytest.mark.parametrize("display", ["plain", "rich", "none"])
def test_the_resume_command_is_last_with_every_display(desk: Desk, display: str) -> None:
    with SimulatorThread(failing({2}, error(400))) as simulator:
        done = desk.run(simulator, "--display", display)

    assert done.code == 4
    assert done.error
    resume_line(done.err)


def test_an_options_variable_is_part_of_the_resume_command(desk: Desk) -> None:
    with SimulatorThread(failing({1}, error(400))) as simulator:
        done = desk.run(simulator, env={"VLSB_LIMIT": "3"})

    assert done.code == 4
    assert "--limit 3" in resume_line(done.err)


def test_the_run_directory_of_a_fatal_end_says_why(desk: Desk) -> None:
    script = Script(labelling())
    script.target.enqueue(error(401, code="invalid_api_key"))

    with SimulatorThread(script) as simulator:
        desk.run(simulator)

    events = [json.loads(line) for line in (desk.run_dir / "events.jsonl").read_text().splitlines()]
    assert events[-1]["kind"] == "session_ended"
    assert events[-1]["reason"] == "AuthenticationError"


def test_an_empty_answer_at_the_preflight_lets_the_next_sample_check_the_judge(desk: Desk) -> None:
    script = Script(labelling())
    script.by_sample(lambda r: answer("") if not r.is_judge and sample_of(r) == 0 else None)

    with SimulatorThread(script) as simulator:
        done = desk.run(simulator)

    assert done.code == 4
    assert desk.outcomes() == {"target_empty": 1, "unsafe": 3}


# A process of its own ends with the same code, the same words and nothing more.


def _nothing(desk: Desk) -> None:
    """The run as it is."""


def _damaged(desk: Desk) -> None:
    (desk.run_dir / "run.json").write_text("{}")


ONE_OF_EACH = {
    0: (["report", "outputs/r"], {}, _nothing),
    2: (["rnu"], {}, _nothing),
    3: (["run", "--model", "gpt-4o", "--judge", "demo", "--data-root", "data"], NO_CANARY, _nothing),
    5: (["report", "outputs/r"], {}, _damaged),
    7: (["run", "--model", "llava_hf", "--judge", "demo", "--data-root", "data"], {}, _nothing),
}


@pytest.mark.parametrize("code", ONE_OF_EACH)
def test_a_process_ends_with_the_code_and_the_words_that_its_command_has_here(
    finished: Desk, code: int
) -> None:
    words, env, prepare = ONE_OF_EACH[code]
    prepare(finished)

    apart, here = finished.vlsb.apart(*words, env=env), finished.vlsb(*words, env=env)

    assert apart == here
    assert apart.code == code


def test_a_process_with_gaps_ends_with_4_and_one_whose_run_is_locked_with_6(desk: Desk) -> None:
    with SimulatorThread(failing({2}, error(400, code="bad_picture"))) as simulator:
        gaps = desk.vlsb.apart(*desk.run_words(simulator))
        with (desk.run_dir / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            locked = desk.vlsb.apart(*desk.run_words(simulator, "--resume"))

    assert (gaps.code, locked.code) == (4, 6)
    assert "1 of 4 samples have no verdict" in gaps.error
    assert locked.error


def test_samples_that_have_ended_are_not_resumed_but_may_be_asked_again(desk: Desk) -> None:
    """The judge never gives a label for one, and a filter blocks the target for another."""

    def respond(request: Request) -> Action:
        number = sample_of(request)
        if not request.is_judge:
            return blocked() if number == 1 and is_first else answer(f"Answer {number}.")
        return answer("no label") if number == 2 and is_first else verdict(3)

    is_first = True
    with SimulatorThread(respond) as simulator:
        first, again = desk.run(simulator), desk.run(simulator, "--resume")
        sent = simulator.requests
        command = again.last.removeprefix("Ask again with: ")
        is_first = False
        done = desk.vlsb(*shlex.split(command)[1:])

    for ended in (first, again):
        assert ended.code == 4
        assert ended.error.endswith(
            "2 of 4 samples have no verdict. They have ended, and a resume leaves them alone."
        )
        assert "Resume with" not in ended.err
        assert (
            "With --retry these are asked again: the target about 1 (target_blocked), "
            "the judge about 1 (judge_invalid)."
        ) in ended.err
    assert command.endswith(" --resume --retry target_blocked --retry judge_invalid")
    assert "Nothing was left to do" in again.err
    # Each ended at the first start: four targets, three judges and the second try of one.
    assert sent == 8
    assert done.code == 0, done.err
    assert simulator.requests == sent + 3


def test_several_runs_that_have_ended_are_not_resumed_either(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        return verdict(3) if request.is_judge else blocked()

    with SimulatorThread(respond) as simulator:
        done = desk.vlsb(*run_words(simulator, desk.data, "--model", "a"), "--model", "b")

    assert done.code == 4
    assert "Resume with" not in done.err
    assert done.err.count("Ask again with: vlsb run ") == 2


def test_a_resume_with_another_judge_names_the_command_that_adds_it(desk: Desk) -> None:
    with SimulatorThread(labelling()) as simulator:
        assert desk.run(simulator).code == 0
        refused = desk.run(simulator, "--resume", "--judge", "other-judge")
        command = refused.last.removeprefix("Add it with: ")
        added = desk.vlsb(*shlex.split(command)[1:])

    assert refused.code == 6
    assert "was started with another judge. Resume it with its own; vlsb judge " in refused.error
    assert command.startswith("vlsb judge outputs/r --judge other-judge ")
    assert added.code == 0, added.err
    assert [each["judge"] for each in desk.report()] == ["judge-model", "other-judge"]


def test_a_resume_that_differs_in_more_than_the_judge_is_another_run(desk: Desk) -> None:
    with SimulatorThread(labelling()) as simulator:
        assert desk.run(simulator).code == 0
        words = ("--resume", "--judge", "other-judge", "--temperature", "1")
        refused = desk.run(simulator, *words)

    assert refused.code == 6
    assert "--name for a new run" in refused.error
    assert "vlsb judge" not in refused.err


@pytest.mark.parametrize(
    ("reply", "words", "advice"),
    [
        (
            answer(None),
            "20 samples in a row were answered without any text (empty_content)",
            "--retry target_empty",
        ),
        (
            answer(None, reasoning="Let me think", finish_reason="length"),
            "20 samples in a row were cut inside their thinking (thinking_cut)",
            "--max-tokens",
        ),
    ],
    ids=["empty", "cut inside thinking"],
)
def test_a_target_that_answers_nothing_stops_the_run_as_errors_do(
    tmp_path: Path, reply: Action, words: str, advice: str
) -> None:
    desk = Desk(tmp_path, samples=60)
    with SimulatorThread(lambda request: verdict(3) if request.is_judge else reply) as simulator:
        done = desk.run(simulator, "--max-connections", 1)

    assert done.code == 4
    assert words in done.error
    assert advice in done.error
    assert desk.outcomes()["target_empty"] == 20
    resume_line(done.err)


def test_an_empty_answer_now_and_then_stops_nothing(tmp_path: Path) -> None:
    """Every second is empty: none of these are in a row."""
    desk = Desk(tmp_path, samples=60)

    def respond(request: Request) -> Action:
        if request.is_judge:
            return verdict(3)
        return answer(None) if sample_of(request) % 2 else answer("A plain answer.")

    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator, "--max-connections", 1)

    assert desk.outcomes() == {"unsafe": 30, "target_empty": 30}
    assert "in a row" not in done.err
