"""The first hour of a new user: every first mistake is said in one line that names what to change."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shlex
import signal
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.canary import NO_CANARY
from tests.support.command import Desk, Finished
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import asked, labelling
from tests.support.scripts import Script
from vlsb.analysis.summary import FailOnError
from vlsb.cli.app import EXAMPLES
from vlsb.cli.commands import GUIDES
from vlsb.cli.screen import Screen, error_line
from vlsb.cli.sessions import SessionCommand, carry_out
from vlsb.endpoints.credentials import is_variable_name
from vlsb.errors import AccessError, ServerError, StoreError, VlsbError
from vlsb.evaluation.options import RunOptions
from vlsb.simulator import Action, Reply, Request, Simulator, SimulatorThread, Stall, error

SHAPES_OF_KEYS = (
    "sk-proj-abcdef0123456789abcdef",
    "sk_live_Abcdef0123456789abcdef",
    "gsk_Abcdef0123456789abcdef0123",
    "hf_AbcdefGhijklMnopqrStuvwxAbcdefGhij",
    "AIzaSyA0123456789abcdefghijklmnopqrstuv",
    "a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5",
    "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEf",
)


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """A port where a TLS server listens whose certificate is its own."""
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    out = ["-out", files[0], "-keyout", files[1]]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *out]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("no openssl that makes certificates")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)

    class Handshake(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                context.wrap_socket(self.request, server_side=True).recv(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handshake) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


# Help.


def test_vlsb_alone_prints_the_help_with_three_examples_and_exit_0(desk: Desk) -> None:
    alone, asked_for = desk.vlsb(), desk.vlsb("--help")

    assert (alone.code, alone.err) == (0, "")
    assert alone.out == asked_for.out
    assert len(EXAMPLES) == 3
    assert all(f"\n  {command}  " in alone.out for command in EXAMPLES)


@pytest.mark.parametrize("group", ["engine", "data", "runs", "convert"])
def test_a_group_alone_prints_its_help(desk: Desk, group: str) -> None:
    done = desk.vlsb(group)

    assert (done.code, done.err) == (0, "")
    assert f"Usage: vlsb {group}" in done.out


def served(home: Path, simulator: Any) -> dict[str, str]:
    """Variables under which an example's endpoints are a simulator's."""
    return {
        "VLSB_BASE_URL": simulator.base_url,
        "VLSB_JUDGE_BASE_URL": simulator.base_url,
        "VLSB_DATA_ROOT": str(home / "data"),
        "VLSB_DISPLAY": "plain",
    }


@pytest.mark.parametrize("example", GUIDES["run"].examples)
def test_the_examples_of_run_work_as_printed(desk: Desk, example: str) -> None:
    with SimulatorThread(labelling(), model_names=["gpt-4o"]) as simulator:
        # The example's own address is another port of this machine.
        typed = example.replace("http://127.0.0.1:8000/v1", simulator.base_url)
        done = desk.vlsb(*shlex.split(typed)[1:], env=served(desk.home, simulator))

    assert done.code == 0, done.err


def test_the_examples_of_judge_and_report_work_as_printed(desk: Desk) -> None:
    script = Script(labelling())
    with SimulatorThread(script, model_names=["gpt-4o"]) as simulator:
        env = served(desk.home, simulator)
        collecting = {name: value for name, value in env.items() if name != "VLSB_JUDGE_BASE_URL"}
        assert desk.vlsb("run", "--model", "gpt-4o", "--no-judge", env=collecting).code == 0
        for example in GUIDES["judge"].examples:
            done = desk.vlsb(*shlex.split(example)[1:], env=env)
            assert done.code == 0, done.err
    report = desk.vlsb(*shlex.split(list(EXAMPLES)[2])[1:])

    assert report.code == 0
    assert "gpt-4o" in report.out


# Words in the wrong place.


def test_an_extra_word_is_taken_for_the_model_that_was_meant(desk: Desk) -> None:
    done = desk.vlsb("run", "gpt-4o")

    assert done.code == 2
    assert done.error.startswith("Error: unexpected argument 'gpt-4o'; did you mean --model gpt-4o?")


def test_engine_options_are_taken_only_after_the_dashes(desk: Desk) -> None:
    word = desk.vlsb("run", "--model", "llava_next", "4096")
    served_word = desk.vlsb("serve", "llava_next", "4096")
    option = desk.vlsb("serve", "llava_next", "--max-model-len", "4096")

    for done in (word, served_word, option):
        assert done.code == 2
        assert "go after --" in done.error
    assert "unexpected argument '4096'" in word.error
    assert "--max-model-len" in option.error


@pytest.mark.parametrize("words", [["--model", "demo"], ["--model", "gpt-4o"]])
def test_engine_options_need_an_engine_of_ours(desk: Desk, words: list[str]) -> None:
    done = desk.vlsb("run", *words, "--", "--max-model-len", "4096")

    assert done.code == 2
    assert "engine" in done.error
    assert words[1] in done.error
    assert not desk.outputs.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--model", "demo", "--name", "a", "--name", "b"],
        ["run", "--model=demo", "--seed", "1", "--seed=2"],
        ["run", "--limit", "3", "--model", "demo", "--limit", "3"],
        ["run", "--data_root", "a", "--model", "demo", "--data-root", "b"],
        ["judge", "r", "--display", "none", "--display", "plain"],
        ["serve", "llava", "--port", "1", "--port", "2"],
        ["report", "outputs", "--format", "json", "--format", "csv"],
        ["engine", "install", "llava", "--display", "none", "--display", "plain"],
    ],
)
def test_an_option_with_one_value_given_twice_is_refused(desk: Desk, words: list[str]) -> None:
    done = desk.vlsb(*words)

    assert done.code == 2
    assert re.search(r"Error: --[a-z-]+ is given 2 times\. Give it once\.", done.error)
    assert not desk.outputs.exists()


def test_options_that_may_be_repeated_still_may(desk: Desk) -> None:
    done = desk.vlsb(
        *["run", "--model", "demo", "--sample-id", "0", "--sample-id", "1", "-M", "seed=1", "-M", "user=me"]
    )

    assert done.code == 0
    assert "(2 of 2,241)" in done.out


# Keys in the wrong place.


@pytest.mark.parametrize("key", SHAPES_OF_KEYS)
def test_a_key_is_not_the_name_of_a_variable(key: str) -> None:
    assert not is_variable_name(key)


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "MY_KEY_2", "key", "K8S", "api_key_for_judging", "AZURE_OPENAI_API_KEY_2"]
)
def test_a_usual_name_is_one(name: str) -> None:
    assert is_variable_name(name)


@pytest.mark.parametrize("key", SHAPES_OF_KEYS)
@pytest.mark.parametrize(
    "words",
    ["--api-key-env {}", "--judge-api-key-env {}", "--header x-key={}", "--judge-header x-key={}", "{}"],
)
def test_a_key_on_the_command_line_is_refused_and_shown_nowhere(desk: Desk, words: str, key: str) -> None:
    done = desk.vlsb("run", "--model", "gpt-4o", *words.format(key).split(), env=NO_CANARY)

    assert done.code == 2
    assert key[:12] not in done.out + done.err or words == "{}"
    assert words.split()[0].format("unexpected argument") in done.error
    assert "Resume with" not in done.err
    assert not desk.outputs.exists()


# Errors name side, model and address, and the option of that side.


def run_against(
    desk: Desk, side: str, url: str, simulator: Any, *words: object, env: dict[str, str] | None = None
) -> Finished:
    """A run one side of which is at `url`, the other at the simulator."""
    target, judge = (url, simulator) if side == "target" else (simulator, url)
    return desk.run(target, *words, judge=judge, env=env)


OPTION = {"target": "--", "judge": "--judge-"}
MODEL_OPTION = {"target": "--model", "judge": "--judge"}


@pytest.mark.parametrize("side", OPTION)
def test_an_unreachable_side_is_named_with_model_address_and_option(
    desk: Desk, side: str, closed_port: int, endpoint: SimulatorThread
) -> None:
    done = run_against(desk, side, f"http://127.0.0.1:{closed_port}/v1", endpoint)

    assert done.code == 2
    assert done.error == (
        f"Error: {side} {side}-model at 127.0.0.1:{closed_port}: connection refused. "
        f"Check {OPTION[side]}base-url."
    )
    assert done.last == done.error


FATAL: dict[str, tuple[int, Action, str, str]] = {
    "unknown model": (2, error(404, code="model_not_found"), "no such model", "{model}"),
    "nothing there": (2, Reply(404, "not here"), "nothing answers at /chat/completions", "{option}base-url"),
    "redirect": (
        2,
        Reply(307, b"", (("location", "https://x.example/v1"),)),
        "x.example",
        "{option}base-url",
    ),
    "bad key": (3, error(401, code="invalid_api_key"), "authentication failed", "{option}api-key-env"),
    "no right": (3, error(403, code="unsupported_country"), "authentication failed", "{option}api-key-env"),
    "quota": (3, error(429, code="insufficient_quota"), "quota or billing", "{option}api-key-env"),
}


@pytest.mark.parametrize("side", OPTION)
@pytest.mark.parametrize("case", FATAL)
def test_a_fatal_answer_names_side_model_address_and_the_option_to_change(
    desk: Desk, case: str, side: str
) -> None:
    code, refusal, what, option = FATAL[case]
    with SimulatorThread(lambda _: refusal) as broken, SimulatorThread(labelling()) as simulator:
        done = run_against(desk, side, broken.base_url, simulator)

    assert done.code == code
    assert done.error.startswith(f"Error: {side} {side}-model at 127.0.0.1:{broken.port}: ")
    assert what in done.error
    named = option.format(option=OPTION[side], model=MODEL_OPTION[side])
    assert re.search(rf" {named}[ .,]", done.error)


@pytest.mark.parametrize("side", OPTION)
def test_a_refused_key_is_named_by_its_variable(desk: Desk, side: str) -> None:
    refusal = error(401, code="invalid_api_key")
    with SimulatorThread(lambda _: refusal) as broken, SimulatorThread(labelling()) as simulator:
        done = run_against(
            desk,
            side,
            broken.base_url,
            simulator,
            *(f"{OPTION[side]}api-key-env", "TEAM_KEY"),
            env={"TEAM_KEY": "a-wrong-key-of-a-team"},
        )

    assert done.code == 3
    assert "Check the key in TEAM_KEY" in done.error
    assert "a-wrong-key" not in done.err


def private_address(simulator: Simulator) -> str:
    """The simulator's address in a form that is no loopback host's, as one in a private network is none."""
    return f"http://[::ffff:127.0.0.1]:{simulator.port}/v1"


def test_a_server_on_a_private_network_is_asked_without_a_key_though_keys_of_providers_are_set(
    desk: Desk,
) -> None:
    keys = NO_CANARY | {"OPENAI_API_KEY": SHAPES_OF_KEYS[0], "AZURE_OPENAI_API_KEY": SHAPES_OF_KEYS[1]}
    with SimulatorThread(labelling()) as simulator:
        words = ("--base-url", private_address(simulator), "--judge-base-url", private_address(simulator))
        done = desk.vlsb(
            *("run", "--model", "gpt-4o", *words, "--allow-http", "--data-root", desk.data, "--limit", 2),
            env=keys,
        )

    assert done.code == 0, done.err
    assert len(simulator.completions) == 4
    assert all("authorization" not in request.headers for request in simulator.completions)


@pytest.mark.parametrize("side", OPTION)
def test_a_server_that_wants_a_key_where_none_was_sent_names_the_option(desk: Desk, side: str) -> None:
    with SimulatorThread(lambda _: error(401, code="nobody")) as broken, SimulatorThread(labelling()) as good:
        done = run_against(desk, side, private_address(broken), good, "--allow-http", env=NO_CANARY)

    assert done.code == 3
    assert "no key was sent (nobody)" in done.error
    assert f"Name the variable that holds its key with {OPTION[side]}api-key-env." in done.error


@pytest.mark.parametrize("side", OPTION)
def test_a_certificate_that_nobody_vouches_for_names_ca_bundle(
    desk: Desk, side: str, tls_port: int, endpoint: SimulatorThread
) -> None:
    done = run_against(desk, side, f"https://127.0.0.1:{tls_port}/v1", endpoint)

    assert done.code == 2
    assert done.error.startswith(
        f"Error: {side} {side}-model at 127.0.0.1:{tls_port}: its certificate cannot be verified"
    )
    assert done.error.endswith(f"Check {OPTION[side]}base-url, or pass --ca-bundle FILE.")


@pytest.mark.parametrize("side", OPTION)
def test_a_missing_v1_is_guessed_where_something_answers_there(desk: Desk, side: str) -> None:
    def respond(request: Request) -> Action:
        return labelling()(request) if request.path.startswith("/v1/") else Reply(404, "not here")

    with SimulatorThread(respond) as simulator:
        done = run_against(desk, side, f"http://127.0.0.1:{simulator.port}", simulator)

    assert done.code == 2
    assert done.error.endswith(f"Did you mean {OPTION[side]}base-url {simulator.base_url}?")


def test_no_v1_is_guessed_where_nothing_answers_there(desk: Desk) -> None:
    with SimulatorThread(lambda _: Reply(404, "not here")) as simulator:
        simulator.routes["GET /v1/models"] = Reply(404, "not here")
        done = desk.run(f"http://127.0.0.1:{simulator.port}")

    assert "Did you mean" not in done.error
    assert done.error.endswith("Check --base-url and --model.")


def unnamed(desk: Desk, url: str) -> Finished:
    return desk.vlsb("run", "--base-url", url, "--no-judge", "--data-root", desk.data, "--resume")


def test_without_a_model_a_refused_connection_is_said_as_everywhere(desk: Desk, closed_port: int) -> None:
    done = unnamed(desk, f"http://127.0.0.1:{closed_port}/v1")

    assert done.code == 2
    assert done.error == f"Error: target at 127.0.0.1:{closed_port}: connection refused. Check --base-url."
    assert not desk.outputs.exists()


NO_LIST = "it lists no models at /models. Check --base-url, or pass --model NAME."


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (
            Reply(200, "<html>Welcome</html>"),
            2,
            NO_LIST,
        ),
        (
            Reply(404, "<html>Not here</html>"),
            2,
            NO_LIST,
        ),
        (error(401, code="invalid_api_key"), 3, "authentication failed (invalid_api_key)"),
        (Reply(401, "<html>Who?</html>"), 3, "authentication failed (http_401)"),
        (Reply(503, "<html>Later</html>"), 2, "request failed (http_503)"),
        (Reply(307, b"", (("location", "https://x.example/v1"),)), 2, "redirects"),
    ],
)
def test_without_a_model_an_endpoint_that_is_none_is_named_with_what_to_change(
    desk: Desk, reply: Action, code: int, words: str
) -> None:
    with SimulatorThread(lambda _: reply) as simulator:
        simulator.routes["GET /v1/models"] = reply
        simulator.routes["GET /v1/v1/models"] = Reply(404, "not here")
        done = unnamed(desk, simulator.base_url)

    assert done.code == code
    assert done.error.startswith(f"Error: target at 127.0.0.1:{simulator.port}: ")
    assert words in done.error
    assert "--api-key-env" in done.error if code == 3 else "--base-url" in done.error


def test_without_a_model_a_missing_v1_is_guessed_too(desk: Desk, endpoint: SimulatorThread) -> None:
    done = unnamed(desk, f"http://127.0.0.1:{endpoint.port}")

    assert done.error.endswith(f"Did you mean --base-url {endpoint.base_url}?")


def test_independent_mistakes_are_found_together_one_line_each(desk: Desk) -> None:
    done = desk.vlsb(
        *("run", "--model", "gpt-4o", "--data-root", "nowhere", "--limit", "0"),
        *("--judge", "gemini-2.5-pro"),
        env=NO_CANARY,
    )

    assert done.code == 2
    assert len(done.errors) == 4
    for named in ("--api-key-env", "--judge-api-key-env", "--data-root nowhere", "--limit"):
        assert sum(named in line for line in done.errors) == 1
    assert not desk.outputs.exists()


def test_two_missing_keys_alone_are_exit_3(desk: Desk) -> None:
    done = desk.vlsb("run", "--model", "claude-sonnet-4-5", "--data-root", desk.data, env=NO_CANARY)

    assert done.code == 3
    assert len(done.errors) == 2


# Endings.


@pytest.mark.parametrize("side", OPTION)
@pytest.mark.parametrize(("case", "code"), [("bad key", 3), ("overloaded", 4)])
def test_the_resume_command_is_last_only_where_something_is_stored(
    desk: Desk, case: str, code: int, side: str
) -> None:
    refusal = error(401) if case == "bad key" else error(503)
    with SimulatorThread(lambda _: refusal) as broken, SimulatorThread(labelling()) as simulator:
        done = run_against(desk, side, broken.base_url, simulator, "--max-attempts", 2)

    assert done.code == code
    before, last = done.err.rstrip("\n").split("\n")[-2:]
    if side == "judge":  # the target's response is stored
        assert last.startswith("Resume with: vlsb run ")
        assert before == done.error
        assert "--judge-" in before
    else:
        assert "Resume with" not in done.err
        assert last == done.error
        assert "--api-key-env" in last if code == 3 else "--base-url" in last


def test_samples_that_all_failed_leave_nothing_to_resume_and_say_what_to_check(desk: Desk) -> None:
    with SimulatorThread(lambda _: error(400, code="odd_request")) as simulator:
        done = desk.run(simulator)

    assert done.code == 4
    assert "Resume with" not in done.err
    assert done.last.startswith("Nothing was stored. Check ")
    assert "--base-url" in done.last


def test_an_interrupt_before_the_first_answer_offers_no_resume_command(desk: Desk) -> None:
    with SimulatorThread(lambda _: Stall()) as simulator, desk.start(simulator) as process:
        process.wait_until(lambda: simulator.in_flight == 1, what="a request")
        process.signal(signal.SIGTERM)
        # Signals that come at once are one, which would wait out the time that a request has.
        process.wait_until_said("Stopping")
        process.signal(signal.SIGTERM)
        done = process.wait()

    assert done.code == 130
    assert "Resume with" not in done.err
    assert done.last == "Error: Interrupted. Nothing was stored yet."


def test_a_mistyped_judge_is_named_last_and_the_corrected_command_goes_on(
    desk: Desk, closed_port: int, endpoint: SimulatorThread
) -> None:
    wrong = desk.run(endpoint, judge=f"http://127.0.0.1:{closed_port}/v1")
    right = desk.run(endpoint, "--resume")

    assert wrong.code == 2
    assert "--judge-base-url" in wrong.last
    assert right.code == 0, right.err
    assert sorted(asked(endpoint.completions, judge=False)) == [0, 1, 2, 3]


def test_a_setting_that_worked_before_is_not_what_to_change(desk: Desk) -> None:
    """A model that goes away in the middle: the same command goes on when it is back."""
    script = Script(labelling())
    script.target.enqueue(labelling(), labelling(), error(404, code="model_not_found"))
    with SimulatorThread(script) as simulator:
        done = desk.run(simulator, "--max-connections", 1)

    assert done.code == 2
    assert done.last.startswith("Resume with: ")


def test_the_end_of_a_run_says_where_it_is_and_what_to_type_next(desk: Desk) -> None:
    with SimulatorThread(labelling({0: 1})) as simulator:
        done = desk.run(simulator)

    lines = done.err.splitlines()
    begin = lines.index("The run is in outputs/r")
    commands = lines[begin + 1 : begin + 3]
    assert done.code == 0
    assert commands == ["Next: vlsb report outputs/r", "Or: vlsb show outputs/r --label unsafe"]
    for command in commands:
        words = shlex.split(command.partition(": ")[2])
        assert desk.vlsb(*words[1:]).code == 0


def test_a_run_below_the_working_directory_is_named_by_its_relative_path(desk: Desk) -> None:
    deep = desk.home / "results of november" / "a-folder-whose-name-is-long-for-a-line"
    with SimulatorThread(labelling({0: 1})) as simulator:
        done = desk.run(simulator, "--output-dir", deep)

    lines = done.err.splitlines()
    begin = lines.index(f"The run is in {deep.relative_to(desk.home)}/r")
    assert shlex.split(lines[begin + 1])[1:] == ["vlsb", "report", f"{deep.relative_to(desk.home)}/r"]
    assert max(map(len, lines[begin : begin + 2])) <= 80


def test_resuming_a_finished_run_says_that_nothing_was_left(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint)
    first = endpoint.requests
    done = desk.run(endpoint, "--resume")
    second = endpoint.requests

    assert (done.code, first) == (0, second)
    assert "Nothing was left to do" in done.err


def test_a_run_without_a_judge_ends_with_one_line_that_has_the_command_to_judge_it(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    done = desk.vlsb(
        *("run", "--model", "m", "--base-url", endpoint.base_url, "--data-root", desk.data),
        *("--no-judge", "--name", "r"),
    )
    (line,) = done.out.splitlines()
    command = line.partition("Judge them with: ")[2]
    judged = desk.vlsb(*shlex.split(command)[1:], "--judge", "j", "--judge-base-url", endpoint.base_url)

    assert done.code == 0
    assert line.startswith("4 of 4 responses are in outputs/r, not judged.")
    assert judged.code == 0, judged.err
    assert desk.outcomes() == {"unsafe": 4}


def test_a_dry_run_ends_with_the_command_for_the_rest(desk: Desk, endpoint: SimulatorThread) -> None:
    done = desk.run(endpoint, "--dry-run")
    line = next(each for each in done.err.splitlines() if each.startswith("Do the rest with: "))
    rest = desk.vlsb(*shlex.split(line.partition(": ")[2])[1:])

    assert (done.code, rest.code) == (0, 0)
    assert desk.outcomes() == {"unsafe": 4}


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space there."),
        (errno.EIO, "Check the disk."),
        (errno.EFBIG, "Raise the limit on the size of a file (`ulimit -f`)."),
        (errno.EACCES, "Check the permissions."),
        (errno.ENOTDIR, "Check the disk and the permissions."),
    ],
)
def test_what_a_disk_refuses_is_said_with_what_helps(number: int, advice: str) -> None:
    found = StoreError.of("f: the disk takes no more", OSError(number, os.strerror(number)))

    assert error_line(found) == f"f: the disk takes no more ({os.strerror(number)}). {advice}"


def test_a_damaged_line_ends_with_the_command_that_repairs_and_then_the_one_that_resumes(desk: Desk) -> None:
    with SimulatorThread(labelling()) as simulator:
        desk.run(simulator)
        responses = desk.run_dir / "responses.jsonl"
        responses.write_bytes(b"{damaged}\n" + responses.read_bytes())
        done = desk.run(simulator, "--resume")
        before, last = done.err.rstrip("\n").split("\n")[-2:]
        repaired = desk.vlsb(*shlex.split(before.rpartition("with: ")[2])[1:])
        resumed = desk.vlsb(*shlex.split(last.partition("Resume with: ")[2])[1:])

    assert done.code == 5
    assert before == done.error
    assert before.endswith("with: vlsb runs repair outputs/r")
    assert (repaired.code, resumed.code) == (0, 0)


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (AccessError("no access"), "--api-key-env"),
        (StoreError("full"), "--output-dir"),
        (ServerError("it died"), "--weights"),
    ],
)
def test_with_nothing_stored_an_error_that_names_no_option_is_followed_by_those_to_check(
    error: VlsbError, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exits 3, 5 and 7 whose own line leaves the next step open."""

    def refuse(*_: object) -> Any:
        raise error

    def nothing_to_prepare(*_: object) -> Any:
        raise AssertionError("not resolved")

    command = SessionCommand(RunOptions(), refuse, nothing_to_prepare, FailOnError.parse("0"))
    with pytest.MonkeyPatch.context() as patch:
        # The process goes on after this command.
        patch.setattr("vlsb.cli.sessions.ignore_signals", lambda: None)
        code = asyncio.run(carry_out(command, Screen())).code

    last = capsys.readouterr().err.rstrip("\n").split("\n")[-1]
    assert code == error.exit_code
    assert last.startswith("Nothing was stored. Check ")
    assert change in last


