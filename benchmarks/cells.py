"""One cell of a comparison: a contender at a concurrency and a latency, measured once a round.

Contenders take turns within a round, in an order that turns too, so that a machine that slows down
slows all of them down.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.commands import COMMANDS, SDK, Call
from benchmarks.data import Size, make_data
from benchmarks.processes import Certificate, Cores, FailedError, Finished, Stub, make_certificate, run_on

# A stub that was busier than this may have been what everybody waited for.
BUSY_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run. `connections` are those of each lane, `median_s` of the stub's lognormal latency."""

    contender: str
    connections: int
    samples: int
    median_s: float = 0.0
    is_tls: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run cost. The window is from the first request's arrival to the last reply."""

    requests: int
    cpu_s: float
    peak_mb: float
    start_s: float
    window_s: float
    wall_s: float
    most_in_flight: int
    mean_latency_s: float
    stub_busy: float

    @property
    def requests_per_s(self) -> float:
        """Requests of both lanes a second, without the start-up."""
        return self.requests / self.window_s

    @property
    def cpu_ms(self) -> float:
        """CPU a request, start-up included."""
        return 1000 * self.cpu_s / self.requests


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the data lies, which cores are used, what TLS is served with, and how contenders are started.

    Those in `only_target` leave the judge out.
    """

    data: Path
    cores: Cores
    certificate: Certificate
    commands: Mapping[str, Callable[[Call], list[str]]] = field(default_factory=lambda: COMMANDS)
    only_target: frozenset[str] = frozenset()


def open_bench(data: Path, size: Size, folder: Path) -> Bench:
    """The data, made if it is not there, the cores, and a certificate in `folder`."""
    print(f"data in {data}", file=sys.stderr, flush=True)
    return Bench(make_data(data, size), Cores.available(), make_certificate(folder))


def measure(cell: Cell, bench: Bench) -> Measurement:
    """Run a cell once. Raises FailedError if it did not do its whole job."""
    certificate = bench.certificate if cell.is_tls else None
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        output = Path(folder)
        with Stub(bench.cores.others, median_s=cell.median_s, certificate=certificate) as stub:
            call = Call(
                origin=stub.origin,
                data=bench.data,
                samples=cell.samples,
                connections=cell.connections,
                ca_bundle=bench.certificate.certificate if cell.is_tls else None,
                output=output,
            )
            finished = run_on(bench.cores.client, bench.commands[cell.contender](call), home=output)
    wanted = {"target": cell.samples, "judge": 0 if cell.contender in bench.only_target else cell.samples}
    if stub.served["requests"] != wanted:
        raise FailedError(f"{cell}: the stub served {stub.served['requests']}")
    return _measurement(finished, stub.served)


def _measurement(finished: Finished, served: Mapping[str, Any]) -> Measurement:
    window_s = served["last_reply_at"] - served["first_request_at"]
    return Measurement(
        requests=sum(served["requests"].values()),
        cpu_s=finished.cpu_s,
        peak_mb=finished.peak_mb,
        start_s=served["first_request_at"] - finished.born_at,
        window_s=window_s,
        wall_s=finished.wall_s,
        most_in_flight=served["most_in_flight"],
        mean_latency_s=served["mean_latency_s"],
        stub_busy=served["cpu_s"] / window_s,
    )


Measured = dict[Cell, list[Measurement]]


def alternate(cells: Sequence[Cell], bench: Bench, *, rounds: int) -> Measured:
    """Measure every cell once a round, each round beginning with another cell."""
    measured: Measured = {cell: [] for cell in cells}
    for number in range(rounds):
        start = number % len(cells)
        for cell in [*cells[start:], *cells[:start]]:
            found = measure(cell, bench)
            measured[cell].append(found)
            _say(cell, found)
    return measured


def installed(contenders: Sequence[str]) -> list[str]:
    """Those of the contenders whose libraries are here; the others are named on stderr."""
    needed = {SDK: "openai", "httpx2": "httpx2"}
    there = [name for name in contenders if name not in needed or find_spec(needed[name]) is not None]
    for missing in set(contenders) - set(there):
        print(f"{missing} is left out: {needed[missing]} is not installed", file=sys.stderr)
    return there


def _say(cell: Cell, found: Measurement) -> None:
    where = f"{cell.contender}, {cell.connections} connections, {cell.samples} samples, {cell.median_s:g} s"
    figures = f"{found.cpu_ms:.2f} ms, {found.requests_per_s:.0f} requests/s, {found.peak_mb:.0f} MB"
    print(f"{where}{', TLS' if cell.is_tls else ''}: {figures}", file=sys.stderr, flush=True)


def slopes_ms(fewer: Iterable[Measurement], more: Iterable[Measurement]) -> list[float]:
    """CPU a request between two sample counts, a value a round: start-up drops out."""
    return [
        1000 * (high.cpu_s - low.cpu_s) / (high.requests - low.requests)
        for low, high in zip(fewer, more, strict=True)
    ]


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of the rounds' ratios: what a round's other contenders suffered too cancels out."""
    return median(one / other for one, other in zip(these, those, strict=True))


def stored(measured: Measured) -> list[dict[str, Any]]:
    """Every cell with every round, for the result file."""
    return [
        {**asdict(cell), "rounds": [asdict(found) for found in rounds]} for cell, rounds in measured.items()
    ]


def read_stored(cells: Iterable[dict[str, Any]]) -> Measured:
    """The inverse of `stored`."""
    return {
        Cell(**{name: value for name, value in cell.items() if name != "rounds"}): [
            Measurement(**found) for found in cell["rounds"]
        ]
        for cell in cells
    }
