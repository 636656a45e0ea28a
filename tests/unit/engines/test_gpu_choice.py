"""Which GPUs an engine gets: the freest of those that may be used, from recorded answers of `nvidia-smi`."""

from __future__ import annotations

from typing import Any

import pytest

from vlsb.engines.hardware import parse_gpus, visible_gpus
from vlsb.engines.plan import GpuLease, Wishes
from vlsb.engines.preflight import with_free_gpus, with_gpus_left
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
        (EIGHT_H100, {"tensor_parallel_size": 2}, ("1", "2")),
        (EIGHT_H100, {"tensor_parallel_size": 4}, ("1", "2", "4", "5")),
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
        (TWO_L4, {"tensor_parallel_size": 2}),
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

    found = with_gpus_left(NEWER["qwen3_vl"], Wishes(), parse_gpus(listing), leases)

    assert found is not None
    assert found.gpus.entries == entries


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
    leases = [GpuLease(each) for each in taken]

    assert (
        with_gpus_left(NEWER["qwen3_vl"], Wishes(tensor_parallel_size=count), parse_gpus(listing), leases)
        is None
    )
