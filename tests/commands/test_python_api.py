"""The Python API: the page that documents it is run as a notebook would, and its promises are held."""

from __future__ import annotations

import ast
import asyncio
import csv
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

import vlsb
from tests.support import PROJECT
from tests.support.checkpoints import checkpoint
from tests.support.command import Vlsb
from tests.support.datasets import write_dataset
from tests.support.engine_environment import write_environment
from tests.support.fake_engine import events, living
from tests.support.scripts import Script
from tests.support.waiting import wait_until
from vlsb import VlsbError, evaluate
from vlsb.engines import checks
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.python_options import options_of
from vlsb.simulator import Request, Simulator, Stall, answer, verdict

PAGE = PROJECT / "docs" / "reference" / "python-api.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_example_page_runs_in_a_running_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy", reason="the page compares two runs; that needs the extra `stats`")
    monkeypatch.chdir(tmp_path)

    async def notebook() -> None:
        names: dict[str, object] = {}
        for block in BLOCKS:
            code = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.iscoroutine(result):
                await result

    asyncio.run(notebook())

    assert len(BLOCKS) >= 6
    assert len(vlsb.load_run("outputs/first").judges) == 2


def test_every_public_name_exists_and_says_what_it_is() -> None:
    for name in vlsb.__all__:
        found = getattr(vlsb, name)

        assert name.startswith("__") or (found.__doc__ and len(found.__doc__) > 20), name
    with pytest.raises(AttributeError):
        _ = vlsb.nothing_of_that_name


def test_every_public_name_stands_on_the_page() -> None:
    text = PAGE.read_text()

    assert [name for name in vlsb.__all__ if f"`{name}" not in text and not name.startswith("__")] == []


def test_importing_the_package_loads_no_http_stack() -> None:
    script = "import sys, vlsb; print(sorted({'httpx', 'PIL', 'rich', 'typer'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def script(labels: dict[str, int]) -> Script:
    def respond(request: Request) -> object:
        if request.is_judge:
            return verdict(labels.get(request.instruction, 3))
        return answer(f"about {request.instruction}")

    return Script(respond)  # type: ignore[arg-type]


@pytest.fixture
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.endswith("_API_KEY") or name.startswith("VLSB_")]:
        monkeypatch.delenv(name)


def test_a_run_over_a_socket_gives_the_scripted_labels(tmp_path: Path, quiet_environment: None) -> None:
    root = write_dataset(tmp_path / "data", 4)

    async def scenario() -> vlsb.Run:
        async with Simulator(script({})) as simulator:
            return await vlsb.evaluate(
                "m",
                base_url=simulator.base_url,
                judge="j",
                judge_base_url=simulator.base_url,
                data_root=root,
                output_dir=tmp_path / "out",
            )

    run = asyncio.run(scenario())

    assert run.is_complete
    assert [each.label for each in run.answers()] == [vlsb.Label.UNSAFE] * 4
    assert all(each.response is not None and each.failure is None for each in run.answers())
    assert vlsb.summarize(run).rates.unsafe_rate == 100.0


