"""A run that is made as another one was: what its options are, and whether it really would be like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlsb import strict_json
from vlsb.config import OFFICIAL_TARGET_SAMPLING
from vlsb.errors import ConfigError
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.protocol import SEES_BOTH, chosen_system_prompt, judge_settings
from vlsb.evaluation.session import Plan, Prepared, prepare
from vlsb.records import Untrusted
from vlsb.steps import OnProgress, ignore
from vlsb.store.manifest import (
    OF_ITS_PLACE,
    JudgeEntry,
    SampleRow,
    read_manifest,
    remembered_data_root,
    setting_differences,
)


def options_like(given: RunOptions, run: Path, other: Path, judge: JudgeEntry) -> RunOptions:
    """Return the options of a run that is made as the other one was, with that judge of it.

    What is `given` is kept.
    """
    manifest = read_manifest(other)
    settings = manifest.settings
    like: dict[str, Any] = {
        "output_dir": run.parent,
        "name": run.name,
        "resume": True,
        "epochs": manifest.epochs,
        "dataset": manifest.dataset,
        "judge": (_judge_word(judge),),
        "judge_field": tuple(
            f"{name}={strict_json.dumps(value)}" for name, value in judge.settings.get("extra", {}).items()
        ),
    }
    for name in ("max_tokens", "temperature"):
        value = settings.get(name)
        if value is not None and value != getattr(OFFICIAL_TARGET_SAMPLING, name):
            like[name] = value
    if (prompt := chosen_system_prompt(manifest)) is not None:
        like["system_prompt"] = prompt
    sees = judge.settings.get("sees")
    if sees == SEES_BOTH or (isinstance(sees, list) and "reasoning" in sees):
        like["judge_sees"] = SEES_BOTH
    if "repository" not in manifest.data and (root := remembered_data_root(other)) is not None:
        like["data_root"] = root
    usual = RunOptions()
    return replace(
        given,
        **{name: value for name, value in like.items() if getattr(given, name) == getattr(usual, name)},
    )


def _judge_word(judge: JudgeEntry) -> str:
    """Return a judge as `--judge` names it."""
    kind, model = judge.settings.get("judge"), judge.settings.get("model")
    return ":".join(str(each) for each in (kind, model) if each is not None)


def prepare_like(
    plan: Plan, other: Path, judge: JudgeEntry, rows: Sequence[SampleRow], on_progress: OnProgress = ignore
) -> Prepared:
    """Prepare a session, as `prepare`, of a run like the other one.

    Raises ConfigError where its judge or its samples would not be those.
    """
    (setup,) = plan.judges
    # Where a judge is reached is said by whoever starts the run: a key goes nowhere that a file names.
    theirs, ours = (
        {name: value for name, value in settings.items() if name not in OF_ITS_PLACE}
        for settings in (judge.settings, judge_settings(setup))
    )
    if others := list(setting_differences(theirs, ours, "judge.")):
        raise ConfigError(
            f"The judge would not be the one of {other}. Pass the options that it was asked with, such as "
            "--judge-template, --judges-dir or --engine",
            detail=Untrusted("; ".join(others)),
        )
    prepared = prepare(plan, on_progress)
    if {each.id: each.digest() for each in prepared.samples} != {
        each.sample_id: each.digest for each in rows
    }:
        raise ConfigError(
            f"{plan.data_root or 'The data set'} does not hold the samples of {other}. Pass the --data-root "
            "that it was made from."
        )
    return prepared
