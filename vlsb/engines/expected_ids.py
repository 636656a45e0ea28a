"""The prompt ids that the authors' loader of a family feeds to its model, for one image and one text.

A program of its own, run by the Python of an engine environment: it imports nothing of ours and reads its
job as JSON from stdin. It does what the authors' script does with the checkpoint's processor and template;
for `llava` it splits the literal prompt of the original repository as that does, piece by piece.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAVA_V1 = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. USER: <image>\n{text} ASSISTANT:"
)


@dataclass(frozen=True)
class PromptJob:
    """One question about a checkpoint: `weights` is a folder or a hub id, `image` base64 of a file.

    `source`, `image_first` and `template_has_bos` are those of the model's profile.
    """

    source: str
    image_first: bool
    template_has_bos: bool
    weights: str
    revision: str | None
    text: str
    image: str

    def decoded_image(self) -> Any:
        """Return the image, decoded as the authors' script does."""
        pillow = importlib.import_module("PIL.Image")
        return pillow.open(io.BytesIO(base64.b64decode(self.image))).convert("RGB")


def processor_ids(job: PromptJob) -> Sequence[int]:
    """Through the checkpoint's template and processor."""
    transformers = importlib.import_module("transformers")
    processor = transformers.AutoProcessor.from_pretrained(
        job.weights, revision=job.revision, trust_remote_code=False
    )
    parts = [{"type": "image"}, {"type": "text", "text": job.text}]
    messages = [{"role": "user", "content": parts if job.image_first else parts[::-1]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    options = {"add_special_tokens": False} if job.template_has_bos else {}
    inputs = processor(images=job.decoded_image(), text=prompt, return_tensors="pt", **options)
    ids: Sequence[int] = inputs["input_ids"][0].tolist()
    return ids


def original_llava_ids(job: PromptJob) -> Sequence[int]:
    """As the original repository: each piece around the image is a text of its own, one BOS before all."""
    config = json.loads((Path(job.weights) / "config.json").read_text("utf-8"))
    encode, bos = original_tokenizer(Path(job.weights))
    before, after = LLAVA_V1.format(text=job.text).split("<image>", 1)
    image = [config["image_token_index"]] * config["image_seq_length"]
    return [bos, *encode(before), *image, *encode(after)]


def original_tokenizer(folder: Path) -> tuple[Callable[[str], Sequence[int]], int]:
    """Return what turns a text into ids without special tokens, and the id of the BOS."""
    model = folder / "tokenizer.model"
    if model.is_file():
        sentencepiece = importlib.import_module("sentencepiece")
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
        return pieces.encode, pieces.bos_id()
    transformers = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def encode(text: str) -> Sequence[int]:
        ids: Sequence[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids

    return encode, tokenizer.bos_token_id


def main() -> int:
    """Read the job, say the ids."""
    job = PromptJob(**json.loads(sys.stdin.read()))
    ids = list(original_llava_ids(job) if job.source == "original" else processor_ids(job))
    sys.stdout.write("\n" + json.dumps({"ids": ids}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
