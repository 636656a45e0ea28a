"""What an export for another program is made of: a run with its judges, and how much of the texts stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vlsb.analysis.summary import Summary
from vlsb.records import Untrusted
from vlsb.reports.answers import StoredAnswer
from vlsb.reports.encode import for_json

KEPT_CHARACTERS = 120
"""Of each text whose tail is left out: enough to see a refusal, too little for a recipe."""
_CUT = " […]"


class Redaction(StrEnum):
    """What is left out of what models wrote: nothing, all but the beginnings, or everything."""

    NONE = "none"
    TAILS = "tails"
    RESPONSES = "responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRun:
    """A run as it is exported. `summaries` and `answers` are by judge, in the same order; one without a judge
    where nobody judged. `created_at` is when the run began.
    """

    summaries: Sequence[Summary]
    answers: Sequence[Sequence[StoredAnswer]]
    created_at: str
    version: str
    redaction: Redaction
    dataset: str

    def text(self, text: Untrusted | None) -> str | None:
        """What stays of a text that a model wrote; None where nothing does."""
        if text is None or self.redaction is Redaction.RESPONSES:
            return None
        whole = for_json(text)
        is_cut = self.redaction is Redaction.TAILS and len(whole) > KEPT_CHARACTERS
        return whole[:KEPT_CHARACTERS] + _CUT if is_cut else whole
