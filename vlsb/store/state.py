"""What a run directory says, derived from its rows alone.

Reading takes no lock and changes nothing, so it works while the run is going; a torn last line is
somebody's write in progress and is left alone.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vlsb.analysis.panel import majority, members_of
from vlsb.errors import StoreError
from vlsb.records import (
    JUDGED,
    RETRIED_ON_RESUME,
    STOPPED,
    Failure,
    Finding,
    Key,
    Label,
    Outcome,
    Response,
    Untrusted,
    Usage,
    Verdict,
    data_digest,
    is_cut,
)
from vlsb.store.codec import Batch, BatchStep, Decoder, Json
from vlsb.store.journal import End, reading, require_own_files, scan_journal
from vlsb.store.manifest import JudgeEntry, Manifest, judge_name, read_manifest

RESPONSES = "responses.jsonl"
FAILURES = "failures.jsonl"
EVENTS = "events.jsonl"
BATCHES = "batches.jsonl"
RESULTS = "batches"
"""Where the results of batches are, a file each."""
VERDICTS = "verdicts"
FINDINGS = "findings"

_OUTCOMES = {label: Outcome(label.value) for label in Label}


def calibration_file(judge: str) -> str:
    """Name the file of the drawn part that the judge with this verdict file labels before the rest."""
    return f"calibration-{judge_name(judge)}.json"


def is_calibrated(directory: Path, judge: str) -> bool:
    """Say whether a part was drawn for that judge to label before the rest. Raises StoreError."""
    with reading(directory):
        return (directory / calibration_file(judge)).exists()


@dataclass(slots=True)
class ModelTotals:
    """What target or judge has cost over all sessions: every stored row counts, superseded ones too.

    `uncounted` are answers whose tokens the endpoint did not report, or reported in part.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    thought_tokens: int = 0
    batch_input_tokens: int = 0
    batch_output_tokens: int = 0
    uncounted: int = 0

    @property
    def usage(self) -> Usage:
        """The tokens, as of one request; thinking is part of the output."""
        return Usage(
            self.input_tokens,
            self.output_tokens,
            cached_tokens=self.cached_tokens,
            thought_tokens=self.thought_tokens,
            batch_input_tokens=self.batch_input_tokens,
            batch_output_tokens=self.batch_output_tokens,
        )

    def add(self, attempts: int, usage: Usage, *, is_answer: bool) -> None:
        """Count one stored row."""
        self.uncounted += is_answer and not usage.is_whole
        self.requests += attempts
        self.input_tokens += usage.input_tokens or 0
        self.output_tokens += usage.output_tokens or 0
        self.reasoning_tokens += usage.reasoning_tokens or 0
        self.cached_tokens += usage.cached_tokens or 0
        self.thought_tokens += usage.thought_tokens or 0
        self.batch_input_tokens += usage.batch_input_tokens or 0
        self.batch_output_tokens += usage.batch_output_tokens or 0


