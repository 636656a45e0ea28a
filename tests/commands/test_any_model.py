"""`vlsb run --model` with any checkpoint: by folder, from the Hub's cache, of an unknown architecture.

The engine is the stand-in, a process tree of its own; the judge is the simulator.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import checkpoint
from tests.support.command import Finished, Vlsb
from tests.support.datasets import write_dataset
from tests.support.engine_environment import write_environment
from tests.support.fake_engine import events, living
from vlsb.models.profile import NEWER

COMMIT = "c" * 40
QWEN3 = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "text_config": {"max_position_embeddings": 131072},
}
KIMI = {
    "architectures": ["KimiVLForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_kimi_vl.KimiVLConfig"},
}


class Desk:
    """A user's folder with an engine, a data set and checkpoints."""

    def __init__(self, vlsb: Vlsb, folder: Path) -> None:
        self.vlsb = vlsb
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.record = folder / "record"
        self.engine = write_environment(folder / "engine")
        self.data = write_dataset(folder / "data", 2)
        self.hub = folder / "hub"

    def cached(self, hub_id: str, **files: Any) -> Path:
        """A checkpoint in the Hub's cache."""
        repository = self.hub / f"models--{hub_id.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        (repository / "snapshots").mkdir()
        return checkpoint(repository / "snapshots" / COMMIT, **files)

    def run(self, *words: object, **wishes: str) -> Finished:
        fixed = {"MARK": self.mark, "RECORD": str(self.record)}
        environment = {f"FAKE_ENGINE_{name}": value for name, value in {**fixed, **wishes}.items()}
        environment |= {"HF_HUB_CACHE": str(self.hub), "HF_HUB_OFFLINE": "1"}
        usual = ["--judge", "demo", "--data-root", self.data, "--engine", self.engine]
        return self.vlsb("run", *usual, *words, env=environment)

    def manifest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "outputs" / name / "run.json").read_text())
        return found

    def starts(self) -> list[list[str]]:
        """The arguments of each start of the engine."""
        return [event["argv"] for event in events(self.record, "start")]


@pytest.fixture
def desk(vlsb: Vlsb, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(vlsb, tmp_path)
    yield desk
    for process in living(desk.mark):
        os.kill(process, signal.SIGKILL)


def test_a_folder_is_run_as_its_family_and_the_report_says_whose_prompt_it_was(desk: Desk) -> None:
    weights = checkpoint(desk.folder / "my-tune", config=QWEN3)

    ended = desk.run("--model", weights)

    assert ended.code == 0, ended.err
    settings = desk.manifest("my-tune")["settings"]
    assert (settings["model"], settings["engine.family"]) == ("my-tune", "qwen3_vl")
    assert settings["engine.weights"]["folder"] == "my-tune"
    assert (settings["system_prompt"], settings["part_order"]) == ("", "image, text")
    assert settings["extra"] == {"add_special_tokens": False}
    assert "asked with its own chat template" in ended.out
    (argv,) = desk.starts()
    assert "--reasoning-parser" not in argv


def test_a_model_is_shown_as_a_run_starts_and_asks_it(desk: Desk) -> None:
    weights = checkpoint(desk.folder / "my-tune", config=QWEN3)
    ended = desk.run("--model", weights, "--limit", "1")
    assert ended.code == 0, ended.err

    card = desk.vlsb("models", "show", weights, "--offline").out

    command = shlex.split(card.partition("Started with\n")[2].partition("\n")[0])
    (argv,) = desk.starts()
    assert command[1:] == argv[1 : len(command)]
    sent = events(desk.record, "chat")[-1]["body"]
    for part in sent["messages"][-1]["content"]:
        if part["type"] == "text":
            part["text"] = "<the sample's instruction>"
        else:
            part["image_url"]["url"] = "data:image/...;base64,..."
    assert json.loads(card.partition("Asked with\n")[2]) == {**sent, "model": "my-tune"}


def test_an_id_of_the_hub_is_run_at_the_commit_that_is_recorded(desk: Desk) -> None:
    desk.cached("org/newer", config=QWEN3)

    ended = desk.run("--model", "hf://org/newer@main")

    assert ended.code == 0, ended.err
    settings = desk.manifest("org_newer")["settings"]
    assert settings["model"] == "org/newer"
    assert settings["engine.weights"] == {"hub": "org/newer", "revision": COMMIT}


def test_any_architecture_that_the_engine_knows_is_run_by_the_generic_profile(desk: Desk) -> None:
    config = {"architectures": ["Molmo2ForConditionalGeneration"], "max_position_embeddings": 4096}
    desk.cached("org/molmo", config=config)

    ended = desk.run("--model", "org/molmo")

    assert ended.code == 0, ended.err
    settings = desk.manifest("org_molmo")["settings"]
    assert (settings["engine.family"], settings["engine.context"]) == ("generic", 4096)


def test_an_architecture_that_no_engine_knows_is_said_before_anything_is_started(desk: Desk) -> None:
    desk.cached("org/foo", config={"architectures": ["FooForConditionalGeneration"]})

    ended = desk.run("--model", "org/foo")

    assert ended.code == 2
    assert "org/foo: vLLM 0.32.0 does not know FooForConditionalGeneration" in ended.error
    assert desk.starts() == []


def test_code_of_a_repository_is_named_and_runs_only_at_a_commit_that_was_said(desk: Desk) -> None:
    desk.cached("org/kimi", config=KIMI)

    refused = desk.run("--model", "org/kimi")
    assert refused.code == 2
    assert "configuration_kimi_vl.py" in refused.error
    assert f"--trust-remote-code --revision {COMMIT}" in refused.error
    unsaid = desk.run("--model", "org/kimi", "--trust-remote-code")
    assert unsaid.code == 2
    assert "--revision with all 40 digits" in unsaid.error
    assert desk.starts() == []

    trusted = desk.run("--model", "org/kimi", "--trust-remote-code", "--revision", COMMIT)
    assert trusted.code == 0, trusted.err
    assert desk.manifest("org_kimi")["settings"]["engine.options"]["trust-remote-code"] is True
    assert "--trust-remote-code" in trusted.out


def test_an_adapter_is_what_is_asked_and_recorded(desk: Desk) -> None:
    weights = checkpoint(desk.folder / "base", config=QWEN3)
    adapter = desk.folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 12}')

    ended = desk.run("--model", weights, "--lora", f"tuned={adapter}", "--quantization", "fp8")

    assert ended.code == 0, ended.err
    manifest = desk.manifest("base")
    assert manifest["target"] == "tuned"
    options = manifest["settings"]["engine.options"]
    assert options["lora-modules"]["tuned"]["folder"] == "adapter"
    assert (options["max-lora-rank"], options["quantization"]) == (16, "fp8")
    assert all(event["body"]["model"] == "tuned" for event in events(desk.record, "chat")[-2:])


