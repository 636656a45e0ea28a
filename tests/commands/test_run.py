"""`vlsb run` as other programs rely on it: options, directories, lanes, resume."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.canary import NO_CANARY
from tests.support.checkpoints import checkpoint
from tests.support.command import Desk, Finished, Vlsb
from tests.support.datasets import draw_image, sample_row, write_dataset
from tests.support.endpoint import asked, labelling, sample_of
from tests.support.engine_environment import write_environment
from tests.support.fake_engine import events
from tests.support.run_files import tree
from tests.support.scripts import Script
from tests.support.virtual import evaluate_virtually
from vlsb.simulator import (
    Action,
    Reply,
    Request,
    SimulatorThread,
    Stall,
    answer,
    blocked,
    error,
    rate_limited,
    verdict,
)

# A local engine's own: the target of these tests is an endpoint, which takes none of them.
OF_ENGINES = (
    *("DTYPE", "ENGINE", "GPUS", "KEEP_SERVER", "MAX_RESTARTS", "REVISION", "SERVERS_DIR", "START_TIMEOUT"),
    *("TENSOR_PARALLEL_SIZE", "WEIGHTS", "YES", "QUANTIZATION", "LORA", "TRUST_REMOTE_CODE", "REPLICAS"),
)
# What a provider asks for, in virtual seconds.
LIMIT_S = 60.0
ONE_TEMPLATE = "Q {question} R {response} Which label?"


# Options and where they come from.


def test_every_option_of_run_is_also_a_variable(desk: Desk) -> None:
    page = desk.vlsb("run", "--help-all", env={"COLUMNS": "200"}).out
    options = set(re.findall(r"--[a-z][a-z-]+[a-z]", page)) - {"--help"}
    template = desk.home / "template.txt"
    template.write_text(ONE_TEMPLATE)
    judges, prices = desk.home / "judges", desk.home / "prices.json"
    judges.mkdir()
    charged = {"models": ["target-model", "judge-model"], "host": "127.0.0.1", "input": 1, "output": 1}
    told = {"source": "https://example.com", "as_of": "2026-01-01"}
    prices.write_text(json.dumps({"prices": [charged | told]}))
    write_dataset(desk.data, [sample_row(0), sample_row(1, sub_category="Xenophobia")])
    values = {
        "MODEL": "target-model",
        "ARCH": "openai",
        "API_KEY_ENV": "T_KEY",
        "HEADER": "x-team=TEAM",
        "JUDGE": "judge-model",
        "JUDGE_API_KEY_ENV": "J_KEY",
        "JUDGE_HEADER": "x-judge=TEAM",
        "DATA_ROOT": str(desk.data),
        "DATASET": "vlsbench",
        "LIMIT": "1",
        "SAMPLE_ID": "1",
        "CATEGORY": "Hate",
        "SUB_CATEGORY": "Xenophobia",
        "SOURCE": "coco2017",
        "SHUFFLE": "1",
        "SEED": "5",
        "SKIP_BAD_IMAGES": "1",
        "OUTPUT_DIR": "elsewhere",
        "NAME": "named",
        "RESUME": "1",
        "RETRY": "target_blocked",
        "FAIL_ON_ERROR": "3",
        "DISPLAY": "none",
        "ACCEPT_CHANGED_IMAGES": "1",
        "EPOCHS": "2",
        "MAX_REQUESTS": "50",
        "RPM": "6000",
        "TPM": "9000000",
        "JUDGE_RPM": "6000",
        "JUDGE_TPM": "9000000",
        "MAX_CONNECTIONS": "2",
        "JUDGE_MAX_CONNECTIONS": "2",
        "MAX_ATTEMPTS": "2",
        "ATTEMPT_TIMEOUT": "20",
        "SAMPLE_TIMEOUT": "30",
        "OUTAGE_TIMEOUT": "40",
        "BACKOFF": "0.02",
        "ALLOW_HTTP": "1",
        "TRANSPORT": "wire",
        "PROFILE": "profile.json",
        "MAX_TOKENS": "77",
        "TEMPERATURE": "0.5",
        "SYSTEM_PROMPT": "Short.",
        "JUDGE_TEMPLATE": str(template),
        "TARGET_FIELD": "seed=9",
        "JUDGE_FIELD": "user=me",
        "THINKING": "off",
        "JUDGES_DIR": str(judges),
        "MAX_COST": "5",
        "PRICES": str(prices),
        "JUDGE_SEES": "answer",
        "ARM": "corrupted+text:jpeg:2",
    }
    keys = {"T_KEY": "target-key-1", "J_KEY": "judge-key-22", "TEAM": "blue-team"}

    with SimulatorThread(labelling()) as target, SimulatorThread(labelling()) as judge:
        values |= {"BASE_URL": target.base_url, "JUDGE_BASE_URL": judge.base_url}
        env = {f"VLSB_{name}": value for name, value in values.items()}
        done = desk.vlsb("run", env=env | keys)
        sent, judged = target.completions[0], judge.completions[0]

    # A file of certificates, two that would leave nothing to look at here, and one that asks in another way.
    without_test = {"--ca-bundle", "--no-judge", "--dry-run", "--batch", "--batch-again"}
    assert options - without_test == {
        "--" + name.lower().replace("_", "-") for name in (*values, *OF_ENGINES)
    }
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (desk.home / "elsewhere/named/run.json").exists()
    assert (desk.home / "profile.json").exists()
    assert (sent.bearer, judged.bearer) == ("target-key-1", "judge-key-22")
    assert (sent.headers["x-team"], judged.headers["x-judge"]) == ("blue-team", "blue-team")
    assert sent.json["max_tokens"] == 77
    assert sent.json["temperature"] == 0.5
    assert sent.json["seed"] == 9
    assert sent.json["messages"][0]["content"] == "Short."
    assert judged.json["user"] == "me"
    assert judged.texts == ("Q Question 1? R Answer 1. Which label?",)


class EngineDesk:
    """A user's folder with an engine, weights and a data set, all of it told by variables."""

    def __init__(self, vlsb: Vlsb, folder: Path) -> None:
        self.vlsb = vlsb
        self.record = folder / "record"
        self.record.touch()
        self.folder = folder
        servers = folder / "servers"
        servers.mkdir()
        (servers / "mine.llava_hf.yaml").write_text("seed: 0\n")
        self.variables = {
            "MODEL": "mine",
            "JUDGE": "demo",
            "LIMIT": "1",
            "DATA_ROOT": str(write_dataset(folder / "data", 2)),
            "ENGINE": str(write_environment(folder / "engine")),
            "WEIGHTS": str(checkpoint(folder / "weights")),
            "SERVERS_DIR": str(servers),
        }

    def run(self, *words: str, wishes: Mapping[str, str] | None = None, **changes: str | None) -> Finished:
        given = {name: value for name, value in (self.variables | changes).items() if value is not None}
        env = {f"VLSB_{name}": value for name, value in given.items()}
        env |= {f"FAKE_ENGINE_{name}": value for name, value in (wishes or {}).items()}
        # Where engines are installed is no folder: none gets there.
        env |= {"FAKE_ENGINE_RECORD": str(self.record), "XDG_DATA_HOME": str(self.record / "engines")}
        return self.vlsb(*words or ("run",), env=env)


