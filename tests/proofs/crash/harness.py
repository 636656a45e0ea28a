"""Kills real runs with SIGKILL, resumes them, and proves that nothing was lost.

`python -m tests.proofs.crash.harness` does so 200 times. After every run: the summary is that of an
uninterrupted one, every record that was complete at a kill is still there, every answer is stored once, and
what was asked again had been unanswered, or answered within the last 100 ms, at a kill. Exits with 1
otherwise.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from tests.proofs.crash.moments import ANYWHERE, KINDS, Kind, Moment, draw_moment
from tests.proofs.test_kill_and_resume import LOST_S, Killer
from tests.proofs.test_kill_and_resume import Moment as CountedMoment
from tests.support.command import Vlsb, run_words
from tests.support.datasets import sharing_rows, write_dataset
from tests.support.endpoint import persona, sample_of, settle
from tests.support.run_files import journals
from vlsb import strict_json
from vlsb.simulator import Request, SimulatorThread

SAMPLES = 60
CONNECTIONS = (1, 4, 8)
KILLS_A_RUN = 7
_NEVER = CountedMoment("request", 0)

Scenario: TypeAlias = Literal["run", "run --epochs 2", "judge"]
SCENARIOS: tuple[Scenario, ...] = ("run", "run --epochs 2", "judge")


class Key(NamedTuple):
    """What is asked for: an answer of a lane about a sample. With epochs, more than once."""

    is_judge: bool
    sample_of: int


def key_of(request: Request) -> Key:
    """What a request asks for."""
    return Key(request.is_judge, sample_of(request))


@dataclass(frozen=True)
class Session:
    """A process that is over, and what it left. `killed_at` is monotonic time, None if it was not killed."""

    requests: list[Request]
    killed_at: float | None
    answered_at: Mapping[int, float]
    cpu_waits_s: Mapping[int, float]
    cpu_waits_at_end_s: float
    gained: Counter[Key]

    @property
    def unstored(self) -> Counter[Key]:
        """What was asked for and is in no file: exactly this has to be asked for again."""
        return Counter(map(key_of, self.requests)) - self.gained

    @property
    def may_be_lost(self) -> Counter[Key]:
        """What was unanswered, or answered too shortly before the kill to be stored for sure."""
        return Counter(key_of(each) for each in self.requests if self._may_be_lost(each))

    def _may_be_lost(self, request: Request) -> bool:
        if self.killed_at is None:
            return False
        answered_at = self.answered_at.get(request.number)
        if answered_at is None:
            return True
        # Time in which the machine gave the process no CPU does not count: nobody stores anything in it.
        without_cpu_s = self.cpu_waits_at_end_s - self.cpu_waits_s.get(request.number, 0.0)
        return self.killed_at - answered_at - without_cpu_s < LOST_S


@dataclass
class Figures:
    """What the harness did and found."""

    kills: Counter[tuple[Scenario, Kind]] = field(default_factory=Counter)
    runs: Counter[Scenario] = field(default_factory=Counter)
    requests: int = 0
    repeated: int = 0
    torn: int = 0
    lost: int = 0
    violations: list[str] = field(default_factory=list)


class CrashRun:
    """One run of a scenario in the directory of `vlsb`, killed and resumed to its end."""

    def __init__(self, vlsb: Vlsb, scenario: Scenario, *, data: Path, seed: str, figures: Figures) -> None:
        self._scenario = scenario
        self._data = data
        self._seed = seed
        self._draw = random.Random(seed)
        self._figures = figures
        self._vlsb = vlsb
        self._run = vlsb.directory / "outputs" / "m"
        self._stamp = vlsb.directory / "killed-at"
        self._killer = Killer()
        self._epochs = 2 if scenario == "run --epochs 2" else 1
        self._connections = self._draw.choice(CONNECTIONS)
        self._complete: dict[str, list[bytes]] = {}
        self._stored: Counter[Key] = Counter()

    def carry_out(self, kills: int, straight: Mapping[str, Any]) -> None:
        """Kill so many times at most, resume to the end, and note what is not as it has to be."""
        killer = self._killer
        with SimulatorThread(
            persona, on_request=killer.on_request, on_answered=killer.on_answered
        ) as simulator:
            for phase in self._phases(simulator, kills):
                self._carry_out_phase(simulator, phase)
            summary = self._vlsb.summary()
        if summary != straight:
            names = [name for name in straight if summary.get(name) != straight[name]]
            self._violated(f"the summary differs in {names}")
        once = Counter({Key(lane, s): self._epochs for lane in (False, True) for s in range(SAMPLES)})
        if self._stored != once:
            self._violated(f"stored too often {self._stored - once}, not stored {once - self._stored}")
        if simulator.errors:
            self._violated(f"the simulator failed: {simulator.errors}")
        self._figures.runs[self._scenario] += 1
        self._figures.requests += len(simulator.completions)
        self._figures.torn += len(list(self._run.rglob("*.torn-*")))

    def _phases(self, simulator: SimulatorThread, kills: int) -> Iterator[Phase]:
        url, number = simulator.base_url, str(self._connections)
        quiet = ("--data-root", str(self._data), "--display", "none")
        target = ("--model", "m", "--base-url", url, "--max-connections", number)
        judge = ("--judge", "j", "--judge-base-url", url, "--judge-max-connections", number)
        if self._scenario == "judge":
            collecting = 1 if kills > 2 else 0
            yield Phase(("run", *target, "--no-judge", "--resume", *quiet), (False,), collecting)
            yield Phase(("judge", str(self._run), *judge, *quiet), (True,), kills - collecting)
        else:
            epochs = ("--epochs", str(self._epochs))
            yield Phase(("run", *target, *judge, *epochs, "--resume", *quiet), (False, True), kills)

    def _carry_out_phase(self, simulator: SimulatorThread, phase: Phase) -> None:
        deck: list[Kind] = []
        for done in range(phase.kills):
            missing = len(phase.lanes) * SAMPLES * self._epochs - self._count_stored(phase)
            if missing == 0:
                break
            kind = self._next_kind(phase, deck, is_first=done == 0)
            reach = max(1, 2 * missing // (phase.kills - done + 1))
            moment = draw_moment(self._draw, kind, requests=reach, lanes=len(phase.lanes))
            self._kill(simulator, phase, moment)
        session = self._session(simulator, phase, None)
        if session.unstored:
            self._violated(f"asked for and not stored by a whole session: {session.unstored}")

    def _count_stored(self, phase: Phase) -> int:
        return sum(count for key, count in self._stored.items() if key.is_judge in phase.lanes)

    def _next_kind(self, phase: Phase, deck: list[Kind], *, is_first: bool) -> Kind:
        has_run = (self._run / "run.json").exists()
        if is_first and not has_run:
            return self._draw.choice(("before run.json", "preflight"))
        if is_first and True in phase.lanes and self._draw.random() < 0.5:
            return "preflight"
        if not deck:
            deck[:] = self._draw.sample(ANYWHERE, len(ANYWHERE))
        kind = deck.pop()
        return "preflight" if kind == "resuming" and not has_run else kind

    def _kill(self, simulator: SimulatorThread, phase: Phase, moment: Moment) -> None:
        session = self._session(simulator, phase, moment)
        if session.killed_at is None:
            self._violated(f"{moment} never came")
            return
        self._figures.kills[self._scenario, moment.kind] += 1
        self._figures.repeated += session.unstored.total()
        if needlessly := session.unstored - session.may_be_lost:
            self._violated(f"answered long before {moment}, and not stored: {needlessly}")

    def _session(self, simulator: SimulatorThread, phase: Phase, moment: Moment | None) -> Session:
        """Start a process and see its end; `moment` is when to kill it."""
        before = len(simulator.completions)
        self._stamp.unlink(missing_ok=True)
        self._killer.arm(_NEVER if moment is None or moment.counted is None else moment.counted)
        prelude = None if moment is None else moment.prelude(self._stamp)
        with self._vlsb.start(*phase.arguments, prelude=prelude) as process:
            self._killer.watch(process)
            process.wait_until_dead()
            cpu_waits_s = process.cpu_waits_s()
            ended = process.wait()
        killed_at = float(self._stamp.read_text()) if self._stamp.exists() else self._killer.killed_at
        if ended.code != (0 if killed_at is None else -signal.SIGKILL):
            self._violated(f"exit {ended.code} at {moment}: {ended.err}")
        settle(simulator)
        return Session(
            requests=simulator.completions[before:],
            killed_at=killed_at,
            answered_at=simulator.answered_at,
            cpu_waits_s=self._killer.cpu_waits_s.copy(),
            cpu_waits_at_end_s=cpu_waits_s,
            gained=self._take_stock(moment),
        )

    def _set_aside(self, name: str) -> list[bytes]:
        """What a journal held while nothing was answered yet: a run that is started again puts it aside."""
        aside = sorted(self._run.glob(f"{name}.before-*"))
        return [record for path in aside for record in complete_records(path.read_bytes())]

    def _take_stock(self, moment: Moment | None) -> Counter[Key]:
        """What the files gained; notes every record that was complete and is not there any more."""
        files = journals(self._run)
        found = {
            name: self._set_aside(name) + complete_records(files.get(name, b""))
            for name in {*files, *self._complete}
        }
        for name, lines in self._complete.items():
            now = found.get(name, [])
            if now[: len(lines)] != lines:
                missing = (Counter(lines) - Counter(now)).total()
                self._figures.lost += missing
                self._violated(f"{missing} records of {name} are missing or moved after {moment}")
        self._complete = found
        before, self._stored = self._stored, stored_keys(found)
        if gone := before - self._stored:
            self._violated(f"no longer stored after {moment}: {gone}")
        return self._stored - before

    def _violated(self, what: str) -> None:
        self._figures.violations.append(f"{self._scenario}, seed {self._seed}: {what}")


@dataclass(frozen=True)
class Phase:
    """A command that is killed and typed again until it is through.

    `lanes` are those that it asks, False for the target's and True for the judge's.
    """

    arguments: tuple[str, ...]
    lanes: tuple[bool, ...]
    kills: int


def complete_records(contents: bytes) -> list[bytes]:
    """Every complete record; one at the end may lack its newline."""
    *lines, last = contents.split(b"\n")
    try:
        strict_json.loads(last)
    except ValueError:
        return lines
    return [*lines, last]


def stored_keys(journals: Mapping[str, Sequence[bytes]]) -> Counter[Key]:
    """How many responses and verdicts the journals hold, by what they answer."""
    return Counter(
        Key(name.startswith("verdicts/"), strict_json.loads(line)["sample_id"])
        for name, lines in journals.items()
        if name == "responses.jsonl" or name.startswith("verdicts/")
        for line in lines
    )


class Harness:
    """What the runs share: the data set, and each scenario's summary when nothing interrupts it."""

    def __init__(self, directory: Path, *, seed: int) -> None:
        self.figures = Figures()
        self._directory = directory
        self._seed = seed
        self._data = write_dataset(directory / "data", sharing_rows(SAMPLES))
        self._straight: dict[int, dict[str, Any]] = {}

    def crash(self, scenario: Scenario, kills: int, *, program: Callable[[Path], Vlsb] = Vlsb) -> None:
        """Carry out one run of `program`, killed so many times at most."""
        number = self.figures.runs.total() + 1
        vlsb = program(self._new_directory(f"run-{number}"))
        seed = f"{self._seed}:{number}"
        run = CrashRun(vlsb, scenario, data=self._data, seed=seed, figures=self.figures)
        run.carry_out(kills, self._summary(2 if scenario == "run --epochs 2" else 1))

    def _summary(self, epochs: int) -> dict[str, Any]:
        """An uninterrupted run's: collecting and judging apart have to end like a run that does both."""
        if epochs not in self._straight:
            vlsb = Vlsb(self._new_directory(f"straight-{epochs}"))
            with SimulatorThread(persona) as simulator:
                ended = vlsb(*run_words(simulator, self._data, "--epochs", str(epochs)))
            assert ended.code == 0, ended.err
            self._straight[epochs] = vlsb.summary()
        return self._straight[epochs]

    def _new_directory(self, name: str) -> Path:
        directory = self._directory / name
        directory.mkdir()
        return directory


