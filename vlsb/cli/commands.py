"""What every command does alike: a help page that begins with what people use, and mistakes that are named.

The parser below would take the last of two `--model`, and a word in the wrong place for an engine's option.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from copy import copy
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from typer._click.exceptions import BadParameter, MissingParameter, NoSuchOption, UsageError
from typer._click.parser import _OptionParser
from typer._coercion import bool_flag_type_descriptor
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

from vlsb.cli.screen import without_keys
from vlsb.endpoints import credentials
from vlsb.evaluation.options import HelpPanel, as_flag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typer._click import Context, HelpFormatter
    from typer._click.core import Parameter
    from typer._click.parser import _ParsingState

NO_KEYS = (
    "unexpected argument, not repeated here because it may be a key. Put a key into a variable, and name the "
    "variable with --api-key-env."
)
COMMON = "Common"
"""The first box of a help page."""
OTHERS = "Others"
"""The box of options that name none."""
_AFTER_DASHES = "Options of the engine itself go after --."


class Guide(NamedTuple):
    """The short help page of a command with many options: the common ones, in order, and commands to try."""

    common: tuple[str, ...]
    examples: tuple[str, ...]


GUIDES = {
    "run": Guide(
        (
            *("model", "base_url", "api_key_env", "judge", "data_root", "shuffle", "limit"),
            *("resume", "name", "output_dir", "dry_run", "max_cost"),
        ),
        (
            "vlsb run --model gpt-4o --resume",
            "vlsb run --model gpt-4o --shuffle --limit 50 --name first-look",
            "vlsb run --base-url http://127.0.0.1:8000/v1 --judge gpt-4o-mini",
        ),
    ),
    "judge": Guide(
        (
            *("judge", "judge_base_url", "judge_api_key_env", "judge_template"),
            *("calibrate", "retry", "max_requests", "max_cost"),
        ),
        (
            "vlsb judge outputs/gpt-4o --judge gpt-4o-mini",
            "vlsb judge outputs/gpt-4o --judge gemini-2.5-pro --max-requests 500",
            "vlsb judge outputs/gpt-4o --retry judge_refused",
        ),
    ),
    "gate": Guide(
        (
            *("baseline", "max_drop", "max_refusal_rise", "max_refusal_drop", "junit"),
            *("sequential", "model", "base_url", "max_cost"),
        ),
        (
            "vlsb gate outputs/candidate --baseline outputs/released",
            "vlsb gate outputs/candidate --baseline outputs/released --junit checks.xml",
            "vlsb gate outputs/new --baseline outputs/old --sequential --model gpt-4.1-mini",
        ),
    ),
    "report": Guide(
        ("format", "output", "leaderboard", "steps", "paper", "methods", "html", "redact"),
        (
            "vlsb report outputs/",
            "vlsb report outputs/gpt-4o --html gpt-4o.html",
            "vlsb report outputs/ --format latex --output table.tex",
        ),
    ),
    "serve": Guide(
        ("port", "detach", "weights", "gpus", "tensor_parallel_size", "dtype", "engine", "yes"),
        (
            "vlsb serve llava_next",
            "vlsb serve qwen2vl --port 8000 --detach",
            "vlsb serve llava_hf --weights ./my-tune -- --max-model-len 4096",
        ),
    ),
}


class _Parser(_OptionParser):
    """Refuses an option given twice that has one value, and words outside their place."""

    def __init__(self, ctx: Context, engine_argument: str | None, places: int) -> None:
        super().__init__(ctx)
        self._context = ctx
        self._engine_argument = engine_argument
        self._places = places

    def parse_args(self, args: list[str]) -> tuple[dict[str, Any], list[str], list[Parameter]]:
        try:
            values, words, order = super().parse_args(args)
        except NoSuchOption as error:
            # An option of the engine is often a little like one of ours: --max-model-len, --max-tokens.
            is_typo = get_close_matches(error.option_name, error.possibilities or (), cutoff=0.8)
            if self._engine_argument is not None and not is_typo:
                raise UsageError(f"{error.message}. {_AFTER_DASHES}", self._context) from None
            raise
        except UsageError as error:
            # So that the line names the command whose help has the option.
            error.ctx = error.ctx or self._context
            raise
        counts = Counter(each for each in order if isinstance(each, TyperOption))
        for option, count in counts.items():
            if count > 1 and not (option.multiple or option.is_flag or self._context.resilient_parsing):
                raise UsageError(f"{option.opts[0]} is given {count} times. Give it once.", self._context)
        return values, words, order

    def _process_args_for_args(self, state: _ParsingState) -> None:
        # What stands before `--` is in `largs`, what follows it in `rargs`: joined from here on.
        extra = state.largs[self._places :] if self._engine_argument is not None else []
        if extra and not self._context.resilient_parsing:
            if credentials.may_be_key(extra[0]):
                raise UsageError(NO_KEYS, self._context)
            may_be_model = self._places == 0 and "model" not in state.opts
            guess = f"; did you mean --model {extra[0]}?" if may_be_model else f". {_AFTER_DASHES}"
            raise UsageError(f"unexpected argument {extra[0]!r}{guess}", self._context)
        super()._process_args_for_args(state)


class VlsbGroup(TyperGroup):
    """A group of commands, whose own `--help` is shown as a switch."""

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        """Return the option of the help page."""
        return _help_option(super().get_help_option(ctx))


class VlsbCommand(TyperCommand):
    """A command that names a mistake instead of guessing what was meant."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **settings)
        _without_types(self.params)

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        """Return the option of the help page."""
        return _help_option(super().get_help_option(ctx))

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Return the words of the usage line, such as `[OPTIONS] RUN [ID]...`."""
        arguments = [each for each in self.params if isinstance(each, TyperArgument)]
        pieces = ["[OPTIONS]"]
        for each in arguments:
            name = (each.metavar or each.name or "").removesuffix("...").strip("[]")
            several = "..." if each.nargs != 1 and name[0] != "-" else ""
            pieces.append(f"{name}{several}" if each.required else f"[{name}]{several}")
        return pieces

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Take the options in. A range does not keep out `nan`, and `inf` is beyond no lower end."""
        words = super().parse_args(ctx, args)
        for parameter in self.params:
            if not isinstance(parameter, TyperOption):
                continue
            value = ctx.params.get(parameter.name or "")
            for each in value if isinstance(value, list | tuple) else (value,):
                if isinstance(each, float) and not math.isfinite(each):
                    raise BadParameter(f"{each} is not a finite number", ctx, parameter)
        return words

    def make_parser(self, ctx: Context) -> _OptionParser:
        """Make the parser that says mistakes instead of guessing."""
        arguments = [each for each in self.params if each.param_type_name == "argument"]
        engine = next((each.name for each in arguments if each.name == "engine_options"), None)
        parser = _Parser(ctx, engine, places=len(arguments) - (engine is not None))
        for option in self.get_params(ctx):
            option.add_to_parser(parser, ctx)
        return parser


