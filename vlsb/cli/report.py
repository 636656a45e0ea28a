"""`vlsb report`: finished or running runs as a table, for other programs, or as a paper has them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

from vlsb.analysis.summary import Summary
from vlsb.cli import options as opt
from vlsb.cli.command import TABLES, Result, command, require_choice
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, first_of
from vlsb.evaluation.options import Option
from vlsb.extras import require_extra
from vlsb.models.prices import PriceTable, load_prices
from vlsb.records import Untrusted
from vlsb.reports import documents, rates_table, writers
from vlsb.reports.compliance import compliance_of, compliance_table
from vlsb.reports.curves import asked_curves, curves_report
from vlsb.reports.documents import rates_report, to_markdown, to_parquet
from vlsb.reports.encode import for_terminal
from vlsb.reports.exports import missing_questions, to_official
from vlsb.reports.leaderboard import board_report
from vlsb.reports.leaderboard import leaderboard as places
from vlsb.reports.notes import guards_of, guards_table
from vlsb.reports.paper import PROSE, bibtex_text, methods_text, paper_report, parities_of
from vlsb.reports.report import Report
from vlsb.reports.writers.terminal import tables_text
from vlsb.store.listing import find_runs
from vlsb.store.manifest import remembered_data_root, require_vlsbench
from vlsb.store.summaries import runs_of_judge, stored_judge, summarize_run, summarize_state

# Reports of a run whoever judged it, or of judges that they are given themselves.
_OF_ALL_JUDGES = ("--html", "--judge-bridge", "--bibtex")
_MOST_NAMED = 3


@command(
    form=Option(
        "How to write the report: table, json, csv, markdown, latex, parquet or official.",
        metavar="FORMAT",
        variable="VLSB_FORMAT",
        choices=(*TABLES, "parquet", "official"),
    ),
    output="Write the report there. (default: stdout)",
)
def report_command(
    paths: opt.Paths,
    format_: str,
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
            "Report this judge's labels alone; with --leaderboard, rank by them.",
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
    given: Annotated[
        Path | None,
        Option(
            "Estimate the rates over all samples of this earlier run, of which PATH answered a random part.",
            metavar="BASELINE",
        ),
    ] = None,
    judge_bridge: Annotated[
        tuple[str, str] | None,
        Option(
            "Put an old judge beside its replacement, both corrected by human labels. Also takes "
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
) -> Report | Result | str | None:
    """Show the rates of runs, with intervals, coverage and bounds. Also while a run is going.

    PATH is a run's directory, or one that holds runs.
    """
    screen = Screen()
    asked: dict[str, object] = {"--html": html, "--judge-bridge": judge_bridge, "--given": given}
    asked |= {"--paper": paper, "--leaderboard": leaderboard, "--steps": steps}
    asked |= {"--methods": methods, "--bibtex": bibtex}
    views = [name for name, is_asked in asked.items() if is_asked]
    if len(views) > 1:
        raise ConfigError(f"{' and '.join(views)} are reports of their own. Ask for one at a time.")
    if judge is not None and (without := [name for name in _OF_ALL_JUDGES if asked[name]]):
        raise ConfigError(f"{without[0]} takes no --judge. Leave it out, or VLSB_SHOW_JUDGE unset.")
    if html is not None:
        # The data set, and Pillow for small images.
        from vlsb.reports.html.pages import write_page

        table = load_prices(prices)
        screen.answer(
            write_page(
                paths,
                html,
                single=single,
                redact=redact,
                data_root=data_root,
                prices=table,
                say=screen.notice,
            )
        )
        return None
    if single or redact:
        raise ConfigError("--single and --redact are about a page: add --html FILE.html or --html FOLDER.")
    if methods:
        require_choice("--methods with --format", format_, PROSE)
        return methods_text(_runs(paths, judge, screen), format_)
    if bibtex:
        return bibtex_text(paths)
    for view in views:
        require_choice(f"{view} with --format", format_, TABLES)
    if judge_bridge is not None:
        require_extra("stats", "vlsb report --judge-bridge")
        # numpy, scipy and statsmodels, which no other report needs.
        from vlsb.reports.bridge import bridge_report, bridges_of

        return bridge_report(bridges_of(paths, *judge_bridge))
    if given is not None:
        require_extra("stats", "vlsb report --given")
        # numpy, scipy and statsmodels, as for --judge-bridge.
        from vlsb.reports.given import given_report
        from vlsb.store.comparisons import given_baseline

        if len(paths) != 1:
            raise ConfigError(f"--given is about one run, not {len(paths)}. Name one.")
        return given_report(given_baseline(paths[0], given, judge=judge))
    if paper:
        return paper_report(parities_of(_runs(paths, judge, screen)))
    named = None if judge is None else Untrusted(judge)
    if leaderboard:
        if (board := places(_summaries(paths), by=named)) is None:
            raise ConfigError("Nothing was judged there, so no run has a place.")
        return board_report(board)
    if steps:
        return curves_report(asked_curves(_summaries(paths), judge=named))
    if format_ == "official":
        return _official(paths, judge, data_root, screen)
    return _rates(_runs(paths, judge, screen), format_, screen, load_prices(prices))


def _runs(paths: list[Path], judge: str | None, screen: Screen) -> dict[Path, str | None]:
    """Return the runs to report, with the one judge that is asked for; name those that it has not judged."""
    runs = find_runs(paths)
    judged = runs_of_judge(runs, judge)
    if without := [str(run) for run in runs if run not in judged]:
        screen.notice(f"Left out, since {judge} has not judged them: {first_of(without, _MOST_NAMED)}.")
    return judged


def _rates(runs: Mapping[Path, str | None], form: str, screen: Screen, prices: PriceTable) -> Result:
    summaries = [
        summary for run, file in runs.items() for summary in summarize_run(run, judge=file, prices=prices)
    ]
    for summary in summaries:
        if summary.judge is None and form == "table":
            screen.notice(f"Judge it with: vlsb judge {shlex.quote(for_terminal(summary.path))}")
    if form == "parquet":
        require_extra("parquet", "--format parquet")
    return Result(partial(_written, summaries))


def _summaries(paths: list[Path]) -> list[Summary]:
    return [summary for run in find_runs(paths) for summary in summarize_run(run)]


def _official(paths: list[Path], judge: str | None, data_root: Path | None, screen: Screen) -> str:
    """One run and one judge as the authors' script writes them: their object has room for no more."""
    # The data set's questions, which no other format needs.
    from vlsb.reports.stored import StoredRun

    run, *others = find_runs(paths)
    if others:
        raise ConfigError(f"--format official holds one run, not {1 + len(others)}. Name one, such as {run}.")
    stored = StoredRun.read(run, data_root)
    state = stored.state
    require_vlsbench(run, state.manifest, "--format official")
    judges = state.manifest.judges
    if judge is None and len(judges) > 1:
        names = ", ".join(each.stem for each in judges)
        raise ConfigError(f"--format official holds one judge. Name one with --judge: {names}.")
    entry = stored_judge(state.manifest, judge)
    summary = summarize_state(state, run, None if entry is None else entry.file)
    answers = stored.answers(entry)
    if missing := missing_questions(answers):
        why = stored.lack if stored.dataset is None else "The data set at hand differs from the run's."
        screen.notice(f"{why} {missing}")
    remembered = remembered_data_root(run)
    if data_root is None and remembered is not None and remembered.is_dir():
        data_root = remembered
    return to_official(summary, answers, data_root=data_root)


def _written(summaries: list[Summary], form: str, *, width: int, color: bool) -> str | bytes:
    special: dict[str, Callable[[list[Summary]], str | bytes]] = {
        "markdown": to_markdown,
        "latex": documents.to_latex,
        "parquet": to_parquet,
    }
    if form in special:
        return special[form](summaries)
    if form != "table":
        return writers.write(rates_report(summaries), form, width=width, color=color)
    text, counts = rates_table.render(summaries, width=width, color=color), guards_of(summaries)
    if found := compliance_of(summaries):
        text += "\n" + tables_text([compliance_table(found)], width=width, color=color)
    return f"{text}\n\n{guards_table(counts)}" if counts else text