def print_figures(figures: Figures, *, seed: int, wall_s: float) -> None:
    """The figures as a table, kinds down and scenarios across, and what they add up to."""
    print(f"\n{'killed':<42}" + "".join(f"{name:>16}" for name in SCENARIOS))
    for kind, words in KINDS.items():
        counts = "".join(f"{figures.kills[name, kind]:>16}" for name in SCENARIOS)
        print(f"{words:<42}{counts}")
    print(f"{'runs':<42}" + "".join(f"{figures.runs[name]:>16}" for name in SCENARIOS))
    for violation in figures.violations:
        print(f"VIOLATION {violation}")
    print(
        f"\nseed {seed}: {figures.kills.total()} kills, {figures.runs.total()} runs, "
        f"{figures.requests} requests, {figures.repeated} repeated, {figures.torn} torn records set aside, "
        f"{figures.lost} records lost, {len(figures.violations)} violations, {wall_s:.0f} s"
    )


def main(arguments: Sequence[str]) -> int:
    """Kill until there were enough kills, print the figures, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(prog="crash", description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200, help="how many at least (default: 200)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a harness run's choices")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        harness = Harness(Path(directory), seed=seed)
        figures = harness.figures
        while figures.kills.total() < options.kills and len(figures.violations) < 20:
            scenario = SCENARIOS[figures.runs.total() % len(SCENARIOS)]
            harness.crash(scenario, min(KILLS_A_RUN, options.kills - figures.kills.total()))
            print(f"{figures.kills.total()} kills, {len(figures.violations)} violations", flush=True)
    print_figures(figures, seed=seed, wall_s=time.monotonic() - began)
    return 1 if figures.violations or figures.lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
