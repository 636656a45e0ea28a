"""`vlsb report`: finished or running runs as a table, for other programs, or as a paper has them."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlsb.analysis.summary import Summary
from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.publication import bibtex_text, methods_text, paper_text
from vlsb.cli.screen import Screen, has_color
from vlsb.errors import ConfigError, StoreError
from vlsb.evaluation.options import Option
from vlsb.extras import require_extra
from vlsb.models.prices import PriceTable, load_prices
from vlsb.records import Untrusted
from vlsb.reports import documents, latex, markdown, terminal
from vlsb.reports.curves import asked_curves
from vlsb.reports.curves import written as curves_text
from vlsb.reports.encode import for_terminal
from vlsb.reports.guards import guards_of, guards_table
from vlsb.reports.leaderboard import leaderboard as places
from vlsb.reports.leaderboard import written as board_text
from vlsb.reports.official import missing_questions, to_official
from vlsb.reports.tables import FORMATS
from vlsb.store.data_root import remembered_data_root
from vlsb.store.state import load_state
from vlsb.store.summaries import (
    find_runs,
    runs_of_judge,
    stored_judge,
    summarize_run,
    summarize_state,
)

# Reports of a run whoever judged it, or of judges that they are given themselves.
_OF_ALL_JUDGES = ("--html", "--judge-bridge", "--bibtex")
_MOST_NAMED = 3
_FORMATS = ("table", "json", "csv", "markdown", "latex", "parquet", "official")


@command()
def report_command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, or directories of runs.")],
    format_: Annotated[
        str,
        Option(
            "How to write the report: table, json, csv, markdown, latex, parquet or official.",
            metavar="FORMAT",
        ),
    ] = "table",
    output: Annotated[
        Path | None,
        Option("Write the report there. (default: stdout)", metavar="FILE", variable="VLSB_REPORT_OUTPUT"),
    ] = None,
    paper: Annotated[
        bool, Option("Put each run beside the published row of its model, and say how both differ.")
    ] = False,
    leaderboard: Annotated[
        bool, Option("Rank runs by their safe rate, and show the rates of every judge.")
    ] = False,
    steps: Annotated[
        bool, Option("Show the safe rate over training, of runs with names such as step-1000.")
    ] = False,
    methods: Annotated[bool, Option("Say how each run was measured, as a paragraph for a paper.")] = False,
    bibtex: Annotated[bool, Option("Print whom to cite: VLSBench, and vlsb as it was used.")] = False,
    judge: Annotated[
        str | None,
        Option(
            "Report this one of the runs' judges alone; with --leaderboard rank by it.",
            metavar="NAME",
            variable="VLSB_SHOW_JUDGE",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        Option(
            "With --html or --format official: the data set, for its questions and images. "
            "(default: where the run read it)",
            metavar="DIR",
        ),
    ] = None,
    prices: opt.Prices = None,
    judge_bridge: Annotated[
        tuple[str, str] | None,
        Option(
            "Put a judge that leaves beside the one that follows it, corrected by human labels. Also takes "
            "--format latex.",
            metavar="OLD NEW",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        Option(
            "Write a page instead, to look through answers: one FILE.html, or a folder for large runs.",
            metavar="OUT",
            variable="VLSB_REPORT_HTML",
        ),
    ] = None,
    single: Annotated[
        bool,
        Option(
            "With --html: one file even for large runs, with smaller images.", variable="VLSB_REPORT_SINGLE"
        ),
    ] = False,
    redact: Annotated[
        bool,
        Option(
            "With --html: leave out images, and what models wrote after 80 characters.",
            variable="VLSB_REPORT_REDACT",
        ),
    ] = False,
) -> int:
    """Show the rates of runs, with intervals, coverage and bounds. Also while a run is going.

    PATH is a run's directory, or one that holds runs.
    """
    screen = Screen()
    asked: dict[str, object] = {"--html": html, "--judge-bridge": judge_bridge}
    asked |= {"--paper": paper, "--leaderboard": leaderboard, "--steps": steps}
    asked |= {"--methods": methods, "--bibtex": bibtex}
    _require_one([name for name, is_asked in asked.items() if is_asked])
    if judge is not None and (without := [name for name in _OF_ALL_JUDGES if asked[name]]):
        raise ConfigError(f"{without[0]} takes no --judge. Leave it out, or VLSB_SHOW_JUDGE unset.")
    if html is not None:
        # The data set, and Pillow for small images.
        from vlsb.cli.page import write_page

        write_page(
            paths,
            html,
            single=single,
            redact=redact,
            data_root=data_root,
            prices=load_prices(prices),
            screen=screen,
        )
        return 0
    if single or redact:
        raise ConfigError("--single and --redact are about a page: add --html FILE.html or --html FOLDER.")
    text: str | bytes
    if judge_bridge is not None:
        require_extra("stats", "vlsb report --judge-bridge")
        # numpy, scipy and statsmodels, which no other report needs.
        from vlsb.cli.bridge import bridges_text

        text = bridges_text(paths, format_, *judge_bridge)
    elif paper:
        text = paper_text(_runs(paths, judge, screen), format_)
    elif leaderboard:
        text = _leaderboard(paths, format_, judge)
    elif steps:
        text = _steps(paths, format_, judge)
    elif methods:
        text = methods_text(_runs(paths, judge, screen), format_)
    elif bibtex:
        text = bibtex_text(paths)
    elif format_ == "official":
        text = _official(paths, judge, data_root, screen)
    else:
        text = _report(paths, judge, format_, screen, load_prices(prices))
    _deliver(text, output, screen)
    return 0


def _require_one(views: list[str]) -> None:
    if len(views) > 1:
        raise ConfigError(f"{' and '.join(views)} are reports of their own. Ask for one at a time.")


def _deliver(text: str | bytes, output: Path | None, screen: Screen) -> None:
    """Write a report to the file that was named for it, else to stdout."""
    if output is None:
        if isinstance(text, bytes):
            raise ConfigError("--format parquet is no text. Name a file for it: --output report.parquet")
        screen.result(text)
        return
    try:
        output.write_bytes(text if isinstance(text, bytes) else text.encode())
    except OSError as error:
        raise StoreError.of(f"{output}: cannot be written", error) from error


def _runs(paths: list[Path], judge: str | None, screen: Screen) -> dict[Path, str | None]:
    """The runs to report, with the one judge that is asked for; those that it has not judged are named."""
    runs = find_runs(paths)
    found = runs_of_judge(runs, judge)
    if without := [str(run) for run in runs if run not in found]:
        names = ", ".join(without[:_MOST_NAMED])
        more = f" and {len(without) - _MOST_NAMED} more" if len(without) > _MOST_NAMED else ""
        screen.notice(f"Left out, since {judge} has not judged them: {names}{more}.")
    return found


def _report(
    paths: list[Path],
    judge: str | None,
    format_: str,
    screen: Screen,
    prices: PriceTable,
) -> str | bytes:
    if format_ not in _FORMATS:
        raise ConfigError(f"--format {format_}: not one of {', '.join(_FORMATS)}.")
    summaries = [
        summary
        for run, file in _runs(paths, judge, screen).items()
        for summary in summarize_run(run, judge=file, prices=prices)
    ]
    for summary in summaries:
        if summary.judge is None and format_ == "table":
            screen.notice(f"Judge it with: vlsb judge {shlex.quote(for_terminal(summary.path))}")
    if format_ == "parquet":
        require_extra("parquet", "--format parquet")
        return documents.to_parquet(summaries)
    text = _written(summaries, format_)
    if format_ == "table" and (counts := guards_of(summaries)):
        text += f"\n\n{guards_table(counts)}"
    return text


def _leaderboard(paths: list[Path], form: str, judge: str | None) -> str:
    _require_tables("--leaderboard", form)
    board = places(_summaries(paths), by=None if judge is None else Untrusted(judge))
    if board is None:
        raise ConfigError("Nothing was judged there, so no run has a place.")
    return board_text(board, form, width=_width(), color=has_color(sys.stdout))


def _steps(paths: list[Path], form: str, judge: str | None) -> str:
    _require_tables("--steps", form)
    found = asked_curves(_summaries(paths), judge=None if judge is None else Untrusted(judge))
    return curves_text(found, form, width=_width(), color=has_color(sys.stdout))


def _require_tables(option: str, form: str) -> None:
    if form not in FORMATS:
        raise ConfigError(f"{option} with --format {form}: not one of {', '.join(FORMATS)}.")


def _summaries(paths: list[Path]) -> list[Summary]:
    return [summary for run in find_runs(paths) for summary in summarize_run(run)]


def _width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _official(paths: list[Path], judge: str | None, data_root: Path | None, screen: Screen) -> str:
    """One run and one judge as the authors' script writes them: their object has room for no more."""
    # The data set's questions, which no other format needs.
    from vlsb.cli.show import missing_data, run_dataset, stored_answers

    run, *others = find_runs(paths)
    if others:
        raise ConfigError(f"--format official holds one run, not {1 + len(others)}. Name one, such as {run}.")
    state = load_state(run)
    judges = state.manifest.judges
    if judge is None and len(judges) > 1:
        names = ", ".join(each.file.removesuffix(".jsonl") for each in judges)
        raise ConfigError(f"--format official holds one judge. Name one with --judge: {names}.")
    entry = stored_judge(state.manifest, judge)
    summary = summarize_state(state, run, None if entry is None else entry.file)
    dataset = run_dataset(run, state.manifest, data_root)
    answers = stored_answers(state, entry, dataset)
    if missing := missing_questions(answers):
        why = missing_data(run) if dataset is None else "The data set at hand differs from the run's."
        screen.notice(f"{why} {missing}")
    remembered = remembered_data_root(run)
    if data_root is None and remembered is not None and remembered.is_dir():
        data_root = remembered
    return to_official(summary, answers, data_root=data_root)


def _written(summaries: list[Summary], format_: str) -> str:
    if format_ == "json":
        return documents.to_json(summaries)
    if format_ == "csv":
        return documents.to_csv(summaries)
    if format_ == "markdown":
        return markdown.to_markdown(summaries)
    if format_ == "latex":
        return latex.to_latex(summaries)
    return terminal.render(summaries, width=_width(), color=has_color(sys.stdout))
