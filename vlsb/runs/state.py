"""What a run directory says, derived from its rows alone.

Reading takes no lock and changes nothing, so it works while the run is going; a torn last line is
somebody's write in progress and is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vlsb.endpoints.completions import is_cut
from vlsb.records import Failure, Outcome, Response, Untrusted, Usage, Verdict
from vlsb.runs import codec
from vlsb.runs.journal import Contents, read_journal
from vlsb.runs.manifest import Manifest, read_manifest

RESPONSES = "responses.jsonl"
FAILURES = "failures.jsonl"
EVENTS = "events.jsonl"
VERDICTS = "verdicts"

T = TypeVar("T")


@dataclass(slots=True)
class LaneTotals:
    """What a lane has cost over all sessions: every stored row counts, superseded ones too."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, attempts: int, usage: Usage) -> None:
        """Count one stored row."""
        self.requests += attempts
        self.input_tokens += usage.input_tokens or 0
        self.output_tokens += usage.output_tokens or 0


@dataclass(slots=True)
class RunState:
    """The rows of a run, the last one of each kind for each sample.

    `superseded` counts rows that a later one replaced, `sessions` is the number of the last session,
    `torn` the files that end in a torn line with the offset of its start.
    """

    manifest: Manifest
    responses: dict[int, Response] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    target_failures: dict[int, Failure] = field(default_factory=dict)
    judge_failures: dict[int, Failure] = field(default_factory=dict)
    target_totals: LaneTotals = field(default_factory=LaneTotals)
    judge_totals: LaneTotals = field(default_factory=LaneTotals)
    superseded: int = 0
    elapsed_by_session: dict[int, float] = field(default_factory=dict)
    ends: dict[Path, Contents[Any]] = field(default_factory=dict)

    def outcome(self, sample_id: int) -> Outcome:
        """Where a sample stands. A verdict counts only for the response it was given for."""
        response = self.responses.get(sample_id)
        if response is None:
            failure = self.target_failures.get(sample_id)
            return Outcome.NOT_ATTEMPTED if failure is None else failure.outcome
        verdict = self.verdicts.get(sample_id)
        if verdict is not None and verdict.response_sha256 == response.sha256:
            return Outcome(verdict.label.value)
        failure = self.judge_failures.get(sample_id)
        if failure is not None and failure.response_sha256 == response.sha256:
            return failure.outcome
        return Outcome.NOT_JUDGED

    @property
    def sessions(self) -> int:
        """The number of the last session; 0 if there was none."""
        return max(self.elapsed_by_session, default=0)

    @property
    def duration_s(self) -> float:
        """Seconds that sessions were at work: each as far as its last row shows."""
        return sum(self.elapsed_by_session.values())

    @property
    def cut_responses(self) -> int:
        """Responses that ended on the token limit."""
        return sum(is_cut(response.completion.finish_reason) for response in self.responses.values())

    def target_models(self) -> Mapping[Untrusted, int]:
        """How often each model name came back from the target."""
        return _count(response.completion.model for response in self.responses.values())

    def judge_models(self) -> Mapping[Untrusted, int]:
        """How often each model name came back from the judge."""
        return _count(verdict.model for verdict in self.verdicts.values())


def _count(models: Iterable[Untrusted | None]) -> Mapping[Untrusted, int]:
    counted = Counter(model for model in models if model is not None)
    return dict(sorted(counted.items()))


def load_state(directory: Path) -> RunState:
    """Read a run. Raises StoreError with path and line number for anything damaged but a torn tail."""
    state = RunState(read_manifest(directory))

    def read(name: str, decode: Callable[[Mapping[str, Any]], T]) -> list[tuple[T, codec.Stamp]]:
        path = directory / name
        contents = read_journal(path, lambda record: (decode(record), codec.decode_stamp(record)))
        state.ends[path] = contents
        for _, stamp in contents.records:
            longest = max(stamp.elapsed_s, state.elapsed_by_session.get(stamp.session, 0.0))
            state.elapsed_by_session[stamp.session] = longest
        return contents.records

    for response, _ in read(RESPONSES, codec.decode_response):
        state.superseded += response.sample_id in state.responses
        state.responses[response.sample_id] = response
        state.target_totals.add(response.completion.attempts, response.completion.usage)
    for verdict, _ in read(f"{VERDICTS}/{state.manifest.judge_file}", codec.decode_verdict):
        state.superseded += verdict.sample_id in state.verdicts
        state.verdicts[verdict.sample_id] = verdict
        state.judge_totals.add(verdict.attempts, verdict.usage)
    for failure, _ in read(FAILURES, codec.decode_failure):
        is_target = failure.stage == "target"
        (state.target_failures if is_target else state.judge_failures)[failure.sample_id] = failure
        (state.target_totals if is_target else state.judge_totals).add(failure.attempts, failure.usage)
    read(EVENTS, lambda record: record)
    return state
