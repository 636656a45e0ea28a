"""Each provider of the table, played by the simulator with its published replies, over a real socket.

The address is the simulator's; name, dialect and key are what the table says. How a reply is classified is
held by `test_provider_errors.py`: here it is what becomes of a run.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.datasets import write_dataset
from tests.support.endpoint import sample_of
from tests.support.provider_errors import ROWS, Becomes, Row
from tests.support.waiting import DEADLINE_S
from vlsb.config import OFFICIAL_JUDGE_SAMPLING, OFFICIAL_TARGET_SAMPLING, ModelSettings, RetryPolicy
from vlsb.data import Selection
from vlsb.endpoints.credentials import load_credentials
from vlsb.errors import VlsbError
from vlsb.evaluation.pipeline import PREFLIGHT_SAMPLES
from vlsb.evaluation.progress import Progress
from vlsb.evaluation.session import Listeners, Plan, prepare, run_session
from vlsb.judging.kinds import JudgeSetup, official_judge
from vlsb.models.providers import PROVIDERS, resolve_endpoint
from vlsb.records import Outcome
from vlsb.simulator import Reply, Request, Responder, Simulator, answer, verdict
from vlsb.store.state import load_state

# What a user types, and what the provider is asked for.
NAMES = {
    "OpenAI": ("gpt-4o", "gpt-4o"),
    "Anthropic": ("claude-sonnet-4-5", "claude-sonnet-4-5"),
    "Gemini": ("gemini-2.5-pro", "gemini-2.5-pro"),
    "xAI": ("grok-4.3", "grok-4.3"),
    "Mistral": ("mistral/pixtral-12b", "pixtral-12b"),
    "OpenRouter": ("openrouter/qwen/qwen2.5-vl-72b-instruct", "qwen/qwen2.5-vl-72b-instruct"),
    "Together": ("together/Qwen/Qwen2.5-VL-72B-Instruct", "Qwen/Qwen2.5-VL-72B-Instruct"),
    "Fireworks": ("fireworks/accounts/fireworks/models/qwen3-vl", "accounts/fireworks/models/qwen3-vl"),
    "Groq": ("groq/qwen/qwen3.6-27b", "qwen/qwen3.6-27b"),
    "DeepInfra": ("deepinfra/Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct"),
    "Ollama": ("ollama/qwen3-vl:8b", "qwen3-vl:8b"),
    "LM Studio": ("lmstudio/qwen/qwen3-vl-8b", "qwen/qwen3-vl-8b"),
}
KEY = "canary-key-of-a-provider"
FATAL = {Becomes.QUOTA: 3, Becomes.ACCESS: 3, Becomes.NO_MODEL: 2}
OUTCOMES = {Becomes.BLOCKED: Outcome.TARGET_BLOCKED, Becomes.CONTEXT: Outcome.TARGET_ERROR}
ATTEMPTS = {Becomes.LIMITED: 2, Becomes.RETRIED: 2}
PATIENT = RetryPolicy(max_attempts=3, attempt_timeout_s=30, sample_timeout_s=60, backoff_s=0.01)


@dataclass(frozen=True)
class Ran:
    """What became of a run."""

    reason: VlsbError | None
    outcomes: dict[int, Outcome]
    manifest: dict[str, Any]
    requests: Sequence[Request]

    def bodies(self, *, is_judge: bool) -> list[dict[str, Any]]:
        """What target or judge was sent."""
        return [each.json for each in self.requests if each.is_judge is is_judge]


def run(directory: Path, name: str, responder: Responder, samples: int, **target: Any) -> Ran:
    """A model as target and judge of a run, played by the simulator in its provider's place.

    `target` are more settings of the target.
    """

    async def whole() -> Ran:
        root = write_dataset(directory / "data", samples)
        async with Simulator(responder) as simulator:
            endpoint = replace(
                resolve_endpoint(name, base_url=None, key_variable=None), base_url=simulator.base_url
            )
            keys = {endpoint.key_variable or "": KEY}
            plan = Plan(
                directory=directory / "run",
                target=ModelSettings(endpoint, OFFICIAL_TARGET_SAMPLING, **target),
                judges=(JudgeSetup(official_judge(), ModelSettings(endpoint, OFFICIAL_JUDGE_SAMPLING)),),
                data_root=root,
                selection=Selection(),
                policy=PATIENT,
            )
            credentials = {stage: load_credentials(endpoint, keys) for stage in ("target", "judge")}
            listeners = Listeners(say=lambda line: None, watch=nobody_watches)
            async with asyncio.timeout(DEADLINE_S):
                end = await run_session(prepare(plan), credentials, listeners)
            assert not simulator.errors
            requests = simulator.completions
        state = load_state(plan.directory)
        judge = next(iter(state.judged), None)
        return Ran(
            end.reason,
            {key.sample_id: state.outcome(key, judge) for key in state.asked_for()},
            json.loads((plan.directory / "run.json").read_text()),
            requests,
        )

    return asyncio.run(whole())


async def nobody_watches(progress: Progress) -> None:
    """Show nothing until cancelled."""
    await asyncio.Event().wait()


def first_of(becomes: Becomes) -> Row:
    """A row of each kind stands for the others: `test_provider_errors.py` reads every one."""
    return next(row for row in ROWS if row.becomes is becomes)


def once(rows: Sequence[Row]) -> Responder:
    """The samples after the preflight's meet one of these replies each, once; all else is answered."""
    met: Counter[int] = Counter()

    def respond(request: Request) -> Reply:
        if request.is_judge:
            return verdict(3)
        number = sample_of(request)
        met[number] += 1
        place = number - PREFLIGHT_SAMPLES
        if 0 <= place < len(rows) and met[number] == 1:
            row = rows[place]
            return Reply(row.status, row.content, row.headers)
        return answer("I can't help with that.")

    return respond


