"""What a request costs, and how many go through in a second: vlsb, the raw-socket floor, SDK script, httpx.

    python -m benchmarks.throughput [--full] [--parts slope,field,latency,memory] [--data FOLDER]

Every contender does the same whole job (target, then judge) on one core against the stub on another.
`slope` is the CPU a request between two sample counts, `field` everybody at no latency, `latency` everybody
at realistic latencies, `memory` vlsb's peak at many requests in flight.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.cells import (
    BUSY_SHARE,
    Bench,
    Cell,
    Measured,
    Measurement,
    alternate,
    installed,
    open_bench,
    ratio,
    read_stored,
    slopes_ms,
    stored,
)
from benchmarks.commands import EVERYBODY, FLOOR, SDK, VLSB
from benchmarks.data import DATA, ROWS, Size, make_data
from benchmarks.results import Target

NAME = "throughput"
PARTS = ("slope", "field", "latency", "memory")
MOST_FLOORS = 1.3
MOST_SPREAD = 0.15
LEAST_SDKS = 5.0
MOST_MB = 350
# How much more memory is still called the same.
SAME_MEMORY = 1.1
SLOW_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """Which cells are measured, and on how much data."""

    size: Size
    slope_samples: tuple[int, int]
    slope_contenders: tuple[str, ...]
    # (connections, over TLS)
    slope_at: tuple[tuple[int, bool], ...]
    field_samples: int
    field_at: tuple[tuple[int, bool], ...]
    # (connections, median latency)
    latency_at: tuple[tuple[int, float], ...]
    latency_samples: int
    memory_samples: tuple[int, ...]
    # Each lane; twice as many requests are in flight.
    memory_connections: tuple[int, ...]
    memory_latency_s: float
    rounds: int


def _both(*connections: int) -> tuple[tuple[int, bool], ...]:
    return tuple((count, is_tls) for count in connections for is_tls in (False, True))


QUICK = Plan(
    size=Size(),
    slope_samples=(300, 1200),
    slope_contenders=(FLOOR, VLSB),
    slope_at=((16, False), (64, False), (256, False), (512, False), (16, True), (64, True), (512, True)),
    field_samples=400,
    field_at=(*_both(64), (16, False), (512, False)),
    latency_at=((64, 0.5), (256, 2.0)),
    latency_samples=1200,
    memory_samples=(600, ROWS),
    memory_connections=(SLOW_CONNECTIONS,),
    memory_latency_s=2.0,
    rounds=3,
)
FULL = replace(
    QUICK,
    slope_contenders=(FLOOR, "floor, stdlib base64", VLSB, "vlsb over httpx"),
    slope_at=_both(16, 64, 256, 512),
    field_samples=600,
    field_at=_both(16, 64, 256, 512),
    latency_at=tuple((count, latency_s) for latency_s in (0.5, 2.0) for count in (16, 64, 256, 512)),
    latency_samples=ROWS,
    memory_connections=(SLOW_CONNECTIONS, 512),
)
SMOKE = replace(
    QUICK,
    size=Size(10, 8, 20_000),
    slope_samples=(4, 8),
    slope_at=((4, False), (4, True)),
    field_samples=6,
    field_at=_both(4),
    latency_at=((4, 0.01),),
    latency_samples=6,
    memory_samples=(4, 8),
    memory_connections=(4,),
    memory_latency_s=0.01,
    rounds=1,
)
PLANS = {"quick": QUICK, "full": FULL, "smoke": SMOKE}


def slope_cells(plan: Plan) -> list[Cell]:
    """Each contender at each concurrency with few and with many samples, side by side."""
    return [
        Cell(contender, connections, samples, is_tls=is_tls)
        for connections, is_tls in plan.slope_at
        for samples in plan.slope_samples
        for contender in plan.slope_contenders
    ]


def field_cells(plan: Plan) -> list[Cell]:
    """Everybody at no latency."""
    return [
        Cell(contender, connections, plan.field_samples, is_tls=is_tls)
        for connections, is_tls in plan.field_at
        for contender in installed(EVERYBODY)
    ]


def latency_cells(plan: Plan) -> list[Cell]:
    """Everybody at realistic latencies."""
    return [
        Cell(contender, connections, plan.latency_samples, median_s)
        for connections, median_s in plan.latency_at
        for contender in installed(EVERYBODY)
    ]


def memory_cells(plan: Plan) -> list[Cell]:
    """vlsb with few and many samples in flight at once."""
    return [
        Cell(VLSB, connections, samples, plan.memory_latency_s)
        for connections in plan.memory_connections
        for samples in plan.memory_samples
    ]


def measure_all(plan: Plan, parts: Sequence[str], bench: Bench, larger: Bench) -> dict[str, Measured]:
    """The parts that were asked for; `larger` has images of twice the size."""
    measured: dict[str, Measured] = {}
    if "slope" in parts:
        measured["slope"] = alternate(slope_cells(plan), bench, rounds=plan.rounds)
    if "field" in parts:
        measured["field"] = alternate(field_cells(plan), bench, rounds=max(1, plan.rounds - 1))
    if "latency" in parts:
        measured["latency"] = alternate(latency_cells(plan), bench, rounds=1)
    if "memory" in parts:
        measured["memory"] = alternate(memory_cells(plan), bench, rounds=1)
        measured["memory, larger images"] = alternate(memory_cells(plan)[:1], larger, rounds=1)
    return measured


Slopes = dict[tuple[int, bool], dict[str, list[float]]]


def slopes(measured: Measured) -> Slopes:
    """CPU a request by (connections, TLS) and contender, a value a round."""
    found: Slopes = {}
    fewest = min(cell.samples for cell in measured)
    for few in (cell for cell in measured if cell.samples == fewest):
        many = next(c for c in measured if c != few and replace(c, samples=fewest) == few)
        place = found.setdefault((few.connections, few.is_tls), {})
        place[few.contender] = slopes_ms(measured[few], measured[many])
    return found


def targets(measured: Mapping[str, Measured]) -> list[Target]:
    """The project's claims that this program can check."""
    found: list[Target] = []
    if "slope" in measured:
        found += _slope_targets(slopes(measured["slope"]))
    if "field" in measured:
        found += _field_targets(measured["field"])
    if "memory" in measured:
        found += _memory_targets(measured["memory"], measured["memory, larger images"])
    return found


