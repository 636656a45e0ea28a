"""The check of a prompt that has no authors' loader beside it, asked of a stand-in engine over a socket."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import fake_engine
from tests.support.waiting import wait_until
from vlsb.endpoints.credentials import Secret
from vlsb.engines.launch import RunningServer
from vlsb.engines.prompt_check import OwnPrompt, check_own_prompt
from vlsb.errors import ServerError
from vlsb.models.profile import NEWER

KEY = "a-key-of-an-engine-that-runs-here"
PROCESS: Any = None
Check = Callable[..., OwnPrompt]


@pytest.fixture
def check(tmp_path: Path) -> Iterator[Check]:
    """Asks a stand-in engine that behaves as the keywords say; `parser` starts it with a reasoning parser."""
    started: list[subprocess.Popen[bytes]] = []

    def ask(*, parser: bool = False, **wishes: str) -> OwnPrompt:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["serve", "weights", "--port", str(port), "--served-model-name", "qwen3_vl"]
        words += ["--reasoning-parser", "qwen3"] if parser else []
        environment = {f"FAKE_ENGINE_{name}": value for name, value in wishes.items()}
        with (tmp_path / "log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-I", "-S", fake_engine.__file__, *words],
                    env={**os.environ, "VLLM_API_KEY": KEY, **environment},
                    stdout=log,
                    stderr=log,
                )
            )
        wait_until(lambda: _is_up(port), what="the stand-in engine")
        server = RunningServer(
            name="qwen3_vl",
            base_url=f"http://127.0.0.1:{port}/v1",
            key=Secret(KEY),
            served_name="qwen3_vl",
            pid=started[-1].pid,
            log=tmp_path / "log",
            process=PROCESS,
        )
        return asyncio.run(check_own_prompt(server, NEWER["qwen3_vl"], has_parser=parser))

    yield ask
    for each in started:
        each.kill()
        each.wait()


def _is_up(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    return False


def test_a_prompt_that_holds_all_passes_and_does_not_think(check: Check) -> None:
    assert check() == OwnPrompt(thinks=False)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"TEMPLATE": "{} {}"}, "writes the instruction 2 times"),
        ({"TEMPLATE": "Describe it."}, "writes the instruction not as it was sent"),
        ({"BOS": "0"}, "begins without the BOS where its tokenizer asks for one"),
        ({"BOS": "2"}, "begins with 2 BOS where its tokenizer asks for one"),
        ({"BLIND": "tokens"}, "has no tokens for the image"),
        ({"BLIND": "yes"}, "two images of different colours get the same answer"),
    ],
)
def test_a_prompt_that_is_not_right_evaluates_nothing(
    wishes: dict[str, str], said: str, check: Check
) -> None:
    with pytest.raises(ServerError, match="Nothing was evaluated") as stopped:
        check(**wishes)

    assert said in stopped.value.message


@pytest.mark.parametrize("opening", ["<think>\n", "◁think▷", "[THINK]"])
def test_a_template_that_opens_a_thought_is_seen(opening: str, check: Check) -> None:
    assert check(THINK=opening) == OwnPrompt(thinks=True, opened_by=opening.strip())


def test_a_model_that_opens_a_thought_itself_is_seen(check: Check) -> None:
    assert check(ANSWER="<think> Let me see.") == OwnPrompt(thinks=True)


def test_a_parser_that_takes_the_whole_answer_of_a_template_without_thoughts_is_found(check: Check) -> None:
    """With `--reasoning-parser` an Instruct checkpoint's answer arrives as reasoning, and content is null."""
    assert check(parser=True) == OwnPrompt(thinks=False, parser_takes_answer=True)


def test_a_thought_that_is_never_closed_is_the_models_own_and_keeps_its_parser(check: Check) -> None:
    assert check(parser=True, THINK="<think>\n") == OwnPrompt(thinks=True, opened_by="<think>")


def test_the_engine_has_to_answer(check: Check) -> None:
    with pytest.raises(ServerError, match="no answer about its prompt"):
        check(BUSY="1")
