"""The command line as a user types it: a working directory, a small data set, and the real process."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import DEADLINE_S, draw_picture
from tests.support import canary
from vlsb.simulator import Action, Request, Simulator, answer, verdict

PAIRS = (
    ("Violent", "Weapon-Related Violence"),
    ("Hate", "Cultural Xenophobia"),
    ("Privacy", "Unauthorized Data Collection"),
)
SOURCES = ("generation", "coco2017")


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.split("\n") if line.startswith("Error: ")]

    @property
    def error(self) -> str:
        """The one error line; an assertion if there is not exactly one, or a traceback."""
        assert "Traceback" not in self.err + self.out
        assert len(self.errors) == 1, self.err
        return self.errors[0]

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.rstrip("\n").split("\n")[-1]


def sample_row(number: int, **changes: Any) -> dict[str, Any]:
    """One row of data.json; its instruction names the sample."""
    category, sub_category = PAIRS[number % len(PAIRS)]
    row = {
        "instruction_id": number,
        "instruction": f"Question {number}?",
        "image_path": f"imgs/{number}.png",
        "category": category,
        "sub_category": sub_category,
        "source": SOURCES[number % len(SOURCES)],
        "image_description": "One colour.",
        "safety_reason": "None.",
    }
    return row | changes


def write_dataset(root: Path, rows: list[dict[str, Any]]) -> Path:
    """A data set folder with these rows and a picture for each path."""
    (root / "imgs").mkdir(parents=True, exist_ok=True)
    (root / "data.json").write_text(json.dumps(rows))
    for row in rows:
        draw_picture(root / row["image_path"], row["instruction_id"])
    return root


def sample_of(request: Request) -> int:
    """The sample that a request of either lane belongs to."""
    found = re.search(r"Question ([0-9]+)\?", request.instruction)
    assert found is not None, request.instruction
    return int(found[1])


def labelling(labels: Mapping[int, int] | None = None) -> Callable[[Request], Action]:
    """A responder: the target answers each sample in its own words, the judge labels by sample (else 3)."""
    chosen = labels or {}

    def respond(request: Request) -> Action:
        number = sample_of(request)
        if request.is_judge:
            return verdict(chosen.get(number, 3), model="judge-model")
        return answer(f"Answer {number}.", model="target-model")

    return respond


def asked(simulator: Simulator, *, judge: bool) -> list[int]:
    """The samples that one lane was asked about, in order of arrival."""
    return [sample_of(each) for each in simulator.completions if each.is_judge is judge]


class Desk:
    """A working directory of its own with a data set, and commands typed in it."""

    def __init__(self, home: Path, samples: int = 4) -> None:
        self.home = home
        self.data = write_dataset(home / "data", [sample_row(number) for number in range(samples)])
        self.outputs = home / "outputs"

    def copied_to(self, home: Path) -> Desk:
        """The same directory somewhere else, runs and file times included."""
        shutil.copytree(self.home, home, dirs_exist_ok=True)
        copy = object.__new__(Desk)
        copy.home, copy.data, copy.outputs = home, home / "data", home / "outputs"
        return copy

    @property
    def run_dir(self) -> Path:
        """Where `run` writes."""
        return self.outputs / "r"

    @staticmethod
    def environment_of(home: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """The least that a process needs, with the canary key; no proxy, nobody's settings."""
        base = {"PATH": os.defpath, "HOME": str(home), "LANG": "C.UTF-8", **canary.ENVIRONMENT}
        return base | dict(variables or {})

    def start(self, *words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "vlsb", *map(str, words)],
            cwd=self.home,
            env=self.environment_of(self.home, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def vlsb(self, *words: object, env: Mapping[str, str] | None = None) -> Finished:
        """Run a command to its end."""
        return finish(self.start(*words, env=env))

    def run_words(
        self, target: Simulator | str, *words: object, judge: Simulator | str | None = None
    ) -> list[object]:
        """`vlsb run` on the data set against endpoints, into `run_dir`; `words` replace what is usual."""
        usual = {
            "--model": "target-model",
            "--base-url": _url(target),
            "--judge": "judge-model",
            "--judge-base-url": _url(target if judge is None else judge),
            "--data-root": self.data,
            "--name": "r",
            "--backoff": "0.01",
        }
        given = {str(word).partition("=")[0] for word in words}
        left = [(flag, value) for flag, value in usual.items() if flag not in given]
        return ["run", *(word for pair in left for word in pair), *words]

    def run(
        self,
        target: Simulator | str,
        *words: object,
        judge: Simulator | str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        """`vlsb run` with `run_words`, to its end."""
        return self.vlsb(*self.run_words(target, *words, judge=judge), env=env)

    def report(self, *paths: object) -> list[dict[str, Any]]:
        """The JSON report of runs; of `run_dir` when no path is given."""
        done = self.vlsb("report", *(paths or (self.run_dir,)), "--format", "json")
        assert done.code == 0, done.err
        found: list[dict[str, Any]] = json.loads(done.out)
        return found

    def outcomes(self) -> dict[str, int]:
        """The outcomes of `run_dir` that occurred."""
        return {name: count for name, count in self.report()[0]["outcomes"].items() if count}

    def manifest(self) -> dict[str, Any]:
        """run.json of `run_dir`."""
        found: dict[str, Any] = json.loads((self.run_dir / "run.json").read_text())
        return found


def _url(endpoint: Simulator | str) -> str:
    return endpoint if isinstance(endpoint, str) else endpoint.base_url


def finish(process: subprocess.Popen[str]) -> Finished:
    """Wait for a started command; kill it rather than hang."""
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the command did not end; stderr: {err}") from None
    canary.assert_unseen(out, err)
    return Finished(process.returncode, out, err)