@dataclass(slots=True)
class Judged:
    """One judge's rows, the last one for each response. `superseded` counts those that another replaced.

    A judge of labels has `verdicts`, a guard `findings`. `requests` counts what was sent for each response,
    in all stored rows. `failed_images` are the images that failures named last: a later failure may have sent
    none.
    """

    verdicts: dict[Key, Verdict] = field(default_factory=dict)
    findings: dict[Key, Finding] = field(default_factory=dict)
    failures: dict[Key, Failure] = field(default_factory=dict)
    failed_images: dict[Key, str] = field(default_factory=dict)
    totals: ModelTotals = field(default_factory=ModelTotals)
    requests: Counter[Key] = field(default_factory=Counter)
    superseded: int = 0

    def add_verdict(self, verdict: Verdict) -> None:
        """Count a verdict; a later one replaces an earlier."""
        key = verdict.key
        self.superseded += key in self.verdicts
        self.verdicts[key] = verdict
        self.requests[key] += verdict.attempts
        self.totals.add(verdict.attempts, verdict.usage, is_answer=True)

    def add_finding(self, finding: Finding) -> None:
        """Count a guard's finding; a later one replaces an earlier."""
        self.superseded += finding.key in self.findings
        self.findings[finding.key] = finding
        self.requests[finding.key] += finding.attempts
        self.totals.add(finding.attempts, finding.usage, is_answer=True)

    def add_failure(self, failure: Failure) -> None:
        """Count a failure of this judge."""
        if failure.fault != STOPPED:
            self.failures[failure.key] = failure
        self.requests[failure.key] += failure.attempts
        if failure.image_sha256 is not None:
            self.failed_images[failure.key] = failure.image_sha256
        self.totals.add(failure.attempts, failure.usage, is_answer=False)

    @property
    def answers(self) -> tuple[Verdict | Finding, ...]:
        """What the judge answered: verdicts or, of a guard, findings."""
        return (*self.verdicts.values(), *self.findings.values())

    @property
    def has_answers(self) -> bool:
        """Whether the judge answered anything: only then are its settings locked in."""
        failed = any(failure.outcome is not Outcome.JUDGE_ERROR for failure in self.failures.values())
        return bool(self.verdicts or self.findings) or failed

    def models(self) -> Mapping[Untrusted, int]:
        """Count how often each model name came back."""
        return _count(verdict.model for verdict in self.verdicts.values())


@dataclass(slots=True)
class Sessions:
    """How long each session was at work, and for which judge it worked (None: for none, or unknown).

    `estimated_usd` is what those that came to their end say that answers cost beside the tokens that their
    endpoints counted; `reason` is the last one's.
    """

    elapsed_s: dict[int, float] = field(default_factory=dict)
    judge: dict[int, str | None] = field(default_factory=dict)
    estimated_usd: float = 0.0
    reason: str = ""

    @property
    def last(self) -> int:
        """The number of the last session; 0 if there was none."""
        return max(self.elapsed_s, default=0)

    def saw(self, session: int, elapsed_s: float) -> None:
        """Note when a row was written."""
        if elapsed_s >= self.elapsed_s.get(session, 0.0):
            self.elapsed_s[session] = elapsed_s

    def began(self, session: int | None, judge: str | None) -> None:
        """Note that a session began, for that judge; None for the session: some other event."""
        if session is not None:
            self.judge[session] = judge

    def ended(self, record: Json) -> None:
        """Note what an event says of a session's end; any other says nothing."""
        if record.get("kind") == "session_ended":
            usd, reason = record.get("estimated_usd"), record.get("reason")
            if isinstance(usd, int | float) and 0 <= usd < math.inf:
                self.estimated_usd += usd
            self.reason = reason if isinstance(reason, str) else ""

    def duration_s(self, judge: str | None) -> float:
        """Count the seconds at work for a judge: its own sessions and those that belong to no other."""
        return sum(s for number, s in self.elapsed_s.items() if self.judge.get(number) in (None, judge))


