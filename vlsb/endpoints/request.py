"""Request bodies: prepared JSON in the endpoint's dialect, around an image that is read when it is sent.

A draft holds the bytes before and after the base64 of the image. `pieces` reads the one in the middle,
so a waiting sample costs a few hundred bytes, not two megabytes. It blocks: call it in a thread. The
checksums are of the very bytes that it read: nothing else is known to be what was sent.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pybase64

from vlsb import strict_json
from vlsb.config import Endpoint, ModelSettings, Sampling
from vlsb.dialect import Dialect
from vlsb.models.providers import provider_of
from vlsb.records import ImageFile, Key, Untrusted

_REASONING_NAMES = re.compile(r"(?:.*/)?(?:o[1-9](?:-.*)?|gpt-[5-9](?:[.\-].*)?)$")
CHAT_PATH = "/v1/chat/completions"
OPTIONAL_FIELDS = ("temperature", "top_p")
"""What a dialect may leave out."""
# Of OpenAI, vLLM, llama.cpp, SGLang and Ollama: a reply to one of them has the form that it describes.
_STRUCTURING_FIELDS = frozenset(
    {"response_format", "structured_outputs", "json_schema", "grammar", "regex", "ebnf", "format"}
    | {f"guided_{kind}" for kind in ("json", "regex", "choice", "grammar")}
)


def first_guess(endpoint: Endpoint) -> Dialect:
    """Return the dialect that a model's name or its provider suggests; the preflight corrects it."""
    if _REASONING_NAMES.match(endpoint.request_model):
        return Dialect(tokens_field="max_completion_tokens", unsent=OPTIONAL_FIELDS)
    provider = provider_of(endpoint)
    if provider is None:
        return Dialect()
    return Dialect(provider.tokens_field, provider.unsent, provider.structured)


def asks_for_structure(fields: Mapping[str, Any]) -> bool:
    """Tell whether fields of a request bind the reply to a form, in which no thought can stand."""
    return not _STRUCTURING_FIELDS.isdisjoint(fields)


def asks_to_think(fields: Mapping[str, Any]) -> bool:
    """Tell whether fields of a request switch the chat template to thinking."""
    template = fields.get("chat_template_kwargs")
    return isinstance(template, Mapping) and template.get("enable_thinking") is True


class ReadImage(NamedTuple):
    """An image's bytes and their hex sha256; both are empty where there is no image.

    Where other bytes are sent than the image's own, `sha256` is of the image that a response is about, and
    `sent_sha256` of these bytes.
    """

    content: bytes
    sha256: str
    sent_sha256: str = ""

    @classmethod
    def of(cls, content: bytes) -> ReadImage:
        """Bytes with their checksum, which takes a millisecond or more: call it in a thread."""
        return cls(content, hashlib.sha256(content).hexdigest())


def no_image() -> ReadImage:
    """Read nothing: for a request without an image."""
    return ReadImage(b"", "")


class Checksums(NamedTuple):
    """Hex sha256 of the image that a body is about, empty without one, and of the request.

    The latter is over what stands around the image that is sent, and over that.
    """

    image: str
    request: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One user turn with one image, or without where `image` is None; `image_first` says where it stands.

    An empty `text` is sent without a text part: providers reject empty ones (sample 1685). `more` are text
    parts of their own after it, and `instead` is one in the place of an image. An `answer` is an assistant's
    turn after the user's: what a guard rates.
    """

    system: str
    text: Untrusted
    image_first: bool
    image: ImageFile | None
    read_image: Callable[[], ReadImage]
    more: tuple[Untrusted, ...] = ()
    answer: Untrusted | None = None
    instead: Untrusted | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A request body in three pieces; the middle one is read on demand. `size` is that of all, in bytes."""

    head: bytes
    tail: bytes
    read_image: Callable[[], ReadImage]
    size: int

    @property
    def has_image(self) -> bool:
        """Whether an image goes along."""
        return bool(self.tail)

    def most_tokens(self) -> tuple[int, int | None]:
        """Return the most tokens of its text, of which each has a byte at least, and of its answer.

        None for the latter where nothing bounds it.
        """
        text = self.head + self.tail
        body = strict_json.loads(text)
        limits = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
        numbers = [limit for limit in limits if isinstance(limit, int)]
        answers = body.get("n", 1)
        return len(text), max(numbers) * answers if numbers and isinstance(answers, int) else None

    def pieces(self) -> tuple[tuple[bytes, ...], Checksums]:
        """Read the image and return the whole body, in pieces that were not copied together.

        Blocks on the disk; raises ImageError or ImageChangedError if the image must not be sent.
        """
        content, image, sent = self.read_image()
        checksum = (sent or image).encode()
        request = hashlib.sha256(b"\x00".join((self.head, checksum, self.tail))).hexdigest()
        return (self.head, pybase64.b64encode(content), self.tail), Checksums(image, request)


