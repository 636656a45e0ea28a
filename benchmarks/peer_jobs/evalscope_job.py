"""evalscope doing the target's half of the job: its general VQA task with images given by path.

Its own judge sees no images, so that only the target's requests are comparable.
"""

from __future__ import annotations

import json
from pathlib import Path

from evalscope import TaskConfig, run_task

from benchmarks.contenders.jobs import SAMPLING, TARGET, Job, messages, parse_job


def _write_rows(job: Job, folder: Path) -> None:
    folder.mkdir(parents=True)
    with (folder / "job.jsonl").open("w") as file:
        for sample in job.samples:
            row = {"messages": messages(sample.instruction, str(sample.image)), "answer": "none"}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Do the job."""
    job = parse_job()
    folder = job.output.parent / "rows"
    _write_rows(job, folder)
    run_task(
        TaskConfig(
            model=TARGET,
            api_url=job.base_url(TARGET),
            api_key="none",
            eval_type="openai_api",
            datasets=["general_vqa"],
            dataset_args={"general_vqa": {"local_path": str(folder), "subset_list": ["job"]}},
            eval_batch_size=job.connections,
            generation_config={**SAMPLING, "stream": False},
            work_dir=str(job.output.parent / "evalscope"),
        )
    )


if __name__ == "__main__":
    main()
