"""inspect_ai doing the job: a task with images, and a scorer that shows image and response to a judge.

The first argument says whether its log keeps the images (`images`, inspect's default) or not (`none`).
"""

from __future__ import annotations

import json
import sys

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, GenerateConfig, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState, generate

from benchmarks.contenders.jobs import JUDGE, TARGET, Job, judge_text, parse_job


def _turn(text: str, image: ContentImage) -> ChatMessageUser:
    return ChatMessageUser(content=[ContentText(text=text), image])


def _image_of(state: TaskState) -> ContentImage:
    """The image that the target saw: inspect made a data URI of the path, and the judge takes no path."""
    return next(part for part in state.user_prompt.content if isinstance(part, ContentImage))


def _model(job: Job, lane: str, max_tokens: int):
    config = GenerateConfig(temperature=0.0, max_tokens=max_tokens, max_connections=job.connections)
    return get_model(f"openai-api/stub/{lane}", base_url=job.base_url(lane), api_key="none", config=config)


def _judged_by(job: Job) -> Scorer:
    @scorer(metrics=[mean()])
    def judged() -> Scorer:
        judge = _model(job, JUDGE, 512)

        async def score(state: TaskState, target: Target) -> Score:
            text = judge_text(state.metadata["instruction"], state.output.completion)
            output = await judge.generate([_turn(text, _image_of(state))])
            return Score(value=json.loads(output.completion)["label"], answer=state.output.completion)

        return score

    return judged()


def main() -> None:
    """Do the job."""
    logged, *arguments = sys.argv[1:]
    job = parse_job(arguments)
    samples = [
        Sample(
            id=sample.id,
            input=[_turn(sample.instruction, ContentImage(image=str(sample.image)))],
            metadata={"instruction": sample.instruction},
        )
        for sample in job.samples
    ]
    task = Task(dataset=MemoryDataset(samples), solver=generate(), scorer=_judged_by(job))
    [log] = eval(
        task,
        model=_model(job, TARGET, 128),
        log_dir=str(job.output.parent / "logs"),
        log_images=logged == "images",
        display="none",
    )
    if log.status != "success":
        raise SystemExit(f"inspect_ai ended with {log.status}: {log.error}")


if __name__ == "__main__":
    main()
