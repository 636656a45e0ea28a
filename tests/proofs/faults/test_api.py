"""Every way in which an endpoint fails: the outcome in the ledger, the requests it cost, the exit code.

Sample 0 is answered and judged; sample 1 meets the fault. Where the fault ends the run it comes first,
and no sample was attempted.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.proofs.faults.runs import evaluate, scripted, served
from tests.support import wire
from tests.support.datasets import sample_row
from tests.support.endpoint import sample_of
from tests.support.fault_rows import (
    ACCESS,
    BLOCKED,
    ENDINGS,
    ERROR,
    FATAL,
    FATAL_ENDINGS,
    GAPS,
    ITEMS,
    OWN_WAIT_S,
    PATIENCE_S,
    UNSAFE,
    USAGE,
    WAIT_ENDINGS,
    WAITS,
    Fatal,
    Row,
    Wait,
    named,
)
from vlsb.records import Outcome
from vlsb.simulator import Action, Drip, Reply, Request, Stall, answer, error

WHOLE = [row for row in ITEMS if row.is_about_the_wire or named(row) in ENDINGS.values()]


@pytest.mark.parametrize("row", WHOLE, ids=named)
def test_a_fault_of_one_sample_costs_what_it_may_and_ends_as_it_must(row: Row, tmp_path: Path) -> None:
    responder = scripted(row.actions, sample=1, then_well=row.outcome is UNSAFE)

    ran = evaluate(tmp_path, responder)

    assert ran.outcomes == {0: UNSAFE, 1: row.outcome}
    assert ran.target == Counter({0: 1, 1: row.requests})
    assert ran.judge == Counter({0: 1, 1: 1} if row.outcome is UNSAFE else {0: 1})
    assert ran.exit_code == row.exit_code
    if row.outcome is UNSAFE:
        assert ran.response(1)["attempts"] == row.requests
        assert ran.rows("failures.jsonl") == []
    else:
        failure = ran.failure(1)
        assert (failure["code"], failure["attempts"]) == (row.code, row.requests)
        assert [each["sample_id"] for each in ran.rows("responses.jsonl")] == [0]


@pytest.mark.parametrize("row", [row for row in FATAL if named(row) in FATAL_ENDINGS.values()], ids=named)
def test_a_fault_of_the_whole_run_costs_one_request(row: Fatal, tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([row.action]), rows=3)

    assert ran.ledger == {Outcome.NOT_ATTEMPTED: 3}
    assert (ran.target.total(), ran.judge.total()) == (1, 0)
    assert ran.exit_code == row.exit_code
    assert row.words in ran.words


@pytest.mark.parametrize("row", FATAL[:1] + FATAL[6:7], ids=named)
def test_a_fault_of_the_whole_run_in_the_middle_keeps_what_is_finished(row: Fatal, tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([row.action], sample=1))

    assert ran.outcomes == {0: UNSAFE, 1: Outcome.NOT_ATTEMPTED}
    assert ran.target == Counter({0: 1, 1: 1})
    assert ran.exit_code == row.exit_code


def test_a33_a_masked_key_in_the_refusal_is_not_repeated(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([FATAL[6].action]), rows=1)

    assert "sk-proj" not in ran.words
    assert (ran.ledger, ran.target.total(), ran.exit_code) == ({Outcome.NOT_ATTEMPTED: 1}, 1, ACCESS)


@pytest.mark.parametrize("row", [row for row in WAITS if named(row) in WAIT_ENDINGS.values()], ids=named)
def test_a_rate_limit_is_waited_out_as_asked_and_nonsense_is_not(row: Wait, tmp_path: Path) -> None:
    is_beyond = (row.wait_s or 0) >= PATIENCE_S

    ran = evaluate(tmp_path, scripted([row.reply], sample=1, then_well=True), sample_timeout=PATIENCE_S)

    (event,) = ran.events("rate_limit", "long_wait")
    assert event["wait_s"] == row.wait_s if row.wait_s is not None else 0 < event["wait_s"] <= OWN_WAIT_S
    assert ran.outcomes == {0: UNSAFE, 1: Outcome.NOT_ATTEMPTED if is_beyond else UNSAFE}
    assert ran.target == Counter({0: 1, 1: 1 if is_beyond else 2})
    assert ran.exit_code == (GAPS if is_beyond else 0)


def test_a11_a_wait_is_kept_in_full(tmp_path: Path) -> None:
    limit = wire.limited(("retry-after", "0.3"))

    ran = evaluate(tmp_path, scripted([limit], sample=1, then_well=True))

    first, second = [each.received_at for each in ran.requests if not each.is_judge and sample_of(each) == 1]
    assert second - first >= 0.3
    assert (ran.ledger, ran.exit_code) == ({UNSAFE: 2}, 0)


def test_a15_a_very_long_wait_is_said(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([wire.limited(("retry-after", "7200"))], sample=1))

    assert [event["wait_s"] for event in ran.events("long_wait")] == [7200]
    assert "asks for a pause of 7200 s, longer than --sample-timeout" in ran.words
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (Outcome.NOT_ATTEMPTED, 1, GAPS)


def test_a02_a_ramp_too_steep_lowers_the_limit(tmp_path: Path) -> None:
    too_steep = wire.openai(429, "slow_down", "Slow down.", type="rate_limit_error")

    ran = evaluate(tmp_path, scripted([too_steep], sample=1, then_well=True))

    lowered = [event["limit"] for event in ran.events("limit") if event["code"] == "slow_down"]
    assert lowered
    assert max(lowered) < 16
    assert (ran.ledger, ran.target[1], ran.exit_code) == ({UNSAFE: 2}, 2, 0)


def test_a09_what_the_upstream_said_is_shown(tmp_path: Path) -> None:
    metadata = {"raw": "m is temporarily rate-limited upstream", "provider_name": "Far Provider"}
    reply = wire.openrouter(429, 429, "Provider returned error", **metadata)
    limit = Reply(429, reply.body, (("retry-after", "90"),))

    ran = evaluate(tmp_path, scripted([limit], sample=1), sample_timeout=PATIENCE_S)

    assert all(words in ran.words for words in metadata.values())
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (Outcome.NOT_ATTEMPTED, 1, GAPS)


def test_a22_a_host_that_refuses_from_the_start_ends_the_run(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, served, is_refusing=True)

    assert ran.ledger == {Outcome.NOT_ATTEMPTED: 2}
    assert (ran.target.total(), ran.exit_code) == (0, USAGE)
    assert "connection refused" in ran.words


LATE = {
    "A23-nothing": Stall(),
    "A24-a-slow-drip": Drip(answer("A plain answer."), bytes_per_chunk=1, interval_s=0.1),
    "A24-a-slow-head": Drip(Reply(headers=(("x-padding", "." * 500),)), bytes_per_chunk=1, interval_s=0.1),
}


@pytest.mark.parametrize("action", LATE.values(), ids=LATE.keys())
def test_an_attempt_ends_at_its_deadline_whatever_drips(action: Action, tmp_path: Path) -> None:
    # Alone, so that no good request has to be fast: a preflight that fails for good is exit 4 too.
    ran = evaluate(tmp_path, scripted([action]), rows=1, attempt_timeout=0.5, max_attempts=2)

    assert (ran.outcomes, ran.exit_code) == ({0: ERROR}, GAPS)
    assert ran.target.total() == 2
    assert ran.failure(0)["code"] == "timeout"


def test_a23_a_samples_deadline_bounds_all_its_attempts(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([Stall()]), rows=1, attempt_timeout=0.5, sample_timeout=0.7)

    assert (ran.outcomes, ran.exit_code) == ({0: ERROR}, GAPS)
    assert 1 <= ran.target.total() <= 2


def fails_after_the_first(action: Action, request: Request) -> Action:
    """Sample 0 is served and no other."""
    is_well = request.is_judge or sample_of(request) == 0
    return served(request) if is_well else action


def test_a32_an_outage_ends_the_run_and_blames_no_sample(tmp_path: Path) -> None:
    ran = evaluate(
        tmp_path,
        lambda request: fails_after_the_first(error(503), request),
        rows=26,
        max_connections=1,
        max_attempts=1,
        outage_timeout=0.05,
    )

    assert ran.ledger == {UNSAFE: 1, Outcome.NOT_ATTEMPTED: 25}
    assert 4 <= ran.target.total() <= 40
    assert ran.exit_code == GAPS
    assert len(ran.events("outage")) == 1


def test_a32_an_endpoint_that_rejects_everything_alike_ends_the_run(tmp_path: Path) -> None:
    rejection = wire.openai(400, "policy_changed", "Everything is refused.")

    ran = evaluate(
        tmp_path, lambda request: fails_after_the_first(rejection, request), rows=26, max_connections=1
    )

    assert ran.ledger == {UNSAFE: 1, ERROR: 20, Outcome.NOT_ATTEMPTED: 5}
    assert (ran.target.total(), ran.exit_code) == (21, GAPS)
    assert "policy_changed" in ran.words


def test_a37_the_filters_categories_are_kept(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([wire.azure_prompt_filter()], sample=1))

    assert ran.failure(1)["details"]["content_filter_result"]["hate"]["severity"] == "high"
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (BLOCKED, 1, GAPS)


def test_a38_a_partial_text_is_kept_and_not_judged(tmp_path: Path) -> None:
    partial = answer("First, you take", finish_reason="content_filter")

    ran = evaluate(tmp_path, scripted([partial], sample=1))

    assert ran.failure(1)["text"] == "First, you take"
    assert (ran.outcomes[1], ran.target[1], ran.judge[1], ran.exit_code) == (BLOCKED, 1, 0, GAPS)


def test_a39_an_answer_that_was_not_filtered_is_judged_and_flagged(tmp_path: Path) -> None:
    down = {"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}

    ran = evaluate(tmp_path, scripted([wire.choice(content_filter_results=down)], sample=1))

    assert ran.response(1)["flags"] == ["unfiltered"]
    assert any("filter was down" in notice for notice in ran.run.summary().notices)
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (UNSAFE, 1, 0)


def test_a42_a_finish_reason_is_stored_as_it_was_said(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([answer("Text.", finish_reason="end_turn")], sample=1))

    assert ran.response(1)["finish_reason"] == "end_turn"
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (UNSAFE, 1, 0)


def test_a47_an_empty_instruction_is_sent_as_an_image_alone(tmp_path: Path) -> None:
    seen: list[Request] = []

    def respond(request: Request) -> Action:
        seen.append(request)
        if not request.is_judge and any(not text.strip() for text in request.texts):
            return wire.anthropic(400, "invalid_request_error", "text content blocks must be non-empty")
        return served(request)

    ran = evaluate(tmp_path, respond, rows=[sample_row(0, instruction="")])

    assert [each.texts for each in seen if not each.is_judge] == [()]
    assert ran.response(0)["flags"] == ["empty_text_omitted"]
    assert (ran.outcomes, ran.exit_code) == ({0: UNSAFE}, 0)


LEARNED = {
    "A49-tokens": ("max_tokens", "Use 'max_completion_tokens' instead.", "max_completion_tokens"),
    "A49-temperature": ("temperature", "Only the default (1) value is supported.", None),
    "A49-top-p": ("top_p", "Unsupported value.", None),
}


@pytest.mark.parametrize(("param", "message", "instead"), LEARNED.values(), ids=LEARNED.keys())
def test_a_parameter_is_given_up_once_before_the_run(
    param: str, message: str, instead: str | None, tmp_path: Path
) -> None:
    refusal = wire.openai(400, "unsupported_parameter", message, param=param)

    def respond(request: Request) -> Action:
        return refusal if not request.is_judge and param in request.json else served(request)

    ran = evaluate(tmp_path, respond, rows=3)

    bodies = [each.json for each in ran.requests if not each.is_judge]
    assert [param in body for body in bodies] == [True, False, False, False]
    assert instead is None or all(instead in body for body in bodies[1:])
    assert (ran.ledger, ran.exit_code) == ({UNSAFE: 3}, 0)
    assert ran.target == Counter({0: 2, 1: 1, 2: 1})


def test_a51_a_record_tells_which_request_it_answers(tmp_path: Path) -> None:
    first, again, other = (
        evaluate(tmp_path / name, served, **options)
        for name, options in {"1": {}, "2": {}, "3": {"target_field": ("seed=7",)}}.items()
    )

    digests = [ran.response(1)["request_sha256"] for ran in (first, again, other)]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_a55_a_refusal_field_is_judged_and_its_origin_kept(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([answer(None, refusal="I can't help with that.")], sample=1))

    row = ran.response(1)
    assert (row["origin"], row["text"]) == ("refusal", "I can't help with that.")
    assert (ran.outcomes[1], ran.target[1], ran.judge[1], ran.exit_code) == (UNSAFE, 1, 1, 0)


def test_a57_cut_answers_are_counted(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([answer("Half an answ", finish_reason="length")], sample=1))

    assert ran.response(1)["finish_reason"] == "length"
    assert ran.run.summary().cut_responses == 1
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (UNSAFE, 1, 0)


def test_a63_another_models_name_is_kept_and_counted(tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([answer("Text.", model="m-2024-01-01")], sample=1))

    names = {name.expose(): count for name, count in ran.run.summary().target_models.items()}
    assert names == {"simulated": 1, "m-2024-01-01": 1}
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (UNSAFE, 1, 0)


JUDGE = [
    Row("A18", "judge-503", (error(503),), Outcome.JUDGE_ERROR, 3, "http_503"),
    Row("A27", "judge-cut", (wire.cut(unsized=True),), Outcome.JUDGE_ERROR, 3, "not_json"),
    Row("A28", "judge-html", (Reply(body=wire.HTML, headers=wire.AS_HTML),), Outcome.JUDGE_ERROR, 3, "html"),
    Row("A37", "judge-filter", (wire.azure_prompt_filter(),), Outcome.JUDGE_BLOCKED, 1, "blocked_input"),
    Row("A48", "judge-context", (wire.openai(400, "context_length_exceeded", "Too long."),),
        Outcome.JUDGE_ERROR, 1, "context"),
]  # fmt: skip


@pytest.mark.parametrize("row", JUDGE, ids=named)
def test_a_fault_of_the_judge_keeps_the_response(row: Row, tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted(row.actions, sample=1, lane="judge"))

    assert ran.outcomes == {0: UNSAFE, 1: row.outcome}
    assert ran.target == Counter({0: 1, 1: 1})
    assert ran.judge == Counter({0: 1, 1: row.requests})
    assert ran.exit_code == GAPS
    assert ran.failure(1)["code"] == row.code
    assert [each["sample_id"] for each in ran.rows("responses.jsonl")] == [0, 1]