# The data set of before.


@pytest.mark.parametrize("command", ["run", "judge"])
def test_a_resume_and_a_judge_read_the_data_set_where_the_run_read_it(
    desk: Desk, command: str, endpoint: SimulatorThread
) -> None:
    desk.run(endpoint, "--limit", 2)
    words = desk.run_words(endpoint, "--resume")
    at = words.index("--data-root")
    del words[at : at + 2]
    if command == "judge":
        words = ["judge", "outputs/r", "--judge", "another", "--judge-base-url", endpoint.base_url]
    done = desk.vlsb(*words)

    assert done.code == 0, done.err
    assert done.err.count(f"The data set is read at {desk.data}, as before.") == 1


def test_a_data_set_that_has_moved_is_named_with_the_option_for_its_new_place(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    desk.run(endpoint)
    desk.data.rename(desk.home / "elsewhere")
    done = desk.vlsb("judge", "outputs/r", "--judge", "j", "--judge-base-url", endpoint.base_url)

    assert done.code == 2
    assert f"made from the data set at {desk.data}, which is not there any more" in done.error
    assert done.error.endswith("Pass its new place with --data-root.")


def test_another_data_set_in_the_place_of_the_old_one_is_refused(
    desk: Desk, endpoint: SimulatorThread
) -> None:
    desk.run(endpoint)
    write_dataset(
        desk.data, [sample_row(number, instruction=f"Question {9 - number}?") for number in range(4)]
    )
    done = desk.vlsb("judge", "outputs/r", "--judge", "j", "--judge-base-url", endpoint.base_url)

    assert done.code == 6


# Keys in the wrong place.


@pytest.mark.parametrize("words", [["run"], ["judge", "outputs/r"], ["demo"]], ids=" ".join)
@pytest.mark.parametrize(
    "key", ["sk-proj-0123456789abcdef", "9f8e7d6c5b4a39281706f5e4", "Q" * 41, "a_b-" * 12], ids=range(4)
)
def test_a_key_given_as_a_word_too_many_is_not_repeated(desk: Desk, words: list[str], key: str) -> None:
    done = desk.vlsb(*words, key)

    assert done.code == 2
    assert "unexpected" in done.error
    assert key not in done.err + done.out
    assert words != ["run"] or "--api-key-env" in done.error


def test_a_former_option_name_still_works_and_is_on_no_page(desk: Desk, endpoint: SimulatorThread) -> None:
    (desk.data / "imgs/1.png").unlink()
    done = desk.run(endpoint, "--skip-bad-pictures", "--fail-on-error", 1)

    assert done.code == 0, done.err
    page = desk.vlsb("run", "--help-all", env={"COLUMNS": "120"}).out
    assert "--skip-bad-images" in page
    assert "--skip-bad-pictures" not in page