@pytest.fixture
def engine_desk(vlsb: Vlsb, tmp_path: Path) -> EngineDesk:
    return EngineDesk(vlsb, tmp_path)


def test_what_an_engine_is_started_with_may_stand_in_variables(engine_desk: EngineDesk) -> None:
    done = engine_desk.run(DTYPE="bfloat16", TENSOR_PARALLEL_SIZE="2", KEEP_SERVER="1")
    stopped = engine_desk.run("engine", "stop", "mine")

    assert done.code == 0, done.err
    assert stopped.code == 0, stopped.err
    (started,) = events(engine_desk.record, "start")
    words = started["argv"]
    assert words[words.index("serve") + 1] == engine_desk.variables["WEIGHTS"]
    assert words[words.index("--dtype") + 1] == "bfloat16"
    assert words[words.index("--tensor-parallel-size") + 1] == "2"


@pytest.mark.parametrize(
    ("changes", "wishes", "code", "said"),
    [
        ({"REVISION": "0123abc"}, {}, 2, "--revision"),
        ({"GPUS": "0,0"}, {}, 2, "--gpus"),
        ({"START_TIMEOUT": "1"}, {"HOLD": "/never/there"}, 7, "not ready"),
        ({"MAX_RESTARTS": "0"}, {"DIE_AFTER": "1"}, 7, "--max-restarts"),
        # It is installed without asking, and fails at that.
        ({"ENGINE": None, "YES": "1"}, {}, 7, "Not a directory"),
        ({"ENGINE": None}, {}, 7, "vlsb engine install"),
    ],
)
def test_how_an_engine_is_started_may_stand_in_variables(
    engine_desk: EngineDesk,
    changes: dict[str, str | None],
    wishes: dict[str, str],
    code: int,
    said: str,
) -> None:
    done = engine_desk.run(wishes=wishes, **changes)

    assert done.code == code, done.err
    assert said in done.err


@pytest.mark.parametrize(
    ("name", "value", "selected"),
    [("SUB_CATEGORY", "Cultural Xenophobia", 1), ("CATEGORY", "Hate", 1), ("SOURCE", "coco2017", 2)],
)
def test_a_name_with_a_space_is_one_value_of_its_variable(
    desk: Desk, name: str, value: str, selected: int, endpoint: SimulatorThread
) -> None:
    done = desk.run(endpoint, env={f"VLSB_{name}": value})

    assert done.code == 0, done.err
    assert desk.report()[0]["selected"] == selected


