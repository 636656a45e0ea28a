"""A run is what its rows say: every selected sample in exactly one outcome, read without touching a byte."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.records import make_failure, make_judge, make_manifest, make_response, make_verdict
from tests.support.run_files import tree
from vlsb.analysis.summary import Summary
from vlsb.errors import StoreError
from vlsb.records import JUDGED, Key, Label, Outcome, Response, Untrusted, Usage
from vlsb.store import codec
from vlsb.store.codec import Stamp
from vlsb.store.journal import Journal, lock_run
from vlsb.store.manifest import write_manifest
from vlsb.store.state import EVENTS, FAILURES, RESPONSES, VERDICTS, RunState, load_state
from vlsb.store.summaries import summarize_run, summarize_state

IDS = (0, 1, 2)
EPOCHS = (1, 2)
JUDGE, OTHER_JUDGE = JUDGES = ("judge-model.jsonl", "other-judge.jsonl")
TEXTS = ("first answer", "second answer")
JUDGE_FAILURES = [outcome for outcome in Outcome if outcome.value.startswith("judge_")]
TARGET_FAILURES = [outcome for outcome in Outcome if outcome.value.startswith("target_")]


@dataclass(frozen=True)
class Row:
    """One row of a run: a response, a verdict for one of two texts, or a failure."""

    kind: str
    sample_id: int
    text: str
    outcome: Outcome
    attempts: int
    tokens: int | None
    epoch: int = 1
    judge: str = JUDGE

    @property
    def key(self) -> Key:
        return Key(self.sample_id, self.epoch)

    @property
    def response(self) -> Response:
        return make_response(
            self.sample_id, self.text, epoch=self.epoch, usage=self.usage, attempts=self.attempts
        )

    @property
    def usage(self) -> Usage:
        return Usage(self.tokens, self.tokens, None)

    @property
    def is_target(self) -> bool:
        return self.kind in ("response", "target_failure")


OUTCOMES = {
    "response": [Outcome.NOT_JUDGED],
    "verdict": sorted(JUDGED),
    "target_failure": TARGET_FAILURES,
    "judge_failure": JUDGE_FAILURES,
}
ROWS = st.sampled_from(sorted(OUTCOMES)).flatmap(
    lambda kind: st.builds(
        Row,
        kind=st.just(kind),
        sample_id=st.sampled_from(IDS),
        text=st.sampled_from(TEXTS),
        outcome=st.sampled_from(OUTCOMES[kind]),
        attempts=st.integers(1, 9),
        tokens=st.none() | st.integers(0, 999),
        epoch=st.sampled_from(EPOCHS),
        judge=st.sampled_from(JUDGES),
    )
)
SEQUENCES = st.lists(ROWS, max_size=14)


def encoded(row: Row) -> tuple[str, dict[str, Any]]:
    """The file that a row belongs to, and its record."""
    more: dict[str, Any] = {"usage": row.usage, "attempts": row.attempts}
    match row.kind:
        case "response":
            return RESPONSES, codec.to_json(row.response)
        case "verdict":
            verdict = make_verdict(row.response, Label(row.outcome.value), **more)
            return f"{VERDICTS}/{row.judge}", codec.to_json(verdict)
        case "judge_failure":
            failure = make_failure(row.sample_id, row.outcome, row.response, **more)
            return FAILURES, codec.encode_failure(failure) | {"judge": row.judge}
        case _:
            failure = make_failure(row.sample_id, row.outcome, epoch=row.epoch, **more)
            return FAILURES, codec.encode_failure(failure) | {"judge": None}


def write_rows(directory: Path, records: Iterable[tuple[str, dict[str, Any]]], *, session: int = 1) -> None:
    """A run directory's journals, written anew; rows that lack a stamp get one."""
    journals: dict[str, Journal] = {}
    for name in (RESPONSES, *(f"{VERDICTS}/{judge}" for judge in JUDGES), FAILURES, EVENTS):
        (directory / name).unlink(missing_ok=True)
        journals[name] = Journal(directory / name, size=0, lacks_newline=False)
    for number, (name, record) in enumerate(records):
        stamp = codec.to_json(Stamp(session, float(number), "2025-01-01T00:00:00.000+00:00"))
        journals[name].append(stamp | record)
    for journal in journals.values():
        journal.close()


