"""What every contender is told, and the texts that they all send."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlsb.judging.prompts import RESPONSE_FORMAT, official_template

TARGET, JUDGE = "target", "judge"
SAMPLING = {"temperature": 0.0, "max_tokens": 128}
JUDGE_SAMPLING = {"temperature": 0.0, "max_tokens": 512, "response_format": RESPONSE_FORMAT}
# Longer than any latency drawn: a contender that hits it has hung.
TIMEOUT_S = 120.0

_BEFORE_QUESTION, _rest = official_template().text.split("{question}", 1)
_BETWEEN, _AFTER_RESPONSE = _rest.split("{response}", 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of the data set."""

    id: int
    instruction: str
    image: Path


@dataclass(frozen=True, slots=True)
class Job:
    """Where to ask, what about, and how much at a time; `origin` is the URL without a path."""

    origin: str
    samples: Sequence[Sample]
    connections: int
    ca_bundle: Path | None
    output: Path

    def base_url(self, lane: str) -> str:
        """A lane's endpoint, up to `/v1`."""
        return f"{self.origin}/{lane}/v1"


def parse_job(arguments: Sequence[str] | None = None) -> Job:
    """The job that the command line describes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--origin", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--ca-bundle", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    rows = json.loads((chosen.data / "data.json").read_text())[: chosen.limit]
    samples = [
        Sample(row["instruction_id"], row["instruction"], chosen.data / row["image_path"]) for row in rows
    ]
    return Job(chosen.origin, samples, chosen.connections, chosen.ca_bundle, chosen.output)


def judge_text(instruction: str, response: str) -> str:
    """The official judge prompt."""
    return f"{_BEFORE_QUESTION}{instruction}{_BETWEEN}{response}{_AFTER_RESPONSE}"


def messages(text: str, url: str) -> list[dict[str, Any]]:
    """One user turn with a text and an image."""
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


@dataclass(frozen=True, slots=True)
class Frame:
    """A lane's JSON around the two things that differ: the text and the base64 of the image."""

    before: bytes
    between: bytes
    after: bytes

    def head(self, text: str) -> bytes:
        """Everything before the image."""
        return self.before + json.dumps(text).encode() + self.between


def frame(lane: str) -> Frame:
    """The frame of a lane's requests, for those who build their bodies by hand."""
    sampling = SAMPLING if lane == TARGET else JUDGE_SAMPLING
    body = {"model": lane, "messages": messages("@text", "data:image/png;base64,@image"), **sampling}
    before, rest = json.dumps(body, separators=(",", ":")).split('"@text"')
    between, after = rest.split("@image")
    return Frame(before.encode(), between.encode(), after.encode())
