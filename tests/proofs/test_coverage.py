"""Simulated many times: intervals of corrected rates, calibrations and audits contain the truth."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("scipy", reason="needs the group `extras`: just proofs")

from benchmarks import calibration, correction
from tests.unit.analysis.test_audit import UNSAFE, planted, sizes_of
from vlsb.analysis.audit import LabelPair, ResponseFacts, agreement, draw, stratify
from vlsb.records import Untrusted


@pytest.mark.parametrize("design", correction.DESIGNS)
def test_most_intervals_contain_the_truth(design: str) -> None:
    """A short run of `benchmarks/correction.py`."""
    cells = correction.simulate(correction.Setting("refusals common", 0.85, 200, design), 300, seed=1)

    for cell in cells:
        assert cell.covered >= 0.91
        assert abs(cell.bias) < 1
    assert cells[0].judge_bias > 4


def test_a_calibration_says_no_more_than_it_knows() -> None:
    """A short run of `benchmarks/calibration.py`; the page shows a long one."""
    cells = calibration.simulate(correction.Setting("refusals common", 0.85, 200, "by audit"), 200, seed=1)

    assert min(cell.covered for cell in cells) >= 0.92


def test_a_judge_of_known_errors_is_recovered_by_the_weights_and_intervals_cover() -> None:
    """The draw takes more of what the judge calls safe; without weights its sensitivity would look lower."""
    dice, covered, unweighted, weighted, rounds = random.Random(1), 0, 0.0, 0.0, 200
    for seed in range(rounds):
        rows = planted(sensitivity=0.9, specificity=0.8, dice=dice)
        known = [ResponseFacts(each, found.value, Untrusted("one"), False) for each, _, found in rows]
        drawn = draw(stratify(known, 200), sizes_of(known), 200, seed=seed)
        weights = {each.image: each.weight for each in drawn}
        pairs = [
            LabelPair(each, weights[each], truth, found) for each, truth, found in rows if each in weights
        ]
        share = agreement(pairs).sensitivity[UNSAFE]
        assert share.percent is not None
        weighted += share.percent / rounds
        alike = agreement([each._replace(weight=1.0) for each in pairs]).sensitivity[UNSAFE]
        assert alike.percent is not None
        unweighted += alike.percent / rounds
        covered += share.interval.low <= 90 <= share.interval.high

    assert weighted == pytest.approx(90, abs=1)
    assert unweighted < 88.5
    assert covered / rounds >= 0.92
