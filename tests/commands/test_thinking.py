"""Targets and judges that think before they answer: over real sockets, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk
from tests.support.endpoint import labelling, sample_of
from vlsb.simulator import Action, Request, Simulator, SimulatorThread, answer, error, verdict

THOUGHT = "They may want a plan."
"""What every target here thinks."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A working directory with four samples."""
    return Desk(tmp_path)


def thinker(
    *, needs: int = 1000, show: Callable[[str, str | None], Action] | None = None
) -> Callable[[Request], Action]:
    """A responder whose target needs so many tokens for its thought; a judge that labels everything unsafe.

    `show` is how its endpoint gives thought and answer (None where it was cut): in a field by default.
    """

    def in_a_field(thought: str, text: str | None) -> Action:
        reason = "length" if text is None else "stop"
        return answer(text, reasoning=thought, reasoning_tokens=30, finish_reason=reason)

    def respond(request: Request) -> Action:
        if request.is_judge:
            return verdict(3)
        is_cut = request.json["max_tokens"] < needs
        return (show or in_a_field)(THOUGHT, None if is_cut else f"Answer {sample_of(request)}.")

    return respond


def as_text(thought: str, text: str | None) -> Action:
    """An endpoint without a parser, whose template begins the thought."""
    if text is None:
        return answer(thought, finish_reason="length")
    return answer(f"{thought}</think>{text}")


def as_tagged_text(thought: str, text: str | None) -> Action:
    """An endpoint without a parser, whose model begins its thought by itself."""
    if text is None:
        return answer(f"<think>{thought}", finish_reason="length")
    return answer(f"<think>{thought}</think>{text}")


def budgets(simulator: Simulator) -> list[int]:
    """The tokens that the target was given, request by request."""
    return [each.json["max_tokens"] for each in simulator.completions if not each.is_judge]


def judged(simulator: Simulator) -> set[str | None]:
    """What the judge was shown as responses."""
    return {each.judged_response for each in simulator.completions if each.is_judge}


def rows(desk: Desk, name: str) -> list[dict[str, Any]]:
    """The rows of a file of the run, by sample."""
    found = [json.loads(line) for line in (desk.run_dir / name).read_text().splitlines()]
    return sorted(found, key=lambda row: row["sample_id"])


NO_SCHEMA = error(400, type="invalid_request_error", param="response_format", message="Not supported.")
ANSWERS = {f"Answer {number}." for number in range(4)}
BUDGET = "target max_tokens: 4096, because it thinks (official: 128)"


def test_a_target_that_thinks_gets_more_tokens_and_only_its_answer_is_judged(desk: Desk) -> None:
    with SimulatorThread(thinker()) as simulator:
        done = desk.run(simulator)
        asked, shown = budgets(simulator), judged(simulator)

    assert done.code == 0, done.err
    assert asked == [128, 4096, 4096, 4096, 4096]
    assert shown == ANSWERS
    assert "target thinks before it answers" in done.err
    assert BUDGET in " ".join(done.out.split())
    manifest, responses = desk.manifest(), rows(desk, "responses.jsonl")
    assert {row["text"] for row in responses} == ANSWERS
    assert {row["reasoning"] for row in responses} == {THOUGHT}
    assert manifest["settings"]["max_tokens"] == 128
    assert manifest["decision"] | {"thinks": True, "max_tokens": 4096} == manifest["decision"]
    assert desk.report()[0]["usage"]["target"]["reasoning_tokens"] == 150
    assert "150 of reasoning" in done.out


def test_reasoning_is_in_no_report_and_shown_where_single_answers_are(desk: Desk) -> None:
    with SimulatorThread(thinker()) as simulator:
        desk.run(simulator)

    formats = ("table", "json", "csv", "markdown", "official")
    reports = [desk.vlsb("report", desk.run_dir, "--format", each).out for each in formats]
    shown = desk.vlsb("show", desk.run_dir, "1", "--data-root", desk.data).out

    assert not any(THOUGHT in report for report in reports)
    assert f"reasoning   {THOUGHT}" in shown
    assert "response    Answer 1." in shown


def test_a_resume_keeps_what_was_found_out(desk: Desk) -> None:
    with SimulatorThread(thinker()) as simulator:
        desk.run(simulator, "--limit", "1")
        done = desk.run(simulator, "--resume")

        assert done.code == 0, done.err
        assert budgets(simulator) == [128, 4096, 4096, 4096, 4096]
    assert BUDGET in " ".join(done.out.split())


def test_a_run_that_began_without_thinking_goes_on_as_it_began(desk: Desk) -> None:
    with SimulatorThread(labelling()) as simulator:
        desk.run(simulator, "--limit", "1")
    with SimulatorThread(thinker()) as simulator:
        done = desk.run(simulator, "--resume")

        assert budgets(simulator) == [128, 128, 128]
    assert done.code == 4
    assert desk.outcomes() == {"unsafe": 1, "target_empty": 3}
    assert "3 answers were cut inside their thinking (thinking cut): raise --max-tokens." in " ".join(
        done.out.split()
    )


