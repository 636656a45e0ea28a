"""What `vlsb models` prints: a row a model. Names are never shortened, whatever the terminal's width."""

from __future__ import annotations

from pathlib import Path

from vlsb import strict_json
from vlsb.models.catalog import load_catalog
from vlsb.models.profile import GIB, ModelProfile
from vlsb.models.providers import PROVIDERS
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal

SCHEMA = 1
"""Of each object of the JSON list."""

_COLUMNS = ("name", "weights", "kind", "engine", "memory", "thinking", "tried with")


def models_text(servers_dir: Path | None) -> str:
    """Every local model, then how hosted ones are named."""
    rows = [_COLUMNS, *(tuple(_row(each).values()) for each in load_catalog(servers_dir).values())]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join(
        [
            for_terminal(Untrusted("\n".join(lines)), lines=True),
            "",
            "Any other checkpoint: org/name of the Hugging Face Hub, hf://org/name@revision, or a folder.",
            f"Hosted: {', '.join(each.shown or f'{each.prefix}...' for each in PROVIDERS if each.base_url)}.",
            "One of them in full: vlsb models show NAME",
        ]
    )


def models_json(servers_dir: Path | None) -> str:
    """The local models as JSON: a list of objects with the table's columns as keys."""
    rows = [
        {"schema_version": SCHEMA, **{name.replace(" ", "_"): value for name, value in _row(each).items()}}
        for each in load_catalog(servers_dir).values()
    ]
    return strict_json.dumps(rows, indent=2)


def _row(model: ModelProfile) -> dict[str, str]:
    whose = "yours" if model.own_config is not None else "the paper's" if model.is_of_the_paper else "newer"
    memory = f"{model.gpu_memory_bytes // GIB} GiB" if model.gpu_memory_bytes else "unknown"
    thinks = "Thinking checkpoints" if model.reasoning_parser else "no"
    engine = f"vLLM {model.engine.gpu_version}"
    cells = (model.name, model.weights, whose, engine, memory, thinks, model.tried_with or "nothing yet")
    return dict(zip(_COLUMNS, cells, strict=True))
