"""What a run knows of its batches: a line a step, written before the step that follows it.

A batch is planned under a name of ours before anything of it is sent. Whoever is killed between two steps
leaves enough to find out at the provider what became of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FINISHED = ("completed", "expired", "cancelled")
"""How a batch may end with results, or with a part of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStep:
    """A line of batches.jsonl; `name` and `step` are always there.

    `planned` says what is asked (`requests` are the custom ids) and for which judge's file, None for the
    target. `uploaded` and `created` hold the provider's `id` of input file and batch. `ended` holds its last
    `status`, and its results are on the disk then. `void` was never made, or was refused as a whole.
    """

    name: str
    step: Literal["planned", "uploaded", "created", "ended", "void"]
    judge: str | None = None
    requests: tuple[str, ...] = ()
    id: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as far as its steps say. `status` is its last one, None while it may be going on."""

    name: str
    judge: str | None
    requests: tuple[str, ...]
    file_id: str | None = None
    batch_id: str | None = None
    status: str | None = None
    is_void: bool = False

    def after(self, step: BatchStep) -> Batch:
        """The batch after one more step."""
        if step.step == "uploaded":
            return replace(self, file_id=step.id)
        if step.step == "created":
            return replace(self, batch_id=step.id)
        if step.step == "ended":
            return replace(self, status=step.status)
        return replace(self, is_void=self.is_void or step.step == "void")

    @property
    def is_under_way(self) -> bool:
        """Whether the provider may still be at work on it, or hold results that nobody fetched."""
        return self.status is None and not self.is_void
