"""Commands over run directories in any order: a few are drawn here, `just states` draws many."""

from __future__ import annotations

from tests.simulation.state_model import explore
from tests.simulation.states import RunDirectories
from tests.simulation.sweep_states import SweepFolder


def test_commands_in_any_order_leave_every_run_as_a_dictionary_foretells() -> None:
    """Evaluate, kill, judge, import, audit, edit, repair, merge and others: nobody is asked twice."""
    made = explore(RunDirectories, 12, 12, derandomize=True)

    assert made.total() == 144
    assert len(made) > 10


def test_sweeps_in_any_order_leave_every_cell_as_a_dictionary_foretells() -> None:
    """Sweep, kill, resume by hand, edit, forget, put back, remove: what has ended is not asked again."""
    made = explore(SweepFolder, 2, 8, derandomize=True)

    assert made["sweep"] > 2
    assert len(made) > 2
