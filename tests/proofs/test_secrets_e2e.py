"""Canaries: a key is nowhere it should not be, and strangers' text is harmless wherever it is shown."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Desk, Finished
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import labelling, sample_of
from vlsb.simulator import Action, Reply, Request, SimulatorThread, Stall, answer, error, verdict

TARGET_KEY = "sk-CANARY-target-0123456789abcdef"
JUDGE_KEY = "sk-CANARY-judge-fedcba9876543210"
PLAIN_KEY = "plainCanary7Q"
"""A key that has no shape to be known by: only its value tells."""

KEYS = {"T_KEY": TARGET_KEY, "J_KEY": JUDGE_KEY, "GATEWAY": PLAIN_KEY}
KEY_WORDS = (
    *("--api-key-env", "T_KEY", "--judge-api-key-env", "J_KEY"),
    *("--header", "x-gateway=GATEWAY", "--judge-header", "x-gateway=GATEWAY"),
)


def keys_of(request: Request) -> str:
    """What the endpoint was sent as keys, as it would repeat them."""
    return f"{request.bearer} and {request.headers['x-gateway']}"


def assert_no_canary(desk: Desk, *shown: Finished) -> None:
    texts = [(f"stdout {done.code}", done.out) for done in shown] + [("stderr", d.err) for d in shown]
    files = [path for path in desk.home.rglob("*") if path.is_file()]
    texts += [(str(path), path.read_bytes().decode("latin-1")) for path in files]
    for place, text in texts:
        for key in KEYS.values():
            assert key not in text, place


# Echoes: what an endpoint may do with a key it was sent.


def echo_401(request: Request) -> Action:
    return error(401, code="invalid_api_key", message=f"Incorrect API key provided: {keys_of(request)}.")


def echo_quota(request: Request) -> Action:
    said = f"Quota of {keys_of(request)} is gone."
    return error(429, code="insufficient_quota", type=f"quota {request.bearer}", message=said)


def echo_redirect(request: Request) -> Action:
    return Reply(302, b"", (("location", f"https://login.example/?key={keys_of(request)}"),))


def echo_400(request: Request) -> Action:
    return error(400, code=request.bearer, type=request.bearer, message=f"Bad: {keys_of(request)}")


def echo_503(request: Request) -> Action:
    return Reply(503, f"upstream failed for Authorization: Bearer {keys_of(request)}")


def echo_html(request: Request) -> Action:
    return Reply(body=f"<html>{keys_of(request)}</html>", headers=(("content-type", "text/html"),))


def echo_finish_reason(request: Request) -> Action:
    return answer("Fine.", finish_reason=keys_of(request))


def echo_filter(request: Request) -> Action:
    inner = {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {request.bearer: keys_of(request)},
    }
    return Reply(400, {"error": {"code": "content_filter", "message": keys_of(request), "innererror": inner}})


def echo_answer(request: Request) -> Action:
    said = f"Your key is {keys_of(request)}."
    whole = (
        verdict(3, said, model=f"judge {keys_of(request)}")
        if request.is_judge
        else answer(said, model=f"model {keys_of(request)}")
    )
    return replace(whole, headers=(("x-request-id", keys_of(request)), ("x-echo", str(request.bearer))))


def echo_declined_verdict(request: Request) -> Action:
    return answer(f"No verdict for {keys_of(request)}.") if request.is_judge else answer("Fine.")


ECHOES = (
    *(echo_401, echo_quota, echo_redirect, echo_400, echo_503, echo_html),
    *(echo_finish_reason, echo_filter, echo_answer, echo_declined_verdict),
)


@pytest.mark.parametrize("lane", ["target", "judge"])
@pytest.mark.parametrize("echo", ECHOES, ids=lambda echo: echo.__name__)
def test_a_key_that_an_endpoint_echoes_is_in_no_file_and_no_output(
    desk: Desk, echo: Callable[[Request], Action], lane: str
) -> None:
    def respond(request: Request) -> Action:
        return echo(request) if request.is_judge is (lane == "judge") else labelling()(request)

    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator, *KEY_WORDS, "--max-attempts", 2, env=KEYS)
        sent = {each.bearer for each in simulator.completions}
    reports = [desk.vlsb("report", desk.run_dir, "--format", kind) for kind in ("table", "json", "csv")]

    assert TARGET_KEY in sent
    assert "internal error" not in done.err
    assert desk.run_dir.exists()
    assert_no_canary(desk, done, *reports)


def test_a_failure_after_the_preflight_stores_no_echo(desk: Desk) -> None:
    def respond(request: Request) -> Action:
        return labelling()(request) if sample_of(request) == 0 else echo_400(request)

    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator, *KEY_WORDS, env=KEYS)
    resumed = desk.vlsb("report", desk.run_dir)

    assert done.code == 4
    assert len((desk.run_dir / "failures.jsonl").read_text().splitlines()) == 3
    assert_no_canary(desk, done, resumed)


def test_something_key_like_in_an_error_is_redacted_too(desk: Desk) -> None:
    strange = "sk-proj-of-somebody-else-123456"
    with SimulatorThread(lambda request: error(401, message=f"Not your key: {strange}")) as simulator:
        done = desk.run(simulator, *KEY_WORDS, env=KEYS)

    assert done.code == 3
    assert strange not in done.err
    assert "Not your key" in done.error


def test_a_key_is_on_no_command_line_while_a_run_is_going(desk: Desk) -> None:
    with (
        SimulatorThread(lambda request: Stall()) as simulator,
        desk.start(simulator, *KEY_WORDS, env=KEYS) as process,
    ):
        process.wait_until(lambda: simulator.in_flight == 1, what="the first request")
        command_line = Path(f"/proc/{process.pid}/cmdline")
        if command_line.exists():
            assert b"vlsb" in command_line.read_bytes()
            assert not [key for key in KEYS.values() if key.encode() in command_line.read_bytes()]
        done = process.kill()

    assert_no_canary(desk, done)


def test_the_traceback_switch_shows_no_key(desk: Desk) -> None:
    with SimulatorThread(echo_401) as simulator:
        done = desk.run(simulator, *KEY_WORDS, env=KEYS | {"VLSB_TRACEBACK": "1"})

    assert done.code == 3
    assert_no_canary(desk, done)


def test_what_a_run_writes_is_for_its_owner_alone(desk: Desk, endpoint: SimulatorThread) -> None:
    desk.run(endpoint, "--limit", 2)
    desk.run(endpoint, "--resume")

    below = [desk.outputs, *desk.outputs.rglob("*")]
    modes = {
        str(path.relative_to(desk.home)): (path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in below
    }
    assert len(modes) >= 8
    assert {
        name: mode for name, (is_dir, mode) in modes.items() if mode != (0o700 if is_dir else 0o600)
    } == {}


# Hostile text.

HOSTILE = (
    "[red]x[/red] [/a] :smile: \x1b]52;c;aGk=\x07 \x1b[2J\x1b[31m \x9b31m \x90q\x9c \x85 "
    "\u202eright\u202c \u2066i\u2069 \u2028"
    "\nError: a forged line\r\nResume with: rm -rf ~\t=cmd()|'!A1' \x7f\x00"
)
_FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def hostile_rows() -> list[dict[str, Any]]:
    first = {"category": HOSTILE, "sub_category": HOSTILE, "source": HOSTILE}
    rows = [sample_row(0, **first), sample_row(1), sample_row(2, category="=cmd()|'!A1'"), sample_row(3)]
    for row in rows:
        row["instruction"] += HOSTILE
    return rows


def assert_harmless(done: Finished) -> None:
    assert "internal error" not in done.err
    assert "Traceback" not in done.err
    for text in (done.out, done.err):
        assert _FORBIDDEN.findall(text) == []
    # A table may fold a name so that a line starts with any of its words; a message never does.
    for line in done.err.split("\n"):
        assert not line.startswith(("Error: a forged", "Resume with: rm"))


def hostile_responder(request: Request) -> Action:
    if request.is_judge:
        return verdict(2, HOSTILE, model=f"judge {HOSTILE}")
    if sample_of(request) == 3:
        return error(400, code=HOSTILE, type=HOSTILE, message=HOSTILE)
    return answer(HOSTILE, model=f"model {sample_of(request)} {HOSTILE}", finish_reason=f"stop{HOSTILE}")


@pytest.mark.parametrize("display", ["plain", "rich"])
def test_hostile_text_reaches_no_terminal_and_the_run_ends_normally(desk: Desk, display: str) -> None:
    write_dataset(desk.data, hostile_rows())

    with SimulatorThread(hostile_responder) as simulator:
        done = desk.run(simulator, "--display", display)

    assert done.code == 4
    assert len(done.errors) == 1
    assert "3/4" in done.out
    assert_harmless(done)


@pytest.mark.parametrize("report_format", ["table", "json", "csv", "markdown"])
def test_hostile_text_is_harmless_in_every_report(desk: Desk, report_format: str) -> None:
    write_dataset(desk.data, hostile_rows())
    with SimulatorThread(hostile_responder) as simulator:
        desk.run(simulator)

    done = desk.vlsb("report", desk.run_dir, "--format", report_format)

    assert done.code == 0
    # RFC 4180 ends its rows in CR LF.
    assert_harmless(done._replace(out=done.out.replace("\r\n", "\n")))


def test_hostile_text_is_stored_as_it_came(desk: Desk) -> None:
    write_dataset(desk.data, hostile_rows())

    with SimulatorThread(hostile_responder) as simulator:
        desk.run(simulator)

    lines = (desk.run_dir / "responses.jsonl").read_bytes().split(b"\n")
    assert b"".join(lines).isascii()
    assert [json.loads(line)["text"] for line in lines if line] == [HOSTILE] * 3


@pytest.mark.parametrize(
    "reply",
    [
        error(401, code=HOSTILE, message=HOSTILE),
        error(404, code="model_not_found", message=HOSTILE),
        error(400, message=HOSTILE),
        Reply(503, HOSTILE),
        Reply(307, b"", (("location", "https://x.example/\x1b]52;c;aGk=\x07[red]\x9b31m"),)),
        Reply(body=HOSTILE, headers=(("content-type", "text/plain"),)),
    ],
    ids=["401", "404", "400", "503", "307", "not json"],
)
def test_a_hostile_error_is_one_harmless_line(desk: Desk, reply: Reply) -> None:
    with SimulatorThread(lambda request: reply) as simulator:
        done = desk.run(simulator, "--max-attempts", 2, "--limit", 1)

    assert done.code in (2, 3, 4)
    assert len(done.errors) == 1
    assert_harmless(done)


def test_a_hostile_model_name_of_the_users_own_is_shown_harmlessly(desk: Desk) -> None:
    name = HOSTILE.replace("\x00", "")
    with SimulatorThread(lambda r: verdict(1) if r.is_judge else answer("Fine.")) as simulator:
        done = desk.run(simulator, "--model", name, "--judge", name, "--limit", 1)
    reported = desk.vlsb("report", desk.run_dir)

    assert done.code == 0, done.err
    assert_harmless(done)
    assert_harmless(reported)


def test_a_hostile_image_path_is_named_harmlessly(desk: Desk) -> None:
    rows = json.loads((desk.data / "data.json").read_text())
    rows[1]["image_path"] = f"imgs/{HOSTILE}"
    (desk.data / "data.json").write_text(json.dumps(rows))

    done = desk.run("http://127.0.0.1:9/v1")
    checked = desk.vlsb("data", "check", desk.data)

    assert (done.code, checked.code) == (2, 2)
    for each in (done, checked):
        assert len(each.errors) == 1
        assert_harmless(each)


def test_a_lone_surrogate_survives_from_data_and_answer_to_the_report(desk: Desk) -> None:
    write_dataset(desk.data, [sample_row(0, instruction="Question 0? \ud800", category="\udfff")])

    with SimulatorThread(lambda r: verdict(1, "\ud801") if r.is_judge else answer("\ud802")) as simulator:
        done = desk.run(simulator)

    assert done.code == 0, done.err
    assert list(desk.report()[0]["by_category"]) == ["\udfff"]
