"""lmms-eval's sample log: its own scoring of a document and its own log writer, without a model.

Both need neither torch nor a checkpoint. What the package would import of those gigabytes is stood in for by
modules that hold nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from benchmarks.foreign_jobs.answers import ANSWERS, rows

STAND_INS = frozenset(
    (
        *("torch", "transformers", "accelerate", "evaluate", "sacrebleu", "sklearn", "nltk", "tiktoken"),
        *("openai", "requests", "aiohttp", "av", "decord", "cv2", "wandb", "pytablewriter", "tenacity"),
        *("sympy", "pydantic", "rich", "pycocoevalcap", "peft", "timm", "Levenshtein"),
    )
)


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module that holds nothing for every package that is stood in for."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The spec of a stand-in; None for any other module."""
        is_one = name.partition(".")[0] in STAND_INS
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_one else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        """The stand-in."""
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__, module.__name__, module.__version__ = spec, [], spec.name, "0"
        return module

    def exec_module(self, module: Any) -> None:
        """Nothing to run."""


class VlsBench:
    """As much of a task as scoring asks for: it logs the id of the sample, and nothing of a judge."""

    config = SimpleNamespace(repeats=1)

    def process_results(self, doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
        """What a task logs of a response."""
        return {"vlsbench": {"instruction_id": doc["instruction_id"], "response": results[0]}}

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        """There is none."""
        return ""


def main(data: Path, out: Path) -> None:
    """Write the log."""
    sys.meta_path.append(StandIns())
    import torch

    torch.Tensor = type("Tensor", (), {})
    from lmms_eval.api.instance import Instance, TokenCounts
    from lmms_eval.evaluator import _process_document_results
    from lmms_eval.loggers.evaluation_tracker import EvaluationTracker

    logged = []
    for number, doc in enumerate(rows(data)):
        request = Instance(
            request_type="generate_until",
            arguments=(
                doc["instruction"],
                {"max_new_tokens": 128, "temperature": 0},
                number,
                "vlsbench",
                "test",
            ),
            idx=0,
            metadata={"task": "vlsbench", "doc_id": number, "repeats": 1},
        )
        request.doc = doc
        request.resps = [ANSWERS[number]]
        request.filtered_resps = {"none": ANSWERS[number]}
        request.token_counts = [TokenCounts(input_tokens=None, output_tokens=20)]
        done = _process_document_results(
            (number, doc, [request]),
            task=VlsBench(),
            filter_key="none",
            reasoning_tags=None,
            log_samples=True,
        )
        logged.append(done.logged_sample)
    tracker = EvaluationTracker(output_path=str(out))
    tracker.general_config_tracker.model_name_sanitized = "lmms"
    tracker.date_id = "log"
    tracker.save_results_samples("vlsbench", logged)
    written = out / "lmms" / "log_samples_vlsbench.jsonl"
    written.rename(out / "lmms_eval.jsonl")
    written.parent.rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