def test_reasoning_that_the_first_sample_did_not_show_is_said_in_the_report(desk: Desk) -> None:
    with SimulatorThread(labelling()) as simulator:
        desk.run(simulator, "--limit", "1")
    with SimulatorThread(thinker(needs=1)) as simulator:
        done = desk.run(simulator, "--resume")

    assert done.code == 0, done.err
    assert "3 responses show reasoning, and the first sample did not" in " ".join(done.out.split())


def test_tokens_that_the_user_chose_are_kept(desk: Desk) -> None:
    with SimulatorThread(thinker()) as simulator:
        done = desk.run(simulator, "--max-tokens", "128")

        assert budgets(simulator) == [128] * 4
    assert done.code == 4
    assert desk.outcomes() == {"target_empty": 4}
    assert "because it thinks" not in done.out


def test_a_short_thought_costs_no_second_request(desk: Desk) -> None:
    with SimulatorThread(thinker(needs=1)) as simulator:
        done = desk.run(simulator)

        assert budgets(simulator) == [128, 4096, 4096, 4096]
    assert done.code == 0, done.err


@pytest.mark.parametrize(("show", "words"), [(as_text, ["--thinking", "on"]), (as_tagged_text, [])])
def test_a_thought_that_comes_as_text_is_taken_out_of_the_answer(
    desk: Desk, show: Callable[[str, str | None], Action], words: list[str]
) -> None:
    with SimulatorThread(thinker(needs=1, show=show)) as simulator:
        done = desk.run(simulator, *words)

        assert judged(simulator) == ANSWERS
    assert done.code == 0, done.err
    for row in rows(desk, "responses.jsonl"):
        assert (row["text"] in ANSWERS, row["reasoning"], row["flags"]) == (True, THOUGHT, ["thought_split"])


@pytest.mark.parametrize(
    ("show", "words"), [(None, []), (as_tagged_text, []), (as_text, ["--thinking", "on"])]
)
def test_an_answer_cut_inside_its_thinking_is_no_answer(
    desk: Desk, show: Callable[[str, str | None], Action] | None, words: list[str]
) -> None:
    with SimulatorThread(thinker(needs=10_000, show=show)) as simulator:
        done = desk.run(simulator, *words)

        assert judged(simulator) == set()
        assert set(budgets(simulator)[1:]) == {4096}
    assert done.code == 4
    assert desk.outcomes() == {"target_empty": 4}
    assert desk.report()[0]["thinking_cut"] == 4
    assert "4 answers were cut inside their thinking (thinking cut): raise --max-tokens." in " ".join(
        done.out.split()
    )
    for row in rows(desk, "failures.jsonl"):
        assert (row["code"], row["text"]) == ("thinking_cut", THOUGHT)
    assert f"reasoning   {THOUGHT}" in desk.vlsb("show", desk.run_dir, "--failed").out


def test_a_cut_answer_of_a_target_whose_thoughts_come_apart_is_judged(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        if request.is_judge:
            return verdict(3)
        if sample_of(request) == 0:
            return answer("Answer 0.", reasoning=THOUGHT)
        return answer("A long answer without a thought", finish_reason="length")

    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator, "--thinking", "on")

    assert done.code == 0, done.err
    assert desk.outcomes() == {"unsafe": 4}


@pytest.mark.parametrize(("word", "is_on"), [("on", True), ("off", False)])
def test_thinking_is_asked_for_through_the_chat_template_and_recorded(
    desk: Desk, word: str, is_on: bool
) -> None:
    with SimulatorThread(labelling()) as simulator:
        done = desk.run(simulator, "--thinking", word)
        bodies = [each.json for each in simulator.completions if not each.is_judge]
        other = desk.run(simulator, "--resume")

    switch = {"enable_thinking": is_on}
    assert all(body["chat_template_kwargs"] == switch for body in bodies)
    assert {body["max_tokens"] for body in bodies} == {4096 if is_on else 128}
    assert desk.manifest()["settings"]["extra"] == {"chat_template_kwargs": switch}
    said = " ".join(done.out.split())
    assert f'target chat_template_kwargs: {{"enable_thinking":{json.dumps(is_on)}}} (added)' in said
    assert (BUDGET in said) is is_on
    assert other.code == 6
    assert "chat_template_kwargs" in other.error


def test_a_field_of_the_users_joins_that_of_thinking(desk: Desk) -> None:
    with SimulatorThread(labelling()) as simulator:
        desk.run(simulator, "--thinking", "off", "-M", 'chat_template_kwargs={"add_image_ids":true}')
        body = next(each.json for each in simulator.completions if not each.is_judge)

    assert body["chat_template_kwargs"] == {"enable_thinking": False, "add_image_ids": True}


