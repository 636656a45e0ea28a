"""What several test files share: made-up data sets, the command line as a process, records of a run."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from tests.support import canary
from vlsb.data import Dataset
from vlsb.data.pictures import inspect_pictures
from vlsb.records import (
    Completion,
    Failure,
    Key,
    Label,
    Outcome,
    Picture,
    Response,
    Sample,
    Stage,
    Untrusted,
    Usage,
    Verdict,
    data_digest,
)
from vlsb.store.manifest import JudgeEntry, Manifest, sample_row

# A slow or busy machine must not fail a property.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

DEADLINE_S = 60.0
"""How long a test waits for something that takes milliseconds: only a hang reaches it."""

PAIRS = (("Violent", "Weapons"), ("Violent", "Threats"), ("Privacy", "Faces"), ("Erotic", "Other"))


# Data sets.


def instruction(sample_id: int) -> str:
    """The made-up instruction of a sample: no other sample's contains it."""
    return f"What is shown here? (sample {sample_id})"


def draw_picture(path: Path, seed: int) -> None:
    """Write a small PNG; different seeds give different bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (1 + seed % 8, 1 + seed // 8 % 8)
    Image.new("RGB", size, (seed % 256, seed // 256 % 256, 77)).save(path, format="PNG")


def write_dataset(
    root: Path,
    count: int = 6,
    *,
    shared: Mapping[int, int] | None = None,
    empty: Collection[int] = (),
    changes: Mapping[int, Mapping[str, Any]] | None = None,
) -> Path:
    """A data set folder with samples 0 to `count` - 1, each with an instruction and a picture of its own.

    `shared` maps a sample to the one whose picture it shares; samples in `empty` have no instruction;
    `changes` maps a sample to fields that replace its row's.
    """
    shared, changes = shared or {}, changes or {}
    rows = []
    for sample_id in range(count):
        picture = f"imgs/{shared.get(sample_id, sample_id)}.png"
        category, sub_category = PAIRS[sample_id % len(PAIRS)]
        row = {
            "instruction_id": sample_id,
            "instruction": "" if sample_id in empty else instruction(sample_id),
            "image_path": picture,
            "category": category,
            "sub_category": sub_category,
            "source": f"made up {sample_id % 2}",
        }
        rows.append(row | dict(changes.get(sample_id, {})))
        if sample_id not in shared:
            draw_picture(root / picture, sample_id)
    (root / "data.json").write_text(json.dumps(rows))
    return root


@pytest.fixture
def dataset_root(tmp_path: Path) -> Callable[..., Path]:
    """Writes a made-up data set folder: `dataset_root(6, shared={1: 0}, empty={2}, changes={3: {...}})`.

    `name` tells the folders of one test apart; the rest is `write_dataset`'s.
    """

    def write(count: int = 6, *, name: str = "dataset", **options: Any) -> Path:
        return write_dataset(tmp_path / name, count, **options)

    return write


# The command line.


class Finished(NamedTuple):
    """How a command ended."""

    rc: int
    stdout: str
    stderr: str


class Vlsb:
    """`vlsb` as a process of its own, in a directory and an environment that hold nothing of ours."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._started: list[subprocess.Popen[str]] = []

    def __call__(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> Finished:
        """Run to the end. `env` adds to the minimal environment."""
        with self.start(*arguments, env=env, cwd=cwd) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_s)
            finally:
                process.kill()
        canary.assert_unseen(stdout, stderr)
        return Finished(process.returncode, stdout, stderr)

    def start(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start and return at once; whatever still runs when the test ends is killed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "vlsb", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            cwd=cwd or self._directory,
            env={**self._environment, **(env or {})},
        )
        self._started.append(process)
        return process

    def kill_all(self) -> None:
        """End every process that this started, and close its pipes."""
        for process in self._started:
            with process:
                process.kill()


@pytest.fixture
def minimal_env(tmp_path: Path) -> dict[str, str]:
    """An environment without anybody's home or settings; the canary key is in it."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    least = {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8", "COLUMNS": "80", "LINES": "24"}
    return least | canary.ENVIRONMENT


@pytest.fixture(autouse=True)
def no_file_shows_the_key(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, the key that its commands used is in no file that they wrote."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        assert canary.files_that_show_it(folder) == []


@pytest.fixture
def vlsb(tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[Vlsb]:
    """`vlsb("run", "--model", "demo")` runs the command line and returns `rc`, `stdout` and `stderr`."""
    command_line = Vlsb(tmp_path, minimal_env)
    yield command_line
    command_line.kill_all()


# Files and waiting.


def tree(root: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time of change and digest of everything below a directory, by relative path."""
    return {str(path.relative_to(root)): _fingerprint(path) for path in [root, *sorted(root.rglob("*"))]}


def _fingerprint(path: Path) -> tuple[int, int, str]:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() else b""
    return status.st_mode, status.st_mtime_ns, hashlib.sha256(content).hexdigest()


def digest_of(dataset: Dataset, samples: Sequence[Sample] | None = None) -> str:
    """The data digest of a run that sent the images of these samples as they lie there (default: all)."""
    chosen = dataset.samples if samples is None else samples
    paths = (each.image_path for each in chosen)
    found = inspect_pictures(dataset.open_picture, paths, known={}, hashed=True)
    images = {path: each.sha256 for path, each in found.items() if isinstance(each, Picture)}
    return data_digest((each.id, each.digest(), images.get(each.image_path)) for each in chosen)


