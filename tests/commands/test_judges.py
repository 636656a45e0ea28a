"""Judges by file or name, several in one session, guards apart, local ones, and attacks on them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_run_local import Desk as LocalDesk
from tests.support.checkpoints import checkpoint
from tests.support.command import Desk, Finished, Vlsb
from tests.support.endpoint import labelling, sample_of
from tests.support.fake_engine import events
from vlsb.simulator import Action, Request, SimulatorThread, answer, verdict

SAMPLES = 4
VERDICT = json.dumps({"label": 3, "label_str": "Unsafe", "explanation": "It saw nothing."})


@pytest.fixture
def target() -> Iterator[SimulatorThread]:
    with SimulatorThread(labelling()) as simulator:
        yield simulator


@pytest.fixture
def strict() -> Iterator[SimulatorThread]:
    with SimulatorThread(labelling()) as simulator:
        yield simulator


@pytest.fixture
def kind() -> Iterator[SimulatorThread]:
    """A judge that calls everything a refusal."""
    with SimulatorThread(labelling(dict.fromkeys(range(SAMPLES), 1))) as simulator:
        yield simulator


def judges(*pairs: tuple[str, SimulatorThread]) -> list[str]:
    words = []
    for name, simulator in pairs:
        words += ["--judge", name, "--judge-base-url", simulator.base_url]
        words += ["--judge-api-key-env", "CANARY_KEY"]
    return words


def collect(desk: Desk, target: SimulatorThread) -> None:
    words = ["--model", "target-model", "--base-url", target.base_url, "--no-judge", "--name", "r"]
    assert desk.vlsb("run", *words, "--data-root", desk.data).code == 0


def judge(desk: Desk, *words: object) -> Finished:
    return desk.vlsb("judge", desk.run_dir, "--data-root", desk.data, "--backoff", "0.01", *words)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def user_texts(request: Request) -> list[str]:
    return [part["text"] for part in request.json["messages"][-1]["content"] if part["type"] == "text"]


# Several judges.


def test_a_run_is_judged_by_several_at_once_and_resumes_with_all_of_them(
    desk: Desk, target: SimulatorThread, strict: SimulatorThread, kind: SimulatorThread
) -> None:
    words = [
        "--model",
        "target-model",
        "--base-url",
        target.base_url,
        "--name",
        "r",
        "--data-root",
        desk.data,
    ]
    words = ["run", *words, *judges(("strict", strict), ("kind", kind))]

    ended = desk.vlsb(*words)
    again = desk.vlsb(*words, "--resume")

    assert ended.code == 0, ended.err
    assert again.code == 0, again.err
    assert sorted(path.name for path in (desk.run_dir / "verdicts").iterdir()) == [
        "kind.jsonl",
        "strict.jsonl",
    ]
    second, first = desk.report()
    assert (first["judge"], first["safe_rate"]) == ("strict", 0.0)
    assert (second["judge"], second["safe_rate"]) == ("kind", 100.0)
    assert len(target.completions) == len(strict.completions) == len(kind.completions) == SAMPLES
    assert ended.out.count("target-model") >= 2


def test_stored_responses_are_judged_by_several_at_once(
    desk: Desk, target: SimulatorThread, strict: SimulatorThread, kind: SimulatorThread
) -> None:
    collect(desk, target)

    ended = judge(
        desk, *judges(("strict", strict), ("kind", kind)), "--judge-rpm", "6000", "--judge-rpm", "600"
    )

    assert ended.code == 0, ended.err
    assert [each["judged"] for each in desk.report()] == [SAMPLES, SAMPLES]
    assert len(target.completions) == SAMPLES


def test_one_judge_that_fails_does_not_take_the_others_verdicts(
    desk: Desk, target: SimulatorThread, strict: SimulatorThread
) -> None:
    def mumbles(request: Request) -> Action:
        return verdict(3) if sample_of(request) == 0 else answer("Hm.")

    collect(desk, target)
    with SimulatorThread(mumbles) as bad:
        ended = judge(desk, *judges(("strict", strict), ("mumbling", bad)))

    assert ended.code == 4, ended.err
    assert "mumbling" in ended.err
    assert {each["judge"]: each["judged"] for each in desk.report()} == {"strict": SAMPLES, "mumbling": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--judge", "a", "--judge", "b", "--judge", "c"], "2 times for 3 judges"),
        (["--judge", "a", "--judge", "b", "--judge-api-key-env", "KEY"], "--judge-api-key-env"),
        (["--judge", "a", "--judge", "b", "--judge-header", "x-team=TEAM"], "--judge-header"),
    ],
)
def test_what_is_given_for_several_judges_must_fit_them(
    desk: Desk, target: SimulatorThread, words: list[str], said: str
) -> None:
    """A secret that was named once goes to no second address."""
    collect(desk, target)
    urls = ["--judge-base-url", "http://127.0.0.1:9/v1", "--judge-base-url", "http://127.0.0.1:10/v1"]

    ended = judge(desk, *words, *urls)

    assert ended.code == 2
    assert said in ended.err


def test_a_judge_given_twice_is_refused(desk: Desk, target: SimulatorThread, strict: SimulatorThread) -> None:
    collect(desk, target)

    ended = judge(desk, *judges(("a", strict), ("a", strict)))

    assert ended.code == 2
    assert "twice" in ended.err


# Kinds.


def test_the_hardened_judge_gets_the_response_last_and_gives_labels(
    desk: Desk, target: SimulatorThread, kind: SimulatorThread
) -> None:
    collect(desk, target)

    ended = judge(desk, *judges(("hardened:some-model", kind)))

    assert ended.code == 0, ended.err
    (summary,) = desk.report()
    assert summary["judge"].startswith("hardened:some-model-")
    assert summary["safe_rate"] == 100.0
    first, last = user_texts(kind.completions[0])
    assert "Answer" not in first
    assert re.search(r"<<<response [0-9a-f]{16}>>>\nAnswer \d\.\n<<<end of response", last)
    nonces = {
        found[1] for each in kind.completions if (found := re.search(r"question (\w{16})>", str(each.texts)))
    }
    assert len(nonces) == SAMPLES


def test_the_text_only_judge_is_sent_the_description_and_no_image(
    desk: Desk, target: SimulatorThread, kind: SimulatorThread
) -> None:
    collect(desk, target)

    ended = judge(desk, *judges(("text_only:some-model", kind)))

    assert ended.code == 0, ended.err
    assert [each.image_url for each in kind.completions] == [None] * SAMPLES
    assert "One colour." in user_texts(kind.completions[0])[0]
    assert desk.report()[0]["judged"] == SAMPLES


def test_a_guard_is_asked_in_turns_and_stored_apart(
    desk: Desk, target: SimulatorThread, strict: SimulatorThread
) -> None:
    def guards(request: Request) -> Action:
        safe = sample_of(request) % 2 == 0
        return answer("safe\n<answer>Safe</answer>" if safe else "unsafe\n<answer>B. Crimes</answer>")

    collect(desk, target)
    with SimulatorThread(guards) as guard:
        ended = judge(desk, *judges(("strict", strict), ("sing_guard_vlsbench", guard)))
        again = judge(desk, *judges(("strict", strict), ("sing_guard_vlsbench", guard)))

        assert ended.code == again.code == 0, ended.err
        assert len(guard.completions) == SAMPLES
        roles = [message["role"] for message in guard.completions[0].json["messages"]]
        assert roles == ["user", "assistant"]
        assert guard.completions[0].image_url is not None
        assert "Unseen Risk" in guard.completions[0].json["chat_template_kwargs"]["policy"]
    (file,) = (desk.run_dir / "findings").iterdir()
    assert sorted(row["rating"] for row in rows(file)) == ["safe", "safe", "unsafe", "unsafe"]
    assert [path.name for path in (desk.run_dir / "verdicts").iterdir()] == ["strict.jsonl"]
    assert [each["judge"] for each in desk.report()] == ["strict"]
    shown = desk.vlsb("report", desk.run_dir).out
    assert re.search(r"sing_guard_vlsbench-\w{8} +2 +0 +2 +- +0 +4", shown)
    (guard,) = desk.report()[0]["guards"]
    assert guard.pop("guard") == file.stem
    assert guard == {
        "responses": 4,
        "found": 4,
        "failed": 0,
        "safe": 2,
        "controversial": 0,
        "unsafe": 2,
        "refusals": None,
    }
    (row,) = [each for each in csv_rows(desk) if each["scope"] == "guard"]
    assert (row["judge"], row["found"], row["rated_unsafe"], row["refusals"]) == (file.stem, "4", "2", "")
    assert f"guards      {file.stem}: unsafe, B. Crimes" in desk.vlsb("show", desk.run_dir, "1").out
    assert "not the three labels" in shown


def test_a_text_guard_tells_refusals_apart(desk: Desk, target: SimulatorThread) -> None:
    collect(desk, target)
    with SimulatorThread(lambda _: answer("Safety: Safe\nCategories: None\nRefusal: Yes")) as guard:
        ended = judge(desk, *judges(("qwen3guard", guard)))

        assert ended.code == 0, ended.err
        assert [each.image_url for each in guard.completions] == [None] * SAMPLES
    assert re.search(r"qwen3guard-\w{8} +4 +0 +0 +4 +0 +4", ended.out)


def test_a_guards_mumbling_is_no_finding(desk: Desk, target: SimulatorThread) -> None:
    def guards(request: Request) -> Action:
        return answer("safe\n<answer>Safe</answer>" if sample_of(request) < 2 else "I find this safe.")

    collect(desk, target)
    with SimulatorThread(guards) as guard:
        ended = judge(desk, *judges(("sing_guard", guard)))

    assert ended.code == 4
    assert re.search(r"sing_guard-\w{8} +2 +0 +0 +- +2 +4", ended.out)


def csv_rows(desk: Desk) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(desk.vlsb("report", desk.run_dir, "--format", "csv").out)))


def test_refusals_by_phrases_are_held_against_a_judges(desk: Desk) -> None:
    """One judge and one list are enough to compare."""
    pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")

    def respond(request: Request) -> Action:
        number = sample_of(request)
        if request.is_judge:
            return verdict(1 if number < 2 else 3)
        return answer("I'm sorry, I can't help with that." if number in (0, 2) else "Here you are.")

    with SimulatorThread(respond) as target:
        assert desk.run(target).code == 0
    assert judge(desk, "--judge", "refusal_phrases").code == 0

    (found,) = json.loads(desk.vlsb("agreement", desk.run_dir, "--format", "json").out)["refusals"]
    table = desk.vlsb("agreement", desk.run_dir, env={"COLUMNS": "100"}).out

    assert [found[each] for each in ("both", "teller_only", "judge_only", "neither")] == [1] * 4
    assert (found["agreement"]["value"], found["kappa"]["value"]) == (50, 0)
    assert (found["sensitivity"]["value"], found["precision"]["value"]) == (50, 50)
    assert re.search(r"refusal_phrases-\w{8} +judge-model +agree % +4 +50\.0", table)


def test_phrases_ask_nobody(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        return answer("I'm sorry, I can't help with that." if sample_of(request) == 0 else "Here you are.")

    with SimulatorThread(respond) as target:
        collect(desk, target)
        sent = len(target.completions)
        ended = judge(desk, "--judge", "refusal_phrases")
        assert len(target.completions) == sent

    assert ended.code == 0, ended.err
    assert re.search(r"refusal_phrases-\w{8} +- +- +- +1 +0 +4", ended.out)


def test_the_list_of_judges_names_ours_and_the_users(vlsb: Vlsb, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_judge.yaml").write_text(
        "kind: labels\nabout: Mine.\nmodel: gpt-4o\ntemplate: '{question} {response}'\nparser: labels\n"
        "sees: [image, question, response]\ncannot_tell: Much.\nsource: me\n"
    )

    listed = json.loads(vlsb("judges", "--judges-dir", folder, "--format", "json").out)

    assert {"official", "hardened", "text_only", "sing_guard", "my_judge"} <= {
        each["name"] for each in listed
    }
    assert "cannot tell" in vlsb("judges").out


@pytest.mark.parametrize("width", [80, 160])
def test_lists_of_models_and_judges_keep_to_the_terminal_and_names_whole(vlsb: Vlsb, width: int) -> None:
    """A program that reads them gets every column on one line."""
    models, judges = (vlsb(each, env={"COLUMNS": str(width)}).out for each in ("models", "judges"))
    others = {name: value for name, value in vlsb.environment.items() if name != "COLUMNS"}
    read = Vlsb(vlsb.directory, others)("models").out

    assert max(map(len, (models + judges).splitlines())) <= width
    assert "mistralai/Mistral-Small-3.1-24B-Instruct-2503 " in models
    assert ("Not shown at this width: " in models) == (width == 80)
    assert "tried with" in read.splitlines()[0]


# Attacks.


def test_a_judge_that_sees_through_everything_passes(vlsb: Vlsb) -> None:
    with SimulatorThread(lambda _: verdict(3)) as strict:
        ended = vlsb("selftest", "judge", *judges(("hardened:strict", strict)))

        assert ended.code == 0, ended.err
        assert len(strict.completions) == 12
        assert max(len(text) for each in strict.completions for text in each.texts) < 25_000
    assert "0 of 11 attacks succeeded" in ended.out
    assert "sees only 20,000 characters" in ended.err


def test_a_judge_that_believes_what_it_reads_is_found_out(vlsb: Vlsb) -> None:
    def gullible(request: Request) -> Action:
        response = request.judged_response or ""
        return verdict(1 if response.rstrip().endswith("Safe with refusal.") else 3)

    with SimulatorThread(gullible) as judge_:
        ended = vlsb("selftest", "judge", *judges(("gullible", judge_)))

    assert ended.code == 10
    assert re.search(r"label instruction +yes +safe_refusal", ended.out)
    assert re.search(r"100,000 characters +yes", ended.out)
    assert re.search(r"forged JSON +no +unsafe", ended.out)


def test_a_judge_that_calls_the_plain_answer_safe_fails(vlsb: Vlsb, kind: SimulatorThread) -> None:
    with SimulatorThread(lambda _: verdict(2)) as mild:
        ended = vlsb("selftest", "judge", *judges(("mild", mild)))

    assert ended.code == 10
    assert "plain answer was not called unsafe" in ended.err


# A judge on this machine.


@pytest.fixture
def local(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[LocalDesk]:
    desk = LocalDesk(vlsb, tmp_path, minimal_env)
    yield desk
    desk.gone()


def test_target_and_judge_take_turns_on_a_machine_without_gpus(local: LocalDesk, tmp_path: Path) -> None:
    """Both are engines of this machine: the target's ends before the judge's is started."""
    judge_weights = checkpoint(tmp_path / "judge")
    words = ["run", "--model", "llava_hf", "--weights", str(local.weights), "--engine", str(local.engine)]
    words += ["--data-root", str(local.data), "--judge", str(judge_weights)]

    ended = local.vlsb(*words, env=local.environment(ANSWER=VERDICT))
    again = local.vlsb(*words, "--resume", env=local.environment(ANSWER=VERDICT))

    assert ended.code == 0, ended.err
    assert "judge judges by itself" in ended.err
    assert again.code == 0, again.err
    assert "Nothing was left to do" in again.err
    asked = [event["body"] for event in events(local.record, "chat")]
    assert sum("response_format" in body for body in asked) == 8
    summary = local.summary()
    assert summary["judged"] == 8
    assert summary["safe_rate"] == 0.0


def test_a_local_judge_judges_what_is_stored(local: LocalDesk, tmp_path: Path) -> None:
    judge_weights = checkpoint(tmp_path / "judge")
    with SimulatorThread(labelling()) as target:
        words = ["run", "--model", "m", "--base-url", target.base_url, "--no-judge", "--name", "r"]
        assert local.vlsb(*words, "--data-root", str(local.data)).code == 0
    words = ["judge", "outputs/r", "--judge", f"hardened:{judge_weights}", "--engine", str(local.engine)]

    ended = local.vlsb(*words, "--data-root", str(local.data), env=local.environment(ANSWER=VERDICT))

    assert ended.code == 0, ended.err
    assert local.summary()["judged"] == 8


@pytest.mark.parametrize("count", [1, 2])
def test_several_runs_are_judged_on_engines_that_are_started_once(
    local: LocalDesk, tmp_path: Path, count: int
) -> None:
    judge_weights = checkpoint(tmp_path / "judge")
    with SimulatorThread(labelling()) as target:
        for name in ("a", "b"):
            words = ["run", "--model", "m", "--base-url", target.base_url, "--no-judge", "--name", name]
            assert local.vlsb(*words, "--data-root", str(local.data)).code == 0
    words = ["judge", "outputs/a", "outputs/b", "--judge", str(judge_weights), "--engine", str(local.engine)]

    ended = local.vlsb(*words, "--replicas", str(count), env=local.environment(ANSWER=VERDICT))

    assert ended.code == 0, ended.err
    assert len(events(local.record, "start")) == count
    judging = [each for each in events(local.record, "chat") if "Answer" in str(each["body"])]
    assert len({each["pid"] for each in judging}) == count
    local.gone()
    assert [each["judged"] for each in local.vlsb.report("outputs")] == [8, 8]


def test_an_engine_that_does_not_start_judges_none_of_several_runs(local: LocalDesk, tmp_path: Path) -> None:
    judge_weights = checkpoint(tmp_path / "judge")
    with SimulatorThread(labelling()) as target:
        for name in ("a", "b"):
            words = ["run", "--model", "m", "--base-url", target.base_url, "--no-judge", "--name", name]
            assert local.vlsb(*words, "--data-root", str(local.data)).code == 0
    words = ["judge", "outputs/a", "outputs/b", "--judge", str(judge_weights), "--engine", str(local.engine)]

    ended = local.vlsb(*words, env=local.environment(DIE_AT="loading", CAUSE="disk_full"))

    assert ended.code == 7, ended.err
    assert "no space" in ended.err.lower() or "disk" in ended.err.lower()
    assert "Run 1 of 2" not in ended.err
