"""What every command does alike: a help page that begins with what people use, and mistakes that are said.

The parser below would take the last of two `--model`, and a word in the wrong place for an engine's option.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from typer._click.exceptions import NoSuchOption, UsageError
from typer._click.parser import _OptionParser
from typer.core import TyperArgument, TyperCommand, TyperOption

from vlsb.evaluation.options import HelpPanel

if TYPE_CHECKING:
    from typer._click import Context
    from typer._click.core import Parameter
    from typer._click.parser import _ParsingState

NO_KEYS = (
    "unexpected argument, not repeated here because it may be a key. Put a key into a variable, and name the "
    "variable with --api-key-env."
)
COMMON = "Common"
"""The first box of a help page."""
_AFTER_DASHES = "Options of the engine itself go after --."


class Guide(NamedTuple):
    """The head of a help page: the options of its first box, in order, and commands to try."""

    common: tuple[str, ...]
    examples: tuple[str, ...]


GUIDES = {
    "run": Guide(
        ("model", "base_url", "judge", "data_root", "limit", "name", "output_dir", "resume"),
        (
            "vlsb run --model gpt-4o --resume",
            "vlsb run --model gpt-4o --shuffle --limit 50 --name first-look",
            "vlsb run --base-url http://127.0.0.1:8000/v1 --judge gpt-4o-mini",
        ),
    ),
    "judge": Guide(
        (
            *("judge", "judge_base_url", "judge_api_key_env", "judge_template"),
            *("data_root", "retry", "max_requests", "display"),
        ),
        (
            "vlsb judge outputs/gpt-4o --judge gpt-4o-mini",
            "vlsb judge outputs/gpt-4o --judge gemini-2.5-pro --max-requests 500",
            "vlsb judge outputs/gpt-4o --retry judge_refused",
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
            found, left, order = super().parse_args(args)
        except NoSuchOption as error:
            if self._engine_argument is not None:
                raise UsageError(f"{error.format_message()}. {_AFTER_DASHES}", self._context) from None
            raise
        counts = Counter(each for each in order if isinstance(each, TyperOption))
        for option, count in counts.items():
            if count > 1 and not (option.multiple or option.is_flag or self._context.resilient_parsing):
                raise UsageError(f"{option.opts[0]} is given {count} times. Give it once.", self._context)
        return found, left, order

    def _process_args_for_args(self, state: _ParsingState) -> None:
        # What stands before `--` is in `largs`, what follows it in `rargs`: joined from here on.
        extra = state.largs[self._places :] if self._engine_argument is not None else []
        if extra and not self._context.resilient_parsing:
            from vlsb.endpoints.credentials import may_be_key

            if may_be_key(extra[0]):
                raise UsageError(NO_KEYS, self._context)
            may_be_model = self._places == 0 and "model" not in state.opts
            guess = f"; did you mean --model {extra[0]}?" if may_be_model else f". {_AFTER_DASHES}"
            raise UsageError(f"unexpected argument {extra[0]!r}{guess}", self._context)
        super()._process_args_for_args(state)


class VlsbCommand(TyperCommand):
    """A command whose help page begins with its guide, if it has one."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **settings)
        guide = GUIDES.get(name or "")
        if guide is None:
            return
        rank = {option: place for place, option in enumerate(guide.common)}
        self.params.sort(key=lambda each: rank.get(each.name or "", len(rank)))
        for option in self.params:
            if isinstance(option, TyperArgument):
                # The usage line and the first sentence have it; a box of its own would come first.
                option.hidden = True
            elif isinstance(option, TyperOption) and option.name in rank:
                option.rich_help_panel = COMMON
        panels = (COMMON, *HelpPanel)
        self.params.sort(key=lambda each: panels.index(getattr(each, "rich_help_panel", None) or COMMON))
        self.help = "\n  ".join((f"{self.help}\n\nExamples:", *guide.examples))

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        """The option of the help page; where there is a guide, the page itself does not list it."""
        option = super().get_help_option(ctx)
        if option is not None and self.name in GUIDES:
            option.hidden = True
        return option

    def make_parser(self, ctx: Context) -> _OptionParser:
        """The parser that says mistakes instead of guessing."""
        arguments = [each for each in self.params if each.param_type_name == "argument"]
        engine = next((each.name for each in arguments if each.name == "engine_options"), None)
        parser = _Parser(ctx, engine, places=len(arguments) - (engine is not None))
        for option in self.get_params(ctx):
            option.add_to_parser(parser, ctx)
        return parser
