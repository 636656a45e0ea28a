"""Keys: read from the environment once, shown to nobody.

A `Secret` prints as dots. A `Redactor` takes the keys of a run (and anything that looks like a key)
out of text that an endpoint wrote before it is stored or shown.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

from vlsb import strict_json
from vlsb.config import Endpoint, Party
from vlsb.errors import MissingKeyError
from vlsb.models.providers import AUTHORISING_HEADERS
from vlsb.records import Stage, Untrusted

REDACTED = "[redacted]"
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHORTEST_RUN = 20
# Shorter values occur in ordinary text; replacing them would damage answers and reveal little.
SHORTEST_SECRET = 12

_KEY_SHAPES = re.compile(
    r"(?:sk|pk|rk|gsk|xai|hf|key|api)[-_][A-Za-z0-9*_\-.]{12,}|AIza[0-9A-Za-z_\-]{20,}"
    r"|(?i:bearer)\s+[A-Za-z0-9._~+/=\-]{8,}"
)
_UNSAFE_IN_CODE = re.compile(r"[^a-z0-9_.\-]+")


def without_keys(text: str) -> str:
    """Return the text without anything shaped like a key."""
    return _KEY_SHAPES.sub(REDACTED, text)


def may_be_key(word: str) -> bool:
    """Tell whether a word of a command line is better not repeated: shaped like a key, or one long run."""
    is_long = re.fullmatch(r"[^/\s]{41,}", word) is not None
    is_mixed_run = re.fullmatch(r"[A-Za-z0-9]{20,}", word) is not None and any(map(str.isdigit, word))
    return is_long or is_mixed_run or _KEY_SHAPES.search(word) is not None


# In lines of ours names stand that only begin as keys do: a key has a run of letters and digits, and nothing
# before it.
_TYPED_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|gsk|xai|hf|key|api)[-_]"
    r"(?=[A-Za-z0-9*_\-.]*?(?=[A-Za-z]*[0-9])[A-Za-z0-9]{12})[A-Za-z0-9*_\-.]{12,}|AIza[0-9A-Za-z_\-]{20,})"
)
_RUN = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{20,}")
# A commit, a checksum.
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Mask:
    """Takes keys out of lines of ours, which repeat the `words` that a user typed.

    A key is what is shaped like one, what a variable of the `environment` holds that is named as secrets are,
    and a word that was typed and is one long run of letters and digits.
    """

    def __init__(self, words: Iterable[str], environment: Mapping[str, str]) -> None:
        words = [*words]
        named = [after for before, after in pairwise(words) if before.endswith("api-key-env")]
        named += [word.rpartition("=")[2] for word in words if "api-key-env=" in word]
        values = [each.reveal().strip() for each in secrets_of(environment)]
        values += [environment.get(name, "").strip() for name in named]
        # As in --model=KEY, hardened:KEY and folder/KEY.
        parts = {part for word in words for part in re.split(r"[=:/]", word)}
        typed = [part for part in parts if _RUN.search(part) and not _DIGEST.search(part)]
        # The path of a file of secrets is none.
        secret = (each for each in values if len(each) >= SHORTEST_SECRET and not each.startswith("/"))
        self._values = sorted({*secret, *typed}, key=len, reverse=True)

    def __call__(self, line: str) -> str:
        """Return the line without keys."""
        for value in self._values:
            line = line.replace(value, REDACTED)
        return _TYPED_KEY.sub(REDACTED, line)

    def holds(self, text: str) -> bool:
        """Tell whether a text has a key in it."""
        return self(text) != text


def is_variable_name(text: str) -> bool:
    """Tell whether a text can name a variable; False for what may be a key given in the place of its name.

    Keys begin as keys do, or are one long run; and mix letters with digits, or small ones with capitals.
    """
    is_mixed = any(map(str.isdigit, text)) or not (text.isupper() or text.islower())
    is_one_run = len(text) >= _SHORTEST_RUN and "_" not in text
    may_be_key = is_mixed and (is_one_run or _KEY_SHAPES.match(text) is not None)
    return _VARIABLE_NAME.fullmatch(text) is not None and not may_be_key


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A key or header value. `reveal` is for the transport alone."""

    _value: str

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What authorises an endpoint's requests: extra headers and, unless one of them does it, a bearer key."""

    bearer: Secret | None
    headers: tuple[tuple[str, Secret], ...] = ()

    def secrets(self) -> tuple[Secret, ...]:
        """Every value that must never be seen."""
        own = () if self.bearer is None else (self.bearer,)
        return own + tuple(value for _, value in self.headers)


def load_credentials(
    endpoint: Endpoint, environment: Mapping[str, str], stage: Stage = "target"
) -> Credentials:
    """Read an endpoint's key and header values; MissingKeyError names the variable that is not set."""
    party = Party(stage, endpoint)
    headers = tuple(
        (name, _read(variable, environment, f"{party}: header {name}", party.flag("header")))
        for name, variable in endpoint.headers
    )
    if endpoint.key_variable is None or any(name.lower() in AUTHORISING_HEADERS for name, _ in headers):
        return Credentials(bearer=None, headers=headers)
    return Credentials(
        _read(endpoint.key_variable, environment, str(party), party.flag("api-key-env")), headers
    )


