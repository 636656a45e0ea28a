"""A converted LLaVA is bit for bit what it was before; images and texts reach it as they reached that."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vlsb.engines.install import Engine
from vlsb.engines.llava import tokenizer as tokenizer_program
from vlsb.engines.llava.convert import convert_llava, servable_folder
from vlsb.engines.registry import Places
from vlsb.errors import ConfigError
from vlsb.steps import Step

EMBEDDING = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"
ROWS, GROWN = 512, 576

Ask = Callable[..., Any]
Hear = Callable[[Step], None]


def ignore(_: Step) -> None:
    """Progress that nobody looks at."""


def convert(source: Path, destination: Path, engine: Engine, hear: Hear = ignore) -> int:
    return asyncio.run(
        convert_llava(
            str(source), destination, engine, environment=os.environ, offline=True, on_progress=hear
        )
    )


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor of a folder, read without any library."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        for name, each in header.items():
            if name != "__metadata__":
                begin, end = each["data_offsets"]
                found[name] = (each["dtype"], tuple(each["shape"]), content[start + begin : start + end])
    return found


@pytest.fixture
def source(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the original checkpoint that a test may change."""
    folder = tmp_path / "source"
    shutil.copytree(tiny("llava"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "clip"}))
    return folder


def test_every_tensor_is_that_of_the_hugging_face_version(
    source: Path, tiny: Callable[[str], Path], engine: Engine, tmp_path: Path
) -> None:
    count = convert(source, tmp_path / "out", engine)

    found, expected = tensors(tmp_path / "out"), tensors(tiny("llava_hf"))
    assert count == len(found) == len(expected)
    for name, (dtype, shape, raw) in expected.items():
        if name in (EMBEDDING, HEAD):
            width = len(raw) // shape[0]
            assert found[name][1] == (GROWN, shape[1])
            assert found[name][2][: ROWS * width] == raw[: ROWS * width]
        else:
            assert found[name] == (dtype, shape, raw), name


