"""The catalogue is whole: every fault has a test that exists, or a reason why it has none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.proofs.faults.catalogue import NOT_APPLICABLE, PROVED_ELSEWHERE, TITLES
from tests.proofs.faults.report import conformance, own_tests
from tests.support import PROJECT
from tests.support.waiting import DEADLINE_S

ROOT = PROJECT


def test_every_number_has_its_title() -> None:
    lengths = {"A": 72, "B": 18, "C": 46, "E": 30, "F": 19}

    assert set(TITLES) == {f"{part}{n:02}" for part, last in lengths.items() for n in range(1, last + 1)}
    assert all(reason.strip() for reason in NOT_APPLICABLE.values())


def test_every_fault_is_collected_or_not_applicable_and_never_both() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    done = subprocess.run(
        [sys.executable, "-m", "tests.proofs.faults.report", "--collect-only"],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        cwd=ROOT,
        env=environment,
        check=False,
    )

    covered = len(TITLES) - len(NOT_APPLICABLE)
    last = done.stdout.splitlines()[-1]
    assert last == f"covered {covered}, not applicable {len(NOT_APPLICABLE)}, missing 0", done.stdout[-3000:]
    assert done.returncode == 0


def test_what_is_not_applicable_is_tested_nowhere(request: pytest.FixtureRequest) -> None:
    tested = own_tests(item.nodeid for item in request.session.items)

    assert not tested.keys() & NOT_APPLICABLE.keys()
    assert not PROVED_ELSEWHERE.keys() & NOT_APPLICABLE.keys()
    assert tested.keys() | PROVED_ELSEWHERE.keys() | NOT_APPLICABLE.keys() <= TITLES.keys()


def test_a_fault_with_one_failing_test_is_missing() -> None:
    good = {
        "tests/proofs/faults/test_api.py::test_a_row[A01-one]",
        "tests/proofs/faults/test_api.py::test_a_row[A03-two]",
    }
    failed = {"tests/proofs/faults/test_api.py::test_a_row[A03-three]"}

    found = conformance(good, failed)

    assert "A01" in found.covered
    assert "A03" in found.missing


def test_a_test_that_the_catalogue_names_and_nobody_has_is_missing() -> None:
    found = conformance(set(), set())

    assert found.covered == frozenset()
    assert "B14" in found.missing
