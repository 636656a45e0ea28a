"""What a sweep adds to the commands of its cells, and how far more nodes and more replicas carry.

    python -m benchmarks.sweeps [--parts scheduling,nodes] [--plan quick] [--data FOLDER]

`scheduling` is the time from one cell's start to the next one's, where the endpoint answers at once and
one cell runs at a time: in `vlsb sweep` here and on Ray, beside the same commands one after the other and
as plain Ray tasks. `nodes` is a sweep on one and on two Ray nodes, against an endpoint of fixed latency.
`many` is a plan of many cells, before anything ran and when all are done. `replicas` is one run whose target
is at several addresses that answer so many at once, each after the same time; with one of them four times
slower, and with one killed in the middle.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from benchmarks import results
from benchmarks.data import DATA, ROWS, Size, make_data
from benchmarks.processes import LONGEST_S, Cores, Stub, clean_environment, run_on
from benchmarks.results import Target
from benchmarks.run_directories import NOWHERE, make_run, rows_of_run
from vlsb.sweep.cells import matrix
from vlsb.sweep.on_ray import HOSTED
from vlsb.sweep.plan import load_plan
from vlsb.sweep.sizing import Sizing

NAME = "sweeps"
PARTS = ("scheduling", "nodes", "replicas", "many")
LOOP, HERE = "the commands, one after the other", "vlsb sweep"
TASKS, ON_RAY, NOTHING = "Ray tasks that start the commands", "vlsb sweep --ray", "Ray tasks that do nothing"
MOST_MS = 100
LEAST_NODES = 1.8
LEAST_REPLICAS = {2: 1.9, 4: 3.7}
MOST_LOST_S = 3.0
MOST_DONE_S = 3.0
SLOW, KILLED = "2, one four times slower", "2, one killed when half is done"
SLOW_TIMES = 4
NEW, DONE, DONE_AGAIN = "--dry-run, nothing ran yet", "all done, in runs that it does not know", "all done"
# Of a made-up run one sample in a hundred is blocked.
MADE = {"fail-on-error": 0.05}
_IMAGE_BYTES = 48


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    cells: int
    # Cells at once on a node, samples of a cell, requests in flight of a cell, seconds of each.
    nodes: tuple[int, ...]
    at_once: int
    node_cells: int
    samples: int
    connections: int
    latency_s: float
    # Replicas, what each answers at once and how fast, samples of the run.
    replicas: tuple[int, ...]
    places: int
    answer_s: float
    replica_samples: int
    many: int
    many_samples: int


QUICK = Plan(
    rounds=3,
    cells=20,
    nodes=(1, 2),
    at_once=2,
    node_cells=8,
    samples=80,
    connections=4,
    latency_s=0.5,
    replicas=(1, 2, 4),
    places=8,
    answer_s=0.2,
    replica_samples=800,
    many=500,
    many_samples=ROWS,
)
SMOKE = replace(
    QUICK,
    rounds=1,
    cells=2,
    node_cells=2,
    at_once=1,
    samples=2,
    latency_s=0.01,
    answer_s=0.02,
    replica_samples=60,
    many=3,
    many_samples=40,
)
PLANS = {"quick": QUICK, "smoke": SMOKE}


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything is: the data of runs, an empty folder, the cores."""

    data: Path
    folder: Path
    cores: Cores

    def carry_out(self, words: Sequence[str | Path]) -> tuple[float, str]:
        """Run `python -m ...` to its end on all cores; the seconds it took, and what it printed."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)],
            cwd=self.folder,
            env=clean_environment(self.folder),
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}: {words}\n{done.stderr[-4000:]}")
        return time.monotonic() - began, done.stdout


def write_plan(
    bench: Bench, origin: str, name: str, *, cells: int, samples: int, turns: bool, **others: object
) -> Path:
    """A plan of so many cells of one hosted model, or of so many models, so that none waits for another."""
    path, url = bench.folder / f"{name}.yaml", f"{origin}/target/v1"
    models = [
        {"model": "target" if turns else f"target-{number}", "name": f"cell-{number}", "base-url": url}
        for number in range(cells)
    ]
    plan = {
        "models": models,
        "defaults": {"data-root": str(bench.data), "limit": samples, **others},
        "output-dir": str(bench.folder / name),
    }
    # JSON is YAML too.
    path.write_text(json.dumps(plan))
    return path


def cycles_s(outputs: Path) -> list[float]:
    """Seconds from the start of each run's session to that of the next one."""
    began = sorted(_session_start(each) for each in outputs.glob("*/events.jsonl"))
    return [(later - earlier).total_seconds() for earlier, later in pairwise(began)]


