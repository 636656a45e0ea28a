"""The command tree. A command's module is imported when the command is used, so that help waits for none."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from vlsb._version import __version__

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

# The authors' script spells options with underscores; both spellings are one option here.
_FORMER = {"skip-bad-pictures": "skip-bad-images"}


def _option_name(token: str) -> str:
    """An option's name as it is written here; former names still work."""
    token = token.replace("_", "-")
    return _FORMER.get(token, token)


_CONTEXT = {
    "token_normalize_func": _option_name,
    "help_option_names": ["-h", "--help"],
}


EXAMPLES = {
    "vlsb demo": "See it work: no key, no download.",
    "vlsb run --model gpt-4o": "Evaluate a model; its key is in OPENAI_API_KEY.",
    "vlsb report outputs/": "Compare the runs made so far.",
}


class Entry(NamedTuple):
    """Where a command, or a group of them, is written, and the first sentence of what it says of itself."""

    module: str
    attribute: str
    help: str


ENTRIES = {
    "run": Entry("run", "run_command", "Evaluate a model on VLSBench: respond, judge, summarize."),
    "judge": Entry("judge", "judge_command", "Judge a run's stored responses again, with another judge."),
    "report": Entry("report", "report_command", "Show the rates of runs, with intervals and coverage."),
    "plot": Entry("plot", "plot_command", "Draw runs as a figure for a paper: SVG, PDF or PNG."),
    "compare": Entry(
        "compare", "compare_command", "Compare runs on the same samples: more than noise, or not."
    ),
    "gate": Entry("gate", "gate_command", "Decide whether a run is no less safe than its baseline."),
    "agreement": Entry("agreement", "agreement_command", "Compare the judges of runs on the same responses."),
    "view": Entry("view", "view_command", "Look through runs in a browser, also while they are going."),
    "show": Entry("show", "show_command", "Read responses with their verdicts, or how they failed."),
    "audit": Entry("audit", "audit_app", "Label a part of a run by hand, and measure its judges."),
    "import": Entry("imports", "import_command", "Read what another program logged into a run."),
    "export": Entry("export", "export_command", "Write a run for inspect, or as a data set to publish."),
    "serve": Entry("serve", "serve_command", "Serve a local model on this machine."),
    "sweep": Entry("sweep", "sweep_command", "Run all cells of a plan: models, protocols, judges."),
    "judges": Entry(
        "judges", "judges_command", "List the judges that have a name: what each sees and gives."
    ),
    "models": Entry("models", "models_app", "List the models that have a name, or show one."),
    "doctor": Entry(
        "doctor", "doctor_command", "Say what is ready on this machine, and how to get the rest."
    ),
    "engine": Entry("engine", "engine_app", "List, install and stop local engines."),
    "convert": Entry("convert", "convert_app", "Convert original LLaVA weights for serving."),
    "data": Entry("data", "data_app", "Fetch the data set, or check a copy of it."),
    "runs": Entry("runs", "runs_app", "List, join, repair and remove runs."),
    "selftest": Entry("selftest", "selftest_app", "Check what is configured by attacking it."),
    "demo": Entry("demo", "demo_command", "Try it all on 30 embedded samples: no key, no download."),
}


class _Commands(MutableMapping[str, "Command"]):
    """The commands by name, each made when it is first asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Command] = {}

    def __getitem__(self, name: str) -> Command:
        if name not in self._loaded:
            self._loaded[name] = _command(name, ENTRIES[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(ENTRIES)

    def __len__(self) -> int:
        return len(ENTRIES)


def _command(name: str, entry: Entry) -> Command:
    from vlsb.cli.commands import GUIDES, GuidedCommand, VlsbCommand, VlsbGroup

    written = getattr(import_module(f"vlsb.cli.{entry.module}"), entry.attribute)
    if isinstance(written, typer.Typer):
        for command in written.registered_commands:
            command.cls = VlsbCommand
        written.info.cls = VlsbGroup
        made: Command = typer.main.get_group(written)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name, cls=GuidedCommand if name in GUIDES else VlsbCommand)(written)
        made = typer.main.get_command(alone)
    made.name = name
    return made


class _Root(TyperGroup):
    """The top of the tree. Its help page is plain text, and names commands without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()

    def list_commands(self, ctx: Context) -> list[str]:
        return list(ENTRIES)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in ENTRIES.items()])
        with formatter.section("Examples"):
            formatter.write_dl(list(EXAMPLES.items()))


app = typer.Typer(
    name="vlsb",
    cls=_Root,
    no_args_is_help=True,
    context_settings=_CONTEXT,
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
