"""Where engines, converted weights, logs and server state live on this machine.

The XDG folders: `~/.local/state/vlsb` for state and logs (0700), `~/.local/share/vlsb` for engines,
`~/.cache/vlsb` for converted weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of this user; none is created here."""

    state: Path
    engines: Path
    converted: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Places:
        """The folders that an environment names, by XDG's variables and defaults."""
        home = Path(environment.get("HOME") or Path.home())

        def below(variable: str, usual: str) -> Path:
            named = environment.get(variable, "")
            # XDG: a relative path is to be ignored.
            return (Path(named) if named.startswith("/") else home / usual) / "vlsb"

        return cls(
            state=below("XDG_STATE_HOME", ".local/state") / "servers",
            engines=below("XDG_DATA_HOME", ".local/share") / "engines",
            converted=below("XDG_CACHE_HOME", ".cache") / "converted",
        )