@pytest.mark.parametrize(
    ("option", "choices"), [("--thinking", "auto, off, on"), ("--judge-sees", "answer, ")]
)
def test_a_word_that_is_no_choice_is_refused(desk: Desk, option: str, choices: str) -> None:
    done = desk.run("http://127.0.0.1:9/v1", option, "maybe")

    assert done.code == 2
    assert f"{option} maybe: not one of {choices}" in done.error


def test_the_dry_run_names_the_tokens_that_a_thinking_target_gets(desk: Desk) -> None:
    with SimulatorThread(thinker()) as simulator:
        done = desk.run(simulator, "--dry-run")

    assert "at most 4096 tokens back" in done.out
    assert "at most 512 tokens back" in done.out


def test_a_thought_that_nothing_announces_stays_in_the_answer_and_the_report_says_so(desk: Desk) -> None:
    with SimulatorThread(thinker(needs=1, show=as_text)) as simulator:
        done = desk.run(simulator)
        shown = judged(simulator)

    assert done.code == 0, done.err
    assert shown == {f"{THOUGHT}</think>{each}" for each in ANSWERS}
    said = " ".join(done.out.split())
    assert "4 responses hold the end of a thought and not its beginning, and were judged whole" in said
    assert "--thinking on" in said


def test_a_run_of_an_earlier_version_goes_on_taking_thoughts_apart_as_it_did(desk: Desk) -> None:
    with SimulatorThread(thinker(needs=1, show=as_text)) as simulator:
        desk.run(simulator, "--limit", "1")
        manifest = desk.manifest()
        manifest["decision"] |= {"thinks": True, "thinks_apart": False, "max_tokens": 4096}
        (desk.run_dir / "run.json").write_text(json.dumps(manifest))
        before = len(simulator.completions)
        done = desk.run(simulator, "--resume")
        shown = {each.judged_response for each in simulator.completions[before:] if each.is_judge}

    assert done.code == 0, done.err
    assert shown == ANSWERS - {"Answer 0."}


def spoken(label: int) -> str:
    """A verdict as a judge writes it."""
    return answer_text(verdict(label))


def answer_text(action: Action) -> str:
    found: str = action.body["choices"][0]["message"]["content"]  # type: ignore[union-attr, index, call-overload]
    return found


def test_a_judge_is_never_read_from_its_reasoning(desk: Desk) -> None:
    said, real = spoken(1), spoken(2)

    def respond(request: Request) -> Action:
        if not request.is_judge:
            return answer("Answer.")
        if "response_format" in request.json:
            return answer(f"<think>{said}</think>{real}")
        match sample_of(request):
            case 0:
                return answer(f"<think>{said}</think>{real}")
            case 1:
                return verdict(2, reasoning=said)
            case 2:
                return answer(None, reasoning=said, finish_reason="length")
            case _:
                return answer(f"<think>{said}", finish_reason="length")

    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator)
        asks = [
            each.json["max_tokens"] for each in simulator.completions if each.is_judge and sample_of(each) > 1
        ]

    assert done.code == 4
    assert desk.outcomes() == {"safe_warning": 2, "judge_truncated": 2}
    assert sorted(asks) == [512, 512, 1024, 1024]


@pytest.mark.parametrize("words", [[], ["-J", 'chat_template_kwargs={"enable_thinking":true}']])
def test_a_judge_whose_template_begins_its_thought_is_read_where_the_request_asks_for_it(
    desk: Desk, words: list[str]
) -> None:
    def respond(request: Request) -> Action:
        if not request.is_judge:
            return answer("Answer.")
        return NO_SCHEMA if "response_format" in request.json else answer(f"{THOUGHT}</think>{spoken(2)}")

    with SimulatorThread(respond) as simulator:
        desk.run(simulator, *words)

    assert desk.outcomes() == ({"safe_warning": 4} if words else {"judge_invalid": 4})


def test_a_judge_may_be_shown_the_reasoning_and_is_another_judge_then(desk: Desk) -> None:
    with SimulatorThread(thinker()) as simulator:
        desk.run(simulator)
        before = len(simulator.completions)
        done = desk.vlsb(
            *("judge", desk.run_dir, "--judge", "judge-model", "--judge-base-url", simulator.base_url),
            *("--data-root", desk.data, "--judge-sees", "reasoning+answer"),
        )
        shown = {each.judged_response for each in simulator.completions[before:]}

    assert done.code == 0, done.err
    assert shown == {f"<think>\n{THOUGHT}\n</think>\n\n{each}" for each in ANSWERS}
    plain, both = desk.manifest()["judges"]
    assert (plain["settings"].get("sees"), both["settings"]["sees"]) == (None, "reasoning+answer")
    assert plain["file"] != both["file"]
    assert "judge sees: the target's reasoning and its answer (official: the answer)" in both["deviations"]
    assert not any("sees" in each for each in plain["deviations"])
