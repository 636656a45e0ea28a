"""Defects of kinds that this project has had, planted in a copy of the program: does a seed find each?

`python -m tests.simulation.planted [--seeds N] [--processes N] [NAME...]` prints the seed that finds each,
and exits with 1 if one is not found. A generator that finds none of them would be the defect.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = 2000


@dataclass(frozen=True)
class Planted:
    """A defect: in `file` of the package, the only `old` becomes `new`."""

    about: str
    file: str
    old: str
    new: str

    def plant(self, package: Path) -> None:
        """Change the copy. ValueError where its place is not found once."""
        path = package / self.file
        text = path.read_text("utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} places of {self.old!r}")
        path.write_text(text.replace(self.old, self.new), "utf-8")


PLANTED = {
    "restless waiters": Planted(
        "samples that wait for what becomes of others wake each other without end",
        "endpoints/admission.py",
        "                    return True\n                await self._others_changed.wait()\n",
        "                    return True\n                self._wake()\n"
        "                await self._others_changed.wait()\n",
    ),
    "shifted answers": Planted(
        "a connection that was given up is used for the next request, and its late reply answers that one",
        "endpoints/transport.py",
        "        except BaseException:\n            connection.abort()\n            raise\n",
        "        except BaseException:\n"
        "            self._idle.append((connection, time.monotonic()))\n            raise\n",
    ),
    "lost place": Planted(
        "a request that failed keeps its connection for ever",
        "endpoints/client.py",
        "            return outcome\n        finally:\n            self.admission.leave(admitted)\n",
        "            return outcome\n        finally:\n"
        '            if not isinstance(locals().get("outcome"), Decision):\n'
        "                self.admission.leave(admitted)\n",
    ),
    "one epoch": Planted(
        "the answer of an epoch is stored as that of another",
        "evaluation/pipeline.py",
        "        return Response.of(key, reply)\n",
        "        return Response.of(Key(sample.id, 1), reply)\n",
    ),
    "stopped is ended": Planted(
        "what a stopped run had spent on a sample ends the sample",
        "store/state.py",
        "            if failure.fault != STOPPED:\n",
        "            if failure.fault:\n",
    ),
    "no limit": Planted(
        "requests go on when the money is spent",
        "endpoints/traffic.py",
        "        self.spending.require_left()\n        self.spending.requests += 1\n",
        "        self.spending.requests += 1\n",
    ),
    "filtered is an answer": Planted(
        "what a provider's filter left of an answer counts as the answer",
        "endpoints/completions.py",
        '        "content_filter",\n        "content_filtered",\n',
        '        "content_filtered",\n',
    ),
    "key in a file": Planted(
        "an error that repeats the key is written as it came",
        "endpoints/credentials.py",
        "        return Untrusted(_KEY_SHAPES.sub("
        "REDACTED, self._without_cut_key(self.answer(text).expose())))\n",
        "        return text\n",
    ),
    "late writing": Planted(
        "the last record waits for the next one before it is written",
        "store/journal.py",
        "        try:\n            self._write(line)\n        except StoreError:\n"
        "            self.unwritten.append(line)\n"
        "            raise\n",
        "        self.unwritten.append(line)\n        while len(self.unwritten) > 1:\n"
        "            self._write(self.unwritten.pop(0))\n",
    ),
    "lost room": Planted(
        "a body's memory is not given back when its request is not sent",
        "endpoints/client.py",
        "            self.timings.add_exchange(upload.marks)\n        finally:\n            give_back()\n",
        "            self.timings.add_exchange(upload.marks)\n        finally:\n            pass\n",
    ),
    "first judge only": Planted(
        "a resume takes a sample that one judge has labelled as labelled by all",
        "evaluation/pipeline.py",
        "        for name in judges[1:]:\n",
        "        for name in judges[2:]:\n",
    ),
    "lost creation": Planted(
        "a batch whose creation was not answered is taken for one that was not made, and made again",
        "evaluation/batch.py",
        "            if batch.file_id is not None and not failed.is_refused:\n"
        "                return await self._find(lane, batch)\n",
        "",
    ),
    "early results": Planted(
        "the results of a batch count although they are fewer than it says that it answered",
        "evaluation/batch.py",
        '            status = state.status if has_all and results.answered >= state.answered else ""\n',
        "            status = state.status\n",
    ),
    "twice the rate": Planted(
        "the user's own limit of requests a minute is taken for one of half a minute",
        "evaluation/clients.py",
        "None if cap is None else cap / count for cap in",
        "None if cap is None else 2 * cap / count for cap in",
    ),
    "twice a named limit": Planted(
        "requests leave at twice the rate of the limit that the headers name",
        "endpoints/rate_limits.py",
        "append(named.per_s)\n",
        "append(2 * named.per_s)\n",
    ),
    "unread limits": Planted(
        "what the headers say about limits is not looked at",
        "endpoints/rate_limits.py",
        "        if not limits:\n            return\n",
        "        if limits is not None:\n            return\n",
    ),
    "one attempt more": Planted(
        "a fault that may pass is tried once more than --max-attempts says",
        "endpoints/retry.py",
        "is_spent = self._failed >= self._policy.max_attempts",
        "is_spent = self._failed > self._policy.max_attempts",
    ),
    "half a pause": Planted(
        "half of the time is waited out for which a provider asks",
        "endpoints/rate_limits.py",
        "        self._paused_until = max(self._paused_until, now + pause)\n",
        "        self._paused_until = max(self._paused_until, now + pause / 2)\n",
    ),
    "no budget": Planted(
        "bodies are made however many are in memory",
        "endpoints/traffic.py",
        "        if share <= self._free and not self._waiting:\n",
        "        if share <= self._budget:\n",
    ),
    "batches without limit": Planted(
        "batches are made whether or not there is money for them",
        "endpoints/admission.py",
        "            spending.require_left(usd)\n            spending.requests += 1\n",
        "            spending.requests += 1\n",
    ),
}


def find(defect: Planted, seeds: int, processes: int) -> tuple[str, str]:
    """Plant a defect and explore; the line of the first seed that finds it, and the summary."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        shutil.copytree(ROOT / "vlsb", home / "vlsb", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tests", "servers"):
            (home / name).symlink_to(ROOT / name)
        defect.plant(home / "vlsb")
        words = [
            sys.executable,
            "-m",
            "tests.simulation",
            str(seeds),
            "--stop",
            "--processes",
            str(processes),
        ]
        ended = subprocess.run(
            words,
            cwd=home,
            env=os.environ | {"PYTHONPATH": directory},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = ended.stdout.splitlines()
    return next((line for line in lines if line.startswith("seed ")), ""), lines[
        -1
    ] if lines else ended.stderr


def main(words: Sequence[str]) -> int:
    """Plant each, and print what finds it."""
    parser = argparse.ArgumentParser(prog="planted", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="some of them (default: all)")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(words)
    unfound = 0
    for name in asked.names or PLANTED:
        line, summary = find(PLANTED[name], asked.seeds, asked.processes)
        unfound += not line
        print(f"{name}: {line or 'NOT FOUND'}  [{summary}]", flush=True)
    return 1 if unfound else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
