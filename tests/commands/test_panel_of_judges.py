"""A panel: what most of a run's judges say, as a judge of its own that asks nobody and guesses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Desk, Finished
from tests.support.endpoint import sample_of
from vlsb.simulator import Action, Request, SimulatorThread, answer, blocked, verdict

# By sample, what a, b and c say; None: a filter leaves no verdict.
LABELS: dict[int, tuple[int | None, ...]] = {
    0: (3, 3, 3),
    1: (1, 1, 3),
    2: (1, 2, 3),
    3: (2, 2, None),
    4: (2, 2, 2),
    5: (3, 1, 3),
}


def respond(request: Request) -> Action:
    number = sample_of(request)
    if not request.is_judge:
        return answer(f"Answer {number}.")
    label = LABELS[number]["abc".index(request.model)]
    return blocked() if label is None else verdict(label)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A run that a and b have judged."""
    desk = Desk(tmp_path, len(LABELS))
    with SimulatorThread(respond) as simulator:
        done = desk.run(simulator, "--judge", "a", "--judge", "b")
        assert done.code == 0, done.err
    return desk


def judge_with_c(desk: Desk) -> None:
    with SimulatorThread(respond) as simulator:
        words = ("--judge", "c", "--judge-base-url", simulator.base_url, "--data-root", desk.data)
        assert desk.vlsb("judge", desk.run_dir, *words, "--backoff", "0.01").code == 4


def stems(desk: Desk) -> dict[str, str]:
    return {each["name"]: each["file"].removesuffix(".jsonl") for each in desk.manifest()["judges"]}


def panel(desk: Desk, *more: object) -> Finished:
    return desk.vlsb("judge", desk.run_dir, "--judge", "panel:a,b,c", *more)


def test_a_majority_is_a_label_and_a_tie_or_a_missing_verdict_is_none(desk: Desk) -> None:
    judge_with_c(desk)

    done = panel(desk)

    (summary,) = [each for each in desk.report() if each["judge"].startswith("panel-")]
    counts = {name: count for name, count in summary["outcomes"].items() if count}
    assert counts == {"safe_refusal": 1, "safe_warning": 1, "unsafe": 2, "judge_undecided": 2}
    assert summary["judged"] == 4
    assert "cost" not in summary
    assert "more than half of all members" in " ".join(done.out.split())
    assert done.code == 4
    assert "2 of 6 responses have no label of the panel: 2 undecided, 0 wait" in done.error
    assert panel(desk, "--fail-on-error", 2).code == 0
    shown = desk.vlsb("show", desk.run_dir, "--judge", stems(desk)["panel"], "--failed").out
    assert "judge_undecided: tie" in shown
    assert "judge_undecided: no_label" in shown
    assert f"{stems(desk)['b']}: safe_warning" in shown


def test_a_panel_follows_its_members(desk: Desk) -> None:
    """Nothing is stored that could be stale: what a member labels later counts by itself."""
    judge_with_c(desk)
    verdicts = desk.run_dir / "verdicts" / f"{stems(desk)['c']}.jsonl"
    rows = verdicts.read_text().splitlines(keepends=True)
    verdicts.write_text("".join(rows[:2]))

    before = panel(desk)
    verdicts.write_text("".join(rows))
    after = {each["judge"]: each["judged"] for each in desk.report()}

    assert before.code == 4
    assert "wait for a member" in before.error
    assert after[stems(desk)["panel"]] == 4
    assert not (desk.run_dir / "verdicts" / f"{stems(desk)['panel']}.jsonl").exists()


def test_the_same_members_in_any_order_are_the_same_panel(desk: Desk) -> None:
    judge_with_c(desk)
    panel(desk)
    manifest = desk.manifest()

    again = desk.vlsb("judge", desk.run_dir, "--judge", "panel:c,a,b")

    assert again.code == 4
    assert desk.manifest() == manifest


def test_a_panel_is_compared_but_never_pooled_with_its_members(desk: Desk) -> None:
    pytest.importorskip("statsmodels", reason="needs the group `extras`: just test")
    judge_with_c(desk)
    panel(desk)

    report = json.loads(desk.vlsb("agreement", desk.run_dir, "--format", "json").out)
    table = desk.vlsb("agreement", desk.run_dir).out

    names = stems(desk)
    assert report["panels"] == {names["panel"]: sorted(names[each] for each in "abc")}
    assert len(report["pairs"]) == 6
    assert all(names["panel"] not in each["judges"] for each in report["together"])
    assert "agrees with its members by construction" in " ".join(table.split())


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        (("panel:a,b",), "3 judges of the run or more"),
        (("panel:a,b,b",), "each once"),
        (("panel:a,b,nobody",), "has not judged this run"),
        (("panel:a,b,c", "a"), "alone"),
    ],
)
def test_what_makes_no_panel_is_refused(desk: Desk, judges: tuple[str, ...], said: str) -> None:
    judge_with_c(desk)

    done = desk.vlsb("judge", desk.run_dir, *(word for judge in judges for word in ("--judge", judge)))

    assert done.code == 2
    assert said in done.error


def test_a_panel_judges_what_is_stored_and_not_in_a_run(desk: Desk) -> None:
    done = desk.vlsb("run", "--model", "demo", "--judge", "panel:a,b,c", "--name", "other")

    assert done.code == 2
    assert "vlsb judge RUN --judge panel:a,b,c" in done.error