def _session_start(events: Path) -> datetime:
    records = map(json.loads, events.read_text().splitlines())
    return datetime.fromisoformat(next(each["at"] for each in records if each["kind"] == "session_started"))


@contextmanager
def ray_cluster(bench: Bench, nodes: int, at_once: int) -> Iterator[str]:
    """The address of a cluster with a head that runs no cells and so many nodes that run `at_once` each."""
    from ray.cluster_utils import Cluster

    environment = clean_environment(bench.folder)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        common = {"env_vars": environment, "temp_dir": folder}
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **common}
        )
        try:
            for _ in range(nodes):
                cluster.add_node(num_cpus=1, num_gpus=0, resources={HOSTED: at_once}, **common)
            yield cluster.address
        finally:
            cluster.shutdown()


Measured = dict[str, Any]


def measure_scheduling(plan: Plan, bench: Bench) -> dict[str, list[Measured]]:
    """Every contender in turns, once a round."""
    found: dict[str, list[Measured]] = {}
    with Stub(bench.cores.others) as stub, ray_cluster(bench, 1, 1) as address:
        for number in range(plan.rounds):
            for place, (contender, measure) in enumerate(_CONTENDERS.items()):
                name = f"scheduling-{number}-{place}"
                path = write_plan(bench, stub.origin, name, cells=plan.cells, samples=1, turns=True)
                wall_s, cycles = measure(bench, path, address)
                found.setdefault(contender, []).append({"wall_s": wall_s, "cycles_s": cycles})
                print(f"{contender}: {1000 * median(cycles):.1f} ms a cell", file=sys.stderr, flush=True)
    return found


def _loop(bench: Bench, path: Path, _: str) -> tuple[float, list[float]]:
    began = time.monotonic()
    for words in commands(path):
        bench.carry_out(["vlsb", *words])
    return time.monotonic() - began, cycles_s(bench.folder / path.stem)


def commands(path: Path) -> list[list[str]]:
    """The words after `vlsb` of every cell of a plan."""
    return [cell.work.command() for cell in matrix(load_plan(str(path)), Sizing()).cells]


def _here(bench: Bench, path: Path, _: str) -> tuple[float, list[float]]:
    wall_s, _ = bench.carry_out(["vlsb", "sweep", path])
    return wall_s, cycles_s(bench.folder / path.stem)


def _on_ray(bench: Bench, path: Path, address: str) -> tuple[float, list[float]]:
    wall_s, _ = bench.carry_out(["vlsb", "sweep", path, "--ray", address])
    return wall_s, cycles_s(bench.folder / path.stem)


def _ray_tasks(bench: Bench, path: Path, address: str) -> tuple[float, list[float]]:
    wall_s, _ = bench.carry_out(["benchmarks.sweeps", "--tasks", address, path])
    return wall_s, cycles_s(bench.folder / path.stem)


def _ray_nothing(bench: Bench, path: Path, address: str) -> tuple[float, list[float]]:
    wall_s, out = bench.carry_out(["benchmarks.sweeps", "--nothing", address, path])
    return wall_s, [later - earlier for earlier, later in pairwise(json.loads(out))]


_CONTENDERS: dict[str, Callable[[Bench, Path, str], tuple[float, list[float]]]] = {
    LOOP: _loop,
    HERE: _here,
    TASKS: _ray_tasks,
    ON_RAY: _on_ray,
    NOTHING: _ray_nothing,
}


def submit_tasks(address: str, path: Path, *, is_nothing: bool) -> list[float]:
    """What anybody would write: a task a command, all submitted at once; when each was at work."""
    import ray

    def task(words: list[str]) -> float:
        if words:
            subprocess.run([sys.executable, "-m", "vlsb", *words], check=True, capture_output=True)
        return time.monotonic()

    ray.init(address=address, log_to_driver=False, configure_logging=False)
    remote = ray.remote(task).options(num_cpus=0, resources={HOSTED: 1})
    found = ray.get([remote.remote([] if is_nothing else words) for words in commands(path)])
    ray.shutdown()
    return sorted(found)


