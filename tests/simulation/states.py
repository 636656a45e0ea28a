"""Any order of commands over run directories, and a dictionary that foretells it: `just states [EXAMPLES]`.

The commands are the real ones, against a simulated endpoint on a real socket. What becomes of a sample
follows from its number and from the outage of the moment, so the model knows each outcome, and who may be
asked for it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

import vlsb
from tests.support import GOLDEN
from tests.support.command import Finished, Vlsb, run_words
from tests.support.datasets import sample_row, write_dataset
from tests.support.endpoint import asked, sample_of
from tests.support.waiting import wait_until
from vlsb.records import Outcome, data_digest
from vlsb.simulator import Action, Request, SimulatorThread, Stall, answer, blocked, error, verdict
from vlsb.store.manifest import read_manifest

SAMPLES = 6
LIMITS = ("1-3", "4-6", "1-6", "3-5")
FILES = ("responses.jsonl", "verdicts/j.jsonl")
BLOCKED, NO_VERDICT = 0, 1
FAILED = "Sorry, but error occured"
"""What the authors' script logs in the place of an answer that did not come."""
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


def by_person(sample: int) -> int:
    """Which label a person gives: another one than the judges."""
    return (sample + 1) % 3


def write_as_before(run: Path, data: Path) -> None:
    """Write a run as version 0.1.0 did: checksums of images in its manifest, and none in its failures."""
    manifest = read_manifest(run)
    sums = {path: hashlib.sha256((data / path).read_bytes()).hexdigest() for path in manifest.images}
    rows = [(row.sample_id, row.digest, sums[row.image_path.expose()]) for row in manifest.samples]
    document = json.loads((run / "run.json").read_text())
    before = json.loads((GOLDEN / "runs_0.1.0" / "plain" / "run.json").read_text())
    document = {name: value for name, value in document.items() if name in before}
    document |= {"schema": 1, "vlsb": "0.1.0", "data_digest": data_digest(rows)}
    document["pictures"] = {path: [sums[path], *line[1:]] for path, line in document["pictures"].items()}
    (run / "run.json").write_text(json.dumps(document, indent=1))
    failures = run / "failures.jsonl"
    of_failures = [json.loads(line) for line in failures.read_bytes().splitlines()]
    for row in of_failures:
        row.pop("image_sha256", None)
    failures.write_text("".join(f"{json.dumps(row)}\n" for row in of_failures))


def judged(sample: int) -> Outcome:
    """What every judge makes of an answer."""
    return Outcome.JUDGE_INVALID if sample == NO_VERDICT else LABELS[sample % 3]


def count_rows(run: Path) -> int:
    """How many answers and failures stand in a run directory."""
    files = (run / "responses.jsonl", run / "failures.jsonl", *run.glob("verdicts/*.jsonl"))
    return sum(path.read_bytes().count(b"\n") for path in files if path.exists())


