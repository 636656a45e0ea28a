"""A first mistake is corrected by typing the command again: nothing is locked in before the first answer."""

from __future__ import annotations

import pytest

from tests.support.command import Desk
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import labelling
from vlsb.simulator import Reply, SimulatorThread


@pytest.fixture
def dead(closed_port: int) -> str:
    """An address that nobody answers at."""
    return f"http://127.0.0.1:{closed_port}/v1"


def api_error(status: int, code: str) -> Reply:
    return Reply(status, b'{"error": {"message": "no", "code": "%s"}}' % code.encode())


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_mistyped_base_url_is_corrected_in_the_same_directory(
    desk: Desk, more: tuple[str, ...], endpoint: SimulatorThread, dead: str
) -> None:
    mistyped = desk.run(dead, judge=endpoint)
    corrected = desk.run(endpoint, *more)

    assert mistyped.code == 2, mistyped.err
    assert corrected.code == 0, corrected.err
    assert desk.outcomes() == {"unsafe": 4}


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_mistyped_model_is_corrected_in_the_same_directory(desk: Desk, more: tuple[str, ...]) -> None:
    respond = labelling()

    def knows_one(request: object) -> object:
        return api_error(404, "model_not_found") if request.model == "gpt-4p" else respond(request)

    with SimulatorThread(knows_one) as simulator:
        mistyped = desk.run(simulator, "--model", "gpt-4p")
        corrected = desk.run(simulator, *more)

    assert mistyped.code == 2, mistyped.err
    assert corrected.code == 0, corrected.err
    assert desk.outcomes() == {"unsafe": 4}


def test_an_address_that_answers_with_errors_only_is_corrected_in_the_same_directory(desk: Desk) -> None:
    with SimulatorThread(lambda _: Reply(503, b"")) as wrong, SimulatorThread(labelling()) as right:
        mistyped = desk.run(wrong, "--max-attempts", "1", "--target-field", "x=true", judge=right)
        corrected = desk.run(right)

    assert mistyped.code == 4, mistyped.err
    assert corrected.code == 0, corrected.err
    (found,) = desk.report()
    assert found["usage"]["target"]["requests"] == 4


def test_what_failed_answers_have_cost_stays_in_the_cost_of_the_run(desk: Desk) -> None:
    """Their endpoint counted tokens: a run that begins again would forget money that was spent."""
    broken = {"message": {"role": "assistant", "content": None}, "finish_reason": "error"}
    paid = {"choices": [broken], "usage": {"prompt_tokens": 700, "completion_tokens": 30}}
    with SimulatorThread(lambda _: Reply(200, paid)) as simulator:
        failed = desk.run(simulator, "--max-attempts", "1")
    (before,) = desk.report()
    with SimulatorThread(labelling()) as simulator:
        refused = desk.run(simulator)
        resumed = desk.run(simulator, "--resume")

    assert (failed.code, refused.code, resumed.code) == (4, 2, 0), resumed.err
    assert "--resume continues it" in refused.err
    (after,) = desk.report()
    assert before["usage"]["target"] == {"requests": 1, "input_tokens": 700, "output_tokens": 30}
    assert after["usage"]["target"]["requests"] == 5
    assert after["usage"]["target"]["input_tokens"] >= 700


def test_another_data_root_and_judge_may_be_taken_before_the_first_answer(
    desk: Desk, endpoint: SimulatorThread, dead: str
) -> None:
    other = write_dataset(desk.home / "other", [sample_row(number) for number in (7, 8)])
    mistyped = desk.run(dead, judge=endpoint)
    corrected = desk.run(endpoint, "--data-root", other, "--judge", "another")

    assert mistyped.code == 2, mistyped.err
    assert corrected.code == 0, corrected.err
    assert [row[0] for row in desk.manifest()["samples"]] == [7, 8]
    assert [judge["name"] for judge in desk.manifest()["judges"]] == ["another"]


def test_a_mistyped_judge_is_corrected_and_the_paid_response_stays(
    desk: Desk, endpoint: SimulatorThread, dead: str
) -> None:
    mistyped = desk.run(endpoint, "--judge", "wrong", judge=dead)
    corrected = desk.run(endpoint, "--resume")

    assert mistyped.code == 2, mistyped.err
    assert corrected.code == 0, corrected.err
    assert desk.outcomes() == {"unsafe": 4}
    assert sum(not request.is_judge for request in endpoint.completions) == 4


def test_after_the_first_answer_the_settings_are_locked_in(desk: Desk, endpoint: SimulatorThread) -> None:
    first = desk.run(endpoint, "--limit", "1")
    again = desk.run(endpoint, "--max-tokens", "5")
    resumed = desk.run(endpoint, "--max-tokens", "5", "--resume")

    assert (first.code, again.code, resumed.code) == (0, 2, 6)
    assert "--resume" in again.error
    assert "target.max_tokens" in resumed.error


@pytest.mark.parametrize("flag", ["--target-field", "--judge-field"])
@pytest.mark.parametrize(("before", "now"), [("1", "true"), ('{"a": [0]}', '{"a": [false]}'), ("1", "1.0")])
def test_a_field_that_is_true_is_not_the_field_that_is_1(
    desk: Desk, flag: str, before: str, now: str, endpoint: SimulatorThread
) -> None:
    first = desk.run(endpoint, flag, f"x={before}")
    same = desk.run(endpoint, flag, f"x={before}", "--resume")
    other = desk.run(endpoint, flag, f"x={now}", "--resume")

    assert (first.code, same.code, other.code) == (0, 0, 6), other.err
    assert "extra.x" in other.error
