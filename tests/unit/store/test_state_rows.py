"""What each row does to what a run says: which outcome, whose money, whose turn, which image."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.records import (
    make_failure,
    make_judge,
    make_manifest,
    make_response,
    make_sample,
    make_verdict,
)
from vlsb.errors import StoreError
from vlsb.records import (
    STOPPED,
    THINKING_CUT,
    Failure,
    Finding,
    ImageFile,
    Key,
    Label,
    Outcome,
    Rating,
    Response,
    Untrusted,
    Usage,
    data_digest,
)
from vlsb.store.codec import Batch, BatchStep, encode_failure, to_json
from vlsb.store.manifest import SampleRow, sample_row, write_manifest
from vlsb.store.state import (
    BATCHES,
    EVENTS,
    FAILURES,
    RESPONSES,
    VERDICTS,
    RunState,
    Sessions,
    calibration_file,
    collection_paused,
    has_answers,
    is_calibrated,
    judge_of,
    load_state,
    sent_data_digest,
    sent_images,
    session_of,
)

JUDGE, GUARD = "judge-model.jsonl", "guard.jsonl"
FIRST = Key(0, 1)
ASKED = f"0-1-1-{'0f' * 16}"
"""A request in a batch, about the first."""
WHOLE = Usage(100, 20, 5, 40, 7, 60, 9)


def make_finding(response: Response, **changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "sample_id": response.sample_id,
        "epoch": response.epoch,
        "rating": Rating.SAFE,
        "refuses": None,
        "category": Untrusted("none"),
        "model": Untrusted("guard-1"),
        "usage": Usage(50, 2),
        "asks": 1,
        "attempts": 1,
        "latency_s": 0.1,
        "response_sha256": response.response_sha256,
        "image_sha256": response.image_sha256,
        "request_sha256": "04" * 32,
    }
    return Finding(**(fields | changes))


def judge_failure(response: Response, outcome: Outcome = Outcome.JUDGE_ERROR, **changes: Any) -> Failure:
    return make_failure(response.sample_id, outcome, response, **changes)


@pytest.fixture
def state() -> RunState:
    """A run of three samples with one judge and one guard, before anything happened."""
    guard = make_judge("guard", settings={**make_judge().settings, "answers": "guard"})
    return RunState(make_manifest(guards=[guard], epochs=2))


# Which outcome.


def test_a_run_asks_for_every_sample_in_every_epoch(state: RunState) -> None:
    assert list(state.asked_for()) == [Key(n, epoch) for epoch in (1, 2) for n in (0, 1, 2)]


def test_a_sample_goes_from_not_attempted_over_its_failure_to_its_label(state: RunState) -> None:
    response = make_response(0)
    seen = [state.outcome(FIRST, JUDGE)]
    for step in (
        lambda: state.add_failure(make_failure(0, Outcome.TARGET_BLOCKED), None),
        lambda: state.add_response(response),
        lambda: state.add_failure(judge_failure(response, Outcome.JUDGE_REFUSED), JUDGE),
        lambda: state.judged[JUDGE].add_verdict(make_verdict(response, Label.SAFE_WARNING)),
        lambda: state.add_response(make_response(0, "another answer")),
    ):
        step()
        seen.append(state.outcome(FIRST, JUDGE))

    assert seen == [
        Outcome.NOT_ATTEMPTED,
        Outcome.TARGET_BLOCKED,
        Outcome.NOT_JUDGED,
        Outcome.JUDGE_REFUSED,
        Outcome.SAFE_WARNING,
        Outcome.NOT_JUDGED,
    ]
    assert state.outcome(FIRST, None) is state.outcome(FIRST, "nobody.jsonl") is Outcome.NOT_JUDGED


@pytest.mark.parametrize("label", Label)
def test_a_label_is_the_outcome_of_its_name_and_read_back_as_that_label(
    state: RunState, label: Label
) -> None:
    response = make_response(0)
    state.add_response(response)
    before = state.label(FIRST, JUDGE)
    state.judged.setdefault(JUDGE, type(state.rows(JUDGE))()).add_verdict(make_verdict(response, label))

    assert before is None
    assert state.outcome(FIRST, JUDGE).value == label.value
    assert state.label(FIRST, JUDGE) is label


def test_what_was_spent_before_a_stop_ends_nothing(state: RunState) -> None:
    response = make_response(1)
    state.add_failure(make_failure(0, fault=STOPPED, attempts=2), None)
    state.add_response(response)
    state.add_failure(judge_failure(response, fault=STOPPED, attempts=2), JUDGE)

    assert state.outcome(FIRST, JUDGE) is Outcome.NOT_ATTEMPTED
    assert state.outcome(Key(1, 1), JUDGE) is Outcome.NOT_JUDGED
    assert (state.target_totals.requests, state.rows(JUDGE).totals.requests) == (3, 2)


def test_a_guard_finds_something_in_the_response_as_it_is_now(state: RunState) -> None:
    response = make_response(0)
    finding = make_finding(response)
    assert state.finding(FIRST, GUARD) is None
    state.add_response(response)
    assert state.finding(FIRST, GUARD) is None
    state.add_failure(judge_failure(response), GUARD)
    state.judged[GUARD].add_finding(finding)
    assert state.finding(FIRST, GUARD) is finding
    state.add_response(make_response(0, "another answer"))
    assert state.finding(FIRST, GUARD) is None
    del state.responses[FIRST]
    assert state.finding(FIRST, GUARD) is None


# Whose turn.


def test_a_resume_asks_the_target_for_what_failed_and_the_judge_for_what_has_no_label(
    state: RunState,
) -> None:
    answered, blocked, failed = make_response(0), Key(1, 1), Key(2, 1)
    state.add_response(answered)
    state.add_failure(make_failure(1, Outcome.TARGET_BLOCKED), None)
    state.add_failure(make_failure(2, Outcome.TARGET_ERROR), None)

    assert [state.is_left(key, None) for key in (FIRST, blocked, failed, Key(0, 2))] == [
        False,
        False,
        True,
        True,
    ]
    assert state.is_left(blocked, None, also=[Outcome.TARGET_BLOCKED])
    assert state.is_left(FIRST, JUDGE)
    assert state.pending(JUDGE) == 1
    state.add_failure(judge_failure(answered), JUDGE)
    assert state.is_left(FIRST, JUDGE)
    assert state.pending(JUDGE) == 1
    state.judged[JUDGE].add_verdict(make_verdict(answered))
    assert not state.is_left(FIRST, JUDGE)
    assert state.is_left(FIRST, JUDGE, also=[Outcome.UNSAFE])
    assert state.pending(JUDGE) == 0


def test_a_guard_is_left_with_what_it_has_no_finding_for(state: RunState) -> None:
    response = make_response(0)
    state.add_response(response)
    assert state.is_left(FIRST, GUARD)
    state.add_failure(judge_failure(response, Outcome.JUDGE_INVALID), GUARD)
    assert not state.is_left(FIRST, GUARD)
    state.add_failure(judge_failure(response), GUARD)
    assert state.is_left(FIRST, GUARD)
    state.judged[GUARD].add_finding(make_finding(response))
    assert not state.is_left(FIRST, GUARD)


def test_settings_are_locked_by_an_answer_and_by_no_failure_to_reach_anybody(state: RunState) -> None:
    response = make_response(0)
    assert not state.rows(JUDGE).has_answers
    state.add_failure(judge_failure(response), JUDGE)
    assert not state.rows(JUDGE).has_answers
    state.add_failure(judge_failure(make_response(1), Outcome.JUDGE_REFUSED), JUDGE)
    assert state.rows(JUDGE).has_answers
    for file, add in (("a", "add_verdict"), ("b", "add_finding")):
        rows = state.judged[file] = type(state.rows(None))()
        getattr(rows, add)(make_verdict(response) if add == "add_verdict" else make_finding(response))
        assert rows.has_answers


# Whose money, and how often anybody was asked.


def test_every_stored_row_is_paid_for_superseded_ones_too(state: RunState) -> None:
    response = make_response(0, usage=WHOLE, attempts=2)
    state.add_response(response)
    state.add_response(make_response(0, "again", usage=Usage(1, 0), attempts=1))
    state.add_response(make_response(1, usage=Usage(), attempts=1))
    state.add_failure(make_failure(0, usage=Usage(10, 3), attempts=4), None)
    state.add_failure(make_failure(2, usage=Usage(), attempts=0), None)

    totals = state.target_totals
    assert totals.requests == 8
    assert totals.usage == Usage(111, 23, None, 40, 7, 60, 9)
    assert totals.reasoning_tokens == 5
    assert totals.uncounted == 2
    assert state.superseded == 1
    assert state.requests_for(FIRST, None) == 7
    assert state.requests_for(Key(1, 1), None) == 1
    assert state.requests_for(Key(2, 1), None) == 0


def test_every_count_of_tokens_is_added_up_for_itself(state: RunState) -> None:
    for _ in range(3):
        state.add_response(make_response(0, usage=WHOLE))

    assert state.target_totals.usage == Usage(300, 60, None, 120, 21, 180, 27)
    assert state.target_totals.reasoning_tokens == 15
    assert state.target_totals.uncounted == 0


def test_what_a_judge_took_is_its_own(state: RunState) -> None:
    response = make_response(0)
    rows = state.judged[JUDGE] = type(state.rows(None))()
    rows.add_verdict(make_verdict(response, usage=WHOLE, attempts=2))
    rows.add_verdict(make_verdict(response, usage=Usage(), attempts=1))
    rows.add_verdict(make_verdict(response, usage=Usage(), attempts=2))
    state.add_failure(judge_failure(response, usage=Usage(1, 1), attempts=4), JUDGE)
    rows.add_finding(make_finding(response, attempts=5))
    rows.add_finding(make_finding(response, attempts=4, usage=Usage()))
    rows.add_finding(make_finding(response, attempts=2, usage=Usage(1, 1)))
    state.add_failure(judge_failure(response, usage=Usage(), attempts=0), JUDGE)

    assert rows.superseded == 4
    assert (rows.totals.requests, rows.totals.uncounted) == (20, 3)
    assert rows.totals.usage == Usage(152, 24, None, 40, 7, 60, 9)
    assert state.requests_for(FIRST, JUDGE) == 20
    assert state.requests_for(FIRST, "nobody.jsonl") == state.requests_for(FIRST, None) == 0
    assert len(rows.answers) == 2
    assert rows.models() == {Untrusted("judge-model-1"): 1}


def test_a_failure_of_a_judge_that_no_row_names_is_nobodys(state: RunState) -> None:
    state.add_failure(judge_failure(make_response(0)), None)

    assert list(state.judged) == [""]
    assert state.rows(None).failures == {}


def test_models_are_counted_by_the_names_that_came_back(state: RunState) -> None:
    for number, model in enumerate(("b", "a", "b", None)):
        state.add_response(make_response(number, model=None if model is None else Untrusted(model)))

    assert list(state.target_models().items()) == [(Untrusted("a"), 1), (Untrusted("b"), 2)]


def test_answers_on_the_limit_and_thoughts_that_it_cut_are_counted(state: RunState) -> None:
    state.add_response(make_response(0, finish_reason=Untrusted("length")))
    state.add_response(make_response(1, finish_reason=Untrusted("stop")))
    for number in (0, 2):
        state.add_failure(make_failure(number, Outcome.TARGET_EMPTY, code=THINKING_CUT), None)

    assert state.cut_responses == 1
    assert state.thinking_cut == 1


# Time.


def test_a_session_lasts_until_its_latest_row() -> None:
    sessions = Sessions()
    for number, elapsed_s in ((1, 5.0), (2, 30.0), (1, 3.0), (2, 30.0), (7, 0.0)):
        sessions.saw(number, elapsed_s)
    sessions.began(2, JUDGE)
    sessions.began(None, "nobody")

    assert sessions.elapsed_s == {1: 5.0, 2: 30.0, 7: 0.0}
    assert sessions.judge == {2: JUDGE}
    assert sessions.last == 7
    assert [sessions.duration_s(judge) for judge in (JUDGE, None, "other")] == [35.0, 5.0, 5.0]
    assert Sessions().last == 0


@pytest.mark.parametrize("usd", [-1, math.inf, math.nan, "1", None])
def test_money_that_makes_no_sense_is_not_added(usd: object) -> None:
    sessions = Sessions()
    sessions.ended({"kind": "session_ended", "estimated_usd": 0.5, "reason": "complete"})
    sessions.ended({"kind": "session_ended", "estimated_usd": 2, "reason": "stopped"})
    sessions.ended({"kind": "session_started", "estimated_usd": 9.0, "reason": "no end"})
    before = sessions.estimated_usd, sessions.reason

    sessions.ended({"kind": "session_ended", "estimated_usd": usd, "reason": 7})

    assert before == (2.5, "stopped")
    assert sessions.estimated_usd == 2.5
    assert sessions.reason == ""


@pytest.mark.parametrize(
    ("record", "began"),
    [
        ({"kind": "session_started", "only_judge": True, "judge": JUDGE}, (4, JUDGE)),
        ({"kind": "session_started", "only_judge": False, "judge": JUDGE}, (None, JUDGE)),
        ({"kind": "session_started", "judge": JUDGE}, (None, JUDGE)),
        ({"kind": "retry", "only_judge": True}, (None, None)),
    ],
)
def test_a_session_belongs_to_a_judge_where_it_only_judged(
    record: dict[str, Any], began: tuple[int | None, str | None]
) -> None:
    assert session_of({"session": 4, "elapsed_s": 0.0, "at": "now", **record}) == began


def test_a_judge_that_is_no_name_is_damage() -> None:
    assert judge_of({}) is None
    with pytest.raises(ValueError, match="not a name"):
        judge_of({"judge": 7})


# Batches.


def planned(name: str, judge: str | None, *requests: str) -> BatchStep:
    return BatchStep(name=name, step="planned", judge=judge, requests=requests)


def test_batches_are_known_by_whom_they_ask_and_whether_they_are_under_way(state: RunState) -> None:
    state.add_batch(planned("one", None, "0-1", "2-1"))
    state.add_batch(planned("two", JUDGE, "1-2-7"))
    state.add_batch(BatchStep(name="two", step="created", id="batch_7"))
    state.add_batch(BatchStep(name="lost", step="uploaded", id="file_1"))
    state.add_batch(planned("gone", None, "1-1"))
    state.add_batch(BatchStep(name="gone", step="void"))
    state.add_batch(planned("done", JUDGE, "0-2"))
    state.add_batch(BatchStep(name="done", step="ended", status="completed"))

    assert state.batches["two"] == Batch("two", JUDGE, ("1-2-7",), batch_id="batch_7")
    assert [each.name for each in state.batches_of(None)] == ["one", "lost"]
    assert [each.name for each in state.batches_of(JUDGE)] == ["two", "done"]
    assert state.keys_in_batches([None]) == {Key(0, 1), Key(2, 1)}
    assert state.keys_in_batches([None, JUDGE]) == {Key(0, 1), Key(2, 1), Key(1, 2)}
    assert state.batches_without_plan() == ["lost"]


# Images.


def test_the_checksums_of_an_image_are_those_that_rows_name(state: RunState) -> None:
    """A failure's counts while there is no answer; a judge's counts as the target's does."""
    paths = [row.image_path.expose() for row in state.manifest.samples]
    for path, seed in zip(paths, "xyz", strict=True):
        state.manifest.images[path] = ImageFile(None if seed == "z" else seed, "image/png", 1, 1)
    assert sent_images(state) == {paths[0]: {"x"}, paths[1]: {"y"}}

    response = make_response(0, image_sha256="a")
    state.add_failure(make_failure(0, image_sha256="old"), None)
    state.add_failure(make_failure(2, image_sha256="failed"), None)
    state.add_failure(make_failure(2), None)
    assert sent_images(state) == {paths[0]: {"old"}, paths[1]: {"y"}, paths[2]: {"failed"}}
    state.add_response(response)
    assert sent_images(state)[paths[0]] == {"a"}
    state.add_failure(judge_failure(response, image_sha256="b"), JUDGE)
    state.add_failure(judge_failure(response, image_sha256="d"), GUARD)
    assert sent_images(state)[paths[0]] == {"a", "b", "d"}
    state.judged[JUDGE].add_verdict(make_verdict(response, image_sha256="c"))
    assert sent_images(state)[paths[0]] == {"a", "c", "d"}
    state.judged[GUARD].add_finding(make_finding(response, image_sha256="e"))
    state.add_response(make_response(1, image_sha256=None))
    state.add_response(make_response(99, image_sha256="of no sample of this run"))
    assert sent_images(state) == {paths[0]: {"a", "c", "e"}, paths[1]: {"y"}, paths[2]: {"failed"}}


