"""One process for one target: `python worker.py TARGET FOLDER [libFuzzer options] CORPUS`, or `--large`.

An exception is written down and the fuzzing goes on, so that one finding does not hide the next; a hang or
memory beyond the limit ends the process, which leaves the input behind, and the caller starts another.
"""

from __future__ import annotations

import hashlib
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType

import atheris

# Loaded before instrumentation could see them; what `vlsb` leaves to them is a stranger's input too.
for _name in ("email._parseaddr", "email.utils", "json", "json.decoder", "tarfile"):
    sys.modules.pop(_name, None)
with atheris.instrument_imports(include=["vlsb", "tarfile", "email", "json", "httpx"]):
    import seeds
    import targets

# Of CPU: on a busy machine seconds of the clock pass for nothing. What costs less is measured again.
HANG_S = 10
MEMORY_MB = 1024


class Findings:
    """The shortest input for each place that an unexpected exception came from."""

    def __init__(self, folder: Path, target: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._target = target

    def keep(self, error: BaseException, data: bytes) -> None:
        """Write the input and the traceback down, if nothing shorter raised the same at the same place."""
        frames = traceback.extract_tb(error.__traceback__)
        # The last frame of ours: below it recursion may end anywhere.
        ours = [frame for frame in frames if "vlsb" in frame.filename or "targets" in frame.filename]
        place = ours[-1] if ours else frames[-1]
        key = f"{type(error).__name__} {Path(place.filename).name}:{place.lineno}"
        base = self._folder / f"{self._target}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        kept = base.with_suffix(".bin")
        if kept.exists() and kept.stat().st_size <= len(data):
            return
        is_new = not kept.exists()
        kept.write_bytes(data)
        text = "".join(traceback.format_exception(error, limit=-12))
        base.with_suffix(".txt").write_text(f"{key}\n{text}", "utf-8", "backslashreplace")
        if is_new:
            print(text, file=sys.stderr)


class LimitPassed(KeyboardInterrupt):
    """An input that takes more time or memory than it may; of the one kind that asyncio lets through."""


class Costs:
    """What inputs cost, measured again without instrumentation where that could matter, and the dearest."""

    def __init__(self, folder: Path, name: str) -> None:
        self._base = folder / "slowest" / name
        self._base.parent.mkdir(exist_ok=True)
        self._input = folder / f"{name}-replayed.bin"
        self._limit_s = targets.TARGETS[name].most_cpu_s
        self._dearest_s = self._dearest_here_s = 0.0
        with suppress(FileNotFoundError):
            self._dearest_s = float(self._base.with_suffix(".txt").read_text("ascii").split()[0]) / 1000
        self._replayer = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("replay.py")),
                name,
                str(folder / "scratch-replay"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def require_cheap(self, data: bytes, spent_s: float) -> None:
        """Raise LimitPassed for an input that is dear; `spent_s` is what it took here, instrumented."""
        if spent_s <= min(self._limit_s, 1.1 * self._dearest_here_s):
            return
        self._dearest_here_s = max(self._dearest_here_s, spent_s)
        self._input.write_bytes(data)
        assert self._replayer.stdin is not None
        print(self._input, file=self._replayer.stdin, flush=True)
        found_s = float(self._answer())
        if found_s > self._dearest_s:
            self._dearest_s = found_s
            self._base.with_suffix(".bin").write_bytes(data)
            self._base.with_suffix(".txt").write_text(
                f"{1000 * found_s:.1f} ms, {len(data)} bytes\n", "ascii"
            )
        if found_s > self._limit_s:
            raise LimitPassed(f"{found_s:.3f} s of CPU without instrumentation")

    def _answer(self) -> str:
        assert self._replayer.stdout is not None
        return self._replayer.stdout.readline()


def check_large(name: str, findings: Findings, scratch: Path, costs: Costs) -> None:
    """Check the target's large inputs, each against the limits."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise LimitPassed(f"more than {HANG_S} s of CPU")

    signal.signal(signal.SIGPROF, interrupt)
    for data in seeds.large_of(name):
        before, began = _peak_mb(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        try:
            targets.TARGETS[name].check(data, scratch)
            signal.setitimer(signal.ITIMER_PROF, 0)
            costs.require_cheap(data, time.process_time() - began)
            if before < MEMORY_MB < _peak_mb():
                raise LimitPassed(f"more than {MEMORY_MB} MB")
        except (Exception, LimitPassed) as error:  # noqa: BLE001 - any exception is what we look for
            findings.keep(error, data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Fuzz one target until libFuzzer's own limit."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = targets.TARGETS[name]
    findings = Findings(folder / "findings", name)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    costs = Costs(folder, name)
    if sys.argv[3:] == ["--large"]:
        check_large(name, findings, scratch, costs)
        return
    for seed in seeds.seeds_of(name):  # what only a first call pays is no cost of an input
        with suppress(Exception):
            target.check(seed, scratch)

    def check(data: bytes) -> None:
        began = time.process_time()
        try:
            target.check(data, scratch)
            costs.require_cheap(data, time.process_time() - began)
        except (Exception, LimitPassed) as error:  # noqa: BLE001 - any exception is what we look for
            findings.keep(error, data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5 and (found := target.mutate(data, max_size, chance)):
            return found
        found = atheris.Mutate(data, max_size)
        return targets.mutations.with_checksums(found) if name == "archives" and seed % 8 else found

    options = [f"-max_len={target.max_bytes}", *sys.argv[3:]]
    atheris.Setup([sys.argv[0], *options], check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
