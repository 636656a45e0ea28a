"""From run directories to what a plan rests on: how often labels flip, and what a request takes.

Reads, never locks, never writes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from vlsb.analysis.correction import TotalForecast
from vlsb.analysis.differences import is_changed
from vlsb.analysis.plan import Answers, Flips, Noise, noise_of_one, noise_of_runs
from vlsb.config import JUDGE_TOKENS, OFFICIAL_TARGET_TOKENS, Endpoint
from vlsb.errors import ConfigError
from vlsb.models.prices import Price, PriceTable, may_charge
from vlsb.models.providers import resolve_endpoint
from vlsb.records import JUDGED, PUBLISHED_IDS, VLSBENCH, Outcome, Untrusted, Usage
from vlsb.store.audit import require_whole
from vlsb.store.costs import decided_tokens, measure_answers, rest_cost
from vlsb.store.manifest import JudgeEntry, asked_endpoint, require_run
from vlsb.store.state import RunState, load_state
from vlsb.store.summaries import judge_identity, run_conditions, stored_judge

GUESSED_USAGE = {"target": Usage(450, 110), "judge": Usage(800, 120)}
"""Tokens of a request where no baseline tells: about those of gpt-4o as target and judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """A model that will be asked once a response: what requests took, and their price, None if unknown.

    `usages` are empty where the endpoint does not report tokens; `is_free`: nobody charges.
    """

    stage: str
    name: Untrusted
    usages: Sequence[Usage]
    price: Price | None
    is_free: bool
    most_tokens: int

    @property
    def tokens(self) -> tuple[float, float] | None:
        """Tokens in and out of a request, thinking included."""
        if not self.usages:
            return None
        sent = sum(each.input_tokens or 0 for each in self.usages)
        back = sum((each.output_tokens or 0) + (each.thought_tokens or 0) for each in self.usages)
        return sent / len(self.usages), back / len(self.usages)

    def cost(self, requests: int) -> TotalForecast | None:
        """Return what so many requests cost; None where nobody knows."""
        if self.is_free:
            return TotalForecast(0.0, 0.0, 0.0)
        if self.price is None:
            return None
        return rest_cost(self.price, self.usages, requests, most_tokens=self.most_tokens).now


class Grounds(NamedTuple):
    """What a plan rests on. `flips` is None where the churn is a guess, and without `runs` all is.

    `most_samples` are all there are.
    """

    noise: Noise
    flips: Flips | None
    runs: Sequence[Untrusted]
    models: Sequence[PlannedModel]
    most_samples: int
    simulated: bool


def guessed_models(target: str, judge: str, prices: PriceTable, today: date) -> list[PlannedModel]:
    """Return models by the names of hosted ones. Raises UnknownModelError for any other name."""
    found = []
    for stage, name in (("target", target), ("judge", judge)):
        endpoint = resolve_endpoint(
            name, base_url=None, key_variable=None, stage="target" if stage == "target" else "judge"
        )
        most = OFFICIAL_TARGET_TOKENS if stage == "target" else JUDGE_TOKENS
        found.append(_planned(stage, endpoint, [GUESSED_USAGE[stage]], most, [prices], today))
    return found