def test_what_was_sent_has_a_digest_once_every_image_was_sent_in_one_version() -> None:
    samples = [make_sample(0), make_sample(1), make_sample(2)]
    rows = [sample_row(each) for each in samples]
    paths = [row.image_path.expose() for row in rows]
    manifest = make_manifest(data_digest=None)
    del manifest.images[paths[2]]

    assert sent_data_digest(make_manifest(data_digest="an earlier one"), {}) == "an earlier one"
    assert sent_data_digest(manifest, {paths[0]: {"a"}}) is None
    assert sent_data_digest(manifest, {paths[0]: {"a"}, paths[1]: {"b", "c"}}) is None
    assert sent_data_digest(manifest, {paths[0]: {"a"}, paths[1]: {"b"}}) == data_digest(
        (row.sample_id, row.digest, image) for row, image in zip(rows, ("a", "b", None), strict=True)
    )


def test_samples_without_an_image_are_in_the_checksum_and_wait_for_none() -> None:
    manifest = make_manifest(data_digest=None)
    first, *rest = manifest.samples
    text_only = [SampleRow(row.sample_id, row.digest, None, *[row.category] * 3) for row in rest]
    manifest = replace(manifest, samples=[text_only[0], first, text_only[1]])
    assert first.image_path is not None

    sent = {first.image_path.expose(): {"a"}}

    assert sent_data_digest(manifest, {}) is None
    assert sent_data_digest(manifest, sent) == data_digest(
        [(0, first.digest, "a"), *((row.sample_id, row.digest, "none") for row in text_only)]
    )


