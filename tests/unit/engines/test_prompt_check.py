"""The prompt check: what is asked of an engine and its Python, and what a difference reads like.

Stand-ins answer here; `tests/proofs/engines` compares real engines with the authors' loaders.
"""

from __future__ import annotations

import asyncio
import io
import json
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import PROJECT
from vlsb.config import OFFICIAL_TARGET_TOKENS
from vlsb.endpoints.credentials import Secret
from vlsb.engines.expected_ids import LLAVA_V1
from vlsb.engines.install import Engine
from vlsb.engines.launch import PROBE_SIZE, RunningServer, probe_image
from vlsb.engines.plan import ServerPlan
from vlsb.engines.prompt_check import (
    PROBE_TEXT,
    check_parity,
    difference,
    engine_ids,
    expected_ids,
    probe_request,
)
from vlsb.errors import ServerError
from vlsb.models.profile import FAMILIES

KEY = "a-key-of-a-server-that-runs-here"
PROCESS: Any = None
"""Nothing here stops a server, so none has a process."""


class StandInEngine:
    """Answers `/tokenize` with what it is given, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.answer = b'{"count": 3, "tokens": [1, 2, 3]}'
        self.asked: list[tuple[str, str | None, Mapping[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked.append((self.path, self.headers["authorization"], json.loads(body)))
                self.send_response(outer.status)
                self.send_header("content-length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, *_: object) -> None:
                """Nothing on the screen."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]


@pytest.fixture
def engine() -> Iterator[StandInEngine]:
    stand_in = StandInEngine()
    thread = threading.Thread(target=stand_in.server.serve_forever, args=(0.01,))
    thread.start()
    yield stand_in
    stand_in.server.shutdown()
    thread.join()
    stand_in.server.server_close()


def running(port: int) -> RunningServer:
    return RunningServer(
        name="llava_hf",
        base_url=f"http://127.0.0.1:{port}/v1",
        key=Secret(KEY),
        served_name="llava_hf",
        pid=1,
        log=Path("log"),
        process=PROCESS,
    )


def make_plan(python: Path | None = None, *, family: str = "llava_hf", **changes: Any) -> ServerPlan:
    model = replace(FAMILIES[family], own_config=Path("llava_hf.yaml"), weights="org/weights")
    fields: dict[str, Any] = {
        "model": model,
        "engine": Engine(Path("/env/bin/vllm"), "0.32.0", python, is_cpu=True, prefix=None),
        "weights": "org/weights",
        "arguments": ("serve", "org/weights", "--revision", "c" * 40, "--seed=0"),
        "environment": {"HF_HUB_OFFLINE": "1"},
        "facts": {},
        "deviations": ("target dtype: float32 (official: float16)",),
    }
    return ServerPlan(**fields | changes)


# The probe.


def test_the_probe_is_an_image_of_two_colours_wider_than_high() -> None:
    image = Image.open(io.BytesIO(probe_image()))
    image.load()

    assert image.size == PROBE_SIZE
    assert image.size[0] > image.size[1]
    assert len(image.getcolors() or []) == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_the_probe_is_asked_as_a_run_asks(name: str) -> None:
    family = FAMILIES[name]

    body = json.loads(b"".join(probe_request("its-name", family)))

    (message,) = body["messages"]
    kinds = [part["type"] for part in message["content"]]
    assert kinds == (["image_url", "text"] if family.protocol.image_first else ["text", "image_url"])
    assert body["model"] == "its-name"
    assert (body["max_tokens"], body["temperature"]) == (OFFICIAL_TARGET_TOKENS, 0.0)
    assert body.get("add_special_tokens", False) is bool(family.protocol.fields)


def test_only_llava_is_asked_with_a_literal_prompt_and_only_mllamas_template_brings_the_bos() -> None:
    assert [each.name for each in FAMILIES.values() if each.prompt_source == "original"] == ["llava"]
    assert [each.name for each in FAMILIES.values() if each.template_has_bos] == ["mllama"]


def test_the_original_prompt_is_that_of_the_chat_template() -> None:
    template = (PROJECT / "servers" / "llava_v1.jinja").read_text()
    system, _, rest = LLAVA_V1.partition("USER: ")

    assert system in template
    assert rest == "<image>\n{text} ASSISTANT:"


# The engine's side.


