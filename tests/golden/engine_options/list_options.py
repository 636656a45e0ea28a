"""The options of an installed engine, one a line, as the files beside this one hold them.

Run it by the engine's own Python: ENGINE/bin/python list_options.py > vllm-VERSION.txt
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any


def parser() -> Any:
    """The parser of `vllm serve`, of either engine version."""
    from vllm.entrypoints.cli.serve import ServeSubcommand

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:
        from vllm.utils import FlexibleArgumentParser

    commands = FlexibleArgumentParser().add_subparsers()
    return ServeSubcommand().subparser_init(commands)


def line(action: argparse.Action) -> str:
    """The long name, the other spellings, and `flag` for an option without a value."""
    names = sorted(
        action.option_strings, key=lambda each: (not each.startswith("--"), "--no-" in each, len(each))
    )
    kind = ["flag"] if action.nargs == 0 else []
    return " ".join([names[0].removeprefix("--"), *names[1:], *kind])


print(f"# Options of `vllm serve` {version('vllm').split('+')[0]}, as its own parser lists them.")
print("# A line: the name, other spellings, and `flag` where it takes no value.")
print("\n".join(sorted(line(each) for each in parser()._actions if each.option_strings)))
