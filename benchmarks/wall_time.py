"""How close a full run comes to the time that latency and one core allow.

    python -m benchmarks.wall_time [--rounds 2] [--samples 2241] [--connections 256] [--median 2]
        [--sigmas 0.25,0.4]

The bound is max(n x mean latency / connections, CPU floor of both lanes' requests) + one mean latency a
lane: what target and judge cost when they overlap fully. The phases come from the run directory itself.
`ideal` is what a scheduler without any cost would need for the same latencies: the last ones to be
answered are rarely average ones, and how far they are from it is a matter of sigma. So two are shown.
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
from benchmarks.data import DATA, IMAGE_BYTES, IMAGES, ROWS, Size
from benchmarks.processes import Stub, run_on
from benchmarks.results import Target

NAME = "wall_time"
MOST = 1.10
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


@dataclass(frozen=True, slots=True)
class Load:
    """The run that is measured, and the stub's latency."""

    samples: int
    connections: int
    median_s: float
    sigma: float


def measure(bench: Bench, load: Load) -> Phases:
    """One run of the public command, split by the stamps of its own files."""
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        output = Path(folder)
        with Stub(bench.cores.others, median_s=load.median_s, sigma=load.sigma) as stub:
            born = time.time()
            call = Call(stub.origin, bench.data, load.samples, load.connections, None, output)
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


def bound_s(load: Load, *, latency_s: float, request_ms: float) -> float:
    """The least time that the target allows a run to be compared with."""
    cpu_floor_s = 2 * load.samples * request_ms / 1000
    return max(load.samples * latency_s / load.connections, cpu_floor_s) + 2 * latency_s


def ideal_s(load: Load) -> float:
    """What a scheduler without any cost needs on average: a free slot takes the next sample at once."""
    return fmean(_scheduled_s(random.Random(seed), load) for seed in range(IDEAL_DRAWS))


def _scheduled_s(draws: random.Random, load: Load) -> float:
    def lane(ready: Iterable[float]) -> list[float]:
        free = [0.0] * load.connections
        done = []
        for at in ready:
            latency_s = draws.lognormvariate(math.log(load.median_s), load.sigma)
            done.append(max(at, heapq.heappop(free)) + latency_s)
            heapq.heappush(free, done[-1])
        return done

    return max(lane(sorted(lane([0.0] * load.samples))))


def series(load: Load, rounds: Sequence[Phases], *, request_ms: float) -> dict[str, Any]:
    """The rounds of one sigma with what they are compared with."""
    latency_s = fmean(phases.mean_latency_s for phases in rounds)
    return {
        "load": asdict(load),
        "latency_s": latency_s,
        "bound_s": bound_s(load, latency_s=latency_s, request_ms=request_ms),
        "ideal_s": ideal_s(load),
        "rounds": [asdict(phases) for phases in rounds],
    }


def targets(found: Iterable[Mapping[str, Any]]) -> list[Target]:
    """The run against its bound, and against the ideal scheduler, for each sigma."""
    said = []
    for one in found:
        load, run_s = Load(**one["load"]), median(phases["run_s"] for phases in one["rounds"])
        what = (
            f"{load.samples} samples, {load.median_s:g} s (sigma {load.sigma:g}), {load.connections} a lane"
        )
        times, ideally = run_s / one["bound_s"], run_s / one["ideal_s"]
        shown = f"{times:.2f} x (an ideal scheduler {one['ideal_s'] / one['bound_s']:.2f} x)"
        said.append(Target(f"wall time at most {MOST:.2f} x its bound: {what}", shown, times <= MOST))
        claim = f"the same against an ideal scheduler (sigma {load.sigma:g})"
        said.append(Target(claim, f"{ideally:.2f} x", ideally <= MOST))
    return said


def render(result: Mapping[str, Any]) -> str:
    """Targets, and the phases of every round."""
    header = (
        *("sigma, round", "run / bound", "run / ideal", "run s", "bound s", "ideal s"),
        *("start-up s", "first sample s", "ending s", "in flight", "CPU s"),
    )
    rows = [
        _row(one, Phases(**phases), number)
        for one in result["series"]
        for number, phases in enumerate(one["rounds"], start=1)
    ]
    said = f"The floor takes {result['floor_ms']:.2f} ms of CPU a request."
    return "\n\n".join((results.target_table(result["targets"]), said, results.table(header, rows)))


def _row(one: Mapping[str, Any], phases: Phases, number: int) -> list[str]:
    return [
        f"{one['load']['sigma']:g}, {number}",
        f"{phases.run_s / one['bound_s']:.2f}",
        f"{phases.run_s / one['ideal_s']:.2f}",
        f"{phases.run_s:.1f}",
        f"{one['bound_s']:.1f}",
        f"{one['ideal_s']:.1f}",
        f"{phases.start_s:.1f}",
        f"{phases.preflight_s:.1f}",
        f"{phases.end_s:.1f}",
        f"{phases.most_in_flight}",
        f"{phases.cpu_s:.1f}",
    ]


def _run_all(chosen: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    loads = [
        Load(chosen.samples, chosen.connections, chosen.median, float(sigma))
        for sigma in chosen.sigmas.split(",")
    ]
    rounds: dict[Load, list[Phases]] = {load: [] for load in loads}
    for _ in range(chosen.rounds):
        for load, so_far in rounds.items():
            so_far.append(measure(bench, load))
            print(load, so_far[-1], file=sys.stderr, flush=True)
    many = min(FLOOR_SAMPLES[1], chosen.samples)
    few = min(FLOOR_SAMPLES[0], many // 2)
    request_ms = floor_ms(bench, connections=chosen.connections, samples=(few, many), rounds=chosen.rounds)
    found = [series(load, so_far, request_ms=request_ms) for load, so_far in rounds.items()]
    return {"floor_ms": request_ms, "series": found, "targets": results.as_fields(targets(found))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=ROWS)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--median", type=float, default=2.0)
    parser.add_argument("--sigmas", default="0.25,0.4")
    parser.add_argument("--image-bytes", type=int, default=IMAGE_BYTES)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    size = Size(chosen.samples, min(IMAGES, chosen.samples), chosen.image_bytes)
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        result = _run_all(chosen, open_bench(chosen.data / "images", size, Path(folder)))
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
