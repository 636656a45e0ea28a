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
    meet, if there are any. `read` makes a cell of a stored one, so that some settings can be simulated alone.
    """

    name: str
    page: Path
    mark: str
    settings: Callable[[], Iterable[Any]]
    simulate: Callable[[Any, int, int], Sequence[Any]]
    render: Callable[[Mapping[str, Any]], str]
    assessed: Callable[[Sequence[Any], int], list[Target]] | None = None
    read: Callable[[Mapping[str, Any]], Any] | None = None

    def shown(self, page: str, result: Mapping[str, Any]) -> str:
        """The page with the tables of this result."""
        facts = result["facts"]
        said = (
            f"{result['replicates']:,} replicates a row, seed {result['seed']} (`just bench-{self.name}`), "
            f"{facts['date']}, commit {facts['commit']}."
        )
        return report.between(page, self.mark, f"{said}\n\n{self.render(result)}")

    def result(
        self, replicates: int, seed: int, processes: int | None, kept: Mapping[Any, Sequence[Any]]
    ) -> dict[str, Any]:
        """The cells of every setting; of some those that are kept."""
        every = [each for each in self.settings() if each not in kept]
        with ProcessPoolExecutor(processes) as workers:
            found = workers.map(self.simulate, every, [replicates] * len(every), [seed] * len(every))
            cells_of = {**kept, **dict(zip(every, found, strict=True))}
        cells = [cell for setting in self.settings() for cell in cells_of[setting]]
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
        if self.read is not None:
            parser.add_argument(
                "--only", default="", help="simulate rows with these words, and keep the others"
            )
        chosen = parser.parse_args(arguments)
        kept: dict[Any, list[Any]] = {}
        if self.read is not None and chosen.only:
            stored = json.loads((chosen.results / f"{self.name}.json").read_text())
            for cell in map(self.read, stored["cells"]):
                if chosen.only not in " ".join(map(str, cell.setting)):
                    kept.setdefault(cell.setting, []).append(cell)
        result = self.result(chosen.replicates, chosen.seed, chosen.processes, kept)
        stored = json.loads(results.save(self.name, result, chosen.results).read_text())
        chosen.page.write_text(self.shown(chosen.page.read_text(), stored))
        print(self.render(result))
