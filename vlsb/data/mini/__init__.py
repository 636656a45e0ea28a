"""Where the embedded mini set lies; README.md beside this file says what it is."""

from importlib.resources import files
from pathlib import Path


def mini_root() -> Path:
    """Return the folder of the mini set, in the layout that `load_dataset` reads."""
    # The package is always installed unpacked, so its resources are plain files.
    return Path(str(files("vlsb.data.mini")))