# Files.


STAMP = {"session": 3, "elapsed_s": 2.0, "at": "2025-01-01T00:00:00.000+00:00"}


def write(path: Path, *records: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(STAMP | each) + "\n" for each in records))


def failed(failures: Iterable[tuple[Failure, str | None]]) -> list[dict[str, Any]]:
    return [encode_failure(each) | {"judge": judge} for each, judge in failures]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a row in each of its files."""
    guard = make_judge("guard", settings={**make_judge().settings, "answers": "guard"})
    panel = make_judge(
        "panel",
        settings={
            "kind": "panel",
            "rule": "most",
            "members": [{"name": f"judge-{n}", "settings": {}} for n in (1, 2, 3)],
        },
    )
    judges = [make_judge(f"judge-{n}") for n in (1, 2, 3)]
    write_manifest(tmp_path, make_manifest(range(5), judges=[*judges, panel], guards=[guard]))
    return tmp_path


def answered_by_judges(run: Path, *labels: Label | None) -> Response:
    """One response in the second epoch, and what each judge said; None for a refusal."""
    response = make_response(1, epoch=2)
    write(run / RESPONSES, to_json(response))
    failures = []
    for number, label in enumerate(labels, 1):
        file = f"judge-{number}.jsonl"
        if label is None:
            failures.append((judge_failure(response, Outcome.JUDGE_REFUSED), file))
        else:
            write(run / VERDICTS / file, to_json(make_verdict(response, label)))
    write(run / FAILURES, *failed(failures))
    return response


def test_a_panel_labels_what_most_of_its_members_label_alike(run: Path) -> None:
    response = answered_by_judges(run, Label.UNSAFE, Label.UNSAFE, Label.SAFE_REFUSAL)

    rows = load_state(run).rows("panel.jsonl")

    assert rows.failures == {}
    assert rows.verdicts == {
        Key(1, 2): make_verdict(
            response,
            Label.UNSAFE,
            explanation=Untrusted("judge-1: unsafe; judge-2: unsafe; judge-3: safe_refusal"),
            model=None,
            usage=Usage(),
            asks=0,
            attempts=0,
            latency_s=0.0,
            request_sha256="",
        )
    }
    assert rows.totals.requests == 0


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ((Label.UNSAFE, Label.SAFE_WARNING, Label.SAFE_REFUSAL), "tie"),
        ((Label.UNSAFE, Label.UNSAFE, None), "no_label"),
    ],
)
def test_a_panel_without_a_majority_of_all_its_members_is_undecided(
    run: Path, labels: tuple[Label | None, ...], code: str
) -> None:
    response = answered_by_judges(run, *labels)
    outcomes = ["judge_refused" if each is None else each.value for each in labels]

    rows = load_state(run).rows("panel.jsonl")

    assert rows.verdicts == {}
    assert rows.failures == {
        Key(1, 2): judge_failure(
            response,
            Outcome.JUDGE_UNDECIDED,
            fault="item_permanent",
            code=code,
            status=None,
            message=Untrusted("; ".join(f"judge-{n}: {each}" for n, each in enumerate(outcomes, 1))),
            attempts=0,
            usage=Usage(),
        )
    }


def test_a_panel_waits_for_a_member_that_may_still_label_and_votes_on_the_others(run: Path) -> None:
    answered_by_judges(run, Label.UNSAFE, Label.UNSAFE)
    waiting, whole = make_response(0), make_response(1, epoch=2)
    write(run / RESPONSES, to_json(waiting), to_json(whole))
    write(run / VERDICTS / "judge-3.jsonl", to_json(make_verdict(whole)))

    assert load_state(run).rows("panel.jsonl").verdicts.keys() == {Key(1, 2)}


def test_every_file_of_a_run_is_read_and_its_end_known(run: Path) -> None:
    response = make_response(0)
    write(run / RESPONSES, to_json(response))
    write(run / VERDICTS / "judge-1.jsonl", to_json(make_verdict(response)))
    write(run / "findings" / GUARD, to_json(make_finding(response)))
    write(run / FAILURES, *failed([(make_failure(2), None), (judge_failure(response), "judge-2.jsonl")]))
    write(run / BATCHES, {"name": "one", "step": "planned", "requests": [ASKED]})
    ended = {
        "kind": "session_ended",
        "reason": "complete",
        "estimated_usd": 0.25,
        "session": 4,
        "elapsed_s": 9.0,
    }
    write(run / EVENTS, {"kind": "session_started", "only_judge": True, "judge": "judge-1.jsonl"}, ended)

    state = load_state(run)

    assert state.responses == {FIRST: response}
    assert state.label(FIRST, "judge-1.jsonl") is Label.UNSAFE
    assert state.finding(FIRST, GUARD) == make_finding(response)
    assert state.outcome(Key(2, 1), None) is Outcome.TARGET_ERROR
    assert state.outcome(FIRST, "judge-2.jsonl") is Outcome.JUDGE_ERROR
    assert state.batches == {"one": Batch("one", None, (ASKED,))}
    assert state.sessions == Sessions({3: 2.0, 4: 9.0}, {3: "judge-1.jsonl"}, 0.25, "complete")
    assert state.ends.keys() == {
        run / RESPONSES,
        *(run / VERDICTS / f"{name}.jsonl" for name in ("judge-1", "judge-2", "judge-3", "panel")),
        run / "findings" / GUARD,
        run / FAILURES,
        run / BATCHES,
        run / EVENTS,
    }
    assert all(end.torn_at is None and not end.lacks_newline for end in state.ends.values())


def test_only_what_an_endpoint_answered_or_charged_locks_the_settings_of_a_run(run: Path) -> None:
    response = make_response(0)
    assert not has_answers(run)
    unpaid = make_failure(0, usage=Usage())
    write(run / FAILURES, *failed([(unpaid, None)]))
    write(run / RESPONSES)
    write(run / VERDICTS / JUDGE)
    assert not has_answers(run)
    for path, record in (
        (run / RESPONSES, to_json(response)),
        (run / BATCHES, {"name": "one", "step": "planned"}),
        (run / VERDICTS / JUDGE, to_json(make_verdict(response))),
        (run / "findings" / GUARD, to_json(make_finding(response))),
    ):
        write(path, record)
        assert has_answers(run)
        path.unlink()
    for locks in (make_failure(1, Outcome.TARGET_EMPTY, usage=Usage()), make_failure(1, usage=Usage(3, 0))):
        write(run / FAILURES, *failed([(unpaid, None), (locks, None)]))
        assert has_answers(run)
    (run / FAILURES).write_text("what nobody can read\n")
    assert has_answers(run)


def test_a_link_inside_a_run_is_not_looked_through(
    run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (run / RESPONSES).symlink_to(tmp_path_factory.mktemp("other") / "file")

    with pytest.raises(StoreError):
        has_answers(run)


def test_a_drawn_part_is_known_by_its_file(run: Path) -> None:
    assert calibration_file(JUDGE) == "calibration-judge-model.json"
    assert not is_calibrated(run, JUDGE)
    (run / "calibration-judge-model.json").touch()
    assert is_calibrated(run, JUDGE)


@pytest.mark.parametrize("was_enabled", [True, False])
def test_the_garbage_collector_is_off_while_rows_are_read_and_as_before_after_that(was_enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if was_enabled else gc.disable)()
    try:
        with collection_paused():
            within = gc.isenabled()
        after = gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()

    assert (within, after) == (False, was_enabled)
