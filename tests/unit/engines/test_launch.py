"""A launch ends in a server that has answered, or in an error that says why, and then nothing is left."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import PROJECT
from tests.support.fake_engine import CAUSES, DOWNLOADED_BYTES, events, install, living
from tests.support.waiting import DEADLINE_S, wait_until
from vlsb.cli.screen import error_line
from vlsb.endpoints.credentials import WITHHELD, Secret
from vlsb.engines import launch as launching
from vlsb.engines.diagnosis import download_folder, step_of
from vlsb.engines.install import Engine
from vlsb.engines.launch import RunningServer, launch
from vlsb.engines.plan import ServerPlan
from vlsb.errors import ServerError, ServerExitedError, ServerTimeoutError
from vlsb.models.profile import FAMILIES
from vlsb.reports.encode import for_terminal
from vlsb.steps import OnProgress, Step

WEIGHTS = "some-org/some-weights"


class Bench:
    """A plan for a stand-in engine, its folders, and what the launch said on the way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.log = folder / "state" / "servers" / "llava_hf.log"
        self.record = folder / "record"
        self.heard: list[Step] = []
        self.environment = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "HF_HUB_CACHE": str(folder / "hub"),
            "OTHER_API_KEY": "another-key-of-this-user",
            "VLLM_API_KEY": "a-key-of-some-other-server",
        }
        self.weights = WEIGHTS
        self.additions: dict[str, str] = {}
        self._executable = install(folder)

    def plan(self, *options: str, **wishes: str) -> ServerPlan:
        """A plan whose engine behaves as `wishes` say."""
        model = replace(FAMILIES["llava_hf"], own_config=self.folder / "llava_hf.yaml", weights=WEIGHTS)
        wishes = {"MARK": self.mark, "RECORD": str(self.record), **wishes}
        return ServerPlan(
            model=model,
            engine=Engine(self._executable, "0.32.0", python=None, is_cpu=True, prefix=None),
            weights=self.weights,
            arguments=("serve", self.weights, *options),
            environment=self.additions | {f"FAKE_ENGINE_{name}": value for name, value in wishes.items()},
            facts={},
            deviations=(),
        )

    async def launch(
        self,
        *options: str,
        port: int | None = None,
        timeout_s: float = DEADLINE_S,
        on_progress: OnProgress | None = None,
        **wishes: str,
    ) -> RunningServer:
        """Launch it."""
        return await launch(
            self.plan(*options, **wishes),
            port=port,
            log=self.log,
            environment=self.environment,
            on_progress=on_progress or self.heard.append,
            start_timeout_s=timeout_s,
        )

    def fails(self, *options: str, **wishes: Any) -> ServerError:
        """Launch it and return the error; nothing may be left of it."""
        with pytest.raises(ServerError) as caught:
            asyncio.run(self.launch(*options, **wishes))
        assert living(self.mark) == []
        return caught.value

    def is_late(self, when: Callable[[Step], bool], **wishes: str) -> ServerTimeoutError:
        """Launch it, let the loop's clock jump when that is heard, and return the error; nothing is left."""

        async def run() -> None:
            loop = asyncio.get_running_loop()
            usual = loop.time

            def hear(progress: Step) -> None:
                self.heard.append(progress)
                if when(progress) and loop.time == usual:
                    loop.time = lambda: usual() + 2 * DEADLINE_S  # type: ignore[method-assign]

            await self.launch(on_progress=hear, **wishes)

        with pytest.raises(ServerTimeoutError) as caught:
            asyncio.run(run())
        assert living(self.mark) == []
        return caught.value

    def with_server(self, act: Callable[[RunningServer], object], *options: str, **wishes: Any) -> None:
        """Launch it, do something with the server in a thread, and stop it."""

        async def run() -> None:
            server = await self.launch(*options, **wishes)
            try:
                await asyncio.to_thread(act, server)
            finally:
                await server.process.stop(DEADLINE_S)

        asyncio.run(run())
        assert living(self.mark) == []

    @property
    def stages(self) -> list[str]:
        """The stages that were heard, each run of equal ones once."""
        named = [each.stage for each in self.heard]
        return [stage for number, stage in enumerate(named) if not number or named[number - 1] != stage]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Whatever a test leaves behind is killed."""
    bench = Bench(tmp_path)
    yield bench
    for pid in living(bench.mark):
        os.kill(pid, signal.SIGKILL)


def ask(server: RunningServer, key: str) -> int:
    """The status of the model list for somebody with that key."""
    host = server.base_url.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(host, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
        return connection.getresponse().status
    finally:
        connection.close()


def taken_port() -> socket.socket:
    """A socket that listens and never answers."""
    taken = socket.create_server(("127.0.0.1", 0))
    taken.listen()
    return taken


# A server that comes up.


def test_variables_that_open_an_engine_do_not_reach_it(bench: Bench) -> None:
    bench.environment |= dict.fromkeys(WITHHELD, "1") | {"VLLM_LOGGING_LEVEL": "DEBUG"}

    bench.with_server(lambda server: None)

    (start,) = events(bench.record, "start")
    assert "VLLM_SERVER_DEV_MODE" in WITHHELD
    assert {"VLLM_LOGGING_LEVEL", "VLLM_API_KEY"} <= set(start["environment"])
    assert not WITHHELD & set(start["environment"])


SECRETS = (
    "ANTHROPIC_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_OPENAI_API_KEY_2",
    "DB_PASSWD1",
    "GITHUB_TOKEN_READONLY",
    "GITLAB_PAT",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "KEY_OF_THE_JUDGE",
    "MY_SECRET_3",
    "OPENAI_KEY1",
    "PGPASSWORD",
    "SSH_PASSPHRASE",
    "WANDB_PAT_2",
    "openai_api_key",
)
NO_SECRETS = (
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "PWD",
    "TOKENIZERS_PARALLELISM",
    "VLLM_MAX_TOKENS_PER_EXPERT_FUSED_MOE",
)


@pytest.mark.parametrize("weights", ["/weights on the disk", "org/name"])
def test_a_secret_by_any_usual_name_does_not_reach_an_engine(bench: Bench, weights: str) -> None:
    bench.environment |= dict.fromkeys((*SECRETS, *NO_SECRETS), "1")

    bench.weights = weights
    bench.with_server(lambda server: None)

    (start,) = events(bench.record, "start")
    assert not set(SECRETS) & set(start["environment"])
    assert set(NO_SECRETS) <= set(start["environment"])


@pytest.mark.parametrize(
    ("weights", "wishes", "has_token"),
    [
        ("org/name", {}, True),
        ("/weights on the disk", {}, False),
        ("org/name", {"HF_HUB_OFFLINE": "1"}, False),
    ],
)
def test_the_hubs_token_reaches_only_an_engine_that_downloads_its_weights(
    bench: Bench, weights: str, wishes: dict[str, str], has_token: bool
) -> None:
    bench.environment |= {"HF_TOKEN": "hf_of-this-user", "HUGGING_FACE_HUB_TOKEN": "hf_of-this-user"}

    bench.weights, bench.additions = weights, wishes
    bench.with_server(lambda server: None)

    (start,) = events(bench.record, "start")
    assert ({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} <= set(start["environment"])) is has_token


def test_a_server_is_returned_when_it_has_described_an_image_in_one_token(bench: Bench) -> None:
    bench.with_server(lambda server: None)

    (chat,) = events(bench.record, "chat")
    kinds = [part["type"] for message in chat["body"]["messages"] for part in message["content"]]
    assert kinds == ["image_url", "text"]
    assert chat["body"]["max_tokens"] == 1


def test_it_serves_the_models_name_and_one_that_nobody_knows_on_loopback_alone(bench: Bench) -> None:
    servers: list[RunningServer] = []
    bench.with_server(servers.append, "--max-model-len", "4096")

    (start,) = events(bench.record, "start")
    server = servers[0]
    words = start["argv"][1:]
    port = server.base_url.removeprefix("http://127.0.0.1:").removesuffix("/v1")
    assert words[:4] == ["serve", WEIGHTS, "--max-model-len", "4096"]
    assert words[4:10] == ["--host", "127.0.0.1", "--port", port, "--served-model-name", "llava_hf"]
    assert words[10].startswith("vlsb-")
    assert len(words) == 11
    assert (server.name, server.served_name, server.pid) == ("llava_hf", "llava_hf", start["pid"])


def test_the_key_is_new_each_time_and_opens_the_server_alone(bench: Bench) -> None:
    keys: list[str] = []

    def look(server: RunningServer) -> None:
        keys.append(server.key.reveal())
        assert ask(server, server.key.reveal()) == 200
        assert ask(server, "a-key-of-some-other-server") == 401

    for _ in range(2):
        bench.with_server(look)

    assert len(set(keys)) == 2


def test_the_key_is_in_no_argument_no_log_and_no_representation(bench: Bench) -> None:
    servers: list[RunningServer] = []
    bench.with_server(servers.append)

    key = servers[0].key.reveal()
    written = [
        path for path in bench.folder.rglob("*") if path.is_file() and key in path.read_text("latin-1")
    ]
    assert written == []
    assert key not in repr(servers[0])


def test_the_stages_of_a_start_are_heard_in_their_order_with_the_lines_of_the_log(bench: Bench) -> None:
    bench.with_server(lambda server: None, START_S="0.3")

    assert bench.stages == ["loading", "compiling", "warming up", "checking"]
    lines = [for_terminal(each.line) for each in bench.heard if each.line is not None]
    assert any("Loading safetensors checkpoint shards" in line for line in lines)
    assert "1 of 2 files" in [each.detail for each in bench.heard]


def test_a_download_is_heard_with_its_bytes(bench: Bench) -> None:
    go = bench.folder / "go"

    async def run() -> None:
        def let_it_go_once_heard(progress: Step) -> None:
            bench.heard.append(progress)
            if progress.done_bytes == DOWNLOADED_BYTES:
                go.touch()

        server = await bench.launch(on_progress=let_it_go_once_heard, HOLD=str(go), HOLD_AT="downloading")
        await server.process.stop(DEADLINE_S)

    asyncio.run(run())

    assert ("downloading", DOWNLOADED_BYTES) in [(each.stage, each.done_bytes) for each in bench.heard]


def test_what_a_broken_download_left_is_not_taken_for_one(bench: Bench) -> None:
    blobs = bench.folder / "hub" / "models--some-org--some-weights" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "old.incomplete").write_bytes(bytes(2 * DOWNLOADED_BYTES))
    (blobs / f"{'ab' * 32}").write_bytes(bytes(DOWNLOADED_BYTES))

    bench.with_server(lambda server: None, NO_DOWNLOAD="1")

    assert "downloading" not in bench.stages


def test_a_given_port_is_used(bench: Bench) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    bench.with_server(lambda server: None, port=port)

    assert str(port) in events(bench.record, "start")[0]["argv"]


def test_a_first_request_that_fails_is_asked_again(bench: Bench) -> None:
    bench.with_server(lambda server: None, BUSY="1")

    assert len(events(bench.record, "chat")) == 2


# What lines of real logs say.


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (
            "(EngineCore pid=7863) INFO 11-24 18:00:02 [core.py:133] Initializing a V1 LLM engine (v0.32.0) "
            "with config: model='/w', compilation_config={'ir_enable_torch_wrap': False}",
            ("loading", "the engine"),
        ),
        (
            "(Worker pid=7910) INFO 11-24 18:00:09 [cpu_model_runner.py:68] Starting to load model /w...",
            ("loading", "the weights"),
        ),
        (
            "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:04,  1.5s/it]",
            ("loading", "1 of 4 files"),
        ),
        (
            "(Worker pid=20858) INFO 11-24 18:10:15 [cpu_model_runner.py:87] Warming up model for the "
            "compilation...",
            ("compiling", ""),
        ),
        (
            "(Worker pid=9) INFO 11-24 18:10:15 [backends.py:1167] Dynamo bytecode transform time: 4.20 s",
            ("compiling", ""),
        ),
        (
            "(EngineCore pid=7863) INFO 11-24 18:00:10 [kv_cache_utils.py:2327] CPU KV cache size: 1,048,576 "
            "tokens, Maximum concurrency for 1,024 tokens per request: 1024.00x",
            ("warming up", ""),
        ),
        (
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  51%|█████     | 26/51 [00:02<00:02]",
            ("warming up", "CUDA graphs, 51 %"),
        ),
        (
            "(APIServer pid=7479) INFO 11-24 18:00:14 [entry.py:140] Starting vLLM server on http://127.0.0.1:8917",
            ("warming up", "the server"),
        ),
        (
            "(APIServer pid=7479) WARNING 11-24 17:59:56 [vllm.py:1703] Enforce eager set, disabling "
            "torch.compile, CUDAGraphs, and JIT kernel warmup.",
            None,
        ),
        ("(APIServer pid=7479) INFO 11-24 17:59:56 [model.py:2152] Using max model len 1024", None),
    ],
)
def test_a_line_of_the_log_says_what_the_engine_does(line: str, step: tuple[str, str] | None) -> None:
    assert step_of(line) == (None if step is None else Step(*step))


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/cache"}, "/cache"),
        ({"HF_HUB_CACHE": "", "HF_HOME": "/hf"}, "/hf/hub"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"),
    ],
)
def test_downloads_are_looked_for_where_the_hubs_client_puts_them(
    environment: dict[str, str], folder: str
) -> None:
    assert download_folder("a/b", environment) == Path(folder) / "models--a--b" / "blobs"
    assert download_folder("/weights/b", environment) is None


# A server that does not.


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        ("unknown_flag", "--disable-log-requests"),
        ("out_of_gpu_memory", "--tensor-parallel-size 2"),
        ("gpu_busy", "--gpu-memory-utilization 0.23"),
        ("no_cache_memory", "--gpu-memory-utilization 0.95"),
        ("context_too_long", "--max-model-len 7632"),
        ("gated_weights", "https://huggingface.co/meta-llama/Llama-3.2-11B-Vision-Instruct"),
        ("missing_weights", "hf download"),
        ("disk_full", "the disk is full"),
        ("wrong_architecture", "vlsb convert llava"),
        ("driver_mismatch", "NVIDIA driver"),
        ("out_of_memory", "out of memory"),
        ("", "it was killed (SIGKILL)"),
    ],
)
def test_an_early_end_is_an_error_with_its_cause_and_the_log(bench: Bench, cause: str, said: str) -> None:
    error = bench.fails(DIE_AT="loading", CAUSE=cause)

    assert isinstance(error, ServerExitedError)
    assert said in error.message
    assert str(bench.log) in error.message
    assert error.exit_code == 7


@pytest.mark.parametrize(
    "stage", ["start", "downloading", "loading", "compiling", "warming_up", "listening", "chat"]
)
def test_an_end_at_any_stage_is_reported_and_leaves_nothing(bench: Bench, stage: str) -> None:
    error = bench.fails(DIE_AT=stage, CAUSE="disk_full", CHILDREN="stubborn")

    assert "the disk is full" in error.message


def test_an_end_that_nobody_knows_shows_the_end_of_the_log_and_the_command_to_try(bench: Bench) -> None:
    error = bench.fails("--dtype", "a b", DIE_AT="loading", CAUSE="unknown", ANSWER="x y")

    line = error_line(error)
    assert "exit code 3" in line
    assert "ZeroDivisionError: nobody knows this one red" in line
    assert f"{bench.folder}/bin/vllm serve {WEIGHTS} --dtype 'a b' --host 127.0.0.1 --port " in line
    assert "'FAKE_ENGINE_ANSWER=x y'" in line
    assert "VLLM_API_KEY" not in line
    assert "vlsb-" not in line
    assert line.isprintable()


def test_an_earlier_starts_last_words_are_not_taken_for_this_ones(bench: Bench) -> None:
    bench.fails(DIE_AT="loading", CAUSE="disk_full")

    error = bench.fails(DIE_AT="loading", CAUSE="unknown")

    assert "disk" not in error_line(error)
    assert "No space left" in bench.log.read_text()


def test_keys_of_the_environment_are_taken_out_of_what_is_shown_of_a_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CAUSES, "unknown", ("", 0))
    secret = bench.environment["OTHER_API_KEY"]
    # The engine logs its argument.
    error = bench.fails("--chat-template", f"it-says-{secret}", DIE_AT="listening", CAUSE="unknown")

    assert secret in bench.log.read_text()
    shown = [for_terminal(each.line) for each in bench.heard if each.line is not None]
    assert any("non-default args" in line for line in shown)
    assert not any(secret in line for line in shown)
    assert error.detail is not None
    assert secret not in for_terminal(error.detail)


def test_an_end_is_reported_long_before_the_time_is_over(bench: Bench) -> None:
    error = bench.fails(DIE_AT="start", CAUSE="unknown_flag", timeout_s=10 * DEADLINE_S)

    assert isinstance(error, ServerExitedError)


def test_an_engine_that_takes_too_long_is_ended_and_said_to_be_where_it_was(bench: Bench) -> None:
    never = str(bench.folder / "never")
    error = bench.is_late(
        lambda heard: heard.detail == "CUDA graphs, 50 %", HOLD=never, HOLD_AT="warming_up", CHILDREN="plain"
    )

    said = f"llava_hf: not ready after {DEADLINE_S:g} s; it was warming up (CUDA graphs, 50 %)."
    assert error.message.startswith(said)
    assert str(bench.log) in error.message


def test_an_engine_that_never_answers_its_first_request_is_ended(bench: Bench) -> None:
    error = bench.is_late(lambda heard: bool(events(bench.record, "chat")), HANG="Describe the image")

    assert "it was checking (one token for an image)" in error.message


def test_while_a_download_grows_the_time_does_not_run(bench: Bench) -> None:
    """The clock jumps before the download is seen; the start goes on, and ends as it should."""
    go = bench.folder / "go"

    async def run() -> RunningServer:
        loop = asyncio.get_running_loop()
        usual = loop.time

        def hear(progress: Step) -> None:
            if progress.stage == "downloading":
                loop.time = lambda: usual() + DEADLINE_S  # type: ignore[method-assign]
                go.touch()

        server = await bench.launch(
            on_progress=hear, timeout_s=DEADLINE_S, HOLD=str(go), HOLD_AT="downloading"
        )
        await server.process.stop(DEADLINE_S)
        return server

    assert asyncio.run(run()).name == "llava_hf"


@pytest.mark.parametrize(("way", "words"), [("ABORT", '"abort"'), ("500", "status 500, ")])
def test_an_engine_that_refuses_the_image_is_an_error_with_its_words(
    bench: Bench, way: str, words: str
) -> None:
    error = bench.fails(**{way: "Describe the image"})

    assert error.message == "llava_hf: the engine is up but does not describe an image"
    assert words in error_line(error)


def test_an_engine_that_dies_of_its_first_request_has_exited(bench: Bench) -> None:
    error = bench.fails(DEAD_CORE="Describe the image", CHILDREN="plain")

    assert isinstance(error, ServerExitedError)
    assert "exit code 1" in error.message


def test_a_launch_that_is_cancelled_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    async def cancel_once_it_runs() -> None:
        task = asyncio.create_task(
            bench.launch(HOLD=str(tmp_path / "never"), CHILDREN="stubborn", TERM="ignore")
        )
        await asyncio.to_thread(wait_until, lambda: events(bench.record, "start"), what="the engine")
        # Again and again, as an impatient user does: the first asks the engine, the next kills it.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.05)

    asyncio.run(cancel_once_it_runs())

    assert living(bench.mark) == []


# Ports.


def test_a_given_port_that_is_taken_is_an_error_before_anything_starts(bench: Bench) -> None:
    with taken_port() as taken:
        port = taken.getsockname()[1]
        error = bench.fails(port=port)

    assert error.message == (
        f"llava_hf: port {port} is taken by another process. Pass another --port, or none."
    )
    assert events(bench.record) == []


def test_a_restart_whose_port_was_taken_meanwhile_says_so(bench: Bench) -> None:
    """It has to be that one: the clients of a run know no other."""
    with taken_port() as taken:
        port = taken.getsockname()[1]
        restart = launch(
            bench.plan(),
            port=port,
            key=Secret("the-last-ones-key"),
            log=bench.log,
            environment=bench.environment,
            on_progress=bench.heard.append,
            start_timeout_s=DEADLINE_S,
        )
        with pytest.raises(ServerError, match=f"port {port} is taken .* this server's until it died"):
            asyncio.run(restart)
    assert events(bench.record, "start") == []


def test_a_port_that_another_process_takes_first_is_given_up_for_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = launching._bound
    with taken_port() as taken:
        lost = taken.getsockname()[1]
        chosen = iter([lost, lost])
        monkeypatch.setattr(launching, "_bound", lambda port: next(chosen, None) or usual(port))
        bench.with_server(lambda server: None)

    ports = [each["argv"][each["argv"].index("--port") + 1] for each in events(bench.record, "start")]
    assert ports[:2] == [str(lost)] * 2
    assert len(ports) == 3
    assert ports[2] != str(lost)


def test_a_port_that_is_lost_again_and_again_is_an_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken_port() as taken:
        monkeypatch.setattr(launching, "_bound", lambda _: taken.getsockname()[1])
        error = bench.fails()

    assert "another process has its port" in error.message
    assert len(events(bench.record, "start")) == 3


def test_another_server_on_the_port_is_not_taken_for_ours(bench: Bench) -> None:
    """Engines share a port if the system lets them; only ours knows the second name."""
    bench.is_late(
        lambda heard: heard.line is not None and "/v1/models" in for_terminal(heard.line),
        MODELS="llava_hf,vlsb-0123",
    )

    assert events(bench.record, "chat") == []


# Deaths of the launcher.

LAUNCHER = """
import asyncio, os, sys
from pathlib import Path
from tests.unit.engines.test_launch import Bench
bench = Bench(Path(sys.argv[1]))
bench.mark = sys.argv[2]
async def run():
    await bench.launch(**dict(word.split("=", 1) for word in sys.argv[3:]))
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(run())
"""


def launcher(bench: Bench, *wishes: str) -> subprocess.Popen[str]:
    """A process that launches an engine as `vlsb` does, for killing."""
    command = [sys.executable, "-c", LAUNCHER, str(bench.folder), bench.mark, *wishes]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=os.environ)
