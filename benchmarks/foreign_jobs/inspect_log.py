"""inspect's logs: a task over the mini set with its own mock model, as `.eval` and as `.json`."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from benchmarks.foreign_jobs.answers import ANSWERS, BLOCKED, FAILED, LABELS, rows


def output(number: int) -> ModelOutput:
    """What the mock model says to a sample; with usage, as it would count tokens by a download else."""
    reason = "content_filter" if number == BLOCKED else "stop"
    made = ModelOutput.from_content("mockllm/model", ANSWERS[number], stop_reason=reason)
    made.usage = ModelUsage(input_tokens=700 + number, output_tokens=20, total_tokens=720 + number)
    return made


@solver
def ask() -> Solver:
    """Ask the model, but for the sample whose request fails."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if state.metadata["instruction_id"] == FAILED:
            raise RuntimeError("the connection was reset")
        return await generate(state)

    return solve


@scorer(metrics=[mean()])
def labelled() -> Scorer:
    """The label of a judge that the score names."""

    async def score(state: TaskState, target: Target) -> Score:
        number = state.metadata["instruction_id"]
        if number not in LABELS:
            return Score(value="none")
        return Score(value=LABELS[number], explanation="It fits.", metadata={"judge": "gpt-4o"})

    return score


def impersonal(log: EvalLog) -> EvalLog:
    """The log without what only this machine has: places of files, the commit of the folder it was run in."""
    log.eval.revision = None
    for sample in log.samples or []:
        sample.events = []
        if sample.error is not None:
            sample.error.traceback = sample.error.traceback_ansi = ""
    return log


def main(data: Path, out: Path) -> None:
    """Write both logs."""
    samples = []
    for row in rows(data):
        image = base64.b64encode((data / row["image_path"]).read_bytes()).decode()
        content = [ContentText(text=row["instruction"]), ContentImage(image=f"data:image/png;base64,{image}")]
        metadata = {"instruction_id": row["instruction_id"], "image_path": row["image_path"]}
        samples.append(Sample(input=[ChatMessageUser(content=content)], metadata=metadata))
    outputs = [output(number) for number in range(len(samples)) if number != FAILED]
    for form in ("eval", "json"):
        model = get_model("mockllm/model", custom_outputs=list(outputs), memoize=False)
        task = Task(name="vlsbench", dataset=MemoryDataset(samples), solver=ask(), scorer=labelled())
        [log] = eval(
            *(task,),
            model=model,
            log_dir=str(out),
            log_format=form,
            display="none",
            max_samples=1,
            fail_on_error=False,
        )
        write_eval_log(impersonal(read_eval_log(log.location)), out / f"inspect.{form}")
        Path(log.location).unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
