"""A signal at a moment of its own choosing: before anything was sent, and while the table is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.proofs.test_signals import SIGNALS, arguments, arguments_again, assert_interrupted
from tests.support.command import REQUESTS, Vlsb, at_audit_event
from tests.support.endpoint import persona
from vlsb.simulator import Request, SimulatorThread


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("event", "path"),
    [
        ("open", "data.json"),
        ("open", ".png"),
        ("os.rename", "m/run.json"),
        ("open", "m/responses.jsonl"),
    ],
)
def test_a_signal_before_anything_was_sent_ends_like_any_other(
    tmp_path: Path, number: int, event: str, path: str
) -> None:
    interrupt = at_audit_event(event, path, f"os.kill(os.getpid(), {int(number)})")
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona) as simulator:
        ended = vlsb(*arguments(simulator, tmp_path), prelude=interrupt)
        sent = simulator.requests
        resumed = vlsb(*arguments_again(simulator))

    assert ended.code == 130, ended
    assert sent == 0
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert resumed.code == 0, resumed.err
    # Nothing is stored: the command that was typed is the one to type again.
    assert ended.last == "Error: Interrupted. Nothing was stored yet."


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_table_is_made_loses_nothing(
    tmp_path: Path, straight: dict[str, Any], number: int
) -> None:
    """Everything is stored by then: the run ends as interrupted or as complete, but not in pieces."""
    all_answered = tmp_path / "all-answered"

    def on_answered(request: Request) -> None:
        if request.number == REQUESTS:
            all_answered.touch()

    interrupt = at_audit_event(
        "open", "m/run.json", f"os.kill(os.getpid(), {int(number)})", armed_by=all_answered
    )
    vlsb = Vlsb(tmp_path)
    with SimulatorThread(persona, on_answered=on_answered) as simulator:
        ended = vlsb(*arguments(simulator, tmp_path), prelude=interrupt)

    assert "Traceback" not in ended.err
    if ended.code != 0:
        assert_interrupted(ended)
    assert vlsb.summary("my outputs") == straight
