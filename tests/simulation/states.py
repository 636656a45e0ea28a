"""Any order of commands over run directories and over a sweep's folder: `just states [EXAMPLES]`."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import sys
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    consumes,
    multiple,
    rule,
)

from tests.simulation.state_model import (
    ANSWERED,
    BLOCKED,
    FILES,
    LABELS,
    NO_VERDICT,
    SAMPLES,
    Run,
    Runs,
    count_rows,
    explore,
    new_run,
)
from tests.simulation.sweep_states import SweepFolder
from tests.support import GOLDEN
from tests.support.command import Finished, run_words
from tests.support.datasets import sample_row
from tests.support.endpoint import asked
from tests.support.waiting import wait_until
from vlsb.records import Outcome, data_digest
from vlsb.simulator import Request
from vlsb.store.manifest import read_manifest

LIMITS = ("1-3", "4-6", "1-6", "3-5")
FAILED = "Sorry, but error occured"
"""What the authors' script logs in the place of an answer that did not come."""


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


class RunDirectories(Runs):
    """Runs of any kind and name, and what is typed over them."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

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
            text = FAILED if sample == BLOCKED else f"Answer {sample} of m."
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
        self.edit_by_hand(name, lane, number, is_moved)

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


def main(examples: int) -> None:
    """Draw so many orders for each machine, and print what was typed."""
    for machine in (RunDirectories, SweepFolder):
        start = time.monotonic()
        made = explore(machine, examples, 15, derandomize=False)
        each = ", ".join(f"{count} {step}" for step, count in made.most_common())
        print(f"{made.total()} commands in {time.monotonic() - start:.0f} s, no violation: {each}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
