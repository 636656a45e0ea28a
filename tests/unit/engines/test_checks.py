"""What would end a start after minutes is found in seconds: before an install, a download, an engine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint, write_tensors
from tests.support.command import Finished, Vlsb
from tests.support.datasets import write_dataset
from tests.support.engine_environment import write_environment
from tests.support.hub import hub_at
from tests.unit.engines.test_checkpoint import Handler, Hub
from tests.unit.engines.test_hardware import HEADING, fake_smi, listing
from vlsb.engines import checks
from vlsb.engines.checks import Machine, check_start
from vlsb.engines.hardware import list_gpus
from vlsb.engines.install import Engine
from vlsb.engines.plan import GpuLease, Wishes
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError, ServerError, StoreError, VlsbError
from vlsb.models.catalog import load_catalog
from vlsb.models.profile import FAMILIES

MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"


def row(index: int = 0, *, total: int = 24576, free: int = 24200) -> str:
    """A GPU as `nvidia-smi` lists it; memory in MiB."""
    return f"{index}, GPU-{index}, {total}, {free}, 550.54.15, NVIDIA A10"


def heading(cuda: str) -> str:
    return HEADING.replace("12.4", cuda)


class Desk:
    """A user with an engine and weights of their own, and whatever `nvidia-smi` there is."""

    def __init__(self, vlsb: Vlsb, folder: Path, environment: Mapping[str, str]) -> None:
        self.vlsb = vlsb
        self.folder = folder
        self.record = folder / "record"
        self.places = Places.of(environment)
        self.engine = write_environment(folder / "engine")
        self.weights = checkpoint(folder / "weights")

    def __call__(self, *words: str, smi: Mapping[str, str] | None = None, **more: str) -> Finished:
        path = os.pathsep.join(filter(None, [(smi or {}).get("PATH"), os.defpath]))
        environment = {"PATH": path, "FAKE_ENGINE_RECORD": str(self.record), **more}
        ended = self.vlsb(*words, env=environment)
        assert not self.record.exists(), "no engine was to be started"
        assert not self.places.engines.exists(), "nothing was to be installed"
        return ended

    def started(self, command: str, **options: Any) -> Finished:
        """`vlsb serve` or `vlsb run` of a family with this engine and these weights."""
        name = (command, "llava_hf") if command == "serve" else (command, "--model", "llava_hf")
        return self(*name, "--engine", str(self.engine), "--weights", str(self.weights), **options)


@pytest.fixture
def desk(vlsb: Vlsb, tmp_path: Path, minimal_env: dict[str, str]) -> Desk:
    return Desk(vlsb, tmp_path, minimal_env)


# The driver.


@pytest.mark.parametrize("words", [("serve", "llava_hf", "--yes"), ("engine", "install", "llava_hf")])
def test_a_failing_nvidia_smi_is_an_error_with_its_output_and_no_engine_for_the_cpu(
    words: tuple[str, ...], desk: Desk
) -> None:
    smi = fake_smi(desk.folder / "smi", f"echo '{MISMATCH}' >&2; echo 'NVML 550.54' >&2; exit 18")

    ended = desk(*words, smi=smi)

    assert ended.code == 7
    assert f"nvidia-smi ended with exit code 18: {MISMATCH} NVML 550.54." in ended.err
    assert "To use the CPU all the same, set CUDA_VISIBLE_DEVICES to -1." in ended.err


def test_hiding_the_gpus_takes_the_cpu_whatever_the_driver_says(tmp_path: Path) -> None:
    smi = fake_smi(tmp_path, f"echo '{MISMATCH}'; exit 18")

    for hidden in ("-1", ""):
        found = list_gpus({**smi, "CUDA_VISIBLE_DEVICES": hidden})
        assert found.checked().gpus == ()
    with pytest.raises(ServerError):
        list_gpus({**smi, "CUDA_VISIBLE_DEVICES": "0"}).checked()


def test_a_gpus_device_without_nvidia_smi_is_said_and_a_machine_without_both_has_a_cpu(
    tmp_path: Path,
) -> None:
    assert list_gpus({"PATH": ""}, devices=tmp_path).checked().gpus == ()
    (tmp_path / "nvidia0").touch()

    with pytest.raises(ServerError) as failed:
        list_gpus({"PATH": ""}, devices=tmp_path).checked()

    assert (
        f"{tmp_path / 'nvidia0'} is present, but there is no nvidia-smi on PATH to ask about it."
        in failed.value.message
    )


@pytest.mark.parametrize(
    ("family", "cuda", "version", "built_for"),
    [("llava_hf", "12.4", "0.32.0", "13.0"), ("mllama", "11.8", "0.10.2", "12.8")],
)
@pytest.mark.parametrize("command", [("serve", "--yes"), ("engine", "install")])
def test_a_driver_too_old_for_the_engine_is_said_with_both_versions_before_a_download(
    family: str, cuda: str, version: str, built_for: str, command: tuple[str, str], desk: Desk
) -> None:
    words = ("serve", family, "--yes") if command[0] == "serve" else (*command, family)
    ended = desk(*words, smi=listing(desk.folder / "smi", row(), heading(cuda)))

    assert ended.code == 7
    built = f"vLLM {version} is built for CUDA {built_for}, and the NVIDIA driver here, 550.54.15,"
    assert f"{built} runs CUDA up to {cuda}." in ended.err
    assert "Update the driver, or bring an engine" in ended.err


def test_an_engine_that_is_there_is_held_against_the_driver_by_its_torch(desk: Desk) -> None:
    torch = desk.engine / "lib" / "python3.11" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "version.py").write_text("cuda: Optional[str] = '13.0'\n")

    old = desk.started("serve", smi=listing(desk.folder / "old", row(), heading("12.8")))

    assert old.code == 7
    assert "vLLM 0.32.0 is built for CUDA 13.0" in old.err


# Memory and disk.


def checked(
    folder: Path, *rows: str, wishes: Wishes, engine: Engine | None = None, family: str = "llava_hf"
) -> VlsbError | None:
    """How the check ends for a machine with these GPUs; without any it has a CPU alone."""
    environment = listing(folder / "smi", "\n".join(rows)) if rows else {"PATH": ""}
    model, places = load_catalog(None)[family], Places.of({"HOME": str(folder)})
    engine = engine or Engine(folder / "vllm", "0.32.0", None, not rows, None)
    try:
        check_start(model, wishes, engine, Machine.of(environment, list_gpus(environment), places))
    except VlsbError as error:
        return error
    return None


def large(folder: Path, size: int, family: str = "llava_hf") -> Path:
    """Weights of so many bytes in 16 bits, which take no room on the disk."""
    config = {"architectures": [FAMILIES[family].architecture], "torch_dtype": "float16"}
    checkpoint(folder, family, config=config)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return folder


GIB = 1024**3


@pytest.fixture
def sparse() -> Iterator[Path]:
    """A folder for files that are larger than anybody would read."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_weights_that_no_gpu_holds_are_refused_with_the_number_of_gpus_that_do(
    tmp_path: Path, sparse: Path
) -> None:
    wishes = Wishes(weights=str(large(sparse / "weights", 30 * GIB)))

    alone = checked(tmp_path, row(), wishes=wishes)
    assert isinstance(alone, ServerError)
    assert "needs about 34 GB on each GPU (32 GB of weights" in alone.message
    assert alone.message.endswith("Use --quantization fp8, or smaller weights of the family (--weights).")
    larger = checked(tmp_path, row(), wishes=Wishes(weights=str(large(sparse / "larger", 90 * GIB))))
    assert larger is not None
    assert larger.message.endswith("Take a larger GPU, or smaller weights of the family with --weights.")

    two = checked(tmp_path, row(0), row(1), wishes=wishes)
    assert two is not None
    assert "Use --tensor-parallel-size 2 or --quantization fp8" in two.message
    assert (
        checked(tmp_path, row(0), row(1), wishes=replace(wishes, settings={"tensor-parallel-size": 2}))
        is None
    )


