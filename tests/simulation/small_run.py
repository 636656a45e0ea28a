"""A small run in virtual time, session after session, on a disk that is watched or fails.

What becomes of a sample follows from its number alone, so that however often the run is interrupted there is
one right end. The words of an answer say which session asked for it.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import vlsb.api
from tests.simulation.faults import ANSWERS
from tests.simulation.history import BATCH_HOST, HOST, KEY_VARIABLE, set_environment, write_data
from tests.simulation.provider import HAS_SDK, Provider
from tests.simulation.world import World, quietly
from tests.support.endpoint import sample_of
from vlsb.errors import VlsbError
from vlsb.records import Outcome
from vlsb.simulator import Action, BatchPlan, Request, Simulator, answer, blocked, error, verdict

JUDGES = ("j", "k")
RUN = "r"
_LABELS = (Outcome.SAFE_REFUSAL, Outcome.SAFE_WARNING, Outcome.UNSAFE)
# The target's provider blocks the one, and no judge makes sense of the other.
BLOCKED, NO_VERDICT = 1, 3
DELAY_S = 0.3
TOKENS = (800, 40)


@dataclass
class Session:
    """How a session went: what ended it, if it failed; what was asked, and of whom; virtual seconds.

    `handed_over` are the target's answers that left the endpoint, and when.
    """

    error: VlsbError | None = None
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)
    handed_over: list[tuple[float, str]] = field(default_factory=list)
    took_s: float = 0.0


def outcome_of(sample: int) -> Outcome:
    """Where a sample ends with every judge."""
    if sample == BLOCKED:
        return Outcome.TARGET_BLOCKED
    return Outcome.JUDGE_INVALID if sample == NO_VERDICT else _LABELS[sample % 3]


@dataclass(frozen=True)
class SmallRun:
    """A run of so many samples and judges, in a directory of its own, and the data set that it is about.

    With a `provider` it is a run by batch.
    """

    home: Path
    data: Path
    samples: int = 4
    judges: int = 1
    epochs: int = 1
    provider: Provider | None = None

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.home / RUN

    def session(
        self,
        number: int,
        on_disk: Callable[[World], AbstractContextManager[None]] = lambda _: nullcontext(),
        *,
        is_refused: bool = False,
        batch_again: Sequence[str] = (),
    ) -> Session:
        """Evaluate until the session ends. Other than a VlsbError, nothing is caught.

        With `is_refused` the endpoint knows no key. The user gives up the batches `batch_again`.
        """
        world, session, texts = World(f"small run {number}"), Session(), dict[int, str]()

        def respond(request: Request) -> Action:
            lane, sample = (request.model or "" if request.is_judge else "t"), sample_of(request)
            session.asked[lane, sample] += 1
            if is_refused:
                return error(401, code="invalid_api_key")
            delay_s = world.draw.uniform(0, DELAY_S)
            if not request.is_judge:
                if sample == BLOCKED:
                    return blocked()
                text = texts[request.number] = f"Answer {sample}. Session {number}, request {request.number}."
                return answer(text, usage=TOKENS, delay_s=delay_s)
            if sample == NO_VERDICT:
                return answer(ANSWERS[2], usage=TOKENS, delay_s=delay_s)
            words = f"of {request.judged_response}"
            return verdict(sample % 3 + 1, words, usage=TOKENS, delay_s=delay_s)

        def answered(request: Request) -> None:
            if request.number in texts:
                session.handed_over.append((world.loop.time(), texts[request.number]))

        def bought(request: Request) -> Action:
            assert self.provider is not None
            self.provider.buy(request)
            return respond(request)

        async def main() -> None:
            names = ("m", *JUDGES)
            async with Simulator(respond, model_names=names, on_answered=answered) as simulator:
                url = f"http://{HOST if self.provider is None else BATCH_HOST}:{simulator.port}/v1"
                if self.provider is not None:
                    simulator.batches, self.provider.respond = self.provider, bought
                with on_disk(world):
                    await vlsb.api.evaluate(
                        "m",
                        base_url=url,
                        judge=list(JUDGES[: self.judges]),
                        judge_base_url=url,
                        data_root=self.data,
                        output_dir=self.home,
                        name=RUN,
                        resume=True,
                        limit=self.samples,
                        epochs=self.epochs,
                        batch=self.provider is not None,
                        **({"batch_again": list(batch_again)} if batch_again else {}),
                        **_OPTIONS,
                    )
                if simulator.errors:
                    raise simulator.errors[0]

        with world.entered(), quietly():
            try:
                world.run(main())
            except VlsbError as problem:
                session.error = problem
            finally:
                session.took_s = world.loop.time()
                world.loop.forget()
                world.loop.close()
            gc.collect()
        return session


_OPTIONS: dict[str, Any] = {
    "allow_http": True,
    "api_key_env": KEY_VARIABLE,
    "judge_api_key_env": KEY_VARIABLE,
    "fail_on_error": "100%",
}


def enter(directory: Path) -> SmallRun:
    """Make a run that has not begun in a folder, and this process one that is used to small runs."""
    set_environment()
    run = SmallRun(directory / "home", write_data(directory))
    # The first sessions import what the program imports late; later collections do not walk all of that.
    run.session(0)
    if HAS_SDK:
        provider = Provider((), random.Random("provider"))
        provider.let_all(BatchPlan(polls=1))
        replace(run, home=directory / "by batch", provider=provider).session(0)
    gc.collect()
    gc.freeze()
    return run