def custom_id(key: Key, number: int, checksums: Checksums) -> str:
    """Name a request in a batch like no other; `number` counts those for the same response."""
    return f"{key.sample_id}-{key.epoch}-{number}-{checksums.request[:32]}"


def batch_line(name: str, pieces: tuple[bytes, ...]) -> bytes:
    """A line of a batch's file: the body in `pieces`, byte for byte as it is sent otherwise."""
    start = strict_json.dumps({"custom_id": name, "method": "POST", "url": CHAT_PATH}).encode("ascii")
    return b"".join((start[:-1], b',"body":', *pieces, b"}\n"))


def draft(
    prompt: Prompt,
    *,
    model: str,
    sampling: Sampling,
    dialect: Dialect,
    response_format: Mapping[str, Any] | None = None,
) -> Draft:
    """Draft the request of the official script, field for field, in the endpoint's dialect."""
    system, rest = prompt.system, dialect.sampling_fields(sampling)
    if response_format is not None and dialect.structured:
        rest = {"response_format": response_format, **rest}
    elif response_format is not None:
        # In words, for an endpoint that ignores or refuses it.
        schema = strict_json.dumps(response_format["json_schema"]["schema"])
        system += "\nReply with one JSON object and nothing else. It must match this JSON schema: " + schema

    mark = _usual_mark()
    while True:
        body = {"model": model, "messages": _messages(prompt, system, mark), **rest}
        whole = strict_json.dumps(body).encode("ascii")
        if prompt.image is None:
            return Draft(whole, b"", prompt.read_image, len(whole))
        around_image = whole.split(mark.encode("ascii"))
        if len(around_image) == 2:
            break
        # A text has the mark in it, which is random: no text can forge the next one.
        mark = secrets.token_hex(16)
    head, tail = around_image
    size = len(head) + 4 * ((prompt.image.size_bytes + 2) // 3) + len(tail)
    return Draft(head, tail, prompt.read_image, size)


def example(settings: ModelSettings, dialect: Dialect) -> dict[str, Any]:
    """Return the body of a target's request, with words in the places of the instruction and the image."""
    prompt = Prompt(
        settings.system_prompt,
        Untrusted("<the sample's instruction>"),
        image_first=settings.protocol.image_first,
        image=ImageFile(None, "image/...", 0, 0),
        read_image=lambda: ReadImage.of(b""),
    )
    drafted = draft(
        prompt, model=settings.endpoint.request_model, sampling=settings.sampling, dialect=dialect
    )
    body: dict[str, Any] = strict_json.loads(drafted.head + b"..." + drafted.tail)
    return body


@cache
def _usual_mark() -> str:
    """One mark a process: it never leaves us, and asking the system for one a request shows."""
    return secrets.token_hex(16)


def _messages(prompt: Prompt, system: str, mark: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if text := prompt.text.expose():
        parts.append({"type": "text", "text": text})
    if prompt.image is not None:
        url = f"data:{prompt.image.media_type};base64,{mark}"
        image = {"type": "image_url", "image_url": {"url": url}}
        parts.insert(0 if prompt.image_first else len(parts), image)
    elif prompt.instead is not None:
        caption = {"type": "text", "text": prompt.instead.expose()}
        parts.insert(0 if prompt.image_first else len(parts), caption)
    parts += [{"type": "text", "text": each.expose()} for each in prompt.more]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if prompt.answer is not None:
        messages.append({"role": "assistant", "content": prompt.answer.expose()})
    return [{"role": "system", "content": system}, *messages] if system else messages
