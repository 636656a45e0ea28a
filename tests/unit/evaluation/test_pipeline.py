"""What happens to a sample between a data set on disk and a real socket, and what a session keeps of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.datasets import instruction, sharing_rows, write_dataset
from tests.support.endpoint import sample_of
from tests.support.records import make_judge
from tests.support.waiting import DEADLINE_S
from vlsb.config import (
    OFFICIAL_JUDGE_SAMPLING,
    OFFICIAL_TARGET_SAMPLING,
    Endpoint,
    ModelSettings,
    RetryPolicy,
    Sampling,
)
from vlsb.data import Selection, load_dataset
from vlsb.dialect import Dialect
from vlsb.endpoints.credentials import Credentials
from vlsb.endpoints.rate_limits import Accounts
from vlsb.endpoints.traffic import Traffic
from vlsb.errors import (
    AuthenticationError,
    ConfigError,
    GapsError,
    OutageError,
    QuotaError,
    StoreError,
    VlsbError,
)
from vlsb.evaluation.clients import ClientSetup, open_clients
from vlsb.evaluation.pipeline import Pipeline, SampleWork, SentImages
from vlsb.evaluation.progress import Progress
from vlsb.evaluation.protocol import judge_settings
from vlsb.evaluation.session import Listeners, Plan, prepare, run_session
from vlsb.evaluation.shutdown import Shutdown
from vlsb.judging.judge import Judge
from vlsb.judging.kinds import JudgeSetup, official_judge
from vlsb.records import Failure, Key, Outcome
from vlsb.simulator import Action, Reply, Request, Simulator, answer, blocked, error, rate_limited, verdict
from vlsb.store.manifest import read_manifest
from vlsb.store.state import Judged, RunState, load_state, sent_images
from vlsb.store.store import open_for_judging, pending_work

PATIENCE = RetryPolicy(
    max_attempts=3,
    attempt_timeout_s=DEADLINE_S,
    sample_timeout_s=DEADLINE_S,
    outage_timeout_s=DEADLINE_S,
    backoff_s=0.001,
    backoff_cap_s=0.004,
)
NO_KEYS = Credentials(bearer=None)
JUDGE_FILE = "judge-model.jsonl"
UNSUPPORTED = error(
    400,
    code="unsupported_parameter",
    type="invalid_request_error",
    param="max_tokens",
    message="Unsupported parameter: 'max_tokens' is not supported with this model.",
)


# One session against a scripted endpoint.


@dataclass
class Played:
    """A responder that plays a list of actions for each sample and lane, and repeats the last one.

    A sample without a list is answered, or judged unsafe.
    """

    target: Mapping[int, list[Action]] = field(default_factory=dict)
    judge: Mapping[int, list[Action]] = field(default_factory=dict)
    taken: dict[tuple[bool, int], int] = field(default_factory=dict)

    def __call__(self, request: Request) -> Action:
        sample_id = sample_of(request)
        actions = (self.judge if request.is_judge else self.target).get(sample_id)
        if actions is None:
            return usual(request)
        key = (request.is_judge, sample_id)
        turn = self.taken.get(key, 0)
        self.taken[key] = turn + 1
        return actions[min(turn, len(actions) - 1)]


def usual(request: Request) -> Action:
    return verdict(3) if request.is_judge else answer(f"An answer about sample {sample_of(request)}.")


@dataclass
class Session:
    """What a session did and left."""

    reason: VlsbError | None
    directory: Path
    simulator: Simulator
    said: list[str]

    @property
    def state(self) -> RunState:
        return load_state(self.directory)

    @property
    def outcomes(self) -> list[Outcome]:
        state = self.state
        return [state.outcome(key, JUDGE_FILE) for key in state.asked_for()]

    @property
    def judged(self) -> Judged:
        """The judge's rows."""
        return self.state.judged[JUDGE_FILE]

    def requests(self, lane: str, sample_id: int | None = None) -> list[Request]:
        """What was sent to a lane, for one sample or for all."""
        return [
            each
            for each in self.simulator.completions
            if each.is_judge is (lane == "judge") and (sample_id is None or sample_of(each) == sample_id)
        ]

    def failure(self, sample_id: int) -> Failure:
        state = self.state
        failures = state.judged[JUDGE_FILE].failures | state.target_failures
        return failures[Key(sample_id, 1)]

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = (self.directory / "events.jsonl").read_bytes().split(b"\n")
        return [json.loads(line) for line in lines if line]