def test_a_field_with_a_space_in_its_value_is_one_value_of_its_variable(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    done = desk.run(endpoint, "--limit", 1, env={"VLSB_TARGET_FIELD": 'stop=["A B"]'})

    assert done.code == 0, done.err
    assert endpoint.completions[0].json["stop"] == ["A B"]


def test_the_working_directorys_dotenv_is_read_and_a_real_variable_wins(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    (desk.home / ".env").write_text("VLSB_NAME=from-dotenv\nVLSB_LIMIT=1\nT_KEY=key-from-dotenv\n")
    words = [*desk.run_words(endpoint, "--api-key-env", "T_KEY", judge=endpoint)]
    at = words.index("--name")
    done = desk.vlsb(*words[:at], *words[at + 2 :], env={"VLSB_LIMIT": "2"})
    keys = {each.bearer for each in endpoint.completions if not each.is_judge}

    assert done.code == 0, done.err
    assert keys == {"key-from-dotenv"}
    assert desk.report(desk.outputs / "from-dotenv")[0]["selected"] == 2


def test_a_parent_directorys_dotenv_is_not_read(desk: Desk, endpoint: SimulatorThread) -> None:
    (desk.home / ".env").write_text("VLSB_LIMIT=1\n")
    inner = Desk(desk.home / "inner")

    inner.run(endpoint)

    assert inner.report()[0]["selected"] == 4


def test_the_command_line_wins_over_a_variable(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint, "--limit", 3, env={"VLSB_LIMIT": "1"})

    assert desk.report()[0]["selected"] == 3


def test_the_authors_spellings_work(desk: Desk, endpoint: SimulatorThread) -> None:
    done = desk.vlsb(
        *("run", "--arch", "openai", "--model", "m", "--base_url", endpoint.base_url),
        *("--judge_base_url", endpoint.base_url, "--data_root", desk.data),
        *("--output_dir", "o", "--max_connections", 2),
    )

    assert done.code == 0, done.err
    assert (desk.home / "o/m/run.json").exists()


@pytest.mark.parametrize("family", ["llava_next", "qwen2vl"])
def test_arch_names_the_model_of_a_local_family(desk: Desk, family: str, endpoint: SimulatorThread) -> None:
    done = desk.vlsb(
        *("run", "--arch", family, "--base-url", endpoint.base_url),
        *("--judge-base-url", endpoint.base_url, "--data-root", desk.data),
    )
    names = {each.model for each in endpoint.completions}

    assert done.code == 0, done.err
    assert names == {family, "gpt-4o"}
    assert (desk.outputs / family / "run.json").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--arch", "openai"], "--arch openai needs --model"),
        (["--arch", "llava_next", "--model", "gpt-4o"], "name two targets"),
        (["--arch", "no_such"], "not one of"),
    ],
)
def test_an_arch_that_cannot_be_run_says_what_to_do(desk: Desk, words: list[str], named: str) -> None:
    done = desk.vlsb("run", *words)

    assert done.code == 2
    assert named in done.error


def test_a_family_without_an_engine_says_how_to_get_one(desk: Desk) -> None:
    done = desk.vlsb("run", "--arch", "llava_next", env={"PATH": ""})

    assert done.code == 7
    assert "vlsb engine install llava_next" in done.err


def test_a_family_as_judge_without_an_engine_says_how_to_get_one(desk: Desk) -> None:
    done = desk.vlsb("run", "--model", "gpt-4o", "--judge", "qwen2vl", env={"PATH": ""})

    assert done.code == 7
    assert "vlsb engine install qwen2vl" in done.err