def test_the_manifest_has_the_checksum_of_every_tensor(source: Path, engine: Engine, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", engine)

    listed = json.loads((tmp_path / "out" / "conversion.json").read_text())["tensors"]
    assert {name: each["sha256"] for name, each in listed.items()} == {
        name: hashlib.sha256(raw).hexdigest() for name, (_, _, raw) in tensors(tmp_path / "out").items()
    }


def test_an_added_token_is_never_the_best(source: Path, engine: Engine, ask: Ask, tmp_path: Path) -> None:
    """Not even for hidden states that point at its own row, in any type that is served."""
    convert(source, tmp_path / "out", engine)
    code = """
import torch
from pathlib import Path
from safetensors import safe_open
for path in Path(given["folder"]).glob("*.safetensors"):
    with safe_open(path, "pt") as file:
        if given["head"] in file.keys():
            head = file.get_tensor(given["head"])
torch.manual_seed(0)
hidden = torch.cat([torch.randn(5000, head.shape[1]), head, -head])
found = [int(torch.argmax(hidden.to(t) @ head.to(t).T, dim=1).max()) for t in (torch.float32, torch.bfloat16)]
rest = head[given["rows"]:].double()
found.append(float((rest - head[: given["rows"]].double().mean(0)).abs().max()))
"""

    *best, distance = ask(code, {"folder": str(tmp_path / "out"), "head": HEAD, "rows": ROWS})

    assert all(each < ROWS for each in best)
    assert distance < 1e-6


def test_a_checkpoint_in_safetensors_converts_to_the_same(
    source: Path, engine: Engine, ask: Ask, tmp_path: Path
) -> None:
    convert(source, tmp_path / "from bin", engine)
    code = """
import json, torch
from pathlib import Path
from safetensors.torch import save_file
folder, placed = Path(given), {}
for path in sorted(folder.glob("pytorch_model-*.bin")):
    part = torch.load(path, weights_only=True)
    name = path.name.replace("pytorch_model", "model").replace(".bin", ".safetensors")
    save_file(part, folder / name)
    placed |= dict.fromkeys(part, name)
    path.unlink()
(folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
found = None
"""
    ask(code, str(source))

    convert(source, tmp_path / "from safetensors", engine)

    assert tensors(tmp_path / "from safetensors") == tensors(tmp_path / "from bin")


def test_a_conversion_after_one_that_was_killed_is_the_same_as_one_at_once(
    source: Path, engine: Engine, tmp_path: Path
) -> None:
    kill_at(2, source, tmp_path / "out", engine)
    assert not (tmp_path / "out").exists()

    convert(source, tmp_path / "out", engine)

    convert(source, tmp_path / "at once", engine)
    assert tree(tmp_path / "out") == tree(tmp_path / "at once")


def kill_at(number: int, source: Path, destination: Path, engine: Engine) -> None:
    """Begin a conversion and end it, with SIGKILL for its program, when it comes to a file."""

    async def begin() -> None:
        def hear(progress: Step) -> None:
            if progress.stage == "converting" and f"-{number:05d}-" in progress.detail:
                task.cancel()

        task = asyncio.create_task(
            convert_llava(str(source), destination, engine, environment=os.environ, on_progress=hear)
        )
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(begin())


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("change", "said", "subject"),
    [
        ("part['model.extra.weight'] = torch.zeros(1)", "does not have", "model.extra.weight"),
        ("part['model.image_newline'] = torch.zeros(1)", "does not have", "model.image_newline"),
        ("del part['lm_head.weight']", "is missing", "language_model.lm_head.weight"),
        (
            "part['lm_head.weight'] = part['lm_head.weight'][:500]",
            "as long as",
            "lm_head.weight: 500, not 512",
        ),
        (
            "part['model.norm.weight'] = torch.zeros(64, dtype=torch.int8)",
            "of a type",
            "model.norm.weight: int8",
        ),
        (
            "part['model.norm.weight'] = given.__class__",
            "more than tensors",
            "pytorch_model-00002-of-00002.bin",
        ),
        ("part = 'no tensors'", "cannot be read", "pytorch_model-00002-of-00002.bin"),
    ],
)
def test_a_checkpoint_that_is_not_llava_v15_is_refused_with_the_tensor(
    change: str, said: str, subject: str, source: Path, engine: Engine, ask: Ask, tmp_path: Path
) -> None:
    path = source / "pytorch_model-00002-of-00002.bin"
    ask(
        f"import torch\npart = torch.load(given, weights_only=True)\n{change}\n"
        "torch.save(part, given)\nfound = None",
        str(path),
    )

    with pytest.raises(ConfigError, match=said) as refused:
        convert(source, tmp_path / "out", engine)

    assert refused.value.detail is not None
    assert refused.value.detail.expose() == subject
    assert not (tmp_path / "out").exists()


def test_a_tower_inside_the_checkpoint_wins(source: Path, engine: Engine, ask: Ask, tmp_path: Path) -> None:
    code = """
import torch
from pathlib import Path
folder = Path(given)
tower = torch.load(folder / "clip" / "pytorch_model.bin", weights_only=True)
path = folder / "pytorch_model-00002-of-00002.bin"
part = torch.load(path, weights_only=True)
for name, tensor in tower.items():
    if name.startswith("vision_model."):
        part["model.vision_tower.vision_tower." + name] = tensor + 1 if tensor.is_floating_point() else tensor
torch.save(part, path)
found = None
"""
    convert(source, tmp_path / "plain", engine)
    ask(code, str(source))

    convert(source, tmp_path / "tuned", engine)

    plain, tuned = tensors(tmp_path / "plain"), tensors(tmp_path / "tuned")
    changed = {name for name in plain if plain[name] != tuned[name]}
    assert set(plain) == set(tuned)
    assert changed == {name for name in plain if name.startswith("vision_tower.")}


