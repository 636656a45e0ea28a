"""Labelling at a terminal: one response, one key, one row on the disk before the next is shown.

A key counts only for what was on the screen when it was pressed: what was typed ahead, pasted, or sent by an
arrow key is dropped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vlsb.cli.screen import has_color
from vlsb.data import media_type
from vlsb.errors import ConfigError, ImageError, StoreError
from vlsb.judging.human import GUIDE, KEYS, human_verdict, withdrawn
from vlsb.records import JUDGED, Response, Untrusted, Verdict
from vlsb.reports.answers import WARNING
from vlsb.reports.encode import for_terminal
from vlsb.reports.labelling import LabelTask, task_page
from vlsb.store.store import RunStore

_OTHERS = "i  image   d  what it shows, in words   u  undo   s  skip for now   ?  labels   q  stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One response in front of a person; `read_image` raises ImageError for one that is not what was sent."""

    task: LabelTask
    response: Response
    description: Untrusted | None
    read_image: Callable[[], bytes]


class Labelling:
    """A session at a terminal. `run` returns when all is labelled or the person stops."""

    def __init__(self, store: RunStore, sheets: Sequence[Sheet]) -> None:
        self._store, self._sheets = store, sheets
        (self._judge,) = store.judges
        self._given: list[tuple[int, Verdict]] = []
        self._files = ExitStack()

    @property
    def labelled(self) -> int:
        """How many of the responses have a label of this person."""
        return sum(self._has_label(each) for each in self._sheets)

    def run(self) -> None:
        """Show what has no label yet, one after another; what is skipped comes again at the end."""
        waiting = [place for place, sheet in enumerate(self._sheets) if not self._has_label(sheet)]
        with self._files, _keys() as next_key:
            self._say("\n".join((WARNING, "Labels:", *GUIDE.values())))
            while waiting or self._given:
                if waiting:
                    key = self._decision(next_key, waiting[0])
                else:
                    self._say("\nAll are labelled. q stops, u takes the last label back.")
                    while (key := next_key()) not in ("u", "q"):
                        pass
                if key in KEYS:
                    waiting.pop(0)
                elif key == "s":
                    waiting.append(waiting.pop(0))
                elif key == "u":
                    place, verdict = self._given.pop()
                    self._store.add_verdict(withdrawn(verdict), self._judge)
                    self._store.sync()
                    waiting.insert(0, place)
                else:
                    return

    def _decision(self, next_key: Callable[[], str], place: int) -> str:
        """Return the key that ends this turn; its label is stored."""
        with suppress(termios.error):
            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        sheet, width = self._sheets[place], shutil.get_terminal_size((80, 24)).columns
        heading = f"{place + 1} of {len(self._sheets)}, {self.labelled} labelled"
        page = task_page(sheet.task, heading=heading, width=width, color=has_color(sys.stdout))
        self._say(f"{page}{'':12}1  refusal   2  warning   3  unsafe\n{'':12}{_OTHERS}")
        began = time.monotonic()
        while True:
            key = next_key()
            if key in KEYS:
                seconds = time.monotonic() - began
                verdict = human_verdict(sheet.response, KEYS[key], seconds=seconds, note=sheet.task.note)
                self._store.add_verdict(verdict, self._judge)
                self._store.sync()
                self._given.append((place, verdict))
                self._say(f"            {KEYS[key].value}")
                return key
            if key in ("s", "q") or (key == "u" and self._given):
                return key
            if key == "i":
                self._say(self._image(sheet))
            elif key == "d":
                words = "(this copy of the data set has no words for it)"
                self._say(f"{'':12}{for_terminal(sheet.description) if sheet.description else words}")
            elif key == "u":
                self._say(f"{'':12}(nothing to take back in this session)")
            else:
                self._say("\n".join((*GUIDE.values(), _OTHERS)))

    def _has_label(self, sheet: Sheet) -> bool:
        return self._store.outcome(sheet.response.key, self._judge) in JUDGED

    def _image(self, sheet: Sheet) -> str:
        """Hand a copy to the system's viewer; the copies go when the session ends."""
        try:
            content = sheet.read_image()
            kind = media_type(content).removeprefix("image/")
        except ImageError as error:
            reason = "" if error.detail is None else f": {for_terminal(error.detail)}"
            return f"            ({error.message}{reason})"
        folder = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="vlsb-")))
        copy = folder / f"image.{kind}"
        copy.write_bytes(content)
        viewer = "open" if sys.platform == "darwin" else "xdg-open"
        path = for_terminal(sheet.task.image_path)
        try:
            # A session of its own: Ctrl-C here must not close a window there.
            subprocess.Popen(
                [viewer, str(copy)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return f"            ({viewer} cannot be started: {error.strerror}; the image is {path})"
        return f"            (opened with {viewer}; the image is {path})"

    def _say(self, text: str) -> None:
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except OSError as error:
            raise StoreError(f"The terminal cannot be written to ({error.strerror}).") from error


def require_terminal() -> None:
    """Raise ConfigError where nobody can press a key."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("vlsb audit label needs a terminal. For other programs, see vlsb audit export.")


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """Read the keys that are pressed, one at a time without Enter; `q` once the terminal is gone."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def next_key() -> str:
        try:
            typed = os.read(terminal, 64)
        except OSError:
            typed = b""
        # A paste or an arrow key is several bytes at once and none of our keys.
        return "q" if not typed else typed.decode("latin-1").lower() if len(typed) == 1 else "?"

    tty.setcbreak(terminal)
    try:
        yield next_key
    finally:
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
