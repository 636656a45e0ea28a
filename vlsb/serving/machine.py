"""What this machine has: GPUs and their driver, memory, disk. Asked of the system, never guessed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as `nvidia-smi` lists it; memory in bytes."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    driver: str
