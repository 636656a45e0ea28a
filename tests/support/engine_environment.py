"""An engine's environment in small: the stand-in for `vllm`, beside a Python that knows its versions.

It is what `--engine DIR` takes. Its Python answers what is asked of an engine's Python (which versions are
there, which prompt the authors' loader feeds) without torch and transformers; the prompt it gives is the
one that the stand-in's /tokenize reports. Everything else it hands to the Python that runs the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support import fake_engine

_PYTHON = """\
#!{python} -IS
import json, os, sys
arguments = sys.argv[1:]
if arguments[:2] == ["-I", "-c"]:
    print(json.dumps({{"prefix": {prefix!r}, "vllm": {version!r}, "transformers": {transformers!r}}}))
elif arguments[-1].endswith("expected_ids.py"):
    job = json.load(sys.stdin)
    print(json.dumps({{"ids": list(range(1, 1 + {image_tokens} + len(job["text"].split())))}}))
else:
    os.execv({python!r}, [{python!r}, "-I", "-S", *arguments])
"""
_VLLM = """\
#!{folder}/bin/python
import runpy
runpy.run_path({stand_in!r}, run_name="__main__")
"""


def write_environment(folder: Path, *, version: str = "0.32.0", transformers: str = "5.19.0") -> Path:
    """Write the environment into a folder, and return that."""
    (folder / "bin").mkdir(parents=True)
    python = _PYTHON.format(
        python=sys.executable,
        prefix=str(folder),
        version=version,
        transformers=transformers,
        image_tokens=fake_engine.IMAGE_TOKENS,
    )
    vllm = _VLLM.format(folder=folder, stand_in=str(Path(fake_engine.__file__).resolve()))
    for name, text in (("python", python), ("vllm", vllm)):
        path = folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    return folder
