"""An HTTP client used directly, with bodies spliced by hand: `httpx` or `httpx2`, the first argument."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import ssl
import sys
from typing import Any, TextIO

from benchmarks.contenders.jobs import JUDGE, TARGET, TIMEOUT_S, Job, Sample, frame, judge_text, parse_job


class ModelSettings:
    """One model behind a client of its own, whose pool is as large as the semaphore."""

    def __init__(self, job: Job, name: str, library: Any) -> None:
        self._frame = frame(name)
        self._semaphore = asyncio.Semaphore(job.connections)
        bundle = job.ca_bundle
        self._client = library.AsyncClient(
            base_url=job.base_url(name),
            headers={"content-type": "application/json"},
            verify=True if bundle is None else ssl.create_default_context(cafile=str(bundle)),
            limits=library.Limits(max_connections=job.connections, max_keepalive_connections=job.connections),
            timeout=TIMEOUT_S,
        )

    async def ask(self, sample: Sample, text: str) -> str:
        """The model's answer about a sample's image."""
        before, after = self._frame.head(text), self._frame.after
        async with self._semaphore:
            encoded = base64.b64encode(sample.image.read_bytes())
            reply = await self._client.post("/chat/completions", content=before + encoded + after)
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])


async def evaluate(job: Job, library: Any, file: TextIO) -> int:
    """Every sample through both lanes, a line for each; returns how many."""
    target, judge = ModelSettings(job, TARGET, library), ModelSettings(job, JUDGE, library)

    async def one(sample: Sample) -> None:
        response = await target.ask(sample, sample.instruction)
        verdict = json.loads(await judge.ask(sample, judge_text(sample.instruction, response)))
        file.write(json.dumps({"id": sample.id, "response": response, "verdict": verdict}) + "\n")

    await asyncio.gather(*(one(sample) for sample in job.samples))
    return len(job.samples)


def main() -> None:
    """Do the job and say how many verdicts there are."""
    library, *arguments = sys.argv[1:]
    job = parse_job(arguments)
    with job.output.open("w") as file:
        print(asyncio.run(evaluate(job, importlib.import_module(library), file)))


if __name__ == "__main__":
    main()
