"""The simulator's batch API: files and batches, each of which is told how it ends and how it misbehaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from vlsb.simulator.actions import Action, Json, Reply, body_bytes, error
from vlsb.simulator.requests import Request

_COMPLETIONS = "/v1/chat/completions"
UNKNOWN = error(404, message="Not found.")


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What becomes of a batch: it ends as `ends` when it has been looked at more than `polls` times.

    Of its requests the first `answers` are asked, all without a number; the others are expired or cancelled,
    and without `names_unasked` neither counted nor in its results. One that fails is refused as a whole for
    `error`, a code. `spoil` changes the lines of its results.

    Time is counted in requests. `creation` is what its creation is answered with in place of itself; where
    `is_made` is False nothing came of that. It is `unlisted` for this many looks at the list, and
    `unknown` by its id for this many looks at itself. For `late` looks after its end it has neither counts
    nor files, for `fileless` ones no files. `serve` changes each download of its results, by its number
    from 1.
    """

    polls: int = 0
    ends: Literal["completed", "expired", "cancelled", "failed"] = "completed"
    answers: int | None = None
    names_unasked: bool = True
    error: str = "invalid_json_line"
    spoil: Callable[[list[bytes]], list[bytes]] = lambda lines: lines
    creation: Action | None = None
    is_made: bool = True
    unlisted: int = 0
    unknown: int = 0
    late: int = 0
    fileless: int = 0
    serve: Callable[[bytes, int], bytes] = lambda content, download: content


@dataclass(slots=True)
class _ServedBatch:
    id: str
    file: str
    lines: list[bytes]
    metadata: Json | None
    plan: BatchPlan
    owner: str | None
    listed_at: int
    status: str = "validating"
    looks: int = 0
    looks_since_end: int = 0
    downloads: int = 0
    files: dict[str, str] = field(default_factory=dict)
    done: int = 0
    failed: int = 0


