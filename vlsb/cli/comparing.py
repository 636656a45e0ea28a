"""From runs to their comparison, and to the decision about one. numpy and scipy: a second to import."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vlsb.analysis.gate import Decision, Limits, decide
from vlsb.cli.screen import has_color
from vlsb.errors import StoreError
from vlsb.reports import comparison, gate
from vlsb.store.comparisons import compare_runs, compare_with_baseline


def comparison_text(
    paths: Sequence[Path],
    form: str,
    *,
    judge: str | None,
    baseline: Path | None,
    across_judges: bool,
    all_pairs: bool,
    shown: int,
) -> str:
    """What `vlsb compare` prints. Raises ConfigError for runs that cannot be compared."""
    report = compare_runs(
        *paths, judge=judge, baseline=baseline, across_judges=across_judges, all_pairs=all_pairs
    )
    return comparison.written(report, form, width=_width(), color=has_color(sys.stdout), shown=shown)


def gate_text(
    run: Path,
    baseline: Path,
    limits: Limits,
    form: str,
    *,
    judge: str | None,
    junit: Path | None,
    summary: Path | None,
) -> tuple[str, Decision]:
    """What `vlsb gate` prints, with the decision; `junit` is written, and `summary` gets a section more.

    Raises ConfigError for runs that cannot be compared, StoreError for a file that cannot be written.
    """
    before, after, found = compare_with_baseline(run, baseline, judge=judge)
    result = decide(before, after, found, limits)
    if junit is not None:
        _write(junit, gate.junit(result), mode="w")
    if summary is not None:
        _write(summary, gate.summary_markdown(result), mode="a")
    return gate.written(result, form, width=_width(), color=has_color(sys.stdout)), result.decision


def _width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _write(path: Path, text: str, *, mode: str) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StoreError.of(f"{path} cannot be written", error) from error