Responder = Callable[[Request], Action | Awaitable[Action]]


def run(
    root: Path,
    responder: Responder,
    *,
    connections: int = 4,
    policy: RetryPolicy = PATIENCE,
    limit: str | None = None,
    resume: bool = False,
    on_say: Callable[[str, Simulator], None] = lambda line, simulator: None,
    prepare_simulator: Callable[[Simulator], None] = lambda simulator: None,
    judge_sampling: Sampling = OFFICIAL_JUDGE_SAMPLING,
) -> Session:
    """Prepare and run one session over the data set in `root`; the run is the folder `run` beside it."""

    async def play() -> Session:
        async with Simulator(responder) as simulator:
            prepare_simulator(simulator)
            said: list[str] = []

            def say(line: str) -> None:
                said.append(line)
                on_say(line, simulator)

            plan = Plan(
                directory=root.parent / "run",
                target=ModelSettings(
                    Endpoint("target-model", simulator.base_url), OFFICIAL_TARGET_SAMPLING, connections
                ),
                judges=(
                    JudgeSetup(
                        official_judge(),
                        ModelSettings(
                            Endpoint("judge-model", simulator.base_url), judge_sampling, connections
                        ),
                    ),
                ),
                data_root=root,
                selection=Selection(limit=limit),
                policy=policy,
                is_resume=resume,
            )
            credentials = {"target": NO_KEYS, "judge": NO_KEYS}
            listeners = Listeners(say=say, watch=nobody_watches)
            async with asyncio.timeout(DEADLINE_S):
                end = await run_session(prepare(plan), credentials, listeners)
            assert simulator.errors == []
            return Session(end.reason, plan.directory, simulator, said)

    return asyncio.run(play())


async def nobody_watches(progress: Progress) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A data set of two samples: the first is the preflight's, the second flies in the run itself."""
    return write_dataset(tmp_path / "dataset", 2)


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """A data set of six samples."""
    return write_dataset(tmp_path / "dataset", 6)


# Respond, store, judge, store.


def test_a_response_is_on_disk_before_its_judge_is_asked(six: Path) -> None:
    not_yet_stored = []

    def look(request: Request) -> Action:
        if request.is_judge:
            stored = (six.parent / "run" / "responses.jsonl").read_bytes().split(b"\n")
            texts = [json.loads(line)["text"] for line in stored if line]
            if request.judged_response not in texts:
                not_yet_stored.append(request.instruction)
        return usual(request)

    session = run(six, look)

    assert session.reason is None
    assert session.outcomes == [Outcome.UNSAFE] * 6
    assert not_yet_stored == []
    assert len(session.requests("target")) == len(session.requests("judge")) == 6


# A judge's answer that is no verdict. Sample 1 flies after the preflight, so nothing is adapted.

NONSENSE = answer("I would say that the label is 1.")
DISAGREES = verdict(1, label_str="Unsafe")
LABEL_FIRST = '{"label": 1, "label_str": "Safe with refusal", "explanation": "it was going to'


def cut(text: str | None) -> Reply:
    return answer(text, finish_reason="length")


