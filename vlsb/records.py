"""The facts a run is made of: samples, images, completions, responses, verdicts, failures.

Responses, verdicts, findings and failures have the fields of their lines in the run directory, in that
order. Those with a default may lack in a line, which then means the default.

Text that strangers wrote (data set, target, judge, endpoint) is `Untrusted`: an opaque type that no
function taking `str` accepts. Only the encoder of a boundary (terminal, CSV, Markdown, JSON, request)
may call `expose`; the type checker and a test hold everybody else to it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

VLSBENCH = "vlsbench"
"""The data set of a run that names no other."""
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
PUBLISHED_IDS = range(2241)
"""The ids of VLSBench as released, 0 to 2,240."""


@cache
def published_digests() -> tuple[str, ...]:
    """Read `Sample.digest` of every row of VLSBench as released in May 2025, by its id."""
    return tuple(Path(__file__).with_name("published_rows.txt").read_text("ascii").split())


def altered_rows(rows: Iterable[tuple[int, str]]) -> list[int]:
    """List the ids of VLSBench whose row is not the published one, of samples by id and `Sample.digest`."""
    published = published_digests()
    return sorted(each for each, digest in rows if each in PUBLISHED_IDS and published[each] != digest)


_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class Untrusted:
    """Text from a stranger. Printing, formatting or concatenating it is an error on purpose."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        # Two halves of a surrogate pair side by side are one character to whoever reads them back.
        if not text.isascii() and _PAIR.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        self._text = text

    def expose(self) -> str:
        """Return the raw text, for the encoder of a boundary and nobody else."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Untrusted) and self._text == other._text

    def __lt__(self, other: Untrusted) -> bool:
        return self._text < other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __len__(self) -> int:
        return len(self._text)

    def __repr__(self) -> str:
        return f"<untrusted text, {len(self._text)} characters>"

    def __str__(self) -> NoReturn:
        raise TypeError("untrusted text was about to be printed without an encoder")

    def __format__(self, spec: str) -> NoReturn:
        raise TypeError("untrusted text was about to be formatted without an encoder")

    def sha256(self) -> str:
        """Hash the UTF-8 bytes, in hex; lone surrogates are kept apart from real text."""
        return hashlib.sha256(self._text.encode("utf-8", "surrogatepass")).hexdigest()


class Label(StrEnum):
    """A judge's label of a response (1, 2 and 3 in the paper's schema)."""

    SAFE_REFUSAL = "safe_refusal"
    SAFE_WARNING = "safe_warning"
    UNSAFE = "unsafe"


class Rating(StrEnum):
    """A guard's rating of a response. It is not a label: guards ask only whether text is harmful."""

    SAFE = "safe"
    CONTROVERSIAL = "controversial"
    UNSAFE = "unsafe"


class Compliance(StrEnum):
    """How far a response does what it was asked for. It says nothing of safety."""

    FULL = "full"
    PARTIAL = "partial"
    REFUSAL = "refusal"


class Half(StrEnum):
    """What the rows of a data set ask for: harm, or something harmless that should be answered."""

    HARMFUL = "harmful"
    BENIGN = "benign"


class Outcome(StrEnum):
    """The end of a sample. Every selected sample has exactly one."""

    SAFE_REFUSAL = "safe_refusal"
    SAFE_WARNING = "safe_warning"
    UNSAFE = "unsafe"
    TARGET_EMPTY = "target_empty"
    TARGET_BLOCKED = "target_blocked"
    TARGET_ERROR = "target_error"
    JUDGE_REFUSED = "judge_refused"
    JUDGE_BLOCKED = "judge_blocked"
    JUDGE_TRUNCATED = "judge_truncated"
    JUDGE_INVALID = "judge_invalid"
    JUDGE_ERROR = "judge_error"
    NOT_JUDGED = "not_judged"
    NOT_ATTEMPTED = "not_attempted"
    JUDGE_UNDECIDED = "judge_undecided"


THINKING_CUT = "thinking_cut"
"""The code of an answer that ended on its token limit while the model was still thinking."""
# Earlier versions wrote this code.
_OLD_THINKING_CUT = "budget_spent_on_reasoning"

IMPORTED = "imported"
"""The fault of a failure that another program's file tells of."""

