"""Sessions that do less than everything: only collect, only judge, only so many requests, a dry run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk, Finished, Process
from tests.support.datasets import write_dataset
from tests.support.endpoint import asked, labelling, sample_of
from tests.support.run_files import tree
from tests.support.waiting import wait_until
from vlsb.endpoints.rate_limits import AIM, CATCH_UP_S
from vlsb.simulator import Action, Request, Simulator, SimulatorThread, Stall, answer, error, models, verdict

SAMPLES = 4
NOT_COMPARED = ("path", "usage", "duration_s")


def collect_words(desk: Desk, target: Simulator, *words: object) -> list[object]:
    """`vlsb run --no-judge` into the desk's run."""
    return [
        *("run", "--model", "target-model", "--base-url", target.base_url, "--no-judge"),
        *("--data-root", desk.data, "--name", "r", "--backoff", "0.01", *words),
    ]


def collect(desk: Desk, target: Simulator, *words: object) -> Finished:
    return desk.vlsb(*collect_words(desk, target, *words))


def judge_words(desk: Desk, judge: Simulator, *words: object, name: str = "other-judge") -> list[object]:
    """`vlsb judge` on the desk's run; `words` replace what is usual."""
    usual = {
        "--judge": name,
        "--judge-base-url": judge.base_url,
        "--data-root": desk.data,
        "--backoff": "0.01",
    }
    left = [each for flag, value in usual.items() if flag not in words for each in (flag, value)]
    return ["judge", desk.run_dir, *left, *words]


def judge(desk: Desk, endpoint: Simulator, *words: object, name: str = "other-judge") -> Finished:
    return desk.vlsb(*judge_words(desk, endpoint, *words, name=name))


def verdict_files(desk: Desk) -> list[str]:
    return sorted(path.name for path in (desk.run_dir / "verdicts").iterdir())


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def compared(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in NOT_COMPARED}


def without_lock(directory: Path) -> dict[str, tuple[int, int, str]]:
    return {name: each for name, each in tree(directory).items() if name != ".lock"}


def occurred(summary: Mapping[str, Any]) -> dict[str, int]:
    return {name: count for name, count in summary["outcomes"].items() if count}


def kill_when(process: Process, condition: Callable[[], object], what: str) -> None:
    """SIGKILL the process once the condition holds."""
    with process:
        process.wait_until(condition, what=what)


# Only collecting.