def _slope_targets(found: Slopes) -> Iterator[Target]:
    for is_tls, named in ((False, "plain"), (True, "TLS")):
        places = {place: by for place, by in found.items() if place[1] is is_tls}
        ratios = [ratio(by[VLSB], by[FLOOR]) for by in places.values()]
        shown = " to ".join(dict.fromkeys(f"{each:.2f}" for each in (min(ratios), max(ratios))))
        yield Target(
            f"CPU a request at most {MOST_FLOORS} x the raw-socket floor ({named})",
            f"{shown} x",
            max(ratios) <= MOST_FLOORS,
        )
        if len(places) > 1:
            costs = [median(by[VLSB]) for by in places.values()]
            spread = max(costs) / min(costs) - 1
            counts = sorted(connections for connections, _ in places)
            yield Target(
                f"the same within {MOST_SPREAD:.0%} from {counts[0]} to {counts[-1]} connections ({named})",
                f"{spread:.0%}",
                spread <= MOST_SPREAD,
            )


def _rates(rounds: Iterable[Measurement]) -> list[float]:
    return [found.requests_per_s for found in rounds]


def _field_targets(measured: Measured) -> Iterator[Target]:
    for cell, rounds in measured.items():
        sdk = replace(cell, contender=SDK)
        if cell.contender == VLSB and cell.connections == 64 and sdk in measured:
            times = ratio(_rates(rounds), _rates(measured[sdk]))
            yield Target(
                f"at no latency at least {LEAST_SDKS:g} x the requests a second of the SDK script, "
                f"64 connections{', TLS' if cell.is_tls else ''}",
                f"{times:.1f} x",
                times >= LEAST_SDKS,
            )


def _peak(rounds: Iterable[Measurement]) -> float:
    return median(found.peak_mb for found in rounds)


