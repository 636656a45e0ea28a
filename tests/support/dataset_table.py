"""The table of the page on data, from the data sets and judges that this package brings."""

from __future__ import annotations

from importlib.metadata import entry_points

from vlsb.data import PublishedSet
from vlsb.data.dataset import ENTRY_POINTS
from vlsb.judging.kinds import load_judges
from vlsb.records import Half


def published_sets() -> str:
    """What a user types, what that is, and who judges it."""
    head = ("`--dataset`", "data set", "rows", "half", "judge", "licence")
    judges = load_judges(None)
    rows = []
    for name, each in sorted((point.name, point.load()) for point in entry_points(group=ENTRY_POINTS)):
        if isinstance(each, PublishedSet):
            own = f", `{name.partition('-')[0]}`" if name.partition("-")[0] in judges else ""
            judge = f"`compliance`{own}" if each.half is Half.BENIGN else "any of safety"
            count = "-" if each.rows is None else f"{each.rows:,}"
            rows.append((f"`{name}`", each.title, count, each.half.value, judge, each.licence))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))
