"""How many GPUs cells take: from recorded answers of `nvidia-smi`, published configs and made-up files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint
from tests.unit.engines.test_gpu_choice import EIGHT_H100, GRACE, ONE_A10, TWO_L4
from tests.unit.engines.test_placement import FLAT
from vlsb.engines.hardware import parse_gpus
from vlsb.sweep.cells import Matrix, matrix
from vlsb.sweep.here import Slots
from vlsb.sweep.plan import load_plan
from vlsb.sweep.sizing import Sizing
from vlsb.sweep.start import SweepWishes

GB = 10**9
# Qwen2.5-VL as published: of 7, 32 and 72 billion weights.
SIZES: Mapping[str, tuple[int, dict[str, int]]] = {
    "7B": (17 * GB, {}),
    "32B": (67 * GB, {"num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8}),
    "72B": (147 * GB, {"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose files nobody reads after the test: they are too large for that."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def weights(place: Path, size: str, **settings: Any) -> Path:
    """A checkpoint of that size; its file has no content, and takes no room."""
    file_bytes, of_its_size = SIZES[size]
    checkpoint(place, config={**FLAT, **of_its_size, **settings})
    with (place / "model.safetensors").open("wb") as file:
        file.truncate(file_bytes)
    return place


def laid_out(folder: Path, sizing: Sizing, *models: object, judges: object = ()) -> Matrix:
    plan = {"models": models, "judges": judges, "output-dir": str(folder / "sweep")}
    (folder / "plan.yaml").write_text(json.dumps(plan))
    return matrix(load_plan(str(folder / "plan.yaml")), sizing)


@pytest.mark.parametrize(
    ("machine", "size", "count"),
    [
        (EIGHT_H100, "7B", 1),
        (EIGHT_H100, "32B", 1),
        (EIGHT_H100, "72B", 2),
        (TWO_L4, "7B", 1),
        (TWO_L4, "32B", 4),
        (TWO_L4, "72B", 8),
        (ONE_A10, "32B", 4),
        # What nobody knows is not guessed.
        (GRACE, "72B", 1),
        ("", "72B", 1),
    ],
)
def test_a_model_that_says_nothing_takes_as_few_gpus_as_hold_it(
    folder: Path, machine: str, size: str, count: int
) -> None:
    slots = Slots(parse_gpus(machine))

    found = laid_out(folder, Sizing(slots.memory_bytes), str(weights(folder / "weights", size)))

    (work,) = found.works
    assert work.num_gpus == count
    shared = ["--tensor-parallel-size", str(count)] if count > 1 else []
    words = work.command()
    assert [each for each in words if each in shared] == shared
    assert ("--tensor-parallel-size" in words) is bool(shared)


def test_what_an_entry_says_is_not_computed(folder: Path) -> None:
    where = str(weights(folder / "weights", "72B"))
    said = [
        {"num-gpus": 1, "name": "a"},
        {"tensor-parallel-size": 2, "name": "b"},
        {"num-gpus": 8, "name": "c"},
        {"num-gpus": 2, "name": "d", "replicas": 2},
    ]

    found = laid_out(folder, Sizing(24 * GB), *({"model": where, **each} for each in said))

    assert [work.num_gpus for work in found.works] == [1, 2, 8, 4]


def test_fewer_bits_take_fewer_gpus(folder: Path) -> None:
    where = str(weights(folder / "weights", "72B"))

    found = laid_out(folder, Sizing(80 * GB), where, {"model": where, "name": "b", "quantization": "fp8"})

    assert [work.num_gpus for work in found.works] == [4, 2]


def test_a_local_judge_is_shared_by_as_many_gpus_as_hold_it(folder: Path) -> None:
    judge = str(weights(folder / "judge", "72B"))

    found = laid_out(folder, Sizing(80 * GB), "demo", judges=[judge])

    assert found.judging[0].num_gpus == 4
    assert found.judging[0].command()[-2:] == ["--tensor-parallel-size", "4"]


def test_without_the_memory_of_a_gpu_there_each_takes_one_and_that_is_said(folder: Path) -> None:
    plan = folder / "plan.yaml"
    plan.write_text(json.dumps({"models": [str(weights(folder / "weights", "72B"))]}))
    sizing = SweepWishes(plan=str(plan), slurm=True).sizing(load_plan(str(plan)), None)

    (work,) = matrix(load_plan(str(plan)), sizing).works

    assert work.num_gpus == 1
    assert sizing.unknown == {"weights": "the plan has no gpu-memory-gb"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        # 28 heads are not shared by 8 GPUs, and 4 are too few.
        ({"num_attention_heads": 28}, "8 GPUs of 24 GB are too few for it"),
        ({"architectures": []}, "names no architecture"),
    ],
)
def test_where_nothing_can_be_computed_it_takes_one_and_that_is_said(
    folder: Path, settings: dict[str, Any], why: str
) -> None:
    sizing = Sizing(24 * GB)

    found = laid_out(folder, sizing, str(weights(folder / "weights", "72B", **settings)))

    assert found.works[0].num_gpus == 1
    assert why in sizing.unknown["weights"]


def test_without_the_hub_each_takes_one_and_the_reason_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    sizing = Sizing(24 * GB)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))

    found = laid_out(folder, sizing, "some/model", "another/model")

    assert [work.num_gpus for work in found.works] == [1, 1]
    assert set(sizing.unknown) == {"some/model", "another/model"}
    assert set(sizing.unknown.values()) == {"the Hugging Face Hub cannot be reached"}
