"""How options reach the command line: those of a run from its fields, those of other commands from here.

`--data_root` and the other spellings of the authors' script work because option names are read with `_`
and `-` alike (see `vlsb.cli.app`).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from vlsb.config import MOST_EPOCHS
from vlsb.evaluation.options import HelpPanel, Option, RunOptions, as_flag

_FIELDS = {field.name: field for field in fields(RunOptions)}
_LISTS = {
    tuple[str, ...]: list[str] | None,
    tuple[int, ...]: list[int] | None,
    tuple[float, ...]: list[float] | None,
}


def _lines(
    context: typer.Context, parameter: typer.CallbackParam, value: list[str] | None
) -> list[str] | None:
    """In a variable, a repeatable option has one value a line: names and JSON hold blanks."""
    source = context.get_parameter_source(parameter.name or "")
    if source is None or source.name != "ENVIRONMENT":
        return value
    text = os.environ.get(str(parameter.envvar), "")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _option(name: str, about: Option, *, is_repeatable: bool = False) -> Any:
    """An option as typer has it, without its default."""
    if about.is_argument:
        return typer.Argument(metavar=about.metavar, help=about.help, hidden=True)
    return typer.Option(
        ...,
        as_flag(name),
        *([about.short] if about.short else []),
        help=about.help,
        rich_help_panel=about.panel,
        metavar=about.metavar,
        envvar=about.variable or f"VLSB_{name.upper()}",
        show_envvar=False,
        min=about.min,
        max=about.max,
        callback=_lines if is_repeatable else None,
    )


def _run_option(name: str, *, is_repeatable: bool = False, **others: Any) -> Any:
    """An option of a run for another command; `others` is what it says of itself there."""
    kind, about = get_args(_FIELDS[name].type)
    return _option(name, replace(about, **others), is_repeatable=is_repeatable or kind == tuple[str, ...])


def takes_run_options(
    *names: str, repeatable: Collection[str] = ()
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the named options of a run, all where none is named, for its `**given`.

    Options named by `repeatable` may be given more than once, and are a list.
    """

    def with_options(command: Callable[..., int]) -> Callable[..., int]:
        own = inspect.signature(command, eval_str=True)
        parameters = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
        for name in names or _FIELDS:
            kind = get_args(_FIELDS[name].type)[0]
            if name in repeatable:
                kind = tuple[str, ...]
            option = _run_option(name, is_repeatable=name in repeatable)
            option.default = None if kind in _LISTS else _FIELDS[name].default
            parameters.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=_LISTS.get(kind, kind)
                )
            )
        vars(command)["__signature__"] = own.replace(parameters=parameters)
        return command

    return with_options


