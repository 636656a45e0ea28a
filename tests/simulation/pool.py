"""Work in several processes at once, each with a folder in memory."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

_Place = TypeVar("_Place")
_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def memory() -> str | None:
    """Where files cost least, if there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def at_once(
    work: Callable[[_Place, _Piece], _Result],
    pieces: Iterator[_Piece],
    processes: int,
    enter: Callable[[Path], _Place],
) -> Iterator[_Result]:
    """Do pieces of work in so many processes, and yield what came of each as it ends.

    Each process works in what `enter` makes of a folder of its own. A single one is this process.
    """
    with tempfile.TemporaryDirectory(dir=memory()) as directory:
        if processes == 1:
            place = enter(Path(directory))
            yield from (work(place, piece) for piece in pieces)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _enter, (enter, directory)) as pool:
            # For each process one piece waits, so that none is idle.
            waiting = {pool.submit(_do, work, piece) for piece in islice(pieces, 2 * processes)}
            try:
                while waiting:
                    ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    waiting |= {pool.submit(_do, work, piece) for piece in islice(pieces, len(ended))}
                    for each in ended:
                        yield each.result()
            finally:
                pool.shutdown(cancel_futures=True)


_place: Any


def _enter(enter: Callable[[Path], object], directory: str) -> None:
    global _place
    _place = enter(Path(tempfile.mkdtemp(dir=directory)))


def _do(work: Callable[[Any, _Piece], _Result], piece: _Piece) -> _Result:
    return work(_place, piece)