@pytest.mark.parametrize(
    "no_verdict",
    [
        NONSENSE,
        DISAGREES,
        answer('{"label": 4, "label_str": "Unsafe", "explanation": ""}'),
        answer('{"label": true, "label_str": "Safe with refusal", "explanation": ""}'),
        answer('{"label": 1}'),
        answer("```json\n" + LABEL_FIRST + '"}\n```'),
    ],
    ids=["prose", "label and words disagree", "label 4", "label true", "keys missing", "fenced"],
)
def test_an_answer_that_is_no_verdict_is_asked_for_once_more_and_then_given_up(
    two: Path, no_verdict: Reply
) -> None:
    session = run(two, Played(judge={1: [no_verdict]}))

    assert session.outcomes == [Outcome.UNSAFE, Outcome.JUDGE_INVALID]
    first, second = session.requests("judge", 1)
    assert first.json == second.json
    assert session.failure(1).attempts == 2
    assert session.failure(1).text is not None


@pytest.mark.parametrize("no_verdict", [NONSENSE, DISAGREES], ids=["prose", "label and words disagree"])
def test_a_verdict_at_the_second_ask_counts(two: Path, no_verdict: Reply) -> None:
    session = run(two, Played(judge={1: [no_verdict, verdict(2)]}))

    found = session.judged.verdicts[Key(1, 1)]
    assert session.outcomes == [Outcome.UNSAFE, Outcome.SAFE_WARNING]
    assert (found.asks, found.attempts) == (2, 2)
    assert (found.usage.input_tokens, found.usage.output_tokens) == (1600, 80)


def test_a_cut_answer_that_is_a_whole_verdict_by_chance_is_not_read_either(two: Path) -> None:
    whole = replace(verdict(1, finish_reason="length"))

    session = run(two, Played(judge={1: [whole]}))

    assert session.outcomes[1] is Outcome.JUDGE_TRUNCATED


@pytest.mark.parametrize(
    "action",
    [blocked(), NONSENSE, answer(None, refusal="No."), cut("x"), error(500)],
    ids=["blocked", "no verdict", "refused", "cut", "error"],
)
def test_a_failure_of_the_judge_names_the_response_that_it_was_asked_about(two: Path, action: Action) -> None:
    session = run(two, Played(judge={1: [action]}))

    response = session.state.responses[Key(1, 1)]
    assert session.judged.failures[Key(1, 1)].response_sha256 == response.response_sha256


# A target's answer that is none, or an unusual one.


@pytest.mark.parametrize(
    "block",
    [blocked(), answer("Partly sa", finish_reason="content_filter"), answer(None, finish_reason="SAFETY")],
    ids=["input", "output with text", "output"],
)
def test_a_target_whose_provider_blocks_is_never_judged(two: Path, block: Reply) -> None:
    session = run(two, Played(target={1: [block]}))

    assert session.reason is None
    assert session.outcomes == [Outcome.UNSAFE, Outcome.TARGET_BLOCKED]
    assert len(session.requests("target", 1)) == 1
    assert session.requests("judge", 1) == []
    assert Key(1, 1) not in session.state.responses


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_an_answer_without_text_is_asked_for_once_more_and_is_never_a_refusal(
    two: Path, text: str | None
) -> None:
    session = run(two, Played(target={1: [answer(text)]}))

    assert session.outcomes == [Outcome.UNSAFE, Outcome.TARGET_EMPTY]
    assert len(session.requests("target", 1)) == 2
    assert session.requests("judge", 1) == []


def test_a_target_that_keeps_failing_ends_in_an_error_after_its_attempts(two: Path) -> None:
    session = run(two, Played(target={1: [error(503)]}))

    assert session.outcomes == [Outcome.UNSAFE, Outcome.TARGET_ERROR]
    assert len(session.requests("target", 1)) == session.failure(1).attempts == PATIENCE.max_attempts


# The preflight.


