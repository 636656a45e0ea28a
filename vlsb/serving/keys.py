"""Which of the user's variables hold secrets, and which variables a process that is not ours may see.

A variable is taken for a secret by its name alone, so a harmless one may be withheld: an engine misses none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vlsb.endpoints.secrets import Secret

_SECRET = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|(?:^|_)(?:PAT|PASS)_?[0-9]*$|_PWD_?[0-9]*$", re.IGNORECASE
)
# Settings that only sound like one: a switch of the hub's library, and whatever counts or makes tokens.
_NO_SECRET = re.compile(r"HF_HUB_DISABLE_IMPLICIT_TOKEN|TOKENIZERS_\w+|VLLM_(?:\w+_)?TOKENS(?:_\w+)?")
_HUB_ACCESS = frozenset({"HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"})
# A private package index: pip's and uv's own variables, and what their keyring plug-ins read.
_INDEX_ACCESS = re.compile(r"(?:PIP|UV|KEYRING|AWS|CODEARTIFACT|GOOGLE)_\w+")
# Endpoints that reset an engine and load other weights, objects that run code when they are read, and an
# engine that stays after its death to answer 500.
WITHHELD = frozenset(
    {"VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "VLLM_SERVER_DEV_MODE"}
)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name is taken to hold a secret, in whatever case it is written."""
    return bool(_SECRET.search(name)) and not _NO_SECRET.fullmatch(name)


def engine_environment(environment: Mapping[str, str], *, asks_hub: bool) -> dict[str, str]:
    """The environment for an engine's programs: no secrets and no open doors.

    The hub's token is there for one that `asks_hub` for its weights, and for no other.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in WITHHELD and (not is_secret_name(name) or (asks_hub and name in _HUB_ACCESS))
    }


def index_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The secrets that pip may need for a package index."""
    return {
        name: value
        for name, value in environment.items()
        if is_secret_name(name) and _INDEX_ACCESS.fullmatch(name)
    }


def secrets_of(environment: Mapping[str, str]) -> list[Secret]:
    """Every value that must not be seen in a log or a message."""
    return [Secret(value) for name, value in environment.items() if is_secret_name(name)]
