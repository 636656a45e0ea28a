"""Three cells of the chaos matrix; `just chaos` runs all of it. And the matrix notices a moved number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.proofs.chaos.matrix import Cell, run_cell


@pytest.mark.parametrize(
    "cell",
    [Cell("everything", 0.4, 8), Cell("rate limits", 0.2, 32), Cell("hangups", 0.4, 1)],
    ids=lambda cell: f"{cell.mix}-{cell.share:.0%}-{cell.connections}",
)
def test_no_mix_share_or_concurrency_of_faults_changes_a_number(
    tmp_path: Path, straight: dict[str, Any], cell: Cell
) -> None:
    outcome = run_cell(tmp_path, cell, straight, seed=1)

    assert outcome.violations == []


def test_the_matrix_notices_a_number_that_moved(tmp_path: Path, straight: dict[str, Any]) -> None:
    moved = straight | {"safe_rate": straight["safe_rate"] + 1}

    outcome = run_cell(tmp_path, Cell("hangups", 0.1, 8), moved, seed=1)

    assert outcome.violations == ["the summary differs in ['safe_rate']"]