def test_an_engine_that_reads_the_expected_ids_passes(engine: StandInEngine) -> None:
    asyncio.run(check_parity(running(engine.port), make_plan(), [1, 2, 3]))

    path, authorization, body = engine.asked[0]
    assert path == "/tokenize"
    assert authorization == f"Bearer {KEY}"
    assert body == json.loads(b"".join(probe_request("llava_hf", FAMILIES["llava_hf"])))


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ([7, 1, 2, 3], "3 ids where 4 are expected, the same up to position 0, then 1 2 3 where 7 1 2 3"),
        ([1, 2, 3, 4], "the same up to position 3, then nothing where 4 are expected"),
        ([1, 2], "3 ids where 2 are expected, the same up to position 2, then 3 where nothing"),
        ([1, 9, 3], "the same up to position 1, then 2 3 where 9 3"),
    ],
)
def test_an_engine_that_reads_another_prompt_is_stopped_with_where_they_part(
    expected: list[int], said: str, engine: StandInEngine
) -> None:
    with pytest.raises(ServerError) as stopped:
        asyncio.run(check_parity(running(engine.port), make_plan(), expected))

    assert said in stopped.value.message
    assert PROBE_TEXT not in stopped.value.message


def test_a_long_difference_is_shown_by_its_start() -> None:
    assert "0 1 2 3 4 ... where 1 2 3 4 5 ..." in difference(range(100), range(1, 100))


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (404, b'{"detail":"Not Found"}'),
        (500, b"Internal Server Error"),
        (200, b"{}"),
        (200, b"[]"),
        (200, b'{"tokens": ["a"]}'),
        (200, b'{"tokens": null}'),
        (200, b"no JSON"),
    ],
)
def test_an_engine_that_does_not_say_its_prompt_is_stopped(
    status: int, answer: bytes, engine: StandInEngine
) -> None:
    engine.status, engine.answer = status, answer

    with pytest.raises(ServerError, match="did not say its prompt"):
        asyncio.run(engine_ids(running(engine.port), FAMILIES["llava_hf"]))


def test_an_engine_that_has_gone_is_said(engine: StandInEngine) -> None:
    engine.server.shutdown()
    engine.server.server_close()

    with pytest.raises(ServerError, match="did not say its prompt"):
        asyncio.run(engine_ids(running(engine.port), FAMILIES["llava_hf"]))


def test_nothing_expected_compares_nothing(engine: StandInEngine) -> None:
    asyncio.run(check_parity(running(engine.port), make_plan(), None))

    assert engine.asked == []


# The loader's side.


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a stand-in for an engine's Python; it keeps its job and its environment, then does as told."""

    def make(then: str) -> Path:
        path = tmp_path / "python"
        path.write_text(
            f"#!{sys.executable}\nimport json, os, sys\nfrom pathlib import Path\n"
            f"job = json.loads(sys.stdin.read())\n"
            f"seen = {{'job': job, 'offline': os.environ.get('HF_HUB_OFFLINE')}}\n"
            f"Path({str(tmp_path / 'seen')!r}).write_text(json.dumps(seen))\n{then}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


def test_the_loader_is_told_the_weights_their_commit_and_the_probe(
    python: Callable[[str], Path], tmp_path: Path
) -> None:
    plan = make_plan(python("print('a warning'); print(json.dumps({'ids': [1, 2]}))"))

    ids = asyncio.run(expected_ids(plan, environment={}))

    seen = json.loads((tmp_path / "seen").read_text())
    assert ids == (1, 2)
    assert seen["offline"] == "1"
    assert seen["job"] | {"image": ""} == {
        "source": "processor",
        "image_first": False,
        "template_has_bos": False,
        "weights": "org/weights",
        "revision": "c" * 40,
        "text": PROBE_TEXT,
        "image": "",
    }


@pytest.mark.parametrize("then", ["sys.exit(1)", "print('{}')", "print(json.dumps({'ids': 'x'}))", "1 / 0"])
def test_a_loader_that_gives_no_ids_is_an_error(then: str, python: Callable[[str], Path]) -> None:
    with pytest.raises(ServerError, match="no prompt to compare with"):
        asyncio.run(expected_ids(make_plan(python(then)), environment={}))


def test_an_engine_without_a_known_python_cannot_be_compared() -> None:
    with pytest.raises(ServerError, match="--engine DIR"):
        asyncio.run(expected_ids(make_plan(None), environment={}))


@pytest.mark.parametrize(
    "deviation",
    [
        "target chat template: another than the family's",
        'target engine option --mm-processor-kwargs: {"max_pixels":12544} (added)',
    ],
)
def test_a_prompt_that_the_user_changed_is_not_compared(deviation: str) -> None:
    plan = replace(make_plan(None), deviations=(deviation,))

    assert asyncio.run(expected_ids(plan, environment={})) is None