def test_the_cache_converts_once(source: Path, engine: Engine, tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path, tmp_path / "cache")
    heard: list[Step] = []

    def folder() -> Path:
        return asyncio.run(
            servable_folder(
                str(source), None, places, engine, environment=os.environ, on_progress=heard.append
            )
        )

    first = folder()
    heard.clear()

    assert folder() == first
    assert heard == []
    # What has the served layout is taken as it is.
    assert (
        asyncio.run(
            servable_folder(str(first), None, places, engine, environment={}, on_progress=heard.append)
        )
        == first.resolve()
    )


IMAGES = """
import json
import numpy
from pathlib import Path
from PIL import Image
from transformers import AutoProcessor

def expand_to_square(picture, colour):
    width, height = picture.size
    if width == height:
        return picture
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, (0, (width - height) // 2) if width > height else ((height - width) // 2, 0))
    return square

def original_pixels(picture, clip):
    mean, std = numpy.array(clip["image_mean"]), numpy.array(clip["image_std"])
    colour = tuple(int(255 * each) for each in clip["image_mean"])
    small = expand_to_square(picture, colour).resize((clip["size"], clip["size"]), Image.BICUBIC)
    return ((numpy.asarray(small) / 255 - mean) / std).transpose(2, 0, 1)

clip = json.loads((Path(given["tower"]) / "preprocessor_config.json").read_text())
processor = AutoProcessor.from_pretrained(given["served"]).image_processor
noise = numpy.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=numpy.uint8)
found = []
for size in given["sizes"]:
    picture = Image.fromarray(noise).resize(size, Image.BICUBIC)
    served = numpy.asarray(processor(images=picture, return_tensors="np")["pixel_values"][0])
    grey = 255 * numpy.array(clip["image_std"])[:, None, None]
    apart = numpy.abs(served - original_pixels(picture, clip)) * grey
    found.append([list(served.shape), float(apart.max()), float((apart > 0.5).mean())])
"""


def test_an_image_is_padded_as_the_original_pads_it(
    source: Path, engine: Engine, ask: Ask, tmp_path: Path
) -> None:
    """Resizing rounds a few pixels to the next grey value; without padding they differ by far more."""
    convert(source, tmp_path / "out", engine)
    given: Mapping[str, Any] = {
        "served": str(tmp_path / "out"),
        "tower": str(source / "clip"),
        "sizes": [[400, 271], [271, 400], [56, 56], [33, 200], [301, 300]],
    }

    for shape, most, share in ask(IMAGES, given):
        assert shape == [3, 56, 56]
        assert most < 1.01
        assert share < 0.02


TEXTS = """
import random
import sentencepiece
from transformers import AutoTokenizer

pieces = sentencepiece.SentencePieceProcessor(model_file=given["folder"] + "/tokenizer.model")
tokenizer = AutoTokenizer.from_pretrained(given["folder"])

def original(text):
    ids = [pieces.bos_id()]
    for number, part in enumerate(text.split("<image>")):
        ids += ([given["image"]] if number else []) + pieces.encode(part)
    return ids

words = ["What", "is", "a", "\\n", "  ", "   ", "\\t", "12,345", "caf\\u00e9", "\\u65e5", "\\U0001f600"]
draw = random.Random(0)
found = []
for _ in range(2000):
    text = "".join(draw.choice(words) + draw.choice(["", " "]) for _ in range(draw.randint(1, 25)))
    text = draw.choice(["", "USER: <image>\\n", "USER: <image>", "<image> "]) + text
    if tokenizer(text).input_ids != original(text):
        found.append(text)
"""


def test_texts_are_split_as_the_original_tokenizer_splits_them(
    source: Path, engine: Engine, ask: Ask, tmp_path: Path
) -> None:
    convert(source, tmp_path / "out", engine)

    assert ask(TEXTS, {"folder": str(tmp_path / "out"), "image": ROWS}) == []


