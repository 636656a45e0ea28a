"""What commands over run directories have to leave: a dictionary, and the machine that compares it.

The commands are the real ones, against a simulated endpoint on a real socket. What becomes of a sample
follows from its number and from the outage of the moment, so the model knows each outcome, and who may be
asked for it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    run_state_machine_as_test,
)

import vlsb
from tests.support.command import Vlsb
from tests.support.datasets import write_dataset
from tests.support.endpoint import sample_of
from vlsb.records import Outcome
from vlsb.simulator import Action, Request, SimulatorThread, Stall, answer, blocked, error, verdict

SAMPLES = 6
FILES = ("responses.jsonl", "verdicts/j.jsonl")
BLOCKED, NO_VERDICT = 0, 1
LABELS = (Outcome.SAFE_REFUSAL, Outcome.SAFE_WARNING, Outcome.UNSAFE)
REDONE = {Outcome.NOT_ATTEMPTED, Outcome.TARGET_ERROR}
"""Where the target is asked by a resume."""
ANSWERED = "answered"


@dataclass
class Run:
    """What a run directory has to hold: how far the target came with each sample, and what judges said.

    `errors` are the samples of which an error is written down: an answer hides it while it is there. `torn`
    are the files that end in half a line. `drawn` is how many answers a person was to label, and `shown` are
    those.
    """

    limit: str
    target: dict[int, Outcome | str]
    verdicts: dict[str, dict[int, Outcome]] = field(default_factory=dict)
    errors: set[int] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    is_imported: bool = False
    drawn: int = 0
    shown: set[int] = field(default_factory=set)

    @property
    def holds_answers(self) -> bool:
        """Whether anybody has answered anything, or half a line may be an answer."""
        return bool(self.torn or any(self.verdicts.values()) or set(self.target.values()) - REDONE)

    def begin(self) -> None:
        """A session begins: a run in which nobody has answered anything starts again."""
        if not self.holds_answers:
            self.target = dict.fromkeys(self.target, Outcome.NOT_ATTEMPTED)
            self.verdicts, self.errors, self.is_imported = {}, set(), False
        self.torn.clear()
        self.verdicts.setdefault("j", {})

    def lose(self, lane: str, sample: int) -> None:
        """A row is gone; what came before the target's answer is seen again."""
        if lane == "responses.jsonl":
            self.target[sample] = Outcome.TARGET_ERROR if sample in self.errors else Outcome.NOT_ATTEMPTED
        else:
            del self.verdicts["j"][sample]

    def outcomes(self, judge: str) -> dict[int, Outcome]:
        """Where each sample ends with a judge."""
        return {sample: self._outcome(sample, judge) for sample in self.target}

    def _outcome(self, sample: int, judge: str) -> Outcome:
        ended = self.target[sample]
        if isinstance(ended, Outcome):
            return ended
        return self.verdicts[judge].get(sample, Outcome.NOT_JUDGED)

    def pending(self) -> set[int]:
        """Those of which a resume asks the target."""
        return {sample for sample, ended in self.target.items() if ended in REDONE}

    def answered(self) -> set[int]:
        """Those that the target has answered."""
        return {sample for sample, ended in self.target.items() if ended == ANSWERED}

    def unjudged(self, judge: str) -> set[int]:
        """The answers that a judge has not judged."""
        return self.answered() - self.verdicts.get(judge, {}).keys()


def new_run(limit: str) -> Run:
    """A run in which nobody was asked."""
    first, last = map(int, limit.split("-"))
    return Run(limit, dict.fromkeys(range(first - 1, last), Outcome.NOT_ATTEMPTED))


def judged(sample: int) -> Outcome:
    """What every judge makes of an answer."""
    return Outcome.JUDGE_INVALID if sample == NO_VERDICT else LABELS[sample % 3]


def count_rows(run: Path) -> int:
    """How many answers and failures stand in a run directory."""
    files = (run / "responses.jsonl", run / "failures.jsonl", *run.glob("verdicts/*.jsonl"))
    return sum(path.read_bytes().count(b"\n") for path in files if path.exists())


