"""The same ends through the real command: a process, its exit code, one clean line, the way on."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import vlsb
from tests.proofs.faults.runs import scripted
from tests.support import PROJECT, wire
from tests.support.command import Vlsb, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from vlsb.errors import ConfigError
from vlsb.simulator import Action, Reply, SimulatorThread, answer, error

QUICK = ("--backoff", "0.01", "--max-attempts", "3")

RESUME, AGAIN = "Resume with:", "Ask again with:"
ROWS: dict[str, tuple[Action, int, str, int, str]] = {
    "A18-a-server-error": (error(503), 4, "target_error", 3, RESUME),
    "A28-html": (Reply(body=wire.HTML, headers=wire.AS_HTML), 4, "target_error", 3, RESUME),
    "A37-a-prompt-filter": (wire.azure_prompt_filter(), 4, "target_blocked", 1, AGAIN),
    "A54-nothing": (answer(None), 4, "target_empty", 2, AGAIN),
    "A55-a-refusal-field": (answer(None, refusal="I can't."), 0, "unsafe", 1, ""),
    "A03-quota": (wire.openai(429, "insufficient_quota", "No quota."), 3, "not_attempted", 1, RESUME),
    "A35-no-model": (wire.openai(404, "model_not_found", "No such model."), 2, "not_attempted", 1, RESUME),
    "C32-a-redirect": (
        Reply(307, "", (("location", "http://127.0.0.1:9/v1"),)),
        2,
        "not_attempted",
        1,
        RESUME,
    ),
}


@pytest.mark.parametrize(("action", "code", "outcome", "requests", "way_on"), ROWS.values(), ids=ROWS.keys())
def test_the_command_ends_as_the_python_api_does(
    action: Action, code: int, outcome: str, requests: int, way_on: str, tmp_path: Path
) -> None:
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(scripted([action], sample=1)) as simulator:
        done = vlsb(*run_words(simulator, write_dataset(tmp_path / "data", sharing_rows(2)), *QUICK))
        asked = Counter(sample_of(each) for each in simulator.completions if not each.is_judge)

    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert {name: n for name, n in vlsb.summary()["outcomes"].items() if n} == dict(
        Counter(["unsafe", outcome])
    )
    assert asked == {0: 1, 1: requests}
    assert done.last.startswith(f"{way_on} vlsb run " if way_on else ("The run is in", "Or: vlsb show"))


ENDLESS = {
    "C41-money": ("run", "--max-cost", "inf"),
    "C41-sampling": ("run", "--temperature", "nan"),
    "C41-patience": ("run", "--sample-timeout", "inf"),
    "C41-beyond-a-float": ("run", "--backoff", "1e999"),
    "C41-of-several": ("judge", "outputs/r", "--judge-rpm", "inf"),
    "C41-below-a-limit": ("run", "--rpm", "nan"),
    "C41-a-gate": ("gate", "outputs/r", "--baseline", "outputs/s", "--max-drop", "nan"),
}


@pytest.mark.parametrize("words", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_number_without_an_end_is_a_wrong_option_before_anything_starts(
    words: tuple[str, ...], vlsb: Vlsb, tmp_path: Path
) -> None:
    *command, option, value = words
    more = ("--model", "demo") if command == ["run"] else ()

    typed = vlsb(*command, *more, option, value)
    variable = vlsb(*command, *more, env={f"VLSB_{option.strip('-').upper().replace('-', '_')}": value})

    for ended in (typed, variable):
        assert (ended.code, ended.out) == (2, "")
        assert f"Invalid value for '{option}'" in ended.error
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["temperature", "max_cost", "backoff", "judge_rpm"])
def test_c41_a_script_that_passes_a_number_without_an_end_is_told(
    name: str, number: float, tmp_path: Path
) -> None:
    given: dict[str, Any] = {name: (number,) if name == "judge_rpm" else number}

    with pytest.raises(ConfigError, match=r"not a finite number|give 0.* or more"):
        asyncio.run(vlsb.evaluate("demo", output_dir=tmp_path / "runs", **given))

    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [".nan", ".inf", "1e999"])
def test_c41_a_plan_or_a_judge_with_a_number_without_an_end_is_refused(
    value: str, vlsb: Vlsb, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"models: [demo]\ndefaults: {{temperature: {value}}}\n")
    judge = tmp_path / "judges" / "mine.yaml"
    judge.parent.mkdir()
    hardened = PROJECT / "vlsb" / "judging" / "judges" / "hardened.yaml"
    judge.write_text(hardened.read_text().replace("temperature: 0.0", f"temperature: {value}"))

    swept = vlsb("sweep", plan)
    judged = vlsb("run", "--model", "demo", "--judge", "mine:demo", "--judges-dir", judge.parent)

    assert swept.code == 2
    assert "plan.yaml, line 2" in swept.error
    assert judged.code == 2
    assert "mine.yaml" in judged.error
    assert not (tmp_path / "outputs").exists()
