"""The original's SentencePiece model as a `tokenizer.json` that splits text exactly as the original does.

The original loader cuts a prompt at `<image>` and tokenises each piece as a text of its own, so each gets
SentencePiece's leading blank: `<image>`, blank, newline. Here the blank is put before each piece between
special tokens, which is the same. An engine that makes its own tokenizer out of `tokenizer.model` may leave
it out, and may rank runs of blanks first, which changes every text with two blanks in a row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

BLANK = "\N{LOWER ONE EIGHTH BLOCK}"


class Kind(IntEnum):
    """What SentencePiece calls the type of a piece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a vocabulary; its id is its position. The best score is merged first."""

    text: str
    score: float
    kind: Kind


def parse_pieces(model: bytes) -> list[Piece]:
    """The vocabulary of a `tokenizer.model` as Llama has it; ValueError for any other kind of file."""
    pieces: list[Piece] = []
    trainer: Mapping[int, Any] = {}
    normalizer: Mapping[int, Any] = {}
    for number, value in _fields(model):
        if number == 1:
            pieces.append(_piece(dict(_fields(value))))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    # Byte pair encoding with byte fallback; text is taken as it is, with a blank before it.
    is_llama = trainer.get(3) == 2 and trainer.get(35) == 1
    if not is_llama or normalizer.get(2) or normalizer.get(3, 1) != 1 or normalizer.get(4, 1) != 0:
        raise ValueError("not Llama's kind of SentencePiece model")
    if [each.text for each in pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise ValueError("it does not begin with <unk>, <s> and </s>")
    return pieces


def _piece(fields: Mapping[int, Any]) -> Piece:
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    return Piece(fields[1].decode("utf-8"), score, Kind(fields.get(3, Kind.NORMAL)))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers as they are, everything else as bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def take(count: int) -> bytes:
        nonlocal position
        taken = message[position : position + count]
        if len(taken) != count:
            raise ValueError("cut short")
        position += count
        return taken

    try:
        while position < len(message):
            number, wire = divmod(varint(), 8)
            if wire == 0:
                yield number, varint()
            elif wire in (1, 5):
                yield number, take(8 if wire == 1 else 4)
            elif wire == 2:
                yield number, take(varint())
            else:
                raise ValueError("not a protobuf message")
    except IndexError as error:
        raise ValueError("cut short") from error


def merges(pieces: Sequence[Piece]) -> list[list[str]]:
    """The pairs that make a piece, best first, as SentencePiece ranks them."""
    ids = {piece.text: number for number, piece in enumerate(pieces) if piece.kind is Kind.NORMAL}
    ranked = []
    for piece in pieces:
        if piece.kind is not Kind.NORMAL:
            continue
        splits = ((piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text)))
        pairs = [(left, right) for left, right in splits if left in ids and right in ids]
        ranked += [(-piece.score, left, right) for left, right in sorted(pairs, key=lambda p: ids[p[0]])]
    # Python's sort keeps the vocabulary's order between equal scores.
    return [[left, right] for _, left, right in sorted(ranked, key=lambda each: each[0])]


def tokenizer_json(pieces: Sequence[Piece], added: Mapping[str, int]) -> dict[str, Any]:
    """The contents of `tokenizer.json`: this vocabulary, its special tokens, and those that are added."""
    special = {piece.text: number for number, piece in enumerate(pieces[:3])} | dict(added)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(number, text) for text, number in special.items()],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": BLANK},
                {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special_step("<s>", 0), {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                _special_step("<s>", 0),
                {"Sequence": {"id": "A", "type_id": 0}},
                _special_step("<s>", 1),
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.text: number for number, piece in enumerate(pieces)},
            "merges": merges(pieces),
        },
    }


def added_token(number: int, text: str) -> dict[str, Any]:
    """A special token as `tokenizer.json` lists it."""
    return {"id": number, "content": text} | described_token(text) | {"special": True}


def described_token(text: str) -> dict[str, Any]:
    """A special token as `tokenizer_config.json` describes it, beside its id."""
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": text, **plain, "special": True}


def _special_step(text: str, type_id: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": text, "type_id": type_id}}