def test_the_preflight_sends_one_sample_alone_through_both_lanes(six: Path) -> None:
    most_until_the_first_verdict = []
    three_at_once = asyncio.Event()
    flying: set[int] = set()

    async def respond(request: Request) -> Action:
        if not request.is_judge and sample_of(request) != 0:
            # The others fly together, or this waits in vain.
            flying.add(sample_of(request))
            if len(flying) == 3:
                three_at_once.set()
            await three_at_once.wait()
        return usual(request)

    def watch(simulator: Simulator) -> None:
        def answered(request: Request) -> None:
            if request.is_judge and not most_until_the_first_verdict:
                most_until_the_first_verdict.append((simulator.most_in_flight, simulator.requests))

        simulator.on_answered = answered

    session = run(six, respond, prepare_simulator=watch)

    assert most_until_the_first_verdict == [(1, 2)]
    assert session.outcomes == [Outcome.UNSAFE] * 6
    assert session.simulator.most_in_flight >= 3
    assert len(session.requests("target", 0)) == 1, "the preflight's sample was asked twice"


@pytest.mark.parametrize("unanswered", [blocked(), answer("")], ids=["blocked", "empty"])
def test_a_preflight_sample_that_is_not_answered_gives_its_place_to_the_next(
    six: Path, unanswered: Reply
) -> None:
    in_flight: list[int] = []

    def watch(simulator: Simulator) -> None:
        simulator.on_request = lambda request: in_flight.append(simulator.in_flight)

    session = run(six, Played(target={0: [unanswered], 1: [unanswered]}), prepare_simulator=watch)

    assert session.reason is None
    ended = Outcome.TARGET_BLOCKED if unanswered.status == 400 else Outcome.TARGET_EMPTY
    assert session.outcomes == [ended, ended] + [Outcome.UNSAFE] * 4
    first_verdict = next(n for n, each in enumerate(session.simulator.completions) if each.is_judge)
    assert set(in_flight[: first_verdict + 1]) == {1}
    assert sample_of(session.simulator.completions[first_verdict]) == 2


def test_three_samples_at_most_are_spent_on_the_preflight(six: Path) -> None:
    in_flight_by_sample: dict[int, int] = {}
    together = asyncio.Event()

    async def respond(request: Request) -> Action:
        if sample_of(request) >= 3:
            if len(in_flight_by_sample) == 6:
                together.set()
            await together.wait()
        return blocked()

    def watch(simulator: Simulator) -> None:
        def arrived(request: Request) -> None:
            in_flight_by_sample[sample_of(request)] = simulator.in_flight

        simulator.on_request = arrived

    session = run(six, respond, prepare_simulator=watch)

    assert session.reason is None
    assert session.outcomes == [Outcome.TARGET_BLOCKED] * 6
    assert [in_flight_by_sample[n] for n in range(3)] == [1, 1, 1]
    assert max(in_flight_by_sample.values()) == 3
    assert session.requests("judge") == []


def test_a_preflight_that_keeps_failing_at_the_judge_stops_the_run_and_keeps_the_response(six: Path) -> None:
    session = run(six, Played(judge={0: [error(502)]}))

    assert isinstance(session.reason, GapsError)
    assert session.outcomes == [Outcome.JUDGE_ERROR] + [Outcome.NOT_ATTEMPTED] * 5
    assert session.state.responses.keys() == {(0, 1)}


FATAL = {
    "key": (error(401, code="invalid_api_key"), AuthenticationError, 3),
    "quota": (error(429, code="insufficient_quota", type="insufficient_quota"), QuotaError, 3),
    "model": (error(404, code="model_not_found"), ConfigError, 2),
    "redirect": (Reply(307, headers=(("location", "http://elsewhere.example/"),)), ConfigError, 2),
}


@pytest.mark.parametrize("name", FATAL)
@pytest.mark.parametrize("lane", ["target", "judge"])
def test_what_no_request_can_survive_stops_the_run_at_the_first(six: Path, name: str, lane: str) -> None:
    action, kind, exit_code = FATAL[name]

    session = run(six, Played(**{lane: {0: [action]}}))

    assert isinstance(session.reason, kind)
    assert session.reason.exit_code == exit_code
    assert len(session.requests(lane)) == 1
    first = Outcome.NOT_ATTEMPTED if lane == "target" else Outcome.NOT_JUDGED
    assert session.outcomes == [first] + [Outcome.NOT_ATTEMPTED] * 5


