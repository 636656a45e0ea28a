"""Runs by batch over real sockets: killed anywhere, ended anyhow, and nothing is paid for twice."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.batches import (
    SAMPLES,
    assert_paid_once,
    evaluate,
    is_creation,
    is_download,
    is_poll,
    is_upload,
    lines_of,
    outcomes,
    respond,
    submitted,
    write_prices,
)
from tests.support.canary import CANARY, files_that_show_it
from tests.support.command import Desk, Process
from tests.support.endpoint import sample_of
from vlsb.errors import AccessError, ConfigError, GapsError
from vlsb.evaluation import session
from vlsb.models.providers import ENGINE_URL, BatchApi, find_batch_api, resolve_endpoint
from vlsb.simulator import Action, BatchPlan, Hangup, Request, SimulatorThread, answer, error, verdict

pytest.importorskip("openai")
pytest.importorskip("aiofiles")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, SAMPLES)


def summary_of(desk: Desk) -> dict[str, Any]:
    return desk.vlsb.summary(desk.run_dir)


def test_a_batch_asks_what_would_be_asked_at_once_and_gives_the_same_summary(
    desk: Desk, tmp_path: Path
) -> None:
    other = desk.copied_to(tmp_path / "at-once")
    with SimulatorThread(respond) as endpoint:
        at_once = other.run(endpoint)
        bodies = {each.body for each in endpoint.completions}
    with SimulatorThread(respond) as endpoint:
        in_batches = desk.run(endpoint, "--batch")
        lines = [line for lines in endpoint.batches.submitted for line in lines]
        sent = {line.partition(b'"body":')[2][:-1] for line in lines}
        sent |= {each.body for each in endpoint.completions}

        assert_paid_once(endpoint)
        # The first sample goes alone, so that what is wrong is found before all are submitted.
        assert submitted(endpoint) == [SAMPLES - 1, SAMPLES - 1]

    assert at_once.code == in_batches.code == 0, in_batches.err
    assert "8/8 · safe 75.0 % · 0+0 in flight" in in_batches.err
    assert sent == bodies
    assert summary_of(desk) == summary_of(other)
    assert {json.loads(line)["url"] for line in lines} == {"/v1/chat/completions"}
    names = [json.loads(line)["custom_id"] for line in lines]
    assert len(set(names)) == len(names)


def test_a_run_that_was_answered_by_batch_can_be_judged_by_batch(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        assert evaluate(desk, endpoint, no_judge=True) is None
        words = ("--judge", "judge-model", "--judge-base-url", endpoint.base_url)
        judged = desk.vlsb("judge", desk.run_dir, *words, "--batch", "--data-root", desk.data)

        assert_paid_once(endpoint)
    assert judged.code == 0, judged.err
    assert not outcomes(desk)["not_judged"]


def test_epochs_and_several_judges_are_told_apart(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        words = ("--judge", "judge-model", "--judge", "other-judge", "--epochs", 2)
        done = desk.run(endpoint, "--batch", *words)
        asked = Counter((each.model, sample_of(each)) for each in endpoint.batches.paid)

    assert done.code == 0, done.err
    # All but the first sample's first epoch.
    assert {asked[model, number] for model in ("target-model", "judge-model") for number in range(1, 8)} == {
        2
    }
    assert len(asked) == 3 * SAMPLES


@pytest.mark.parametrize("limit", ["requests", "bytes"])
def test_no_batch_holds_more_than_its_provider_takes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    with SimulatorThread(respond) as endpoint:
        assert evaluate(desk, endpoint, no_judge=True, name="whole") is None
        (whole,) = endpoint.batches.submitted
        # Room for two requests; a file is planned with some to spare for each.
        room = 2 * max(map(len, whole)) + 600
        api = BatchApi(1.0, (), 3) if limit == "requests" else BatchApi(1.0, (), most_bytes=room)
        monkeypatch.setattr(session, "find_batch_api", lambda endpoint: api)
        assert evaluate(desk, endpoint, no_judge=True) is None
        parts = endpoint.batches.submitted[1:]

    assert [len(part) for part in parts] == ([3, 3, 1] if limit == "requests" else [2, 2, 2, 1])
    assert all(sum(len(line) + 1 for line in part) <= room for part in parts if limit == "bytes")


def kill_when(
    endpoint: SimulatorThread,
    process: Callable[[], Process],
    happens: Callable[[Request], bool],
    *,
    hears: bool = True,
) -> None:
    """Kill once it was answered; without `hears` before, so that whoever asked never knows what happened."""
    moment = "on_answered" if hears else "on_request"

    def look(request: Request) -> None:
        if happens(request):
            setattr(endpoint, moment, None)
            process().signal(signal.SIGKILL)

    setattr(endpoint, moment, look)


@pytest.mark.parametrize(
    ("happens", "wanted"),
    [(is_upload, 1), (is_creation, 1), (is_poll, 1), (is_download, 1), (is_creation, 2)],
)
def test_a_session_killed_anywhere_goes_on_and_pays_for_nothing_twice(
    desk: Desk, happens: Callable[[Request], bool], wanted: int
) -> None:
    """The second batch is the judge's."""
    processes: list[Process] = []
    seen: list[Request] = []

    def is_now(request: Request) -> bool:
        if happens(request):
            seen.append(request)
        return len(seen) == wanted

    with SimulatorThread(respond) as endpoint:
        # Who hears that the upload is done may note it before the kill, and cannot tell then what followed.
        kill_when(endpoint, lambda: processes[0], is_now, hears=happens is not is_upload)
        processes.append(desk.start(endpoint, "--batch"))
        killed = processes[0].wait()
        batches = len(endpoint.batches.submitted)
        assert evaluate(desk, endpoint, resume=True) is None

        assert killed.code == -signal.SIGKILL
        assert batches == (wanted if happens is not is_upload else wanted - 1)
        assert_paid_once(endpoint)
        assert submitted(endpoint) == [SAMPLES - 1, SAMPLES - 1]