def test_the_stand_ins_are_all_the_providers_that_a_name_means() -> None:
    assert set(NAMES) == {each.name for each in PROVIDERS if each.base_url}


def test_each_kind_of_reply_that_ends_no_run_ends_its_sample_as_the_table_says(tmp_path: Path) -> None:
    """And every reply whose headers say that a limit is used up: the samples behind it are answered."""
    kinds = [first_of(each) for each in Becomes if each not in FATAL]
    rows = [*kinds, *(row for row in ROWS if row.headers and row.becomes not in FATAL)]

    ran = run(tmp_path, "gpt-4o", once(rows), PREFLIGHT_SAMPLES + len(rows))

    sent = Counter(sample_of(each) for each in ran.requests if not each.is_judge)
    assert ran.reason is None
    assert all(ran.outcomes[number] is Outcome.UNSAFE for number in range(PREFLIGHT_SAMPLES))
    for number, row in enumerate(rows, PREFLIGHT_SAMPLES):
        expected = OUTCOMES.get(row.becomes, Outcome.UNSAFE), ATTEMPTS.get(row.becomes, 1)
        assert (ran.outcomes[number], sent[number]) == expected, row.spelling


@pytest.mark.parametrize("provider", NAMES)
def test_a_provider_is_asked_by_its_own_name_in_its_own_dialect(tmp_path: Path, provider: str) -> None:
    typed, name = NAMES[provider]

    ran = run(tmp_path, typed, once(()), 1)

    (target,), (judge,) = ran.bodies(is_judge=False), ran.bodies(is_judge=True)
    known = next(each for each in PROVIDERS if each.name == provider)
    fields = {known.tokens_field: 128, "temperature": 0.0, "top_p": 1.0}
    fields = {field: value for field, value in fields.items() if field not in known.unsent}
    bearer = None if known.key_variable is None else f"Bearer {KEY}"
    assert {field: target[field] for field in set(target) - {"messages"}} == {"model": name, **fields}
    assert judge["model"] == name
    assert ("response_format" in judge) is known.structured
    assert [each.headers.get("authorization") for each in ran.requests] == [bearer, bearer]
    assert (ran.manifest["target"], ran.manifest["settings"]["model"]) == (typed, typed)
    assert ran.manifest["provider"].items() >= {"name": provider, "model": name}.items()
    assert ran.manifest["judges"][0]["provider"] == ran.manifest["provider"]


@pytest.mark.parametrize("becomes", FATAL, ids=str)
def test_what_no_other_sample_would_survive_ends_the_run(tmp_path: Path, becomes: Becomes) -> None:
    row = first_of(becomes)

    def refuse(request: Request) -> Reply:
        return Reply(row.status, row.content, row.headers)

    ran = run(tmp_path, "gpt-4o", refuse, 3)

    assert ran.reason is not None
    assert ran.reason.exit_code == FATAL[becomes]
    assert KEY not in str(ran.reason) + json.dumps(ran.manifest)
    assert set(ran.outcomes.values()) == {Outcome.NOT_ATTEMPTED}


def test_claude_that_takes_neither_sampling_field_is_found_by_the_preflight(tmp_path: Path) -> None:
    """https://github.com/UiPath/uipath-langchain-python/pull/790: from Opus 4.7 on."""

    def respond(request: Request) -> Reply:
        fields = request.json.keys() & {"temperature", "top_p"}
        if fields:
            said = f"`{min(fields)}` is deprecated for this model."
            return Reply(400, {"error": {"type": "invalid_request_error", "message": said}})
        return verdict(3) if request.is_judge else answer("No.")

    ran = run(tmp_path, "claude-opus-4-7", respond, 2)

    assert ran.reason is None
    assert set(ran.outcomes.values()) == {Outcome.UNSAFE}
    assert ran.manifest["decision"]["unsent"] == ["top_p", "temperature"]
    assert any("top_p, temperature" in each for each in ran.manifest["deviations"])


def test_claude_that_is_told_to_think_is_sent_no_sampling_field(tmp_path: Path) -> None:
    ran = run(tmp_path, "claude-opus-4-6", once(()), 1, thinks=True, thinking_tokens=4096)

    (target,) = ran.bodies(is_judge=False)
    assert target.keys() == {"model", "messages", "max_tokens"}
    assert target["max_tokens"] == 4096


def test_the_safety_thresholds_of_gemini_are_recorded_and_none_are_sent(tmp_path: Path) -> None:
    ran = run(tmp_path, "gemini-2.5-pro", once(()), 1)

    said = ran.manifest["provider"]["safety_settings"]
    assert said.startswith("provider default, which for gemini-2.5-pro is: Off ")
    assert all(not {"safety_settings", "extra_body", "google"} & set(each.json) for each in ran.requests)
