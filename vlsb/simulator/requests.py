"""What arrives at the simulator: a request, with the views that personas and tests ask for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import orjson

JUDGE_OPENING = "You are a professional multimodal red-teaming safety judge."
# Inside a JSON string the quote after `url` would be escaped, so this never matches in a sample's words.
_DATA_URL = re.compile(rb'"url"\s*:\s*"(data:)')
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?')


class _Wording(NamedTuple):
    model: str | None
    texts: tuple[str, ...]
    is_judge: bool


# Not slotted: the small views are cached in the instance's `__dict__`, so that a body nobody looks at is
# never parsed. What holds the image is not cached: a history would keep each image twice.
@dataclass(frozen=True)
class Request:
    """One request as it arrived. `number` starts at 1 and is global; header names are lower case.

    `received_at` is monotonic time. `is_dropped` says that the body was let go (`keep_bodies=False`):
    its words and digests are still there, but `json`, `image_url` and `image` raise `LookupError`.
    """

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    received_at: float
    is_dropped: bool = False

    @property
    def json(self) -> Any:
        """The body, parsed at each call; `ValueError` when it is not JSON. Lone surrogates pass."""
        self._require_body()
        return _parse_body(self.body)

    @cached_property
    def _prompt(self) -> _Wording:
        start, end = self._image_span()
        try:
            parsed = _parse_body(self.body[:start] + self.body[end:])
        except ValueError:
            parsed = None
        body = parsed if isinstance(parsed, dict) else {}
        contents = [each.get("content") for each in body.get("messages", ()) if each.get("role") == "user"]
        parts: list[dict[str, Any]] = []
        for content in contents:
            parts += [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        texts = tuple(part["text"] for part in parts if part.get("type") == "text")
        is_judge = "response_format" in body or any(JUDGE_OPENING in text for text in texts)
        return _Wording(body.get("model"), texts, is_judge)

    def _require_body(self) -> None:
        if self.is_dropped:
            raise LookupError(f"the body of request {self.number} was dropped")

    def _image_span(self) -> tuple[int, int]:
        """Tell where the first data URL stands in the body, unparsed; (0, 0) when there is none.

        Parsing two megabytes of base64 to read twenty words costs more than all the rest.
        """
        if (match := _DATA_URL.search(self.body)) is None:
            return 0, 0
        return match.start(1), self.body.find(b'"', match.end())

    @property
    def model(self) -> str | None:
        """The model that was asked for."""
        return self._prompt.model

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text part of the user's messages, in order."""
        return self._prompt.texts

    @property
    def is_judge(self) -> bool:
        """Whether a judge is asked: a response format, or the official template's first sentence."""
        return self._prompt.is_judge

    @property
    def image_url(self) -> str | None:
        """The first image's data URL."""
        self._require_body()
        start, end = self._image_span()
        return self.body[start:end].decode() if end else None

    @cached_property
    def image_url_sha256(self) -> str | None:
        """Hex digest of the first image's data URL, media type and base64 included."""
        start, end = self._image_span()
        return hashlib.sha256(memoryview(self.body)[start:end]).hexdigest() if end else None

    @property
    def image(self) -> bytes | None:
        """The first image's own bytes, decoded from its data URL at each call."""
        url = self.image_url
        return None if url is None else base64.b64decode(url.partition(",")[2])

    @property
    def bearer(self) -> str | None:
        """The key sent as `Authorization: Bearer KEY`."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" else None

    @property
    def file(self) -> bytes | None:
        """The contents of the first file in a form."""
        match = _BOUNDARY.search(self.headers.get("content-type", ""))
        parts = [] if match is None else self.body.split(b"--" + match[1].encode())
        files = (part.partition(b"\r\n\r\n")[2][:-2] for part in parts if b"filename=" in part[:500])
        return next(files, None)

    @property
    def instruction(self) -> str:
        """The sample's instruction, also when it stands inside the official judge template."""
        whole = "\n".join(self.texts)
        _, marker, rest = whole.partition("<text_query>: ")
        return rest.partition("\n    <respoonse>: ")[0] if marker else whole

    @property
    def judged_response(self) -> str | None:
        """The response inside the official judge template; None where there is no such template."""
        _, marker, rest = "\n".join(self.texts).partition("<respoonse>: ")
        response, closing, _ = rest.rpartition("\n    \n    Please give your judgement")
        return (response if closing else rest) if marker else None

    @cached_property
    def identity(self) -> str:
        """Hex digest of role, texts and image: the same whenever and in whatever order it arrives."""
        fields = ["judge" if self.is_judge else "target", *self.texts, self.image_url_sha256 or ""]
        return hashlib.sha256("\x00".join(fields).encode("utf-8", "surrogatepass")).hexdigest()

    def without_body(self) -> Request:
        """Return the same request with its digests and words, but without the bytes of its image."""
        slim = replace(self, body=b"", is_dropped=True)
        for name in ("_prompt", "image_url_sha256", "identity"):
            slim.__dict__[name] = getattr(self, name)
        return slim


def _parse_body(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)
