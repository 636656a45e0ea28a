"""Who an error is about, as users know them: the side of the run, its model, its address, its options.

An address is a host and a port: a path may hold a deployment's name, and never helps to recognise it.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from vlsb.config import Endpoint
from vlsb.records import Stage

SIMULATED_URL = "simulator:"
"""Stands for the simulator's address, which exists only while a run is going."""


class Party(NamedTuple):
    """The target or the judge of a run. As text: `judge gpt-4o at api.openai.com`."""

    stage: Stage
    endpoint: Endpoint

    def __str__(self) -> str:
        model, url = self.endpoint.model, self.endpoint.base_url
        where = "in the simulator" if url == SIMULATED_URL else f"at {urlsplit(url).netloc}"
        # Before the endpoint has said which model it has, there is no name.
        return " ".join(filter(None, (self.stage, model, where)))

    def flag(self, name: str) -> str:
        """An option of this side: for a judge, `model` is --judge and `base-url` --judge-base-url."""
        if self.stage == "target":
            return f"--{name}"
        return "--judge" if name == "model" else f"--judge-{name}"
