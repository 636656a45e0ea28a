"""Evaluate vision-language models on VLSBench, concurrently and resumably.

The public Python API. Names are loaded when they are first used, so that `vlsb --help` need not wait for
the HTTP stack.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlsb._version import __version__

if TYPE_CHECKING:
    from vlsb.analysis.rates import Interval, Rates
    from vlsb.analysis.summary import Summary
    from vlsb.api import Answer, Run, as_mapping, compare, evaluate, judge, load_run, summarize
    from vlsb.errors import VlsbError
    from vlsb.evaluation.progress import Progress
    from vlsb.records import Label, Outcome, Untrusted

__all__ = [
    "Answer",
    "Interval",
    "Label",
    "Outcome",
    "Progress",
    "Rates",
    "Run",
    "Summary",
    "Untrusted",
    "VlsbError",
    "__version__",
    "as_mapping",
    "compare",
    "evaluate",
    "judge",
    "load_run",
    "summarize",
]

_HOMES = {
    "Answer": "vlsb.api",
    "Interval": "vlsb.analysis.rates",
    "Label": "vlsb.records",
    "Outcome": "vlsb.records",
    "Progress": "vlsb.evaluation.progress",
    "Rates": "vlsb.analysis.rates",
    "Run": "vlsb.api",
    "Summary": "vlsb.analysis.summary",
    "Untrusted": "vlsb.records",
    "VlsbError": "vlsb.errors",
    "as_mapping": "vlsb.api",
    "compare": "vlsb.api",
    "evaluate": "vlsb.api",
    "judge": "vlsb.api",
    "load_run": "vlsb.api",
    "summarize": "vlsb.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlsb' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
