"""What CONTRIBUTING says is enough: each addition is made in a copy of the package and then used."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PROJECT
from tests.support.command import printed


class Copy:
    """A copy of the package, and the files of it that were added or changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.touched: set[str] = set()
        for name in ("vlsb", "servers"):
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))

    def add(self, path: str, text: str) -> None:
        """Write a new file."""
        assert not (self.folder / path).exists()
        (self.folder / path).write_text(text, "utf-8")
        self.touched.add(path)

    def insert(self, path: str, before: str, text: str) -> None:
        """Put lines before the first place where a file says that."""
        head, found, rest = (self.folder / path).read_text("utf-8").partition(before)
        assert found, f"{path} does not say {before}"
        (self.folder / path).write_text(head + text + found + rest, "utf-8")
        self.touched.add(path)

    def read(self, path: str) -> str:
        """Return the text of a file to start from."""
        return (self.folder / path).read_text("utf-8")

    def vlsb(self, *words: str) -> str:
        """Return what a command of the copy prints."""
        return printed(self.folder, *words, env={"COLUMNS": "120"})


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A fresh copy: Python takes the package of the folder where it starts."""
    return Copy(tmp_path)


def test_a_judge_is_one_file(copy: Copy) -> None:
    hardened = copy.read("vlsb/judging/judges/hardened.yaml")
    copy.add("vlsb/judging/judges/terse.yaml", hardened.replace("about: ", "about: A trial. "))

    judges = json.loads(copy.vlsb("judges", "--format", "json"))

    assert [each["name"] for each in judges if each["about"].startswith("A trial. ")] == ["terse"]
    assert len(copy.touched) == 1


def test_an_output_format_is_one_file_and_a_line(copy: Copy) -> None:
    copy.add(
        "vlsb/reports/writers/plain.py",
        "from vlsb.reports.encode import for_terminal\n"
        "from vlsb.reports.report import Report, text_of\n\n\n"
        "def write(report: Report, *, width: int, color: bool) -> str:\n"
        '    return "\\n".join(f"table {text_of(each.title, for_terminal)}" for each in report.tables)\n',
    )
    copy.insert(
        "vlsb/reports/writers/__init__.py",
        '    "latex":',
        '    "plain": "vlsb.reports.writers.plain:write",\n',
    )
    copy.vlsb("demo", "--output-dir", "runs")

    printed = copy.vlsb("report", "runs", "--format", "plain")

    assert printed.startswith("table VLSBench safety rates")
    assert len(copy.touched) == 2


def test_an_option_that_is_a_field_of_the_request_is_two_fields(copy: Copy) -> None:
    copy.insert(
        "vlsb/evaluation/options.py",
        "    thinking: Annotated[",
        "    min_p: Annotated[\n"
        '        float | None, Option("A least share.", HelpPanel.PROTOCOL, metavar="P")\n'
        "    ] = None\n",
    )
    copy.insert("vlsb/config.py", "    extra: Mapping[str, Any] = field(", "    min_p: float | None = None\n")

    copy.vlsb("run", "--model", "demo", "--limit", "2", "--name", "tried", "--min-p", "0.2")

    manifest = json.loads(copy.read("outputs/tried/run.json"))
    assert manifest["settings"]["min_p"] == 0.2
    assert manifest["deviations"] == ["target min_p: 0.2 (official: not sent)"]
    assert len(copy.touched) == 2


def test_an_option_of_the_engine_is_one_field(copy: Copy) -> None:
    copy.insert(
        "vlsb/evaluation/options.py",
        "    dtype: Annotated[",
        "    kv_cache_dtype: Annotated[\n"
        '        str | None, Option("Of the cache.", HelpPanel.ENGINE, metavar="TYPE", goes_to_engine=True)\n'
        "    ] = None\n",
    )
    wishes = (
        "from vlsb.evaluation.named_models import engine_wishes\n"
        "from vlsb.evaluation.options import RunOptions\n"
        "print(dict(engine_wishes(RunOptions(kv_cache_dtype='fp8')).settings))"
    )

    told = subprocess.run([sys.executable, "-c", wishes], cwd=copy.folder, capture_output=True, text=True)

    assert told.stdout == "{'kv-cache-dtype': 'fp8'}\n", told.stderr
    assert "--kv-cache-dtype" in copy.vlsb("serve", "--help-all")
    assert len(copy.touched) == 1


def test_a_family_is_a_server_file_and_a_line(copy: Copy) -> None:
    file = copy.read("servers/qwen3_vl.yaml")
    for old, new in {
        "Qwen3VLForConditionalGeneration": "TrialVLForConditionalGeneration",
        "Qwen/Qwen3-VL-": "Trial/Trial-VL-",
        "gpu-memory-gib: 24": "gpu-memory-gib: 26",
    }.items():
        assert old in file
        file = file.replace(old, new)
    copy.add("servers/trial_vl.yaml", file)
    copy.insert("vlsb/models/profile.py", '        "qwen3_vl",\n', '        "trial_vl",\n')
    checkpoint = copy.folder / "weights"
    checkpoint.mkdir()
    config = {"architectures": ["TrialVLForConditionalGeneration"], "max_position_embeddings": 32768}
    (checkpoint / "config.json").write_text(json.dumps(config), "utf-8")
    (checkpoint / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")

    (line,) = [each for each in copy.vlsb("models").splitlines() if each.startswith("trial_vl ")]
    card = copy.vlsb("models", "show", str(checkpoint))

    assert "Trial/Trial-VL-8B-Instruct" in line
    assert "26 GiB" in line
    assert re.search(r"^family +trial_vl$", card, re.MULTILINE)
    assert len(copy.touched) == 2


def test_a_command_is_one_file_and_a_line(copy: Copy) -> None:
    copy.add(
        "vlsb/cli/hello.py",
        "from __future__ import annotations\n\n"
        "from typing import Annotated\n\n"
        "from vlsb.cli.command import command\n"
        "from vlsb.evaluation.options import Option\n\n\n"
        "@command()\n"
        'def hello_command(name: Annotated[str, Option("Whom to greet.", metavar="NAME")] = "you") -> str:\n'
        '    """Greet somebody."""\n'
        '    return f"Hello, {name}."\n',
    )
    copy.insert(
        "vlsb/cli/app.py", '    "models":', '    "hello": Entry("hello:hello_command", "Greet somebody."),\n'
    )

    assert copy.vlsb("hello", "--name", "Ann") == "Hello, Ann.\n"
    assert "Greet somebody." in copy.vlsb("--help")
    assert len(copy.touched) == 2
