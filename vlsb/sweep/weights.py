"""Weights and engines fetched ahead: of the next cell while one runs, or of all where there is a network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial

from vlsb.data import fetch_dataset
from vlsb.engines.checkpoint import fetch_checkpoint, fetch_for_engine
from vlsb.engines.hardware import gpus
from vlsb.engines.install import AUTO
from vlsb.engines.lease import accept, ready_engine
from vlsb.engines.plan import Wishes
from vlsb.errors import VlsbError
from vlsb.evaluation.leasing import identified
from vlsb.models.profile import ModelProfile
from vlsb.records import VLSBENCH
from vlsb.steps import OnProgress, ignore, in_thread
from vlsb.sweep.cells import Matrix
from vlsb.sweep.here import is_on_hub


def fetch(name: str, revision: str | None) -> None:
    """Download a repository's weights into the Hugging Face cache, in a process of its own. Blocking."""
    try:
        fetch_for_engine(name, revision, on_progress=ignore)
    except VlsbError as error:
        sys.exit(f"{name}: {error.message}")


async def prepare(
    matrix: Matrix,
    environment: Mapping[str, str],
    *,
    on_progress: OnProgress,
    say: Callable[[str], None],
) -> list[str]:
    """Fetch the data set, the engines and the weights that a sweep needs; returns what failed, in words."""
    problems = []
    works = matrix.works
    cells = [work.options for work in works if work.is_cell]
    if any(each.dataset == VLSBENCH and each.data_root is None for each in cells):
        try:
            await in_thread(
                lambda report: fetch_dataset(revision=None, offline=False, on_progress=report), on_progress
            )
        except VlsbError as error:
            problems.append(f"The data set: {error.message}")
    needed = {
        (model.weights, model.revision, model.engine.name, work.options.engine): model
        for work in works
        for model in work.weights
    }
    for (*_, engine), model in needed.items():
        say(f"{model.name}: engine and weights")
        try:
            found = await identified(model)
            await ready_engine(
                found,
                Wishes(engine=engine),
                environment=environment,
                may_install=accept,
                on_progress=on_progress,
                say=say,
                # What memory the nodes have cannot be seen from here.
                is_running=True,
            )
            if is_on_hub(model):
                await in_thread(partial(_fetch_weights, found), on_progress)
        except VlsbError as error:
            problems.append(f"{model.name}: {error.message}")
    if not needed:
        say("No local model is in the plan.")
    elif any(engine == AUTO for *_, engine in needed) and not gpus(environment):
        say("No GPU here: these engines are those for the CPU. For nodes with GPUs, prepare on one.")
    return problems


def _fetch_weights(model: ModelProfile, on_progress: OnProgress) -> None:
    """What is converted here comes in another form than what an engine reads itself."""
    if model.source_architecture is not None:
        fetch_checkpoint(model.weights, model.revision, offline=False, on_progress=on_progress)
    else:
        fetch_for_engine(model.weights, model.revision, on_progress=on_progress)