def measure_nodes(plan: Plan, bench: Bench) -> dict[str, list[Measured]]:
    """The same sweep on each number of nodes, once a round."""
    found: dict[str, list[Measured]] = {}
    for number in range(plan.rounds):
        for nodes in plan.nodes:
            with (
                ray_cluster(bench, nodes, plan.at_once) as address,
                Stub(bench.cores.others, median_s=plan.latency_s, sigma=0) as stub,
            ):
                path = write_plan(
                    bench,
                    stub.origin,
                    f"nodes-{number}-{nodes}",
                    cells=plan.node_cells,
                    samples=plan.samples,
                    turns=False,
                    **{"max-connections": plan.connections},
                )
                wall_s, _ = bench.carry_out(["vlsb", "sweep", path, "--ray", address])
            served_s = stub.served["last_reply_at"] - stub.served["first_request_at"]
            found.setdefault(str(nodes), []).append({"wall_s": wall_s, "served_s": served_s})
            print(f"{nodes} nodes: {wall_s:.1f} s", file=sys.stderr, flush=True)
    return found


def measure_replicas(plan: Plan, bench: Bench, data: Path) -> dict[str, list[Measured]]:
    """One run over each number of replicas, and over two that are not alike, once a round."""
    found: dict[str, list[Measured]] = {}
    usual = [plan.answer_s]
    cases = {str(count): count * usual for count in plan.replicas}
    cases |= {SLOW: [*usual, SLOW_TIMES * plan.answer_s], KILLED: 2 * usual}
    for number in range(plan.rounds):
        for place, (case, latencies_s) in enumerate(cases.items()):
            name = f"replicas-{number}-{place}"
            one = _run_on_replicas(plan, bench, data, name, latencies_s, is_killed=case == KILLED)
            found.setdefault(case, []).append(one)
            print(f"replicas: {case}: {one}", file=sys.stderr, flush=True)
    return found


