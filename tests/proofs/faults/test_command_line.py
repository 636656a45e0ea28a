"""The same ends through the real command: a process, its exit code, one clean line, the way on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.proofs.faults import wire
from tests.proofs.faults.runs import scripted
from tests.support.command import Vlsb, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, Reply, SimulatorThread, answer, error

QUICK = ("--backoff", "0.01", "--max-attempts", "3")

ROWS: dict[str, tuple[Action, int, str, int]] = {
    "A18-a-server-error": (error(503), 4, "target_error", 3),
    "A28-html": (Reply(body=wire.HTML, headers=wire.AS_HTML), 4, "target_error", 3),
    "A37-a-prompt-filter": (wire.azure_prompt_filter(), 4, "target_blocked", 1),
    "A54-nothing": (answer(None), 4, "target_empty", 2),
    "A55-a-refusal-field": (answer(None, refusal="I can't."), 0, "unsafe", 1),
    "A03-quota": (wire.openai(429, "insufficient_quota", "No quota."), 3, "not_attempted", 1),
    "A35-no-model": (wire.openai(404, "model_not_found", "No such model."), 2, "not_attempted", 1),
    "C32-a-redirect": (Reply(307, "", (("location", "http://127.0.0.1:9/v1"),)), 2, "not_attempted", 1),
}


@pytest.mark.parametrize(("action", "code", "outcome", "requests"), ROWS.values(), ids=ROWS.keys())
def test_the_command_ends_as_the_python_api_does(
    action: Action, code: int, outcome: str, requests: int, tmp_path: Path
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
    assert code in (0, 2) or done.resume_command[:2] == ["vlsb", "run"]
