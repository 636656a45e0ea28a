"""Commands over run directories in any order: a few are drawn here, `just states` draws many."""

from __future__ import annotations

from tests.simulation.states import explore


def test_commands_in_any_order_leave_every_run_as_a_dictionary_foretells() -> None:
    """Evaluate, kill, judge, import, audit, edit, repair, merge and others: nobody is asked twice."""
    made = explore(12, 12, derandomize=True)

    assert made.total() == 144
    assert len(made) > 10
