"""Finished runs of any size, written by vlsb's own store: the files that a real session leaves behind.

python -m benchmarks.run_directories FOLDER SAMPLES
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.data import IMAGES, ROWS, Size, make_data
from benchmarks.processes import ROOT
from benchmarks.stub import ANSWER
from vlsb.records import Completion, Failure, Key, Label, Outcome, Response, Untrusted, Usage, Verdict

if TYPE_CHECKING:
    from vlsb.store.store import RunStore

# Nothing is sent there: the run is written, not made.
NOWHERE = "http://127.0.0.1:9/v1"
TINY_IMAGE_BYTES = 48
BLOCKED_ONE_IN = 100
FINISHED = "finished"
WORDS = ANSWER.split()
MODEL = Untrusted("made-up-model-2025-01-01")


def make_run(root: Path, samples: int) -> Path:
    """A finished run of so many samples below `root`; one that is there already is used again.

    Written by a process of its own: what this one has used counts as its children's peak memory.
    """
    directory = root / "runs" / str(samples)
    if not (directory / FINISHED).is_file():
        words = [sys.executable, "-m", "benchmarks.run_directories", str(root), str(samples)]
        subprocess.run(words, cwd=ROOT, check=True)
    return directory


def rows_of_run(root: Path, samples: int) -> Path:
    """The data set that such a run was made from."""
    return make_data(
        root / f"rows-{samples}", Size(samples, max(1, samples * IMAGES // ROWS), TINY_IMAGE_BYTES)
    )


def _write(root: Path, samples: int) -> None:
    # Imported here: whoever only starts this program stays small.
    from vlsb.evaluation.options import RunOptions
    from vlsb.evaluation.session import prepare
    from vlsb.evaluation.settings import resolve_run

    options = RunOptions(
        model="made-up-model",
        base_url=NOWHERE,
        judge="made-up-judge",
        judge_base_url=NOWHERE,
        data_root=rows_of_run(root, samples),
        output_dir=root / "runs",
        name=str(samples),
    )
    prepared = prepare(asyncio.run(resolve_run(options, {}, print)).plan)
    store = prepared.open_store()
    draws = random.Random(samples)
    store.add_event("session_started", pending=len(prepared.samples), judge=store.judges[0], only_judge=False)
    for number, sample in enumerate(prepared.samples):
        if number % BLOCKED_ONE_IN == 0:
            store.add_failure(_blocked(sample.id), None)
        else:
            image = hashlib.sha256(prepared.dataset.read(sample)).hexdigest()
            _answer(store, sample.id, image, draws)
    store.add_event("session_ended", reason="complete")
    asyncio.run(store.close())
    (store.directory / FINISHED).touch()


def _answer(store: RunStore, sample_id: int, image: str, draws: random.Random) -> None:
    """A response of about 128 tokens, and a verdict with a sentence of explanation."""
    completion = Completion(
        text=_text(draws, 95),
        origin="content",
        finish_reason=Untrusted("stop"),
        model=MODEL,
        usage=Usage(draws.randrange(700, 1500), draws.randrange(90, 128)),
        attempts=1,
        latency_s=draws.lognormvariate(0.7, 0.4),
        request_sha256=_digest(draws),
        image_sha256=image,
        flags=(),
    )
    response = Response.of(Key(sample_id, 1), completion)
    store.add_response(response)
    store.add_verdict(
        Verdict(
            sample_id=sample_id,
            label=draws.choice(list(Label)),
            explanation=_text(draws, 30),
            response_sha256=response.response_sha256,
            image_sha256=image,
            model=MODEL,
            usage=Usage(draws.randrange(900, 1700), draws.randrange(30, 60)),
            asks=1,
            attempts=1,
            latency_s=draws.lognormvariate(0.7, 0.4),
            request_sha256=_digest(draws),
        ),
        store.judges[0],
    )


def _blocked(sample_id: int) -> Failure:
    return Failure(
        sample_id=sample_id,
        stage="target",
        outcome=Outcome.TARGET_BLOCKED,
        fault="provider_blocked",
        code="blocked_input",
        status=400,
        message=Untrusted("made up"),
        attempts=1,
        usage=Usage(),
        details={},
    )


def _text(draws: random.Random, words: int) -> Untrusted:
    return Untrusted(" ".join(draws.choices(WORDS, k=words)))


def _digest(draws: random.Random) -> str:
    return hashlib.sha256(draws.randbytes(16)).hexdigest()


def main() -> None:
    """Write one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("samples", type=int)
    chosen = parser.parse_args()
    _write(chosen.folder, chosen.samples)


if __name__ == "__main__":
    main()
