"""What a batch API does wrong: each answer is paid for once, or the run stops and says so."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.support.batches import (
    SAMPLES,
    assert_paid_once,
    batch_name,
    evaluate,
    evaluate_until,
    is_creation,
    is_download,
    is_look_at_list,
    is_poll,
    is_upload,
    lines_of,
    outcomes,
    paid,
    respond,
    submitted,
    write_prices,
)
from tests.support.canary import CANARY, files_that_show_it
from tests.support.command import RESUME, Desk, Process
from tests.support.endpoint import sample_of
from vlsb.errors import ConfigError, GapsError, QuotaError, StoreError
from vlsb.simulator import Action, BatchPlan, Hangup, Reply, Request, SimulatorThread, answer, error, verdict

pytest.importorskip("openai")
pytest.importorskip("aiofiles")

BOTH = [SAMPLES - 1, SAMPLES - 1]
"""The sizes of the batches of a run in which nothing is asked twice."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, SAMPLES)


def first(plan: BatchPlan) -> Callable[[int], BatchPlan]:
    """What becomes of the first batch that is made; the others are answered at once."""
    return lambda number: plan if number == 1 else BatchPlan()


# Results that are not there yet, or not whole.


def _cut(content: bytes, download: int) -> bytes:
    return content[: len(content) // 2] if download < 4 else content


def _cut_at_a_line(content: bytes, download: int) -> bytes:
    return content[: content.index(b"\n") + 1] if download < 4 else content


def _empty(content: bytes, download: int) -> bytes:
    return b"" if download < 4 else content


def _html(content: bytes, download: int) -> bytes:
    return b"<html>Please wait.</html>\n" if download < 4 else content


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(BatchPlan(fileless=3), id="F01-no-file-yet"),
        pytest.param(BatchPlan(late=3), id="F01-neither-file-nor-counts-yet"),
        pytest.param(BatchPlan(serve=_cut), id="F02-cut"),
        pytest.param(BatchPlan(serve=_cut_at_a_line), id="F02-cut-at-a-line"),
        pytest.param(BatchPlan(serve=_empty), id="F02-empty"),
        pytest.param(BatchPlan(serve=_html), id="F02-html"),
        pytest.param(BatchPlan(unknown=3), id="F03-not-known-by-its-id-yet"),
    ],
)
def test_results_that_are_not_whole_yet_are_fetched_again_and_not_paid_again(
    desk: Desk, plan: BatchPlan
) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: plan
        ended = evaluate(desk, endpoint)

        assert ended is None
        assert submitted(endpoint) == BOTH
        assert_paid_once(endpoint)


def test_an_expired_batch_whose_results_are_late_keeps_what_it_answered(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(ends="expired", answers=3, late=3))
        assert evaluate(desk, endpoint) is None
        assert submitted(endpoint) == [SAMPLES - 1, SAMPLES - 4, SAMPLES - 1]
        assert_paid_once(endpoint)


def test_a_batch_that_expired_without_a_line_for_what_was_not_asked_keeps_what_it_answered(
    desk: Desk,
) -> None:
    with SimulatorThread(respond) as endpoint:
        plan = BatchPlan(ends="expired", answers=3, names_unasked=False)
        endpoint.batches.plan = first(plan)
        assert evaluate(desk, endpoint) is None
        assert submitted(endpoint) == [SAMPLES - 1, SAMPLES - 4, SAMPLES - 1]
        assert_paid_once(endpoint)


def _one_lost(lines: list[bytes]) -> list[bytes]:
    return lines[1:]