@pytest.mark.parametrize(
    ("given", "said"), [("tuned", "--lora takes NAME=PATH"), ("tuned=nowhere", "no adapter_config.json")]
)
def test_what_is_no_adapter_is_refused(given: str, said: str, desk: Desk) -> None:
    ended = desk.run("--model", checkpoint(desk.folder / "base", config=QWEN3), "--lora", given)

    assert ended.code == 2
    assert said in ended.error


def test_a_parser_that_takes_whole_answers_is_left_out_and_the_engine_started_again(desk: Desk) -> None:
    weights = checkpoint(
        desk.folder / "w",
        config=QWEN3,
        chat_template={"chat_template": "{% if thinking %}<think>{% endif %}"},
    )

    ended = desk.run("--model", weights)

    assert ended.code == 0, ended.err
    assert "takes whole answers" in ended.err
    with_parser, without = desk.starts()
    assert with_parser[with_parser.index("--reasoning-parser") + 1] == NEWER["qwen3_vl"].reasoning_parser
    assert "--reasoning-parser" not in without
    assert "reasoning-parser" not in desk.manifest("w")["settings"]["engine.options"]


def test_an_engine_that_does_not_see_images_evaluates_nothing(desk: Desk) -> None:
    ended = desk.run("--model", checkpoint(desk.folder / "w", config=QWEN3), BLIND="yes")

    assert ended.code == 7
    assert "two images of different colours get the same answer" in ended.err
    assert (desk.folder / "outputs" / "w" / "responses.jsonl").read_bytes() == b""


def test_several_models_run_one_after_the_other_with_one_table_and_one_that_fails_stops_none(
    desk: Desk,
) -> None:
    good = checkpoint(desk.folder / "good", config=QWEN3)
    bad = checkpoint(desk.folder / "bad", config={"architectures": ["FooForConditionalGeneration"]})

    ended = desk.run("--model", good, "--model", bad, "--model", "demo", "--display", "plain")

    assert ended.code == 2
    assert ended.out.count("VLSBench safety rates") == 1
    (table,) = [block for block in ended.out.split("\n\n") if block.startswith("run ")]
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["demo", "good"]
    named = desk.run("--model", good, "--model", "demo", "--name", "both")
    assert named.code == 2
    assert "--name is one run's" in named.error
