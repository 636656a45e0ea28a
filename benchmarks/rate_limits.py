"""How much of an enforced limit a run uses, and how often it is told to slow down.

    python -m benchmarks.rate_limits [--cells bucket,nginx] [--at-once 1] [--rows 2241]

Each cell is one run of the public command over a set of full size: target `gpt-4o`, judge
`gpt-4o-2024-08-06`, two variables with one key. The endpoint enforces 3,000 requests a minute (or as many
tokens), Debian's nginx 60 requests a second; latency is lognormal around half a second. Used is what was
accepted of what an ideal client could have sent between the first and the last accepted request: the rate
times that, and a bucket's burst once. The nginx cells send images of real size.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.data import DATA, IMAGE_BYTES, IMAGES, ROWS, Size, make_data
from benchmarks.results import Target
from tests.support.limiters import (
    FixedWindow,
    LeakyBucket,
    Limiter,
    SlidingWindow,
    TokenBucket,
    WithStranger,
)
from vlsb.simulator import Action, Reply, Request, Responder, Simulator, rate_limited
from vlsb.simulator.demo import demo_responder

NAME = "rate_limits"
RPM = 3000
BURST = 50
STRANGER_PER_S = RPM / 3 / 60
MEAN_TOKENS = 1000
TINY_IMAGE_BYTES = 48
LATENCY = (0.5, 0.4)
NGINX_PER_S, NGINX_BURST = 60, 20
# Of the permitted requests used, and answered 429, at least and at most.
WITH_HEADERS, BESIDE_STRANGER, WITHOUT_HEADERS = (0.97, 0.005), (0.97, 0.02), (0.90, 0.03)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: the limiters of target and judge (the same one for both, or one each), and what is said."""

    limiters: Callable[[], Sequence[Limiter]]
    goal: tuple[float, float]
    says: bool = True
    in_tokens: bool = False
    burst: float = 0.0
    share: float = 1.0
    nginx: str = ""
    words: tuple[str, ...] = ()


def _alone(make: Callable[[], Limiter]) -> Callable[[], Sequence[Limiter]]:
    return lambda: (make(),)


def _bucket() -> Limiter:
    return TokenBucket(RPM, burst=BURST)


def _tokens() -> Limiter:
    return TokenBucket(RPM * MEAN_TOKENS, burst=BURST * MEAN_TOKENS)


def _fixed() -> Limiter:
    return FixedWindow(RPM)


def _nginx_bucket() -> Limiter:
    return TokenBucket(NGINX_PER_S * 60, burst=NGINX_BURST + 1)


_SILENT = {"goal": WITHOUT_HEADERS, "says": False}
_STRANGER = {"share": 2 / 3}
_64 = ("--max-connections", "64", "--judge-max-connections", "64")
CELLS: dict[str, Cell] = {
    "bucket": Cell(_alone(_bucket), WITH_HEADERS, burst=BURST),
    "separate": Cell(lambda: (_bucket(), _bucket()), WITH_HEADERS, burst=BURST),
    "windows": Cell(_alone(_fixed), WITH_HEADERS),
    "sliding": Cell(_alone(lambda: SlidingWindow(RPM)), WITH_HEADERS),
    "stranger": Cell(
        _alone(lambda: WithStranger(_bucket(), STRANGER_PER_S)), BESIDE_STRANGER, burst=BURST, **_STRANGER
    ),
    "stranger in windows": Cell(
        _alone(lambda: WithStranger(_fixed(), STRANGER_PER_S)), BESIDE_STRANGER, **_STRANGER
    ),
    "tokens": Cell(_alone(_tokens), WITH_HEADERS, in_tokens=True, burst=BURST * MEAN_TOKENS),
    "silent bucket": Cell(_alone(_bucket), burst=BURST, **_SILENT),
    "silent separate": Cell(lambda: (_bucket(), _bucket()), burst=BURST, **_SILENT),
    "silent windows": Cell(_alone(_fixed), **_SILENT),
    "silent sliding": Cell(_alone(lambda: SlidingWindow(RPM)), **_SILENT),
    "silent leaky": Cell(_alone(lambda: LeakyBucket(RPM, burst=BURST)), burst=BURST, **_SILENT),
    "silent stranger": Cell(
        _alone(lambda: WithStranger(_bucket(), STRANGER_PER_S)), burst=BURST, **_SILENT, **_STRANGER
    ),
    "silent tokens": Cell(_alone(_tokens), in_tokens=True, burst=BURST * MEAN_TOKENS, **_SILENT),
    "nginx nodelay": Cell(_alone(_nginx_bucket), burst=NGINX_BURST + 1, nginx=" nodelay", **_SILENT),
    "nginx nodelay 64": Cell(
        _alone(_nginx_bucket), burst=NGINX_BURST + 1, nginx=" nodelay", words=_64, **_SILENT
    ),
    "nginx": Cell(_alone(_nginx_bucket), burst=NGINX_BURST + 1, nginx=" ", **_SILENT),
    "nginx 64": Cell(_alone(_nginx_bucket), burst=NGINX_BURST + 1, nginx=" ", words=_64, **_SILENT),
}


