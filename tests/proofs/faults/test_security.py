"""Keys, networks and endpoints that mean harm: what leaves this machine, and what comes in."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

import vlsb
from tests.proofs.faults.runs import evaluate, scripted, served
from tests.support import wire
from tests.support.command import Vlsb, run_words
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import sample_of
from vlsb.errors import ConfigError
from vlsb.evaluation.options import RunOptions
from vlsb.records import Outcome
from vlsb.simulator import Action, Endless, Reply, Request, Simulator, SimulatorThread, answer

KEY = "sk-CANARY-0123456789abcdef"


@pytest.mark.parametrize("status", [301, 302, 307, 308], ids=lambda status: f"C32-{status}")
@pytest.mark.parametrize("header", ["authorization", "api-key", "x-api-key"])
def test_a_redirect_takes_nothing_to_the_other_server(
    status: int, header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)

    async def whole() -> tuple[Simulator, Simulator, ConfigError]:
        async with Simulator(served) as other:
            place = f"http://localhost:{other.port}/v1/chat/completions"
            moved = Reply(status, "moved", (("location", place),))
            async with Simulator(scripted([moved])) as simulator:
                with pytest.raises(ConfigError) as caught:
                    await vlsb.evaluate(
                        "m",
                        base_url=simulator.base_url,
                        judge="j",
                        judge_base_url=simulator.base_url,
                        data_root=write_dataset(tmp_path / "data", 2),
                        output_dir=tmp_path,
                        name="r",
                        header=(f"{header}=THE_KEY",),
                    )
                return simulator, other, caught.value

    simulator, other, ended = asyncio.run(whole())

    assert other.requests == 0
    assert [request.headers[header] for request in simulator.history] == [KEY]
    assert ended.exit_code == 2
    assert "redirect" in ended.message
    outcomes = {each.outcome for each in vlsb.load_run(tmp_path / "r").answers()}
    assert outcomes == {Outcome.NOT_ATTEMPTED}


def test_c33_plain_http_to_another_machine_is_refused_before_anything_is_sent(
    vlsb: Vlsb, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", 1)

    done = vlsb(
        *("run", "--model", "m", "--base-url", "http://models.invalid/v1", "--api-key-env", "THE_KEY"),
        *("--no-judge", "--data-root", data),
        env={"THE_KEY": KEY},
    )

    assert done.code == 2
    assert "--allow-http" in done.err
    assert KEY not in done.out + done.err
    assert not (tmp_path / "outputs").exists()


def test_c34_a_proxy_is_used_for_hosts_elsewhere_and_said_without_its_password(
    vlsb: Vlsb, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", 2)
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine models.invalid login someone password of-netrc\n")
    netrc.chmod(0o600)

    with SimulatorThread(served) as proxy:
        done = vlsb(
            *("run", "--model", "m", "--base-url", "http://models.invalid/v1", "--api-key-env", "THE_KEY"),
            *("--no-judge", "--allow-http", "--data-root", data, "--display", "plain"),
            env={"THE_KEY": KEY, "HTTP_PROXY": f"http://user:hidden-word@127.0.0.1:{proxy.port}"},
        )
        requests = proxy.completions

    assert done.code == 0, done.err
    assert len(requests) == 2
    assert {request.path for request in requests} == {"http://models.invalid/v1/chat/completions"}
    assert {request.bearer for request in requests} == {KEY}
    assert "through the proxy 127.0.0.1" in done.err
    assert "hidden-word" not in done.out + done.err


def test_c34_loopback_never_goes_through_a_proxy(vlsb: Vlsb, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 2)

    with SimulatorThread(served) as proxy, SimulatorThread(served) as simulator:
        address = f"http://127.0.0.1:{proxy.port}"
        done = vlsb(
            *("run", "--model", "m", "--base-url", simulator.base_url, "--no-judge", "--data-root", data),
            env={"HTTP_PROXY": address, "ALL_PROXY": address, "http_proxy": address},
        )

        assert (done.code, proxy.requests, len(simulator.completions)) == (0, 0, 2), done.err


def test_c35_no_option_turns_verification_off() -> None:
    names = {each.name for each in fields(RunOptions)}

    assert "ca_bundle" in names
    assert not [name for name in names if any(word in name for word in ("verify", "insecure", "tls", "ssl"))]


HUGE: dict[str, Action] = {
    "C36-endless-body": Endless(),
    "C36-endless-json-string": Endless(chunk=b"a" * 65536),
    "C36-compression-bomb": wire.bomb(),
    "C36-nine-megabytes": Reply(body=b" " * (9 * 1024 * 1024)),
    "C36-an-encoding-nobody-asked-for": Reply(body=b"\x0b\x02\x80{}", headers=(("content-encoding", "br"),)),
}


@pytest.mark.parametrize("action", HUGE.values(), ids=HUGE.keys())
def test_a_body_without_end_is_a_failure_and_never_an_answer(action: Action, tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([action], sample=1), max_attempts=2)

    assert ran.outcomes == {0: Outcome.UNSAFE, 1: Outcome.TARGET_ERROR}
    assert ran.target == Counter({0: 1, 1: 2})
    assert ran.exit_code == 4
    assert ran.failure(1)["code"] in ("body_too_large", "protocol")
    assert len((ran.directory / "failures.jsonl").read_bytes()) < 5000


def test_c36_a_message_without_end_is_stored_by_its_start(tmp_path: Path) -> None:
    endless = wire.openai(400, "c" * 100_000, "m" * 1_000_000)

    ran = evaluate(tmp_path, scripted([endless], sample=1))

    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (Outcome.TARGET_ERROR, 1, 4)
    assert len((ran.directory / "failures.jsonl").read_bytes()) < 5000


MANY = "\n".join(f"x-header-{number}: {'v' * 20}" for number in range(20_000))
GOOD = wire.wire_body(answer("A plain answer."))
HOSTILE: dict[str, Action] = {
    "C37-thousands-of-headers": wire.raw(f"HTTP/1.1 200 OK\n{MANY}\ncontent-length: {len(GOOD)}", GOOD),
    "C37-a-header-without-end": wire.raw(f"HTTP/1.1 200 OK\nx-long: {'v' * 2_000_000}\ncontent-length: 0"),
    "C37-control-characters": wire.raw("HTTP/1.1 429 Too Many\nretry-after: \x1b]52;c;AAAA\x07\x001"),
    "C37-no-http-at-all": wire.raw("SSH-2.0-OpenSSH_9.6"),
    "C37-a-status-of-seven-digits": wire.raw("HTTP/1.1 2000000 OK\ncontent-length: 0"),
    "C37-two-lengths": wire.raw(f"HTTP/1.1 200 OK\ncontent-length: 5\ncontent-length: {len(GOOD)}", GOOD),
    "C37-a-negative-length": wire.raw("HTTP/1.1 200 OK\ncontent-length: -1", GOOD),
}


@pytest.mark.parametrize("action", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_head_that_is_no_head_is_tried_again_and_never_trusted(action: Action, tmp_path: Path) -> None:
    ran = evaluate(tmp_path, scripted([action], sample=1))

    assert ran.outcomes == {0: Outcome.UNSAFE, 1: Outcome.TARGET_ERROR}
    assert ran.target == Counter({0: 1, 1: 3})
    assert ran.exit_code == 4
    assert all(byte not in (ran.directory / "failures.jsonl").read_bytes() for byte in b"\x00\x07\x1b")


def test_c37_a_wait_full_of_controls_reaches_no_event(tmp_path: Path) -> None:
    body = {"error": {"code": "\x1b[2Jevil\n{}", "message": "x"}}
    hostile = Reply(429, body, (("retry-after", "9" * 300),))

    ran = evaluate(tmp_path, scripted([hostile], sample=1, then_well=True))

    (event,) = ran.events("rate_limit")
    assert event["code"] == "2jevil"
    assert 0 < event["wait_s"] < 1
    assert (ran.outcomes[1], ran.target[1], ran.exit_code) == (Outcome.UNSAFE, 2, 0)


TYPED = {
    "model": ("run", "--model", "{}"),
    "model-joined": ("run", "--model={}"),
    "judge": ("run", "--model", "demo", "--judge", "{}"),
    "judge-of-a-kind": ("run", "--model", "demo", "--judge", "hardened:{}"),
    "limit": ("run", "--model", "demo", "--limit", "{}"),
    "number": ("run", "--model", "demo", "--max-cost", "{}"),
    "sample": ("run", "--model", "demo", "--sample-id", "{}"),
    "category": ("run", "--model", "demo", "--category", "{}"),
    "choice": ("run", "--model", "demo", "--thinking", "{}"),
    "path": ("run", "--model", "demo", "--data-root", "{}"),
    "path-within": ("run", "--model", "demo", "--prices", "there/{}/prices.json"),
    "word": ("run", "{}"),
    "option": ("run", "--{}"),
    "command": ("{}",),
    "run": ("report", "{}"),
    "run-to-judge": ("judge", "{}"),
    "runs-to-judge": ("judge", "{}", "there"),
    "run-to-show": ("show", "{}"),
    "baseline": ("gate", "there", "--baseline", "{}"),
    "plan": ("sweep", "{}"),
    "log": ("import", "{}", "--model", "m"),
    "local-model": ("serve", "{}"),
    "engine": ("engine", "stop", "{}"),
}
KEYS = {
    "shaped": "sk-proj-CANARY0123456789-abcdef",
    "a-run": "0123456789abcdefCANARY0123456789",
    "of-the-environment": "a plain canary of words",
    "of-dotenv": "another-canary-of-words",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("words", TYPED.values(), ids=[f"C46-{name}" for name in TYPED])
def test_a_key_that_is_typed_in_another_place_is_repeated_nowhere(
    words: tuple[str, ...], key: str, vlsb: Vlsb, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"THE_OTHER_KEY={KEYS['of-dotenv']}\n")

    ended = vlsb(*(word.format(key) for word in words), env={"THE_API_KEY": KEYS["of-the-environment"]})

    assert ended.code == 2
    assert key not in ended.out + ended.err
    assert ended.errors


@pytest.mark.parametrize("option", ["--model", "--name", "--judge"], ids=lambda option: f"C46{option}")
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_a_key_in_the_place_of_a_name_is_neither_sent_nor_stored(
    option: str, key: str, vlsb: Vlsb, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"THE_OTHER_KEY={KEYS['of-dotenv']}\n")
    data = write_dataset(tmp_path / "data", 1)

    with SimulatorThread(served) as simulator:
        ended = vlsb(
            *run_words(simulator, data, f"{option}={key}"), env={"THE_API_KEY": KEYS["of-the-environment"]}
        )
        sent = simulator.requests

    if key == KEYS["a-run"]:
        # It may be a name, too: it is used as one.
        assert ended.code == 0
        return
    assert (ended.code, sent) == (2, 0)
    assert key not in ended.out + ended.err
    assert f"{option}: what was given may be a key" in ended.error
    assert not (tmp_path / "outputs").exists()


def test_c46_a_name_that_only_begins_like_a_key_is_one(vlsb: Vlsb, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 1)

    with SimulatorThread(served) as simulator:
        ended = vlsb(
            *run_words(simulator, data, "--model", "hf-internal-testing-llava-v1.5", "--name", "sk-learn-2")
        )

    assert ended.code == 0, ended.err
    assert "The run is in outputs/sk-learn-2" in ended.err


def endpoint_that_writes_everywhere(request: Request) -> Action:
    """An endpoint whose finish reason, model and error code hold a text that nobody else may read."""
    number = sample_of(request)
    if number == 1 and not request.is_judge:
        return wire.openai(400, f"{WRITTEN}_code", f"{120 * 'a'} {WRITTEN}")
    reply = served(request)
    reply.body["choices"][0]["finish_reason"] = f"{WRITTEN}_reason"  # type: ignore[index, call-overload]
    reply.body["model"] = f"{WRITTEN}_model_{number}"  # type: ignore[index, call-overload]
    return reply


WRITTEN = "first_take_two_parts"
SHARED = {
    "C42-page": (("report", "outputs/r", "--html", "page.html"), ("--redact",)),
    "C42-pages": (("report", "outputs/r", "--html", "pages"), ("--redact",)),
    "C42-hub": (("export", "outputs/r", "--to", "hub", "--out", "hub"), ("--redact", "responses")),
    "C42-hub-tails": (("export", "outputs/r", "--to", "hub", "--out", "tails"), ("--redact", "tails")),
    "C42-inspect": (("export", "outputs/r", "--to", "inspect", "--out", "a.json"), ("--redact", "responses")),
    "C42-inspect-tails": (
        ("export", "outputs/r", "--to", "inspect", "--out", "b.json"),
        ("--redact", "tails"),
    ),
}


@pytest.fixture(scope="module")
def written_everywhere(tmp_path_factory: pytest.TempPathFactory) -> Vlsb:
    """A working directory with that endpoint's run."""
    vlsb = Vlsb(tmp_path_factory.mktemp("written"))
    data = write_dataset(vlsb.directory / "data", 4)
    with SimulatorThread(endpoint_that_writes_everywhere) as simulator:
        done = vlsb(*run_words(simulator, data, "--name", "r", "--fail-on-error", "1"))
    assert done.code == 0, done.err
    return vlsb