class Runs(RuleBasedStateMachine):
    """A folder of runs and an endpoint; after each command every run holds what the model says."""

    folder = "outputs"
    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.data = write_dataset(self.home / "data", SAMPLES)
        self.vlsb = Vlsb(self.home)
        self.model: dict[str, Run] = {}
        self.down: frozenset[int] = frozenset()
        # How many requests are answered until all are left waiting; None for all.
        self.left: int | None = None
        self.endpoint = SimulatorThread(self.respond)
        self.endpoint.__enter__()

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.endpoint.__exit__(None, None, None)
        shutil.rmtree(self.home)

    def respond(self, request: Request) -> Action:
        """What the endpoint does follows from the sample; a sample in an outage is refused."""
        sample = sample_of(request)
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                return Stall()
        if request.is_judge:
            return answer("Well.") if sample == NO_VERDICT else verdict(sample % 3 + 1)
        if sample in self.down:
            return error(400, code="bad_luck")
        return blocked() if sample == BLOCKED else answer(f"Answer {sample} of {request.model}.")

    def path(self, name: str) -> Path:
        """A run's directory."""
        return self.home / self.folder / name

    def foresee(self, run: Run) -> set[int]:
        """What a session that is not interrupted makes of a run; the samples of which it asks the judge."""
        run.begin()
        pending = run.pending()
        for sample in pending:
            self.foresee_target(run, sample)
        # What the target says anew is judged anew, although it may be what was judged before.
        return self.foresee_judge(run, "j") | run.answered() & pending

    def foresee_target(self, run: Run, sample: int) -> None:
        """How the target ends a sample now."""
        if sample in self.down:
            run.target[sample] = Outcome.TARGET_ERROR
            run.errors.add(sample)
        else:
            run.target[sample] = Outcome.TARGET_BLOCKED if sample == BLOCKED else ANSWERED

    def foresee_judge(self, run: Run, judge: str) -> set[int]:
        """What a judge makes of the answers that it has not judged; which those are."""
        unjudged = run.unjudged(judge)
        run.verdicts.setdefault(judge, {}).update((sample, judged(sample)) for sample in unjudged)
        return unjudged

    def foresee_part(self, run: Run, target: Collection[int], judge: Sequence[int]) -> None:
        """What a session makes of a run to which only these answers came."""
        run.begin()
        assert Counter(target) <= Counter(run.pending())
        for sample in target:
            self.foresee_target(run, sample)
        # Whoever gives no verdict is asked a second time.
        done = set(judge) - ({NO_VERDICT} if judge.count(NO_VERDICT) == 1 else set())
        assert done <= run.unjudged("j") | set(target)
        run.verdicts["j"].update((sample, judged(sample)) for sample in done)

    def edit_by_hand(self, name: str, lane: str, number: int, is_moved: bool) -> None:
        """Put a row in another place, or delete it."""
        run, path = self.model[name], self.path(name) / lane
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if not lines or lane in run.torn:
            return
        line = lines.pop(number % len(lines))
        path.write_bytes(b"".join([line, *lines] if is_moved else lines))
        if not is_moved:
            run.lose(lane, json.loads(line)["sample_id"])

    def count(self, step: str) -> None:
        """Remember that a step was made."""
        Runs.steps[step] += 1

    def found(self, name: str) -> dict[str, dict[int, Outcome]]:
        """The outcomes that a run directory holds, with each judge."""
        run = vlsb.load_run(self.path(name))
        return {
            judge: {row["sample_id"]: Outcome(row["outcome"]) for row in run.answer_rows(judge)}
            for judge in run.judges
        }

    @invariant()
    def every_run_holds_what_the_model_says(self) -> None:
        """Each sample of each run, with each judge, ended where the model says."""
        for name, run in self.model.items():
            assert self.found(name) == {judge: run.outcomes(judge) for judge in run.verdicts}, name


def explore(machine: type[Runs], examples: int, steps: int, *, derandomize: bool) -> Counter[str]:
    """Draw so many orders of commands; the steps that were made, by their kind."""
    Runs.steps.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            phases=[Phase.generate] if derandomize else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Runs.steps