@dataclass
class Limited:
    """A responder behind limiters, that counts what it let through."""

    cell: Cell
    responder: Responder
    limiters: Sequence[Limiter]
    served: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0

    async def __call__(self, request: Request) -> Action:
        action = self.responder(request)
        reply = await action if isinstance(action, Awaitable) else action
        assert isinstance(reply, Reply)
        units, reply = self._priced(request, reply)
        if self.cell.nginx:
            self.served.append((request.received_at, units))
            return reply
        limiter = self.limiters[-1 if request.is_judge else 0]
        held_s = limiter.admit(request.received_at, units)
        headers = self._headers(limiter, request.received_at)
        if held_s is None:
            self.refused += 1
            return replace(rate_limited(), headers=headers)
        self.served.append((request.received_at, units))
        return replace(reply, headers=headers, delay_s=reply.delay_s + held_s)

    def _priced(self, request: Request, reply: Reply) -> tuple[float, Reply]:
        """Images cost different numbers of tokens, so only the average can be learned."""
        if not self.cell.in_tokens:
            return 1.0, reply
        draw = int.from_bytes(hashlib.sha256(request.identity.encode()).digest()[:8])
        tokens = MEAN_TOKENS * 2 // 5 + draw % (MEAN_TOKENS * 6 // 5)
        usage = {"prompt_tokens": tokens - 40, "completion_tokens": 40, "total_tokens": tokens}
        assert isinstance(reply.body, dict)
        return tokens, replace(reply, body={**reply.body, "usage": usage})

    def _headers(self, limiter: Limiter, now: float) -> tuple[tuple[str, str], ...]:
        if not self.cell.says:
            return ()
        kind = "tokens" if self.cell.in_tokens else "requests"
        return (
            (f"x-ratelimit-limit-{kind}", f"{limiter.limit:.0f}"),
            (f"x-ratelimit-remaining-{kind}", str(int(limiter.remaining(now)))),
            (f"x-ratelimit-reset-{kind}", f"{limiter.reset_s(now):.3f}s"),
        )


