"""How much of an enforced limit a run uses, how often it is told to slow down, how fast it comes back.

    python -m benchmarks.rate_limits [--minutes 4] [--rpm 1200] [--tpm 1000000] [--without-headers]

Target and judge are one endpoint that serves so many requests, or tokens, a minute (fixed windows) and
answers the rest with 429; latency is lognormal around half a second. The first minute is warm-up and
reported apart. Three runs go side by side: against a limit of requests, against a limit of tokens whose
size only `usage` tells, and against a limit of requests with an outage of a minute in the middle.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import vlsb
from benchmarks import results
from benchmarks.data import Size, make_data
from benchmarks.results import Target
from vlsb.endpoints.demo import demo_responder
from vlsb.endpoints.simulator import (
    Action,
    RateLimit,
    Reply,
    Request,
    Responder,
    Simulator,
    rate_limited,
)

NAME = "rate_limits"
TINY_PICTURE_BYTES = 48
LATENCY = (0.5, 0.4)
FEWEST_TOKENS, MOST_TOKENS = 400, 1600
LEAST_RPM, LEAST_TPM, LEAST_RECOVERED = 0.97, 0.90, 0.95
MOST_REFUSED = 0.005
# A rate is counted over so many seconds; shorter ones are as uneven as the latencies.
RATE_OVER_S = 10.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things last; the tests shrink all of it alike."""

    window_s: float = 60.0
    outage_s: float = 60.0
    recovery_s: float = 30.0