@dataclass(slots=True)
class RunState:
    """The rows of a run, the last one of each kind for each response, and of each judge apart.

    `failed_images` and `target_requests` as in `Judged`, of the target; `superseded` counts responses that a
    later one replaced; `batches` were submitted, by name; `ends` is how each file that was read ends.
    """

    manifest: Manifest
    responses: dict[Key, Response] = field(default_factory=dict)
    target_failures: dict[Key, Failure] = field(default_factory=dict)
    failed_images: dict[Key, str] = field(default_factory=dict)
    target_totals: ModelTotals = field(default_factory=ModelTotals)
    target_requests: Counter[Key] = field(default_factory=Counter)
    judged: dict[str, Judged] = field(default_factory=dict)
    superseded: int = 0
    batches: dict[str, Batch] = field(default_factory=dict)
    sessions: Sessions = field(default_factory=Sessions)
    ends: dict[Path, End] = field(default_factory=dict)

    def asked_for(self) -> Iterator[Key]:
        """Yield every response that the selection asks for: samples in order, epoch by epoch."""
        for epoch in range(1, self.manifest.epochs + 1):
            for row in self.manifest.asked_samples:
                yield Key(row.sample_id, epoch)

    def rows(self, judge: str | None) -> Judged:
        """Return the rows of the judge with that file; empty ones for one that has none, and for nobody."""
        return Judged() if judge is None else self.judged.get(judge) or Judged()

    def outcome(self, key: Key, judge: str | None) -> Outcome:
        """Tell where a response stands with a judge. A verdict counts only for the text that it is about."""
        response = self.responses.get(key)
        if response is None:
            failure = self.target_failures.get(key)
            return Outcome.NOT_ATTEMPTED if failure is None else failure.outcome
        rows = self.judged.get(judge) if judge is not None else None
        verdict = None if rows is None else rows.verdicts.get(key)
        if verdict is not None and verdict.response_sha256 == response.response_sha256:
            return _OUTCOMES[verdict.label]
        failure = None if rows is None else rows.failures.get(key)
        if failure is not None and failure.response_sha256 == response.response_sha256:
            return failure.outcome
        return Outcome.NOT_JUDGED

    def is_left(self, key: Key, judge: str | None, also: Collection[Outcome] = ()) -> bool:
        """Say whether a resume asks that judge about a response, or for None the target.

        `also` are outcomes that it is told to do again.
        """
        outcome = self.outcome(key, judge)
        if outcome not in RETRIED_ON_RESUME and outcome not in also:
            return False
        return outcome is not Outcome.NOT_JUDGED if judge is None else self.finding(key, judge) is None

    def pending(self, judge: str) -> int:
        """Count the responses that a judge would still be asked about."""
        return sum(self.outcome(key, judge) in RETRIED_ON_RESUME for key in self.responses)

    def finding(self, key: Key, guard: str) -> Finding | None:
        """Return what a guard found in the response as it is now; None if it has not looked at that."""
        response, rows = self.responses.get(key), self.judged.get(guard)
        finding = None if rows is None else rows.findings.get(key)
        if response is None or finding is None or finding.response_sha256 != response.response_sha256:
            return None
        return finding

    def label(self, key: Key, judge: str) -> Label | None:
        """Return the label that a judge gave to a response; None if it gave no label, or took it back."""
        outcome = self.outcome(key, judge)
        return Label(outcome.value) if outcome in JUDGED else None

    def add_response(self, response: Response) -> None:
        """Count a response; a later one replaces an earlier."""
        key = response.key
        self.superseded += key in self.responses
        self.responses[key] = response
        self.target_requests[key] += response.attempts
        self.target_totals.add(response.attempts, response.usage, is_answer=True)

    def add_failure(self, failure: Failure, judge: str | None) -> None:
        """Count a failure, of the target or of a judge."""
        if failure.stage == "judge":
            self.judged.setdefault(judge or "", Judged()).add_failure(failure)
        else:
            if failure.fault != STOPPED:
                self.target_failures[failure.key] = failure
            self.target_requests[failure.key] += failure.attempts
            if failure.image_sha256 is not None:
                self.failed_images[failure.key] = failure.image_sha256
            self.target_totals.add(failure.attempts, failure.usage, is_answer=False)

    def requests_for(self, key: Key, judge: str | None) -> int:
        """Count the requests for a response in stored rows: to a judge, or without one to the target."""
        if judge is None:
            return self.target_requests[key]
        return self.judged[judge].requests[key] if judge in self.judged else 0

    def add_batch(self, step: BatchStep) -> None:
        """Take over what happened to a batch."""
        batch = self.batches.get(step.name) or Batch(step.name)
        self.batches[step.name] = batch.after(step)

    def batches_of(self, judge: str | None) -> list[Batch]:
        """Return the batches that were or may have been made for a judge, or without one for the target."""
        return [each for each in self.batches.values() if each.judge == judge and each.status != "void"]

    def keys_in_batches(self, judges: Iterable[str | None]) -> set[Key]:
        """Return the responses that batches under way ask these judges about; None stands for the target."""
        lanes = set(judges)
        under_way = [each for each in self.batches.values() if each.status is None and each.judge in lanes]
        parts = (name.split("-") for batch in under_way for name in batch.requests)
        return {Key(int(sample_id), int(epoch)) for sample_id, epoch, *_ in parts}

    def batches_without_plan(self) -> list[str]:
        """Name the batches that may be under way without the line that says what they ask."""
        return [each.name for each in self.batches.values() if each.status is None and not each.requests]

    @property
    def cut_responses(self) -> int:
        """Responses that ended on the token limit."""
        return sum(is_cut(response.finish_reason) for response in self.responses.values())

    @property
    def thinking_cut(self) -> int:
        """Responses that are missing because they were cut before the model was done thinking."""
        failures = self.target_failures.items()
        return sum(failure.is_thinking_cut and key not in self.responses for key, failure in failures)

    def target_models(self) -> Mapping[Untrusted, int]:
        """Count how often each model name came back from the target."""
        return _count(response.model for response in self.responses.values())