def _memory_targets(measured: Measured, larger: Measured) -> Iterator[Target]:
    fewest = min(measured, key=lambda cell: (cell.connections, cell.samples))
    peers = [cell for cell in measured if cell.connections == fewest.connections]
    most = max(peers, key=lambda cell: cell.samples)
    in_flight = max(found.most_in_flight for found in measured[most])
    peaks = {cell: _peak(measured[cell]) for cell in peers}
    yield Target(
        f"peak memory at most {MOST_MB} MB at {2 * most.connections} requests in flight",
        f"{peaks[most]:.0f} MB at {in_flight}",
        peaks[most] <= MOST_MB,
    )
    yield Target(
        f"independent of the number of samples ({fewest.samples} and {most.samples})",
        f"{peaks[fewest]:.0f} and {peaks[most]:.0f} MB",
        peaks[most] <= SAME_MEMORY * peaks[fewest],
    )
    doubled = _peak(larger[fewest])
    yield Target(
        "independent of the images' size (once and twice as large)",
        f"{peaks[fewest]:.0f} and {doubled:.0f} MB",
        doubled <= SAME_MEMORY * peaks[fewest],
    )


def render(result: Mapping[str, Any]) -> str:
    """The tables of a result, ratios first."""
    measured = {part: read_stored(cells) for part, cells in result["parts"].items()}
    pieces = [results.target_table(result["targets"])]
    if "slope" in measured:
        few, many = sorted({cell.samples for cell in measured["slope"]})
        pieces += [
            f"CPU a request between {few} and {many} samples:",
            _slope_table(slopes(measured["slope"])),
        ]
    for part, title in (
        ("field", "No latency:"),
        ("latency", "Lognormal latency (sigma 0.4):"),
        ("memory", "vlsb's memory:"),
        ("memory, larger images", "The same with images of twice the size:"),
    ):
        if part in measured:
            pieces += [title, _field_table(measured[part])]
    return "\n\n".join(pieces)


def _slope_table(found: Slopes) -> str:
    names = list(next(iter(found.values())))
    header = ("connections a lane", *(f"{name} / floor" for name in names if name != FLOOR))
    rows = [
        (
            _place(connections, is_tls=is_tls),
            *(f"{ratio(by[name], by[FLOOR]):.2f}" for name in names if name != FLOOR),
            *(f"{median(by[name]):.2f}" for name in names),
        )
        for (connections, is_tls), by in found.items()
    ]
    return results.table((*header, *(f"{name}, ms" for name in names)), rows)


def _place(connections: int, *, is_tls: bool) -> str:
    return f"{connections}, TLS" if is_tls else str(connections)


def _field_table(measured: Measured) -> str:
    header = (
        *("contender, connections a lane", "requests/s / SDK's", "CPU / floor's", "requests/s"),
        *("CPU ms a request", "peak MB", "start-up s", "most in flight", "stub busy"),
    )
    return results.table(header, (_field_row(cell, measured) for cell in measured))


def _field_row(cell: Cell, measured: Measured) -> list[str]:
    rounds = measured[cell]
    sdk, floor = (measured.get(replace(cell, contender=name)) for name in (SDK, FLOOR))
    latency = f", {cell.median_s:g} s" if cell.median_s else ""
    cpu = [found.cpu_ms for found in rounds]
    busy = median(found.stub_busy for found in rounds)
    return [
        f"{cell.contender}, {_place(cell.connections, is_tls=cell.is_tls)}{latency}, {cell.samples} samples",
        "" if sdk is None else f"{ratio(_rates(rounds), _rates(sdk)):.2f}",
        "" if floor is None else f"{ratio(cpu, [found.cpu_ms for found in floor]):.2f}",
        f"{median(_rates(rounds)):.0f}",
        f"{median(cpu):.2f}",
        f"{_peak(rounds):.0f}",
        f"{median(found.start_s for found in rounds):.2f}",
        f"{max(found.most_in_flight for found in rounds)}",
        f"{busy:.0%}{' (!)' if busy > BUSY_SHARE else ''}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=PLANS, default="quick")
    parser.add_argument("--full", dest="plan", action="store_const", const="full")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    chosen = parser.parse_args(arguments)
    plan, parts = PLANS[chosen.plan], chosen.parts.split(",")
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        bench = open_bench(chosen.data / "images", plan.size, Path(folder))
        larger = bench
        if "memory" in parts:
            fewest = min(plan.memory_samples)
            size = Size(fewest, fewest, 2 * plan.size.image_bytes)
            larger = replace(bench, data=make_data(chosen.data / "larger-images", size))
        measured = measure_all(plan, parts, bench, larger)
    result = {
        "plan": chosen.plan,
        "parts": {part: stored(cells) for part, cells in measured.items()},
        "targets": results.as_fields(targets(measured)),
    }
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
