"""What a run by batch does with questions that wait, apart from what it asks of anybody."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from vlsb.endpoints.request import Checksums, Draft
from vlsb.errors import ImageChangedError
from vlsb.evaluation.batch import BatchRun, Lane, _Ask
from vlsb.models.providers import BatchApi


def _changed() -> Any:
    raise ImageChangedError("it is another image now")


async def _fill(*, is_waited_for: bool) -> tuple[_Ask, Lane, tuple[str, ...]]:
    """Fill a batch with one question, whose image changed meanwhile."""
    nobody = cast(Any, None)
    ask = _Ask("1-1-0-x", Draft(b"{", b"}", _changed, 2), Checksums("i", "r"), asyncio.Future())
    lane = Lane("target", nobody, nobody, None, BatchApi(1.0, ()), forgets=False, waiting={ask.name: ask})
    run = BatchRun({}, nobody, nobody, nobody, nobody, 1.0, ())
    if not is_waited_for:
        ask.answer.cancel()
    names, _ = await run._fill(lane, deque([ask]))
    return ask, lane, names


def test_a_question_whose_image_changed_is_told_so_and_is_in_no_batch() -> None:
    ask, lane, names = asyncio.run(_fill(is_waited_for=True))

    assert isinstance(ask.answer.exception(), ImageChangedError)
    assert not names
    assert not lane.waiting


def test_a_question_that_nobody_waits_for_any_more_is_let_go_without_an_error() -> None:
    """As when the run was stopped while its image was read."""
    ask, lane, names = asyncio.run(_fill(is_waited_for=False))

    assert ask.answer.cancelled()
    assert not names
    assert not lane.waiting