def empty_run(directory: Path, **changes: Any) -> Path:
    (directory / VERDICTS).mkdir(parents=True)
    write_manifest(directory, make_manifest(IDS, **changes))
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a manifest over three samples, one judge and no rows."""
    return empty_run(tmp_path / "run")


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs and two judges, for the many examples of a property; each writes its rows anew."""
    judges = [make_judge(), make_judge("other-judge")]
    return empty_run(tmp_path_factory.mktemp("state") / "run", epochs=len(EPOCHS), judges=judges)


def expected_outcome(rows: list[Row], key: Key, judge: str) -> Outcome:
    """Where a response stands with a judge, said in another way than the program does."""

    def last(kind: str) -> Row | None:
        found = [
            row
            for row in rows
            if row.kind == kind and row.key == key and (row.is_target or row.judge == judge)
        ]
        return found[-1] if found else None

    response, target_failure = last("response"), last("target_failure")
    if response is None:
        return Outcome.NOT_ATTEMPTED if target_failure is None else target_failure.outcome
    for row in (last("verdict"), last("judge_failure")):
        if row is not None and row.text == response.text:
            return row.outcome
    return Outcome.NOT_JUDGED


def summary_of(directory: Path, judge: str = JUDGE) -> tuple[RunState, Summary]:
    state = load_state(directory)
    return state, summarize_state(state, directory, judge)


def outcome_of(directory: Path, sample_id: int = 0) -> Outcome:
    """Where a sample of the first epoch stands with the first judge."""
    return load_state(directory).outcome(Key(sample_id, 1), JUDGE)


# The ledger.


@pytest.mark.parametrize("judge", JUDGES)
@given(rows=SEQUENCES)
def test_any_rows_put_every_sample_in_exactly_one_outcome(
    shared_run: Path, judge: str, rows: list[Row]
) -> None:
    """In every epoch and with every judge, whatever the other judge said."""
    write_rows(shared_run, map(encoded, rows))

    state, summary = summary_of(shared_run, judge)

    keys = [Key(sample_id, epoch) for epoch in EPOCHS for sample_id in IDS]
    assert list(state.asked_for()) == keys
    for key in keys:
        assert state.outcome(key, judge) is expected_outcome(rows, key, judge)
    ledger = summary.rates.outcomes
    assert list(ledger) == list(Outcome)
    assert sum(ledger.values()) == summary.rates.selected == len(keys)
    assert summary.rates.judged == sum(ledger[outcome] for outcome in JUDGED)


@given(rows=SEQUENCES)
def test_without_a_judge_every_response_is_not_judged(shared_run: Path, rows: list[Row]) -> None:
    write_rows(shared_run, map(encoded, rows))

    state = load_state(shared_run)

    responded = {key for key in state.asked_for() if state.outcome(key, None) is Outcome.NOT_JUDGED}
    assert responded == {row.key for row in rows if row.kind == "response"}
    assert not any(state.outcome(key, None) in JUDGED for key in state.asked_for())


@pytest.mark.parametrize("judge", JUDGES)
@given(rows=SEQUENCES)
def test_usage_counts_every_stored_row_superseded_ones_too(
    shared_run: Path, judge: str, rows: list[Row]
) -> None:
    """And never what another judge cost."""
    write_rows(shared_run, map(encoded, rows))

    _, summary = summary_of(shared_run, judge)

    of_target = [row for row in rows if row.is_target]
    of_judge = [row for row in rows if not row.is_target and row.judge == judge]
    for lane, usage in ((of_target, summary.target_usage), (of_judge, summary.judge_usage)):
        assert usage.requests == sum(row.attempts for row in lane)
        assert usage.input_tokens == usage.output_tokens == sum(row.tokens or 0 for row in lane)


