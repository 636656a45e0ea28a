"""A plugin of pytest: collects the tests once, and runs those of each mutant in a process of its own.

A mutant is killed by the first test that fails, and by running much longer than the tests do without it. The
test that killed the one before goes first: the next fault often is in the same line.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import select
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import Phase, settings
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

ORDER = Path(os.environ["VLSB_MUTANTS"])
"""Names of the mutants and how many run side by side; what became of them is written beside it."""


class Cost(NamedTuple):
    """What a test takes with no mutant turned on."""

    wall_s: float
    cpu_s: float


def pytest_collection() -> None:
    """The same examples for every mutant, and none made smaller: one that fails is enough."""
    settings.register_profile(
        "mutants",
        settings.default,
        max_examples=100,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
    )
    settings.load_profile("mutants")


def pytest_runtestloop(session: pytest.Session) -> bool:
    order = json.loads(ORDER.read_text("utf-8"))
    reached, costs = _measure(session.items)
    mutants = Mutants(reached, costs, order["at_once"], order["until"])
    ORDER.with_suffix(".results").write_text(json.dumps(mutants.run(order["mutants"])), "utf-8")
    return True


def _fails(item: pytest.Item) -> bool:
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _measure(items: list[pytest.Item]) -> tuple[dict[str, list[pytest.Item]], dict[pytest.Item, Cost]]:
    """Run the tests without a mutant; return those that reach a function, the quickest first, and costs."""
    reached: dict[str, list[pytest.Item]] = {}
    costs = {}
    set_mutant_under_test("stats")
    for item in items:
        state()._stats.clear()
        wall, cpu = time.monotonic(), time.process_time()
        if _fails(item):
            raise pytest.UsageError(f"{item.nodeid} fails without a mutant")
        costs[item] = Cost(time.monotonic() - wall, time.process_time() - cpu)
        for function in state()._stats:
            reached.setdefault(function, []).append(item)
    for tests in reached.values():
        tests.sort(key=lambda item: costs[item].wall_s)
    return reached, costs


class Running(NamedTuple):
    """A mutant at work. The process leaves the number of the test that failed in `killer`."""

    name: str
    process: int
    deadline: float
    tests: list[pytest.Item]
    killer: mmap.mmap


class Mutants:
    """Forks a process for each mutant, a few at once."""

    def __init__(
        self,
        reached: dict[str, list[pytest.Item]],
        costs: dict[pytest.Item, Cost],
        at_once: int,
        until: float,
    ) -> None:
        self._reached, self._costs, self._at_once, self._until = reached, costs, at_once, until
        self._running: dict[int, Running] = {}
        self._fates: dict[str, str] = {}

    def run(self, names: list[str]) -> dict[str, str]:
        """Return what became of each: `killed`, `late` (it ran too long) or `survived`."""
        for name in names:
            if time.monotonic() > self._until:
                break
            tests = self._reached.get(_function(name), [])
            if not tests:
                self._fates[name] = "survived"
                continue
            while len(self._running) >= self._at_once:
                self._wait()
            self._start(name, tests)
        while self._running:
            self._wait()
        return self._fates

    def _start(self, name: str, tests: list[pytest.Item]) -> None:
        wall_s, cpu_s = (sum(each) for each in zip(*(self._costs[test] for test in tests), strict=True))
        killer = mmap.mmap(-1, 8)
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (int(5 * cpu_s) + 10, int(5 * cpu_s) + 11))
            set_mutant_under_test(name)
            code = 1
            try:
                failed = next((number for number, test in enumerate(tests) if _fails(test)), None)
                killer.write((failed or 0).to_bytes(8))
                code = int(failed is not None)
            finally:
                os._exit(code)
        deadline = time.monotonic() + 10 * wall_s + 30
        self._running[os.pidfd_open(child)] = Running(name, child, deadline, tests.copy(), killer)

    def _wait(self) -> None:
        ready, _, _ = select.select(list(self._running), [], [], 0.5)
        for handle, each in list(self._running.items()):
            is_done = handle in ready
            if not is_done and time.monotonic() < min(each.deadline, self._until):
                continue
            if not is_done:
                os.kill(each.process, 9)
            _, status = os.waitpid(each.process, 0)
            os.close(handle)
            del self._running[handle]
            if not is_done and self._until < each.deadline:
                continue  # the time for all of them is over: that says nothing about this one
            code = os.waitstatus_to_exitcode(status)
            self._fates[each.name] = "survived" if code == 0 else "killed" if code == 1 else "late"
            if code == 1:
                killer = each.tests[int.from_bytes(each.killer.read(8))]
                tests = self._reached[_function(each.name)]
                tests.remove(killer)
                tests.insert(0, killer)


def _function(mutant: str) -> str:
    return mutant.partition("__mutmut_")[0]