Category = Annotated[list[str] | None, _run_option("category")]
DataRoot = Annotated[Path | None, _run_option("data_root")]
DemoOutputDir = Annotated[
    Path | None,
    _run_option("output_dir", help="Parent directory of the run. (default: a temporary one)"),
]
Display = Annotated[str | None, _run_option("display")]
EngineChoice = Annotated[str, _run_option("engine")]
JudgeRetry = Annotated[
    list[str] | None,
    _run_option("retry", help="Do this outcome again too (judge_refused, judge_invalid, ...)."),
]
Calibrate = Annotated[
    int | None,
    _option(
        "calibrate",
        Option(
            "Judge about N drawn responses first, compare with the run's first judge, ask before the rest.",
            HelpPanel.JUDGE,
            metavar="N",
            min=20,
        ),
    ),
]
ServersDir = Annotated[Path | None, _run_option("servers_dir")]
# Its own variable: VLSB_FORMAT names a format of `vlsb report`.
ModelsFormat = Annotated[
    str,
    _option(
        "format",
        Option("How to write the list.", metavar="table|json", variable="VLSB_MODELS_FORMAT"),
    ),
]
JudgesDir = Annotated[Path | None, _run_option("judges_dir")]
# Its own variable: VLSB_FORMAT names a format of `vlsb report`.
JudgesFormat = Annotated[
    str,
    _option(
        "format",
        Option("How to write the list.", metavar="table|json", variable="VLSB_JUDGES_FORMAT"),
    ),
]
Prices = Annotated[Path | None, _run_option("prices")]
Resume = Annotated[bool, _run_option("resume")]
Revision = Annotated[str | None, _run_option("revision")]
SubCategory = Annotated[list[str] | None, _run_option("sub_category")]
ReportFormat = Annotated[
    str,
    _option(
        "format",
        Option(
            "How to write the report: table, json, csv, markdown, latex, parquet or official.",
            metavar="FORMAT",
        ),
    ),
]
ReportOutput = Annotated[
    Path | None,
    _option(
        "output",
        Option("Write the report there. (default: stdout)", metavar="FILE", variable="VLSB_REPORT_OUTPUT"),
    ),
]
Paper = Annotated[
    bool,
    _option("paper", Option("Put each run beside the published row of its model, and say how both differ.")),
]
Leaderboard = Annotated[
    bool, _option("leaderboard", Option("Rank runs by their safe rate, and show the rates of every judge."))
]
Steps = Annotated[
    bool,
    _option("steps", Option("Show the safe rate over training, of runs with names such as step-1000.")),
]
Methods = Annotated[
    bool, _option("methods", Option("Say how each run was measured, as a paragraph for a paper."))
]
Bibtex = Annotated[bool, _option("bibtex", Option("Print whom to cite: VLSBench, and vlsb as it was used."))]
# Their own variables: one that is left set must not choose another figure.
PlotFile = Annotated[
    Path,
    _option(
        "out", Option("The figure's file: .svg, .pdf or .png.", metavar="FILE", variable="VLSB_PLOT_OUT")
    ),
]
PlotKind = Annotated[
    str,
    _option(
        "kind",
        Option(
            "What to draw.",
            metavar="labels|categories|radar|steps|transitions|agreement",
            variable="VLSB_PLOT_KIND",
        ),
    ),
]
PlotWidth = Annotated[
    str,
    _option(
        "width",
        Option(
            "One column of a paper (3.3 inches), or both (6.9).",
            metavar="single|double",
            variable="VLSB_PLOT_WIDTH",
        ),
    ),
]
PlotJudge = Annotated[
    str | None,
    _option(
        "judge",
        Option("Draw this judge's labels only. (default: all)", metavar="NAME", variable="VLSB_PLOT_JUDGE"),
    ),
]
AgreementFormat = Annotated[
    str,
    _option(
        "format",
        Option(
            "How to write the comparison.",
            metavar="table|json|csv|markdown|latex",
            variable="VLSB_AGREEMENT_FORMAT",
        ),
    ),
]
CompareBaseline = Annotated[
    Path | None,
    _option(
        "baseline",
        Option(
            "The run that the others are held against, by path or name. (default: the first)",
            metavar="RUN",
            variable="VLSB_COMPARE_BASELINE",
        ),
    ),
]
AllPairs = Annotated[
    bool,
    _option("all_pairs", Option("Compare every two runs, not each with the baseline.")),
]
# Their own variables: VLSB_JUDGE and VLSB_FORMAT are of other commands.
ComparedJudge = Annotated[
    str | None,
    _option(
        "judge",
        Option(
            "By whose labels, as its name or its file's. (default: the first judge that all runs have)",
            metavar="NAME",
            variable="VLSB_COMPARE_JUDGE",
        ),
    ),
]
AcrossJudges = Annotated[
    bool,
    _option(
        "across_judges",
        Option("Let runs have different judges, if one of the runs measures how far these agree."),
    ),
]
ShownChanges = Annotated[
    int,
    _option(
        "show",
        Option("List so many samples whose label changed, 0 for all.", metavar="N", min=0),
    ),
]
CompareFormat = Annotated[
    str,
    _option(
        "format",
        Option(
            "How to write the comparison.",
            metavar="table|json|csv|markdown|latex",
            variable="VLSB_COMPARE_FORMAT",
        ),
    ),
]
GateBaseline = Annotated[
    Path,
    _option(
        "baseline",
        Option(
            "The run that it must not be worse than, on the same samples.",
            metavar="RUN",
            variable="VLSB_GATE_BASELINE",
        ),
    ),
]
MaxDrop = Annotated[
    float,
    _option(
        "max_drop", Option("How many points of the safe rate may be lost.", metavar="POINTS", min=0, max=100)
    ),
]
MaxRefusalRise = Annotated[
    float | None,
    _option(
        "max_refusal_rise",
        Option("How many points the refusal rate may rise.", metavar="POINTS", min=0, max=100),
    ),
]
MaxRefusalDrop = Annotated[
    float | None,
    _option(
        "max_refusal_drop",
        Option("How many points the refusal rate may fall.", metavar="POINTS", min=0, max=100),
    ),
]
MinCoverage = Annotated[
    float,
    _option(
        "min_coverage",
        Option(
            "How much of the selection must have a label, in both runs.", metavar="PERCENT", min=0, max=100
        ),
    ),
]
Junit = Annotated[
    Path | None, _option("junit", Option("Also write the checks as JUnit's XML.", metavar="FILE"))
]
JobSummary = Annotated[
    Path | None,
    _option(
        "summary",
        Option("Also append the result as Markdown, as for $GITHUB_STEP_SUMMARY.", metavar="FILE"),
    ),
]
GateFormat = Annotated[
    str,
    _option(
        "format",
        Option(
            "How to write the result.", metavar="table|json|csv|markdown|latex", variable="VLSB_GATE_FORMAT"
        ),
    ),
]
OfficialDataRoot = Annotated[
    Path | None,
    _option(
        "data_root",
        Option(
            "With --html or --format official: the data set, for its questions and images. "
            "(default: where the run read it)",
            metavar="DIR",
        ),
    ),
]
# Their own variables: VLSB_JUDGE and VLSB_LIMIT say what the next run asks for, in other terms.
OfficialJudge = Annotated[
    str | None,
    _option(
        "judge",
        Option(
            "Report this one of the runs' judges alone; with --leaderboard rank by it.",
            metavar="NAME",
            variable="VLSB_SHOW_JUDGE",
        ),
    ),
]
JudgeBridge = Annotated[
    tuple[str, str] | None,
    _option(
        "judge_bridge",
        Option(
            "Put a judge that leaves beside the one that follows it, corrected by human labels. Also takes "
            "--format latex.",
            metavar="OLD NEW",
        ),
    ),
]
HtmlPage = Annotated[
    Path | None,
    _option(
        "html",
        Option(
            "Write a page instead, to look through answers: one FILE.html, or a folder for large runs.",
            metavar="OUT",
            variable="VLSB_REPORT_HTML",
        ),
    ),
]
SinglePage = Annotated[
    bool,
    _option(
        "single",
        Option(
            "With --html: one file even for large runs, with smaller images.", variable="VLSB_REPORT_SINGLE"
        ),
    ),
]
RedactedPage = Annotated[
    bool,
    _option(
        "redact",
        Option(
            "With --html: leave out images, and what models wrote after 80 characters.",
            variable="VLSB_REPORT_REDACT",
        ),
    ),
]
ShownJudge = Annotated[
    str | None,
    _option(
        "judge",
        Option(
            "Which of the run's judges, by its name or its file's. (default: the first)",
            metavar="NAME",
            variable="VLSB_SHOW_JUDGE",
        ),
    ),
]
ShownLimit = Annotated[
    int | None,
    _option(
        "limit",
        Option(
            "Show the first N, 0 for all. (default: 5; 20 with --failed; all that are named by ID)",
            metavar="N",
            variable="VLSB_SHOW_LIMIT",
            min=0,
        ),
    ),
]
ShownDataRoot = Annotated[
    Path | None,
    _option(
        "data_root",
        Option(
            "The data set of the run, for its instructions. (default: where the run read it)", metavar="DIR"
        ),
    ),
]
ShownLabel = Annotated[
    list[str] | None,
    _option(
        "label",
        Option(
            "Only this label (unsafe, safe_refusal, safe_warning); repeat for more.",
            metavar="LABEL",
        ),
        is_repeatable=True,
    ),
]
ShownOutcome = Annotated[
    list[str] | None,
    _option(
        "outcome",
        Option(
            "Only this outcome (target_blocked, judge_invalid, ...); repeat for more.",
            metavar="OUTCOME",
        ),
        is_repeatable=True,
    ),
]
ShownFailed = Annotated[
    bool,
    _option(
        "failed",
        Option("Only what ended without a verdict, with the reason.", variable="VLSB_SHOW_FAILED"),
    ),
]
ShownEpoch = Annotated[
    int | None,
    _option("epoch", Option("Only the responses of this epoch.", metavar="K", min=1, max=MOST_EPOCHS)),
]
SurveyedDataRoot = Annotated[
    Path | None,
    _option(
        "data_root",
        Option("A copy of VLSBench to look at. (default: the Hugging Face Hub's cache)", metavar="DIR"),
    ),
]
# Its own variable: VLSB_MODEL may be a hosted model.
SurveyedModel = Annotated[
    str | None,
    _option(
        "model",
        Option(
            "A local model to check: whether it could be started here.",
            metavar="NAME",
            variable="VLSB_DOCTOR_MODEL",
        ),
    ),
]
# Its own variable: VLSB_FORMAT names a format of `vlsb report`.
SurveyFormat = Annotated[
    str,
    _option(
        "format",
        Option("How to write what was found.", metavar="table|json", variable="VLSB_DOCTOR_FORMAT"),
    ),
]
# Their own variables: VLSB_MODEL, VLSB_NAME and VLSB_FORMAT speak of other commands.
ImportedModel = Annotated[
    str,
    _option(
        "model",
        Option("The target's name, as reports show it.", metavar="NAME", variable="VLSB_IMPORT_MODEL"),
    ),
]
ImportedName = Annotated[
    str | None,
    _option(
        "name",
        Option(
            "Name of the run's directory. (default: the model's)", metavar="NAME", variable="VLSB_IMPORT_NAME"
        ),
    ),
]
ImportFormat = Annotated[
    str,
    _option(
        "format",
        Option(
            "Which program wrote the files.",
            metavar="auto|official|deepsafe|lmms_eval|inspect|vlmevalkit",
            variable="VLSB_IMPORT_FORMAT",
        ),
    ),
]
ImportOutputDir = Annotated[Path, _run_option("output_dir")]
ImportedDataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        "--data",
        help="A copy of VLSBench: the data set that was asked about. (default: the Hugging Face Hub's cache)",
        metavar="DIR",
        envvar="VLSB_DATA_ROOT",
        show_envvar=False,
    ),
]
SkipUnknown = Annotated[
    bool,
    _option(
        "skip_unknown",
        Option(
            "Leave rows out that belong to no sample, or to several, and count them.",
            variable="VLSB_IMPORT_SKIP_UNKNOWN",
        ),
    ),
]
JudgedBy = Annotated[
    str | None,
    _option(
        "judged_by",
        Option(
            "Who gave the files' labels, where they do not say. (default: such labels are left out)",
            metavar="NAME",
            variable="VLSB_IMPORT_JUDGED_BY",
        ),
    ),
]
ExportTarget = Annotated[
    str,
    _option("to", Option("For whom.", metavar="inspect|hub", variable="VLSB_EXPORT_TO")),
]
ExportOut = Annotated[
    Path,
    _option(
        "out",
        Option(
            "What to write, which must not exist: FILE.eval or FILE.json for inspect, a folder for the Hub.",
            metavar="PATH",
            variable="VLSB_EXPORT_OUT",
        ),
    ),
]
Redact = Annotated[
    str | None,
    _option(
        "redact",
        Option(
            "What to leave out of what models wrote: nothing, all but the beginnings, or everything. "
            "(default: none for inspect, everything for the Hugging Face Hub)",
            metavar="none|tails|responses",
            variable="VLSB_EXPORT_REDACT",
        ),
    ),
]
Annotator = Annotated[
    str,
    _option(
        "annotator",
        Option(
            "Who labels: a short name. Each annotator is a judge of their own.",
            metavar="NAME",
            variable="VLSB_ANNOTATOR",
        ),
    ),
]
AuditSize = Annotated[
    int,
    _option(
        "n",
        Option("About how many responses to draw.", metavar="N", variable="VLSB_AUDIT_N", min=1),
    ),
]
AuditSeed = Annotated[
    int | None,
    _option("seed", Option("Another draw. (default: 0)", metavar="N", variable="VLSB_AUDIT_SEED")),
]
AuditFormat = Annotated[
    str,
    _option(
        "format",
        Option(
            "How to write the report.",
            metavar="table|json|csv|markdown|latex",
            variable="VLSB_AUDIT_FORMAT",
        ),
    ),
]
ExportFormat = Annotated[
    str,
    _option(
        "format",
        Option("For which program.", metavar="csv|label-studio", variable="VLSB_AUDIT_EXPORT_FORMAT"),
    ),
]
ExportOutput = Annotated[
    Path | None,
    _option(
        "output",
        Option("The file to write. (default: one in the run)", metavar="FILE", variable="VLSB_AUDIT_OUTPUT"),
    ),
]
CompletedBy = Annotated[
    str | None,
    _option(
        "completed_by",
        Option(
            "Of a Label Studio project with several annotators: whose labels, by number or address.",
            metavar="WHO",
            variable="VLSB_AUDIT_COMPLETED_BY",
        ),
    ),
]
Offline = Annotated[
    bool,
    _option("offline", Option("Do not ask the Hugging Face Hub; what is in its cache can be used.")),
]
# Its own variable: VLSB_REVISION is the weights'.
DataRevision = Annotated[
    str | None,
    _option(
        "revision",
        Option(
            "Commit or branch of the data set. (default: main)", metavar="SHA", variable="VLSB_DATA_REVISION"
        ),
    ),
]
Port = Annotated[
    int | None,
    _option(
        "port",
        Option("Port on 127.0.0.1. (default: a free one)", HelpPanel.SERVER, metavar="N", min=1, max=65535),
    ),
]
ViewPort = Annotated[
    int | None,
    _option(
        "port",
        Option(
            "Port on 127.0.0.1. (default: a free one)",
            metavar="N",
            variable="VLSB_VIEW_PORT",
            min=1,
            max=65535,
        ),
    ),
]
OpenBrowser = Annotated[
    bool, _option("open", Option("Open it in the system's browser.", variable="VLSB_VIEW_OPEN"))
]
Detach = Annotated[
    bool,
    _option("detach", Option("Return when it is ready; it runs on in the background.", HelpPanel.SERVER)),
]
# Its own variable: one that is left set must not stop what another command is asked about.
Rebuild = Annotated[bool, _option("rebuild", Option("Build it anew, even if it is there."))]
StopAll = Annotated[bool, _option("all", Option("Stop every server.", variable="VLSB_STOP_ALL"))]
VisionTower = Annotated[
    str | None,
    _option(
        "vision_tower",
        Option(
            "CLIP tower: a folder or an id on the Hugging Face Hub. (default: as SRC says)", metavar="TOWER"
        ),
    ),
]
SweepDryRun = Annotated[
    bool,
    _run_option("dry_run", help="Show cells, GPUs, downloads, what is left, cost and time; start nothing."),
]
SweepWatch = Annotated[
    bool,
    _option("watch", Option("Go on with checkpoints that appear where the plan has a pattern.")),
]
SweepPrepare = Annotated[
    bool,
    _option("prepare", Option("Only fetch data, engines and weights, for nodes without a network.")),
]
SweepRay = Annotated[
    str | None,
    _option("ray", Option("Run the cells on a Ray cluster.", metavar="auto|ADDRESS")),
]
SweepMaxCost = Annotated[
    float | None,
    _run_option(
        "max_cost",
        help="Stop when the plan's runs have cost so many dollars, over all cells, judges and starts.",
    ),
]
SweepSlurm = Annotated[bool, _option("slurm", Option("Run the cells as Slurm arrays."))]
SweepSchema = Annotated[bool, _option("schema", Option("Print the JSON schema of a plan, for an editor."))]
Yes = Annotated[bool, _run_option("yes")]
# Their own variables: VLSB_MODEL and VLSB_JUDGE say what the next run asks for.
RunsSort = Annotated[
    str,
    _option(
        "sort",
        Option("The order.", metavar="name|target|created|changed|rows", variable="VLSB_RUNS_SORT"),
    ),
]
RunsTarget = Annotated[
    str | None,
    _option(
        "target",
        Option("Only runs whose target has this in its name.", metavar="TEXT", variable="VLSB_RUNS_TARGET"),
    ),
]
RunsJudge = Annotated[
    str | None,
    _option(
        "judge",
        Option(
            "Only runs with a judge that has this in its name.", metavar="TEXT", variable="VLSB_RUNS_JUDGE"
        ),
    ),
]
RunsFormat = Annotated[
    str,
    _option(
        "format",
        Option("How to write the list.", metavar="table|json", variable="VLSB_RUNS_FORMAT"),
    ),
]
MergeInto = Annotated[
    Path,
    _option("into", Option("The new run's directory.", metavar="DIR", variable="VLSB_MERGE_INTO")),
]
RemoveYes = Annotated[
    bool,
    _option("yes", Option("Do not ask.", short="-y", variable="VLSB_REMOVE_YES")),
]
