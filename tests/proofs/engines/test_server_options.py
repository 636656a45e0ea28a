"""The engines' own parsers: they read our files, and their options are those of the stored lists."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.proofs.engines.conftest import engine_of
from tests.support import GOLDEN
from vlsb.models.profile import CURRENT, FAMILIES, MLLAMA, EnginePin, shipped_config

LISTS = GOLDEN / "engine_options"
READ = """
import json, sys
from vllm.entrypoints.cli.serve import ServeSubcommand
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser
main = FlexibleArgumentParser()
ServeSubcommand().subparser_init(main.add_subparsers(dest="command"))
read = main.parse_args(["serve", "--config", sys.argv[1]])
names = ("model", "dtype", "max_model_len", "limit_mm_per_prompt", "generation_config", "seed", "load_format")
print(json.dumps({name: getattr(read, name) for name in names}))
"""


def said(pin: EnginePin, *arguments: str) -> list[str]:
    """What a script prints that an engine's Python runs; the engine's own lines are left out."""
    python = engine_of(pin).python
    assert python is not None
    finished = subprocess.run(
        [str(python), *arguments],
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [line for line in finished.stdout.splitlines() if not line.startswith(("INFO ", "WARNING "))]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_reads_the_familys_file(family: str) -> None:
    row = FAMILIES[family]

    read = json.loads(said(row.engine, "-c", READ, str(shipped_config(f"{family}.yaml")))[-1])

    assert (read["model"], read["dtype"], read["limit_mm_per_prompt"]["image"]) == (row.weights, row.dtype, 1)
    assert (read["generation_config"], read["seed"], read["load_format"]) == ("auto", 0, "safetensors")
    assert read["max_model_len"] >= 4096


@pytest.mark.parametrize("pin", [CURRENT, MLLAMA], ids=lambda pin: pin.name)
def test_the_stored_list_is_the_engines(pin: EnginePin) -> None:
    stored = (LISTS / f"vllm-{pin.cpu_version}.txt").read_text("utf-8").splitlines()

    listed = said(pin, str(LISTS / "list_options.py"))

    assert listed[1:] == stored[1:]