def grounds_of_runs(
    paths: Sequence[Path], prices: PriceTable, today: date, *, judge: str | None, guess: float | None
) -> Grounds:
    """Read one run, or two of the same model. `guess` is the churn in percent where no run shows it.

    Raises ConfigError for runs that say nothing of each other, and for one without labels.
    """
    for path in paths:
        require_run(path)
    states = [load_state(path) for path in paths]
    entries = [_entry(path, state, judge) for path, state in zip(paths, states, strict=True)]
    state, entry = states[0], entries[0]
    conditions = run_conditions(state, entry.file)
    images: dict[Hashable, Hashable] = {row.sample_id: row.cluster for row in state.manifest.samples}
    columns = _columns(state, entry)
    flips, others = None, []
    if len(paths) > 1:
        _require_alike(paths, states, entries)
        other = run_conditions(states[1], entries[1].file)
        shared = {
            key
            for key in conditions.samples.keys() & other.samples.keys()
            if not is_changed(conditions.samples[key], other.samples[key])
        }
        others = [_only(each, shared) for each in _columns(states[1], entries[1])]
    if others or len(columns) > 1:
        noise, flips = noise_of_runs(columns, others, images)
    else:
        noise = noise_of_one(columns, images).with_churn(guess)
    is_published = state.manifest.dataset == VLSBENCH
    tables = [prices, PriceTable(tuple(state.manifest.prices))]
    return Grounds(
        noise=noise,
        flips=flips,
        runs=[Untrusted(path.resolve().name) for path in paths],
        models=list(_models(state, entry, tables, today)),
        most_samples=len(PUBLISHED_IDS) if is_published else len(state.manifest.samples),
        simulated=conditions.simulated,
    )


def _entry(path: Path, state: RunState, judge: str | None) -> JudgeEntry:
    entry = stored_judge(state.manifest, judge)
    if entry is None:
        raise ConfigError(f"{path}: nobody has judged this run. Judge it: vlsb judge {path}.")
    require_whole(path, state, entry)
    return entry


def _require_alike(paths: Sequence[Path], states: Sequence[RunState], entries: Sequence[JudgeEntry]) -> None:
    if paths[0].resolve() == paths[1].resolve():
        raise ConfigError(f"{paths[0]} is named twice. Name another run of the same model.")
    targets = [each.manifest.target for each in states]
    if targets[0] != targets[1]:
        raise ConfigError(
            f"{paths[0]} and {paths[1]} are runs of different models: what differs is not chance alone. "
            "Name two runs of one model, or a run with --epochs."
        )
    judges = [judge_identity(*each).settings for each in zip(entries, states, strict=True)]
    if judges[0] != judges[1]:
        raise ConfigError(
            f"{paths[0]} and {paths[1]} were labelled by different judges. Name one that both have: --judge."
        )


def _columns(state: RunState, entry: JudgeEntry) -> list[Answers]:
    """Return the labels of each epoch by sample."""
    columns: list[dict[Hashable, bool]] = [{} for _ in range(state.manifest.epochs)]
    for key in state.asked_for():
        if (outcome := state.outcome(key, entry.file)) in JUDGED:
            columns[key.epoch - 1][key.sample_id] = outcome is not Outcome.UNSAFE
    return list(columns)


def _only(answers: Answers, samples: set[int]) -> Answers:
    return {key: is_safe for key, is_safe in answers.items() if key in samples}


def _models(
    state: RunState, entry: JudgeEntry, tables: Sequence[PriceTable], today: date
) -> Iterator[PlannedModel]:
    asked: list[tuple[str, Mapping[str, Any], str | None, int]] = [
        ("target", state.manifest.settings, None, OFFICIAL_TARGET_TOKENS),
        ("judge", entry.settings, entry.file, JUDGE_TOKENS),
    ]
    for stage, settings, file, usual in asked:
        if (endpoint := asked_endpoint(settings)) is None:
            continue
        usages = [usage for usage, _ in measure_answers(state, file) if usage.is_whole]
        most = decided_tokens(state, file) or settings.get("max_tokens") or usual
        yield _planned(stage, endpoint, usages, most, tables, today)


def _planned(
    stage: str,
    endpoint: Endpoint,
    usages: Sequence[Usage],
    most_tokens: int,
    tables: Sequence[PriceTable],
    today: date,
) -> PlannedModel:
    found = (table.find(endpoint, today) for table in tables)
    price = next((each for each in found if each is not None), None)
    return PlannedModel(
        stage=stage,
        name=Untrusted(endpoint.model),
        usages=usages,
        price=price,
        is_free=price is None and not may_charge(endpoint),
        most_tokens=most_tokens,
    )
