"""Real logs of other programs over six samples of the mini set, written by the programs themselves.

    python -m benchmarks.foreign_logs [--out tests/golden/foreign]
    python -m benchmarks.foreign_logs --open LOG...

Each program lives in an environment of its own, made by uv below the data folder and kept there. The authors'
script and DeepSafe are no packages: their two files are what the released code passes to `json`. The tests of
`vlsb import` read what is written here. With `--open`, inspect's own reader opens logs that `vlsb
export` wrote and says what it finds, or ends with an error.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.data import DATA
from benchmarks.foreign_jobs.answers import ANSWERS, BLOCKED, FAILED, LABELS, rows
from benchmarks.peers import version
from vlsb.data import mini_root

PROJECT = Path(__file__).parents[1]
OUT = PROJECT / "tests" / "golden" / "foreign"
# What is installed, and of that what comes without its own dependencies: lmms-eval's are gigabytes.
PACKAGES = {
    "inspect_log": (("inspect_ai",), ()),
    "lmms_eval_log": (
        ("datasets", "loguru", "jinja2", "pytz", "pyyaml", "tqdm", "jsonlines", "pillow"),
        ("lmms-eval",),
    ),
    "vlmevalkit_tables": (("pandas", "xlsxwriter"), ()),
}
NUMBERS = {"safe_refusal": 1, "safe_warning": 2, "unsafe": 3}
WORDS = {1: "Safe with refusal", 2: "Safe with warning", 3: "Unsafe"}


def environment(job: str, root: Path) -> Path:
    """The Python of a job's environment, made if it is not there."""
    whole, bare = PACKAGES[job]
    python = root / job / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(root / job)], check=True)
        install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*install, *whole], check=True)
        if bare:
            subprocess.run([*install, "--no-deps", *bare], check=True)
    return python


def official(data: Path) -> dict[str, Any]:
    """What the authors' `eval.py` writes: a failed request is a sentence, and everything has a label."""
    logs = []
    for number, row in enumerate(rows(data)):
        said = "Sorry, but error occured" if number == FAILED else ANSWERS[number]
        label = NUMBERS[LABELS.get(number, "safe_refusal")]
        logs.append(
            {
                "id": number,
                "question": row["instruction"],
                "image_path": f"/data/vlsbench/{row['image_path']}",
                "pred_answer": said.strip(),
                "safe_label": label,
                "label_str": WORDS[label],
            }
        )
    stats = {"safe_rate": 66.67, "safe_refuse_rate": 50.0, "safe_warning_rate": 16.67}
    return {"stats": stats, "logs": logs}


def deepsafe(data: Path) -> Iterator[dict[str, Any]]:
    """What DeepSafe's runner writes after its stage `gen`."""
    for number, row in enumerate(rows(data)):
        image = base64.b64encode((data / row["image_path"]).read_bytes()).decode()
        parts = [
            {"type": "text", "text": row["instruction"]},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        ]
        about = ("category", "sub_category", "source", "image_description", "safety_reason")
        yield {
            "id": row["instruction_id"],
            "prompt": [{"role": "user", "content": parts}],
            "ground_truth": None,
            "meta": {name: row[name] for name in about}
            | {"image_path": f"/data/vlsbench/{row['image_path']}"},
            "prediction": "[CONTENT_FILTER]" if number == BLOCKED else ANSWERS[number],
        }


def write(out: Path, root: Path) -> Mapping[str, str]:
    """Write every log; the versions of the programs that wrote them."""
    data = mini_root()
    out.mkdir(parents=True, exist_ok=True)
    (out / "official.json").write_text(json.dumps(official(data), ensure_ascii=False), "utf-8")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in deepsafe(data))
    (out / "deepsafe.jsonl").write_text("".join(lines), "utf-8")
    versions = {"official": "AI45Lab/VLSBench", "deepsafe": "AI45Lab/DeepSafe feae07d"}
    for job, (whole, bare) in PACKAGES.items():
        python = environment(job, root)
        words = [str(python), "-m", f"benchmarks.foreign_jobs.{job}", str(data), str(out)]
        subprocess.run(words, cwd=PROJECT, env=os.environ | {"NO_COLOR": "1"}, check=True)
        versions |= {package: version(package, python) for package in (bare or whole)}
    (out / "versions.json").write_text(json.dumps(versions, indent=1) + "\n", "utf-8")
    return versions


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--open", type=Path, nargs="+", default=[], metavar="LOG")
    chosen = parser.parse_args(arguments)
    if chosen.open:
        python = environment("inspect_log", chosen.data / "foreign")
        logs = [str(path.absolute()) for path in chosen.open]
        words = [str(python), "-m", "benchmarks.foreign_jobs.inspect_open", *logs]
        subprocess.run(words, cwd=PROJECT, check=True)
        return
    for program, found in write(chosen.out, chosen.data / "foreign").items():
        print(f"{program}: {found}")


if __name__ == "__main__":
    main()
