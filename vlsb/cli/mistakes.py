"""A command line that cannot be carried out: one line says what is wrong with it, and what to type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from typer._click.exceptions import BadParameter, MissingParameter, NoSuchOption
from typer.core import TyperOption
from typer.exceptions import TyperException

from vlsb.cli.screen import without_keys
from vlsb.endpoints import credentials

# What is said by the library that checks values, in words of ours.
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
        return _missing(error)
    if isinstance(error, NoSuchOption):
        near = get_close_matches(error.option_name, error.possibilities or (), n=1)
        return error.message + (f". Did you mean {near[0]}?" if near else "")
    text = error.format_message()
    for pattern, words in _VALUES:
        text = pattern.sub(words, text)
    return text if not isinstance(error, BadParameter) else text + _where(error)


def _missing(error: MissingParameter) -> str:
    parameter = error.param
    metavar = getattr(parameter, "metavar", None)
    if isinstance(parameter, TyperOption):
        name = " ".join(filter(None, (parameter.opts[0], metavar)))
    else:
        name = metavar or error.format_message()
    return f"{name} is missing: {_uncapitalized(getattr(parameter, 'help', None) or '')}"


def _uncapitalized(text: str) -> str:
    """A help's sentence after a colon; names that begin with several capitals keep them."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _where(error: BadParameter) -> str:
    """Name the variable that a value came from: nobody sees it in what was typed."""
    parameter, context = error.param, error.ctx
    if not isinstance(parameter, TyperOption) or context is None or not parameter.name:
        return ""
    source = context.get_parameter_source(parameter.name)
    return f" (in {parameter.envvar})" if source is not None and source.name == "ENVIRONMENT" else ""
