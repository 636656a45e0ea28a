"""A panel: the label that most of several judges gave, as a judge of its own that asks nobody.

It follows from its members' verdicts, so it is never stale and never stored. It guesses nothing: a tie is no
label, and neither is a majority of those who happened to answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlsb.records import Label

KIND = "panel"
RULE = "more than half of all members give the label; a tie, or a member that gave none, is no label"
FEWEST = 3
"""Two judges have no majority but when they agree."""


def panel_settings(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Describe a panel for JSON: judges by their names with what each is, in any order."""
    return {
        "kind": KIND,
        "rule": RULE,
        "members": [{"name": name, "settings": dict(members[name])} for name in sorted(members)],
    }


def is_panel(settings: Mapping[str, Any]) -> bool:
    """Tell whether a judge with these settings is a panel."""
    return settings.get("kind") == KIND


def members_of(settings: Mapping[str, Any]) -> list[str]:
    """Return the names of a panel's members; empty for any other judge."""
    return [str(each["name"]) for each in settings["members"]] if is_panel(settings) else []


def majority(labels: Sequence[Label | None]) -> Label | None:
    """Return the panel's label, one for each member going in; None where it has none."""
    if None in labels:
        return None
    ((label, votes),) = Counter(labels).most_common(1)
    return label if 2 * votes > len(labels) else None