@pytest.mark.parametrize(("words", "redacts"), SHARED.values(), ids=SHARED.keys())
def test_what_an_endpoint_wrote_anywhere_is_in_nothing_that_is_given_away_redacted(
    words: tuple[str, ...], redacts: tuple[str, ...], written_everywhere: Vlsb
) -> None:
    vlsb, (*command, out) = written_everywhere, words
    whole = vlsb(*command, f"whole-{out}", *(() if command[0] == "report" else ("--redact", "none")))
    done = vlsb(*command, out, *redacts)

    assert (whole.code, done.code) == (0, 0), whole.err + done.err
    assert WRITTEN in words_of(vlsb.directory / f"whole-{out}")
    shown = words_of(vlsb.directory / out)
    assert WRITTEN not in shown
    assert "unsafe" in shown


def words_of(file: Path) -> str:
    """All that a file says, or those of a folder; a table is opened."""
    if file.is_dir():
        return "".join(words_of(each) for each in file.iterdir() if each.suffix != ".webp")
    if file.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        return str(parquet.read_table(file).to_pylist())
    return file.read_text("utf-8")


def test_c42_words_that_every_provider_uses_stay(vlsb: Vlsb, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    data = write_dataset(tmp_path / "data", 2)

    def respond(request: Request) -> Action:
        reply = served(request)
        reply.body["model"] = "j-2026-01-01" if request.is_judge else "m"  # type: ignore[index, call-overload]
        return reply

    with SimulatorThread(respond) as simulator:
        vlsb(*run_words(simulator, data, "--name", "r"))
    done = vlsb("export", "outputs/r", "--to", "hub", "--out", "hub")

    assert done.code == 0, done.err
    rows = parquet.read_table(tmp_path / "hub" / "data" / "responses.parquet").to_pylist()
    assert [row["finish_reason"] for row in rows] == ["stop", "stop"]


def test_c40_a_template_in_the_data_is_text(vlsb: Vlsb, tmp_path: Path) -> None:
    template = "{{7*7}} {0.__class__} ${HOME} %s !!python/object:os.system"
    data = write_dataset(tmp_path / "data", [sample_row(0), sample_row(1, instruction=template)])

    with SimulatorThread(served) as simulator:
        done = vlsb(
            *("run", "--model", "m", "--base-url", simulator.base_url, "--judge", "j"),
            *("--judge-base-url", simulator.base_url, "--data-root", data),
        )
        texts = [text for request in simulator.completions for text in request.texts]

    assert done.code == 0, done.err
    assert sum(template in text for text in texts) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set as on Linux")
@pytest.mark.parametrize("wanted", [(), ("--max-connections", "100", "--judge-max-connections", "100")])
def test_a30_few_file_descriptors_lower_the_ceiling_with_a_notice(
    wanted: tuple[str, ...], tmp_path: Path
) -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90))"

    with SimulatorThread(served) as simulator:
        data = write_dataset(tmp_path / "data", 60)
        done = Vlsb(tmp_path)(*run_words(simulator, data, *wanted, "--backoff", "0.01"), prelude=few)
        most, requests = simulator.most_in_flight, len(simulator.completions)

    assert done.code == 0, done.err
    assert "open files" in done.err
    assert most < 90
    assert requests == 120