_DIES = """
import os, signal
from vlsb.store.store import RunStore
add, seen = RunStore.{method}, []
def add_and_die(self, *words):
    add(self, *words)
    seen.append(1)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
RunStore.{method} = add_and_die
"""


@pytest.mark.parametrize("method", ["add_response", "add_verdict"])
def test_a_session_killed_in_the_middle_of_results_reads_the_others_from_the_disk(
    desk: Desk, method: str
) -> None:
    with SimulatorThread(respond) as endpoint:
        words = desk.run_words(endpoint, "--batch")
        killed = desk.vlsb(*words, prelude=_DIES.format(method=method))
        assert evaluate(desk, endpoint, resume=True) is None

        assert killed.code == -signal.SIGKILL
        assert_paid_once(endpoint)
        assert submitted(endpoint) == [SAMPLES - 1, SAMPLES - 1]
        # One for the target, one for the judge, in both sessions together.
        assert sum(map(is_download, endpoint.history)) == 2


def test_requests_that_fail_are_in_the_next_batch_and_answers_are_kept(desk: Desk) -> None:
    seen: Counter[tuple[bool, int]] = Counter()

    def fails_first(request: Request) -> Action:
        key = (request.is_judge, sample_of(request))
        seen[key] += 1
        if key[1] in (2, 5) and seen[key] == 1:
            return error(500, message="Try again.")
        return respond(request)

    with SimulatorThread(fails_first) as endpoint:
        assert evaluate(desk, endpoint) is None
        assert_paid_once(endpoint)
        assert submitted(endpoint) == [SAMPLES - 1, 2, SAMPLES - 1, 2]
    attempts = [each["attempts"] for each in lines_of(desk.run_dir / "responses.jsonl")]
    assert Counter(attempts) == {1: SAMPLES - 2, 2: 2}


def test_a_request_that_keeps_failing_is_given_up_and_is_no_answer(desk: Desk) -> None:
    def fails(request: Request) -> Action:
        return error(500) if sample_of(request) == 3 else respond(request)

    with SimulatorThread(fails) as endpoint:
        assert evaluate(desk, endpoint, max_attempts=3) is None
        assert submitted(endpoint) == [SAMPLES - 1, 1, 1, SAMPLES - 2]
        # A resume asks anew, and does not take the old failures for the new ones.
        assert evaluate(desk, endpoint, max_attempts=3, resume=True) is None
        assert submitted(endpoint)[4:] == [1, 1, 1]
    assert outcomes(desk)["target_error"] == 1
    assert outcomes(desk)["not_judged"] == 0


