"""Cells whose models engines of this machine serve: whose turn it is, and on which GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.test_run_local import Desk as LocalDesk
from tests.commands.test_sweep import VERDICT, row_of
from tests.support.checkpoints import checkpoint
from tests.support.command import Finished, Vlsb
from tests.support.fake_engine import events
from tests.support.sweeps import tables, write_local_plan
from tests.unit.engines.test_hardware import listing
from vlsb.models.profile import FAMILIES


@pytest.fixture
def local(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Iterator[LocalDesk]:
    desk = LocalDesk(vlsb, tmp_path, minimal_env)
    yield desk
    desk.gone()


def test_cells_take_turns_on_the_gpus_and_the_judge_starts_once_after_them(
    local: LocalDesk, tmp_path: Path
) -> None:
    """Without a GPU, the CPU is the one place that engines take turns in."""
    for step in (1, 2):
        checkpoint(tmp_path / "ckpt" / f"step-{step}")
    judge = str(checkpoint(tmp_path / "judge"))
    plan = write_local_plan(tmp_path, local.data, local.engine, models=["./ckpt/step-*"], judges=[judge])

    ended = local.vlsb("sweep", plan, env=local.environment(ANSWER=VERDICT))

    assert ended.code == 0, ended.err
    assert len(events(local.record, "start")) == 3
    found = tables(local.vlsb, tmp_path / "sweep")
    assert [found[name]["judged"] for name in ("step-1", "step-2")] == [8, 8]


def test_a_model_too_large_for_one_gpu_is_shared_by_two_and_stays_so(
    local: LocalDesk, tmp_path: Path
) -> None:
    """A prompt of full length takes 4 GiB of cache. On larger GPUs the run goes on as it began."""
    text = {"num_hidden_layers": 64, "num_attention_heads": 64, "hidden_size": 4096}
    config = {"architectures": [FAMILIES["llava_hf"].architecture], "text_config": text}
    where = str(checkpoint(tmp_path / "ckpt", config=config))

    def swept(gigabytes: int, epochs: int, *words: str) -> Finished:
        size = 1024 * gigabytes
        rows = "\n".join(f"{n}, GPU-{n}, {size}, {size}, 550.90.07, NVIDIA L4" for n in (0, 1))
        path = os.pathsep.join([listing(tmp_path / "smi", rows)["PATH"], os.defpath])
        plan = write_local_plan(
            tmp_path, local.data, local.engine, models=[where], epochs=epochs, **{"gpu-memory-gb": 80}
        )
        return local.vlsb("sweep", plan, *words, env=local.environment() | {"PATH": path})

    shown = swept(6, 1, "--dry-run")
    first = swept(6, 1)
    later = swept(80, 2)
    elsewhere = swept(6, 3, "--slurm", "--dry-run")

    assert row_of(shown.out, "ckpt")[0] == "2"
    assert (first.code, later.code) == (0, 0), first.err + later.err
    assert "started on GPU 0,1" in first.err
    starts = [event["argv"] for event in events(local.record, "start")]
    sizes = [argv[argv.index("--tensor-parallel-size") + 1] for argv in starts]
    assert sizes == ["2", "2"]
    assert elsewhere.code == 0