def test_results_that_never_agree_with_the_batchs_own_counts_stop_the_run_and_are_not_asked_for_again(
    desk: Desk,
) -> None:
    """F04: until the user says that the rest shall be asked again."""
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(spoil=_one_lost))
        stopped = [evaluate(desk, endpoint, no_judge=True, resume=again) for again in (False, True)]
        name, once = batch_name(desk), submitted(endpoint)
        told = evaluate(desk, endpoint, no_judge=True, resume=True, batch_again=(name,))

        assert once == [SAMPLES - 1]
        for error in stopped:
            assert isinstance(error, GapsError)
            assert (
                f"its batch {name} says that it answered 7 of 7 requests, and 6 answers came" in error.message
            )
            assert f"--batch-again {name}" in error.advice
        assert told is None
        # What came is kept.
        assert submitted(endpoint) == [SAMPLES - 1, 1]
        assert Counter(paid(endpoint).values()) == {1: SAMPLES - 1, 2: 1}
    assert outcomes(desk)["not_judged"] == SAMPLES


def test_a_quota_that_was_spent_in_a_batch_stops_no_later_session(desk: Desk) -> None:
    """The stored results say what held then: what they leave unanswered is asked again."""
    is_spent = True

    def respond_unless_spent(request: Request) -> Action:
        if request.is_judge and is_spent and sample_of(request) != 0:
            return error(429, code="insufficient_quota", type="insufficient_quota")
        return respond(request)

    with SimulatorThread(respond_unless_spent) as endpoint:
        stopped = evaluate(desk, endpoint)
        is_spent = False
        assert evaluate(desk, endpoint, resume=True) is None
        assert_paid_once(endpoint)

    assert isinstance(stopped, QuotaError)
    assert outcomes(desk).total() == SAMPLES
    assert outcomes(desk).keys() <= {"safe_refusal", "safe_warning", "unsafe"}


def test_an_error_line_before_the_good_line_of_one_request_does_not_drop_the_answer(desk: Desk) -> None:
    """F05: nor does one after it."""

    def with_errors(lines: list[bytes]) -> list[bytes]:
        late = {"code": "server_error", "message": "Not yet."}
        names = [orjson.loads(line)["custom_id"] for line in lines]
        bad = [orjson.dumps({"custom_id": name, "response": None, "error": late}) for name in names]
        return [*bad[:4], *lines, *bad[4:]]

    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(spoil=with_errors)
        assert evaluate(desk, endpoint) is None
        assert submitted(endpoint) == BOTH
        assert_paid_once(endpoint)


# Batches of which nobody knows whether they were made.

_LOST = [
    pytest.param(error(500), id="F06-500"),
    pytest.param(error(409), id="F06-409"),
    pytest.param(Hangup(), id="F06-no-reply"),
    pytest.param(Reply(body="<html>OK</html>", headers=(("content-type", "text/html"),)), id="F07-html"),
    pytest.param(Reply(body={"id": None, "object": "batch", "status": "validating"}), id="F07-null-id"),
    pytest.param(Reply(body=[]), id="F07-no-object"),
    pytest.param(Reply(body={}), id="F07-empty-object"),
]


@pytest.mark.parametrize("creation", _LOST)
def test_a_batch_whose_creation_is_answered_anyhow_is_looked_for_and_not_made_again(
    desk: Desk, creation: Action
) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(creation=creation, unlisted=5)
        assert evaluate(desk, endpoint) is None
        assert endpoint.batches.creations == 2
        assert_paid_once(endpoint)


def test_a_batch_that_is_never_listed_is_not_made_again_before_the_user_says_so(desk: Desk) -> None:
    """F08: and if it was made after all, nothing else can be done."""
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(creation=error(500), is_made=False))
        stopped = [evaluate(desk, endpoint, resume=again) for again in (False, True)]
        made, name = endpoint.batches.creations, batch_name(desk)
        other = evaluate(desk, endpoint, resume=True, batch_again=("vlsb-0123456789abcdef",))
        made_for_another = endpoint.batches.creations
        told = evaluate(desk, endpoint, resume=True, batch_again=(name,))

        assert made == made_for_another == 1
        for error_ in (*stopped, other):
            assert isinstance(error_, GapsError)
            assert f"its batch {name} may have been made or not" in error_.message
            assert f"--batch-again {name}" in error_.advice
        assert told is None
        assert submitted(endpoint) == BOTH
        assert_paid_once(endpoint)


