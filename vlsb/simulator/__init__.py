"""The one fake endpoint: chat completions over a real loopback socket, told what to do with each request.

A responder maps a `Request` to an `Action` (reply, cut, drip, stall, hang up, raw bytes, endless body). The
demo is served by it, and every test scripts it.
"""

from vlsb.simulator.actions import (
    Action,
    Cut,
    Drip,
    Endless,
    Hangup,
    Headers,
    Json,
    Raw,
    Reply,
    Responder,
    Stall,
    answer,
    blocked,
    error,
    is_whole,
    keeps_open,
    models,
    rate_limited,
    verdict,
    wire,
)
from vlsb.simulator.batches import BatchPlan
from vlsb.simulator.requests import Request
from vlsb.simulator.server import Simulator, SimulatorThread

__all__ = [
    "Action",
    "BatchPlan",
    "Cut",
    "Drip",
    "Endless",
    "Hangup",
    "Headers",
    "Json",
    "Raw",
    "Reply",
    "Request",
    "Responder",
    "Simulator",
    "SimulatorThread",
    "Stall",
    "answer",
    "blocked",
    "error",
    "is_whole",
    "keeps_open",
    "models",
    "rate_limited",
    "verdict",
    "wire",
]
