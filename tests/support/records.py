"""Records of a run, made up: each maker gives a plain one, with the fields that a test says changed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from tests.support import datasets
from vlsb.analysis.summary import ModelUsage, RunFacts
from vlsb.data import Dataset
from vlsb.data.image_files import inspect_images
from vlsb.records import (
    Completion,
    Failure,
    ImageFile,
    Key,
    Label,
    Outcome,
    Response,
    Sample,
    Stage,
    Untrusted,
    Usage,
    Verdict,
    data_digest,
)
from vlsb.store.manifest import JudgeEntry, Manifest, sample_row


def make_sample(sample_id: int, **changes: Any) -> Sample:
    """A sample with the fields that `write_dataset` gives it."""
    row = datasets.sample_row(sample_id)
    names = ("instruction", "image_path", "category", "sub_category", "source")
    fields = {name: row[name] for name in names} | changes
    return Sample(id=sample_id, **{name: Untrusted(text) for name, text in fields.items()})


def make_image(seed: int) -> ImageFile:
    """An image's facts; different seeds have different digests."""
    return ImageFile(hashlib.sha256(str(seed).encode()).hexdigest(), "image/png", 70 + seed, 10**18 + seed)


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
        images={sample.image_path.expose(): make_image(sample.id) for sample in samples},
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
    image = {"image_sha256": make_image(sample_id).sha256}
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


def run_facts(name: str, **changes: Any) -> RunFacts:
    """The facts of a run that is called so, as are its target and judge, and that took nothing."""
    word = Untrusted(name)
    facts = RunFacts(
        run=word,
        path=word,
        target=word,
        judge=word,
        simulated=False,
        subset=True,
        target_usage=ModelUsage(),
        judge_usage=ModelUsage(),
        duration_s=0.0,
        target_models={},
        judge_models={},
    )
    return replace(facts, **changes)


def digest_of(dataset: Dataset, samples: Sequence[Sample] | None = None) -> str:
    """The data digest of a run that sent the images of these samples as they lie there (default: all)."""
    chosen = dataset.samples if samples is None else samples
    paths = (each.image_path for each in chosen)
    found = inspect_images(dataset.open_image, paths, known={}, hashed=True)
    images = {path: each.sha256 for path, each in found.items() if isinstance(each, ImageFile)}
    return data_digest((each.id, each.digest(), images.get(each.image_path)) for each in chosen)
