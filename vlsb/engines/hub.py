"""Checkpoints from the Hugging Face hub, through the hub's own library and cache.

Only for what is converted here: any other hub id is the engine's to download. `HF_HOME`, `HF_ENDPOINT`,
`HF_TOKEN` and `HF_HUB_OFFLINE` are the library's, which reads them when it is imported: inside the functions
here, and nowhere else.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vlsb.errors import AuthenticationError, ConfigError, StoreError, VlsbError
from vlsb.hub import bar_class, is_connection_fault, quiet, reason
from vlsb.steps import OnProgress, Step

_PROBE_TIMEOUT_S = 10.0
_SMALL_FILES = ("*.json", "tokenizer.model")
# Safetensors win: they need no unpickling. The projector alone (`mm_projector.bin`) is in the whole weights.
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def wanted_files(names: Sequence[str]) -> list[str]:
    """Which files of a repository make a checkpoint: configs, tokenizer and one form of the weights."""
    top = [name for name in names if "/" not in name]
    weights = [[name for name in top if fnmatchcase(name, form)] for form in _WEIGHTS]
    small = [name for name in top if any(fnmatchcase(name, form) for form in _SMALL_FILES)]
    return small + next((found for found in weights if found), [])


def fetch_checkpoint(
    repository: str, revision: str | None, *, offline: bool, on_progress: OnProgress
) -> Path:
    """Download a checkpoint, or find it in the cache, and return its folder. Blocking.

    What is cached is used when the hub cannot be reached. `on_progress` is not always called from this
    thread.
    """
    from huggingface_hub import constants

    with quiet():
        if offline or constants.is_offline_mode():
            return _cached(repository, revision) or _refuse_offline(repository, revision)
        try:
            return _downloaded(repository, revision, on_progress)
        # The library lets the errors of its HTTP stack out, which only the transport room may know by name.
        except Exception as error:
            if is_connection_fault(error) and (cached := _cached(repository, revision)):
                return cached
            if known := translated(error, repository, revision):
                raise known from error
            raise


def _downloaded(repository: str, revision: str | None, on_progress: OnProgress) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    known = HfApi().model_info(repository, revision=revision, timeout=_PROBE_TIMEOUT_S)
    names = wanted_files([each.rfilename for each in known.siblings or ()])
    if "config.json" not in names:
        raise ConfigError(f"{repository} on the Hugging Face Hub is not a checkpoint: it has no config.json.")

    def bar(name: str) -> Any:
        return bar_class(
            lambda done, total: on_progress(Step("downloading", f"{repository}/{name}", done, total))
        )

    # By the revision's own name, so that the cache knows later which commit it was. A branch may move
    # between two files, so the others are that commit's: .../snapshots/<commit>/config.json.
    config = hf_hub_download(repository, "config.json", revision=revision, tqdm_class=bar("config.json"))
    folder = Path(config).parent
    for name in names:
        hf_hub_download(repository, name, revision=folder.name, tqdm_class=bar(name))
    return folder


def _cached(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(repository, "config.json", revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    # Parts that are missing there are named by whoever reads the checkpoint.
    return Path(config).parent


def _refuse_offline(repository: str, revision: str | None) -> Path:
    from huggingface_hub import constants

    at = f" at revision {revision}" if revision else ""
    raise ConfigError(
        f"{repository}{at} is not in the Hugging Face cache ({constants.HF_HUB_CACHE}), and the Hub is "
        "switched off (--offline or HF_HUB_OFFLINE). Start once with a network, or pass a folder."
    )


def translated(error: Exception, repository: str, revision: str | None) -> VlsbError | None:
    """The one line for what the library raised, or None for what is no fault of hub, network or disk."""
    from huggingface_hub import constants, errors

    where = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return AuthenticationError(
            f"{where} is gated: accept its terms on that page, then set HF_TOKEN to a token of that account."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(f"{where} has no revision {revision!r}. Leave it out for the newest.")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ConfigError(
            f"{where} does not exist, or is private: check the name, or set HF_TOKEN to a token that may "
            "read it."
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return AuthenticationError(f"{where}: access refused. Set HF_TOKEN to a token that may read it.")
    if is_connection_fault(error):
        return ConfigError(
            f"{where} cannot be reached ({reason(error)}), and it is not in {constants.HF_HUB_CACHE}. Try "
            "again later, or pass a folder."
        )
    if isinstance(error, UserWarning) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"no room for {repository} in {constants.HF_HUB_CACHE}. Make room, or set HF_HOME.")
    if isinstance(error, OSError):
        return ConfigError(f"{where}: the download failed ({reason(error)}). Start again.")
    return None
