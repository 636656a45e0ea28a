"""What this machine has: GPUs and their driver, memory, disk. Asked of the system, never guessed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from vlsb.errors import ServerError

_MIB = 1024**2
# A driver that is not kept loaded takes seconds to answer; one that hangs must not hang us.
_TIMEOUT_S = 20.0
_GRACE_S = 1.0
_LONGEST_SHOWN = 400
_DEVICES = Path("/dev")
# What CUDA_VISIBLE_DEVICES says where the CPU is wanted.
_NO_GPU = ("", "-1")
_FIELDS = ("index", "uuid", "memory.total", "memory.free", "driver_version", "name")
_CUDA = re.compile(r"CUDA (?:UMD )?Version\s*:\s*([0-9]+(?:\.[0-9]+)*)")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as `nvidia-smi` lists it. Memory is in bytes, 0 where the driver does not say."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    driver: str
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class GpuListing:
    """What `nvidia-smi` printed: the GPUs for an engine, what their driver can run, or why it failed.

    `hidden` counts GPUs that CUDA_VISIBLE_DEVICES keeps from an engine. `problem` is in words of the
    system's or the driver's; it is None where neither `nvidia-smi` nor a GPU's device is there.
    """

    gpus: tuple[Gpu, ...] = ()
    hidden: int = 0
    cuda: str | None = None
    problem: str | None = None

    @property
    def driver(self) -> str | None:
        """The driver's version, if there is a GPU to ask."""
        return self.gpus[0].driver if self.gpus else None

    def runs_cuda(self, version: str) -> bool:
        """Tell whether the driver runs programs built for that CUDA: of its major version or an older one."""
        return not version or self.cuda is None or _major(version) <= _major(self.cuda)

    def checked(self) -> GpuListing:
        """Itself; ServerError where there may be GPUs that nobody can be asked about."""
        if self.problem is None:
            return self
        raise ServerError(
            f"{self.problem}. No engine for the CPU is taken instead: it would be slow. After an update of "
            "the NVIDIA driver restart the machine; in a container, give it the driver's tools "
            "(NVIDIA_DRIVER_CAPABILITIES=compute,utility). To use the CPU all the same, set "
            "CUDA_VISIBLE_DEVICES to -1."
        )


def gpus(environment: Mapping[str, str], *, timeout_s: float = _TIMEOUT_S) -> tuple[Gpu, ...]:
    """Return the GPUs that an engine started in this environment may use; see `GpuListing.checked`."""
    return _listing(environment, timeout_s, _DEVICES).checked().gpus


def list_gpus(
    environment: Mapping[str, str], *, timeout_s: float = _TIMEOUT_S, devices: Path = _DEVICES
) -> GpuListing:
    """Return the same with the CUDA version of the driver and with what went wrong.

    Blocking, bounded in time.
    """
    listing = _listing(environment, timeout_s, devices)
    if not (listing.gpus or listing.hidden):
        return listing
    heading, _ = _nvidia_smi(environment, (), timeout_s)
    match = _CUDA.search(heading)
    cuda = match[1] if match else None
    return GpuListing(listing.gpus, listing.hidden, cuda, listing.problem)


def memory_bytes() -> int:
    """Return the memory that processes here may use: the machine's, or less where a container has a limit."""
    return min([psutil.virtual_memory().total, *container_limits(Path("/"))])


def free_disk_bytes(path: Path) -> int | None:
    """Return what this user may still write at a path that need not exist yet.

    None if the system does not say.
    """
    try:
        existing = next((each for each in (path, *path.parents) if each.is_dir()), None)
        return None if existing is None else shutil.disk_usage(existing).free
    except OSError:
        return None


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Return the rows of `nvidia-smi --query-gpu`, in its order.

    A line that is no row of ours is left out.
    """
    listed = []
    for line in text.splitlines():
        row = [cell.strip() for cell in line.split(",", len(_FIELDS) - 1)]
        if len(row) == len(_FIELDS) and row[0].isdecimal():
            index, uuid, total, free, driver, name = row
            listed.append(Gpu(int(index), name, _mebibytes(total), _mebibytes(free), driver, uuid))
    return tuple(listed)


def visible_gpus(found: Sequence[Gpu], wanted: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES leaves, in its order; all of them without one.

    As CUDA reads it, the list ends at the first entry that names none of them. A MIG slice has no row of
    its own, so a value that names one leaves all: what it belongs to is not known here.
    """
    if wanted is None or "MIG-" in wanted:
        return tuple(found)
    chosen: list[Gpu] = []
    for entry in map(str.strip, wanted.split(",")):
        is_id = entry.startswith("GPU-")
        named = [gpu for gpu in found if entry == str(gpu.index) or (is_id and gpu.uuid.startswith(entry))]
        if len(named) != 1:
            break
        chosen += named
    return tuple(chosen)


def _listing(environment: Mapping[str, str], timeout_s: float, devices: Path) -> GpuListing:
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    query = (f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    text, problem = _nvidia_smi(environment, query, timeout_s)
    all_gpus = parse_gpus(text)
    if problem is None and not text and (devices_here := sorted(devices.glob("nvidia[0-9]*"))):
        problem = f"{devices_here[0]} is present, but there is no nvidia-smi on PATH to ask about it"
    if chosen is not None and chosen.strip() in _NO_GPU:
        problem = None
    visible = visible_gpus(all_gpus, chosen)
    return GpuListing(visible, len(all_gpus) - len(visible), None, problem)


def _nvidia_smi(
    environment: Mapping[str, str], options: Sequence[str], timeout_s: float
) -> tuple[str, str | None]:
    """Return what `nvidia-smi` printed, and the problem if it could not be asked."""
    executable = shutil.which("nvidia-smi", path=environment.get("PATH", ""))
    if executable is None:
        return "", None
    try:
        process = subprocess.Popen(
            [executable, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, "LC_ALL": "C"},
        )
    except OSError as error:
        return "", f"nvidia-smi cannot be run ({error.strerror})"
    try:
        output = process.communicate(timeout=timeout_s)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        process.kill()
        # Only so long: a process that hangs inside the driver cannot be killed.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        if process.stdout is not None:
            process.stdout.close()
        return "", f"nvidia-smi did not answer within {timeout_s:g} s"
    if process.returncode == 0:
        return output, None
    words = " ".join(output.split())[:_LONGEST_SHOWN].rstrip(".") or "it said nothing"
    return "", f"nvidia-smi ended with exit code {process.returncode}: {words}"


def _major(version: str) -> int:
    head = version.split(".")[0]
    return int(head) if head.isdecimal() else 0


def _mebibytes(cell: str) -> int:
    """`[N/A]` and its like are what GPUs say that share the machine's memory."""
    return int(cell) * _MIB if cell.isdecimal() else 0


def container_limits(root: Path) -> tuple[int, ...]:
    """Read the memory limits of this process's control groups, below a root of the file system.

    A job's group lies below others, and each of their limits holds. "max" is what a group without one says.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    mounts = root / "sys/fs/cgroup"
    limits = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        # The second version has one hierarchy, the first one for each controller.
        if not controllers:
            folder, file = mounts, "memory.max"
        elif "memory" in controllers.split(","):
            folder, file = mounts / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = folder / path.strip("/")
        for group in (own, *own.parents):
            with suppress(OSError, ValueError):
                limits.append(int((group / file).read_text("ascii")))
    return tuple(limit for limit in limits if limit > 0)
