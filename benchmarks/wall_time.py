"""How close a full run comes to the time that latency and one core allow.

    python -m benchmarks.wall_time [--rounds 3] [--samples 2241] [--connections 256] [--median 2]

The bound is max(n x mean latency / connections, CPU floor of both lanes' requests) + one mean latency a
lane: what target and judge cost when they overlap fully. The phases come from the run directory itself.
`ideal` is what a scheduler without any cost would need for the same latencies: the last ones to be
answered are rarely average ones.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks import results
from benchmarks.cells import Bench, Cell, alternate, open_bench, slopes_ms
from benchmarks.commands import FLOOR, Call, vlsb_words
from benchmarks.data import DATA, PICTURE_BYTES, PICTURES, ROWS, Size
from benchmarks.processes import Stub, run_on
from benchmarks.results import Target

NAME = "wall_time"
MOST = 1.10
SIGMA = 0.4
FLOOR_SAMPLES = (300, 1200)
IDEAL_DRAWS = 20


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of one run: before the first request, the lone first sample, everything else, the ending."""

    start_s: float
    preflight_s: float
    run_s: float
    end_s: float
    mean_latency_s: float
    cpu_s: float
    most_in_flight: int


def measure(bench: Bench, *, samples: int, connections: int, median_s: float) -> Phases:
    """One run of the public command, split by the stamps of its own files."""
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        output = Path(folder)
        with Stub(bench.cores.others, median_s=median_s, sigma=SIGMA) as stub:
            born = time.time()
            call = Call(stub.origin, bench.data, samples, connections, None, output)
            finished = run_on(bench.cores.client, vlsb_words(call), home=output)
            ended = time.time()
        run = output / "run"
        events = {record["kind"]: record for record in _records(run / "events.jsonl")}
        verdicts = [record["elapsed_s"] for record in _records(next((run / "verdicts").iterdir()))]
    began = _moment(events["session_started"])
    return Phases(
        start_s=began - born,
        preflight_s=verdicts[0] - events["session_started"]["elapsed_s"],
        run_s=verdicts[-1] - verdicts[0],
        end_s=ended - began - verdicts[-1],
        mean_latency_s=stub.served["mean_latency_s"],
        cpu_s=finished.cpu_s,
        most_in_flight=stub.served["most_in_flight"],
    )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        yield from map(json.loads, lines)


def _moment(record: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(record["at"]).timestamp()


def floor_ms(bench: Bench, *, connections: int, samples: Sequence[int], rounds: int) -> float:
    """CPU a request of the raw-socket floor, between two sample counts."""
    few, many = (Cell(FLOOR, connections, count) for count in samples)
    measured = alternate([few, many], bench, rounds=rounds)
    return median(slopes_ms(measured[few], measured[many]))


def bound_s(*, samples: int, connections: int, latency_s: float, request_ms: float) -> float:
    """The least time that the target allows a run to be compared with."""
    cpu_floor_s = 2 * samples * request_ms / 1000
    return max(samples * latency_s / connections, cpu_floor_s) + 2 * latency_s


def ideal_s(*, samples: int, connections: int, median_s: float) -> float:
    """What a scheduler without any cost needs on average: a free slot takes the next sample at once."""
    seeds = range(IDEAL_DRAWS)
    return fmean(_scheduled_s(random.Random(seed), samples, connections, median_s) for seed in seeds)


def _scheduled_s(draws: random.Random, samples: int, connections: int, median_s: float) -> float:
    def lane(ready: Iterable[float]) -> list[float]:
        free = [0.0] * connections
        done = []
        for at in ready:
            begun = max(at, heapq.heappop(free)) if median_s else at
            done.append(begun + draws.lognormvariate(math.log(median_s), SIGMA))
            heapq.heappush(free, done[-1])
        return done

    return max(lane(sorted(lane([0.0] * samples))))


def render(result: Mapping[str, Any]) -> str:
    """Targets, and the phases of every round."""
    rounds = [Phases(**found) for found in result["rounds"]]
    header = (
        "round",
        "run / bound",
        "run s",
        "start-up s",
        "first sample s",
        "ending s",
        "in flight",
        "CPU s",
    )
    rows = [
        (
            number,
            f"{phases.run_s / result['bound_s']:.2f}",
            f"{phases.run_s:.1f}",
            f"{phases.start_s:.1f}",
            f"{phases.preflight_s:.1f}",
            f"{phases.end_s:.1f}",
            phases.most_in_flight,
            f"{phases.cpu_s:.1f}",
        )
        for number, phases in enumerate(rounds, start=1)
    ]
    said = (
        f"{result['samples']} samples, {result['connections']} connections a lane, median latency "
        f"{result['median_s']:g} s (mean {result['latency_s']:.2f} s). Bound {result['bound_s']:.1f} s, "
        f"ideal scheduler {result['ideal_s']:.1f} s; the floor takes {result['floor_ms']:.2f} ms of CPU each."
    )
    return "\n\n".join((results.target_table(result["targets"]), said, results.table(header, rows)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=ROWS)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--median", type=float, default=2.0)
    parser.add_argument("--picture-bytes", type=int, default=PICTURE_BYTES)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    size = Size(chosen.samples, min(PICTURES, chosen.samples), chosen.picture_bytes)
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        bench = open_bench(chosen.data / "pictures", size, Path(folder))
        rounds = []
        for _ in range(chosen.rounds):
            rounds.append(
                measure(
                    bench,
                    samples=chosen.samples,
                    connections=chosen.connections,
                    median_s=chosen.median,
                )
            )
            print(rounds[-1], file=sys.stderr, flush=True)
        counts = [min(count, chosen.samples) for count in FLOOR_SAMPLES]
        if counts[0] == counts[1]:
            counts[0] = max(1, counts[1] // 4)
        request_ms = floor_ms(bench, connections=chosen.connections, samples=counts, rounds=chosen.rounds)
    save(chosen, rounds, request_ms)


def save(chosen: argparse.Namespace, rounds: Sequence[Phases], request_ms: float) -> None:
    """Compare with the bound, store and print."""
    latency_s = fmean(phases.mean_latency_s for phases in rounds)
    what = {"samples": chosen.samples, "connections": chosen.connections}
    bound = bound_s(**what, latency_s=latency_s, request_ms=request_ms)
    ratio = median(phases.run_s for phases in rounds) / bound
    claim = (
        f"a run of {chosen.samples} samples at {chosen.median:g} s and {chosen.connections} connections "
        f"a lane takes at most {MOST:.2f} x its bound"
    )
    result = {
        **what,
        "median_s": chosen.median,
        "latency_s": latency_s,
        "floor_ms": request_ms,
        "bound_s": bound,
        "ideal_s": ideal_s(**what, median_s=chosen.median),
        "rounds": [asdict(phases) for phases in rounds],
        "targets": results.as_fields([Target(claim, f"{ratio:.2f} x", ratio <= MOST)]),
    }
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