class RunDirectories(RuleBasedStateMachine):
    """Commands in any order, and after each of them every run holds what the model says."""

    runs = Bundle("runs")
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
        self.number = 0

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
        return blocked() if sample == BLOCKED else answer(f"Answer {sample}.")

    def path(self, name: str) -> Path:
        """A run's directory."""
        return self.home / "outputs" / name

    def new_name(self) -> str:
        """A name that no run has had."""
        self.number += 1
        return f"r{self.number}"

    def evaluate(self, name: str, run: Run, *words: object) -> tuple[Finished, list[int], list[int]]:
        """Type `vlsb run`; how it ended, and the samples that target and judge were asked about."""
        before = len(self.endpoint.completions)
        done = self.vlsb(*self.words(name, run, *words))
        assert done.code in {0, 4}, done.err
        assert "Traceback" not in done.err
        requests = self.endpoint.completions[before:]
        return done, asked(requests, judge=False), asked(requests, judge=True)

    def is_refused(self, name: str, run: Run) -> bool:
        """Whether no target goes on with a run, as its answers were imported: then nobody is asked."""
        if not (run.is_imported and run.holds_answers):
            return False
        before = len(self.endpoint.completions)
        assert self.vlsb(*self.words(name, run, "--resume")).code == 6
        assert len(self.endpoint.completions) == before
        return True

    def words(self, name: str, run: Run, *words: object) -> list[object]:
        """A command that evaluates a run."""
        usual = ("--name", name, "--limit", run.limit, "--backoff", "0.01", "--fail-on-error", "100%")
        return run_words(self.endpoint, self.data, *usual, *words)

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

    @rule(
        target=runs,
        limit=st.sampled_from(["1-3", "4-6", "1-6", "3-5"]),
        down=st.sets(st.sampled_from([2, 3, 4])),
    )
    def run(self, limit: str, down: set[int]) -> str:
        """A new run, perhaps with some samples that the endpoint refuses."""
        self.count("run")
        name, made = self.new_name(), new_run(limit)
        self.down = frozenset(down)
        self.evaluate(name, made)
        self.foresee(made)
        self.model[name] = made
        return name

    @rule(target=runs, limit=st.sampled_from(LIMITS), is_labelled=st.booleans())
    def import_(self, limit: str, is_labelled: bool) -> str:
        """What another program logged is a run, with its labels if somebody stands for them."""
        self.count("import")
        name, run = self.new_name(), new_run(limit)
        run.is_imported = True
        logs: list[dict[str, object]] = []
        for sample in run.target:
            row = sample_row(sample)
            run.target[sample] = Outcome.TARGET_ERROR if sample == BLOCKED else ANSWERED
            text = FAILED if sample == BLOCKED else f"Answer {sample}."
            run.errors |= {BLOCKED} & {sample}
            of_row = {"question": row["instruction"], "image_path": f"/data/{row['image_path']}"}
            logs.append({"id": sample, **of_row, "pred_answer": text, "safe_label": sample % 3 + 1})
        log = self.home / "log.json"
        log.write_text(json.dumps({"stats": {}, "logs": logs}))
        if is_labelled:
            run.verdicts["imported-p"] = {sample: LABELS[sample % 3] for sample in run.answered()}
        done = self.vlsb(
            *("import", log, "--model", "m", "--name", name, "--data-root", self.data),
            *(("--judged-by", "p") if is_labelled else ()),
        )
        assert done.code == 0, done.err
        self.model[name] = run
        return name

    @rule(name=runs, down=st.sets(st.sampled_from([2, 3, 4]), max_size=2))
    def resume(self, name: str, down: set[int]) -> None:
        """A resume asks for what is missing, and for nothing else."""
        self.count("resume")
        run = self.model[name]
        if self.is_refused(name, run):
            return
        pending = run.pending()
        self.down = frozenset(down)
        _, target, judge = self.evaluate(name, run, "--resume")
        assert Counter(target) == Counter(pending)
        assert set(judge) == self.foresee(run)

    @rule(name=runs, requests=st.integers(1, 5))
    def stop(self, name: str, requests: int) -> None:
        """A session that may make a few requests keeps what they brought."""
        self.count("stop")
        run = self.model[name]
        if self.is_refused(name, run):
            return
        self.down = frozenset()
        _, target, judge = self.evaluate(name, run, "--resume", "--max-requests", requests)
        assert len(target) + len(judge) <= requests
        self.foresee_part(run, target, judge)

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

    @rule(name=runs, answers=st.integers(0, 6), torn=st.sampled_from(["", *FILES]))
    def kill(self, name: str, answers: int, torn: str) -> None:
        """A process that is killed has kept each answer that came to it; a line may be half written."""
        self.count("kill")
        run, path = self.model[name], self.path(name)
        if self.is_refused(name, run):
            return
        before, self.left, self.down = len(self.endpoint.completions), answers, frozenset()
        rows = count_rows(path) if run.holds_answers else 0
        with self.vlsb.start(*self.words(name, run, "--resume")) as process:

            def came() -> list[Request]:
                return self.endpoint.completions[before : before + answers]

            def has_kept_all() -> bool:
                judge = asked(came(), judge=True)
                kept = len(came()) - (judge.count(NO_VERDICT) > 0)
                return (self.left or 0) < 0 and count_rows(path) == rows + kept

            wait_until(lambda: not process.is_running or has_kept_all(), what="answers that are kept")
            ended = process.kill()
        assert ended.code in {-signal.SIGKILL, 0, 4}, ended.err
        self.left = None
        self.foresee_part(run, asked(came(), judge=False), asked(came(), judge=True))
        if torn:
            with (path / torn).open("ab") as file:
                file.write(b'{"sample_id":2,"epo')
            run.torn.add(torn)

    @rule(name=runs, judge=st.sampled_from(["j", "k"]), again=st.booleans())
    def judge(self, name: str, judge: str, again: bool) -> None:
        """A judge is asked about each answer once, and the target about nothing; a retry asks once more."""
        self.count("judge")
        run = self.model[name]
        known = run.outcomes(judge) if judge in run.verdicts else {}
        redone = {sample for sample, ended in known.items() if again and ended is Outcome.JUDGE_INVALID}
        before = len(self.endpoint.completions)
        done = self.vlsb(
            *("judge", self.path(name), "--judge", judge, "--judge-base-url", self.endpoint.base_url),
            *("--data-root", self.data, "--backoff", "0.01", "--fail-on-error", "100%"),
            *(("--retry", "judge_invalid") if again else ()),
        )
        assert done.code in {0, 4}, done.err
        requests = self.endpoint.completions[before:]
        assert asked(requests, judge=False) == []
        assert set(asked(requests, judge=True)) == self.foresee_judge(run, judge) | redone
        run.torn -= {"responses.jsonl", f"verdicts/{judge}.jsonl"}

    @rule(name=runs, outcome=st.sampled_from([Outcome.TARGET_BLOCKED, Outcome.JUDGE_INVALID]))
    def retry(self, name: str, outcome: Outcome) -> None:
        """`--retry` asks again for what ended so, beside what a resume asks for."""
        self.count("retry")
        run = self.model[name]
        if self.is_refused(name, run):
            return
        again = {sample for sample, ended in run.outcomes("j").items() if ended is outcome}
        of_target = run.pending() | (again if outcome is Outcome.TARGET_BLOCKED else set())
        self.down = frozenset()
        _, target, judge = self.evaluate(name, run, "--resume", "--retry", outcome.value)
        assert Counter(target) == Counter(of_target)
        assert set(judge) == self.foresee(run) | (again - of_target)

    @rule(
        name=runs,
        lane=st.sampled_from(FILES),
        number=st.integers(0, 5),
        by_hand=st.booleans(),
    )
    def repair(self, name: str, lane: str, number: int, by_hand: bool) -> None:
        """A line that is damaged or edited is refused, and a repair has its sample done again."""
        self.count("repair")
        run, path = self.model[name], self.path(name) / lane
        lines = path.read_bytes().splitlines() if path.exists() else []
        if not lines:
            return
        number %= len(lines)
        try:
            row = json.loads(lines[number])
        except ValueError:
            return  # The half line that a kill has left.
        if by_hand and lane.startswith("resp"):
            lines[number] = json.dumps(row | {"text": "Something else."}).encode()
        else:
            lines[number] = b"{" + lines[number]
        path.write_bytes(b"\n".join(lines) + b"\n")
        assert self.vlsb("report", self.path(name)).code == 5
        done = self.vlsb("runs", "repair", self.path(name))
        assert done.code == 0, done.err
        run.torn.clear()
        run.lose(lane, row["sample_id"])

    @rule(name=runs, lane=st.sampled_from(FILES), number=st.integers(0, 5), is_moved=st.booleans())
    def edit(self, name: str, lane: str, number: int, is_moved: bool) -> None:
        """Rows in another order are the same rows, and one that somebody deletes was never written."""
        self.count("edit")
        run, path = self.model[name], self.path(name) / lane
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if not lines or lane in run.torn:
            return
        line = lines.pop(number % len(lines))
        path.write_bytes(b"".join([line, *lines] if is_moved else lines))
        if not is_moved:
            run.lose(lane, json.loads(line)["sample_id"])

    @rule(name=runs, count=st.integers(1, SAMPLES))
    def audit(self, name: str, count: int) -> None:
        """What is drawn for a person stays drawn while it is there, and each label is kept."""
        self.count("audit")
        run, sheet = self.model[name], self.home / "sheet.csv"
        sheet.unlink(missing_ok=True)
        done = self.vlsb("audit", "sample", self.path(name), "--n", count)
        if count < run.drawn or not (run.drawn or run.answered()):
            assert done.code == 2, done.err
            return
        assert done.code == 0, done.err
        run.drawn = count
        place = ("--data-root", self.data, "--output", sheet)
        assert self.vlsb("audit", "export", self.path(name), "--annotator", "ann", *place).code == 0
        with sheet.open(newline="") as file:
            rows = {int(row["item"].partition("e")[0][1:]): row for row in csv.DictReader(file)}
        assert run.shown & run.answered() <= rows.keys() <= run.answered()
        run.shown |= rows.keys()
        if not rows:
            return
        known = run.verdicts.setdefault("human-ann", {})
        assert {sample for sample, row in rows.items() if row["label"]} == rows.keys() & known.keys()
        with sheet.open("w", newline="") as file:
            writer = csv.DictWriter(file, next(iter(rows.values())))
            writer.writeheader()
            writer.writerows(row | {"label": by_person(sample) + 1} for sample, row in rows.items())
        done = self.vlsb("audit", "import", self.path(name), sheet, "--annotator", "ann")
        new = len(rows.keys() - known.keys())
        assert f"{new} new, 0 changed, {len(rows) - new} as they were" in done.out, done.err
        known.update((sample, LABELS[by_person(sample)]) for sample in rows)
        run.torn.discard("responses.jsonl")

    @rule(name=runs)
    def age(self, name: str) -> None:
        """A run as an earlier version wrote it is the same run."""
        self.count("age")
        if not self.model[name].is_imported:
            write_as_before(self.path(name), self.data)

    @rule(target=runs, name=consumes(runs))
    def rename(self, name: str) -> str:
        """A directory that is moved is the same run by another name."""
        self.count("rename")
        new = self.new_name()
        self.path(name).rename(self.path(new))
        self.model[new] = self.model.pop(name)
        return new

    @rule(name=consumes(runs))
    def remove(self, name: str) -> None:
        """A run that is removed is gone, and no other."""
        self.count("remove")
        assert self.vlsb("runs", "rm", self.path(name), "--yes").code == 0
        del self.model[name]

    @rule(target=runs, first=runs, second=runs)
    def merge(self, first: str, second: str) -> object:
        """Parts of one evaluation that share no sample become one run; others are refused."""
        self.count("merge")
        one, other, name = self.model[first], self.model[second], self.new_name()
        done = self.vlsb("runs", "merge", self.path(first), self.path(second), "--into", self.path(name))
        if set(one.target) & set(other.target) or one.is_imported or other.is_imported:
            assert done.code == 2, done.err
            assert not self.path(name).exists()
            return multiple()
        assert done.code == 0, done.err
        ranges = sorted({*one.target, *other.target})
        limit = f"{ranges[0] + 1}-{ranges[-1] + 1}"
        whole = ranges == list(range(ranges[0], ranges[-1] + 1))
        judges = one.verdicts.keys() | other.verdicts.keys()
        self.model[name] = Run(
            limit,
            deepcopy(one.target | other.target),
            {judge: one.verdicts.get(judge, {}) | other.verdicts.get(judge, {}) for judge in judges},
            one.errors | other.errors,
        )
        return name if whole else multiple()

    def count(self, step: str) -> None:
        """Remember that a step was made."""
        RunDirectories.steps[step] += 1

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


def explore(examples: int, steps: int, *, derandomize: bool) -> Counter[str]:
    """Draw so many orders of commands; the steps that were made, by their kind."""
    RunDirectories.steps.clear()
    run_state_machine_as_test(
        RunDirectories,
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
    return RunDirectories.steps


if __name__ == "__main__":
    start = time.monotonic()
    made = explore(int(sys.argv[1]) if len(sys.argv) > 1 else 200, 15, derandomize=False)
    each = ", ".join(f"{count} {step}" for step, count in made.most_common())
    print(f"{made.total()} commands in {time.monotonic() - start:.0f} s, no violation: {each}")