STOPPED = "stopped"
"""The fault of a row that ends nothing: what was spent on a response before the run was stopped."""

JUDGED = frozenset({Outcome.SAFE_REFUSAL, Outcome.SAFE_WARNING, Outcome.UNSAFE})
"""The outcomes that carry a label. Rates are over these."""

RETRIED_ON_RESUME = frozenset(
    {Outcome.TARGET_ERROR, Outcome.JUDGE_ERROR, Outcome.NOT_JUDGED, Outcome.NOT_ATTEMPTED}
)
"""The outcomes a resume works on again without being asked to."""

Stage = Literal["target", "judge"]


class Key(NamedTuple):
    """Which response: of which sample, in which epoch. Epochs count from 1."""

    sample_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One image-instruction pair of VLSBench, as published.

    `id` is `instruction_id`; it is the only key (images and instructions repeat, and `image_path`
    is not derived from it), and None for a question without an image, which VLSBench has none of.
    `instruction` may be empty (id 1685). The last two came with the 2025-03 revision of the data; they are
    carried, but no digest depends on them.
    """

    id: int
    instruction: Untrusted
    image_path: Untrusted | None
    category: Untrusted
    sub_category: Untrusted
    source: Untrusted
    image_description: Untrusted | None = None
    safety_reason: Untrusted | None = None

    def digest(self) -> str:
        """Hash every published core field, in a fixed order, to sixteen hex digits."""
        fields = (self.instruction, self.image_path, self.category, self.sub_category, self.source)
        joined = "\x00".join([str(self.id), *("" if each is None else each.sha256() for each in fields)])
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


def cluster_of(sample_id: int, image_path: Untrusted | None) -> Untrusted:
    """Return what a sample shares with those it is not independent of: its image, or itself without one."""
    return Untrusted(f"sample {sample_id}") if image_path is None else image_path


def data_digest(rows: Iterable[tuple[int, str, str | None]]) -> str:
    """Hash samples: (id, `Sample.digest`, the image's sha256 or None for a bad image) each, to a hex sha256.

    A sample without an image has the word `none` in its place.
    The order is that of ids. Layout, place, file times and the defect of a bad image do not count.
    """
    digest = hashlib.sha256()
    for sample_id, row, image in sorted(rows, key=lambda each: each[0]):
        digest.update(f"{sample_id} {row} {image or 'bad'}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that passed the header check. `media_type` comes from the bytes, never the name.

    `sha256` is None where only the header was read, as before a run's first request.
    """

    sha256: str | None
    media_type: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the endpoint counted them; None where it did not say.

    `reasoning_tokens` are part of the output, `cached_tokens` of the input: read from the provider's cache.
    `thought_tokens` are in its total only, beside input and output: what Gemini thought. The last two are the
    part of input, and of output and thought, that went through a batch API, at its price.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    thought_tokens: int | None = None
    batch_input_tokens: int | None = None
    batch_output_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        """Add up; a count that neither gives stays unknown."""

        def total(a: int | None, b: int | None) -> int | None:
            return None if a is None and b is None else (a or 0) + (b or 0)

        return Usage(
            total(self.input_tokens, other.input_tokens),
            total(self.output_tokens, other.output_tokens),
            total(self.reasoning_tokens, other.reasoning_tokens),
            total(self.cached_tokens, other.cached_tokens),
            total(self.thought_tokens, other.thought_tokens),
            total(self.batch_input_tokens, other.batch_input_tokens),
            total(self.batch_output_tokens, other.batch_output_tokens),
        )

    @property
    def is_whole(self) -> bool:
        """Whether an answer's endpoint counted what it took: no answer is written in no tokens."""
        return self.input_tokens is not None and bool(self.output_tokens or self.thought_tokens)

    def at_once(self) -> Usage:
        """Return the same tokens, none of them through a batch API."""
        return replace(self, batch_input_tokens=None, batch_output_tokens=None)

    def as_batch(self) -> Usage:
        """Return the same tokens, all of them through a batch API."""
        if self.input_tokens is None:
            return self
        output = (self.output_tokens or 0) + (self.thought_tokens or 0)
        return replace(self, batch_input_tokens=self.input_tokens, batch_output_tokens=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An endpoint's answer to one request.

    `reasoning` is the model's thinking before its answer, and no part of it; None where the endpoint did not
    show it. `origin` is `refusal` when the text came from the message's refusal field. `attempts` counts HTTP
    requests, the answered one included; `latency_s` and both checksums are the answered one's.
    """

    text: Untrusted
    reasoning: Untrusted | None = None
    origin: Literal["content", "refusal"]
    finish_reason: Untrusted | None = None
    model: Untrusted | None = None
    usage: Usage
    attempts: int
    latency_s: float
    flags: tuple[str, ...]
    image_sha256: str
    request_sha256: str


def is_cut(finish_reason: Untrusted | None) -> bool:
    """Tell whether a completion ended on its token limit."""
    return finish_reason is not None and finish_reason.expose().lower() in ("length", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The target's completion for a sample, as stored and as judged; the fields they share are alike.

    `response_sha256` is the digest of the text: a verdict names the response it belongs to by it. Fields
    that nobody knows of an imported response are None, its `origin` is `unknown`, its `attempts` 0.
    `image_sha256` is None, too, where no image was sent.
    """

    sample_id: int
    epoch: int = 1
    text: Untrusted
    reasoning: Untrusted | None = None
    origin: Literal["content", "refusal", "unknown"]
    finish_reason: Untrusted | None = None
    model: Untrusted | None = None
    usage: Usage
    attempts: int
    latency_s: float | None
    flags: tuple[str, ...]
    response_sha256: str
    image_sha256: str | None
    request_sha256: str | None

    @classmethod
    def of(cls, key: Key, completion: Completion) -> Response:
        """Store the completion that answers a sample in an epoch."""
        shared: dict[str, Any] = {each.name: getattr(completion, each.name) for each in fields(completion)}
        shared["image_sha256"] = completion.image_sha256 or None
        return cls(
            sample_id=key.sample_id, epoch=key.epoch, response_sha256=completion.text.sha256(), **shared
        )

    @property
    def key(self) -> Key:
        """The sample and epoch it answers."""
        return Key(self.sample_id, self.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judge's label for one response. `asks` counts completions, a re-ask included.

    Of an imported one the judge's words may be empty, and `latency_s` and both checksums are None.
    """

    sample_id: int
    epoch: int = 1
    label: Label
    explanation: Untrusted
    model: Untrusted | None = None
    usage: Usage
    asks: int
    attempts: int
    latency_s: float | None
    response_sha256: str
    image_sha256: str | None
    request_sha256: str | None

    @property
    def key(self) -> Key:
        """The sample and epoch it judges."""
        return Key(self.sample_id, self.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a guard, a list of phrases or a judge of compliance says of one response: no safety rate has it.

    `rating` is None for one that rates nothing, `refuses` for one that does not tell refusals apart.
    `compliance` and the `explanation` are a judge's of compliance.
    """

    sample_id: int
    epoch: int = 1
    rating: Rating | None
    refuses: bool | None
    category: Untrusted
    model: Untrusted | None = None
    usage: Usage
    asks: int
    attempts: int
    latency_s: float
    response_sha256: str
    image_sha256: str | None
    request_sha256: str
    compliance: Compliance | None = None
    explanation: Untrusted | None = None

    @property
    def key(self) -> Key:
        """The sample and epoch it is about."""
        return Key(self.sample_id, self.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A sample that ended at `stage` without what the stage should give. Never an answer.

    `fault` is the class the endpoint room gave it, `code` a short machine word, `message` what the
    endpoint said, keys redacted. `text` keeps what came back unusable (a blocked or cut answer) for
    audit; it is never judged. `image_sha256` is of the image that was sent last, None if none was.
    """

    sample_id: int
    epoch: int = 1
    stage: Stage
    outcome: Outcome
    fault: str
    code: str
    status: int | None = None
    message: Untrusted
    attempts: int
    usage: Usage
    text: Untrusted | None = None
    response_sha256: str | None = None
    image_sha256: str | None = None
    details: Mapping[str, Any]

    @property
    def key(self) -> Key:
        """The sample and epoch that ended."""
        return Key(self.sample_id, self.epoch)

    @property
    def is_thinking_cut(self) -> bool:
        """Whether the model was still thinking when its tokens were spent."""
        return self.code in (THINKING_CUT, _OLD_THINKING_CUT)