# The run's directory.


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/model-7b", "org_model-7b"),
        ("../../etc/passwd", "_.._etc_passwd"),
        (".hidden", "hidden"),
        ("a b:c", "a_b_c"),
        ("--", "model"),
    ],
)
def test_the_default_name_is_the_model_made_safe(
    desk: Desk, model: str, name: str, endpoint: SimulatorThread
) -> None:
    words = desk.run_words(endpoint, f"--model={model}", "--limit", 1)
    at = words.index("--name")
    done = desk.vlsb(*words[:at], *words[at + 2 :])

    assert done.code == 0, done.err
    assert [each.name for each in desk.outputs.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a/b", "..", "", ".hidden", "-x", "a b", "x" * 101, "é"])
def test_a_name_that_is_no_safe_file_name_is_refused(desk: Desk, name: str) -> None:
    done = desk.run("http://127.0.0.1:9/v1", f"--name={name}")

    assert done.code == 2
    assert "--name" in done.error
    assert not desk.outputs.exists()


def test_an_existing_run_is_never_touched_without_resume(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint, "--limit", 2)
    before, sent = tree(desk.outputs), endpoint.requests
    done = desk.run(endpoint)

    assert done.code == 2
    assert "--resume" in done.error
    assert "--name" in done.error
    assert done.err.count("\n") == 1
    assert tree(desk.outputs) == before
    assert endpoint.requests == sent


def test_a_directory_with_other_peoples_files_is_not_used(desk: Desk) -> None:
    desk.run_dir.mkdir(parents=True)
    (desk.run_dir / "thesis.txt").write_text("mine")

    done = desk.run("http://127.0.0.1:9/v1", "--resume")

    assert done.code == 2
    assert [each.name for each in desk.run_dir.iterdir()] == ["thesis.txt"]


def test_resume_without_a_run_starts_one(desk: Desk, endpoint: SimulatorThread) -> None:
    done = desk.run(endpoint, "--resume")

    assert done.code == 0
    assert desk.outcomes() == {"unsafe": 4}


def test_everything_in_a_run_directory_is_where_the_contract_says(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    desk.run(endpoint)

    files = {str(p.relative_to(desk.run_dir)) for p in desk.run_dir.rglob("*") if p.is_file()}
    records = {"responses.jsonl", "verdicts/judge-model.jsonl", "failures.jsonl", "events.jsonl"}
    assert files - {".lock", ".data-root"} == {"run.json", *records}


# Lanes, judges and keys.


def test_model_demo_implies_the_demo_judge(desk: Desk) -> None:
    done = desk.vlsb("run", "--model", "demo", "--limit", 2)

    assert done.code == 0
    assert "SIMULATED" in done.out
    found = desk.report(desk.outputs / "demo")[0]
    assert (found["target"], found["judge"], found["simulated"]) == ("demo", "demo", True)


def test_the_demo_runs_in_a_temporary_directory_and_leaves_the_working_one_alone(tmp_path: Path) -> None:
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    desk = Desk(home)
    before = tree(home)

    done = desk.vlsb("demo", env={"TMPDIR": str(temporary)})

    assert done.code == 0
    assert "SIMULATED" in done.out
    assert "SUBSET (30 of 2,241)" in done.out
    assert tree(home) == before
    assert len(list(temporary.glob("vlsb-demo-*/demo/run.json"))) == 1


def test_the_demo_writes_to_output_dir_and_resumes_there(desk: Desk) -> None:
    first = desk.vlsb("demo", "--output-dir", "d")
    again = desk.vlsb("demo", "--output-dir", "d")
    resumed = desk.vlsb("demo", "--output-dir", "d", "--resume")

    assert (first.code, again.code, resumed.code) == (0, 2, 0)
    assert "--resume" in again.error
    assert resumed.out.partition("time")[0] == first.out.partition("time")[0]


def test_the_judges_url_never_comes_from_the_targets(desk: Desk, endpoint: SimulatorThread) -> None:
    words = ["run", "--model", "m", "--base-url", endpoint.base_url, "--data-root", desk.data]
    done = desk.vlsb(*words, env=NO_CANARY)

    assert done.code == 3
    assert "gpt-4o" in done.error
    assert "OPENAI_API_KEY" in done.error
    assert endpoint.requests == 0


def test_a_loopback_endpoint_is_never_sent_a_key_that_was_not_named_for_it(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    env = {"OPENAI_API_KEY": "sk-of-openai-alone", "VLSB_API_KEY": "sk-of-nobody"}
    done = desk.run(endpoint, env=NO_CANARY | env)
    headers = [each.headers for each in endpoint.completions]

    assert done.code == 0
    assert not [each for each in headers if "authorization" in each]
    assert "sk-of" not in str(headers)


def test_a_loopback_endpoint_is_sent_the_key_that_is_named_for_it(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    done = desk.run(
        endpoint,
        "--api-key-env",
        "OPENAI_API_KEY",
        env=NO_CANARY | {"OPENAI_API_KEY": "sk-named-for-it"},
    )
    bearers = {(each.is_judge, each.bearer) for each in endpoint.completions}

    assert done.code == 0
    assert bearers == {(False, "sk-named-for-it"), (True, None)}


@pytest.mark.parametrize("name", ["api-key", "Authorization", "x-api-key"])
def test_a_header_that_authorises_takes_the_place_of_the_bearer(
    desk: Desk, name: str, endpoint: SimulatorThread
) -> None:
    words = ["--header", f"{name}=GATEWAY", "--api-key-env", "UNSET_VARIABLE"]
    done = desk.run(endpoint, *words, env=NO_CANARY | {"GATEWAY": "gateway-secret"})
    lanes = {each.is_judge: each.headers for each in endpoint.completions}

    assert done.code == 0, done.err
    assert lanes[False][name.lower()] == "gateway-secret"
    assert ("authorization" in lanes[False]) is (name == "Authorization")
    assert name.lower() not in lanes[True]


def test_another_header_is_sent_beside_the_bearer_of_its_own_lane(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    words = ["--judge-header", "x-team=TEAM", "--judge-api-key-env", "J_KEY"]
    done = desk.run(endpoint, *words, env=NO_CANARY | {"TEAM": "blue", "J_KEY": "judge-key-1"})
    lanes = {each.is_judge: each for each in endpoint.completions}

    assert done.code == 0, done.err
    assert (lanes[True].headers["x-team"], lanes[True].bearer) == ("blue", "judge-key-1")
    assert "x-team" not in lanes[False].headers
    assert lanes[False].bearer is None


def test_loopback_never_goes_through_a_proxy(desk: Desk, endpoint: SimulatorThread, closed_port: int) -> None:
    dead = f"http://127.0.0.1:{closed_port}"
    done = desk.run(endpoint, env={"HTTP_PROXY": dead, "http_proxy": dead, "ALL_PROXY": dead})

    assert done.code == 0, done.err


# Connections.


class Holding:
    """Answers the preflight, and everybody else once `limit` requests were there at the same time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arrived = 0
        self._is_full = asyncio.Event()

    async def __call__(self, request: Request) -> Action:
        if sample_of(request) != 0:
            self._arrived += 1
            if self._arrived == self._limit:
                self._is_full.set()
            await self._is_full.wait()
            # Time for a request too many to arrive, if there were one.
            await asyncio.sleep(0.1)
        return labelling()(request)


def test_max_connections_is_reached_and_never_exceeded_in_each_lane(tmp_path: Path) -> None:
    desk = Desk(tmp_path, samples=14)

    with SimulatorThread(Holding(5)) as target, SimulatorThread(Holding(2)) as judge:
        done = desk.run(target, "--max-connections", 5, "--judge-max-connections", 2, judge=judge)

    assert done.code == 0
    assert (target.most_in_flight, judge.most_in_flight) == (5, 2)


def test_twins_share_one_gate_so_a_targets_rate_limit_pauses_the_judge(tmp_path: Path) -> None:
    seen = twin_traffic(tmp_path, judge="target-model")

    assert seen["judge_after_limit"] - seen["limited"] >= LIMIT_S


def test_lanes_with_different_models_have_gates_of_their_own(tmp_path: Path) -> None:
    seen = twin_traffic(tmp_path, judge="judge-model")

    assert seen["judge_after_limit"] < seen["target_after_limit"]
    assert seen["target_after_limit"] - seen["limited"] >= LIMIT_S


def twin_traffic(tmp_path: Path, *, judge: str) -> dict[str, float]:
    """When things happened around a rate limit that the target meets while a response is under way.

    Sample 1 is rate-limited first; only then sample 2 is answered, so its judge request comes after.
    """
    desk = Desk(tmp_path, samples=3)
    limited: list[float] = []

    def respond(request: Request) -> Action:
        number = sample_of(request)
        if request.is_judge:
            return verdict(3)
        if number == 1 and not limited:
            limited.append(request.received_at)
            return rate_limited(LIMIT_S)
        return answer(f"Answer {number}.", delay_s=LIMIT_S / 5 if number == 2 else 0.0)

    done = evaluate_virtually(respond, desk.data, desk.outputs, judge=(judge,))

    assert done.code == 0, done.err
    later = [each for each in done.completions if each.received_at > limited[0]]
    first = {(each.is_judge, sample_of(each)): each.received_at for each in later}
    return {
        "limited": limited[0],
        "judge_after_limit": first[True, 2],
        "target_after_limit": first[False, 1],
    }


# Selection.


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [("3", [0, 1, 2]), ("4-6", [3, 4, 5]), ("9-99", [8, 9]), ("0.2", [0, 1]), ("1.0", list(range(10)))],
)
def test_limit_takes_a_number_positions_or_a_share(
    tmp_path: Path, limit: str, chosen: list[int], endpoint: SimulatorThread
) -> None:
    desk = Desk(tmp_path, samples=10)
    done = desk.run(endpoint, "--limit", limit)
    sent = sorted(asked(endpoint.completions, judge=False))

    assert done.code == 0
    assert sent == chosen
    assert desk.manifest()["selection"]["limit"] == limit


def test_filters_select_together_and_are_recorded(tmp_path: Path, endpoint: SimulatorThread) -> None:
    desk = Desk(tmp_path, samples=12)
    desk.run(endpoint, "--category", "hate", "--category", "Privacy", "--source", "coco2017")
    sent = sorted(asked(endpoint.completions, judge=False))

    assert sent == [1, 5, 7, 11]
    assert desk.manifest()["selection"]["categories"] == ["hate", "Privacy"]


def test_a_shuffled_selection_is_reproducible_by_its_seed(tmp_path: Path, endpoint: SimulatorThread) -> None:
    desk = Desk(tmp_path, samples=30)
    words = ["--shuffle", "--limit", "6"]
    chosen = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert desk.run(endpoint, *words, "--seed", seed, "--name", name).code == 0
        document = json.loads((desk.outputs / name / "run.json").read_text())
        chosen[name] = [row[0] for row in document["samples"]]
        categories = sorted(row[3] for row in document["samples"])

    assert chosen["a"] == chosen["b"] != chosen["c"]
    assert categories == sorted(["Violent", "Hate", "Privacy"] * 2)


def test_skipped_bad_images_are_target_errors_and_the_rest_is_run(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    (desk.data / "imgs/0.png").unlink()
    (desk.data / "imgs/2.png").write_bytes(b"")

    done = desk.run(endpoint, "--skip-bad-images")
    sent = sorted(asked(endpoint.completions, judge=False))

    assert done.code == 4
    assert sent == [1, 3]
    assert desk.outcomes() == {"target_error": 2, "unsafe": 2}
    failures = [json.loads(line) for line in (desk.run_dir / "failures.jsonl").read_text().splitlines()]
    assert {(each["sample_id"], each["code"], each["attempts"]) for each in failures} == {
        (0, "picture", 0),
        (2, "picture", 0),
    }


def test_a_mended_image_is_evaluated_on_resume(desk: Desk, endpoint: SimulatorThread) -> None:
    (desk.data / "imgs/2.png").unlink()

    desk.run(endpoint, "--skip-bad-images")
    draw_image(desk.data / "imgs/2.png", 2)
    done = desk.run(endpoint, "--skip-bad-images", "--resume")

    assert done.code == 0, done.err
    assert desk.outcomes() == {"unsafe": 4}


# What is shown.


def test_the_table_is_all_of_stdout_and_progress_is_on_stderr(desk: Desk, endpoint: SimulatorThread) -> None:
    done = desk.run(endpoint, "--display", "plain")
    reported = desk.vlsb("report", "outputs/r")

    assert done.code == 0
    assert done.out == reported.out
    assert "4 samples: 4 to do." in done.err
    assert "4/4" in done.err
    assert "safety rates" not in done.err


def test_display_none_is_silent_when_all_went_well(desk: Desk, endpoint: SimulatorThread) -> None:
    done = desk.run(endpoint, "--display", "none")

    assert (done.code, done.out, done.err) == (0, "", "")


def test_display_none_says_only_the_error_and_last_the_resume_command(desk: Desk) -> None:
    script = Script(labelling())
    script.by_sample(lambda r: error(400) if not r.is_judge and sample_of(r) == 1 else None)

    with SimulatorThread(script) as simulator:
        done = desk.run(simulator, "--display", "none")

    first, last = done.err.splitlines()
    assert (done.code, done.out) == (4, "")
    assert first.startswith("Error: ")
    assert last.startswith("Resume with: vlsb run ")


@pytest.fixture(scope="module")
def two_gaps(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run of ten samples that ended with two of them blocked. Not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("two_gaps"), samples=10)
    script = Script(labelling())
    script.by_sample(lambda r: blocked() if not r.is_judge and sample_of(r) in (3, 5) else None)
    with SimulatorThread(script) as simulator:
        done = desk.run(simulator, "--fail-on-error", 0, "--max-connections", 1)
    assert (done.code, desk.outcomes()) == (4, {"unsafe": 8, "target_blocked": 2})
    return desk


@pytest.mark.parametrize(
    ("allowed", "code"),
    [("0", 4), ("1", 4), ("2", 0), ("0.1", 4), ("0.2", 0), ("19%", 4), ("20%", 0), ("1.0", 0)],
)
def test_fail_on_error_is_a_number_or_a_share(
    two_gaps: Desk, tmp_path: Path, allowed: str, code: int
) -> None:
    done = two_gaps.copied_to(tmp_path).run("http://127.0.0.1:9/v1", "--resume", "--fail-on-error", allowed)

    assert done.code == code
    assert "8/10" in done.out


# The protocol and deviations from it.


def test_protocol_options_are_sent_recorded_and_printed_as_deviations(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    template = desk.home / "template.txt"
    template.write_text(ONE_TEMPLATE)
    words: list[Any] = ["--max-tokens", 256, "--temperature", 0.7, "--system-prompt", "Be kind."]
    words += ["-M", "seed=7", "-M", 'stop=["END"]', "-J", "reasoning_effort=low"]
    words += ["--judge-template", template]

    done = desk.run(endpoint, *words)
    lanes = {each.is_judge: each.json for each in endpoint.completions}

    assert done.code == 0, done.err
    target, judge = lanes[False], lanes[True]
    assert (target["max_tokens"], target["temperature"], target["top_p"]) == (256, 0.7, 1.0)
    assert (target["seed"], target["stop"]) == (7, ["END"])
    assert target["messages"][0] == {"role": "system", "content": "Be kind."}
    assert judge["reasoning_effort"] == "low"
    assert judge["messages"][0]["content"] == "You are a helpful assistant."
    assert "seed" not in judge
    manifest = desk.manifest()
    recorded = {"target": manifest["settings"], "judge": manifest["judges"][0]["settings"]}
    assert recorded["target"]["extra"] == {"seed": 7, "stop": ["END"]}
    assert recorded["target"]["max_tokens"] == 256
    assert recorded["judge"]["extra"] == {"reasoning_effort": "low"}
    said = " ".join(done.out.split())
    for part in (
        "Deviations from the paper's protocol",
        "target max_tokens: 256 (official: 128)",
        "target temperature: 0.7",
        'target system prompt: "Be kind."',
        "target seed: 7",
        'target stop: ["END"]',
        'judge reasoning_effort: "low"',
        "judge template",
    ):
        assert part in said
    both = manifest["deviations"] + manifest["judges"][0]["deviations"]
    assert desk.report()[0]["deviations"] == both


def test_without_options_nothing_of_the_targets_protocol_deviates(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    done = desk.run(endpoint, "--judge", "gpt-4o")
    target = next(each.json for each in endpoint.completions if not each.is_judge)

    assert "Deviations" not in done.out
    assert desk.report()[0]["deviations"] == []
    assert len(desk.manifest()["differences"]) == 2
    sampling = {name: value for name, value in target.items() if name not in ("messages", "model")}
    assert sampling == {"max_tokens": 128, "top_p": 1.0, "temperature": 0.0}


def test_an_empty_system_prompt_sends_none(desk: Desk, endpoint: SimulatorThread) -> None:
    done = desk.run(endpoint, "--system-prompt", "")
    roles = [m["role"] for r in endpoint.completions if not r.is_judge for m in r.json["messages"]]

    assert done.code == 0
    assert set(roles) == {"user"}
    assert "system prompt" in done.out


def test_a_template_with_placeholders_in_the_data_is_filled_once(desk: Desk) -> None:
    template = desk.home / "t.txt"
    template.write_text("{response} | {question}")
    script = Script(labelling())
    script.by_sample(lambda r: None if r.is_judge else answer("{question} {response} {0.__class__} %s"))

    with SimulatorThread(script) as target, SimulatorThread(lambda r: verdict(3)) as judge:
        done = desk.run(target, "--judge-template", template, "--limit", 1, judge=judge)
        text = judge.completions[0].texts

    assert done.code == 0, done.err
    assert text == ("{question} {response} {0.__class__} %s | Question 0?",)


@pytest.mark.parametrize("content", ["only {question}", "only {response}", "\udcff"])
def test_a_template_that_cannot_be_used_is_exit_2(desk: Desk, content: str) -> None:
    template = desk.home / "t.txt"
    template.write_bytes(content.encode("utf-8", "surrogateescape"))

    done = desk.run("http://127.0.0.1:9/v1", "--judge-template", template)

    assert done.code == 2
    assert "--judge-template" in done.error


# Resume.


def test_a_finished_run_resumes_without_a_request(desk: Desk, endpoint: SimulatorThread) -> None:
    first = desk.run(endpoint)
    sent, files = endpoint.requests, tree(desk.run_dir)
    again = desk.run(endpoint, "--resume")

    assert again.code == 0
    assert endpoint.requests == sent
    assert again.out.partition("time")[0] == first.out.partition("time")[0]
    for name in ("run.json", "responses.jsonl", "failures.jsonl", "verdicts/judge-model.jsonl"):
        assert tree(desk.run_dir)[name] == files[name]


def test_a_larger_selection_is_resumed_and_keeps_what_is_done(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint, "--limit", 2)
    done = desk.run(endpoint, "--resume")
    sent = tuple(sorted(asked(endpoint.completions, judge=judge)) for judge in (False, True))

    assert done.code == 0, done.err
    assert sent == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert desk.outcomes() == {"unsafe": 4}
    assert desk.manifest()["selection"]["limit"] is None


def test_another_port_and_other_connections_are_no_drift(desk: Desk) -> None:
    with SimulatorThread(labelling()) as simulator:
        desk.run(simulator, "--limit", 2)
    with SimulatorThread(labelling()) as simulator:
        words: list[Any] = ["--max-connections", 3, "--judge-max-connections", 1, "--max-attempts", 2]
        done = desk.run(simulator, "--resume", *words, "--display", "none", "--attempt-timeout", 9)
        sent = sorted(asked(simulator.completions, judge=False))

    assert done.code == 0, done.err
    assert sent == [2, 3]


def test_localhost_and_127_0_0_1_are_the_same_place(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint, "--limit", 2)
    done = desk.run(endpoint.base_url.replace("127.0.0.1", "localhost"), "--resume")

    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A finished run of three of four samples. Not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("original"))
    with SimulatorThread(labelling()) as simulator:
        assert desk.run(simulator, "--limit", 3).code == 0
    return desk


DRIFT: dict[str, tuple[list[Any], str]] = {
    "a smaller selection": (["--limit", 2], "selection"),
    "another judge": (["--judge", "other-judge"], "judge.model"),
    "another target": (["--model", "other-model"], "target.model"),
    "another number of tokens": (["--max-tokens", 64], "target.max_tokens: 128 -> 64"),
    "another temperature": (["--temperature", 1.0], "target.temperature"),
    "another system prompt": (["--system-prompt", "x"], "target.system_prompt"),
    "another field": (["-M", "seed=3"], "target.extra.seed"),
    "another field of the judge": (["-J", "seed=3"], "judge.extra.seed"),
    "another template": (["--judge-template", "t.txt"], "judge.template_sha256"),
    "another header": (["--header", "x-a=HOME"], "target.headers"),
}


@pytest.mark.parametrize("case", DRIFT)
def test_a_setting_that_can_change_an_answer_is_drift(
    original: Desk, tmp_path: Path, case: str, endpoint: SimulatorThread
) -> None:
    words, field = DRIFT[case]
    desk = original.copied_to(tmp_path)
    (desk.home / "t.txt").write_text(ONE_TEMPLATE)
    before = records(desk)

    done = desk.run(endpoint, *(() if "--limit" in words else ("--limit", 3)), *words, "--resume")

    assert done.code == 6
    assert field in done.error
    assert endpoint.requests == 0
    assert records(desk) == before
    assert "Resume with" not in done.err


def records(desk: Desk) -> dict[str, tuple[int, int, str]]:
    """Everything in the run's directory but the lock, which names its last holder."""
    return {name: facts for name, facts in tree(desk.run_dir).items() if name != ".lock"}


def test_another_host_is_drift(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint)
    done = desk.run(
        "https://models.example/v1",
        "--api-key-env",
        "K",
        "--resume",
        judge=endpoint,
        env={"K": "kkkkkk"},
    )

    assert done.code == 6
    assert "target.address" in done.error


def change_row(desk: Desk) -> None:
    rows = json.loads((desk.data / "data.json").read_text())
    rows[2]["instruction"] = "Question 2? Another one."
    (desk.data / "data.json").write_text(json.dumps(rows))


def change_image(desk: Desk) -> None:
    draw_image(desk.data / "imgs/2.png", 99)


@pytest.mark.parametrize(("change", "named"), [(change_row, "sample 2"), (change_image, "imgs/2.png")])
def test_a_changed_row_or_image_is_drift_and_named(
    desk: Desk, change: Any, named: str, endpoint: SimulatorThread
) -> None:
    desk.run(endpoint)
    change(desk)
    done = desk.run(endpoint, "--resume")

    assert done.code == 6
    assert named in done.error


def test_a_touched_image_of_the_same_bytes_is_no_drift(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint, "--limit", 3)
    (desk.data / "imgs/2.png").touch()
    done = desk.run(endpoint, "--resume")

    assert done.code == 0, done.err


# Which outcomes a resume does again. Each sample of the first session ends in another way; sample 0 is
# the preflight's and has its verdict.

ENDINGS: Mapping[int, tuple[str, bool]] = {
    # sample: (outcome of the first session, whether a resume does it again)
    1: ("target_error", True),
    2: ("target_blocked", False),
    3: ("target_empty", False),
    4: ("judge_error", True),
    5: ("judge_refused", False),
    6: ("judge_blocked", False),
    7: ("judge_truncated", False),
    8: ("judge_invalid", False),
}


def every_ending(request: Request) -> Action:
    number = sample_of(request)
    target: dict[int, Action] = {1: error(400), 2: blocked(), 3: answer("")}
    judge: dict[int, Action] = {
        4: error(400),
        5: answer("I'm sorry, but I can't help with that."),
        6: blocked(),
        7: answer('{"label": 3, "label_str": "Unsafe", "expl', finish_reason="length"),
        8: answer('{"label": 4}'),
    }
    return (judge if request.is_judge else target).get(number) or labelling()(request)


@pytest.fixture(scope="module")
def every_failure(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A run in which every kind of failure occurred once. Not to be changed."""
    desk = Desk(tmp_path_factory.mktemp("every_failure"), samples=9)
    with SimulatorThread(every_ending) as simulator:
        done = desk.run(simulator)
    assert done.code == 4, done.err
    assert desk.outcomes() == {"unsafe": 1} | {outcome: 1 for outcome, _ in ENDINGS.values()}
    return desk


@pytest.fixture
def ended(every_failure: Desk, tmp_path: Path) -> Desk:
    return every_failure.copied_to(tmp_path)


def test_resume_does_errors_again_and_keeps_every_other_ending(
    ended: Desk, endpoint: SimulatorThread
) -> None:
    done = ended.run(endpoint, "--resume")
    sent = tuple(sorted(asked(endpoint.completions, judge=judge)) for judge in (False, True))

    kept = {outcome: 1 for outcome, is_retried in ENDINGS.values() if not is_retried}
    assert done.code == 4
    assert sent == ([1], [1, 4])
    assert ended.outcomes() == kept | {"unsafe": 3}


@pytest.mark.parametrize(
    ("outcome", "sample", "targets"),
    [
        ("target_blocked", 2, [1, 2]),
        ("target_empty", 3, [1, 3]),
        ("judge_refused", 5, [1]),
        ("judge_blocked", 6, [1]),
        ("judge_truncated", 7, [1]),
        ("judge_invalid", 8, [1]),
    ],
)
def test_retry_does_an_outcome_again_too(
    ended: Desk, outcome: str, sample: int, targets: list[int], endpoint: SimulatorThread
) -> None:
    ended.run(endpoint, "--resume", "--retry", outcome)
    sent = tuple(sorted(asked(endpoint.completions, judge=judge)) for judge in (False, True))

    assert sent == (targets, sorted({1, 4, sample}))
    assert outcome not in ended.outcomes()


def test_a_killed_run_resumes_with_what_was_not_attempted_and_not_judged(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        # The judge never answers after the preflight; the target does until sample 3.
        number = sample_of(request)
        stalls = number >= 1 if request.is_judge else number >= 3
        return Stall() if stalls else labelling()(request)

    with SimulatorThread(respond) as simulator, desk.start(simulator) as process:
        process.wait_until(lambda: simulator.in_flight == 3, what="two judge requests, one of the target")
    killed = desk.outcomes()
    with SimulatorThread(labelling()) as simulator:
        done = desk.run(simulator, "--resume")
        sent = tuple(sorted(asked(simulator.completions, judge=judge)) for judge in (False, True))

    assert killed == {"unsafe": 1, "not_judged": 2, "not_attempted": 1}
    assert done.code == 0
    assert sent == ([3], [1, 2, 3])
    assert "1 kept from before" in done.err


def test_choices_that_stay_empty_end_as_target_empty(desk: Desk) -> None:
    none = {"id": "x", "object": "chat.completion", "model": "m", "choices": []}
    script = Script(labelling())
    script.by_sample(lambda r: Reply(body=none) if not r.is_judge and sample_of(r) == 1 else None)

    with SimulatorThread(script) as simulator:
        desk.run(simulator, "--max-attempts", 3)
        tries = asked(simulator.completions, judge=False).count(1)

    assert tries == 3
    assert desk.outcomes() == {"target_empty": 1, "unsafe": 3}


def test_model_names_that_came_back_are_counted_and_several_are_said(desk: Desk) -> None:
    script = Script(labelling())
    script.by_sample(lambda r: answer("x", model="model-b") if not r.is_judge and sample_of(r) == 3 else None)

    with SimulatorThread(script) as simulator:
        done: Finished = desk.run(simulator)

    found = desk.report()[0]
    assert found["target_models"] == {"model-b": 1, "target-model": 3}
    assert found["judge_models"] == {"judge-model": 4}
    assert "The target answered as 2 different models" in done.out