def test_a_gpu_that_others_use_is_said_with_what_is_free_and_the_option_that_helps(
    tmp_path: Path, sparse: Path
) -> None:
    wishes = Wishes(weights=str(large(sparse / "weights", 4 * GIB)))

    busy = checked(tmp_path, row(free=12288), wishes=wishes)

    assert isinstance(busy, ServerError)
    assert "out of GPU memory: 12.0 GiB of 24.0 GiB are free on GPU 0" in busy.message
    assert busy.message.endswith("or pass `-- --gpu-memory-utilization 0.48`.")
    followed = replace(wishes, engine_options=("--gpu-memory-utilization", "0.48"))
    assert checked(tmp_path, row(free=12288), wishes=followed) is None
    other = replace(wishes, gpus=GpuLease(("1",)))
    assert checked(tmp_path, row(free=12288), row(1), wishes=other) is None


def test_a_lease_names_only_gpus_that_this_process_may_use(tmp_path: Path, sparse: Path) -> None:
    """A job that was given two of four GPUs cannot take a third by naming it."""
    wishes = Wishes(weights=str(large(sparse / "weights", GIB)), gpus=GpuLease.parse("0,2"))

    assert checked(tmp_path, row(), row(1), row(2), wishes=wishes) is None
    refused = checked(tmp_path, row(), row(1), wishes=wishes)
    assert isinstance(refused, ConfigError)
    assert refused.message == "--gpus 2: not among the GPUs that may be used here (0, 1)."