async def run_cell(cell: Cell, data: Path) -> dict[str, float]:
    """One run of the public command against one cell."""
    limited = Limited(cell, demo_responder(latency=LATENCY, has_rate_limits=False), cell.limiters())
    async with AsyncExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="vlsb-bench-")))
        simulator = await held.enter_async_context(Simulator(limited, keep_bodies=False))
        origin = simulator.base_url
        if cell.nginx:
            origin = await held.enter_async_context(_nginx(folder, simulator.base_url, cell.nginx.strip()))
        words = [
            *(sys.executable, "-m", "vlsb", "run", "--display", "none", "--name", "run"),
            *("--model", "gpt-4o", "--base-url", origin, "--api-key-env", "FIRST_KEY"),
            *(
                "--judge",
                "gpt-4o-2024-08-06",
                "--judge-base-url",
                origin,
                "--judge-api-key-env",
                "SECOND_KEY",
            ),
            *("--data-root", str(data), "--output-dir", str(folder / "out"), *cell.words),
        ]
        account = "one-key-of-one-account"
        keys = {"FIRST_KEY": account, "SECOND_KEY": account if len(limited.limiters) == 1 else "another-key"}
        process = await asyncio.create_subprocess_exec(
            *words,
            env={**os.environ, **keys},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise SystemExit(f"The run ended with {process.returncode}:\n{said.decode()}")
        refused = limited.refused
        if cell.nginx:
            statuses = (folder / "access.log").read_text().split()
            refused = statuses.count("429")
    return figures(cell, limited.served, refused)


def figures(cell: Cell, served: Sequence[tuple[float, float]], refused: int) -> dict[str, float]:
    """What was used of the permitted, and refused of the sent; `served` are (moment, units)."""
    moments = [moment for moment, _ in served]
    span_s = max(moments) - min(moments)
    limiters = cell.limiters()
    per_s = sum(each.limit / each.period_s for each in limiters) * cell.share
    permitted = per_s * span_s + cell.burst * len(limiters)
    return {
        "used_share": sum(units for _, units in served) / permitted,
        "refused_share": refused / (len(served) + refused),
        "refused": refused,
        "seconds": span_s,
        "ideal_seconds": max(0.0, (sum(units for _, units in served) - cell.burst * len(limiters)) / per_s),
    }


NGINX = """
daemon off;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_max_body_size 20m; client_body_buffer_size 4m;
  log_format status '$status'; access_log {folder}/access.log status;
  limit_req_zone $binary_remote_addr zone=all:1m rate={per_s}r/s;
  limit_req_status 429;
  server {{
    listen 127.0.0.1:{port};
    location / {{ limit_req zone=all burst={burst}{nodelay}; proxy_pass {upstream}; proxy_read_timeout 300; }}
  }}
}}
"""


@asynccontextmanager
async def _nginx(folder: Path, upstream: str, nodelay: str) -> AsyncIterator[str]:
    """nginx on a free port in front of the simulator; its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.format(
            folder=folder,
            port=port,
            per_s=NGINX_PER_S,
            burst=NGINX_BURST,
            nodelay=f" {nodelay}" if nodelay else "",
            upstream=upstream.removesuffix("/v1"),
        )
    )
    process = await asyncio.create_subprocess_exec(_nginx_program(), "-c", str(config), "-p", str(folder))
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


def _nginx_program() -> str:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""


async def measure(names: Sequence[str], *, rows: int, at_once: int) -> dict[str, dict[str, float]]:
    """The cells, so many at a time; those that need an nginx that is not here are left out."""
    small = make_data(DATA / f"rates-{rows}", Size(rows, min(rows, IMAGES), TINY_IMAGE_BYTES))
    turns = asyncio.Semaphore(at_once)

    async def one(name: str) -> tuple[str, dict[str, float]]:
        async with turns:
            cell, data = CELLS[name], small
            if cell.nginx:
                data = make_data(DATA, Size(rows, min(rows, IMAGES), IMAGE_BYTES)) if rows == ROWS else small
            found = await run_cell(cell, data)
            print(name, {key: round(value, 4) for key, value in found.items()}, file=sys.stderr, flush=True)
            return name, found

    there = [name for name in names if not CELLS[name].nginx or _nginx_program()]
    for name in set(names) - set(there):
        print(f"{name}: no nginx here, left out (apt-get install nginx).", file=sys.stderr)
    return dict(await asyncio.gather(*(one(name) for name in there)))


def targets(found: Mapping[str, Mapping[str, float]]) -> list[Target]:
    """The goals, for the cells that were run."""
    said = []
    for goal, words in (
        (WITH_HEADERS, "where headers name the limit"),
        (BESIDE_STRANGER, "beside a stranger who takes a third"),
        (WITHOUT_HEADERS, "where no header names it"),
    ):
        cells = [found[name] for name in found if CELLS[name].goal == goal]
        if not cells:
            continue
        used = min(cell["used_share"] for cell in cells)
        refused = max(cell["refused_share"] for cell in cells)
        said.append(
            Target(f"at least {goal[0]:.0%} of a limit used, {words}", f"{used:.1%}", used >= goal[0])
        )
        claim = f"at most {goal[1]:.1%} answered 429, {words}"
        said.append(Target(claim, f"{refused:.2%}", refused <= goal[1]))
    return said


def render(result: Mapping[str, Any]) -> str:
    """Targets, and every cell beside the ideal."""
    rows = [
        (
            name,
            f"{cell['used_share']:.1%}",
            f"{cell['refused_share']:.2%}",
            f"{cell['seconds']:.0f}",
            f"{cell['ideal_seconds']:.0f}",
        )
        for name, cell in result["cells"].items()
    ]
    header = ("cell", "used", "answered 429", "seconds", "ideal")
    return "\n\n".join((results.target_table(result["targets"]), results.table(header, rows)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="Keep the stored cells that are not run now.")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    found = asyncio.run(measure(chosen.cells.split(","), rows=chosen.rows, at_once=chosen.at_once))
    before = (results.load(NAME, chosen.results) or {}).get("cells", {}) if chosen.keep else {}
    merged = {**before, **found}
    found = {name: merged[name] for name in CELLS if name in merged}
    result = {"cells": found, "targets": results.as_fields(targets(found))}
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
