"""Which GPUs an engine gets: the freest of those that may be used, from recorded answers of `nvidia-smi`."""

from __future__ import annotations

from typing import Any

import pytest

from vlsb.engines.hardware import parse_gpus, visible_gpus
from vlsb.engines.placement import place, with_free_gpus
from vlsb.engines.plan import GpuLease, Wishes
from vlsb.errors import ConfigError
from vlsb.models.profile import NEWER

# index, uuid, memory.total, memory.free, driver_version, name; as `nvidia-smi` prints them without units.
EIGHT_H100 = "\n".join(
    f"{number}, GPU-{number:08x}-0000-0000-0000-000000000000, 81559, {free}, 570.86.15, NVIDIA H100 80GB HBM3"
    for number, free in enumerate((1203, 81079, 81079, 40211, 81079, 81079, 612, 81079))
)
TWO_L4 = """\
0, GPU-11111111-0000-0000-0000-000000000000, 23034, 22563, 550.90.07, NVIDIA L4
1, GPU-22222222-0000-0000-0000-000000000000, 23034, 22561, 550.90.07, NVIDIA L4
"""
ONE_A10 = "0, GPU-33333333-0000-0000-0000-000000000000, 23028, 22498, 535.183.01, NVIDIA A10\n"
GRACE = "0, GPU-44444444-0000-0000-0000-000000000000, [N/A], [N/A], 580.65.06, NVIDIA GB10\n"


def chosen(machine: str, *, inherited: str | None = None, **wishes: Any) -> tuple[str, ...] | None:
    there = visible_gpus(parse_gpus(machine), inherited)
    return with_free_gpus(NEWER["qwen3_vl"], Wishes(**wishes), there, inherited).gpus.entries


@pytest.mark.parametrize(
    ("machine", "wishes", "entries"),
    [
        (EIGHT_H100, {}, ("1",)),
        (EIGHT_H100, {"settings": {"tensor-parallel-size": 2}}, ("1", "2")),
        (EIGHT_H100, {"settings": {"tensor-parallel-size": 4}}, ("1", "2", "4", "5")),
        # Alike within a GiB: the first.
        (TWO_L4, {}, ("0",)),
        (EIGHT_H100, {"engine_options": ("--pipeline-parallel-size", "2")}, ("1", "2")),
    ],
)
def test_the_gpus_with_most_memory_free_are_taken(
    machine: str, wishes: dict[str, Any], entries: tuple[str, ...]
) -> None:
    assert chosen(machine, **wishes) == entries


@pytest.mark.parametrize(
    ("machine", "wishes"),
    [
        (ONE_A10, {}),
        (TWO_L4, {"settings": {"tensor-parallel-size": 2}}),
        # Nobody knows what is free of a memory that is shared.
        (GRACE, {}),
        ("", {}),
        # For the plan to refuse.
        (EIGHT_H100, {"engine_options": ("--tensor-parallel-size", "many")}),
    ],
)
def test_where_nothing_is_to_be_chosen_the_environment_is_left_as_it_is(
    machine: str, wishes: dict[str, Any]
) -> None:
    assert chosen(machine, **wishes) is None


def test_what_the_user_names_is_kept() -> None:
    assert chosen(EIGHT_H100, gpus=GpuLease(("0",))) == ("0",)


def test_an_inherited_choice_is_never_widened() -> None:
    """The list that a scheduler gave holds, even where a free GPU stands beside it."""
    assert chosen(EIGHT_H100, inherited="0,3,6") == ("3",)
    assert chosen(EIGHT_H100, inherited="6") is None
    by_id = "GPU-00000006-0000-0000-0000-000000000000,GPU-00000003-0000-0000-0000-000000000000"
    assert chosen(EIGHT_H100, inherited=by_id) == ("3",)
    assert chosen(EIGHT_H100, inherited="MIG-7d1f9c5e-0000-0000-0000-000000000000") is None


# A second engine beside others, such as a judge beside its target.


@pytest.mark.parametrize(
    ("listing", "taken", "entries"),
    [
        (TWO_L4, [], None),
        (TWO_L4, [("0",)], ("1",)),
        (TWO_L4, [("1",)], ("0",)),
        (EIGHT_H100, [("1", "2"), ("4",)], ("5",)),
    ],
)
def test_an_engine_beside_others_gets_a_gpu_that_none_of_them_may_use(
    listing: str, taken: list[tuple[str, ...]], entries: tuple[str, ...] | None
) -> None:
    leases = [GpuLease(each) for each in taken]

    placement = place(NEWER["qwen3_vl"], Wishes(), parse_gpus(listing), leases)

    assert not placement.waits
    assert [each.gpus.entries for each in placement.wishes] == [entries]