def test_without_a_gpu_the_weights_must_fit_into_the_memory_in_float32(
    tmp_path: Path, sparse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "memory_bytes", lambda: 24 * GIB)
    wishes = Wishes(weights=str(large(sparse / "weights", 13 * GIB)))

    said = checked(tmp_path, wishes=wishes)

    assert isinstance(said, ServerError)
    assert "its weights take 26.0 GiB and the cache 4.0 GiB (VLLM_CPU_KVCACHE_SPACE)" in said.message
    assert "this machine has 24.0 GiB of memory" in said.message
    assert checked(tmp_path, wishes=replace(wishes, settings={"dtype": "bfloat16"})) is None


def test_a_disk_too_small_for_all_that_is_to_come_is_said_before_the_first_of_it(
    desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, places = load_catalog(None)["llava_hf"], Places.of({"HOME": str(desk.folder)})
    # An engine for the CPU takes 6 GiB of it.
    monkeypatch.setattr(checks, "free_disk_bytes", lambda _: 6 * GIB - 1)

    machine = Machine.of({"PATH": ""}, list_gpus({"PATH": ""}), places)
    with pytest.raises(StoreError, match=r"the engine need 6\.4 GB, and the disk of .* has 6\.4 GB left"):
        check_start(model, Wishes(weights=str(desk.weights)), None, machine)


# Keys and access.


def test_a_judges_missing_key_is_found_before_an_engine_is_installed_or_started(desk: Desk) -> None:
    data = write_dataset(desk.folder / "data", 1)

    no_key = {"VLSB_JUDGE_API_KEY_ENV": "SET_NOWHERE", "VLSB_DATA_ROOT": str(data)}
    here = desk.started("run", **no_key)
    missing = desk("run", "--model", "llava_hf", "--yes", **no_key)

    for ended in (here, missing):
        assert ended.code == 3
        assert "no key in SET_NOWHERE" in ended.err


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A stand-in for the hub with one checkpoint, on a loopback port."""
    folder = checkpoint(tmp_path / "published")
    write_tensors(folder / "model.safetensors")
    hub = Hub({path.name: path.read_bytes() for path in folder.iterdir()})
    with hub_at(Handler, hub) as hub.address:
        yield hub


@pytest.mark.parametrize("command", ["serve", "run"])
def test_gated_weights_are_found_before_an_engine_is_installed(command: str, desk: Desk, hub: Hub) -> None:
    hub.is_gated = True
    name = ("serve", "llava_hf") if command == "serve" else ("run", "--model", "llava_hf", "--judge", "demo")

    ended = desk(
        *name,
        "--yes",
        "--weights",
        "org/name",
        HF_ENDPOINT=hub.address,
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_TOKEN="hf_notforanyone-to-see",
    )

    assert ended.code == 3
    assert "is gated: accept its terms on that page, then set HF_TOKEN" in ended.err


def test_a_mistyped_engine_option_is_found_before_an_engine_is_installed(desk: Desk) -> None:
    ended = desk("serve", "llava_hf", "--yes", "--weights", str(desk.weights), "--", "stray")

    assert ended.code == 2


def test_what_is_checked_is_no_obstacle_to_an_engine_that_fits(tmp_path: Path, sparse: Path) -> None:
    wishes = Wishes(weights=str(large(sparse / "weights", 14 * GIB)))

    assert checked(tmp_path, row(), wishes=wishes) is None