def _read(variable: str, environment: Mapping[str, str], purpose: str, flag: str) -> Secret:
    value = environment.get(variable, "").strip()
    if not value:
        raise MissingKeyError(
            f"{purpose}: no key in {variable}", advice=f"Set it, or name its variable with {flag}."
        )
    if not value.isascii() or not value.isprintable():
        raise MissingKeyError(
            f"{purpose}: the value in {variable} cannot be sent in a header",
            advice=f"Set it again, or name another variable with {flag}.",
        )
    return Secret(value)


def safe_code(text: str) -> str:
    """A provider's code as a short word of harmless characters."""
    return _UNSAFE_IN_CODE.sub("_", text.lower())[:48].strip("_")


class Redactor:
    """Takes secrets out of strangers' text."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        values = {secret.reveal() for secret in secrets}
        self._values = sorted((v for v in values if len(v) >= SHORTEST_SECRET), key=len, reverse=True)

    def answer(self, text: Untrusted) -> Untrusted:
        """Return the text without this run's keys; anything else stays as the model wrote it."""
        raw = text.expose()
        keys = [value for value in self._values if value in raw]
        for value in keys:
            raw = raw.replace(value, REDACTED)
        return Untrusted(raw) if keys else text

    def message(self, text: Untrusted) -> Untrusted:
        """An error message without this run's keys and without anything shaped like a key."""
        return Untrusted(_KEY_SHAPES.sub(REDACTED, self._without_cut_key(self.answer(text).expose())))

    async def whole_lines(self, pieces: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[bytes]:
        """Yield pieces as whole lines, without this run's keys or more than a few letters of one.

        The last line has an end, whether it came with one or not. Raises ValueError for a line of more bytes.
        """
        rest = b""
        async for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > most_bytes:
                raise ValueError("a line is too large")
            if lines:
                yield b"".join(self._line(line) + b"\n" for line in lines)
        yield self._line(rest) + b"\n"

    def _line(self, line: bytes) -> bytes:
        """A line of JSON without keys; one that spells any with escapes is written again."""
        line = self._without_beginnings(line)
        if b"\\" in line:
            with suppress(ValueError):
                document = strict_json.loads(line)
                if (masked := self._masked(document)) != document:
                    return strict_json.dumps(masked).encode("ascii")
        return line

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            raw = value.encode("utf-8", "surrogatepass")
            return self._without_beginnings(raw).decode("utf-8", "surrogatepass")
        if isinstance(value, dict):
            return {self._masked(name): self._masked(each) for name, each in value.items()}
        return [self._masked(each) for each in value] if isinstance(value, list) else value

    def _without_beginnings(self, raw: bytes) -> bytes:
        for value in self._values:
            secret = value.encode("ascii")
            before, *others = raw.split(secret[:SHORTEST_SECRET])
            for each in others:
                pairs = zip(secret[SHORTEST_SECRET:], each, strict=False)
                more = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
                before += REDACTED.encode("ascii") + each[more:]
            raw = before
        return raw

    def word(self, text: str) -> str:
        """A provider's code or field name; `redacted` if it holds a key, whole or cut, in any case."""
        keys = [safe_code(value)[:24] for value in self._values]
        return "redacted" if any(each and each in safe_code(text) for each in keys) else text

    def _without_cut_key(self, raw: str) -> str:
        """Messages are quoted by their start: the cut may have left most of a key at the end."""
        for value in self._values:
            for length in range(len(value) - 1, SHORTEST_SECRET - 1, -1):
                if raw.endswith(value[:length]):
                    return raw[:-length] + REDACTED
        return raw


_SECRET = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|(?:^|_)(?:PAT|PASS)_?[0-9]*$|_PWD_?[0-9]*$", re.IGNORECASE
)
# Settings that only sound like one: a switch of the hub's library, and whatever counts or makes tokens.
_NO_SECRET = re.compile(r"HF_HUB_DISABLE_IMPLICIT_TOKEN|TOKENIZERS_\w+|VLLM_(?:\w+_)?TOKENS(?:_\w+)?")
_HUB_ACCESS = frozenset({"HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"})
# A private package index: uv's own variables, and what keyring plug-ins read.
_INDEX_ACCESS = re.compile(r"(?:UV|KEYRING|AWS|CODEARTIFACT|GOOGLE)_\w+")
# Endpoints that reset an engine and load other weights, objects that run code when they are read, and an
# engine that stays after its death to answer 500.
WITHHELD = frozenset(
    {"VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "VLLM_SERVER_DEV_MODE"}
)


def is_secret_name(name: str) -> bool:
    """Tell whether a variable of this name is taken to hold a secret, in whatever case it is written."""
    return bool(_SECRET.search(name)) and not _NO_SECRET.fullmatch(name)


def engine_environment(environment: Mapping[str, str], *, asks_hub: bool) -> dict[str, str]:
    """Return the environment for an engine's programs: no secrets and no open doors.

    The hub's token is there for one that `asks_hub` for its weights, and for no other.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in WITHHELD and (not is_secret_name(name) or (asks_hub and name in _HUB_ACCESS))
    }


def index_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets that uv may need for a package index."""
    return {
        name: value
        for name, value in environment.items()
        if is_secret_name(name) and _INDEX_ACCESS.fullmatch(name)
    }


def secrets_of(environment: Mapping[str, str]) -> list[Secret]:
    """Every value that must not be seen in a log or a message."""
    return [Secret(value) for name, value in environment.items() if is_secret_name(name)]
