"""Money over real sockets: what a run costs and will cost, and that it stops where it may cost no more."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk
from tests.support.endpoint import asked, labelling, sample_of
from tests.support.virtual import evaluate_virtually
from vlsb.config import FORECAST_SAMPLES
from vlsb.simulator import Action, Request, SimulatorThread, Stall, answer, verdict

SAMPLES = 40
# With the 800 tokens in and 40 out of the simulator's answers: one dollar a request.
A_DOLLAR = {"input": 1000, "output": 5000, "source": "a made-up contract", "as_of": "2026-11-25"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, SAMPLES)


def prices(desk: Desk, *models: str, **more: Any) -> Path:
    file = desk.home / "prices.json"
    file.write_text(json.dumps({"prices": [{"models": models, **A_DOLLAR, **more}]}))
    return file


def slow(request: Request) -> Action:
    """`labelling`, each answer a little later, so that many are in flight when the money is spent."""
    number = sample_of(request)
    if request.is_judge:
        return verdict(3, model="judge-model", delay_s=0.05)
    return answer(f"Answer {number}.", model="target-model", delay_s=0.05)


@pytest.mark.parametrize("connections", [1, 8])
def test_a_run_never_costs_more_than_was_in_flight_when_its_money_was_spent(
    desk: Desk, connections: int
) -> None:
    most = 10
    words = ("--prices", prices(desk, "target-model", "judge-model"), "--display", "none")
    limits = ("--max-connections", connections, "--judge-max-connections", connections)
    with SimulatorThread(slow) as endpoint:
        ended = desk.run(endpoint, *words, *limits, "--max-cost", most)
        sent = len(endpoint.completions)
        resumed = desk.run(endpoint, *words, *limits, "--resume")

    assert ended.code == 4
    assert "--max-cost is reached" in ended.error
    assert ended.resume_command
    # Target and judge may each have so many in flight.
    assert most <= sent <= most - 1 + 2 * connections
    # What was in flight is stored: nothing is asked twice.
    assert resumed.code == 0, resumed.err
    assert len(endpoint.completions) == 2 * SAMPLES
    (report,) = desk.vlsb.report(desk.run_dir)
    assert report["cost"]["total_usd"] == pytest.approx(2 * SAMPLES)


def test_several_models_share_one_limit(desk: Desk) -> None:
    """The second has what the first left, the third is not begun; that is no complete command."""
    models = [word for model in ("a", "b", "c") for word in ("--model", model)]
    where = ("--data-root", desk.data, "--no-judge", "--display", "none", "--backoff", "0.01")
    with SimulatorThread(labelling()) as endpoint:
        ended = desk.vlsb(
            *("run", *models, "--base-url", endpoint.base_url, *where),
            *("--prices", prices(desk, "a", "b", "c"), "--max-connections", 1, "--max-cost", SAMPLES + 5),
        )
        sent = Counter(each.model for each in endpoint.completions)
        exact = desk.vlsb(
            *("run", *models[2:], "--base-url", endpoint.base_url, *where, "--resume"),
            *("--prices", prices(desk, "b", "c"), "--max-connections", 1, "--max-cost", SAMPLES - 5),
        )

    assert ended.code == exact.code == 4
    assert sent == {"a": SAMPLES, "b": 5}
    assert "--max-cost is reached: $45.0000 by this command" in ended.err
    assert "1 more are not begun" in ended.err
    assert Counter(each.model for each in endpoint.completions) == {"a": SAMPLES, "b": SAMPLES}
    assert "1 more are not begun" in exact.err


def test_several_models_and_runs_share_one_number_of_requests(desk: Desk) -> None:
    """As with money; runs judged one after the other, and a judge after its target, count together too."""
    models = [word for model in ("a", "b", "c") for word in ("--model", model)]
    where = ("--data-root", desk.data, "--display", "none", "--max-connections", 1)
    runs = [desk.home / "outputs" / model for model in ("a", "b")]
    with SimulatorThread(labelling()) as endpoint:
        asked_at = ("--base-url", endpoint.base_url, *where, "--no-judge")
        ended = desk.vlsb("run", *models, *asked_at, "--max-requests", SAMPLES + 5)
        sent = Counter(each.model for each in endpoint.completions)
        judging = ("--judge", "j", "--judge-base-url", endpoint.base_url, "--data-root", desk.data)
        judged = desk.vlsb("judge", *runs, *judging, "--display", "none", "--max-requests", SAMPLES + 2)
        labels = Counter(each.model for each in endpoint.completions)["j"]

    assert ended.code == judged.code == 4
    assert sent == {"a": SAMPLES, "b": 5}
    assert "--max-requests is reached: 45 requests by this command" in ended.err
    assert "--max-requests is reached: 1 more are not begun" in ended.err
    assert labels == SAMPLES + 2


def test_the_report_tells_the_cost_by_the_prices_that_it_is_given(desk: Desk) -> None:
    file = prices(desk, "target-model")
    with SimulatorThread(labelling()) as endpoint:
        done = desk.run(endpoint, "--prices", file)
    table = desk.vlsb("report", desk.run_dir, "--prices", file)
    (report,) = json.loads(desk.vlsb("report", desk.run_dir, "--prices", file, "--format", "json").out)

    line = f"target ${SAMPLES}.00 (list prices of 2026-11-25)"
    assert line in done.out
    assert line in table.out
    assert report["cost"] == {
        "target": {
            "usd": pytest.approx(SAMPLES),
            "is_least": False,
            "source": "a made-up contract",
            "as_of": "2026-11-25",
        },
        "total_usd": pytest.approx(SAMPLES),
    }


def test_a_report_without_prices_tells_the_money_that_the_run_told(desk: Desk) -> None:
    """Also of a judge that came later with prices of its own, and without the text of the file."""
    file = prices(desk, "target-model", "another", input=500.0, source="https://me:hunter2@prices.example")
    with SimulatorThread(labelling()) as endpoint:
        done = desk.run(endpoint, "--prices", file)
        prices(desk, "j")
        judging = ("--judge", "j", "--judge-base-url", endpoint.base_url, "--data-root", desk.data)
        judged = desk.vlsb("judge", desk.run_dir, *judging, "--display", "none", "--prices", file)
    reports = json.loads(desk.vlsb("report", desk.run_dir, "--format", "json").out)
    first, second = sorted(reports, key=lambda each: each["judge"] == "j")
    manifest = (desk.run_dir / "run.json").read_text()

    assert done.code == judged.code == 0
    line = next(line for line in done.out.splitlines() if "list prices of" in line)
    assert line in desk.vlsb("report", desk.run_dir).out
    assert first["cost"]["target"]["usd"] == second["cost"]["target"]["usd"] == pytest.approx(0.6 * SAMPLES)
    assert second["cost"]["judge"]["usd"] == pytest.approx(SAMPLES)
    assert not any(word in manifest for word in ("hunter2", "prices.example", "another"))
    assert not any("prices" in each for each in (*first["notices"], *second["notices"]))


def test_a_report_by_other_prices_says_that_the_run_was_given_others(desk: Desk) -> None:
    with SimulatorThread(labelling()) as endpoint:
        desk.run(endpoint, "--prices", prices(desk, "target-model"))
    other = prices(desk, "target-model", input=0.0, output=0.0)

    words = " ".join(desk.vlsb("report", desk.run_dir, "--prices", other).out.split())

    assert "target $0.00" in words
    assert "The run was given other prices: by those the target cost $40.00" in words


def test_a_larger_run_keeps_the_prices_that_it_was_given(desk: Desk) -> None:
    file = prices(desk, "target-model")
    with SimulatorThread(labelling()) as endpoint:
        desk.run(endpoint, "--limit", 3, "--prices", file)
        assert desk.run(endpoint, "--resume").code == 0
    (report,) = desk.vlsb.report(desk.run_dir)

    assert report["cost"]["target"]["usd"] == pytest.approx(SAMPLES)


def test_money_is_not_limited_where_nobody_knows_the_price(desk: Desk) -> None:
    with SimulatorThread(labelling()) as endpoint:
        ended = desk.run(endpoint, "--max-cost", 1)

    assert ended.code == 2
    assert "no price is known for target-model" in ended.error
    assert "--prices FILE" in ended.error
    assert not endpoint.completions


def test_an_answer_that_counts_no_tokens_ends_a_run_whose_money_is_limited(desk: Desk) -> None:
    with SimulatorThread(lambda request: answer("Answer.", usage=None)) as endpoint:
        ended = desk.run(endpoint, "--max-cost", 100, "--prices", prices(desk, "target-model", "judge-model"))

    assert ended.code == 2
    assert "--max-cost cannot be held" in ended.error
    assert len(endpoint.completions) == 1
    assert len((desk.run_dir / "responses.jsonl").read_text().splitlines()) == 1


def input_alone(request: Request) -> Action:
    """Answers of a thousand characters, of an endpoint that counts nothing but what it is sent."""
    text = 1000 * "a"
    reply = verdict(3, text) if request.is_judge else answer(text)
    reply.body["usage"] = {"prompt_tokens": 800, "completion_tokens": 0}  # type: ignore[index, call-overload]
    return reply


@pytest.mark.parametrize("count", [0, None])
def test_output_that_nobody_counts_is_estimated_for_a_limit_and_never_free(
    desk: Desk, count: int | None
) -> None:
    def respond(request: Request) -> Action:
        reply = input_alone(request)
        reply.body["usage"]["completion_tokens"] = count  # type: ignore[index, call-overload]
        return reply

    words = ("--max-cost", 100, "--prices", prices(desk, "target-model", "judge-model"))
    with SimulatorThread(respond) as endpoint:
        ended = desk.run(endpoint, *words, "--max-connections", 1, "--judge-max-connections", 1)
        sent = len(endpoint.completions)

    # A thousand tokens of output cost five dollars, the input of each request .80.
    assert 100 / 6.2 <= sent <= 100 / 5.8 + 2
    assert ended.code == 4
    assert "--max-cost is reached: about $" in ended.error
    assert "Estimated: target target-model at 127.0.0.1" in ended.error
    assert "does not count the tokens of its answers" in ended.error
    assert "target at least $" in " ".join(desk.vlsb("report", desk.run_dir).out.split())


def test_a_forecast_of_output_that_nobody_counts_is_unknown(desk: Desk) -> None:
    file = prices(desk, "target-model", "judge-model")
    with SimulatorThread(input_alone) as endpoint:
        done = desk.run(endpoint, "--dry-run", "--prices", file)

    assert done.code == 0, done.err
    assert "cost      unknown: the endpoint does not report its tokens" in done.out


def test_an_answer_without_a_count_makes_the_cost_a_least_one(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        if request.is_judge or sample_of(request) != 3:
            return labelling()(request)
        return answer("Answer 3.", model="target-model", usage=None)

    with SimulatorThread(respond) as endpoint:
        done = desk.run(endpoint, "--prices", prices(desk, "target-model", "judge-model"))

    cost = f"target at least ${SAMPLES - 1}.00, judge ${SAMPLES}.00, at least ${2 * SAMPLES - 1}.00 in all"
    assert cost in " ".join(done.out.split())


def test_input_from_the_providers_cache_and_hidden_thoughts_are_stored_and_charged(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        reply = labelling()(request)
        if not request.is_judge:
            usage = reply.body["usage"]  # type: ignore[union-attr, index, call-overload]
            usage["prompt_tokens_details"]["cached_tokens"] = 400
            usage["total_tokens"] += 100
        return reply

    file = prices(desk, "target-model", cached_input=500)
    with SimulatorThread(respond) as endpoint:
        done = desk.run(endpoint, "--prices", file, "--limit", 2)
    row = json.loads((desk.run_dir / "responses.jsonl").read_text().splitlines()[0])
    judged = json.loads((desk.run_dir / "verdicts" / "judge-model.jsonl").read_text().splitlines()[0])

    assert row["usage"] == {
        "input_tokens": 800,
        "output_tokens": 40,
        "reasoning_tokens": 0,
        "cached_tokens": 400,
        "thought_tokens": 100,
    }
    assert set(judged["usage"]) == {"input_tokens", "output_tokens", "reasoning_tokens"}
    # 400 fresh, 400 cached, 140 out: .40 + .20 + .70 dollars each.
    assert "target $2.60 (list prices" in done.out


# A dry run.


def amounts(line: str) -> list[float]:
    """The dollars of a line: as it is sent with both ends, then as a batch."""
    return [float(each) for each in re.findall(r"\$([0-9.]+)", line)]


def test_a_dry_run_sends_some_samples_of_all_kinds_and_forecasts_the_rest(desk: Desk) -> None:
    file = prices(desk, "target-model", "judge-model", batch_input=500, batch_output=2500)
    with SimulatorThread(labelling()) as endpoint:
        ended = desk.run(endpoint, "--dry-run", "--prices", file)
        first = len(endpoint.completions)
        again = desk.run(endpoint, "--dry-run", "--resume", "--prices", file)

    assert ended.code == 0, ended.err
    assert first == 2 * FORECAST_SAMPLES
    targets = asked(endpoint.completions, judge=False)
    assert sorted(targets) == sorted(asked(endpoint.completions, judge=True))
    words = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert words.count("requests 20") == 2
    assert words.count("tokens about 16,000 in, 800 out, from 20 samples") == 2
    target, judge, together = (amounts(line) for line in words if line.startswith(("cost", "together")))
    assert [target[0], judge[0], together[0]] == [20, 20, 40]
    assert [target[3], judge[3], together[3]] == [10, 10, 20]
    assert together == pytest.approx([a + b for a, b in zip(target, judge, strict=True)], abs=0.02)
    # All twenty answers took 40 tokens; the rest may take as many as are asked for, and none at all.
    for total, low, high in (target[:3], judge[:3], target[3:], judge[3:]):
        assert 0.7 * total < low < total < high
    assert target[2] < 20 * (0.8 + 0.005 * 128)
    assert "Prices of 2026-11-25, from a made-up contract." in words
    # There is enough to forecast from: nothing more is spent on it.
    assert again.code == 0, again.err
    assert len(endpoint.completions) == first
    assert "Dry run: 40 responses selected, 20 judged so far." in again.out


def test_a_fresh_dry_run_says_how_many_it_does_and_keeps_nothing_from_before(desk: Desk) -> None:
    with SimulatorThread(labelling()) as endpoint:
        first = desk.run(endpoint, "--dry-run")
        rest = desk.run(endpoint, "--resume")

    assert first.code == rest.code == 0, first.err + rest.err
    assert f"{SAMPLES} samples: {FORECAST_SAMPLES} to do.\n" in first.err
    assert "kept from before" not in first.err
    left = SAMPLES - FORECAST_SAMPLES
    assert f"{SAMPLES} samples: {left} to do, {FORECAST_SAMPLES} kept from before.\n" in rest.err


def test_a_forecast_counts_a_limit_that_target_and_judge_share_once(desk: Desk) -> None:
    """One model at one address plays both: the rest of both goes through its tokens a minute."""
    of_both = {"dry_run": True, "tpm": 1_000_000}
    alike = {**of_both, "judge": ("target-model",)}
    shared = evaluate_virtually(labelling(), desk.data, desk.outputs, **alike)
    apart = evaluate_virtually(labelling(), desk.data, desk.outputs, **of_both, name="apart")

    assert shared.code == apart.code == 0, shared.err + apart.err
    found = re.findall(r"about ([0-9.]+) s at ([0-9,]+) tokens a minute(.*)", shared.out)
    assert [words for *_, words in found] == [
        ", which target and judge share",
        ", which judge and target share",
    ]
    ((alone_s, tpm, words),) = re.findall(r"about ([0-9.]+) s at ([0-9,]+) tokens a minute(.*)", apart.out)
    rest_s = 60 * 840 * (SAMPLES - FORECAST_SAMPLES) / float(tpm.replace(",", ""))
    assert (float(alone_s), words) == (pytest.approx(rest_s, abs=0.06), "")
    for seconds, tpm, _ in found:
        both_s = 60 * 2 * 840 * (SAMPLES - FORECAST_SAMPLES) / float(tpm.replace(",", ""))
        assert float(seconds) == pytest.approx(both_s, abs=0.06)


def test_a_forecast_says_how_far_it_may_be_off(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        if request.is_judge:
            return labelling()(request)
        return answer("Answer.", usage=(800 + 10 * sample_of(request), 40))

    file = prices(desk, "target-model")
    with SimulatorThread(respond) as endpoint:
        ended = desk.run(endpoint, "--dry-run", "--prices", file)

    found = re.search(
        r"about \$([0-9.]+) \(95 %: \$([0-9.]+) to \$([0-9.]+)\); the price of a batch", ended.out
    )
    assert found is not None, ended.out + ended.err
    total, low, high = map(float, found.groups())
    spent = asked(endpoint.completions, judge=False)
    rest = sum(1 + 0.01 * number for number in range(SAMPLES) if number not in spent)
    assert low < total < high
    assert low < rest < high


def test_a_dry_run_without_prices_says_nothing_of_money_on_this_machine(desk: Desk) -> None:
    with SimulatorThread(labelling()) as endpoint:
        ended = desk.run(endpoint, "--dry-run", "--limit", 3)

    assert ended.code == 0, ended.err
    assert "cost" not in ended.out
    assert "requests  0" in ended.out


# Models that are shut down.


def test_a_model_that_is_shut_down_soon_is_named_before_anything_is_sent(
    desk: Desk, closed_port: int
) -> None:
    ended = desk.vlsb(
        *("run", "--model", "gpt-4o", "--judge", "gpt-4o-mini", "--data-root", desk.data),
        env={"HTTPS_PROXY": f"http://127.0.0.1:{closed_port}", "OPENAI_API_KEY": "sk-none"},
    )

    lines = [line for line in ended.err.splitlines() if "shut down by its provider on 2027-01-14" in line]
    assert [line.split()[2:4] for line in lines] == [["target", "gpt-4o"], ["judge", "gpt-4o-mini"]]


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "json"])
def test_the_report_names_a_model_that_is_shut_down_once_and_counts_no_days(desk: Desk, form: str) -> None:
    """It is the judge of two runs and the target of one; what a report says holds on any day."""
    with SimulatorThread(labelling()) as endpoint:
        for name in ("r", "other"):
            assert desk.run(endpoint, "--limit", 3, "--name", name).code == 0
    for name in ("r", "other"):
        path = desk.outputs / name / "run.json"
        manifest = json.loads(path.read_text())
        retired = {"model": "gpt-4o-2024-08-06", "address": "https://api.openai.com/v1"}
        manifest["judges"][0]["settings"] |= retired
        if name == "r":
            manifest["settings"] |= retired
        path.write_text(json.dumps(manifest))
    done = desk.vlsb("report", "outputs", "--format", form)

    said = "gpt-4o-2024-08-06 is shut down by its provider on 2027-01-14"
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert not re.search(r"in [0-9]+ days|tomorrow", words)
    if form == "json":
        reports = json.loads(done.out)
        assert [sum(said in each for each in report["notices"]) for report in reports] == [1, 1]
        assert reports[0]["cost"]["judge"]["usd"] == pytest.approx(3 * (800 * 2.5 + 40 * 10) / 1e6)
    else:
        assert words.count("by its provider on 2027-01-14") == 1


def test_a_host_without_a_price_is_unknown_and_not_free(desk: Desk) -> None:
    with SimulatorThread(labelling()) as endpoint:
        desk.run(endpoint, "--limit", 3)
    manifest = desk.manifest()
    manifest["settings"] |= {"model": "a-model", "address": "https://models.example.org/v1"}
    (desk.run_dir / "run.json").write_text(json.dumps(manifest))
    table = desk.vlsb("report", desk.run_dir)
    (report,) = desk.vlsb.report(desk.run_dir)

    assert "target unknown: no price for a-model" in table.out
    assert report["cost"]["target"]["usd"] is None
    assert report["cost"]["total_usd"] is None


# What was spent before a stop.


def charged(desk: Desk) -> dict[str, tuple[int, int]]:
    """Requests and input tokens by side, as the report has them."""
    (report,) = desk.report()
    return {
        side: (report["usage"][side]["requests"], report["usage"][side]["input_tokens"])
        for side in ("target", "judge")
    }


NO_VERDICT = answer("I would say that it is unsafe.")


def test_what_a_judge_took_before_it_was_stopped_is_in_the_report_and_it_is_asked_again(desk: Desk) -> None:
    """A verdict that cannot be read is asked for again: both requests cost something."""

    def respond(request: Request) -> Action:
        return NO_VERDICT if request.is_judge else labelling()(request)

    with SimulatorThread(respond) as endpoint:
        stopped = desk.run(endpoint, "--limit", 1, "--max-requests", 2)
        before = charged(desk)
    with SimulatorThread(labelling()) as well:
        resumed = desk.run(well, "--limit", 1, "--resume")

    assert stopped.code == 4
    assert before == {"target": (1, 800), "judge": (1, 800)}
    assert resumed.code == 0, resumed.err
    assert charged(desk) == {"target": (1, 800), "judge": (2, 1600)}
    assert desk.outcomes() == {"unsafe": 1}


def test_replies_that_a_target_was_charged_for_before_a_stop_are_in_the_report(desk: Desk) -> None:
    """An empty answer is asked for again."""
    with SimulatorThread(lambda request: answer("")) as endpoint:
        stopped = desk.run(endpoint, "--limit", 1, "--max-requests", 1)

    assert stopped.code == 4
    assert charged(desk)["target"] == (1, 800)
    assert desk.outcomes() == {"not_attempted": 1}


def test_a_judge_that_is_interrupted_between_two_requests_has_both_counted(desk: Desk) -> None:
    """The first request was answered; the second one is in flight when the second signal drops it."""

    def respond(request: Request) -> Action:
        if not request.is_judge:
            return labelling()(request)
        return Stall() if sum(each.is_judge for each in endpoint.completions) > 1 else NO_VERDICT

    with SimulatorThread(respond) as endpoint:
        process = desk.start(endpoint, "--limit", 1)
        process.wait_until(lambda: len(endpoint.completions) == 3, what="the second ask")
        process.signal(signal.SIGINT)
        process.wait_until_said("Stopping")
        process.signal(signal.SIGINT)
        ended = process.wait()

    assert ended.code == 130
    assert charged(desk)["judge"] == (2, 800)
    assert desk.outcomes() == {"not_judged": 1}
