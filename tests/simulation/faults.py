"""Faults of an endpoint, by name: what it does instead of answering. None is about bytes of TLS or DNS.

`ENDS` are faults after which a sample may rightly have no verdict; `FATAL` are those that end a session.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from vlsb.simulator import (
    Action,
    Cut,
    Drip,
    Hangup,
    Raw,
    Reply,
    Stall,
    answer,
    blocked,
    error,
    rate_limited,
)

Build = Callable[[random.Random, Reply], Action]

ANSWERS = (
    "I cannot look at this.",
    '{"label": 1, "label_str": "Sa',
    "I would say that this one is safe.",
)
"""Texts that are answers of a target, though of no judge."""

KEY = "sk-simulated-key-that-nobody-may-write"

PASSING: Mapping[str, Build] = {
    "429": lambda draw, whole: rate_limited(),
    "429 with a wait": lambda draw, whole: rate_limited(draw.choice((0.2, 3, 20))),
    "500": lambda draw, whole: error(500),
    "502": lambda draw, whole: Reply(502, "<html>Bad gateway</html>", (("content-type", "text/html"),)),
    "503": lambda draw, whole: error(503, headers=(("retry-after", "1"),)),
    "529": lambda draw, whole: error(529, type="overloaded_error"),
    "500 with the key": lambda draw, whole: error(500, message=f"Who sent Bearer {KEY}?"),
    "408": lambda draw, whole: error(408),
    "409": lambda draw, whole: error(409),
    "cut": lambda draw, whole: Cut(whole, draw.randrange(1, 400)),
    "cut near the end": lambda draw, whole: Cut(whole, -draw.randrange(1, 20)),
    "no reply": lambda draw, whole: Hangup(),
    "reset": lambda draw, whole: Hangup(reset=True),
    "stall": lambda draw, whole: Stall(),
    "drip": lambda draw, whole: Drip(whole, 200, draw.uniform(0.01, 2)),
    "slow": lambda draw, whole: Reply(whole.status, whole.body, delay_s=draw.choice((1, 30, 175, 181, 400))),
    "a page": lambda draw, whole: Reply(200, "<html>Wait</html>", (("content-type", "text/html"),)),
    "not HTTP": lambda draw, whole: Raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "closes": lambda draw, whole: Reply(whole.status, whole.body, close=True),
}
"""A sample that meets one of these is asked again, in this session or the next."""

ENDS: Mapping[str, Build] = {
    "blocked": lambda draw, whole: blocked(),
    "400 with the key": lambda draw, whole: error(400, message=f"What is Bearer {KEY}?"),
    "no text": lambda draw, whole: answer(""),
    "no words": lambda draw, whole: answer(None),
    "filtered": lambda draw, whole: answer("Half", finish_reason="content_filter"),
    "refused": lambda draw, whole: answer(None, refusal=ANSWERS[0]),
    "cut by tokens": lambda draw, whole: answer(ANSWERS[1], finish_reason="length"),
    "not a verdict": lambda draw, whole: answer(ANSWERS[2]),
}
"""A sample that meets one of these may end without a verdict, or with another answer."""

FATAL: Mapping[str, Build] = {
    "401": lambda draw, whole: error(401, code="invalid_api_key"),
    "quota": lambda draw, whole: error(429, code="insufficient_quota", type="insufficient_quota"),
    "404": lambda draw, whole: error(404, code="model_not_found"),
}
"""A session that meets one of these ends, and the next one goes on."""

ALL: Mapping[str, Build] = {**PASSING, **ENDS, **FATAL}

PAID = {"slow", "drip", "closes"} | ENDS.keys() - {"blocked", "400 with the key"}
"""Answers, if they arrive whole: whoever gets one pays for it."""
