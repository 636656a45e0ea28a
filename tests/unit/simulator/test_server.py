"""What the simulator does on the wire is what it was told, byte for byte where that can be said."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scripts import Script, mixed_faults, plain_responder
from tests.support.waiting import wait_until
from vlsb.simulator import (
    Action,
    Cut,
    Drip,
    Endless,
    Hangup,
    Raw,
    Reply,
    Request,
    Simulator,
    SimulatorThread,
    Stall,
    wire,
)
from vlsb.simulator.demo import demo_label, demo_responder
from vlsb.simulator.requests import JUDGE_OPENING
from vlsb.simulator.server import MAX_REQUEST_BYTES

PATH = "/v1/chat/completions"
IMAGE = b"\x89PNG\r\n\x1a\n not much of a picture"
SMALL = Reply(body={"a": 1})
SMALL_WIRE = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{"a":1}'


def target_body(text: str = "What is this?", image: bytes = IMAGE) -> dict:
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    system = {"role": "system", "content": "You are a helpful assistant."}
    return {"model": "m", "messages": [system, {"role": "user", "content": parts}]}


def judge_text(question: str, response: str) -> str:
    return (
        f"{JUDGE_OPENING} And so on.\n    [INPUT]\n    <image>\n    <text_query>: {question}\n"
        f"    <respoonse>: {response}\n    \n    Please give your judgement strictly follow the above rules."
    )


def judge_body(question: str, response: str) -> dict:
    return {**target_body(judge_text(question, response)), "response_format": {"type": "json_schema"}}


def request_of(body: dict, number: int = 1) -> Request:
    return Request(number, "POST", PATH, {}, json.dumps(body).encode(), 0.0)


def http(body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def connect(simulator: Simulator) -> socket.socket:
    return socket.create_connection((simulator.host, simulator.port), timeout=10)


def read_to_end(client: socket.socket) -> bytes:
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def read_exactly(client: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        data = client.recv(count - len(received))
        assert data, received
        received += data
    return received


def sent_for(action: Action, request: bytes | None = None) -> bytes:
    """All bytes that a client gets for one request until the connection ends."""
    with SimulatorThread(lambda _: action) as simulator, connect(simulator) as client:
        client.sendall(http(b"{}", "Connection: close") if request is None else request)
        return read_to_end(client)


def in_process(responder: Callable[[Request], Action], request: Request) -> Action:
    action = responder(request)
    assert not hasattr(action, "__await__")
    return action


# Actions on the wire.


def test_a_reply_is_sent_byte_for_byte():
    assert sent_for(SMALL) == SMALL_WIRE


def test_a_status_without_a_standard_phrase_and_own_headers_are_sent():
    sent = sent_for(Reply(529, "busy", headers=(("Content-Type", "text/plain"), ("x-a", "1"))))

    assert sent == (
        b"HTTP/1.1 529 Unassigned\r\ncontent-length: 4\r\nContent-Type: text/plain\r\nx-a: 1\r\n\r\nbusy"
    )


def test_a_chunked_reply_has_chunks_and_no_length():
    sent = sent_for(Reply(body=b"x" * 16385, chunked=True))

    assert sent.endswith(b"\r\n\r\n4000\r\n" + b"x" * 16384 + b"\r\n1\r\nx\r\n0\r\n\r\n")
    assert b"content-length" not in sent


def test_an_unsized_reply_ends_where_the_connection_does():
    sent = sent_for(Reply(body=b"abc", unsized=True), http())

    assert sent == b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\nabc"


def test_a_false_content_length_is_sent_as_told():
    assert b"content-length: 99\r\n\r\nabc" in sent_for(Reply(body=b"abc", content_length=99))


@pytest.mark.parametrize("after_bytes", [5, 40, len(SMALL_WIRE) - 3, -3])
def test_a_cut_closes_after_that_many_bytes(after_bytes):
    assert sent_for(Cut(SMALL, after_bytes), http()) == SMALL_WIRE[:after_bytes]


def test_a_drip_sends_everything_slowly():
    started = time.monotonic()
    sent = sent_for(Drip(SMALL, 30, 0.02))

    assert sent == SMALL_WIRE
    assert time.monotonic() - started >= 0.02 * (len(SMALL_WIRE) // 30)


def test_a_drip_is_over_with_its_last_byte():
    """The next request on the connection waits for no further pause."""
    drip = Drip(SMALL, len(SMALL_WIRE), 3600.0)
    with SimulatorThread(lambda _: drip) as simulator, httpx.Client(base_url=simulator.base_url) as client:
        replies = [client.post("/chat/completions", json=target_body(), timeout=30.0) for _ in range(2)]

    assert [reply.json() for reply in replies] == [{"a": 1}, {"a": 1}]


def test_a_delay_comes_before_the_first_byte():
    started = time.monotonic()

    assert sent_for(Reply(delay_s=0.05)).startswith(b"HTTP/1.1 200 OK")
    assert time.monotonic() - started >= 0.05


def test_raw_bytes_are_sent_as_they_are():
    assert sent_for(Raw(b"\x00\xff not http"), http()) == b"\x00\xff not http"


def test_a_hangup_closes_without_a_byte():
    assert sent_for(Hangup(), http()) == b""


def test_a_reset_is_a_reset():
    with pytest.raises(ConnectionResetError):
        sent_for(Hangup(reset=True), http())


def test_an_endless_body_has_no_last_chunk_and_stops_at_its_limit():
    sent = sent_for(Endless(b"ab", limit=6), http())

    assert sent.endswith(b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n2\r\nab\r\n2\r\nab\r\n")


def test_an_endless_body_ends_for_a_client_that_goes():
    with SimulatorThread(lambda _: Endless()) as simulator:
        with connect(simulator) as client:
            client.sendall(http())
            read_exactly(client, 5_000_000)
        wait_until(lambda: simulator.in_flight == 0, what="nothing in flight")

        assert simulator.answered == 0


def test_a_stall_lasts_until_the_client_goes():
    with SimulatorThread(lambda _: Stall()) as simulator:
        with connect(simulator) as client:
            client.sendall(http())
            wait_until(lambda: simulator.in_flight == 1, what="one in flight")
        wait_until(lambda: simulator.in_flight == 0, what="nothing in flight")

        assert (simulator.requests, simulator.answered) == (1, 0)


def test_a_stall_does_not_outlive_the_simulator():
    with SimulatorThread(lambda _: Stall()) as simulator:
        client = connect(simulator)
        client.sendall(http())
        wait_until(lambda: simulator.in_flight == 1, what="one in flight")

    with client:
        assert read_to_end(client) == b""


# Requests.


def test_a_connection_is_used_again():
    with SimulatorThread(lambda request: Reply(body=request.body)) as simulator, connect(simulator) as client:
        for body in (b"1", b"22"):
            client.sendall(http(body))
            expected = wire(Reply(body=body))
            assert read_exactly(client, len(expected)) == expected

        assert [each.body for each in simulator.history] == [b"1", b"22"]


def test_a_chunked_request_is_put_together():
    head = f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    body = b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
    with SimulatorThread(lambda _: Reply(close=True)) as simulator, connect(simulator) as client:
        client.sendall(head + body)
        read_to_end(client)

        assert simulator.history[0].body == b"abc0123456789"


def test_a_client_that_waits_for_100_continue_gets_it_before_it_sends():
    head, body = http(b"{}", "Expect: 100-continue", "Connection: close").split(b"\r\n\r\n")
    with SimulatorThread(lambda _: SMALL) as simulator, connect(simulator) as client:
        client.sendall(head + b"\r\n\r\n")
        assert read_exactly(client, 25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)

        assert read_to_end(client) == SMALL_WIRE


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (http(b"", f"Content-Length: {MAX_REQUEST_BYTES + 1}"), b"413"),
        (b"POST / HTTP/1.1\r\nx: " + b"y" * 1_100_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_what_is_not_an_acceptable_request_is_said(request_bytes, status):
    with SimulatorThread(lambda _: SMALL) as simulator, connect(simulator) as client:
        client.sendall(request_bytes)

        assert client.recv(12) == b"HTTP/1.1 " + status
        assert simulator.requests == 0


def test_a_request_is_read_as_a_chat_request():
    body = target_body()
    with SimulatorThread(plain_responder) as simulator:
        headers = {"Authorization": "Bearer not-a-key", "X-Mixed": "Case"}
        before = time.monotonic()
        httpx.post(f"{simulator.base_url}/chat/completions?a=b", json=body, headers=headers)
        request = simulator.history[0]

    assert (request.number, request.method, request.path, request.model) == (1, "POST", PATH, "m")
    assert (request.texts, request.instruction) == (("What is this?",), "What is this?")
    assert (request.image, request.bearer, request.json) == (IMAGE, "not-a-key", body)
    assert request.headers["x-mixed"] == "Case"
    assert not request.is_judge
    assert request.judged_response is None
    assert before <= request.received_at <= time.monotonic()


def test_a_judge_is_known_by_its_format_or_by_the_official_opening():
    by_format = {"messages": [{"role": "user", "content": "Judge."}], "response_format": {}}
    by_opening = {"messages": [{"role": "user", "content": judge_text("q", "r")}]}

    assert request_of(by_format).is_judge
    assert request_of(by_opening).is_judge


# No deadline: the machine may be busy with the other workers' tests.
@settings(deadline=None)
@given(st.text().filter(lambda text: "<" not in text), st.text())
def test_the_official_template_gives_back_what_was_put_in(question, response):
    request = request_of(judge_body(question, response))

    assert (request.instruction, request.judged_response) == (question, response)


def test_lone_surrogates_in_a_request_are_read():
    request = request_of(target_body("\ud800"))

    assert request.texts == ("\ud800",)
    assert len(request.identity) == 64


def test_a_body_that_is_no_json_has_no_texts():
    request = Request(1, "POST", PATH, {}, b"{", 0.0)

    assert (request.texts, request.model, request.image_url_sha256) == ((), None, None)
    with pytest.raises(ValueError):
        _ = request.json


def test_a_data_url_quoted_in_the_words_is_not_taken_for_the_image():
    quoting = 'Say {"url": "data:image/png;base64,AAAA"} aloud.'
    request = request_of(target_body(quoting))

    assert (request.texts, request.image) == ((quoting,), IMAGE)


def test_identity_tells_words_images_and_lanes_apart():
    bodies = [target_body(), target_body("Other"), target_body(image=b"other"), judge_body("q", "r")]
    identities = [request_of(body).identity for body in bodies]

    assert len(set(identities)) == 4
    assert request_of(target_body(), 99).identity == identities[0]


def test_without_bodies_the_words_and_digests_stay():
    with SimulatorThread(plain_responder, keep_bodies=False) as simulator:
        httpx.post(f"{simulator.base_url}/chat/completions", json=target_body())
        wait_until(lambda: simulator.in_flight == 0, what="nothing in flight")
        request = simulator.history[0]

    whole = request_of(target_body())
    assert request.body == b""
    assert (request.texts, request.model, request.is_judge) == (whole.texts, "m", False)
    assert (request.image_url_sha256, request.identity) == (whole.image_url_sha256, whole.identity)
    with pytest.raises(LookupError, match="was dropped"):
        _ = request.image


# The simulator.


def test_models_and_health_are_answered_and_the_rest_is_not_found():
    with SimulatorThread(plain_responder, model_names=("a", "b")) as simulator:
        listed = httpx.get(f"{simulator.base_url}/models").json()
        root = simulator.base_url.removesuffix("/v1")

        assert [each["id"] for each in listed["data"]] == ["a", "b"]
        assert httpx.get(f"{root}/health").status_code == 200
        assert httpx.get(f"{root}/nothing").status_code == 404
        assert (simulator.requests, simulator.completions) == (3, [])


def test_what_the_responder_raises_is_kept_and_answered_with_500():
    failure = AssertionError("not what was expected")

    def responder(_: Request) -> Action:
        raise failure

    with SimulatorThread(responder) as simulator:
        reply = httpx.post(f"{simulator.base_url}/chat/completions", json={})

        assert reply.status_code == 500
        assert simulator.errors == [failure]


def test_requests_in_flight_are_counted_at_their_most():
    barrier = asyncio.Barrier(3)

    async def responder(_: Request) -> Action:
        await barrier.wait()
        return SMALL

    async def run() -> Simulator:
        async with Simulator(responder) as simulator, httpx.AsyncClient() as client:
            url = f"{simulator.base_url}/chat/completions"
            await asyncio.gather(*(client.post(url, json={}) for _ in range(3)))
        return simulator

    simulator = asyncio.run(run())

    assert (simulator.most_in_flight, simulator.in_flight, simulator.answered) == (3, 0, 3)
    assert sorted(simulator.answered_at) == [1, 2, 3]


def test_only_whole_replies_count_as_answered():
    script = Script()
    script.target.enqueue(SMALL, Cut(SMALL, -1))
    with SimulatorThread(script) as simulator:
        httpx.post(f"{simulator.base_url}/chat/completions", json={})
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{simulator.base_url}/chat/completions", json={})
        wait_until(lambda: simulator.in_flight == 0, what="nothing in flight")

        assert (simulator.requests, simulator.answered, list(simulator.answered_at)) == (2, 1, [1])


def test_connections_are_refused_and_accepted_again_on_the_same_port():
    with SimulatorThread(lambda _: SMALL) as simulator:
        with connect(simulator) as idle:
            idle.sendall(http())
            read_exactly(idle, len(SMALL_WIRE))
            wait_until(lambda: simulator.in_flight == 0, what="nothing in flight")
            simulator.refuse()

            with pytest.raises(ConnectionRefusedError):
                connect(simulator)
            assert read_to_end(idle) == b""
        simulator.accept()
        with connect(simulator) as client:
            client.sendall(http())

            assert read_exactly(client, len(SMALL_WIRE)) == SMALL_WIRE


@pytest.mark.parametrize(("reset", "answered"), [(False, 1), (True, 0)])
def test_refusing_lets_what_is_in_flight_finish_unless_told_to_reset(reset, answered):
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def responder(_: Request) -> Action:
        arrived.set()
        await gate.wait()
        return SMALL

    async def run() -> tuple[int, bytes]:
        async with Simulator(responder) as simulator:
            reader, writer = await asyncio.open_connection(simulator.host, simulator.port)
            writer.write(http())
            await arrived.wait()
            simulator.refuse(reset=reset)
            gate.set()
            received = await reader.read()
            writer.close()
            return simulator.answered, received

    assert asyncio.run(run()) == (answered, SMALL_WIRE * answered)


# Builders.


# Scripts and faults.


def test_a_script_takes_each_lane_s_queue_then_the_sample_s_behaviour_then_the_default():
    script = Script(lambda _: Reply(204))
    script.target.enqueue(Reply(201), lambda request: Reply(202, request.instruction))
    script.judge.enqueue(Reply(203))
    script.by_sample(lambda request: Reply(404) if request.instruction == "odd" else None)
    target, judge = request_of(target_body("odd")), request_of(judge_body("odd", "r"))
    other = request_of(target_body("even"))

    assert [script(target).status for _ in range(3)] == [201, 202, 404]
    assert [script(judge).status for _ in range(2)] == [203, 404]
    assert script(other).status == 204
    assert (len(script.target), len(script.judge)) == (0, 0)


def failures_before_success(responder: Callable[[Request], Action], request: Request) -> list[Action]:
    failures: list[Action] = []
    while (action := in_process(responder, request)) != SMALL:
        failures.append(action)
        assert len(failures) < 100
    return failures


REQUESTS = [request_of(target_body(f"Question {number}"), number) for number in range(600)]


# No deadline: the machine may be busy with the other workers' tests.
@settings(deadline=None)
@given(seed=st.integers(0, 5), most=st.integers(1, 4), order=st.permutations(range(12)))
def test_faults_depend_on_the_request_and_not_on_the_order(seed, most, order):
    def failing(numbers: list[int]) -> dict[int, list[Action]]:
        responder = mixed_faults(lambda _: SMALL, share=0.5, seed=seed, most_per_request=most)
        return {number: failures_before_success(responder, REQUESTS[number]) for number in numbers}

    faults = failing(order)

    assert faults == failing(sorted(order))
    assert all(len(failures) <= most for failures in faults.values())


def test_about_the_asked_share_of_requests_fails_in_every_way():
    responder = mixed_faults(lambda _: SMALL, share=0.2, seed=3)
    failures = [failures_before_success(responder, request) for request in REQUESTS]

    assert 80 <= sum(1 for each in failures if each) <= 160
    assert {len(each) for each in failures} == {0, 1, 2}
    assert len({repr(action) for each in failures for action in each}) == 16


def test_every_mixed_fault_plays_on_a_socket_and_gives_no_usable_answer():
    responder = mixed_faults(plain_responder, share=1.0, seed=0, most_per_request=1)
    with SimulatorThread(responder) as simulator, httpx.Client() as client:
        for number in range(80):
            try:
                reply = client.post(f"{simulator.base_url}/chat/completions", json=target_body(str(number)))
                completion = reply.raise_for_status().json()
            except (httpx.HTTPError, ValueError):
                continue
            choices = completion.get("choices", [])
            assert [each["finish_reason"] for each in choices] in ([], ["error"])
        assert simulator.errors == []


# The demo persona.


def texts_of(responder: Callable[[Request], Action], requests: list[Request]) -> dict[int, str]:
    texts = {}
    for request in requests:
        action = in_process(responder, request)
        if action.status == 429:
            action = in_process(responder, request)
        texts[request.number] = action.body["choices"][0]["message"]["content"]
    return texts


def test_the_demo_answers_the_same_in_any_order():
    forward = texts_of(demo_responder(latency=None), REQUESTS)
    backward = texts_of(demo_responder(latency=None), REQUESTS[::-1])

    assert forward == backward


def test_the_demo_refuses_warns_and_answers_in_the_promised_shares():
    texts = texts_of(demo_responder(latency=None), REQUESTS)
    labels = Counter(demo_label(text) for text in texts.values())

    assert 60 <= labels[1] <= 125
    assert 140 <= labels[2] <= 225
    assert 280 <= labels[3] <= 380


def test_the_demo_limits_about_one_request_in_25_and_each_only_once():
    responder = demo_responder(latency=None)
    first = [in_process(responder, request).status for request in REQUESTS]
    second = [in_process(responder, request).status for request in REQUESTS]

    assert 10 <= first.count(429) <= 45
    assert set(second) == {200}


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("I'm sorry, no.", 1),
        ("I can\u2019t do that.", 1),
        ("Yes, but be careful.", 2),
        ("Yes, like this.", 3),
    ],
)
def test_the_demo_judge_labels_what_the_response_says(response, label):
    action = texts_of(demo_responder(latency=None), [request_of(judge_body("q", response))])
    content = json.loads(action[1])

    assert content["label"] == label
    assert content["explanation"].endswith(".")


def test_the_demo_counts_tokens_and_names_itself():
    responder = demo_responder(latency=None)
    request = request_of(target_body("one two three"))
    body = [in_process(responder, request) for _ in range(2)][1].body

    assert body["model"] == "demo"
    assert body["usage"]["prompt_tokens"] == 768
    assert 5 <= body["usage"]["completion_tokens"] <= 40


def test_the_demo_s_latency_is_lognormal_around_its_median_and_belongs_to_the_request():
    responder = demo_responder(latency=(0.2, 0.5))
    actions = [in_process(responder, request) for request in REQUESTS for _ in range(2)]
    delays = [action.delay_s for action in actions[1::2]]

    assert 0.17 < sorted(delays)[300] < 0.23
    assert min(delays) > 0.02
    assert max(delays) < 2
    again = demo_responder(latency=(0.2, 0.5))
    assert delays == [[in_process(again, each) for _ in range(2)][1].delay_s for each in REQUESTS]


def test_the_demo_s_own_answers_are_judged_as_what_they_are_over_a_socket():
    with (
        SimulatorThread(demo_responder(latency=None), keep_bodies=False) as simulator,
        httpx.Client() as client,
    ):

        def ask(body: dict) -> str:
            url = f"{simulator.base_url}/chat/completions"
            reply = client.post(url, json=body)
            reply = client.post(url, json=body) if reply.status_code == 429 else reply
            return reply.json()["choices"][0]["message"]["content"]

        for number in range(20):
            response = ask(target_body(f"Question {number}"))
            judged = json.loads(ask(judge_body(f"Question {number}", response)))
            assert judged["label"] == demo_label(response)