@pytest.mark.parametrize(
    ("listing", "taken", "count"),
    [
        (ONE_A10, [("0",)], 1),
        (ONE_A10, [None], 1),
        ("", [None], 1),
        (TWO_L4, [("0",)], 2),
        (TWO_L4, [None], 1),
    ],
)
def test_without_enough_gpus_left_it_waits_for_its_turn(
    listing: str, taken: list[tuple[str, ...] | None], count: int
) -> None:
    leases, wishes = [GpuLease(each) for each in taken], Wishes(settings={"tensor-parallel-size": count})

    placement = place(NEWER["qwen3_vl"], wishes, parse_gpus(listing), leases)

    assert placement == ([wishes], True)


# Replicas: engines of one model side by side.

SLICES = "MIG-7d1f9c5e-0000-0000-0000-000000000000", "MIG-8e2f9c5e-0000-0000-0000-000000000000"
UUIDS = tuple(f"GPU-{number:08x}-0000-0000-0000-000000000000" for number in range(8))


def apart(machine: str, count: int, *, inherited: str | None = None, **wishes: Any) -> list[str | None]:
    """What CUDA_VISIBLE_DEVICES each of so many replicas gets."""
    there = visible_gpus(parse_gpus(machine), inherited)
    placement = place(NEWER["qwen3_vl"], Wishes(**wishes), there, count=count, inherited=inherited)
    return [each.gpus.variable for each in placement.wishes]


@pytest.mark.parametrize(
    ("machine", "count", "wishes", "found"),
    [
        (TWO_L4, 2, {}, ["0", "1"]),
        # The freest first, the busy ones last.
        (EIGHT_H100, 3, {}, ["1", "2", "4"]),
        (EIGHT_H100, 8, {}, ["1", "2", "4", "5", "7", "3", "0", "6"]),
        (EIGHT_H100, 2, {"settings": {"tensor-parallel-size": 2}}, ["1,2", "4,5"]),
        (EIGHT_H100, 2, {"settings": {"tensor-parallel-size": 4}}, ["1,2,4,5", "0,3,6,7"]),
        (EIGHT_H100, 2, {"engine_options": ("--pipeline-parallel-size", "2")}, ["1,2", "4,5"]),
        # Without a GPU they share the CPU.
        ("", 2, {}, [None, None]),
        # What the user names is shared out, and nothing beside it.
        (EIGHT_H100, 2, {"gpus": GpuLease(("0", "3"))}, ["0", "3"]),
        (EIGHT_H100, 2, {"gpus": GpuLease((UUIDS[6], UUIDS[0]))}, [UUIDS[6], UUIDS[0]]),
        (TWO_L4, 2, {"gpus": GpuLease(("1", "0"))}, ["1", "0"]),
        (
            EIGHT_H100,
            2,
            {"gpus": GpuLease(("0", "1", "2", "3")), "settings": {"tensor-parallel-size": 2}},
            ["0,1", "2,3"],
        ),
        (ONE_A10, 2, {"gpus": GpuLease(SLICES)}, list(SLICES)),
        (TWO_L4, 1, {"gpus": GpuLease(("0", "1"))}, ["0,1"]),
    ],
)
def test_each_replica_has_gpus_of_its_own(
    machine: str, count: int, wishes: dict[str, Any], found: list[str | None]
) -> None:
    assert apart(machine, count, **wishes) == found


@pytest.mark.parametrize(
    ("inherited", "found"),
    [("0,3,6", ["3", "0"]), (f"{UUIDS[6]},{UUIDS[3]}", ["3", "6"]), (",".join(SLICES), list(SLICES))],
)
def test_replicas_share_out_what_a_scheduler_gave(inherited: str, found: list[str]) -> None:
    assert apart(EIGHT_H100, 2, inherited=inherited) == found


@pytest.mark.parametrize(
    ("machine", "count", "inherited", "wishes"),
    [
        (ONE_A10, 2, None, {}),
        (EIGHT_H100, 2, "3", {}),
        (EIGHT_H100, 2, SLICES[0], {}),
        (EIGHT_H100, 3, None, {"gpus": GpuLease(("0", "1"))}),
        (EIGHT_H100, 2, None, {"gpus": GpuLease(("0", "1", "2")), "settings": {"tensor-parallel-size": 2}}),
    ],
)
def test_replicas_never_share_a_gpu(
    machine: str, count: int, inherited: str | None, wishes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"--replicas {count}: each takes .* fit."):
        apart(machine, count, inherited=inherited, **wishes)


def test_replicas_beside_an_engine_leave_its_gpu_to_it() -> None:
    there, taken = parse_gpus(EIGHT_H100), [GpuLease(("0", "2"))]

    placement = place(NEWER["qwen3_vl"], Wishes(gpus=GpuLease(("0", "1", "3"))), there, taken, count=2)

    assert not placement.waits
    assert [each.gpus.variable for each in placement.wishes] == ["1", "3"]