def test_a_local_model_is_asked_at_the_server_that_runs(
    tmp_path: Path,
    quiet_environment: None,
    vlsb: Vlsb,
    minimal_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = tmp_path / "record"
    monkeypatch.setenv("HOME", minimal_env["HOME"])
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    serve = ["serve", "llava_hf", "--engine", write_environment(tmp_path / "engine"), "--detach"]
    weights = checkpoint(tmp_path / "weights")
    served = vlsb(*serve, "--weights", weights, env={"FAKE_ENGINE_RECORD": str(record)})
    assert served.code == 0, served.err

    data = write_dataset(tmp_path / "data", 2)
    run = asyncio.run(evaluate("llava_hf", judge="demo", data_root=data, output_dir=tmp_path / "out"))
    stopped = vlsb("engine", "stop", "llava_hf")

    assert run.is_complete
    assert stopped.code == 0, stopped.err
    assert len(events(record, "start")) == 1
    asked = [body for body in (event["body"] for event in events(record, "chat")) if body["max_tokens"] > 1]
    assert [body["add_special_tokens"] for body in asked] == [True, True]


@dataclass(frozen=True, slots=True)
class Local:
    """A stand-in engine and weights for it, in an environment whose every process carries a mark."""

    mark: str
    record: Path
    options: dict[str, Any]

    def starts(self) -> int:
        return len(events(self.record, "start"))

    def gone(self) -> None:
        wait_until(lambda: not living(self.mark), what="no process of the engine is left")


@pytest.fixture
def local(tmp_path: Path, quiet_environment: None, monkeypatch: pytest.MonkeyPatch) -> Local:
    made = Local(
        uuid.uuid4().hex,
        tmp_path / "record",
        {
            "engine": str(write_environment(tmp_path / "engine")),
            "weights": str(checkpoint(tmp_path / "weights")),
            "judge": "demo",
            "data_root": write_dataset(tmp_path / "data", 4),
            "output_dir": tmp_path / "out",
        },
    )
    (tmp_path / "ledger").mkdir()
    wishes = {"MARK": made.mark, "RECORD": str(made.record), "LEDGER": str(tmp_path / "ledger")}
    for name, value in wishes.items():
        monkeypatch.setenv(f"FAKE_ENGINE_{name}", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return made


def test_a_local_model_that_nobody_serves_is_started_for_the_run(local: Local) -> None:
    run = asyncio.run(evaluate("llava_hf", dtype="bfloat16", **local.options))

    assert run.is_complete
    assert local.starts() == 1
    assert any("bfloat16" in each.expose() for each in run.summary().deviations)
    local.gone()


def test_an_engine_that_dies_under_a_script_is_started_again(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE_DIE_AFTER", "3")

    run = asyncio.run(evaluate("llava_hf", **local.options))

    assert run.is_complete
    assert local.starts() == 2
    local.gone()


def test_a_cancelled_evaluation_leaves_no_engine(
    local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE_HOLD", str(tmp_path / "never"))

    async def scenario() -> None:
        work = asyncio.create_task(evaluate("llava_hf", **local.options))
        await asyncio.to_thread(wait_until, local.starts, what="the engine has started")
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(scenario())

    local.gone()


def test_an_engine_is_installed_only_where_the_caller_allows_it(
    local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that it is an error with the command; with it the disk is looked at first."""
    monkeypatch.setattr(checks, "free_disk_bytes", lambda path: 1)
    monkeypatch.setenv("PATH", "/nowhere")
    options = local.options | {"engine": "auto"}

    with pytest.raises(VlsbError, match="vlsb engine install llava_hf") as missing:
        asyncio.run(evaluate("llava_hf", **options))
    with pytest.raises(VlsbError, match="the engine need"):
        asyncio.run(evaluate("llava_hf", install=True, **options))

    assert missing.value.exit_code == 7
    assert not (tmp_path / "out").exists()


def test_options_of_an_engine_are_refused_for_a_model_that_has_none(quiet_environment: None) -> None:
    with pytest.raises(VlsbError, match="--dtype is for engines that vlsb starts"):
        asyncio.run(evaluate("gpt-4o", dtype="half"))


def test_a_stop_raises_and_a_resume_goes_on(tmp_path: Path, quiet_environment: None) -> None:
    root = write_dataset(tmp_path / "data", 3)
    options = {"data_root": root, "output_dir": tmp_path / "out", "judge": "j"}

    async def scenario() -> vlsb.Run:
        async with Simulator(script({})) as simulator:
            options.update(base_url=simulator.base_url, judge_base_url=simulator.base_url)
            with pytest.raises(vlsb.VlsbError) as stopped:
                await vlsb.evaluate("m", max_requests=3, **options)
            assert stopped.value.exit_code == 4
            return await vlsb.evaluate("m", resume=True, **options)

    run = asyncio.run(scenario())

    assert run.is_complete


def test_a_cancelled_evaluation_keeps_what_is_finished_and_gives_the_run_back(
    tmp_path: Path, quiet_environment: None
) -> None:
    root = write_dataset(tmp_path / "data", 6)

    async def scenario() -> None:
        stalled = asyncio.Event()

        def respond(request: Request) -> object:
            if not request.is_judge and "3" in request.instruction:
                stalled.set()
                return Stall()
            return verdict(1) if request.is_judge else answer("yes")

        async with Simulator(respond) as simulator:  # type: ignore[arg-type]
            work = asyncio.create_task(
                vlsb.evaluate(
                    "m",
                    base_url=simulator.base_url,
                    judge="j",
                    judge_base_url=simulator.base_url,
                    data_root=root,
                    output_dir=tmp_path / "out",
                )
            )
            await asyncio.wait_for(stalled.wait(), 20)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    asyncio.run(scenario())
    run = vlsb.load_run(tmp_path / "out" / "m")

    assert not run.is_complete
    assert run.summary().rates.judged >= 1


def test_evaluating_leaves_the_callers_signal_handlers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    during = []

    asyncio.run(
        vlsb.evaluate("demo", on_progress=lambda progress: during.append(signal.getsignal(signal.SIGTERM)))
    )

    assert set(during) == {before}


def test_a_judge_that_the_run_does_not_have_is_an_error_that_names_those_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = asyncio.run(vlsb.evaluate("demo", limit="2"))

    with pytest.raises(vlsb.VlsbError, match="demo"):
        run.summary("nobody")


# What a script may give.


def evaluated(tmp_path: Path, **options: Any) -> vlsb.Run:
    """A run of the demo with these options."""
    return asyncio.run(vlsb.evaluate("demo", output_dir=tmp_path / "out", name="r", **options))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"limit": 4}, 4),
        ({"limit": 0.5}, 15),
        ({"limit": "2-3"}, 2),
        ({"category": "Privacy"}, 4),
        ({"category": ["Privacy", "Violent"], "limit": None}, 10),
        ({"sample_id": 3}, 1),
        ({"sample_id": {1, 2}}, 2),
    ],
    ids=str,
)
def test_one_value_or_several_select_samples(
    tmp_path: Path, quiet_environment: None, options: dict[str, Any], count: int
) -> None:
    assert len(list(evaluated(tmp_path, **options).answers())) == count


OPTIONS = [each.name for each in fields(RunOptions)]
ODD = [object(), b"bytes", [object()], {"a": 1}, "\0", float("nan"), float("inf"), 10**400, 1.5, True, -1, ""]


@pytest.mark.parametrize("name", OPTIONS)
def test_whatever_an_option_is_given_is_taken_or_raises_a_vlsb_error(name: str) -> None:
    refused: list[VlsbError] = []
    for value in ODD:
        try:
            options_of({name: value})
        except VlsbError as error:
            refused.append(error)

    # No option takes an object, bytes or a null character.
    assert len(refused) >= 3
    assert {each.exit_code for each in refused} == {2}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vlsb.evaluate("demo", max_conections=3), "Did you mean max_connections?"),
        (lambda: vlsb.evaluate("demo", instal=True), "Did you mean install?"),
        (lambda: vlsb.evaluate("demo", limit=object()), "limit: a text is needed"),
        (lambda: vlsb.evaluate("demo", epochs="2"), "epochs: a whole number is needed"),
        (lambda: vlsb.evaluate("demo", epochs=0), "epochs=0: give 1 "),
        (lambda: vlsb.evaluate("demo", category=[1.5, None]), "category: a text or a list of them is needed"),
        (lambda: vlsb.evaluate("demo", resume="yes"), "resume: True or False is needed"),
        (lambda: vlsb.evaluate("demo", on_progress=3), "on_progress: a function is needed"),
        (lambda: vlsb.evaluate("demo", data_root=7), "data_root: a path is needed"),
        (lambda: vlsb.evaluate(), "--model"),
        (lambda: vlsb.evaluate("m" * 300), "--model: is longer than a path may be"),
        (lambda: vlsb.evaluate("demo", output_dir="\ud800"), "--output-dir: holds a character that no path"),
        (lambda: vlsb.judge(None), "run: a path is needed"),
        (lambda: vlsb.judge("nowhere"), "no run there"),
    ],
)
def test_what_a_coroutine_cannot_take_raises_a_vlsb_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quiet_environment: None,
    call: Callable[[], Coroutine[Any, Any, object]],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(VlsbError) as caught:
        asyncio.run(call())

    assert words in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: vlsb.load_run(None),
        lambda: vlsb.load_run("nowhere"),
        lambda: vlsb.load_run("n" * 300),
        lambda: vlsb.load_run("\ud800"),
        lambda: vlsb.load_run(b"run"),
        lambda: vlsb.summarize(3),
        lambda: vlsb.compare(),
        lambda: vlsb.compare(None, 3),
        lambda: vlsb.compare("nowhere", "elsewhere"),
        lambda: vlsb.as_mapping({"safe_rate": 1.0}),
    ],
)
def test_what_a_function_cannot_take_raises_a_vlsb_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(VlsbError):
        call()


def test_rows_are_those_of_the_csv(tmp_path: Path, quiet_environment: None) -> None:
    run = evaluated(tmp_path, limit=6)
    sheet = Vlsb(tmp_path)("report", run.path, "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(sheet)))

    found = run.rows()

    assert list(found[0]) == list(rows[0])
    assert [(each["scope"], each["name"]) for each in found] == [(row["scope"], row["name"]) for row in rows]
    assert [each["judged"] for each in found] == [int(row["judged"]) for row in rows]
    assert found[0]["safe_rate"] == float(rows[0]["safe_rate"])
    assert run.rows(run.judges[0]) == found


def test_rows_of_answers_have_texts_only_where_they_are_asked_for(
    tmp_path: Path, quiet_environment: None
) -> None:
    run = evaluated(tmp_path, limit=6)
    texts = {"response", "reasoning", "explanation"}

    plain, whole = run.answer_rows(), run.answer_rows(texts=True)

    assert len(plain) == len(whole) == 6
    assert not texts & plain[0].keys()
    assert whole[0].keys() - plain[0].keys() == texts
    answers = {each.sample_id: each for each in run.answers()}
    for row in whole:
        answer = answers[row["sample_id"]]
        assert row["outcome"] == answer.outcome.value
        assert row["label"] == (None if answer.label is None else answer.label.value)
        assert isinstance(row["response"], str)


@pytest.mark.parametrize("judge", ["nobody", 3])
def test_a_judge_of_no_row_is_an_error(tmp_path: Path, quiet_environment: None, judge: Any) -> None:
    run = evaluated(tmp_path, limit=1)

    for call in (run.rows, run.summary, run.answer_rows, lambda name: list(run.answers(name))):
        with pytest.raises(VlsbError):
            call(judge)
