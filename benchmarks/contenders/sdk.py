"""The script that a competent user of the SDK writes: AsyncOpenAI, a semaphore, one line a result."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from typing import Any, TextIO

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from benchmarks.contenders.jobs import (
    JUDGE,
    JUDGE_SAMPLING,
    SAMPLING,
    TARGET,
    TIMEOUT_S,
    Job,
    Sample,
    judge_text,
    messages,
    parse_job,
)


class ModelSettings:
    """One model behind a semaphore."""

    def __init__(self, job: Job, name: str, sampling: dict[str, Any]) -> None:
        self._name = name
        self._sampling = sampling
        self._semaphore = asyncio.Semaphore(job.connections)
        trusted = {}
        if job.ca_bundle is not None:
            context = ssl.create_default_context(cafile=str(job.ca_bundle))
            trusted = {"http_client": DefaultAsyncHttpxClient(verify=context)}
        self._client = AsyncOpenAI(
            api_key="none", base_url=job.base_url(name), max_retries=5, timeout=TIMEOUT_S, **trusted
        )

    async def ask(self, sample: Sample, text: str) -> str:
        """The model's answer about a sample's image."""
        async with self._semaphore:
            encoded = base64.b64encode(sample.image.read_bytes()).decode()
            reply = await self._client.chat.completions.create(
                model=self._name,
                messages=messages(text, f"data:image/png;base64,{encoded}"),
                **self._sampling,
            )
        return reply.choices[0].message.content or ""


async def evaluate(job: Job, file: TextIO) -> int:
    """Every sample through both lanes, a line for each; returns how many."""
    target, judge = ModelSettings(job, TARGET, SAMPLING), ModelSettings(job, JUDGE, JUDGE_SAMPLING)

    async def one(sample: Sample) -> None:
        response = await target.ask(sample, sample.instruction)
        verdict = json.loads(await judge.ask(sample, judge_text(sample.instruction, response)))
        file.write(json.dumps({"id": sample.id, "response": response, "verdict": verdict}) + "\n")

    await asyncio.gather(*(one(sample) for sample in job.samples))
    return len(job.samples)


def main() -> None:
    """Do the job and say how many verdicts there are."""
    job = parse_job()
    with job.output.open("w") as file:
        print(asyncio.run(evaluate(job, file)))


if __name__ == "__main__":
    main()
