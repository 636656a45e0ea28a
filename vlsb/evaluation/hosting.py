"""A local judge's engine for several sessions in turn: started once, found by each, ended after them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

from vlsb.engines.identify import identify
from vlsb.engines.lease import EngineLease, MayInstall, engine_lease
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.settings import judge_models, judge_wishes
from vlsb.models.profile import ModelProfile
from vlsb.steps import OnProgress, in_thread

_LOOK_EVERY_S = 0.2


@contextmanager
def judge_served(
    options: RunOptions,
    environment: Mapping[str, str],
    *,
    may_install: MayInstall,
    on_progress: OnProgress,
    say: Callable[[str], None],
) -> Iterator[None]:
    """The engine of the one local judge that options name, up for as long as the block lasts.

    Sessions of the block join it, as they would one of `vlsb serve`. Without a local judge, or with several,
    which may not fit beside each other, nothing is started here. Raises as `engine_lease`.
    """
    local = [profile for profile in judge_models(options).values() if profile is not None]
    if len(local) != 1:
        yield
        return
    host = _Host(
        partial(
            engine_lease,
            wishes=judge_wishes(options),
            environment=environment,
            may_install=may_install,
            on_progress=on_progress,
            say=say,
            max_restarts=0,
        ),
        local[0],
    )
    host.start()
    try:
        host.wait_until_up()
        yield
    finally:
        host.stop()


@dataclass(eq=False)
class _Host:
    """A thread whose event loop holds the engine: each session runs and closes a loop of its own."""

    lease: Callable[[ModelProfile], AbstractAsyncContextManager[EngineLease]]
    profile: ModelProfile
    _is_up: threading.Event = field(default_factory=threading.Event)
    _problem: BaseException | None = None
    _cancel: Callable[[], object] | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="judge's engine")
        self._thread.start()

    def wait_until_up(self) -> None:
        """Return when the engine answers; raises what kept it from that. A signal is heard meanwhile."""
        while not self._is_up.wait(_LOOK_EVERY_S):
            pass
        if self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        """End the engine in order, also one that is being started."""
        assert self._thread is not None
        while self._thread.is_alive():
            if self._cancel is not None:
                self._cancel()
            self._thread.join(_LOOK_EVERY_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except asyncio.CancelledError:
            pass
        # Whatever it is, it is raised in the thread that waits for the engine.
        except BaseException as error:  # noqa: BLE001
            self._problem = error
        finally:
            self._is_up.set()

    async def _hold(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        self._cancel = partial(loop.call_soon_threadsafe, task.cancel)
        model = await in_thread(lambda _: identify(self.profile, weights=None, revision=None, offline=False))
        async with self.lease(model) as lease:
            if lease.joined is None:
                lease.publish(await lease.start(), owner=os.getpid())
            self._is_up.set()
            self._cancel = partial(loop.call_soon_threadsafe, stopped.set)
            await stopped.wait()
