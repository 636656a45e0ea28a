"""What serving a checkpoint is forecast to take, beside what its card, a recipe or an engine says of it.

    python -m benchmarks.memory [--readme FILE]

Nothing is measured here: `memory_cards.json` holds what was read elsewhere, each with its address. The bytes
of a checkpoint are its parameters in 16 bits. A statement is about one of so many GPUs: all of its memory,
the weights, or the cache of so many tokens. Where it names no context, ours of that day is taken: that of the
family's file in `servers/`, of `generic.yaml` for other families.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report, results
from benchmarks.results import Target
from vlsb.engines.placement import forecast

NAME = "memory"
CARDS = Path(__file__).parent / "memory_cards.json"
GB = 10**9
# Percent, of what an engine took and of what others say beforehand.
MOST_OFF_ENGINE = 5
MOST_OFF = 15
BY = {"engine": "a running engine", "publisher": "its publisher", "recipe": "a vLLM recipe"}


@dataclass(frozen=True, slots=True)
class Row:
    """One statement, and the forecast of the same bytes."""

    model: str
    said: Mapping[str, Any]
    forecast_bytes: int

    @property
    def off(self) -> float:
        """How far the forecast is from it, in percent."""
        return 100 * (self.forecast_bytes / self.said["bytes"] - 1)


def rows(cards: Mapping[str, Any]) -> Iterator[Row]:
    """Every statement of every card, with its forecast."""
    for card in cards["cards"]:
        for said in card["statements"]:
            found = forecast(
                card["config"], 2 * card["parameters"], dtype="bfloat16", context=said["context"]
            )
            parts = {
                "all": found.per_gpu(said["gpus"]),
                "weights": found.weights // said["gpus"],
                "cache": found.cache,
            }
            yield Row(card["model"], said, parts[said["of"]])


def target(found: Sequence[Row]) -> Target:
    """Close to what engines took: the others only say what they advise."""
    off = [row.off for row in found if row.said["by"] == "engine"]
    return Target(
        f"forecasts within {MOST_OFF_ENGINE} % of what running engines took",
        f"{min(off):+.1f} to {max(off):+.1f} %",
        max(map(abs, off)) <= MOST_OFF_ENGINE,
    )


def render(cards: Mapping[str, Any]) -> str:
    """The target, a row a statement, and what was said where; a reason where the two are far apart."""
    found = list(rows(cards))
    advised = [abs(row.off) for row in found if row.said["by"] != "engine" and row.said["of"] == "all"]
    near = sum(off <= MOST_OFF for off in advised)
    intro = (
        f"{len(cards['cards'])} checkpoints, read on {cards['read']}. Of {len(advised)} statements of "
        f"publishers and recipes about all memory, {near} are within {MOST_OFF} % of the forecast; it is "
        f"at most {max(advised):.1f} % off."
    )
    header = ("checkpoint", "says", "of", "GPUs", "tokens", "said, GB a GPU", "forecast", "off")
    table = [
        (
            f"{number}. {row.model.partition('/')[2]}",
            BY[row.said["by"]],
            row.said["of"],
            row.said["gpus"],
            "" if row.said["of"] == "weights" else _tokens(row.said),
            f"{row.said['bytes'] / GB:.1f}",
            f"{row.forecast_bytes / GB:.1f}",
            f"{row.off:+.1f} %",
        )
        for number, row in enumerate(found, 1)
    ]
    said = "\n".join(f"{number}. {_sentence(row)}" for number, row in enumerate(found, 1))
    met = results.target_table(results.as_fields([target(found)]))
    return "\n\n".join((intro, met, results.table(header, table), said))


def _tokens(said: Mapping[str, Any]) -> str:
    return f"{said['context']:,}" + ("" if said["context_said"] else " (ours)")


def _sentence(row: Row) -> str:
    source = row.said["source"]
    place = f"[source]({source})" if source.startswith("https://") else source
    words = f"{row.said['words']} ({place})."
    return f"{words} Off because: {row.said['why']}." if "why" in row.said else words


def shown(page: str) -> str:
    """The page with the table of the cards as they are."""
    return report.between(page, NAME, render(json.loads(CARDS.read_text())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute, put the table into the README, print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", type=Path, default=report.README)
    chosen = parser.parse_args(arguments)
    chosen.readme.write_text(shown(chosen.readme.read_text()))
    print(render(json.loads(CARDS.read_text())))


if __name__ == "__main__":
    main()