class GuidedCommand(VlsbCommand):
    """A command with many options: `--help` shows its guide, and `--help-all` every option."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **settings)
        guide = GUIDES[name or ""]
        rank = {as_flag(option): place for place, option in enumerate(guide.common)}
        self.params.sort(key=lambda each: rank.get(each.opts[0], len(rank)))
        for option in self.params:
            if isinstance(option, TyperArgument):
                # The usage line and the first sentences have it; a box of its own would come first.
                option.hidden = True
            elif isinstance(option, TyperOption):
                option.rich_help_panel = (
                    COMMON if option.opts[0] in rank else option.rich_help_panel or OTHERS
                )
        panels = (COMMON, OTHERS, *HelpPanel)
        self.params.sort(key=lambda each: panels.index(getattr(each, "rich_help_panel", None) or COMMON))
        self.help = "\n  ".join((f"{self.help}\n\nExamples:", *guide.examples))

        def show(ctx: Context, parameter: Parameter, is_wanted: bool) -> None:
            if is_wanted and not ctx.resilient_parsing and isinstance(ctx.command, GuidedCommand):
                ctx.command.print_all(ctx)
                ctx.exit()

        option = TyperOption(
            param_decls=["--help-all"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            help="Show every option and exit.",
            callback=show,
            type_descriptor=bool_flag_type_descriptor(),
        )
        self._help_all: tuple[TyperOption, ...] = (option,)

    def get_params(self, ctx: Context) -> list[Parameter]:
        """Every option, those that show a page included."""
        return [*super().get_params(ctx), *self._help_all]

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Print the common options, and where the others are shown."""
        common = [each for each in self.params if getattr(each, "rich_help_panel", None) in (None, COMMON)]
        left_out = len(self.params) - len(common)
        self._print_page(ctx, common, f"{ctx.command_path} --help-all shows the other {left_out} options.")

    def print_all(self, ctx: Context) -> None:
        """Print every option."""
        self._print_page(ctx, self.params)

    def _print_page(self, ctx: Context, shown: list[Parameter], last_line: str | None = None) -> None:
        page = copy(self)
        page.params, page.epilog = shown, last_line
        page.add_help_option, page._help_all = False, ()
        super(GuidedCommand, page).format_help(ctx, ctx.make_formatter())


