"""Who takes turns on an account, and how a declared limit is divided among those who use it at once."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint
from vlsb.sweep.cells import SweepWork, matrix
from vlsb.sweep.here import AccountLimits
from vlsb.sweep.plan import load_plan
from vlsb.sweep.sizing import Sizing

LIMITS = AccountLimits({"OPENAI_API_KEY": "one", "SAME": "one", "OTHER": "two"})


def works(folder: Path, *models: object, **others: object) -> dict[str, SweepWork]:
    plan = {"models": models, "output-dir": str(folder / "sweep"), **others}
    (folder / "plan.yaml").write_text(json.dumps(plan))
    return {work.name: work for work in matrix(load_plan(str(folder / "plan.yaml")), Sizing()).works}


def parts(of: Mapping[str, SweepWork], places: int, **more: bool) -> dict[str, tuple[float, ...]]:
    unfinished = list(of.values())
    shares = {
        name: LIMITS.shared_out(work, unfinished, places, may_grow=more.get("may_grow", False))
        for name, work in of.items()
    }
    return {name: (*filter(None, [options.rpm]), *options.judge_rpm) for name, options in shares.items()}


def test_a_limit_is_divided_by_those_who_use_its_account_at_once(tmp_path: Path) -> None:
    """Three local cells on two GPUs, and two hosted ones, of which one asks the judge's own model."""
    local = [str(checkpoint(tmp_path / name)) for name in ("a", "b", "c")]
    judges = [{"judge": "gpt-4o", "judge-rpm": 400}]
    found = works(tmp_path, "gpt-4o", "gpt-4o-mini", *local, judges=judges, defaults={"rpm": 100})

    assert parts(found, 2) == {
        "gpt-4o": (25, 100),
        "gpt-4o-mini": (100, 100),
        "a": (100, 100),
        "b": (100, 100),
        "c": (100, 100),
    }


def test_who_is_left_alone_has_all_of_it(tmp_path: Path) -> None:
    local = [str(checkpoint(tmp_path / name)) for name in ("a", "b")]
    found = works(tmp_path, *local, judges=["gpt-4o"], defaults={"judge-rpm": 400, "judge-tpm": 1000})

    assert parts(found, 8) == {"a": (200,), "b": (200,)}
    assert parts({"b": found["b"]}, 8) == {"b": (400,)}
    assert LIMITS.shared_out(found["a"], [*found.values()], 8, may_grow=False).judge_tpm == (500,)
    # More checkpoints may come, and be judged by it too.
    assert parts({"b": found["b"]}, 8, may_grow=True) == {"b": (50,)}


def test_each_judge_has_its_own_account(tmp_path: Path) -> None:
    local = [str(checkpoint(tmp_path / name)) for name in ("a", "b")]
    judges = [{"judge": "gpt-4o", "judge-rpm": 400}, {"judge": "gpt-4o-mini", "judge-rpm": 90}]
    found = works(tmp_path, "gpt-4o-mini", *local, judges=judges)

    assert parts(found, 2)["a"] == (400 / 3, 30)
    assert parts({"a": found["a"], "b": found["b"]}, 1)["a"] == (400, 90)


@pytest.mark.parametrize(("variable", "is_shared"), [("SAME", True), ("OTHER", False)])
def test_one_key_under_two_names_is_one_account(tmp_path: Path, variable: str, is_shared: bool) -> None:
    """A dated snapshot is the model's, too."""
    other = {"model": "gpt-4o-2024-08-06", "api-key-env": variable}
    first, second = works(tmp_path, "gpt-4o", other).values()

    assert LIMITS.turns(first).isdisjoint(LIMITS.turns(second)) is not is_shared


@pytest.mark.parametrize("names", [("ckpt-1000", "ckpt-2000"), ("tune-1015", "tune-1115")])
def test_checkpoints_that_a_server_has_are_no_snapshots_of_one_model(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    served = [{"model": name, "base-url": "http://127.0.0.1:8000/v1"} for name in names]
    first, second = works(tmp_path, *served).values()

    assert LIMITS.turns(first).isdisjoint(LIMITS.turns(second))


def test_judges_alone_take_turns_on_their_account_and_cells_judged_by_it_do_not(tmp_path: Path) -> None:
    local = [str(checkpoint(tmp_path / name)) for name in ("a", "b")]
    judges = ["gpt-4o", {"judge": "text_only:gpt-4o", "judge-field": "seed=1"}]
    first, second, judge = works(tmp_path, *local, judges=judges).values()

    assert not LIMITS.turns(first) | LIMITS.turns(second)
    assert LIMITS.turns(judge)


def test_the_parts_in_use_are_never_more_than_the_whole(tmp_path: Path) -> None:
    """Whatever starts and ends in which order."""
    local = [str(checkpoint(tmp_path / name)) for name in "abcdefg"]
    found = works(tmp_path, "gpt-4o-mini", *local, judges=["gpt-4o"], defaults={"judge-rpm": 60})
    chance = random.Random(7)
    for places in (1, 2, 3, 8):
        waiting, running = list(found.values()), dict[str, float]()
        chance.shuffle(waiting)
        while waiting or running:
            left = [*waiting, *(found[name] for name in running)]
            engines = sum(found[name].num_gpus is not None for name in running)
            startable = [work for work in waiting if work.num_gpus is None or engines < places]
            if startable and chance.random() < 0.7:
                work = startable[0]
                waiting.remove(work)
                (running[work.name],) = LIMITS.shared_out(work, left, places, may_grow=False).judge_rpm
            elif running:
                del running[chance.choice(list(running))]

            assert sum(running.values()) <= 60 + 1e-9
