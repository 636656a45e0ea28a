"""The engines' own parsers: they read our files, and their options are those of the stored lists."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.proofs.engines.conftest import engine_of
from tests.support import GOLDEN
from vlsb.models.profile import CURRENT, FAMILIES, GENERIC, MLLAMA, NEWER, EnginePin, ModelProfile

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
names = ("model", "dtype", "max_model_len", "limit_mm_per_prompt", "generation_config", "seed", "load_format")
for words in map(json.loads, sys.argv[1:]):
    read = main.parse_args(["serve", *words])
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


@pytest.mark.parametrize("pin", [CURRENT, MLLAMA], ids=lambda pin: pin.name)
def test_an_engine_reads_the_files_of_its_families(pin: EnginePin) -> None:
    rows = [row for row in (*FAMILIES.values(), *NEWER.values(), ModelProfile(GENERIC)) if row.engine == pin]
    # What serves any checkpoint names none.
    words = [[*([] if row.is_local else ["org/name"]), "--config", str(row.config)] for row in rows]

    found = said(pin, "-c", READ, *map(json.dumps, words))[-len(rows) :]

    for row, line in zip(rows, found, strict=True):
        read = json.loads(line)
        assert (read["dtype"], read["limit_mm_per_prompt"]["image"]) == (row.dtype, 1)
        assert (read["generation_config"], read["seed"], read["load_format"]) == ("auto", 0, "safetensors")
        assert read["max_model_len"] >= 4096
        if row.is_local:
            assert read["model"] == row.weights


@pytest.mark.parametrize("pin", [CURRENT, MLLAMA], ids=lambda pin: pin.name)
def test_the_stored_list_is_the_engines(pin: EnginePin) -> None:
    stored = (LISTS / f"vllm-{pin.cpu_version}.txt").read_text("utf-8").splitlines()

    listed = said(pin, str(LISTS / "list_options.py"))

    assert listed[1:] == stored[1:]