def wait_until(condition: Callable[[], object], *, what: str) -> None:
    """Return when the condition holds; fail, naming `what`, when it does not in a very long time."""
    ends_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_at, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.005)


# Records.


def make_sample(sample_id: int, **changes: Any) -> Sample:
    """A sample with the fields that `write_dataset` gives it."""
    category, sub_category = PAIRS[sample_id % len(PAIRS)]
    fields = {
        "instruction": instruction(sample_id),
        "image_path": f"imgs/{sample_id}.png",
        "category": category,
        "sub_category": sub_category,
        "source": f"made up {sample_id % 2}",
    }
    return Sample(id=sample_id, **{name: Untrusted(text) for name, text in (fields | changes).items()})


def make_picture(seed: int) -> Picture:
    """A picture's facts; different seeds have different digests."""
    return Picture(hashlib.sha256(str(seed).encode()).hexdigest(), "image/png", 70 + seed, 10**18 + seed)


def make_manifest(sample_ids: Collection[int] = (0, 1, 2), **changes: Any) -> Manifest:
    """A manifest over made-up samples, with settings of every kind that real ones have."""
    samples = [make_sample(sample_id) for sample_id in sample_ids]
    lane = {
        "model": "target-model",
        "address": "http://loopback/v1",
        "headers": ["x-team"],
        "system_prompt": "You are a helpful assistant.",
        "max_tokens": 128,
        "temperature": 0.0,
        "top_p": 1.0,
        "extra": {"seed": 7, "stop": ["END"]},
        "part_order": "text, image",
    }
    manifest = Manifest(
        version="0.0.test",
        created_at="2025-01-01T00:00:00+00:00",
        target=Untrusted("target-model"),
        simulated=False,
        epochs=1,
        settings=lane,
        judges=[make_judge()],
        selection={"limit": None, "sample_ids": [], "seed": 0},
        data={},
        data_digest="cd" * 32,
        differences=["one difference"],
        deviations=[Untrusted("target seed: 7 (added)")],
        samples=[sample_row(sample) for sample in samples],
        pictures={sample.image_path.expose(): make_picture(sample.id) for sample in samples},
        decision=None,
        accepts_changed_images=False,
    )
    return replace(manifest, **changes)


def make_judge(name: str = "judge-model", **changes: Any) -> JudgeEntry:
    """A judge of a run, with settings of every kind that real ones have."""
    settings = {
        "model": name,
        "address": "https://api.example.com/v1",
        "headers": [],
        "system_prompt": "You are a helpful assistant.",
        "max_tokens": 512,
        "temperature": 0.0,
        "top_p": None,
        "extra": {"seed": 7},
        "part_order": "image, text",
        "template_sha256": "ab" * 32,
    }
    entry = JudgeEntry(
        name=Untrusted(name),
        file=f"{name}.jsonl",
        simulated=False,
        is_added=False,
        settings=settings,
        decision=None,
        deviations=[],
    )
    return replace(entry, **changes)


def make_completion(text: str = "A plain answer.", **changes: Any) -> Completion:
    """A completion that was answered at the first attempt."""
    completion = Completion(
        text=Untrusted(text),
        origin="content",
        finish_reason=Untrusted("stop"),
        model=Untrusted("target-model-1"),
        usage=Usage(800, 40, 0),
        attempts=1,
        latency_s=0.5,
        flags=(),
        request_sha256="01" * 32,
        image_sha256="03" * 32,
    )
    return replace(completion, **changes)


def make_response(
    sample_id: int = 0, text: str = "A plain answer.", *, epoch: int = 1, **changes: Any
) -> Response:
    """A stored response; `changes` are the completion's."""
    image = {"image_sha256": make_picture(sample_id).sha256}
    return Response.of(Key(sample_id, epoch), make_completion(text, **(image | changes)))


def make_verdict(response: Response, label: Label = Label.UNSAFE, **changes: Any) -> Verdict:
    """A verdict for that very response."""
    verdict = Verdict(
        sample_id=response.sample_id,
        label=label,
        explanation=Untrusted("It fits the label."),
        response_sha256=response.response_sha256,
        image_sha256=response.image_sha256,
        model=Untrusted("judge-model-1"),
        usage=Usage(1000, 20, 0),
        asks=1,
        attempts=1,
        latency_s=0.25,
        request_sha256="02" * 32,
        epoch=response.epoch,
    )
    return replace(verdict, **changes)


def make_failure(
    sample_id: int = 0,
    outcome: Outcome = Outcome.TARGET_ERROR,
    response: Response | None = None,
    **changes: Any,
) -> Failure:
    """A failure at the stage that its outcome names."""
    stage: Stage = "judge" if outcome.value.startswith("judge_") else "target"
    failure = Failure(
        sample_id=sample_id,
        stage=stage,
        outcome=outcome,
        fault="transient",
        code="http_500",
        status=500,
        message=Untrusted("The server had an error."),
        attempts=3,
        usage=Usage(10, 1, None),
        details={},
        response_sha256=None if response is None else response.response_sha256,
        epoch=1 if response is None else response.epoch,
    )
    return replace(failure, **changes)