def test_a_batch_that_is_listed_after_all_is_collected_even_if_the_user_would_have_it_made_again(
    desk: Desk,
) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(creation=error(500), unlisted=10))
        assert isinstance(evaluate(desk, endpoint), GapsError)
        assert evaluate(desk, endpoint, resume=True, batch_again=(batch_name(desk),)) is None
        assert submitted(endpoint) == BOTH
        assert_paid_once(endpoint)


def test_a_creation_that_was_refused_is_repeated_where_that_helps(desk: Desk) -> None:
    """Nothing was made then."""
    with SimulatorThread(respond) as endpoint:
        limited = BatchPlan(creation=error(429, code="rate_limit_exceeded"), is_made=False)
        endpoint.batches.plan = first(limited)
        assert evaluate(desk, endpoint) is None
        assert submitted(endpoint) == BOTH
        assert_paid_once(endpoint)
        assert not any(map(is_look_at_list, endpoint.history))


def test_a_batch_is_found_behind_any_number_of_newer_ones(desk: Desk) -> None:
    """F09"""
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.newer = 1_100
        endpoint.batches.plan = first(BatchPlan(creation=error(500)))
        assert evaluate(desk, endpoint) is None
        assert submitted(endpoint) == BOTH


@pytest.mark.parametrize("creation", [error(500), None])
def test_a_key_of_another_project_makes_no_batch_again(
    desk: Desk, creation: Action | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F10: neither one that may have been made, nor one that was."""
    monkeypatch.setenv("OUR_KEY", "sk-project-one-0123456789")
    monkeypatch.setenv("OTHER_KEY", "sk-project-two-0123456789")
    keys = {"api_key_env": "OUR_KEY", "judge_api_key_env": "OUR_KEY"}
    others = {"api_key_env": "OTHER_KEY", "judge_api_key_env": "OTHER_KEY"}
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.has_projects = True
        endpoint.batches.plan = first(BatchPlan(polls=10**6, creation=creation, unlisted=14))
        if creation is None:
            evaluate_until(desk, endpoint, is_poll, **keys)
        else:
            assert isinstance(evaluate(desk, endpoint, **keys), GapsError)
        lost = evaluate(desk, endpoint, resume=True, **others)
        assert isinstance(lost, GapsError)
        assert batch_name(desk) in lost.message
        assert "the same key and project" in lost.advice
        assert submitted(endpoint) == [SAMPLES - 1]
        endpoint.batches.let_all(BatchPlan())
        assert evaluate(desk, endpoint, resume=True, **keys) is None
        assert submitted(endpoint) == BOTH


def test_a_batch_that_the_provider_lost_is_made_again_when_the_user_says_so(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(polls=10**6))
        evaluate_until(desk, endpoint, is_poll)
        endpoint.batches.forget_all()
        lost, name = evaluate(desk, endpoint, resume=True), batch_name(desk)
        told = evaluate(desk, endpoint, resume=True, batch_again=(name,))

        assert isinstance(lost, GapsError)
        assert f"its batch {name} is not known there" in lost.message
        assert f"--batch-again {name}" in lost.advice
        assert told is None
        assert submitted(endpoint) == [SAMPLES - 1, *BOTH]


# Money.

# Of the batch's price 0.9 dollars for what `dear` answers, and at most about 1.1 for what it may be.
_DEAR = {"input": 40, "output": 10, "batch_input": 20, "batch_output": 5}
_TOKENS = 45_000


def dear(request: Request) -> Action:
    """What costs 0.9 dollars in a batch, twice that at once."""
    usage = (_TOKENS, 100)
    if request.is_judge:
        return verdict(3, model=request.model, usage=usage)
    return answer(f"Answer {sample_of(request)}.", model=request.model, usage=usage)


@pytest.mark.parametrize("judges", [2, 4])
def test_judges_side_by_side_share_one_limit_of_money(desk: Desk, judges: int) -> None:
    """F11"""
    names = [f"judge-{number}" for number in range(judges)]
    file, most = write_prices(desk, *names, **_DEAR), 5.0 * judges
    with SimulatorThread(dear) as endpoint:
        assert evaluate(desk, endpoint, no_judge=True, batch=False) is None
        asked = len(endpoint.completions)
        words = [word for name in names for word in ("--judge", name)]
        where = ("--judge-base-url", endpoint.base_url, "--data-root", desk.data, "--backoff", "0.01")
        money = ("--prices", file, "--max-cost", most)
        ended = desk.vlsb("judge", desk.run_dir, *words, *where, "--batch", *money)
        at_once, in_batches = len(endpoint.completions) - asked, len(endpoint.batches.paid)
        spent = (2 * at_once + in_batches) * (_TOKENS * 20 + 100 * 5) / 1e6

    assert ended.code == 4
    assert most - 1.5 < spent <= most
    assert f"--max-cost is reached: ${spent:,.4f} by this command" in ended.error


def test_what_the_first_sample_cost_does_not_say_what_the_others_may(desk: Desk) -> None:
    """F12: the bound of a request is by its bytes, the largest image and its `max_tokens`."""

    def cheap_at_first(request: Request) -> Action:
        if sample_of(request) == 0:
            return answer("Answer 0.", model="target-model", usage=(10, 1))
        return dear(request)

    file = write_prices(desk, "target-model", **_DEAR)
    with SimulatorThread(cheap_at_first) as endpoint:
        ended = evaluate(desk, endpoint, no_judge=True, prices=file, max_cost=3.0)
        in_batches = len(endpoint.batches.paid)

    assert isinstance(ended, GapsError)
    assert "--max-cost is reached" in ended.message
    assert in_batches >= 2
    assert in_batches * (_TOKENS * 20 + 100 * 5) / 1e6 <= 3.0


def test_money_is_not_limited_where_no_request_bounds_what_is_written(desk: Desk) -> None:
    file = write_prices(desk, "target-model", **_DEAR)
    with SimulatorThread(dear) as endpoint:
        unbounded = {"target_field": ("max_tokens=null",), "no_judge": True}
        ended = evaluate(desk, endpoint, prices=file, max_cost=5.0, **unbounded)

        assert not submitted(endpoint)
    assert isinstance(ended, ConfigError)
    assert "its requests have no max_tokens" in ended.message


# Stopping.


@pytest.mark.parametrize(
    ("happens", "number", "moment"),
    [
        (is_upload, 1, "on_request"),
        (is_creation, 1, "on_request"),
        (is_creation, 1, "on_answered"),
        (is_poll, 1, "on_answered"),
        (is_download, 1, "on_request"),
        (is_creation, 2, "on_request"),
        (is_creation, 2, "on_answered"),
        (is_download, 2, "on_answered"),
    ],
)
def test_one_ctrl_c_in_a_batch_ends_with_130_and_the_command_that_collects_it(
    desk: Desk, happens: Callable[[Request], bool], number: int, moment: str
) -> None:
    """F13: the second batch is the judge's."""
    processes: list[Process] = []
    seen: list[Request] = []

    def look(request: Request) -> None:
        if happens(request):
            seen.append(request)
            if len(seen) == number:
                processes[0].signal(signal.SIGINT)

    with SimulatorThread(respond) as endpoint:
        setattr(endpoint, moment, look)
        processes.append(desk.start(endpoint, "--batch"))
        stopped = processes[0].wait()
        setattr(endpoint, moment, None)
        assert evaluate(desk, endpoint, resume=True) is None

        assert stopped.code == 130, stopped.err
        assert stopped.last.startswith(RESUME)
        assert "internal error" not in stopped.err
        assert submitted(endpoint) == BOTH
        assert_paid_once(endpoint)


# Files.


def test_a_merged_run_collects_the_batches_of_its_parts(desk: Desk) -> None:
    """F14: and reads the results that they fetched."""
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(polls=10**6)
        for name, limit in (("a", "1-4"), ("b", "5-8")):
            seen = len(endpoint.history)
            evaluate_until(
                desk,
                endpoint,
                lambda request, seen=seen: request.number > seen and is_poll(request),
                name=name,
                limit=limit,
            )
        parts = [desk.outputs / name for name in ("a", "b")]
        merged = desk.vlsb("runs", "merge", *parts, "--into", desk.run_dir)
        endpoint.batches.let_all(BatchPlan())
        assert evaluate(desk, endpoint, resume=True) is None

        assert merged.code == 0, merged.err
        assert_paid_once(endpoint)
        assert submitted(endpoint)[:2] == [3, 3]


def test_results_that_a_part_has_fetched_are_in_the_merged_run(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        for name, limit in (("a", "1-4"), ("b", "5-8")):
            assert evaluate(desk, endpoint, name=name, limit=limit) is None
        parts = [desk.outputs / name for name in ("a", "b")]
        # As after a kill between fetching results and storing what they say.
        for part in parts:
            rows = (part / "responses.jsonl").read_text().splitlines(keepends=True)
            (part / "responses.jsonl").write_text("".join(rows[:1]))
            (judge,) = (part / "verdicts").glob("*.jsonl")
            judge.write_text(judge.read_text().splitlines(keepends=True)[0])
        desk.vlsb("runs", "merge", *parts, "--into", desk.run_dir)
        asked = len(endpoint.batches.paid)
        assert evaluate(desk, endpoint, resume=True) is None
        assert len(endpoint.batches.paid) == asked


def _damage(desk: Desk, *steps: str) -> None:
    file = desk.run_dir / "batches.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = [b"{" + line if json.loads(line)["step"] in steps else line for line in lines]
    file.write_bytes(b"".join(damaged))


@pytest.mark.parametrize("step", ["planned", "uploaded", "created"])
def test_a_repair_forgets_no_batch_that_is_under_way(desk: Desk, step: str) -> None:
    """F15"""
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(polls=10**6))
        evaluate_until(desk, endpoint, is_poll)
        _damage(desk, step)
        repaired = desk.vlsb("runs", "repair", desk.run_dir)
        at_once = evaluate(desk, endpoint, resume=True, batch=False)
        endpoint.batches.let_all(BatchPlan())
        assert evaluate(desk, endpoint, resume=True) is None

        assert repaired.code == 0, repaired.err
        assert isinstance(at_once, ConfigError)
        assert submitted(endpoint) == BOTH
        assert_paid_once(endpoint)


def _as_earlier_versions_wrote(desk: Desk) -> None:
    """The requests stand in the line of the plan alone."""
    file = desk.run_dir / "batches.jsonl"
    records = lines_of(file)
    for record in records:
        if record["step"] != "planned":
            record.pop("requests", None)
            record.pop("judge", None)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_batch_whose_plan_is_lost_stops_the_run_until_the_user_gives_it_up(desk: Desk) -> None:
    """Nobody knows then what it asks."""
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(polls=10**6))
        evaluate_until(desk, endpoint, is_poll)
        name = batch_name(desk)
        _as_earlier_versions_wrote(desk)
        _damage(desk, "planned")
        desk.vlsb("runs", "repair", desk.run_dir)
        refused = [evaluate(desk, endpoint, resume=True, batch=batch) for batch in (True, False)]
        asked = submitted(endpoint)
        told = evaluate(desk, endpoint, resume=True, batch_again=(name,))

        assert asked == [SAMPLES - 1]
        for error in refused:
            assert isinstance(error, ConfigError)
            assert f"nobody knows what the batch {name} asks" in error.message
            assert f"--batch-again {name}" in error.advice
        assert told is None


def test_a_run_of_an_earlier_version_collects_its_batches(desk: Desk) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(polls=10**6))
        evaluate_until(desk, endpoint, is_poll)
        _as_earlier_versions_wrote(desk)
        endpoint.batches.let_all(BatchPlan())
        assert evaluate(desk, endpoint, resume=True) is None
        assert submitted(endpoint) == BOTH
        assert_paid_once(endpoint)


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "a/b", "..", "", "a" * 200, "a\n"])
def test_a_batchs_name_in_a_strangers_run_leads_nowhere(desk: Desk, name: str) -> None:
    """F16: it is a damaged line."""
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(polls=10**6))
        evaluate_until(desk, endpoint, is_poll)
        file = desk.run_dir / "batches.jsonl"
        records = [record | {"name": name} for record in lines_of(file)]
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        endpoint.batches.let_all(BatchPlan())
        before = set(desk.home.rglob("*"))
        ended = evaluate(desk, endpoint, resume=True)

    assert isinstance(ended, StoreError)
    assert "batches.jsonl line 1 is damaged" in ended.message
    assert set(desk.home.rglob("*")) == before