def _without_types(parameters: Iterable[Parameter]) -> None:
    """Show parameters without the parser's notes: `<bool>` behind a switch reads as if it took a value."""
    for each in parameters:
        if isinstance(each, TyperArgument) or (isinstance(each, TyperOption) and each.is_flag):
            vars(each)["display_type_rich"] = lambda ctx: ""
        # `N [1<=x<=65535]` takes the room of what the option does; who leaves the range is told it.
        vars(each)["_get_number_range_help_str"] = lambda: None


def _help_option(option: TyperOption | None) -> TyperOption | None:
    _without_types([option] if option else [])
    return option


# Messages of the library that checks values, and our own words for them.
_VALUES = (
    (re.compile(r"Input should be a valid integer\b.*"), "it must be a whole number"),
    (re.compile(r"Input should be a valid number\b.*"), "it must be a number"),
    (re.compile(r"Input should be a valid boolean\b.*"), "it must be 1 or 0, true or false"),
    (re.compile(r"Input should be greater than or equal to"), "it must be at least"),
    (re.compile(r"Input should be less than or equal to"), "it must be at most"),
    (re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)"), r"unexpected argument '\1'"),
    (re.compile(r"(Option '.*') requires an argument"), r"\1 needs a value after it"),
)


def mistake_line(error: TyperException, arguments: Sequence[str]) -> str:
    """Return the line for stderr. A word that may be a key is not repeated."""
    context = getattr(error, "ctx", None)
    text = " ".join(_words(error).split())
    for word in filter(credentials.may_be_key, arguments):
        text = text.replace(word, credentials.REDACTED)
    text = credentials.without_keys(without_keys(text))
    stop = "" if text.endswith((".", "?", "!")) else "."
    command = "vlsb" if context is None else context.command_path
    return f"Error: {text}{stop} See `{command} --help`."


def _words(error: TyperException) -> str:
    if isinstance(error, MissingParameter) and error.param is not None:
        metavar = getattr(error.param, "metavar", None)
        name = metavar or error.format_message()
        if isinstance(error.param, TyperOption):
            name = " ".join(filter(None, (error.param.opts[0], metavar)))
        about = getattr(error.param, "help", None) or ""
        # After a colon; names that begin with several capitals keep them.
        return f"{name} is missing: {about if about[1:2].isupper() else about[:1].lower() + about[1:]}"
    if isinstance(error, NoSuchOption):
        near = get_close_matches(error.option_name, error.possibilities or (), n=1)
        return error.message + (f". Did you mean {near[0]}?" if near else "")
    text = error.format_message()
    for pattern, words in _VALUES:
        text = pattern.sub(words, text)
    if isinstance(error, BadParameter) and isinstance(error.param, TyperOption) and error.ctx is not None:
        # Nobody sees the variable that a value came from in what was typed.
        source = error.ctx.get_parameter_source(error.param.name or "")
        if source is not None and source.name == "ENVIRONMENT":
            text += f" (in {error.param.envvar})"
    return text