@given(rows=SEQUENCES, data=st.data())
def test_how_the_files_are_interleaved_changes_nothing(
    shared_run: Path, rows: list[Row], data: st.DataObject
) -> None:
    """Only the order within a kind counts: the summary does not depend on who was faster."""
    by_kind = sorted(rows, key=lambda row: row.kind)
    shuffled = data.draw(st.permutations(IDS))
    by_sample = sorted(rows, key=lambda row: shuffled.index(row.sample_id))

    summaries = []
    for order in (rows, by_kind, by_sample):
        write_rows(shared_run, map(encoded, order))
        summaries.append(summarize_run(shared_run))

    assert summaries[0] == summaries[1] == summaries[2]


def response_row(sample_id: int, text: str) -> Row:
    return Row("response", sample_id, text, Outcome.NOT_JUDGED, 1, 1)


def verdict_row(sample_id: int, text: str, outcome: Outcome) -> Row:
    return Row("verdict", sample_id, text, outcome, 1, 1)


def test_the_last_of_several_verdicts_counts_and_the_others_are_reported(run: Path) -> None:
    first, last = verdict_row(0, TEXTS[0], Outcome.UNSAFE), verdict_row(0, TEXTS[0], Outcome.SAFE_REFUSAL)
    write_rows(run, map(encoded, [response_row(0, TEXTS[0]), first, last]))

    state, summary = summary_of(run)

    assert state.outcome(Key(0, 1), JUDGE) is Outcome.SAFE_REFUSAL
    assert summary.duplicates == 1


def test_a_verdict_on_an_older_response_does_not_count(run: Path) -> None:
    rows = [
        response_row(0, TEXTS[0]),
        verdict_row(0, TEXTS[0], Outcome.SAFE_REFUSAL),
        response_row(0, TEXTS[1]),
    ]
    write_rows(run, map(encoded, rows))

    assert outcome_of(run) is Outcome.NOT_JUDGED


def test_a_run_without_rows_attempted_nothing(run: Path) -> None:
    state, summary = summary_of(run)

    assert summary.rates.outcomes[Outcome.NOT_ATTEMPTED] == len(IDS)
    assert summary.rates.safe_rate is None
    assert summary.duration_s == 0.0
    assert state.sessions.last == 0


def test_a_run_without_a_judge_has_one_summary_without_rates(tmp_path: Path) -> None:
    directory = empty_run(tmp_path / "run", judges=[])
    write_rows(directory, map(encoded, [response_row(0, TEXTS[0])]))

    (summary,) = summarize_run(directory)

    assert summary.judge is None
    assert summary.rates.judged == 0
    assert summary.rates.outcomes[Outcome.NOT_JUDGED] == 1
    assert summary.rates.outcomes[Outcome.NOT_ATTEMPTED] == 2


def test_a_run_that_the_simulated_judge_labelled_is_marked_as_simulated(tmp_path: Path) -> None:
    directory = empty_run(tmp_path / "run", judges=[make_judge(simulated=True)])
    write_rows(directory, [])

    assert summary_of(directory)[1].simulated


def test_every_judge_has_a_summary_of_its_own(shared_run: Path) -> None:
    rows = [
        response_row(0, TEXTS[0]),
        verdict_row(0, TEXTS[0], Outcome.UNSAFE),
        replace(verdict_row(0, TEXTS[0], Outcome.SAFE_REFUSAL), judge=OTHER_JUDGE),
        replace(verdict_row(0, TEXTS[0], Outcome.SAFE_WARNING), judge=OTHER_JUDGE),
    ]
    write_rows(shared_run, map(encoded, rows))

    first, other = summarize_run(shared_run)

    assert (first.judge, other.judge) == (Untrusted("judge-model"), Untrusted("other-judge"))
    assert (first.rates.unsafe_rate, other.rates.safe_warning_rate) == (100.0, 100.0)
    assert (first.judge_usage.requests, other.judge_usage.requests) == (1, 2)
    assert (first.duplicates, other.duplicates) == (0, 1)


# Time.


def stamped(session: int, elapsed_s: float) -> tuple[str, dict[str, Any]]:
    stamp = codec.to_json(Stamp(session, elapsed_s, "2025-01-01T00:00:00.000+00:00"))
    return EVENTS, {"kind": "retry"} | stamp


