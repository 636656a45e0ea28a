"""The conformance table in one line: which faults have a passing test.

`python -m tests.proofs.faults.report` runs this package, the rows of replies and every test that the
catalogue names, and counts what really passed; with `--collect-only` nothing is run and what was collected
counts. Other arguments go to pytest.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.proofs.faults.catalogue import NOT_APPLICABLE, PROVED_ELSEWHERE, TITLES

PACKAGE = Path(__file__).parent
ROWS = "tests/unit/endpoints/test_fault_rows.py"
"""Where every reply of the catalogue is read, row by row."""
_ID = re.compile(r"(?:\[|_|-)([a-e][0-9]{2})(?=[\]_-])", re.IGNORECASE)


@dataclass
class Tally:
    """A pytest plugin that remembers how tests ended; with xdist it hears of every worker's."""

    collected: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember what was found."""
        self.collected.update(item.nodeid for item in session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how a test ended; an error around it is a failure too."""
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed.add(report.nodeid)


@dataclass(frozen=True)
class Conformance:
    """Which faults are covered, and what keeps the others from it."""

    covered: frozenset[str]
    missing: frozenset[str]

    @property
    def line(self) -> str:
        """The last line."""
        return (
            f"covered {len(self.covered)}, not applicable {len(NOT_APPLICABLE)}, missing {len(self.missing)}"
        )


def own_tests(node_ids: Iterable[str]) -> dict[str, set[str]]:
    """By fault, the tests of this package and of the rows that carry its id."""
    found: dict[str, set[str]] = {}
    for node_id in node_ids:
        path, _, name = node_id.partition("::")
        if Path(path).parent.name == PACKAGE.name or path == ROWS:
            for fault in _ID.findall(name):
                found.setdefault(fault.upper(), set()).add(node_id)
    return found


def conformance(good: set[str], failed: set[str]) -> Conformance:
    """A fault is covered when it has tests and every one of them is good."""
    own, own_failed = own_tests(good), own_tests(failed)
    functions = {node_id.partition("[")[0] for node_id in good}
    broken = {node_id.partition("[")[0] for node_id in failed}
    covered = set()
    for fault in TITLES.keys() - NOT_APPLICABLE.keys():
        named = set(PROVED_ELSEWHERE.get(fault, ()))
        has_tests = bool(named) or fault in own
        if has_tests and fault not in own_failed and named <= functions and not named & broken:
            covered.add(fault)
    return Conformance(frozenset(covered), frozenset(TITLES.keys() - NOT_APPLICABLE.keys() - covered))


def named_tests() -> list[str]:
    """Every test of another file that the catalogue names."""
    return sorted({node_id for names in PROVED_ELSEWHERE.values() for node_id in names})


def main(arguments: Sequence[str]) -> int:
    """Run or collect, say what is missing, and end with the line."""
    tally = Tally()
    only_collects = "--collect-only" in arguments
    workers = ["-n", "0"] if only_collects else []
    code = pytest.main(
        ["-q", *workers, *arguments, "tests/proofs/faults", ROWS, *named_tests()], plugins=[tally]
    )
    found = conformance(tally.collected if only_collects else tally.passed, tally.failed)
    for fault in sorted(found.missing):
        print(f"missing {fault}: {TITLES[fault]}")
    print(found.line)
    return int(code) or int(bool(found.missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
