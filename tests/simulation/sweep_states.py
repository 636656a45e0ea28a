"""Any order of commands over a sweep's folder: what has ended is remembered, and nobody is asked again."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.simulation.state_model import FILES, NO_VERDICT, Run, Runs, count_rows, new_run
from tests.support.command import run_words
from tests.support.endpoint import sample_of
from tests.support.sweeps import processes_of, write_plan
from tests.support.waiting import wait_until
from vlsb.simulator import Request
from vlsb.sweep.ended import FILE as ENDED

CELLS = ("m1", "m2")
FEW, ALL = "1-3", "1-6"

cells = st.sampled_from(CELLS)
outage = st.sets(st.sampled_from([2, 3]), max_size=1)


class SweepFolder(Runs):
    """Sweeps over some cells, and between them what people do to the folder."""

    folder = "sweep"

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Run] = {}

    def plan(self, models: Collection[str], limit: str) -> Path:
        """A plan of these cells."""
        url = self.endpoint.base_url
        return write_plan(
            self.home,
            None,
            data=self.data,
            models=[{"model": each, "base-url": url, "limit": limit} for each in sorted(models)],
            judges=[{"judge": "j", "judge-base-url": url}],
            defaults={"data-root": str(self.data), "backoff": 0.01, "fail-on-error": "100%"},
            retries=0,
        )

    def begun(self, models: Collection[str], limit: str) -> dict[str, Run]:
        """The cells that a sweep begins or goes on with: not one that has more samples than it asks for."""
        for cell in models:
            run = self.model.get(cell)
            if run is None or not run.holds_answers:
                self.model[cell] = new_run(limit)
            elif run.limit == FEW and limit == ALL:
                run.limit, run.target = limit, new_run(limit).target | run.target
        return {cell: self.model[cell] for cell in sorted(models) if self.model[cell].limit == limit}

    @initialize(limit=st.sampled_from((FEW, ALL)), down=outage)
    def begin(self, limit: str, down: set[int]) -> None:
        """At first all cells are run."""
        self.evaluate(set(CELLS), limit, down)

    @rule(models=st.sets(cells, min_size=1), limit=st.sampled_from((FEW, ALL)), down=outage)
    def sweep(self, models: set[str], limit: str, down: set[int]) -> None:
        """A sweep asks for what its cells lack, and for nothing else."""
        self.evaluate(models, limit, down)

    def evaluate(self, models: set[str], limit: str, down: set[int]) -> None:
        """Type `vlsb sweep`, and compare what is asked."""
        self.count("sweep")
        begun, before, self.down = self.begun(models, limit), len(self.endpoint.completions), frozenset(down)
        done = self.vlsb("sweep", self.plan(models, limit))
        assert done.code in ({0, 4} if len(begun) == len(models) else {6}), done.err
        for cell in CELLS:
            target, judge = asked_of(cell, self.endpoint.completions[before:])
            pending = begun[cell].pending() if cell in begun else set()
            assert Counter(target) == Counter(pending), cell
            assert set(judge) == (self.foresee(begun[cell]) if cell in begun else set()), cell

    @rule(models=st.sets(cells, min_size=1), limit=st.sampled_from((FEW, ALL)), answers=st.integers(0, 8))
    def kill(self, models: set[str], limit: str, answers: int) -> None:
        """A sweep that is killed with its cells has kept each answer that came to them."""
        self.count("kill sweep")
        begun, before = self.begun(models, limit), len(self.endpoint.completions)
        rows = sum(count_rows(self.path(cell)) for cell in begun if begun[cell].holds_answers)
        busy = {cell for cell, run in begun.items() if run.pending() or run.unjudged("j")}
        self.left, self.down = answers, frozenset()
        process = self.vlsb.start("sweep", self.plan(models, limit))

        def came() -> Sequence[Request]:
            return self.endpoint.completions[before : before + answers]

        def has_kept_all() -> bool:
            arrived = self.endpoint.completions[before:]
            # Whoever gives no verdict is asked twice, for one row.
            without = sum(NO_VERDICT in asked_of(cell, came())[1] for cell in CELLS)
            kept = sum(count_rows(self.path(cell)) for cell in begun)
            are_busy = len(arrived) > answers and all(any(asked_of(cell, arrived)) for cell in busy)
            return are_busy and kept == rows + len(came()) - without

        wait_until(lambda: not process.is_running or has_kept_all(), what="answers that are kept")
        ended = process.kill()
        for each in processes_of(self.home):
            each.kill()
        wait_until(lambda: not processes_of(self.home), what="the end of the cells")
        assert ended.code in {-signal.SIGKILL, 0, 4, 6}, ended.err
        self.left = None
        for cell, run in begun.items():
            self.foresee_part(run, *asked_of(cell, came()))

    @rule(cell=cells, down=outage)
    def resume(self, cell: str, down: set[int]) -> None:
        """A cell that is resumed by hand is the same run."""
        self.count("resume cell")
        if cell not in self.model:
            return
        run, before, self.down = self.model[cell], len(self.endpoint.completions), frozenset(down)
        words = ("--model", cell, "--name", cell, "--output-dir", "sweep", "--limit", run.limit, "--resume")
        usual = ("--backoff", "0.01", "--fail-on-error", "100%")
        done = self.vlsb(*run_words(self.endpoint, self.data, *words, *usual))
        assert done.code in {0, 4}, done.err
        target, judge = asked_of(cell, self.endpoint.completions[before:])
        assert Counter(target) == Counter(run.pending())
        assert set(judge) == self.foresee(run)

    @rule(cell=cells, lane=st.sampled_from(FILES), number=st.integers(0, 5), is_moved=st.booleans())
    def edit(self, cell: str, lane: str, number: int, is_moved: bool) -> None:
        """A row of a cell that has ended is deleted or moved: the sweep sees it."""
        self.count("edit cell")
        if cell in self.model:
            self.edit_by_hand(cell, lane, number, is_moved)

    @rule(how=st.sampled_from(["gone", "torn", "damaged"]))
    def forget(self, how: str) -> None:
        """What the sweep remembers of its cells is no part of them."""
        self.count("forget")
        path = self.path(ENDED)
        if not path.exists():
            return
        if how == "gone":
            path.unlink()
        elif how == "torn":
            path.write_bytes(path.read_bytes()[:-5])
        else:
            path.write_bytes(b'{"key": 3}\n\xff\n' + path.read_bytes())

    @rule(cell=cells)
    def copy(self, cell: str) -> None:
        """A cell is copied, to be put back later."""
        self.count("copy")
        if cell in self.model:
            shutil.rmtree(self.home / "kept" / cell, ignore_errors=True)
            shutil.copytree(self.path(cell), self.home / "kept" / cell)
            self.kept[cell] = deepcopy(self.model[cell])

    @precondition(lambda self: self.kept)
    @rule(cell=cells)
    def put_back(self, cell: str) -> None:
        """A cell that is put back from a copy, with the times that its files had, is what it was then."""
        self.count("put back")
        if cell in self.kept:
            shutil.rmtree(self.path(cell), ignore_errors=True)
            shutil.copytree(self.home / "kept" / cell, self.path(cell))
            self.model[cell] = deepcopy(self.kept[cell])

    @rule(cell=cells)
    def remove(self, cell: str) -> None:
        """A cell that is removed is one that was never run."""
        self.count("remove cell")
        if cell in self.model:
            assert self.vlsb("runs", "rm", self.path(cell), "--yes").code == 0
            del self.model[cell]


def asked_of(cell: str, requests: Iterable[Request]) -> tuple[list[int], list[int]]:
    """The samples that the target of a cell was asked for, and its judge."""
    target, judge = list[int](), list[int]()
    for each in requests:
        if not each.is_judge and each.model == cell:
            target.append(sample_of(each))
        elif each.is_judge and str(each.judged_response).endswith(f"of {cell}."):
            judge.append(sample_of(each))
    return target, judge
