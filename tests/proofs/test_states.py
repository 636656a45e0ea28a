"""Commands over run directories in any order: a few are drawn here, `just states` draws many."""

from __future__ import annotations

from tests.simulation.states import explore


def test_commands_in_any_order_leave_every_run_as_a_dictionary_foretells() -> None:
    """Run, stop, resume, judge, retry, damage, repair, rename, merge, remove: nobody is asked twice."""
    assert explore(8, 8, derandomize=True).total() == 64