def sent_images(state: RunState) -> dict[str, set[str]]:
    """Return, by `image_path`, the checksums that stored rows name; an image that was never sent has none.

    A target's failure counts until its sample is answered. Runs of versions that named no image in a
    failure have the checksums that they took before anything was sent.
    """
    rows = state.manifest.samples
    paths = {row.sample_id: row.image_path.expose() for row in rows if row.image_path is not None}
    checksums: dict[str, set[str]] = {}

    def add(key: Key, checksum: str | None) -> None:
        if checksum is not None and key.sample_id in paths:
            checksums.setdefault(paths[key.sample_id], set()).add(checksum)

    for key, response in state.responses.items():
        add(key, response.image_sha256)
    for key, checksum in state.failed_images.items():
        if key not in state.responses:
            add(key, checksum)
    for judged in state.judged.values():
        for key, verdict in judged.verdicts.items():
            add(key, verdict.image_sha256)
        for key, finding in judged.findings.items():
            add(key, finding.image_sha256)
        for key, checksum in judged.failed_images.items():
            if key not in judged.verdicts and key not in judged.findings:
                add(key, checksum)
    pinned = {path: {p.sha256} for path, p in state.manifest.images.items() if p.sha256 is not None}
    return pinned | checksums


def sent_data_digest(manifest: Manifest, sent: Mapping[str, set[str]]) -> str | None:
    """Return `data_digest` of what was sent; None before every image was, or if one had two versions.

    `sent` is as `sent_images` gives it. A run of an earlier version has the digest from when it began.
    """
    if manifest.data_digest is not None:
        return manifest.data_digest
    rows: list[tuple[int, str, str | None]] = []
    for row in manifest.asked_samples:
        if row.image_path is None:
            rows.append((row.sample_id, row.digest, "none"))
            continue
        path = row.image_path.expose()
        checksums = sent.get(path, set())
        if path in manifest.images and len(checksums) != 1:
            return None
        rows.append((row.sample_id, row.digest, next(iter(checksums), None)))
    return data_digest(rows)


def _count(models: Iterable[Untrusted | None]) -> Mapping[Untrusted, int]:
    counted = Counter(model for model in models if model is not None)
    return dict(sorted(counted.items()))


