"""The simulator's batch API: files and batches, each of which is told how long it takes and how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from vlsb.simulator.actions import Action, Json, Reply, error
from vlsb.simulator.requests import Request

_COMPLETIONS = "/v1/chat/completions"
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?')


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What becomes of a batch: it ends as `ends` when it has been looked at more than `polls` times.

    Of its requests the first `answers` are asked, all without a number; the others are expired or cancelled.
    One that fails is refused as a whole for `error`, a code. `spoil` changes the lines of its results.
    """

    polls: int = 0
    ends: Literal["completed", "expired", "cancelled", "failed"] = "completed"
    answers: int | None = None
    error: str = "invalid_json_line"
    spoil: Callable[[list[bytes]], list[bytes]] = lambda lines: lines


@dataclass(slots=True)
class _Batch:
    id: str
    file: str
    metadata: Json | None
    plan: BatchPlan
    status: str = "validating"
    looks: int = 0
    total: int = 0
    files: dict[str, str] = field(default_factory=dict)
    done: int = 0
    failed: int = 0


class Batches:
    """What was uploaded and made, and `paid`: every request of a batch that was answered, in order.

    `plan` says by its number, from 1, what becomes of a batch. `lists` is whether batches can be listed.
    """

    def __init__(self, respond: Callable[[Request], Awaitable[Action]]) -> None:
        self.plan: Callable[[int], BatchPlan] = lambda number: BatchPlan()
        self.lists = True
        self.paid: list[Request] = []
        self.submitted: list[list[bytes]] = []
        self._respond = respond
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, _Batch] = {}

    async def answer(self, request: Request) -> Action | None:
        """The reply to a request for files or batches; None for one that is about neither."""
        _, _, path = request.path.partition("/v1/")
        what, *rest = path.split("/")
        if what not in ("files", "batches"):
            return None
        if what == "files":
            return self._upload(request) if not rest else self._content(rest[0])
        if not rest:
            return self._make(request.json) if request.method == "POST" else self._list()
        if (batch := self._batches.get(rest[0])) is None:
            return error(404, message="No such batch.")
        if rest[1:] == ["cancel"]:
            batch.plan = BatchPlan(ends="cancelled", answers=batch.plan.answers or 0)
        else:
            await self._advance(batch)
        return Reply(body=_described(batch))

    def cancel_all(self) -> None:
        """Cancel every batch that has not ended, as somebody does on the provider's page."""
        for batch in self._batches.values():
            batch.plan = BatchPlan(ends="cancelled", answers=0)

    def _upload(self, request: Request) -> Action:
        found = _BOUNDARY.search(request.headers.get("content-type", ""))
        parts = [] if found is None else request.body.split(b"--" + found[1].encode())
        contents = [part.partition(b"\r\n\r\n")[2][:-2] for part in parts if b"filename=" in part[:500]]
        if not contents:
            return error(400, message="A file is missing.")
        name = f"file-{len(self._files) + 1}"
        self._files[name] = contents[0]
        return Reply(body={"id": name, "object": "file", "bytes": len(contents[0]), "purpose": "batch"})

    def _content(self, name: str) -> Action:
        if name not in self._files:
            return error(404, message="No such file.")
        return Reply(body=self._files[name], headers=(("content-type", "application/octet-stream"),))

    def _make(self, wanted: dict[str, Any]) -> Action:
        lines = self._files[wanted["input_file_id"]].splitlines()
        self.submitted.append(lines)
        number = len(self.submitted)
        batch = _Batch(
            f"batch-{number}",
            wanted["input_file_id"],
            wanted.get("metadata"),
            self.plan(number),
            total=len(lines),
        )
        self._batches[batch.id] = batch
        return Reply(body=_described(batch))

    def _list(self) -> Action:
        if not self.lists:
            return error(404, message="Not found.")
        data = [_described(each) for each in reversed(self._batches.values())]
        return Reply(body={"object": "list", "data": data, "has_more": False})

    async def _advance(self, batch: _Batch) -> None:
        if batch.status not in ("validating", "in_progress"):
            return
        batch.looks += 1
        if batch.looks <= batch.plan.polls:
            batch.status = "in_progress"
            return
        batch.status = batch.plan.ends
        if batch.status != "failed":
            await self._carry_out(batch, self._files[batch.file].splitlines())

    async def _carry_out(self, batch: _Batch, lines: Sequence[bytes]) -> None:
        asked = len(lines) if batch.plan.answers is None else batch.plan.answers
        good: list[bytes] = []
        bad: list[bytes] = []
        for line in lines[:asked]:
            row, is_good = await self._row(line)
            (good if is_good else bad).append(row)
        code = f"batch_{batch.plan.ends}"
        for line in lines[asked:]:
            name = orjson.loads(line)["custom_id"]
            late = {"code": code, "message": "Not asked."}
            bad.append(_dumps({"custom_id": name, "response": None, "error": late}))
        batch.done, batch.failed = len(good), len(bad)
        for kind, rows in (("output_file_id", batch.plan.spoil(good)), ("error_file_id", bad)):
            if rows:
                batch.files[kind] = f"{batch.id}-{kind}"
                self._files[batch.files[kind]] = b"\n".join(rows) + b"\n"

    async def _row(self, line: bytes) -> tuple[bytes, bool]:
        """What one request brings, and whether it is an answer, which is paid for."""
        wanted = orjson.loads(line)
        body = orjson.dumps(wanted["body"])
        request = Request(len(self.paid) + 1, "POST", _COMPLETIONS, {}, body, 0.0)
        action = await self._respond(request)
        row: dict[str, Any] = {"id": f"row-{request.number}", "custom_id": wanted["custom_id"], "error": None}
        if not isinstance(action, Reply):
            row |= {"response": None, "error": {"code": "server_error", "message": "It did not answer."}}
            return _dumps(row), False
        row["response"] = {"status_code": action.status, "request_id": "simulated", "body": action.body}
        is_good = action.status == 200
        if is_good:
            self.paid.append(request)
        return _dumps(row), is_good


def _described(batch: _Batch) -> Json:
    errors = {"object": "list", "data": [{"code": batch.plan.error, "message": "It is refused.", "line": 1}]}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": _COMPLETIONS,
        "completion_window": "24h",
        "created_at": 1735689600,
        "input_file_id": batch.file,
        "status": batch.status,
        "metadata": batch.metadata,
        "errors": errors if batch.status == "failed" else None,
        "output_file_id": batch.files.get("output_file_id"),
        "error_file_id": batch.files.get("error_file_id"),
        "request_counts": {"total": batch.total, "completed": batch.done, "failed": batch.failed},
    }


def _dumps(row: Json) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode("ascii")