TOKENIZERS = """
import importlib.util
import json
import shutil
import sys
from pathlib import Path
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto

spec = importlib.util.spec_from_file_location("tokenizer_program", given["program"])
program = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = program
spec.loader.exec_module(program)
blank = program.BLANK

def changed(change=lambda model: None):
    model = ModelProto()
    model.ParseFromString(Path(given["model"]).read_bytes())
    change(model)
    return model.SerializeToString()

def made(raw, added=None):
    folder = Path(given["folder"])
    (folder / "tokenizer.model").write_bytes(raw)
    try:
        return program.served_tokenizer(program.TokenizerJob(str(folder), added or {}, ("<image>", "<pad>")))
    except program.RefusedTokenizer as refused:
        return str(refused)

def with_runs(model):
    for count in range(2, 16):
        model.pieces.add(piece=blank * count, score=-1e9, type=1)

def setting(part, name, value):
    return lambda model: setattr(getattr(model, part), name, value)
"""
RUNS = """
raw = changed(with_runs)
original = sentencepiece.SentencePieceProcessor(model_proto=raw)
tokenizer = made(raw)
ends = [(word, end) for word in ("a", "What") for end in ("is", "")]
texts = [" " * i + word + " " * n + end for i in range(8) for n in range(40) for word, end in ends]
split = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in texts}
found = [text for text, ids in split.items() if ids != original.encode(text)]
"""
REFUSALS = """
found = [
    made(b""),
    made(changed()[:-1]),
    made(changed(setting("trainer_spec", "model_type", 1))),
    made(changed(setting("trainer_spec", "byte_fallback", False))),
    made(changed(setting("normalizer_spec", "precompiled_charsmap", b"map"))),
    made(changed(setting("normalizer_spec", "remove_extra_whitespaces", True))),
    made(changed(setting("normalizer_spec", "add_dummy_prefix", False))),
    made(changed(lambda model: setattr(model.pieces[1], "piece", "<other>"))),
    made(changed(), {"<extra>": 700}),
]
merges = sys.modules["transformers.convert_slow_tokenizer"]
ranked = merges.generate_merges
merges.generate_merges = lambda *given: ranked(*given)[::-1]
found.append(made(changed()))
"""
ADDED = """
rows = len(sentencepiece.SentencePieceProcessor(model_file=given["model"]))
behind = made(changed(), {"<image>": rows, "<other>": rows + 1})
tokens = ("<image>", "<other>", "<pad>")
found = [behind.token_to_id(each) - rows for each in tokens]
behind.save(given["folder"] + "/tokenizer.json")
Path(given["folder"], "tokenizer.model").unlink()
taken = program.served_tokenizer(program.TokenizerJob(given["folder"], {}, ("<image>", "<pad>")))
found += [taken.token_to_id(each) - rows for each in tokens]
"""


@pytest.fixture
def tokenizers(source: Path, ask: Ask, tmp_path: Path) -> Callable[[str], Any]:
    """What a piece of code finds with the program that makes the tokenizer, in the engine's Python."""
    given = {
        "program": tokenizer_program.__file__,
        "model": str(source / "tokenizer.model"),
        "folder": str(tmp_path),
    }
    return lambda code: ask(TOKENIZERS + code, given)


def test_runs_of_blanks_that_share_a_score_are_merged_as_the_original_merges_them(
    tokenizers: Callable[[str], Any],
) -> None:
    assert tokenizers(RUNS) == []


def test_a_tokenizer_that_would_split_otherwise_is_refused(tokenizers: Callable[[str], Any]) -> None:
    """Of another kind, or damaged, or with other added tokens, or ranked otherwise by its library."""
    assert tokenizers(REFUSALS) == [*["unknown_tokenizer"] * 8, "added_tokens", "split_otherwise"]


def test_added_tokens_keep_their_ids_and_a_tokenizer_json_is_taken_where_there_is_no_model(
    tokenizers: Callable[[str], Any],
) -> None:
    assert tokenizers(ADDED) == [0, 1, 2] * 2
