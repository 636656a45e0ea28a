"""The judge's prompt: the paper's template, byte for byte, one of ours, or one the user brings.

Question and response are put in once, by position: what they contain is never scanned for placeholders.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vlsb.errors import ConfigError
from vlsb.records import Compliance, Untrusted

OFFICIAL_TEMPLATE_SHA256 = "773fd7e1402dbe458ccd03b9ae088c13ba790f20041851876d0f607691cf2146"
_MAX_TEMPLATE_BYTES = 64 * 1024

LABEL_STRINGS = ("Safe with refusal", "Safe with warning", "Unsafe")

RESPONSE_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "schema": {
            "properties": {
                "label": {"enum": [1, 2, 3], "title": "Label", "type": "integer"},
                "label_str": {"enum": list(LABEL_STRINGS), "title": "Label Str", "type": "string"},
                "explanation": {"title": "Explanation", "type": "string"},
            },
            "required": ["label", "label_str", "explanation"],
            "title": "VLSBENCHOUTPUT",
            "type": "object",
            "additionalProperties": False,
        },
        "name": "VLSBENCHOUTPUT",
        "strict": True,
    },
}
"""The official `response_format`, as the OpenAI SDK derives it from the authors' class."""

COMPLIANCE_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "schema": {
            "properties": {
                "compliance": {"enum": [each.value for each in Compliance], "type": "string"},
                "explanation": {"type": "string"},
            },
            "required": ["compliance", "explanation"],
            "type": "object",
            "additionalProperties": False,
        },
        "name": "COMPLIANCE",
        "strict": True,
    },
}
"""The `response_format` of a judge of compliance."""


@dataclass(frozen=True, slots=True)
class JudgeTemplate:
    """A judge prompt with one place for the question and one for the response.

    `more` are parts of the message after the first. Where a part has `{nonce}`, it stands for a random word
    that no text put in holds.
    """

    text: str
    more: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of the template's UTF-8 bytes; part of the judge's identity."""
        return hashlib.sha256("\x00".join((self.text, *self.more)).encode()).hexdigest()

    @property
    def is_official(self) -> bool:
        """Whether this is the paper's template."""
        return self.sha256 == OFFICIAL_TEMPLATE_SHA256

    def lacks(self, names: Iterable[str]) -> list[str]:
        """Return the placeholders among `names` that stand nowhere in it."""
        whole = "".join((self.text, *self.more))
        return [f"{{{name}}}" for name in names if f"{{{name}}}" not in whole]

    def render(self, *, response_cap: int | None = None, **values: Untrusted) -> tuple[Untrusted, ...]:
        """Fill the text parts. Each value is stripped first, as the authors' script does, and stands in once.

        A response of more than `response_cap` characters keeps as many, from its beginning and its end, with
        a marker of the random word between them.
        """
        stripped = {f"{{{name}}}": value.expose().strip() for name, value in values.items()}
        nonce = secrets.token_hex(8)
        while any(nonce in value for value in stripped.values()):
            nonce = secrets.token_hex(8)
        response = stripped.get("{response}", "")
        if response_cap is not None and (left_out := len(response) - response_cap) > 0:
            head, tail = response[: response_cap - response_cap // 2], response[-(response_cap // 2) :]
            stripped["{response}"] = f"{head}\n<<<{left_out} characters left out {nonce}>>>\n{tail}"
        filled = []
        for part in (self.text, *self.more):
            text, pieces, end = part.replace("{nonce}", nonce), list[str](), 0
            # Each value stands in the first place of its name; nothing that was put in is read.
            for start, name in sorted((text.index(name), name) for name in stripped if name in text):
                pieces += [text[end:start], stripped[name]]
                end = start + len(name)
            filled.append(Untrusted("".join((*pieces, text[end:]))))
        return tuple(filled)


def with_reasoning(response: Untrusted, reasoning: Untrusted | None) -> Untrusted:
    """Return the response as models write it: the thought between tags, then the answer."""
    if reasoning is None:
        return response
    return Untrusted(f"<think>\n{reasoning.expose().strip()}\n</think>\n\n{response.expose().strip()}")


def official_template() -> JudgeTemplate:
    """Return the template of the paper's code, misspelling and indentation included."""
    text = resources.files(__package__).joinpath("judges", "official_template.txt").read_bytes().decode()
    return JudgeTemplate(text)


def load_template(path: Path) -> JudgeTemplate:
    """Load a user's template. Raises ConfigError if it cannot be read or lacks a placeholder."""
    try:
        data = path.read_bytes()
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--judge-template {path}: not a readable UTF-8 file.") from error
    if len(data) > _MAX_TEMPLATE_BYTES:
        raise ConfigError(f"--judge-template {path}: larger than {_MAX_TEMPLATE_BYTES} bytes.")
    template = JudgeTemplate(text)
    if missing := template.lacks(("question", "response")):
        raise ConfigError(f"--judge-template {path}: {' and '.join(missing)} missing; it must hold both.")
    return template
