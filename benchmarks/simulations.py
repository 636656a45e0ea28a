"""One runner for the programs that simulate: every setting in a process pool, stored, and shown on a page."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report, results
from benchmarks.results import Target


@dataclass(frozen=True, slots=True)
class Simulation:
    """What is simulated, and the place on a page, between two marks, that its table goes to.

    `simulate` takes a setting, how often it is drawn, and the seed; `assessed` says which claims its cells
    meet, if there are any.
    """

    name: str
    page: Path
    mark: str
    settings: Callable[[], Iterable[Any]]
    simulate: Callable[[Any, int, int], Sequence[Any]]
    render: Callable[[Mapping[str, Any]], str]
    assessed: Callable[[Sequence[Any], int], list[Target]] | None = None

    def shown(self, page: str, result: Mapping[str, Any]) -> str:
        """The page with the tables of this result."""
        facts = result["facts"]
        said = (
            f"{result['replicates']:,} replicates a row, seed {result['seed']} (`just bench-{self.name}`), "
            f"{facts['date']}, commit {facts['commit']}."
        )
        return report.between(page, self.mark, f"{said}\n\n{self.render(result)}")

    def result(self, replicates: int, seed: int, processes: int | None) -> dict[str, Any]:
        """The cells of every setting."""
        every = list(self.settings())
        with ProcessPoolExecutor(processes) as workers:
            found = workers.map(self.simulate, every, [replicates] * len(every), [seed] * len(every))
            cells = [cell for of_setting in found for cell in of_setting]
        result: dict[str, Any] = {"replicates": replicates, "seed": seed}
        if self.assessed is not None:
            result["targets"] = results.as_fields(self.assessed(cells, replicates))
        return {**result, "cells": [asdict(cell) for cell in cells]}

    def main(self, title: str, arguments: Sequence[str] | None = None) -> None:
        """Simulate every setting, store the result, put the tables into the page."""
        parser = argparse.ArgumentParser(description=title.splitlines()[0])
        parser.add_argument("--replicates", type=int, default=2_000)
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--processes", type=int, default=os.cpu_count())
        parser.add_argument("--results", type=Path, default=results.RESULTS)
        parser.add_argument("--page", type=Path, default=self.page)
        chosen = parser.parse_args(arguments)
        result = self.result(chosen.replicates, chosen.seed, chosen.processes)
        stored = json.loads(results.save(self.name, result, chosen.results).read_text())
        chosen.page.write_text(self.shown(chosen.page.read_text(), stored))
        print(self.render(result))