# What the preflight learns about an endpoint.


def manifest(directory: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((directory / "run.json").read_bytes())
    return document


def ignores_schema(request: Request) -> Action:
    """A judge that never looks at `response_format` and answers in prose unless asked in words."""
    if not request.is_judge:
        return usual(request)
    system = request.json["messages"][0]["content"]
    return verdict(2) if "JSON schema" in system else NONSENSE


def test_a_judge_that_ignores_the_schema_is_asked_in_words_from_then_on(six: Path) -> None:
    session = run(six, ignores_schema)

    assert session.reason is None
    assert session.outcomes == [Outcome.SAFE_WARNING] * 6
    first, *others = session.requests("judge")
    assert "response_format" in first.json
    assert not any("response_format" in each.json for each in others)
    assert len(others) == 6
    (judge,) = manifest(session.directory)["judges"]
    assert judge["decision"]["structured"] is False
    assert any("response_format" in each for each in judge["deviations"])


def test_a_judge_that_refuses_the_schema_is_asked_in_words_from_then_on(six: Path) -> None:
    refused = error(400, type="invalid_request_error", param="response_format", message="Not supported.")

    def respond(request: Request) -> Action:
        return refused if request.is_judge and "response_format" in request.json else usual(request)

    session = run(six, respond)

    assert session.outcomes == [Outcome.UNSAFE] * 6
    assert sum("response_format" in each.json for each in session.requests("judge")) == 1
    assert manifest(session.directory)["judges"][0]["decision"]["structured"] is False


def wants_max_completion_tokens(request: Request) -> Action:
    return UNSUPPORTED if not request.is_judge and "max_tokens" in request.json else usual(request)


def test_an_endpoint_that_wants_max_completion_tokens_gets_it_for_every_sample(six: Path) -> None:
    session = run(six, wants_max_completion_tokens)

    assert session.reason is None
    assert session.outcomes == [Outcome.UNSAFE] * 6
    first, *others = session.requests("target")
    assert "max_tokens" in first.json
    assert [each.json["max_completion_tokens"] for each in others] == [128] * 6
    assert not any("max_tokens" in each.json for each in others)
    found = manifest(session.directory)
    assert found["decision"]["tokens_field"] == "max_completion_tokens"
    assert any("max_completion_tokens" in each for each in found["deviations"])
    assert all("max_tokens" in each.json for each in session.requests("judge"))


def test_the_same_complaint_in_the_middle_of_a_run_changes_nothing_for_anybody(six: Path) -> None:
    session = run(six, Played(target={3: [UNSUPPORTED]}))

    assert session.outcomes[3] is Outcome.TARGET_ERROR
    assert session.outcomes.count(Outcome.UNSAFE) == 5
    assert len(session.requests("target", 3)) == 1
    assert all("max_tokens" in each.json for each in session.requests("target"))
    assert manifest(session.directory)["decision"]["tokens_field"] == "max_tokens"


@pytest.mark.parametrize("responder", [ignores_schema, wants_max_completion_tokens])
def test_a_resume_asks_as_the_first_session_did(six: Path, responder: Responder) -> None:
    first = run(six, responder, limit="2")
    before = manifest(first.directory)

    session = run(six, responder, resume=True)

    assert session.reason is None
    assert len(session.simulator.completions) == 8, "the decision was made again"
    assert {o.value for o in session.outcomes} <= {"safe_warning", "unsafe"}
    after = manifest(session.directory)
    for name in ("decision", "deviations", "judges"):
        assert after[name] == before[name]


def test_a_decision_is_not_made_again_when_the_endpoint_changes_its_mind(six: Path) -> None:
    run(six, usual, limit="2")

    session = run(six, wants_max_completion_tokens, resume=True)

    assert session.outcomes[2] is Outcome.TARGET_ERROR
    assert all("max_tokens" in each.json for each in session.requests("target"))


@pytest.mark.parametrize("dialect", [{}, {"tokens_field": "max_tokens", "unsent": 7, "structured": True}])
def test_a_damaged_decision_is_a_damaged_manifest(two: Path, dialect: dict[str, Any]) -> None:
    directory = run(two, usual, limit="1").directory
    damaged = manifest(directory)
    damaged["judges"][0]["decision"] = dialect
    (directory / "run.json").write_text(json.dumps(damaged))

    with pytest.raises(StoreError, match=r"run\.json"):
        run(two, usual, resume=True)


# Runs that share an account.


def test_a_run_waits_for_the_pause_that_another_with_the_same_accounts_was_told(two: Path) -> None:
    async def play() -> list[tuple[VlsbError | None, int]]:
        async with Simulator(lambda _: rate_limited(7200)) as simulator:
            accounts, seen = Accounts(), []
            for name in ("first", "second"):
                plan = Plan(
                    directory=two.parent / name,
                    target=ModelSettings(
                        Endpoint("target-model", simulator.base_url), OFFICIAL_TARGET_SAMPLING
                    ),
                    judges=(),
                    data_root=two,
                    selection=Selection(),
                    policy=PATIENCE,
                )
                listeners = Listeners(say=lambda line: None, watch=nobody_watches)
                credentials = {"target": NO_KEYS}
                end = await run_session(prepare(plan), credentials, listeners, accounts=accounts)
                seen.append((end.reason, len(simulator.completions)))
            return seen

    (first, sent), (second, sent_in_all) = asyncio.run(play())

    assert isinstance(first, GapsError)
    assert isinstance(second, GapsError)
    assert "pause" in second.message
    assert (sent, sent_in_all) == (1, 1)


# Rejections and outages.


@pytest.fixture
def thirty(tmp_path: Path) -> Path:
    """More samples than may be rejected alike."""
    return write_dataset(tmp_path / "dataset", 30)


def test_twenty_answers_in_a_row_that_are_no_verdicts_stop_the_run(thirty: Path) -> None:
    session = run(thirty, Played(judge={n: [NONSENSE] for n in range(1, 30)}), connections=1)

    assert isinstance(session.reason, GapsError)
    assert session.outcomes.count(Outcome.JUDGE_INVALID) == 20


def test_many_blocked_samples_are_no_reason_to_stop(thirty: Path) -> None:
    session = run(thirty, Played(target={n: [blocked()] for n in range(1, 30)}))

    assert session.reason is None
    assert session.outcomes.count(Outcome.TARGET_BLOCKED) == 29


def goes_down_after_the_preflight(simulator: Simulator) -> None:
    def answered(request: Request) -> None:
        if request.is_judge and simulator.answered == 2:
            simulator.refuse()

    simulator.on_answered = answered


def test_an_outage_is_waited_out_and_the_run_goes_on_when_the_endpoint_is_back(thirty: Path) -> None:
    def come_back(line: str, simulator: Simulator) -> None:
        if "outage detected" in line:
            simulator.accept()

    session = run(
        thirty,
        usual,
        connections=30,
        policy=replace(PATIENCE, max_attempts=2),
        prepare_simulator=goes_down_after_the_preflight,
        on_say=come_back,
    )

    assert session.reason is None
    assert session.outcomes == [Outcome.UNSAFE] * 30
    kinds = [each["kind"] for each in session.events]
    assert (kinds.count("outage"), kinds.count("recovered")) == (1, 1)


def test_an_outage_that_lasts_ends_the_run_and_blames_no_sample(thirty: Path) -> None:
    session = run(
        thirty,
        usual,
        connections=30,
        policy=replace(PATIENCE, max_attempts=2, outage_timeout_s=0.05),
        prepare_simulator=goes_down_after_the_preflight,
    )

    assert isinstance(session.reason, OutageError)
    assert session.reason.exit_code == 4
    assert session.outcomes.count(Outcome.UNSAFE) == 1
    assert session.outcomes.count(Outcome.NOT_ATTEMPTED) == 29


# Stopping.


def test_a_fatal_answer_lets_the_others_in_flight_finish(six: Path) -> None:
    may_answer = asyncio.Event()
    held: list[int] = []

    async def hold(request: Request) -> Action:
        if request.is_judge or sample_of(request) == 0:
            return usual(request)
        held.append(sample_of(request))
        if len(held) == 3:
            return error(401, code="invalid_api_key")
        await may_answer.wait()
        return usual(request)

    def watch(simulator: Simulator) -> None:
        def answered(request: Request) -> None:
            if len(held) >= 3:
                may_answer.set()

        simulator.on_answered = answered

    session = run(six, hold, connections=3, prepare_simulator=watch)

    assert isinstance(session.reason, AuthenticationError)
    assert session.state.responses.keys() >= {(sample_id, 1) for sample_id in (0, *held[:2])}
    assert session.outcomes[held[2]] is Outcome.NOT_ATTEMPTED
    assert Outcome.TARGET_ERROR not in session.outcomes


# Whose answer is whose.


def images_by_sample(root: Path) -> Iterator[tuple[int, str]]:
    for row in json.loads((root / "data.json").read_bytes()):
        digest = hashlib.sha256((root / row["image_path"]).read_bytes()).hexdigest()
        yield row["instruction_id"], digest


def echo(request: Request) -> Action:
    """Says what it was shown, after a latency that has nothing to do with the order of arrival."""
    assert request.image is not None
    shown = f"{request.instruction} | {hashlib.sha256(request.image).hexdigest()}"
    delay_s = int(request.identity[:4], 16) / 0xFFFF * 0.03
    if request.is_judge:
        label = 1 + sample_of(request) % 3
        return verdict(label, f"{shown} | {request.judged_response}", delay_s=delay_s)
    return answer(shown, delay_s=delay_s)


def test_every_verdict_belongs_to_its_own_response_and_image(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "dataset", sharing_rows(30))

    session = run(root, echo, connections=10)

    state, judged = session.state, session.judged
    assert session.reason is None
    labels = [Outcome.SAFE_REFUSAL, Outcome.SAFE_WARNING, Outcome.UNSAFE]
    for sample_id, image in images_by_sample(root):
        key = Key(sample_id, 1)
        response, found = state.responses[key], judged.verdicts[key]
        shown = f"{instruction(sample_id)} | {image}"
        assert response.text.expose() == shown
        assert found.explanation.expose() == f"{shown} | {shown}"
        assert response.image_sha256 == found.image_sha256 == image
        assert found.response_sha256 == response.response_sha256
        assert state.outcome(key, JUDGE_FILE) is labels[sample_id % 3]
    order = [sample_of(each) for each in session.requests("judge")]
    assert order != sorted(order), "the latencies shuffled nothing"


# The data.


def test_a_torn_response_is_said_and_its_sample_done_again(two: Path) -> None:
    directory = run(two, usual).directory
    path = directory / "responses.jsonl"
    path.write_bytes(path.read_bytes()[:-25])

    session = run(two, usual, resume=True)

    assert any("torn" in line and f"{path.name}.torn-1" in line for line in session.said)
    assert session.outcomes == [Outcome.UNSAFE] * 2
    assert len(session.requests("target")) == 1
    assert (directory / "responses.jsonl.torn-1").exists()


def test_content_and_keys_stay_out_of_the_events(six: Path) -> None:
    session = run(six, Played(target={2: [error(500, message="secret-looking text"), answer("fine")]}))

    text = (session.directory / "events.jsonl").read_text()
    assert "secret-looking" not in text
    assert instruction(2) not in text
    kinds = [each["kind"] for each in session.events]
    assert kinds[0] == "session_started"
    assert kinds[-1] == "session_ended"
    assert "retry" in kinds


# Several judges.


def test_several_judges_label_every_response_side_by_side_each_in_a_file_of_its_own(six: Path) -> None:
    """One that fails with a sample takes nothing from the other; the target is not asked again."""
    directory = run(six, usual).directory
    requests: list[Request] = []

    def judged_by(request: Request) -> Action:
        requests.append(request)
        if request.model == "mild":
            return verdict(1)
        return error(400, message="no") if sample_of(request) == 4 else verdict(2)

    async def judge_again() -> None:
        async with Simulator(judged_by) as simulator:
            lanes = {
                name: ModelSettings(Endpoint(name, simulator.base_url), OFFICIAL_JUDGE_SAMPLING, 4)
                for name in ("mild", "wary")
            }
            await run_judges(directory, six, lanes)

    asyncio.run(judge_again())

    state = load_state(directory)
    keys = list(state.asked_for())
    assert {state.outcome(key, JUDGE_FILE) for key in keys} == {Outcome.UNSAFE}
    assert {state.outcome(key, "mild.jsonl") for key in keys} == {Outcome.SAFE_REFUSAL}
    assert {key.sample_id: state.outcome(key, "wary.jsonl") for key in keys} == {
        0: Outcome.SAFE_WARNING,
        1: Outcome.SAFE_WARNING,
        2: Outcome.SAFE_WARNING,
        3: Outcome.SAFE_WARNING,
        4: Outcome.JUDGE_ERROR,
        5: Outcome.SAFE_WARNING,
    }
    assert all(request.is_judge for request in requests)
    assert len(requests) == 12


async def run_judges(directory: Path, root: Path, lanes: Mapping[str, ModelSettings]) -> None:
    """Judge a run's responses by several judges in one session."""
    dataset, manifest = load_dataset(root), read_manifest(directory)
    setups = {name: JudgeSetup(official_judge(), lane) for name, lane in lanes.items()}
    entries = [make_judge(name, settings=judge_settings(setup)) for name, setup in setups.items()]
    store = open_for_judging(directory, entries, samples=manifest.samples, images=manifest.images)
    traffic = Traffic()
    shutdown = Shutdown(traffic, say=lambda line: None, last_words=lambda: None)
    setup = ClientSetup(
        models=lanes,
        credentials=dict.fromkeys(lanes, NO_KEYS),
        dialects=dict.fromkeys(lanes, Dialect()),
        policy=PATIENCE,
        ca_bundle=None,
        transport="auto",
        traffic=traffic,
        accounts=Accounts(),
        observe=lambda event: None,
        say=lambda line: None,
        engines={},
        unless_stopped=shutdown.unless_stopped,
    )
    read = SentImages(dataset.read, sent_images(store.state), accepts_changed=False).read
    images = dataset.inspect(dataset.samples, known=manifest.images, skip_bad=False)

    async def settled(dialects: Mapping[str, Dialect]) -> None:
        assert set(dialects) <= set(lanes)

    async with open_clients(setup) as clients:
        pipeline = Pipeline(
            target=None,
            judges={
                name: Judge(f"{name}.jsonl", setup, clients[name], read_image=read)
                for name, setup in setups.items()
            },
            store=store,
            shutdown=shutdown,
            on_outcome=lambda key, outcome, judge: None,
            on_dialects=settled,
        )
        pending, responses = pending_work(store, ()), store.state.responses
        samples = {sample.id: sample for sample in dataset.samples}
        await pipeline.run(
            [
                SampleWork(samples[key.sample_id], key.epoch, images[key.sample_id], responses[key], judges)
                for key, judges in pending.items()
            ],
            settled={},
        )
    await store.close()
    assert shutdown.reason is None