class Batches:
    """What was uploaded and made, and `paid`: every request of a batch that was answered, in order.

    `plan` says by the number of its creation, from 1, what becomes of a batch. `lists` is whether batches can
    be listed, and `newer` how many of other people stand before ours. With `has_projects` a key knows its own
    batches alone.
    """

    def __init__(self, respond: Callable[[Request], Awaitable[Action]]) -> None:
        self.plan: Callable[[int], BatchPlan] = lambda number: BatchPlan()
        self.lists = True
        self.newer = 0
        self.has_projects = False
        self.paid: list[Request] = []
        self.submitted: list[list[bytes]] = []
        self.creations = 0
        self._respond = respond
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, _ServedBatch] = {}
        self._list_looks = 0

    async def answer(self, request: Request) -> Action | None:
        """Return the reply to a request for files or batches; None for one that is about neither."""
        kind, *rest = request.path.partition("/v1/")[2].split("/")
        if kind == "files" and not rest:
            if (content := request.file) is None:
                return error(400, message="A file is missing.")
            name = f"file-{len(self._files) + 1}"
            self._files[name] = content
            return Reply(body={"id": name, "object": "file", "bytes": len(content), "purpose": "batch"})
        if kind == "files":
            if (file := self._files.get(rest[0])) is None:
                return UNKNOWN
            if (batch := self._batches.get(rest[0].partition(":")[0])) is not None:
                batch.downloads += 1
                file = batch.plan.serve(file, batch.downloads)
            return Reply(body=file, headers=(("content-type", "application/octet-stream"),))
        if kind != "batches":
            return None
        if not rest and request.method == "POST":
            return self._make(request)
        # The batches that the request's key knows, the newest first.
        own = [
            each
            for each in reversed(self._batches.values())
            if not self.has_projects or each.owner == request.bearer
        ]
        if not rest:
            listed = [{"id": f"other-{number}", "status": "completed"} for number in range(self.newer)]
            listed += [_described(each) for each in own if each.listed_at <= self._list_looks]
            self._list_looks += 1
            page = {"object": "list", "data": listed, "has_more": False}
            return Reply(body=page) if self.lists else UNKNOWN
        if (batch := next((each for each in own if each.id == rest[0]), None)) is None:
            return UNKNOWN
        batch.looks += 1
        if batch.looks <= batch.plan.unknown:
            return UNKNOWN
        await self._advance(batch)
        return Reply(body=_described(batch))

    def let_all(self, plan: BatchPlan) -> None:
        """Give every batch that has not ended, and those to come, another plan."""
        self.plan = lambda number: plan
        for batch in self._batches.values():
            batch.plan = plan

    def forget_all(self) -> None:
        """Lose every batch."""
        self._batches.clear()

    def _make(self, request: Request) -> Action:
        self.creations += 1
        file, plan, name = request.json["input_file_id"], self.plan(self.creations), f"batch-{self.creations}"
        lines, listed_at = self._files[file].splitlines(), self._list_looks + plan.unlisted
        batch = _ServedBatch(name, file, lines, request.json.get("metadata"), plan, request.bearer, listed_at)
        if plan.is_made:
            self.submitted.append(lines)
            self._batches[name] = batch
        return plan.creation or Reply(body=_described(batch))

    async def _advance(self, batch: _ServedBatch) -> None:
        """Take a batch one look further. At its end it asks what it asks, and answers are paid for."""
        if batch.status not in ("validating", "in_progress"):
            batch.looks_since_end += 1
            return
        batch.status = "in_progress" if batch.looks <= batch.plan.polls else batch.plan.ends
        if batch.status in ("in_progress", "failed"):
            return
        asked = len(batch.lines) if batch.plan.answers is None else batch.plan.answers
        good, bad = list[bytes](), list[bytes]()
        for line in batch.lines[:asked]:
            asked_for = orjson.loads(line)
            body = orjson.dumps(asked_for["body"])
            request = Request(len(self.paid) + 1, "POST", _COMPLETIONS, {}, body, 0.0)
            action, row = await self._respond(request), {"id": "row", "custom_id": asked_for["custom_id"]}
            if isinstance(action, Reply):
                reply = {"status_code": action.status, "request_id": "simulated", "body": action.body}
                row |= {"response": reply, "error": None}
            else:
                row |= {"response": None, "error": {"code": "server_error", "message": "No answer."}}
            if isinstance(action, Reply) and action.status == 200:
                self.paid.append(request)
                good.append(body_bytes(row))
            else:
                bad.append(body_bytes(row))
        late = {"response": None, "error": {"code": f"batch_{batch.status}", "message": "Not asked."}}
        for line in batch.lines[asked:] if batch.plan.names_unasked else ():
            bad.append(body_bytes({"custom_id": orjson.loads(line)["custom_id"], **late}))
        batch.done, batch.failed = len(good), len(bad)
        for kind, rows in (("output_file_id", batch.plan.spoil(good)), ("error_file_id", bad)):
            if rows:
                batch.files[kind] = f"{batch.id}:{kind}"
                self._files[batch.files[kind]] = b"\n".join(rows) + b"\n"


def _described(batch: _ServedBatch) -> dict[str, Any]:
    errors = {"object": "list", "data": [{"code": batch.plan.error, "message": "It is refused.", "line": 1}]}
    is_late = batch.looks_since_end < batch.plan.late
    files = {} if is_late or batch.looks_since_end < batch.plan.fileless else batch.files
    done, failed = (0, 0) if is_late else (batch.done, batch.failed)
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": _COMPLETIONS,
        "completion_window": "24h",
        "created_at": 1735689600,
        "input_file_id": batch.file,
        "metadata": batch.metadata,
        "status": batch.status,
        "errors": errors if batch.status == "failed" else None,
        "output_file_id": files.get("output_file_id"),
        "error_file_id": files.get("error_file_id"),
        "request_counts": {"total": len(batch.lines), "completed": done, "failed": failed},
    }