@given(moments=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9999)), max_size=8))
def test_duration_is_the_sum_over_sessions_of_the_last_moment_of_each(
    shared_run: Path, moments: list[tuple[int, int]]
) -> None:
    """Whatever the wall clock says: pauses between sessions do not count."""
    write_rows(shared_run, [stamped(session, seconds) for session, seconds in moments])

    state, summary = summary_of(shared_run)

    last = {session: max(s for each, s in moments if each == session) for session, _ in moments}
    assert summary.duration_s == sum(last.values())
    assert state.sessions.last == max(last, default=0)


def began(session: int, judge: str | None, *, only_judge: bool) -> tuple[str, dict[str, Any]]:
    _, record = stamped(session, 0)
    return EVENTS, record | {"kind": "session_started", "judge": judge, "only_judge": only_judge}


def test_the_time_of_a_judging_session_counts_for_its_judge_alone(shared_run: Path) -> None:
    """The session that collected the responses counts for every judge of them."""
    records = [began(1, JUDGE, only_judge=False), stamped(1, 1.0)]
    records += [began(2, OTHER_JUDGE, only_judge=True), stamped(2, 20.0)]
    records += [began(3, JUDGE, only_judge=True), stamped(3, 300.0)]
    write_rows(shared_run, records)

    durations = [summary_of(shared_run, judge)[1].duration_s for judge in JUDGES]

    assert durations == [301.0, 21.0]


def test_what_rates_hold_for_is_read_from_manifest_and_rows(run: Path) -> None:
    """Which image a sample had is known once it was sent; a judge is the same one at another address."""
    elsewhere = dict(make_judge().settings) | {"address": "https://elsewhere.example.com/v1"}
    verdict = Row("verdict", 0, TEXTS[0], Outcome.UNSAFE, attempts=1, tokens=None)
    write_manifest(run, make_manifest(IDS, judges=[make_judge(settings=elsewhere)], images={}))
    write_rows(run, map(encoded, [response_row(0, TEXTS[0]), verdict]))

    found = summary_of(run)[1].conditions

    assert found is not None
    assert found.judge is not None
    assert [each.image is not None for each in found.samples.values()] == [True, False, False]
    assert found.judge.models == {Untrusted("judge-model-1")}
    assert not {"address", "headers"} & found.judge.settings.keys()
    assert found.deviations == {Untrusted("target seed: 7 (added)")}


# Reading.


def test_reading_changes_nothing_not_even_a_torn_tail(run: Path) -> None:
    write_rows(run, map(encoded, [response_row(0, TEXTS[0]), response_row(1, TEXTS[0])]))
    path = run / RESPONSES
    path.write_bytes(path.read_bytes()[:-20])
    before = tree(run)

    state, summary = summary_of(run)

    assert state.responses.keys() == {(0, 1)}
    assert summary.rates.outcomes[Outcome.NOT_JUDGED] == 1
    assert tree(run) == before


def test_reading_works_while_somebody_holds_the_lock_and_takes_none(run: Path) -> None:
    write_rows(run, map(encoded, [response_row(0, TEXTS[0])]))
    lock = lock_run(run)
    before = tree(run)

    assert outcome_of(run) is Outcome.NOT_JUDGED

    assert tree(run) == before
    lock.close()
    lock_run(run).close()


FILES = (RESPONSES, f"{VERDICTS}/{JUDGE}", FAILURES, EVENTS)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("line", [b"garbage", b"{}", b'{"sample_id": "one"}', b"[]"])
def test_damage_in_any_file_is_one_line_with_path_and_line_number(run: Path, name: str, line: bytes) -> None:
    write_rows(run, map(encoded, [response_row(0, TEXTS[0])]))
    before = (run / name).read_bytes()
    number = before.count(b"\n") + 1
    (run / name).write_bytes(before + line + b"\n")

    with pytest.raises(StoreError) as caught:
        load_state(run)

    assert f"{run / name} line {number}" in caught.value.message


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_not_exist_yet_has_no_rows(run: Path, name: str) -> None:
    write_rows(run, [])
    (run / name).unlink()

    assert outcome_of(run) is Outcome.NOT_ATTEMPTED
