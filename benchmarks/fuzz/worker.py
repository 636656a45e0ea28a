"""One fuzzing process for one target: `python worker.py TARGET FOLDER [libFuzzer options] CORPUS`.

An exception is written down and the fuzzing goes on, so that one finding does not hide the next; a hang or
memory beyond the limit ends the process, which leaves the input behind, and the caller starts another.
"""

from __future__ import annotations

import hashlib
import random
import sys
import traceback
from pathlib import Path

import atheris

# Loaded before instrumentation could see them; what `vlsb` leaves to them is a stranger's input too.
for _name in ("email._parseaddr", "email.utils", "json", "json.decoder", "tarfile"):
    sys.modules.pop(_name, None)
with atheris.instrument_imports(include=["vlsb", "tarfile", "email", "json"]):
    import targets


class Findings:
    """The shortest input for each place that an unexpected exception came from."""

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        self._target = target

    def keep(self, error: Exception, data: bytes) -> None:
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
        kept.write_bytes(data)
        text = "".join(traceback.format_exception(error, limit=-12))
        base.with_suffix(".txt").write_text(f"{key}\n{text}", "utf-8", "backslashreplace")


def main() -> None:
    """Fuzz one target until libFuzzer's own limit."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = targets.TARGETS[name]
    findings = Findings(folder / "findings", name)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)

    def check(data: bytes) -> None:
        try:
            target.check(data, scratch)
        except Exception as error:  # noqa: BLE001 - any exception is what we look for
            findings.keep(error, data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if target.mutate and chance.random() < 0.5 and (found := target.mutate(data, max_size, chance)):
            return found
        found = atheris.Mutate(data, max_size)
        return targets.mutations.with_checksums(found) if name == "archives" and seed % 8 else found

    options = [f"-max_len={target.max_bytes}", *sys.argv[3:]]
    atheris.Setup([sys.argv[0], *options], check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
