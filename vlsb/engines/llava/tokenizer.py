"""The original's tokenizer as a `tokenizer.json` that splits text exactly as the original does.

A program of its own, run by the Python of an engine environment (tokenizers, sentencepiece, transformers): it
imports nothing of ours, reads its job as JSON from stdin and answers with one JSON object on stdout.

The original loader cuts a prompt at `<image>` and tokenises each piece as a text of its own, so each gets
SentencePiece's leading blank: `<image>`, blank, newline. Here the blank is put before each piece between
special tokens, which is the same. The classes of transformers put no second blank before a text that begins
with one, and rank pairs by their ids, which changes every text with two blanks in a row: only their ranking
by scores is taken.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
SPECIAL = ("<unk>", "<s>", "</s>")
# Of SentencePiece: a piece of text, and a model of byte pairs.
_NORMAL, _BYTE_PAIRS = 1, 2
_PROBES = (
    "A chat between a curious human and an assistant. USER: ",
    "\nWhat  is   shown,    12,345 \t caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{GRINNING FACE}? ASSISTANT:",
    "  " * 9 + "def run():\n" + " " * 7 + "return 1",
)


class RefusedTokenizer(Exception):
    """A tokenizer that cannot be converted; its only argument is a code of ours."""


@dataclass(frozen=True)
class TokenizerJob:
    """A folder with `tokenizer.model` or else `tokenizer.json`; tokens behind a model's with their ids.

    `special` are the tokens that it must have; those that it lacks follow its last one.
    """

    folder: str
    added: Mapping[str, int]
    special: tuple[str, ...]


def served_tokenizer(job: TokenizerJob) -> Any:
    """Return the tokenizer to serve, of the `tokenizers` library.

    RefusedTokenizer if it would split otherwise.
    """
    tokenizers = importlib.import_module("tokenizers")
    model = Path(job.folder) / "tokenizer.model"
    if model.is_file():
        tokenizer = from_sentencepiece(model)
    else:
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(model.with_suffix(".json")))
        # The library has no class of errors for a file that is not a tokenizer.
        except Exception as error:
            raise RefusedTokenizer("unknown_tokenizer") from error
    for text in (*sorted(job.added, key=job.added.__getitem__), *job.special):
        tokenizer.add_special_tokens([tokenizers.AddedToken(text, normalized=False)])
    if any(tokenizer.token_to_id(text) != number for text, number in job.added.items()):
        raise RefusedTokenizer("added_tokens")
    return tokenizer


def from_sentencepiece(path: Path) -> Any:
    """Return what splits as a `tokenizer.model` does.

    RefusedTokenizer for one that is not of Llama's kind.
    """
    tokenizers = importlib.import_module("tokenizers")
    generate_merges = importlib.import_module("transformers.convert_slow_tokenizer").generate_merges
    proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
        original = importlib.import_module("sentencepiece").SentencePieceProcessor(model_file=str(path))
    # The libraries have classes of their own for a damaged file.
    except Exception as error:
        raise RefusedTokenizer("unknown_tokenizer") from error
    # Byte pairs with byte fallback; text is taken as it is, with a blank before it.
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    is_llama = trainer.model_type == _BYTE_PAIRS and trainer.byte_fallback and normalizer.add_dummy_prefix
    is_plain = not normalizer.precompiled_charsmap and not normalizer.remove_extra_whitespaces
    if not is_llama or not is_plain or tuple(each.piece for each in proto.pieces[:3]) != SPECIAL:
        raise RefusedTokenizer("unknown_tokenizer")
    vocabulary = {each.piece: number for number, each in enumerate(proto.pieces)}
    scores = [(each.piece, each.score) for each in proto.pieces if each.type == _NORMAL]
    merges = generate_merges(vocabulary, scores)
    bpe = tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.add_special_tokens([tokenizers.AddedToken(each, normalized=False) for each in SPECIAL])
    put_first, replace = tokenizers.normalizers.Prepend, tokenizers.normalizers.Replace
    tokenizer.normalizer = tokenizers.normalizers.Sequence([put_first(BLANK), replace(" ", BLANK)])
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    for text in _PROBES:
        if tokenizer.encode(text, add_special_tokens=False).ids != original.encode(text):
            raise RefusedTokenizer("split_otherwise")
    return tokenizer


def main() -> int:
    """Read the job and print the tokenizer, or why it cannot be made."""
    try:
        tokenizer = served_tokenizer(TokenizerJob(**json.loads(sys.stdin.read())))
    except RefusedTokenizer as refused:
        sys.stdout.write(json.dumps({"error": str(refused)}) + "\n")
        return 1
    sys.stdout.write(json.dumps({"tokenizer": json.loads(tokenizer.to_str())}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
