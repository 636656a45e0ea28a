"""The command tree. A command's module is imported when the command is used, so that help waits for none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer
from typer.core import TyperGroup

from vlsb._version import __version__
from vlsb.errors import ConfigError
from vlsb.plugins import entry_points, load, owner
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from typer._click import Command, Context, HelpFormatter

_NAME = re.compile(r"[a-z][a-z0-9-]*")
# The authors' script spells options with underscores; both spellings are one option here.
_FORMER = {"skip-bad-pictures": "skip-bad-images"}
EXAMPLES = {
    "vlsb demo": "See it work: no key, no download.",
    "vlsb run --model gpt-4o": "Evaluate a model; its key is in OPENAI_API_KEY.",
    "vlsb report outputs/": "Compare the runs made so far.",
}


class Entry(NamedTuple):
    """Where a command, or a group of them, is written, and the first sentence of what it says of itself."""

    value: str
    help: str


ENTRY_POINTS = "vlsb.commands"
"""The group by which installed packages name their commands. Ours stand below, so that they are found and
listed without a look at what is installed."""
ENTRIES = {
    "run": Entry("run:run_command", "Evaluate a model on VLSBench: respond, judge, summarize."),
    "judge": Entry("run:judge_command", "Judge a run's stored responses again, with another judge."),
    "report": Entry("report:report_command", "Show the rates of runs, with intervals and coverage."),
    "plan": Entry("plan:plan_command", "Say what a run would find and cost, before it is paid for."),
    "plot": Entry("plot:plot_command", "Draw runs as a figure for a paper: SVG, PDF or PNG."),
    "compare": Entry("compare:compare_command", "Compare runs on the same samples: more than noise, or not."),
    "gate": Entry("compare:gate_command", "Decide whether a run is no less safe than its baseline."),
    "leakage": Entry("leakage:leakage_command", "Tell why a model is unsafe, from its runs in several arms."),
    "agreement": Entry("compare:agreement_command", "Compare the judges of runs on the same responses."),
    "view": Entry("show:view_command", "Look through runs in a browser, even while they run."),
    "show": Entry("show:show_command", "Read responses with their verdicts, or how they failed."),
    "audit": Entry("audit:audit_app", "Label a part of a run by hand, and measure its judges."),
    "import": Entry("exchange:import_command", "Import responses that another program logged."),
    "export": Entry("exchange:export_command", "Write a run for inspect, or as a data set to publish."),
    "serve": Entry("serve:serve_command", "Serve a local model on this machine."),
    "sweep": Entry("sweep:sweep_command", "Run all cells of a plan: models, protocols, judges."),
    "judges": Entry("models:judges_command", "List the judges that have a name: what each sees and gives."),
    "models": Entry("models:models_app", "List the models that have a name, or show one."),
    "doctor": Entry("doctor:doctor_command", "Say what is ready on this machine, and how to get the rest."),
    "engine": Entry("engine:engine_app", "List, install and stop local engines."),
    "convert": Entry("engine:convert_app", "Convert original LLaVA weights for serving."),
    "data": Entry("data:data_app", "Fetch the data set, or check a copy of it."),
    "runs": Entry("runs:runs_app", "List, join, repair and remove runs."),
    "selftest": Entry("doctor:selftest_app", "Check what is configured by attacking it."),
    "demo": Entry("run:demo_command", "Try it all on 30 embedded samples: no key, no download."),
}


class _Commands(Mapping[str, "Command"]):
    """The commands by name, each made when it is asked for."""

    def __getitem__(self, name: str) -> Command:
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter([*ENTRIES, *_commands_of_others()])

    def __len__(self) -> int:
        return len(list(iter(self)))


def _commands_of_others() -> dict[str, EntryPoint]:
    """Return the commands of other packages by name; none takes the name of one of ours."""
    points = reversed(entry_points(ENTRY_POINTS))
    return {each.name: each for each in points if _NAME.fullmatch(each.name) and each.name not in ENTRIES}


@cache
def _command(name: str) -> Command:
    if name in ENTRIES:
        module, _, attribute = ENTRIES[name].value.partition(":")
        return _made(name, getattr(import_module(f"vlsb.cli.{module}"), attribute))
    point = _commands_of_others()[name]
    loaded = load(point, f"its command {name}")
    # What another package calls a command may be anything.
    try:
        return _made(name, loaded)
    except Exception as error:
        raise ConfigError(
            f"The command {name} of the package {owner(point)} ({point.value}) is not one",
            detail=Untrusted(f"{type(error).__name__}: {error}"),
            advice="Repair or uninstall it.",
        ) from error


def _made(name: str, function_or_group: Any) -> Command:
    from vlsb.cli.commands import GUIDES, GuidedCommand, VlsbCommand, VlsbGroup

    if isinstance(function_or_group, typer.Typer):
        for command in function_or_group.registered_commands:
            command.cls = VlsbCommand
        function_or_group.info.cls = VlsbGroup
        made: Command = typer.main.get_group(function_or_group)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name, cls=GuidedCommand if name in GUIDES else VlsbCommand)(function_or_group)
        made = typer.main.get_command(alone)
    made.name = name
    return made


class _Root(TyperGroup):
    """The top of the tree. Its help page is plain text, and names commands without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast("dict[str, Command]", _Commands())

    def list_commands(self, ctx: Context) -> list[str]:
        return list(ENTRIES)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in ENTRIES.items()])
        if points := entry_points(ENTRY_POINTS):
            named, rows = _commands_of_others(), []
            for point in points:
                # What other packages say of theirs; their code is not imported for it.
                about = point.dist.metadata["Summary"] if point.dist is not None else None
                text = f"{about or ''} (of the package {owner(point)})"
                if point is not named.get(point.name):
                    text = f"Left out: the name is taken or no name. (of the package {owner(point)})"
                rows.append((for_terminal(Untrusted(point.name)), for_terminal(Untrusted(text.strip()))))
            with formatter.section("Commands of other packages"):
                formatter.write_dl(rows)
        with formatter.section("Examples"):
            formatter.write_dl(list(EXAMPLES.items()))


app = typer.Typer(
    name="vlsb",
    cls=_Root,
    no_args_is_help=True,
    context_settings={
        "token_normalize_func": lambda token: _FORMER.get(name := token.replace("_", "-"), name),
        "help_option_names": ["-h", "--help"],
    },
    help="Evaluate vision-language models on VLSBench, concurrently and resumably.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"vlsb {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Evaluate vision-language models on VLSBench, concurrently and resumably."""
