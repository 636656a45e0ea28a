"""What a machine has: GPUs as `nvidia-smi` lists them, memory within a container's limit, free disk."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from vlsb.engines.hardware import (
    Gpu,
    container_limits,
    free_disk_bytes,
    gpus,
    list_gpus,
    memory_bytes,
    parse_gpus,
    visible_gpus,
)

MIB = 1024**2
ROW = "0, GPU-1a2b3c4d-0000-1111-2222-333344445555, 81559, 81000, 550.54.15, NVIDIA H100 80GB HBM3"
HEADING = "| NVIDIA-SMI 550.54.15      Driver Version: 550.54.15      CUDA Version: 12.4     |"


def fake_smi(folder: Path, script: str) -> dict[str, str]:
    """An environment whose `nvidia-smi` is a shell script, and that holds no other."""
    folder.mkdir(exist_ok=True)
    executable = folder / "nvidia-smi"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    return {"PATH": str(folder)}


def listing(folder: Path, rows: str, heading: str = HEADING) -> dict[str, str]:
    """An environment whose `nvidia-smi` lists these rows when it is asked for them."""
    return fake_smi(folder, f"case \"$1\" in --query-gpu=*) echo '{rows}';; *) echo '{heading}';; esac")


def gpu(index: int, uuid: str = "") -> Gpu:
    return Gpu(index, "A GPU", 8 * MIB, 8 * MIB, "550", uuid)


def test_a_gpu_is_read_with_its_memory_in_bytes(tmp_path: Path) -> None:
    found = list_gpus(listing(tmp_path, ROW))

    uuid = "GPU-1a2b3c4d-0000-1111-2222-333344445555"
    assert found.gpus == (Gpu(0, "NVIDIA H100 80GB HBM3", 81559 * MIB, 81000 * MIB, "550.54.15", uuid),)
    assert (found.driver, found.cuda, found.problem) == ("550.54.15", "12.4", None)


def test_the_gpus_alone_are_had_by_one_question(tmp_path: Path) -> None:
    environment = fake_smi(tmp_path, f"echo asked >>{tmp_path}/asked; echo '{ROW}'")

    assert len(gpus(environment)) == 1
    assert (tmp_path / "asked").read_text().split() == ["asked"]


def test_a_machine_without_nvidia_smi_has_no_gpu_and_no_problem(tmp_path: Path) -> None:
    found = list_gpus({"PATH": str(tmp_path)})

    assert (found.gpus, found.driver, found.cuda, found.problem) == ((), None, None, None)
    assert list_gpus({}).problem is None


def test_a_driver_that_does_not_answer_its_tool_is_a_problem_in_the_tools_words(tmp_path: Path) -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch"
    environment = fake_smi(tmp_path, f"echo '{said}'; echo 'NVML library version: 550.54'; exit 18")

    found = list_gpus(environment)

    assert found.gpus == ()
    assert found.problem == f"nvidia-smi ended with exit code 18: {said} NVML library version: 550.54"


def test_a_tool_that_fails_in_silence_is_a_problem(tmp_path: Path) -> None:
    assert (
        list_gpus(fake_smi(tmp_path, "exit 9")).problem
        == "nvidia-smi ended with exit code 9: it said nothing"
    )


def test_a_tool_that_cannot_be_run_is_a_problem(tmp_path: Path) -> None:
    environment = fake_smi(tmp_path, "")
    (tmp_path / "nvidia-smi").write_text("#!/no/such/interpreter\n")

    assert list_gpus(environment).problem == "nvidia-smi cannot be run (No such file or directory)"


def test_a_tool_that_hangs_is_given_up_and_killed(tmp_path: Path) -> None:
    environment = fake_smi(tmp_path, "exec sleep 600")
    environment["PATH"] += os.pathsep + os.defpath

    found = list_gpus(environment, timeout_s=0.5)

    assert found.problem == "nvidia-smi did not answer within 0.5 s"
    assert [child for child in psutil.Process().children() if "600" in child.cmdline()] == []


def test_lines_that_are_no_rows_are_left_out() -> None:
    text = (
        f"warning: persistence mode is disabled\n\n{ROW}\nNo devices were found, by the way, I, think, so\n"
    )

    assert [gpu.index for gpu in parse_gpus(text)] == [0]


def test_a_name_may_hold_commas_and_memory_may_be_unknown() -> None:
    (found,) = parse_gpus("3, GPU-ab, [N/A], [Not Supported], 580.1, NVIDIA GB10, the small one")

    assert (found.index, found.name) == (3, "NVIDIA GB10, the small one")
    assert (found.memory_bytes, found.free_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("heading", "cuda"),
    [
        (HEADING, "12.4"),
        ("| NVIDIA-SMI 595.1    Driver Version: 595.1    CUDA UMD Version: 13.2 |", "13.2"),
        ("| Driver Version: 470.1    CUDA Version: N/A |", None),
    ],
)
def test_the_cuda_version_is_read_from_the_heading_where_it_says_one(
    tmp_path: Path, heading: str, cuda: str | None
) -> None:
    assert list_gpus(listing(tmp_path, ROW, heading)).cuda == cuda


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("1,9,0", [1]),
        ("GPU-b", [1]),
        ("GPU-", []),
        ("MIG-1234", [0, 1, 2]),
    ],
)
def test_cuda_visible_devices_chooses_as_cuda_does(wanted: str | None, left: list[int]) -> None:
    machine = [gpu(0, "GPU-a"), gpu(1, "GPU-b"), gpu(2, "GPU-c")]

    assert [each.index for each in visible_gpus(machine, wanted)] == left


def test_hidden_gpus_are_counted(tmp_path: Path) -> None:
    found = list_gpus(listing(tmp_path, ROW) | {"CUDA_VISIBLE_DEVICES": ""})

    assert (found.gpus, found.hidden, found.cuda) == ((), 1, "12.4")


def test_memory_is_the_machines_or_less() -> None:
    assert 0 < memory_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        (
            "0::/slurm/job/step",
            {"slurm/job/step/memory.max": "max\n", "slurm/job/memory.max": "1000\n", "memory.max": "5000\n"},
            (1000, 5000),
        ),
        (
            "4:cpu,memory:/docker/abc\n0::/",
            {"memory/docker/abc/memory.limit_in_bytes": "2000\n"},
            (2000,),
        ),
        ("1:name=systemd:/\nnot a line", {}, ()),
        ("0::/", {"memory.max": "nonsense"}, ()),
    ],
    ids=["version 2", "version 1", "none", "nonsense"],
)
def test_a_containers_memory_limits_are_found_in_its_groups(
    tmp_path: Path, groups: str, files: dict[str, str], limits: tuple[int, ...]
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert container_limits(tmp_path) == limits


def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert container_limits(tmp_path) == ()


def test_free_disk_is_told_for_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    free = free_disk_bytes(tmp_path / "not" / "there")

    assert free is not None
    assert free > 0