@pytest.mark.parametrize("request_id", ["", "1", "x-1-0-" + "0" * 32, "1-1-0-" + "g" * 32])
def test_a_custom_id_in_a_strangers_run_that_is_none_is_a_damaged_line(desk: Desk, request_id: str) -> None:
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(polls=10**6))
        evaluate_until(desk, endpoint, is_poll)
        file = desk.run_dir / "batches.jsonl"
        records = [record | {"requests": [request_id]} for record in lines_of(file)]
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        ended = evaluate(desk, endpoint, resume=True)

    assert isinstance(ended, StoreError)


@pytest.mark.parametrize("link", ["batches", "file", "draft"])
def test_results_are_written_through_no_link_of_a_strangers_run(
    desk: Desk, link: str, tmp_path: Path
) -> None:
    """F17"""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = first(BatchPlan(polls=10**6))
        evaluate_until(desk, endpoint, is_poll)
        folder = desk.run_dir / "batches"
        if link == "batches":
            folder.symlink_to(outside)
        else:
            folder.mkdir(exist_ok=True)
            before = "." if link == "draft" else ""
            (folder / f"{before}{batch_name(desk)}.jsonl").symlink_to(outside / "precious")
        endpoint.batches.let_all(BatchPlan())
        ended = evaluate(desk, endpoint, resume=True)

    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "precious"
    assert ended is None or isinstance(ended, StoreError)