def _run_on_replicas(
    plan: Plan, bench: Bench, data: Path, name: str, latencies_s: Sequence[float], *, is_killed: bool
) -> Measured:
    rows = bench.folder / name / "responses.jsonl"
    with ExitStack() as held:
        stubs = [
            held.enter_context(Stub(bench.cores.others, median_s=each, sigma=0, at_once=plan.places))
            for each in latencies_s
        ]
        if is_killed:
            held.callback(_kill_in_the_middle(stubs[-1], rows, plan.replica_samples // 2).join)
        connections = 2 * plan.places * len(stubs)
        words = [
            *(sys.executable, "-m", "vlsb", "run", "--display", "none", "--model", "target", "--no-judge"),
            *(word for stub in stubs for word in ("--base-url", f"{stub.origin}/target/v1")),
            *("--data-root", str(data), "--max-connections", str(connections)),
            *("--output-dir", str(bench.folder), "--name", name),
        ]
        ended = run_on(bench.cores.client, words, home=bench.folder)
    at_s = [json.loads(line)["elapsed_s"] for line in rows.read_text().splitlines()]
    return {
        "samples": len(at_s),
        # From the lone first sample's end, as no replica is busy before.
        "run_s": at_s[-1] - at_s[0],
        "half_s": at_s[len(at_s) // 2] - at_s[0],
        "cpu_s": ended.cpu_s,
        "answered": [stub.served["requests"]["target"] if stub.served else None for stub in stubs],
    }


def _kill_in_the_middle(stub: Stub, rows: Path, half: int) -> Thread:
    """Started: it kills a stub when so many samples are answered."""

    def watch() -> None:
        while not rows.exists() or rows.read_bytes().count(b"\n") < half:
            time.sleep(0.01)
        stub.kill()

    thread = Thread(target=watch, daemon=True)
    thread.start()
    return thread


def measure_many(plan: Plan, bench: Bench, finished: Path, rows: Path) -> dict[str, list[Measured]]:
    """The plan of many cells before anything ran, and when all are done: once it knows the runs, too."""
    found: dict[str, list[Measured]] = {}
    for number in range(plan.rounds):
        path = bench.folder / f"many-{number}.yaml"
        outputs = bench.folder / path.stem
        url = {"base-url": NOWHERE}
        models = [{"model": "made-up-model", "name": f"made-up-{each}", **url} for each in range(plan.many)]
        judge = {"judge": "made-up-judge", "judge-base-url": NOWHERE}
        defaults = MADE | {"data-root": str(rows)}
        path.write_text(
            json.dumps(
                {"models": models, "judges": [judge], "defaults": defaults, "output-dir": str(outputs)}
            )
        )

        def time_it(what: str, *words: str, path: Path = path) -> None:
            wall_s, _ = bench.carry_out(["vlsb", "sweep", path, *words])
            found.setdefault(what, []).append({"wall_s": wall_s})
            print(f"{what}: {wall_s:.1f} s", file=sys.stderr, flush=True)

        time_it(NEW, "--dry-run")
        for each in range(plan.many):
            # The same bytes, which are in the page cache as those of runs that have just ended.
            shutil.copytree(finished, outputs / f"made-up-{each}", copy_function=os.link)
        time_it(DONE)
        time_it(DONE_AGAIN)
        shutil.rmtree(outputs)
    return found


def targets(parts: Mapping[str, Any]) -> Iterator[Target]:
    """The claims that the parts can check."""
    if "scheduling" in parts:
        for ours, theirs in ((HERE, LOOP), (ON_RAY, TASKS)):
            more = 1000 * (_cycle_s(parts["scheduling"][ours]) - _cycle_s(parts["scheduling"][theirs]))
            yield Target(
                f"a cell of `{ours}` takes at most {MOST_MS} ms more than of: {theirs}",
                f"{more:+.0f} ms",
                more <= MOST_MS,
            )
    if "nodes" in parts:
        times = _ratio(parts["nodes"]["1"], parts["nodes"]["2"], "served_s")
        yield Target(
            f"two nodes carry a sweep's requests at least {LEAST_NODES:g} x as fast as one",
            f"{times:.2f} x",
            times >= LEAST_NODES,
        )
    if "replicas" in parts:
        yield from _replica_targets(parts["replicas"])
    if "many" in parts:
        done_s = median(each["wall_s"] for each in parts["many"][DONE_AGAIN])
        yield Target(
            f"a sweep whose cells are all done says so in {MOST_DONE_S:g} s",
            f"{done_s:.1f} s",
            done_s <= MOST_DONE_S,
        )


def _replica_targets(found: Mapping[str, Sequence[Measured]]) -> Iterator[Target]:
    for count, least in LEAST_REPLICAS.items():
        times = _ratio(found["1"], found[str(count)], "run_s")
        yield Target(
            f"{count} replicas answer at least {least:g} x as much as one", f"{times:.2f} x", times >= least
        )
    lost_s = median(_lost_s(one) for one in found[KILLED])
    yield Target(
        f"a replica killed in the middle costs at most {MOST_LOST_S:g} s",
        f"{lost_s:.1f} s",
        lost_s <= MOST_LOST_S,
    )


def _lost_s(killed: Measured) -> float:
    """How much longer a run took than one whose second half goes on at half the rate without a pause."""
    return float(killed["run_s"] - 3 * killed["half_s"])


def _cycle_s(rounds: Sequence[Measured]) -> float:
    return median(each for found in rounds for each in found["cycles_s"])


def _ratio(rounds: Sequence[Measured], others: Sequence[Measured], what: str) -> float:
    """The median of the rounds' ratios."""
    return median(one[what] / other[what] for one, other in zip(rounds, others, strict=True))


def render(result: Mapping[str, Any]) -> str:
    """Targets, and a table a part."""
    plan, parts = PLANS[result["plan"]], result["parts"]
    said = {
        "scheduling": f"One cell at a time, {plan.cells} cells a round",
        "nodes": f"{plan.node_cells} cells of {plan.samples} samples, {plan.at_once} cells at once a node, "
        f"each with {plan.connections} requests of {plan.latency_s:g} s in flight",
        "replicas": f"{plan.replica_samples} samples, {plan.places} of which a replica answers at once, "
        f"each in {plan.answer_s:g} s",
        "many": f"{plan.many} cells of {plan.many_samples:,} samples",
    }
    pieces = [results.target_table(result["targets"])]
    for part, found in parts.items():
        loads = " and ".join(f"{load:.1f}" for load in result["loads"][part])
        pieces += [f"{said[part]} ({plan.rounds} rounds; load before and after: {loads}):"]
        pieces += [_replicas_table(plan, found) if part == "replicas" else _TABLES[part](found)]
    return "\n\n".join(pieces)


def _scheduling_table(found: Mapping[str, Sequence[Measured]]) -> str:
    header = ("contender", "/ the commands alone", "more, ms", "a cell, ms", "middle half, ms", "all, s")
    alone_s = _cycle_s(found[LOOP])
    rows = []
    for contender, rounds in found.items():
        every = sorted(1000 * each for one in rounds for each in one["cycles_s"])
        cycle_s = _cycle_s(rounds)
        rows.append(
            (
                contender,
                f"{cycle_s / alone_s:.2f}",
                "" if contender == NOTHING else f"{1000 * (cycle_s - alone_s):+.0f}",
                f"{1000 * cycle_s:.1f}",
                f"{every[len(every) // 4]:.1f} to {every[3 * len(every) // 4]:.1f}",
                f"{median(one['wall_s'] for one in rounds):.1f}",
            )
        )
    return results.table(header, rows)


def _nodes_table(found: Mapping[str, Sequence[Measured]]) -> str:
    header = (
        "nodes",
        "the command as fast, x",
        "first request to last reply as fast, x",
        "command s",
        "requests s",
    )
    one = found["1"]
    rows = [
        (
            nodes,
            f"{_ratio(one, rounds, 'wall_s'):.2f}",
            f"{_ratio(one, rounds, 'served_s'):.2f}",
            f"{median(each['wall_s'] for each in rounds):.1f}",
            f"{median(each['served_s'] for each in rounds):.1f}",
        )
        for nodes, rounds in found.items()
    ]
    return results.table(header, rows)


def _replicas_table(plan: Plan, found: Mapping[str, Sequence[Measured]]) -> str:
    header = (
        *("replicas", "as fast as one, x", "of what they can, %", "samples/s", "CPU ms a sample"),
        *("answered by the last one, %", "lost, s"),
    )
    return results.table(header, (_replicas_row(plan, found, case) for case in found))


def _replicas_row(plan: Plan, found: Mapping[str, Sequence[Measured]], case: str) -> list[str]:
    rounds = found[case]
    rate = median((one["samples"] - 1) / one["run_s"] for one in rounds)
    count = 1 + 1 / SLOW_TIMES if case == SLOW else int(case.partition(",")[0])
    can = plan.places / plan.answer_s * count
    shares = [one["answered"][-1] / sum(one["answered"]) for one in rounds if None not in one["answered"]]
    is_killed = case == KILLED
    return [
        case,
        f"{_ratio(found['1'], rounds, 'run_s'):.2f}",
        "" if is_killed else f"{100 * rate / can:.0f}",
        f"{rate:.0f}",
        f"{1000 * median(one['cpu_s'] / one['samples'] for one in rounds):.1f}",
        f"{100 * median(shares):.0f}" if shares else "",
        f"{median(_lost_s(one) for one in rounds):.1f}" if is_killed else "",
    ]


def _many_table(found: Mapping[str, Sequence[Measured]]) -> str:
    rows = [
        (what, f"{min(walls):.1f}", f"{median(walls):.1f}", f"{max(walls):.1f}")
        for what, rounds in found.items()
        for walls in [[each["wall_s"] for each in rounds]]
    ]
    return results.table(("command", "least s", "median s", "most s"), rows)


_TABLES = {"scheduling": _scheduling_table, "nodes": _nodes_table, "many": _many_table}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--plan", choices=PLANS, default="quick")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--tasks", nargs=2, metavar=("ADDRESS", "PLAN"), help=argparse.SUPPRESS)
    parser.add_argument("--nothing", nargs=2, metavar=("ADDRESS", "PLAN"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if (job := chosen.tasks or chosen.nothing) is not None:
        print(json.dumps(submit_tasks(job[0], Path(job[1]), is_nothing=chosen.tasks is None)))
        return
    plan = PLANS[chosen.plan]
    size = Size(plan.samples, plan.samples, _IMAGE_BYTES)
    wide = Size(plan.replica_samples, plan.replica_samples, _IMAGE_BYTES)
    with tempfile.TemporaryDirectory(prefix="vlsb-bench-") as folder:
        bench = Bench(make_data(chosen.data / "sweeps", size), Path(folder), Cores.available())
        measure = {
            "scheduling": lambda: measure_scheduling(plan, bench),
            "nodes": lambda: measure_nodes(plan, bench),
            "replicas": lambda: measure_replicas(plan, bench, make_data(chosen.data / "replicas", wide)),
            "many": lambda: measure_many(
                plan,
                bench,
                make_run(chosen.data, plan.many_samples),
                rows_of_run(chosen.data, plan.many_samples),
            ),
        }
        parts: dict[str, Any] = {}
        loads: dict[str, list[float]] = {}
        for part in chosen.parts.split(","):
            before = os.getloadavg()[0]
            parts[part] = measure[part]()
            loads[part] = [before, os.getloadavg()[0]]
    said = results.as_fields(targets(parts))
    result = {"plan": chosen.plan, "loads": loads, "parts": parts, "targets": said}
    results.save(NAME, result, chosen.results)
    print(render(result))


if __name__ == "__main__":
    main()