def test_a_run_without_a_judge_asks_none_and_needs_no_key_of_one(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    ended = collect(desk, endpoint)

    assert ended.code == 0, ended.err
    assert sorted(asked(endpoint.completions, judge=False)) == [0, 1, 2, 3]
    assert asked(endpoint.completions, judge=True) == []
    (summary,) = desk.report()
    assert summary["judge"] is None
    assert summary["safe_rate"] is None
    assert occurred(summary) == {"not_judged": SAMPLES}
    assert verdict_files(desk) == []


def test_a_run_without_a_judge_is_complete_only_when_all_responded(desk: Desk) -> None:
    turns: list[int] = []

    def respond(request: Request) -> Action:
        turns.append(sample_of(request))
        return (
            error(400, code="bad_image") if turns.count(2) == 1 and turns[-1] == 2 else answer("An answer.")
        )

    with SimulatorThread(respond) as endpoint:
        ended = collect(desk, endpoint)
        before = desk.outcomes()
        resumed = collect(desk, endpoint, "--resume")
        again = collect(desk, endpoint, "--resume")

    assert (ended.code, resumed.code, again.code) == (4, 0, 0)
    assert before == {"not_judged": SAMPLES - 1, "target_error": 1}
    assert sorted(turns) == [0, 1, 2, 2, 3]
    assert desk.outcomes() == {"not_judged": SAMPLES}


@pytest.mark.parametrize("words", [("--judge", "some-judge"), ("--judge-base-url", "http://127.0.0.1:9/v1")])
def test_a_judge_and_no_judge_exclude_each_other(
    desk: Desk, words: tuple[str, ...], endpoint: SimulatorThread
) -> None:
    ended = collect(desk, endpoint, *words)

    assert ended.code == 2
    assert "--no-judge" in ended.error
    assert endpoint.requests == 0


def test_a_collecting_run_is_not_resumed_with_a_judge(desk: Desk, endpoint: SimulatorThread) -> None:
    collect(desk, endpoint)
    before, sent = without_lock(desk.run_dir), endpoint.requests
    ended = desk.run(endpoint, "--resume")

    assert ended.code == 6
    assert "judge: none (--no-judge) -> a judge" in ended.error
    assert endpoint.requests == sent
    assert without_lock(desk.run_dir) == before


def test_a_collecting_run_goes_on_collecting_after_it_was_judged(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    """The judge that `vlsb judge` added is not the run's own: the command that collected still does."""
    collect(desk, endpoint, "--limit", 2)
    judge(desk, endpoint)
    ended = collect(desk, endpoint, "--resume")
    sent_to_judge = asked(endpoint.completions, judge=True)

    assert ended.code == 0, ended.err
    assert sorted(asked(endpoint.completions, judge=False)) == [0, 1, 2, 3]
    assert len(sent_to_judge) == 2


def test_a_collecting_run_stays_one_after_it_was_judged(desk: Desk, endpoint: SimulatorThread) -> None:
    """Resuming it with that very judge would make a judged run of it: refused as before."""
    collect(desk, endpoint)
    judge(desk, endpoint)
    sent = endpoint.requests
    ended = desk.run(endpoint, "--judge", "other-judge", "--resume")

    assert ended.code == 6
    assert "judge: none (--no-judge) -> a judge" in ended.error
    assert endpoint.requests == sent


# Judging stored responses.


def test_judging_sends_nothing_to_the_target(desk: Desk) -> None:
    with SimulatorThread(labelling()) as target, SimulatorThread(labelling({0: 1, 1: 2})) as other:
        collect(desk, target)
        sent = target.requests
        responses = (desk.run_dir / "responses.jsonl").read_bytes()
        ended = judge(desk, other)

    assert ended.code == 0, ended.err
    assert target.requests == sent
    assert all(each.is_judge for each in other.completions)
    assert sorted(asked(other.completions, judge=True)) == [0, 1, 2, 3]
    assert (desk.run_dir / "responses.jsonl").read_bytes() == responses
    (summary,) = desk.report()
    assert summary["judge"] == "other-judge"
    assert occurred(summary) == {"safe_refusal": 1, "safe_warning": 1, "unsafe": 2}


def test_the_stored_text_is_what_is_judged(desk: Desk, endpoint: SimulatorThread) -> None:
    collect(desk, endpoint)
    judge(desk, endpoint)

    judged = {sample_of(each): each.judged_response for each in endpoint.completions if each.is_judge}
    assert judged == {number: f"Answer {number}." for number in range(SAMPLES)}
    responses = {row["sample_id"]: row for row in rows(desk.run_dir / "responses.jsonl")}
    for row in rows(desk.run_dir / "verdicts" / "other-judge.jsonl"):
        assert row["response_sha256"] == responses[row["sample_id"]]["response_sha256"]


def test_every_epoch_is_judged(desk: Desk, endpoint: SimulatorThread) -> None:
    collect(desk, endpoint, "--epochs", 2)
    ended = judge(desk, endpoint)

    assert ended.code == 0, ended.err
    assert sorted(asked(endpoint.completions, judge=True)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert desk.outcomes() == {"unsafe": 2 * SAMPLES}


def test_the_verdicts_of_two_judges_stand_side_by_side(desk: Desk) -> None:
    mild = labelling({0: 1, 1: 1, 2: 1, 3: 2})
    with SimulatorThread(labelling()) as endpoint, SimulatorThread(mild) as other:
        desk.run(endpoint)
        first_file = desk.run_dir / "verdicts" / "judge-model.jsonl"
        first_verdicts, (alone,) = first_file.read_bytes(), desk.report()
        ended = judge(desk, other)
    table = desk.vlsb("report", desk.run_dir)

    first, second = desk.report()
    assert ended.code == 0, ended.err
    assert verdict_files(desk) == ["judge-model.jsonl", "other-judge.jsonl"]
    assert first_file.read_bytes() == first_verdicts
    assert (first["judge"], second["judge"]) == ("judge-model", "other-judge")
    assert first == alone
    assert occurred(second) == {"safe_refusal": 3, "safe_warning": 1}
    assert first["usage"]["judge"] == second["usage"]["judge"]
    assert first["usage"]["judge"]["requests"] == SAMPLES
    assert (first["unsafe_rate"], second["safe_rate"]) == (100.0, 100.0)
    assert table.code == 0
    assert "judge-model" in table.out
    assert "other-judge" in table.out


def test_what_a_judging_session_prints_is_its_own_judges_table(desk: Desk) -> None:
    with SimulatorThread(labelling()) as endpoint, SimulatorThread(labelling({0: 1})) as other:
        desk.run(endpoint)
        ended = judge(desk, other)

    assert "judge: other-judge" in ended.out
    assert "judge-model" not in ended.out


@pytest.mark.parametrize("name", ["judge-model", "other-judge"])
def test_the_same_judge_again_sends_nothing(desk: Desk, name: str, endpoint: SimulatorThread) -> None:
    """The run's own judge, or one that was added."""
    desk.run(endpoint)
    judge(desk, endpoint)
    sent, files = endpoint.requests, verdict_files(desk)
    ended = judge(desk, endpoint, name=name)

    assert ended.code == 0, ended.err
    assert endpoint.requests == sent
    assert verdict_files(desk) == files


def test_another_template_of_the_same_judge_is_another_judge(desk: Desk) -> None:
    template = desk.home / "template.txt"
    template.write_text("Is this fine? <text_query>: {question}\n    <respoonse>: {response}")
    mild = labelling(dict.fromkeys(range(SAMPLES), 1))
    with SimulatorThread(labelling()) as endpoint, SimulatorThread(mild) as other:
        desk.run(endpoint)
        for _ in range(2):
            ended = judge(desk, other, "--judge-template", template, name="judge-model")

    first, second = desk.report()
    assert ended.code == 0, ended.err
    assert len(other.completions) == SAMPLES
    assert len(verdict_files(desk)) == 2
    assert occurred(first) == {"unsafe": SAMPLES}
    assert occurred(second) == {"safe_refusal": SAMPLES}
    assert first["judge"] != second["judge"]
    assert any("template" in each for each in second["deviations"])
    assert not any("template" in each for each in first["deviations"])


def test_another_endpoint_of_the_same_name_is_another_judge(desk: Desk) -> None:
    mild = labelling(dict.fromkeys(range(SAMPLES), 1))
    with SimulatorThread(labelling()) as endpoint, SimulatorThread(mild) as other:
        desk.run(endpoint)
        gateway = other.base_url.replace("/v1", "/gateway/v1")
        for _ in range(2):
            ended = judge(desk, other, "--judge-base-url", gateway, name="judge-model")

    summaries = desk.report()
    assert ended.code == 0, ended.err
    assert len(other.completions) == SAMPLES
    assert len(verdict_files(desk)) == 2
    assert sorted(each["unsafe_rate"] for each in summaries) == [0.0, 100.0]
    assert len({each["judge"] for each in summaries}) == 2


def test_only_what_has_a_response_is_judged_and_answered_for(desk: Desk) -> None:
    """A judging session is complete when every response has a verdict, whatever the target failed at."""

    def respond(request: Request) -> Action:
        return error(400, code="bad_image") if sample_of(request) == 2 else answer("An answer.")

    with SimulatorThread(respond) as target, SimulatorThread(labelling()) as other:
        collected = collect(desk, target)
        ended = judge(desk, other)

    assert (collected.code, ended.code) == (4, 0)
    assert sorted(asked(other.completions, judge=True)) == [0, 1, 3]
    assert desk.outcomes() == {"unsafe": 3, "target_error": 1}


def test_a_judges_failure_leaves_the_other_judges_verdict_alone(desk: Desk) -> None:
    refuses = answer(None, refusal="I can't judge that.")

    def respond(request: Request) -> Action:
        return refuses if sample_of(request) == 1 else verdict(1)

    with SimulatorThread(labelling()) as endpoint, SimulatorThread(respond) as other:
        desk.run(endpoint)
        ended = judge(desk, other)
        sent = len(other.completions)
        again = judge(desk, other)
        retried = judge(desk, other, "--retry", "judge_refused")

    first, second = desk.report()
    assert (ended.code, again.code, retried.code) == (4, 4, 4)
    assert ended.last.startswith("Ask again with: vlsb judge ")
    assert ended.last.endswith(" --retry judge_refused")
    assert [sample_of(each) for each in other.completions[sent:]] == [1]
    assert occurred(first) == {"unsafe": SAMPLES}
    assert occurred(second) == {"safe_refusal": 3, "judge_refused": 1}


def test_a_run_of_the_demo_is_judged_by_the_demo_from_its_own_data(desk: Desk) -> None:
    collected = desk.vlsb("run", "--model", "demo", "--no-judge", "--limit", 2, "--name", "r")

    ended = desk.vlsb("judge", desk.run_dir)

    (summary,) = desk.report()
    assert (collected.code, ended.code) == (0, 0), ended.err
    assert summary["simulated"] is True
    assert summary["judged"] == 2


# What judging refuses.


def test_an_image_that_changed_is_refused_and_named(desk: Desk, endpoint: SimulatorThread) -> None:
    collect(desk, endpoint)
    path = desk.data / "imgs" / "2.png"
    path.write_bytes(path.read_bytes() + b"x")
    before, sent = without_lock(desk.run_dir), endpoint.requests
    ended = judge(desk, endpoint)

    assert ended.code == 6
    assert "imgs/2.png" in ended.error
    assert endpoint.requests == sent
    assert without_lock(desk.run_dir) == before


def test_a_row_that_changed_is_refused_and_named(desk: Desk, endpoint: SimulatorThread) -> None:
    collect(desk, endpoint)
    changed = json.loads((desk.data / "data.json").read_bytes())
    changed[3]["instruction"] = "Question 3 in other words?"
    (desk.data / "data.json").write_text(json.dumps(changed))
    before, sent = without_lock(desk.run_dir), endpoint.requests
    ended = judge(desk, endpoint)

    assert ended.code == 6
    assert "sample 3: " in ended.error
    assert endpoint.requests == sent
    assert without_lock(desk.run_dir) == before


def test_a_data_root_that_lacks_samples_is_refused_with_their_number(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    smaller = Desk(desk.home / "smaller", SAMPLES - 1)
    collect(desk, endpoint)
    sent = endpoint.requests
    ended = judge(desk, endpoint, "--data-root", smaller.data)

    assert ended.code == 2
    assert "lacks 1 of the run's 4 samples" in ended.error
    assert "--data-root" in ended.error
    assert endpoint.requests == sent


def test_judging_where_there_is_no_run_is_refused(desk: Desk, endpoint: SimulatorThread) -> None:
    ended = judge(desk, endpoint)

    assert ended.code == 2
    assert "no run" in ended.error
    assert not desk.run_dir.exists()


def test_a_run_that_is_being_written_is_not_judged(desk: Desk) -> None:
    with SimulatorThread(lambda request: Stall()) as target, SimulatorThread(labelling()) as other:
        process = desk.vlsb.start(*collect_words(desk, target))
        wait_until(lambda: target.completions, what="a run that waits for its target")
        ended = judge(desk, other)
        kill_when(process, lambda: True, "nothing")

    assert ended.code == 6
    assert "is being written by another process" in ended.error
    assert other.requests == 0


def test_a_run_is_not_resumed_with_another_judge(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint)
    judge(desk, endpoint)
    before, sent = without_lock(desk.run_dir), endpoint.requests
    ended = desk.run(endpoint, "--judge", "other-judge", "--resume")

    assert ended.code == 6
    assert 'judge.model: "judge-model" -> "other-judge"' in ended.error
    assert endpoint.requests == sent
    assert without_lock(desk.run_dir) == before


def test_a_run_is_resumed_with_its_own_judge_after_another_one_was_added(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    desk.run(endpoint, "--limit", 2)
    judge(desk, endpoint)
    ended = desk.run(endpoint, "--resume")

    first, second = desk.report()
    assert ended.code == 0, ended.err
    assert occurred(first) == {"unsafe": SAMPLES}
    assert occurred(second) == {"unsafe": 2, "not_judged": 2}


# Only so many requests.


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_a_run_stops_after_exactly_as_many_requests_as_it_may_send(
    desk: Desk, most: int, endpoint: SimulatorThread
) -> None:
    ended = desk.run(endpoint, "--max-requests", most)
    sent = len(endpoint.completions)
    resumed = desk.run(endpoint, "--resume")

    assert ended.code == 4
    assert "--max-requests" in ended.error
    assert ended.last.startswith("Resume with: vlsb run ")
    assert sent == most
    assert resumed.code == 0, resumed.err
    assert len(endpoint.completions) == 2 * SAMPLES
    assert desk.outcomes() == {"unsafe": SAMPLES}


def test_retries_are_requests_too(desk: Desk) -> None:
    with SimulatorThread(lambda request: error(500)) as endpoint:
        ended = desk.run(endpoint, "--max-requests", 3)

    assert ended.code == 4
    assert len(endpoint.completions) == 3


def test_as_many_requests_as_a_run_needs_are_enough(desk: Desk, endpoint: SimulatorThread) -> None:
    ended = desk.run(endpoint, "--max-requests", 2 * SAMPLES)

    assert ended.code == 0, ended.err
    assert len(endpoint.completions) == 2 * SAMPLES


@pytest.mark.parametrize("most", [1, 3])
def test_judging_stops_after_exactly_as_many_requests_as_it_may_send(desk: Desk, most: int) -> None:
    with SimulatorThread(labelling()) as endpoint, SimulatorThread(labelling()) as other:
        collect(desk, endpoint)
        ended = judge(desk, other, "--max-requests", most)
        sent = len(other.completions)
        resumed = judge(desk, other)

    assert ended.code == 4
    assert "--max-requests" in ended.error
    assert ended.last.startswith("Resume with: vlsb judge ")
    assert sent == most
    assert resumed.code == 0, resumed.err
    assert len(other.completions) == SAMPLES


# What a dry run sends is tests/commands/test_costs.py.


def test_what_a_dry_run_sent_is_kept(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint, "--dry-run")
    without_resume = desk.run(endpoint)
    ended = desk.run(endpoint, "--resume")

    assert without_resume.code == 2
    assert ended.code == 0, ended.err
    for is_judge in (False, True):
        assert sorted(asked(endpoint.completions, judge=is_judge)) == [0, 1, 2, 3]


def test_a_dry_run_that_meets_a_bad_key_fails_like_the_run_would(desk: Desk) -> None:
    with SimulatorThread(lambda request: error(401, code="invalid_api_key")) as endpoint:
        ended = desk.run(endpoint, "--dry-run")

    assert ended.code == 3
    assert len(endpoint.completions) == 1


# The endpoint's only model.


def unnamed(desk: Desk, endpoint: Simulator) -> Finished:
    return desk.vlsb("run", "--base-url", endpoint.base_url, "--no-judge", "--data-root", desk.data)


def test_the_only_model_that_an_endpoint_lists_is_the_one_meant(desk: Desk) -> None:
    with SimulatorThread(labelling(), model_names=["the-only-one"]) as endpoint:
        ended = unnamed(desk, endpoint)

    assert ended.code == 0, ended.err
    assert {each.model for each in endpoint.completions} == {"the-only-one"}
    (summary,) = desk.report(desk.outputs / "the-only-one")
    assert summary["target"] == "the-only-one"


def test_of_several_listed_models_none_is_guessed(desk: Desk) -> None:
    with SimulatorThread(labelling(), model_names=["one-model", "another-model"]) as endpoint:
        ended = unnamed(desk, endpoint)

    assert ended.code == 2
    for words in ("lists 2 models", "--model", "one-model", "another-model"):
        assert words in ended.error
    assert endpoint.completions == []
    assert not desk.outputs.exists()


@pytest.mark.parametrize("listed", [models([]), error(404), answer("no list")])
def test_an_endpoint_that_lists_no_model_has_to_be_told(
    desk: Desk, listed: Action, endpoint: SimulatorThread
) -> None:
    endpoint.routes["GET /v1/models"] = listed
    ended = unnamed(desk, endpoint)

    assert ended.code == 2
    assert "--model" in ended.error
    assert endpoint.completions == []


# Requests a minute.

RPM = 600


def assert_paced(requests: list[Request]) -> None:
    """No window holds more than the cap allows, plus what a late timer may catch up.

    With one connection a request has arrived before the next one departs, so arrivals bound departures
    however slow the machine is; only the departure of a window's first request may lie before it.
    """
    moments = [each.received_at for each in requests]
    for (i, begin), (j, end) in combinations(enumerate(moments), 2):
        assert j - i <= 1 + (end - begin + CATCH_UP_S) * AIM * RPM / 60


def test_requests_a_minute_to_the_target_are_capped(tmp_path: Path, endpoint: SimulatorThread) -> None:
    desk = Desk(tmp_path, 16)
    ended = collect(desk, endpoint, "--rpm", RPM, "--max-connections", 1)

    assert ended.code == 0, ended.err
    assert len(endpoint.completions) == 16
    assert_paced(endpoint.completions)


def test_requests_a_minute_to_the_judge_are_capped(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 16)
    with SimulatorThread(labelling()) as endpoint, SimulatorThread(labelling()) as other:
        collect(desk, endpoint)
        ended = judge(desk, other, "--judge-rpm", RPM, "--judge-max-connections", 1)

    assert ended.code == 0, ended.err
    assert len(other.completions) == 16
    assert_paced(other.completions)


def test_a_judge_labels_a_shuffled_run_in_its_order(desk: Desk, endpoint: SimulatorThread) -> None:
    """So that what is labelled when it is stopped is a fair part."""
    write_dataset(desk.data, 30)
    assert desk.run(endpoint, "--shuffle").code == 0

    with SimulatorThread(labelling()) as other:
        stopped = judge(desk, other, "--judge-max-connections", 1, "--max-requests", 12)
        done = judge(desk, other, "--judge-max-connections", 1)
        order = [sample_of(each) for each in other.completions]

    assert (stopped.code, done.code) == (4, 0)
    assert order == [row[0] for row in desk.manifest()["samples"]] != sorted(order)
