"""What a run knows of its batches: a line a step, written before the step that follows it.

A batch is planned under a name of ours before anything of it is sent. Whoever is killed between two steps
leaves enough to find out at the provider what became of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

# A stranger's run may hold anything: a name becomes that of a file, a custom id the numbers in it.
_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
_CustomId = Annotated[str, Meta(pattern=r"\A[0-9]{1,18}-[0-9]{1,9}-[0-9]{1,9}-[0-9a-f]{32}\Z")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStep:
    """A line of batches.jsonl; `name` and `step` are always there.

    `planned` says what is asked (`requests` are the custom ids) and for which judge's file, None for the
    target. `uploaded` repeats that, so that no single damaged line hides it, and holds the provider's `id` of
    the input file; a batch may exist from then on. `created` holds its `id`. `ended` holds its last `status`,
    and its results are on the disk then: `given_up` are those that never came whole. `void` was not made, or
    was refused as a whole.
    """

    name: _Name
    step: Literal["planned", "uploaded", "created", "ended", "void"]
    judge: str | None = None
    requests: tuple[_CustomId, ...] = ()
    id: str | None = None
    status: Literal["completed", "expired", "cancelled", "given_up"] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as far as its steps say. `status` is its last one, or `void`.

    Without one the provider may still be at work on it, or hold results that nobody fetched.
    """

    name: str
    judge: str | None = None
    requests: tuple[str, ...] = ()
    file_id: str | None = None
    batch_id: str | None = None
    status: str | None = None

    def after(self, step: BatchStep) -> Batch:
        """The batch after one more step."""
        return replace(
            self,
            judge=step.judge or self.judge,
            requests=step.requests or self.requests,
            file_id=step.id if step.step == "uploaded" else self.file_id,
            batch_id=step.id if step.step == "created" else self.batch_id,
            status="void" if step.step == "void" else step.status or self.status,
        )
