"""The families that came after the paper, and what has no family here, each on the real engine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.proofs.engines.conftest import NEWER_CHECKPOINTS, engine_of
from tests.proofs.engines.desk import COMMAND_TIMEOUT_S, Desk, Tell, marked, memory_told
from tests.support.datasets import sample_row, write_dataset
from vlsb.engines.launch import probe_image
from vlsb.models.profile import CURRENT, NEWER

SAMPLES = 6
# Asked of two images by samples 0 and 1.
SAME_QUESTION = "What is shown here? Name its two colours."
COMMIT = "0123456789abcdef0123456789abcdef01234567"
THINKS = "qwen3_vl_think"
BRINGS_CODE = {"kimi_vl": "processing_kimi_vl.py", "internvl_chat": "configuration_internvl_chat.py"}
TRUSTED = ("--trust-remote-code",)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples 0 and 1 ask the same of two images; the others' images are large, narrow and small."""
    same = {"instruction": SAME_QUESTION}
    rows = [sample_row(number, **(same if number < 2 else {})) for number in range(SAMPLES)]
    root = write_dataset(tmp_path_factory.mktemp("images"), rows)
    for number, color in enumerate(((40, 80, 200), (30, 160, 60))):
        (root / "imgs" / f"{number}.png").write_bytes(probe_image(color))
    for number, size in ((2, (1600, 1200)), (3, (120, 900)), (4, (32, 32))):
        Image.linear_gradient("L").resize(size).convert("RGB").save(root / "imgs" / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def _engine() -> None:
    engine_of(CURRENT)


@pytest.mark.parametrize("family", [each for each in NEWER_CHECKPOINTS if each != THINKS])
def test_a_newer_family_answers_by_its_folder_as_by_its_name_and_sees_the_image(
    family: str, images: Path, tiny: Callable[[str], Path], turn: None, desk: Desk, record_property: Tell
) -> None:
    """What has no name here answers by its folder twice."""
    weights = tiny(family)
    named = [family, "named", "--weights", weights] if family in NEWER else [weights, "named"]
    more = TRUSTED if family in BRINGS_CODE else ()

    with memory_told(desk, record_property):
        began_at = time.monotonic()
        process = desk.start(*desk.run_words(weights, "folder", *more, data=images))
        desk.await_responses(process, "folder", 1)
        record_property("start_s", round(time.monotonic() - began_at, 1))
        by_folder = process.wait(COMMAND_TIMEOUT_S)
        by_name = desk(*desk.run_words(*named, *more, data=images))

    assert by_folder.code == 0, by_folder.err
    assert by_name.code == 0, by_name.err
    desk.holds_every_sample("folder", SAMPLES)
    record_property("samples", SAMPLES)
    texts = desk.texts("folder")
    same = sum(desk.texts("named")[each] == text for each, text in texts.items())
    record_property("same_texts", same)
    assert same == SAMPLES
    assert texts[0] != texts[1]
    record_property("images", "told apart")
    desk.await_nobody()
    record_property("nobody_left", "yes")


@pytest.mark.parametrize("family", [THINKS])
def test_a_thought_that_never_closes_is_no_answer(
    family: str, images: Path, tiny: Callable[[str], Path], turn: None, desk: Desk
) -> None:
    """Asked not to think, the same checkpoint answers."""
    cut = desk(*desk.run_words(tiny(family), "cut", "--max-tokens", "64", data=images))
    plain = desk(*desk.run_words(tiny(family), "plain", "--thinking", "off", data=images))

    assert cut.code == 4, cut.err
    assert desk.responses("cut") == []
    ends = [(failure["outcome"], failure["code"]) for failure in desk.failures("cut")]
    assert ends == SAMPLES * [("target_empty", "thinking_cut")]
    assert desk.summary("cut")["judged"] == 0
    assert plain.code == 0, plain.err
    desk.holds_every_sample("plain", SAMPLES)


@pytest.mark.parametrize("family", ["qwen3_vl"])
def test_an_answer_that_a_parser_would_take_for_a_thought_is_had_without_the_parser(
    family: str, images: Path, tiny: Callable[[str], Path], turn: None, desk: Desk, tmp_path: Path
) -> None:
    """An Instruct checkpoint whose template speaks of thoughts: the parser would leave no answer."""
    weights = tmp_path / family
    shutil.copytree(tiny(family), weights)
    (weights / "chat_template.json").unlink()
    template = weights / "chat_template.jinja"
    template.write_text("{# Earlier thoughts, <think> to </think>, are left out. #}" + template.read_text())

    ended = desk(*desk.run_words(weights, "instruct", data=images))

    assert ended.code == 0, ended.err
    assert "Starting again without it" in ended.err
    desk.holds_every_sample("instruct", SAMPLES)


@pytest.mark.parametrize("family", BRINGS_CODE)
def test_code_of_a_checkpoint_is_named_and_not_run_unless_asked_for(
    family: str, tiny: Callable[[str], Path], desk: Desk, tmp_path: Path
) -> None:
    weights, trace = tmp_path / family, tmp_path / "trace"
    shutil.copytree(tiny(family), weights)
    code = weights / BRINGS_CODE[family]
    code.write_text(f"open({str(trace)!r}, 'w').close()\n{code.read_text()}")

    ended = desk(*desk.run_words(weights, "untrusted"))

    assert ended.code == 2, ended.err
    assert "--trust-remote-code" in ended.err
    assert code.name in ended.err
    assert not trace.exists()
    assert marked(desk.mark) == []


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_an_id_of_the_hub_is_served_from_its_cache_at_its_commit(
    family: str, images: Path, tiny: Callable[[str], Path], turn: None, desk: Desk, tmp_path: Path
) -> None:
    repository = tmp_path / "hub" / "models--someone--new-vlm"
    shutil.copytree(tiny(family), repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    desk.variables["HF_HUB_CACHE"] = str(tmp_path / "hub")

    ended = desk(*desk.run_words("someone/new-vlm", "cached", data=images))

    assert ended.code == 0, ended.err
    desk.holds_every_sample("cached", SAMPLES)
    assert COMMIT in (tmp_path / "outputs" / "cached" / "run.json").read_text()


def test_an_architecture_that_no_engine_knows_is_named_before_anything_starts(
    desk: Desk, tmp_path: Path
) -> None:
    weights = tmp_path / "nobodys"
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps({"architectures": ["NobodysForConditionalGeneration"]}))

    ended = desk(*desk.run_words(weights, "unknown"))

    assert ended.code == 2, ended.err
    assert "does not know NobodysForConditionalGeneration" in ended.err
    assert marked(desk.mark) == []