def load_state(directory: Path) -> RunState:
    """Read a run. Raises StoreError with path and line number for anything damaged but a torn tail."""
    with collection_paused():
        state = RunState(read_manifest(directory))
        decoder = Decoder()

        def read(name: str, add: Callable[[Json], None]) -> None:
            def take(record: Json) -> None:
                stamp = decoder.stamp(record)
                add(record)
                state.sessions.saw(stamp.session, stamp.elapsed_s)

            state.ends[directory / name] = scan_journal(directory / name, take)

        def read_answers(entry: JudgeEntry) -> None:
            rows = state.judged.setdefault(entry.file, Judged())
            if entry.is_guard:
                read(f"{FINDINGS}/{entry.file}", lambda record: rows.add_finding(decoder.finding(record)))
            else:
                read(f"{VERDICTS}/{entry.file}", lambda record: rows.add_verdict(decoder.verdict(record)))

        def add_event(record: Json) -> None:
            state.sessions.began(*session_of(record))
            state.sessions.ended(record)

        read(RESPONSES, lambda record: state.add_response(decoder.response(record)))
        for entry in (*state.manifest.judges, *state.manifest.guards):
            read_answers(entry)
        read(FAILURES, lambda record: state.add_failure(decoder.failure(record), judge_of(record)))
        read(BATCHES, lambda record: state.add_batch(decoder.parse(record, BatchStep)))
        read(EVENTS, add_event)
        for entry in state.manifest.judges:
            if members := members_of(entry.settings):
                state.judged[entry.file] = _panel_rows(state, members)
        return state


def _panel_rows(state: RunState, members: Sequence[str]) -> Judged:
    """Vote on each response that no member of a panel may still label."""
    rows = Judged()
    for key, response in state.responses.items():
        outcomes = {name: state.outcome(key, f"{name}.jsonl") for name in members}
        if RETRIED_ON_RESUME.intersection(outcomes.values()):
            continue
        labels = [state.label(key, f"{name}.jsonl") for name in members]
        explanation = Untrusted("; ".join(f"{name}: {outcome.value}" for name, outcome in outcomes.items()))
        if (label := majority(labels)) is not None:
            rows.verdicts[key] = Verdict(
                sample_id=key.sample_id,
                epoch=key.epoch,
                label=label,
                explanation=explanation,
                usage=Usage(),
                asks=0,
                attempts=0,
                latency_s=0.0,
                response_sha256=response.response_sha256,
                image_sha256=response.image_sha256,
                request_sha256="",
            )
        else:
            rows.failures[key] = Failure(
                sample_id=key.sample_id,
                epoch=key.epoch,
                stage="judge",
                outcome=Outcome.JUDGE_UNDECIDED,
                fault="item_permanent",
                code="no_label" if None in labels else "tie",
                message=explanation,
                attempts=0,
                usage=Usage(),
                response_sha256=response.response_sha256,
                details={},
            )
    return rows


def has_answers(directory: Path) -> bool:
    """Say whether a run holds anything that an endpoint answered: only then are its settings locked in.

    A request that failed is no answer, unless its endpoint counted tokens: they are paid for, and stay in the
    run's cost. What cannot be read may be an answer. Raises StoreError for links in the run.
    """
    require_own_files(directory)
    # A batch that was submitted is going to be answered.
    with reading(directory):
        answered = [path for folder in (VERDICTS, FINDINGS) for path in (directory / folder).glob("*.jsonl")]
        files = (directory / RESPONSES, directory / BATCHES, *answered)
        if any(path.exists() and path.stat().st_size for path in files):
            return True
    failures, decoder = list[Failure](), Decoder()
    try:
        scan_journal(directory / FAILURES, lambda record: failures.append(decoder.failure(record)))
    except StoreError:
        return True
    return any(each.outcome is not Outcome.TARGET_ERROR or each.usage != Usage() for each in failures)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause garbage collection while rows are read.

    They are a million objects in no cycle, all kept: each collection walks them all and frees nothing, and
    those walks grow faster than the run.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def judge_of(record: Json) -> str | None:
    """Return the judge's file that a failure or event names, if it names one."""
    judge = record.get("judge")
    if not isinstance(judge, str | None):
        raise ValueError("judge is not a name")
    return judge


def session_of(record: Json) -> tuple[int | None, str | None]:
    """Return the session that an event begins, with the judge it works for; None for any other event."""
    begins = record.get("kind") == "session_started" and record.get("only_judge") is True
    return (Decoder().stamp(record).session if begins else None), judge_of(record)
