"""Which of the user's variables hold keys, and which variables an engine may not see."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vlsb.endpoints.secrets import Secret

SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)
# For weights: from the hub, or from a bucket.
_ENGINES_OWN = re.compile(r"HF_TOKEN|HUGGING_FACE_HUB_TOKEN|AWS_\w+")
# Endpoints that reset an engine and load other weights, objects that run code when they are read, and an
# engine that stays after its death to answer 500.
WITHHELD = frozenset(
    {"VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "VLLM_SERVER_DEV_MODE"}
)


def engine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what is no engine's business: keys of judges and providers, and open doors."""
    return {
        name: value
        for name, value in environment.items()
        if name not in WITHHELD and (_ENGINES_OWN.fullmatch(name) or not SECRET_NAME.search(name))
    }


def secrets_of(environment: Mapping[str, str]) -> list[Secret]:
    """Every value that must not be seen in a log or a message."""
    return [Secret(value) for name, value in environment.items() if SECRET_NAME.search(name)]
