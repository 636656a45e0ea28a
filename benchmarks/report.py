"""Put the results into the README: every table between its two marks is written anew.

    python -m benchmarks.report [--results FOLDER] [--readme FILE]

A program that was not run keeps its place and says so. With `--check` nothing is written, and the exit
code is 1 if the README does not show the results.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import page, peers, rate_limits, results, scaling, startup, sweeps, throughput, wall_time

README = Path(__file__).parent / "README.md"
RENDER: dict[str, Callable[[Mapping[str, Any]], str]] = {
    module.NAME: module.render
    for module in (throughput, wall_time, rate_limits, startup, scaling, sweeps, page, peers)
}
TARGETS = "targets"
NOT_RUN = "Not measured yet."


def written(readme: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The README with the tables of the results that there are."""
    every = [target for name in RENDER if name in found for target in found[name].get("targets", ())]
    readme = between(readme, TARGETS, results.target_table(every) if every else NOT_RUN)
    for name, render in RENDER.items():
        text = f"{_facts(found[name]['facts'])}\n\n{render(found[name])}" if name in found else NOT_RUN
        readme = between(readme, name, text)
    return readme


def between(readme: str, name: str, text: str) -> str:
    """The page with this text in the place that is marked with that name."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    block = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not block.search(readme):
        raise SystemExit(f"The page has no place for {name}: {begin} and {end}.")
    return block.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", readme)


def _facts(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['date']}, commit {facts['commit']}. {facts['machine']}; Python {facts['python']}, "
        f"OpenSSL {facts['openssl']}, {versions}. Load at the start: {facts['load']}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the results, write the README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args(arguments)
    found = {name: result for name in RENDER if (result := results.load(name, chosen.results)) is not None}
    before = chosen.readme.read_text()
    after = written(before, found)
    if chosen.check:
        sys.exit(0 if before == after else 1)
    chosen.readme.write_text(after)


if __name__ == "__main__":
    main()