def test_a_judge_by_batch_is_asked_once_more_for_a_verdict_that_cannot_be_read(desk: Desk) -> None:
    seen: Counter[int] = Counter()

    def mumbles(request: Request) -> Action:
        number = sample_of(request)
        if request.is_judge and number > 0:
            seen[number] += 1
            if seen[number] == 1:
                return answer("Hm.", model="judge-model")
        return respond(request)

    with SimulatorThread(mumbles) as endpoint:
        assert evaluate(desk, endpoint) is None
        assert submitted(endpoint) == [SAMPLES - 1, SAMPLES - 1, SAMPLES - 1]
    verdicts = lines_of(desk.run_dir / "verdicts" / "judge-model.jsonl")
    assert Counter(each["asks"] for each in verdicts) == {1: 1, 2: SAMPLES - 1}


def test_what_a_batch_that_expired_has_answered_is_kept_and_only_the_rest_is_asked_again(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(
            ends="expired" if number == 1 else "completed", answers=3 if number == 1 else None
        )
        assert evaluate(desk, endpoint) is None
        assert_paid_once(endpoint)
        assert submitted(endpoint) == [SAMPLES - 1, SAMPLES - 4, SAMPLES - 1]


def test_a_batch_that_somebody_cancelled_ends_the_session_with_what_was_answered(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(
            ends="cancelled" if number == 1 else "completed", answers=3 if number == 1 else None
        )
        cancelled = evaluate(desk, endpoint)
        stored = len((desk.run_dir / "responses.jsonl").read_text().splitlines())
        assert evaluate(desk, endpoint, resume=True) is None

        assert isinstance(cancelled, GapsError)
        assert "a batch was cancelled there, with 4 of its 7 requests unanswered" in cancelled.message
        assert stored == 4
        assert_paid_once(endpoint)


def test_ctrl_c_leaves_the_batch_running_and_says_how_to_collect_it(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(polls=10**6)
        process = desk.start(endpoint, "--batch")
        process.wait_until(lambda: any(map(is_poll, endpoint.history)), what="a poll")
        process.signal(signal.SIGINT)
        stopped = process.wait()
        endpoint.batches.let_all(BatchPlan())
        resumed = desk.vlsb.resume(stopped)

        assert stopped.code == 130
        assert (
            "The target's batches: 1 still at work at the provider. A resume with --batch collects"
            in stopped.err
        )
        assert "--batch" in stopped.resume_command
        assert not any(request.path.endswith("/cancel") for request in endpoint.history)
        assert resumed.code == 0, resumed.err
        assert_paid_once(endpoint)


def test_what_a_batch_is_going_to_answer_is_not_asked_at_once(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(polls=10**6)
        process = desk.start(endpoint, "--batch")
        process.wait_until(lambda: any(map(is_poll, endpoint.history)), what="a poll")
        process.kill()
        sent = len(endpoint.completions)
        refused = evaluate(desk, endpoint, resume=True, batch=False)

        assert len(endpoint.completions) == sent
    assert isinstance(refused, ConfigError)
    assert "7 of these samples are in batches under way" in refused.message


def _foreign(lines: list[bytes]) -> list[bytes]:
    """Answers to questions that nobody asked: another sample, another request, another sender's."""
    rows = [json.loads(line) for line in lines]
    strangers = []
    for row in rows[:3]:
        sample, epoch, number, digest = row["custom_id"].split("-")
        body = row["response"]["body"] | {"choices": []}
        for name in (
            f"{int(sample) + 50}-{epoch}-{number}-{digest}",
            f"{sample}-{epoch}-{number}-{'0' * 32}",
            "x",
        ):
            strangers.append(row | {"custom_id": name, "response": row["response"] | {"body": body}})
    return [*map(orjson.dumps, strangers), *lines]


def _twice(lines: list[bytes]) -> list[bytes]:
    """Each line again, with another text."""
    return [*lines, *(line.replace(b"Answer", b"Changed") for line in lines)]


@pytest.mark.parametrize(("spoil", "left_out"), [(_foreign, 9), (_twice, 7)])
def test_a_line_that_answers_no_request_is_no_answer(
    desk: Desk, spoil: Callable[[list[bytes]], list[bytes]], left_out: int
) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(spoil=spoil if number == 1 else lambda lines: lines)
        assert evaluate(desk, endpoint) is None
        assert_paid_once(endpoint)
    ends = [each for each in lines_of(desk.run_dir / "events.jsonl") if each["kind"] == "batch_ended"]
    assert [each["left_out"] for each in ends] == [left_out, 0]
    texts = [each["text"] for each in lines_of(desk.run_dir / "responses.jsonl")]
    assert sorted(texts) == [f"Answer {number}." for number in range(SAMPLES)]


def test_where_nobody_can_tell_whether_a_batch_was_made_none_is_made_again(desk: Desk) -> None:
    processes: list[Process] = []
    with SimulatorThread(respond) as endpoint:
        kill_when(endpoint, lambda: processes[0], is_creation, hears=False)
        processes.append(desk.start(endpoint, "--batch"))
        processes[0].wait()
        endpoint.batches.lists = False
        blind = evaluate(desk, endpoint, resume=True)
        made = submitted(endpoint)
        endpoint.batches.lists = True

        assert isinstance(blind, GapsError)
        assert "may have been made or not: the list of batches cannot be read" in blind.message
        assert made == [SAMPLES - 1]
        assert evaluate(desk, endpoint, resume=True) is None
        assert_paid_once(endpoint)


def test_a_batch_that_is_not_known_any_more_is_not_submitted_again_by_itself(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(polls=10**6)
        process = desk.start(endpoint, "--batch")
        process.wait_until(lambda: any(map(is_poll, endpoint.history)), what="a poll")
        process.kill()
        endpoint.batches.forget_all()
        lost = evaluate(desk, endpoint, resume=True)

        assert submitted(endpoint) == [SAMPLES - 1]
    assert isinstance(lost, GapsError)
    assert "is not known there (404)" in lost.message


def test_a_batch_that_is_refused_says_why_and_asks_nothing(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(ends="failed", error="billing_hard_limit_reached")
        refused = evaluate(desk, endpoint)

        assert not endpoint.batches.paid
        assert submitted(endpoint) == [SAMPLES - 1]
    assert isinstance(refused, AccessError)
    assert "quota or billing (billing_hard_limit_reached)" in refused.message


def test_a_queue_that_is_too_small_gets_smaller_batches_one_after_the_other(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(
            ends="failed" if number == 1 else "completed", error="token_limit_exceeded"
        )
        assert evaluate(desk, endpoint, no_judge=True) is None
        assert submitted(endpoint) == [7, 3, 3, 1]


def test_a_create_whose_reply_is_lost_is_not_repeated(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        make = endpoint.batches._make
        lost: list[int] = []

        def make_and_hang_up(wanted: dict[str, Any]) -> Action:
            reply = make(wanted)
            if not lost:
                lost.append(1)
                return Hangup()
            return reply

        endpoint.batches._make = make_and_hang_up  # type: ignore[method-assign]
        assert evaluate(desk, endpoint) is None
        assert lost
        assert_paid_once(endpoint)


# Money.


def test_what_went_through_a_batch_costs_the_price_of_a_batch(desk: Desk) -> None:
    file = write_prices(desk)
    with SimulatorThread(respond) as endpoint:
        done = desk.run(endpoint, "--batch", "--prices", file)
    (report,) = json.loads(desk.vlsb("report", desk.run_dir, "--prices", file, "--format", "json").out)

    # A dollar for the sample that goes at once, half of that for each other one.
    assert report["cost"]["target"]["usd"] == pytest.approx(1 + 0.5 * (SAMPLES - 1))
    assert report["cost"]["judge"]["usd"] == pytest.approx(1 + 0.5 * (SAMPLES - 1))
    assert "target $4.50" in done.out


@pytest.mark.parametrize("most", [3.0, 4.0])
def test_batches_never_cost_more_than_they_may(desk: Desk, most: float) -> None:
    """What each may cost at most is put by before its batch is made; what it does cost is half a dollar."""
    file = write_prices(desk, input=1000, output=5000, batch_input=500, batch_output=2500, image_tokens=800)
    with SimulatorThread(respond) as endpoint:
        ended = evaluate(desk, endpoint, prices=file, max_cost=most, no_judge=True)
        spent = 0.5 * len(endpoint.batches.paid) + len(endpoint.completions)

        assert isinstance(ended, GapsError)
        assert f"--max-cost is reached: ${spent:,.4f} by this command" in ended.message
        assert most - 1.2 < spent <= most
        assert evaluate(desk, endpoint, prices=file, resume=True, no_judge=True) is None
        assert_paid_once(endpoint, models=1)


def test_money_is_not_limited_where_nobody_knows_the_price_of_a_batch(desk: Desk) -> None:
    file = write_prices(desk, input=1000, output=5000)
    with SimulatorThread(respond) as endpoint:
        ended = evaluate(desk, endpoint, prices=file, max_cost=5.0)

        assert not endpoint.history
    assert ended is not None
    assert "no price of a batch is known for target-model" in ended.message


def test_requests_of_batches_count_for_the_limit_of_requests(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        assert isinstance(evaluate(desk, endpoint, max_requests=6), GapsError)
        assert len(endpoint.completions) + len(endpoint.batches.paid) == 6
        assert evaluate(desk, endpoint, resume=True) is None
        assert_paid_once(endpoint)


# Secrets, and who has no batch API.


def test_the_sdk_sends_our_headers_only_and_prints_nothing(desk: Desk) -> None:
    secret = "sk-somebody-elses-0123456789"
    env = {
        "OPENAI_API_KEY": secret,
        "OPENAI_ADMIN_KEY": secret,
        "OPENAI_ORG_ID": "org-secret",
        "OPENAI_PROJECT_ID": "proj-secret",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_CUSTOM_HEADERS": "x-custom: org-secret",
        "OPENAI_LOG": "debug",
    }
    with SimulatorThread(respond) as endpoint:
        quiet = desk.run(endpoint, "--batch", env=env)
        at_once, calls = (
            endpoint.completions[0],
            [r for r in endpoint.history if r not in endpoint.completions],
        )

        ours = set(at_once.headers)
        assert calls
        for call in calls:
            assert set(call.headers) - {"transfer-encoding", "connection"} <= ours
            assert call.headers["user-agent"] == "vlsb"
            assert call.bearer == at_once.bearer
            assert "secret" not in str(call.headers)
            assert secret not in str(call.headers)
    assert quiet.code == 0, quiet.err
    assert "DEBUG" not in quiet.err
    assert "Question" not in quiet.err


@pytest.mark.parametrize("path", ["POST /v1/files", "POST /v1/batches"])
def test_an_error_that_repeats_the_key_is_shown_without_it(desk: Desk, path: str) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.routes[path] = error(401, code="invalid_api_key", message=f"Incorrect key: {CANARY}.")
        ended = desk.run(endpoint, "--batch")

    assert ended.code == 3
    assert CANARY not in ended.err
    assert not files_that_show_it(desk.run_dir)


def test_results_that_repeat_the_key_are_stored_without_it(desk: Desk) -> None:
    def echoes(request: Request) -> Action:
        if request.is_judge:
            return verdict(3, f"Because of {CANARY}.", model="judge-model")
        return answer(f"The key is {CANARY}.", model="target-model")

    with SimulatorThread(echoes) as endpoint:
        done = desk.run(endpoint, "--batch")

    assert done.code == 0, done.err
    assert not files_that_show_it(desk.run_dir)


@pytest.mark.parametrize(
    ("name", "url", "who"),
    [
        ("claude-sonnet-4-5", None, "Anthropic"),
        ("ollama/llava", None, "Ollama"),
        ("m", "https://models.example.com/v1", "that address"),
        ("m", ENGINE_URL, "an engine here"),
    ],
)
def test_a_provider_without_a_batch_api_is_named(name: str, url: str | None, who: str) -> None:
    endpoint = resolve_endpoint(name, base_url=url, key_variable="A_KEY")

    with pytest.raises(ConfigError, match=f"is asked at {who}, and no batch API is known there.*OpenAI"):
        find_batch_api(endpoint)


def test_an_endpoint_without_a_batch_api_says_so_after_the_first_sample(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.routes["POST /v1/files"] = error(404, message="Not found.")
        ended = evaluate(desk, endpoint)

    assert ended is not None
    assert "the batch API takes no batch" in ended.message