@dataclass
class TokenLimit:
    """A responder that serves so many tokens a minute, as counted by the replies it is about to give.

    A request that would not fit into what is left of the window is answered with 429. Pictures cost
    different numbers of tokens, by the request's identity, so only the average can be learned.
    """

    responder: Responder
    tpm: int
    says_limits: bool
    window_s: float
    served: list[tuple[float, int]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    _began: float = 0.0
    _used: int = 0

    async def __call__(self, request: Request) -> Action:
        now = request.received_at
        self._turn(now)
        action = self.responder(request)
        reply = await action if isinstance(action, Awaitable) else action
        assert isinstance(reply, Reply)
        assert isinstance(reply.body, dict)
        usage = _usage(request, reply.body)
        if self._used + usage["total_tokens"] > self.tpm:
            self.refused.append(now)
            return replace(rate_limited(), headers=self._headers(now))
        self._used += usage["total_tokens"]
        self.served.append((now, usage["total_tokens"]))
        return replace(reply, body={**reply.body, "usage": usage}, headers=self._headers(now))

    def _turn(self, now: float) -> None:
        """Windows begin with the first request and follow each other on its beat."""
        if not self.served and not self.refused:
            self._began = now
        passed = int((now - self._began) / self.window_s)
        if passed > 0:
            self._began += passed * self.window_s
            self._used = 0

    def _headers(self, now: float) -> tuple[tuple[str, str], ...]:
        if not self.says_limits:
            return ()
        return (
            ("x-ratelimit-limit-tokens", str(self.tpm)),
            ("x-ratelimit-remaining-tokens", str(self.tpm - self._used)),
            ("x-ratelimit-reset-tokens", f"{self._began + self.window_s - now:.3f}s"),
        )


def _usage(request: Request, body: Mapping[str, Any]) -> dict[str, int]:
    draw = int.from_bytes(hashlib.sha256(request.identity.encode()).digest()[:8])
    tokens = FEWEST_TOKENS + draw % (MOST_TOKENS - FEWEST_TOKENS)
    output = body["usage"]["completion_tokens"]
    return {"prompt_tokens": tokens, "completion_tokens": output, "total_tokens": tokens + output}


async def run_against(
    responder: Responder, *, rows: int, meanwhile: Callable[[Simulator], Awaitable[None]]
) -> None:
    """Keep a run of `rows` going against the responder until `meanwhile` is over."""
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        root = Path(folder)
        make_data(root / "data", Size(rows, 1, TINY_PICTURE_BYTES))
        async with Simulator(responder, keep_bodies=False) as simulator:
            evaluation = vlsb.evaluate(
                "demo",
                base_url=simulator.base_url,
                judge="demo",
                judge_base_url=simulator.base_url,
                data_root=root / "data",
                output_dir=root / "out",
            )
            work = asyncio.create_task(evaluation)
            await meanwhile(simulator)
            if work.done():
                work.result()
                raise SystemExit("The run ended before the measurement: it needs more rows.")
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def _persona() -> Responder:
    return demo_responder(latency=LATENCY, has_rate_limits=False)


async def against_rpm(*, rpm: int, minutes: float, says_limits: bool, timing: Timing) -> dict[str, float]:
    """A limit of requests for so many minutes."""
    limit = RateLimit(_persona(), rpm=rpm, says_limits=says_limits, window_s=timing.window_s)
    rows = int(rpm * (minutes + 2))
    await run_against(limit, rows=rows, meanwhile=lambda _: asyncio.sleep(timing.window_s * minutes))
    served = [(at, 1) for at in limit.served]
    return figures(served, limit.refused, permitted=rpm, minutes=minutes, window_s=timing.window_s)


async def against_tpm(*, tpm: int, minutes: float, says_limits: bool, timing: Timing) -> dict[str, float]:
    """A limit of tokens for so many minutes."""
    limit = TokenLimit(_persona(), tpm=tpm, says_limits=says_limits, window_s=timing.window_s)
    rows = int(tpm / FEWEST_TOKENS * (minutes + 2))
    await run_against(limit, rows=rows, meanwhile=lambda _: asyncio.sleep(timing.window_s * minutes))
    return figures(limit.served, limit.refused, permitted=tpm, minutes=minutes, window_s=timing.window_s)


def figures(
    served: Sequence[tuple[float, int]],
    refused: Sequence[float],
    *,
    permitted: int,
    minutes: float,
    window_s: float,
) -> dict[str, float]:
    """Shares of what was permitted, before and after the warm-up; `served` are (moment, units)."""
    began = served[0][0]
    warm, end = began + window_s, began + window_s * minutes
    answered = sum(warm <= at < end for at, _ in served)
    used = sum(units for at, units in served if warm <= at < end)
    turned_away = sum(warm <= at < end for at in refused)
    return {
        "used_share": used / (permitted * (minutes - 1)),
        "refused_share": turned_away / max(1, answered + turned_away),
        "requests": answered,
        "first_minute_used_share": sum(units for at, units in served if at < warm) / permitted,
        "first_minute_refused": sum(at < warm for at in refused),
    }


async def through_outage(*, rpm: int, says_limits: bool, timing: Timing) -> dict[str, float]:
    """A limit of requests, and an endpoint that is gone for a while; what it serves afterwards."""
    limit = RateLimit(_persona(), rpm=rpm, says_limits=says_limits, window_s=timing.window_s)
    back_at = 0.0

    async def fail(simulator: Simulator) -> None:
        nonlocal back_at
        await asyncio.sleep(1.5 * timing.window_s)
        simulator.refuse(reset=True)
        await asyncio.sleep(timing.outage_s)
        simulator.accept()
        back_at = asyncio.get_running_loop().time()
        await asyncio.sleep(2 * timing.recovery_s + RATE_OVER_S)

    rows = int(rpm * (1.5 + (timing.outage_s + 2 * timing.recovery_s) / timing.window_s + 2))
    await run_against(limit, rows=rows, meanwhile=fail)
    return recovery([at - back_at for at in limit.served], rpm=rpm, timing=timing)


def recovery(served: Sequence[float], *, rpm: int, timing: Timing) -> dict[str, float]:
    """The rate after the outage, which ended at 0, as shares of the limit."""
    per_s = rpm / timing.window_s

    def share(begin: float, seconds: float) -> float:
        return sum(begin <= at < begin + seconds for at in served) / (per_s * seconds)

    moments = [at for at in served if 0 <= at <= 2 * timing.recovery_s]
    recovered = (at for at in moments if share(at, RATE_OVER_S) >= LEAST_RECOVERED)
    return {
        "first_answer_s": moments[0] if moments else -1.0,
        "recovered_after_s": next(recovered, -1.0),
        "share_after_recovery_time": share(timing.recovery_s, timing.recovery_s),
    }


async def measure(chosen: argparse.Namespace, timing: Timing) -> dict[str, dict[str, float]]:
    """The three runs, side by side: together they keep a core busy for a tenth of the time."""
    says = not chosen.without_headers
    runs = {
        "rpm": against_rpm(rpm=chosen.rpm, minutes=chosen.minutes, says_limits=says, timing=timing),
        "tpm": against_tpm(tpm=chosen.tpm, minutes=chosen.minutes, says_limits=says, timing=timing),
        "outage": through_outage(rpm=chosen.rpm, says_limits=says, timing=timing),
    }
    wanted = chosen.scenarios.split(",")
    found = await asyncio.gather(*(run for name, run in runs.items() if name in wanted))
    for name, run in runs.items():
        if name not in wanted:
            run.close()
    return dict(zip((name for name in runs if name in wanted), found, strict=True))


def targets(found: Mapping[str, Mapping[str, float]], timing: Timing) -> list[Target]:
    """The claims about limits, for the scenarios that were run."""
    said = []
    for name, least, unit in (("rpm", LEAST_RPM, "requests"), ("tpm", LEAST_TPM, "tokens")):
        if name in found:
            used, refused = found[name]["used_share"], found[name]["refused_share"]
            claim = f"at least {least:.0%} of the permitted {unit} a minute used, once warmed up"
            said.append(Target(claim, f"{used:.1%}", used >= least))
            claim = f"under {MOST_REFUSED:.1%} of them answered 429 (limit of {unit})"
            said.append(Target(claim, f"{refused:.2%}", refused < MOST_REFUSED))
    if "outage" in found:
        after_s = found["outage"]["recovered_after_s"]
        claim = (
            f"{LEAST_RECOVERED:.0%} of the limit again within {timing.recovery_s:g} s "
            f"after an outage of {timing.outage_s:g} s"
        )
        shown = "never" if after_s < 0 else f"after {after_s:.0f} s"
        said.append(Target(claim, shown, 0 <= after_s <= timing.recovery_s))
    return said


def render(result: Mapping[str, Any]) -> str:
    """Targets, and every figure."""
    rows = [
        (f"{scenario}: {name.replace('_', ' ')}", f"{value:.3f}" if value % 1 else f"{value:.0f}")
        for scenario, values in result["scenarios"].items()
        for name, value in values.items()
    ]
    headers = "with" if result["says_limits"] else "without"
    said = f"{result['rpm']} requests or {result['tpm']:,} tokens a minute, {headers} limit headers."
    return "\n\n".join(
        (results.target_table(result["targets"]), said, results.table(("figure", "value"), rows))
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rpm", type=int, default=1200)
    parser.add_argument("--tpm", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--scenarios", default="rpm,tpm,outage")
    parser.add_argument("--without-headers", action="store_true")
    parser.add_argument("--window", type=float, default=60.0, help="Seconds that a minute lasts, for a try.")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    timing = Timing(chosen.window, chosen.window, chosen.window / 2)
    found = asyncio.run(measure(chosen, timing))
    result = {
        "rpm": chosen.rpm,
        "tpm": chosen.tpm,
        "says_limits": not chosen.without_headers,
        "scenarios": found,
        "targets": results.as_fields(targets(found, timing)),
    }
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
