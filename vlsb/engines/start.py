"""From a model, an engine and the user's wishes to a server that answers and reads the authors' prompt.

Finding or installing the engine comes before: it blocks for minutes and belongs to no loop.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from vlsb.endpoints.credentials import Redactor
from vlsb.engines.diagnosis import diagnose, log_end
from vlsb.engines.hardware import gpus
from vlsb.engines.install import Engine
from vlsb.engines.launch import RunningServer, launch
from vlsb.engines.llava.convert import converted
from vlsb.engines.plan import ServerPlan, Wishes, plan_server, weights_revision
from vlsb.engines.prompt_check import check_parity, expected_ids
from vlsb.engines.registry import (
    Places,
    ServerRecord,
    file_name,
    open_state_folder,
    process_began_at,
    read_records,
)
from vlsb.errors import ServerExitedError
from vlsb.models.catalog import read_config
from vlsb.models.profile import ModelProfile
from vlsb.steps import OnProgress, Step

KEPT_LOGS = 20
"""How many logs of servers that have ended are kept, all models together."""
STOP_GRACE_S = 15.0

_MOST_LOG_BYTES = 512 * 1024
_LOG = re.compile(r".+\.[0-9]{8}-[0-9]{6}\.(?P<vlsb>[0-9]{1,10})\.log")


async def start_server(
    model: ModelProfile,
    wishes: Wishes,
    engine: Engine,
    places: Places,
    *,
    environment: Mapping[str, str],
    on_progress: OnProgress,
) -> tuple[RunningServer, ServerPlan]:
    """A server once it has answered and its prompt has been compared; who gets it must stop it.

    Nothing of it is left when this raises or is cancelled. A second cancellation kills at once.
    """
    plan = await plan_start(model, wishes, engine, places, environment=environment, on_progress=on_progress)
    server = await start_planned(plan, wishes, places, environment=environment, on_progress=on_progress)
    return server, plan


async def plan_start(
    model: ModelProfile,
    wishes: Wishes,
    engine: Engine,
    places: Places,
    *,
    environment: Mapping[str, str],
    on_progress: OnProgress,
) -> ServerPlan:
    """The plan of a server; weights in the original LLaVA layout are converted first."""
    if model.source_architecture is not None:
        folder = await converted(
            wishes.weights or model.weights,
            weights_revision(wishes, read_config(model.config)),
            places,
            engine,
            on_progress=on_progress,
            environment=environment,
            offline=wishes.offline,
        )
        wishes = replace(wishes, weights=str(folder), revision=None)
    on_progress(Step("loading", "the weights' settings"))

    def plan() -> ServerPlan:
        has_gpu = bool(gpus(environment))
        return plan_server(model, wishes, engine, environment=environment, has_gpu=has_gpu)

    # It reads files, asks the driver, and may ask the hub.
    return await asyncio.to_thread(plan)


async def start_planned(
    plan: ServerPlan,
    wishes: Wishes,
    places: Places,
    *,
    environment: Mapping[str, str],
    on_progress: OnProgress,
    last: RunningServer | None = None,
) -> RunningServer:
    """The planned server, as `start_server` gives it. The authors' prompt is found out while it starts.

    After one that died (`last`), on its address and with its key, so that clients just go on.
    """
    server: RunningServer | None = None
    port, key = (wishes.port, None) if last is None else (urlsplit(last.base_url).port, last.key)
    try:
        async with asyncio.TaskGroup() as group:
            expected = group.create_task(expected_ids(plan, environment=environment))
            server = await launch(
                plan,
                port=port,
                key=key,
                log=fresh_log(places, plan.model.name),
                environment=environment,
                on_progress=on_progress,
                start_timeout_s=wishes.start_timeout_s,
            )
            on_progress(Step("checking", "the prompt against the authors' loader"))
            await check_parity(server, plan, await expected)
    except BaseException as error:
        if server is not None:
            await server.process.stop(STOP_GRACE_S)
        if isinstance(error, BaseExceptionGroup):
            # Whichever failed first has ended the other.
            raise error.exceptions[0] from None
        raise
    return server


def record_of(server: RunningServer, plan: ServerPlan, *, owner: int | None) -> ServerRecord:
    """What others may know of a server; `owner` is the pid of the `vlsb` that ends it, None for nobody.

    Raises ServerExitedError if it has ended.
    """
    began_at = process_began_at(server.pid)
    if began_at is None:
        raise exited_error(server, server.process.exit_code() or 0)
    return ServerRecord(
        name=server.name,
        family=plan.model.family,
        pid=server.pid,
        started_at=began_at,
        owner_pid=owner,
        owner_started_at=None if owner is None else process_began_at(owner),
        base_url=server.base_url,
        served_name=server.served_name,
        key=server.key,
        facts=plan.facts,
        deviations=plan.deviations,
        log=server.log,
        weights=plan.weights,
        engine=f"vLLM {plan.engine.version}",
    )


def exited_error(server: RunningServer, code: int) -> ServerExitedError:
    """Why a server that had been ready has ended: the cause if it is recognised, else the end of its log."""
    text = _log_text(server.log)
    if cause := diagnose(text, code, repair=server.repair):
        return ServerExitedError(f"{server.name}: {cause.message} The engine's log: {server.log}")
    return ServerExitedError(
        f"{server.name}: the engine ended by itself (exit code {code}). Its log, {server.log}, ends with",
        detail=Redactor([server.key]).message(log_end(text)),
    )


def _log_text(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def fresh_log(places: Places, name: str) -> Path:
    """Where a new server's log goes, in the state folder; the oldest of many earlier ones are removed."""
    folder = open_state_folder(places)
    in_use = {record.log for record in read_records(places)}
    ended = [path for path in folder.glob("*.log") if path not in in_use and not _is_of_the_living(path)]
    logs = sorted(ended, key=_age)
    for path in logs[KEPT_LOGS - 1 :]:
        with suppress(OSError):
            path.unlink()
    now = datetime.now().astimezone()
    while True:
        path = folder / f"{file_name(name)}.{now:%Y%m%d-%H%M%S}.{os.getpid()}.log"
        if not path.exists():
            return path
        # Two starts in one second, or a clock that was set back.
        now += timedelta(seconds=1)


def _is_of_the_living(log: Path) -> bool:
    """Whether the `vlsb` that a log's name tells of still lives: a run's own engine has no record."""
    named = _LOG.fullmatch(log.name)
    return named is not None and process_began_at(int(named["vlsb"])) is not None


def _age(path: Path) -> float:
    """Seconds before 1970, so that the youngest comes first; a file that has gone counts as old."""
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
