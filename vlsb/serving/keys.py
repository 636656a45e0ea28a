"""Which of the user's variables hold keys, and which of those an engine may see."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vlsb.endpoints.secrets import Secret

SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)S?$", re.IGNORECASE)
# For weights: from the hub, or from a bucket.
_ENGINES_OWN = re.compile(r"HF_TOKEN|HUGGING_FACE_HUB_TOKEN|AWS_\w+")


def engine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without keys that are no engine's business: those of judges and providers."""
    return {
        name: value
        for name, value in environment.items()
        if _ENGINES_OWN.fullmatch(name) or not SECRET_NAME.search(name)
    }


def secrets_of(environment: Mapping[str, str]) -> list[Secret]:
    """Every value that must not be seen in a log or a message."""
    return [Secret(value) for name, value in environment.items() if SECRET_NAME.search(name)]
