"""A key that every end-to-end test uses and that must be seen nowhere: no file, no output, no argument.

It is given to both lanes by name, as a user gives a key, so it travels in every request's header.
"""

from __future__ import annotations

from pathlib import Path

CANARY = "sk-CANARY-7f3b9e1c5a2d4680b1c7"
ENVIRONMENT = {
    "CANARY_KEY": CANARY,
    "VLSB_API_KEY_ENV": "CANARY_KEY",
    "VLSB_JUDGE_API_KEY_ENV": "CANARY_KEY",
}
NO_CANARY = dict.fromkeys(ENVIRONMENT, "")
"""For tests that are about a missing or another key."""


def assert_unseen(*texts: str) -> None:
    """No output shows the key, whole or but for its last characters."""
    assert not any(CANARY[:-4] in text for text in texts)


def files_that_show_it(folder: Path) -> list[Path]:
    """Every file below a folder that holds the key."""
    needle = CANARY[:-4].encode()
    regular = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in regular if needle in path.read_bytes()]
