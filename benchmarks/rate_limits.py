"""How much of an enforced requests-a-minute limit a run uses, and how often it is told to slow down.

    uv run python benchmarks/rate_limits.py [--rpm 1200] [--minutes 4] [--without-headers]

Target and judge are one endpoint that serves so many requests a minute (fixed windows) and answers the
rest with 429; latency is lognormal around half a second. The first window is warm-up and reported apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from PIL import Image

import vlsb
from vlsb.endpoints.demo import demo_responder
from vlsb.endpoints.simulator import RateLimit, Simulator

WINDOW_S = 60.0


def write_data(root: Path, rows: int) -> None:
    """A made-up data set: one small picture, one instruction a row."""
    (root / "imgs").mkdir(parents=True)
    Image.new("RGB", (32, 32), "teal").save(root / "imgs" / "0.png")
    fields = {"image_path": "imgs/0.png", "category": "Privacy", "sub_category": "x", "source": "made up"}
    data = [{"instruction_id": i, "instruction": f"Describe picture {i}.", **fields} for i in range(rows)]
    (root / "data.json").write_text(json.dumps(data))


async def measure(*, rpm: int, minutes: float, says_limits: bool) -> dict[str, float]:
    """Run against the limit for so many minutes and count what was served and refused."""
    limit = RateLimit(
        demo_responder(latency=(0.5, 0.4), has_rate_limits=False), rpm=rpm, says_limits=says_limits
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root / "data", int(rpm * (minutes + 2)))
        async with Simulator(limit, keep_bodies=False) as simulator:
            work = asyncio.create_task(
                vlsb.evaluate(
                    "demo",
                    base_url=simulator.base_url,
                    judge="demo",
                    judge_base_url=simulator.base_url,
                    data_root=root / "data",
                    output_dir=root / "out",
                )
            )
            await asyncio.sleep(WINDOW_S * minutes)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    return figures(limit, rpm=rpm, minutes=minutes)


def figures(limit: RateLimit, *, rpm: int, minutes: float) -> dict[str, float]:
    """Shares of what was permitted, before and after the warm-up."""
    began = limit.served[0]
    warm = began + WINDOW_S
    served = [t for t in limit.served if warm <= t < began + WINDOW_S * minutes]
    refused = [t for t in limit.refused if warm <= t]
    return {
        "permitted, warm": rpm * (minutes - 1),
        "served, warm": len(served),
        "used, warm (%)": 100 * len(served) / (rpm * (minutes - 1)),
        "429, warm": len(refused),
        "429, warm (% of requests)": 100 * len(refused) / max(1, len(served) + len(refused)),
        "used, first minute (%)": 100 * sum(t < warm for t in limit.served) / rpm,
        "429, first minute": sum(t < warm for t in limit.refused),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rpm", type=int, default=1200)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--without-headers", action="store_true")
    chosen = parser.parse_args()
    began = time.perf_counter()
    found = asyncio.run(
        measure(rpm=chosen.rpm, minutes=chosen.minutes, says_limits=not chosen.without_headers)
    )
    for name, value in found.items():
        print(f"{name:28} {value:10,.1f}")
    print(f"{'seconds':28} {time.perf_counter() - began:10,.1f}")


if __name__ == "__main__":
    main()