# Secrets.


_ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in CANARY)


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(CANARY, id="F18-whole"),
        pytest.param(CANARY[:-2], id="F18-but-for-its-end"),
        pytest.param(f"{CANARY[:14]}...", id="F18-its-beginning"),
        pytest.param(_ESCAPED, id="F18-escaped"),
        pytest.param(_ESCAPED[: 6 * 14], id="F18-its-beginning-escaped"),
    ],
)
@pytest.mark.parametrize("is_json", [True, False])
def test_no_part_of_a_key_stays_in_what_is_kept_of_a_batch(desk: Desk, shown: str, is_json: bool) -> None:
    def echo(lines: list[bytes]) -> list[bytes]:
        if not is_json:
            return [*lines, f"Who is {shown}".encode()]
        return [line[:-1] + f',"note":"It is {shown}"}}'.encode() for line in lines]

    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(spoil=echo)
        done = desk.run(endpoint, "--batch")

    kept = b"".join(path.read_bytes() for path in desk.run_dir.rglob("*.jsonl"))
    assert done.code == 0, done.err
    assert CANARY[:12].encode() not in kept
    assert is_json is False or _ESCAPED[:72].encode() not in kept
    assert not files_that_show_it(desk.run_dir)


def test_a_key_on_the_border_of_two_pieces_of_a_download_is_masked(desk: Desk) -> None:
    """F19: results are read in pieces of 256 KiB."""
    border = 256 * 1024

    def at_the_border(lines: list[bytes]) -> list[bytes]:
        start = lines[0][:-1] + b',"note":"'
        filler = b"x" * (border - len(start) - len(CANARY) // 2)
        return [start + filler + CANARY.encode() + b'"}', *lines[1:]]

    with SimulatorThread(respond) as endpoint:
        endpoint.batches.plan = lambda number: BatchPlan(spoil=at_the_border)
        done = desk.run(endpoint, "--batch")

    assert done.code == 0, done.err
    kept = b"".join(path.read_bytes() for path in (desk.run_dir / "batches").iterdir())
    assert len(kept) > border
    assert CANARY[:12].encode() not in kept
    assert CANARY[-12:].encode() not in kept
