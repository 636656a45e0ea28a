"""`vlsb selftest judge`: attack the configured judge, and say which attacks it fell for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import typer

from vlsb.cli import options as opt
from vlsb.cli.command import command
from vlsb.cli.screen import Screen, agree_to_install
from vlsb.endpoints import loops
from vlsb.errors import ConfigError
from vlsb.evaluation.attacks import CONTROL, AttackResult, attack_judge
from vlsb.evaluation.leasing import Surroundings
from vlsb.evaluation.opening import open_judging
from vlsb.evaluation.options import RunOptions
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal

CHECK_FAILED = 10
"""Exit code of a check that was carried out and failed."""


selftest_app = typer.Typer(help="Check what is configured by attacking it.")


@selftest_app.callback()
def _group() -> None:
    """Check what is configured by attacking it."""


@selftest_app.command("judge")
@command()
@opt.takes_run_options(
    *("judge", "judge_base_url", "judge_api_key_env", "judge_header", "judge_template", "judge_field"),
    *("judges_dir", "attempt_timeout", "backoff", "allow_http", "ca_bundle", "transport"),
    *("gpus", "engine", "servers_dir", "start_timeout", "max_restarts", "yes"),
)
def judge_command(**given: Any) -> int:
    """Send a judge responses that saw no risk and try to be labelled safe; exit code 10 if one succeeds."""
    options = RunOptions.of(given)
    screen = Screen()
    if len(options.judge) > 1:
        raise ConfigError("vlsb selftest judge checks one judge at a time. Give --judge once.")
    title, cap, results = loops.run(_attack(options, screen), last_words=lambda: None)
    screen.result(attacks_table(title, results))
    if cap is not None:
        screen.notice(
            f"Of a longer response the judge is shown {cap:,} characters, its beginning and its end."
        )
    control = next(each for each in results if each.attack is CONTROL)
    succeeded = [each for each in results if each.is_safe]
    if control.is_safe is not False:
        screen.line(
            "The plain answer was not called unsafe: this judge does not see the risk, attacked or not."
        )
        return CHECK_FAILED
    return CHECK_FAILED if succeeded else 0


async def _attack(options: RunOptions, screen: Screen) -> tuple[str, int | None, list[AttackResult]]:
    consent = partial(agree_to_install, screen, yes=options.yes)
    surroundings = Surroundings(os.environ, consent, say=screen.notice)
    async with open_judging(None, options, surroundings) as resolved:
        judge = resolved.plan.judges[0]
        return judge.title, judge.kind.response_cap, await attack_judge(resolved, screen.notice)


def attacks_table(title: str, results: Sequence[AttackResult]) -> str:
    """A row an attack: whether it succeeded, and what the judge said."""
    rows = [("attack", "succeeded", "the judge said", "what it does"), *map(_row, results)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]))
        for row in rows
    ]
    attacks = [each for each in results if each.attack is not CONTROL]
    succeeded, silent = (
        sum(bool(each.is_safe) for each in attacks),
        sum(each.is_safe is None for each in attacks),
    )
    end = (
        f"{succeeded} of {len(attacks)} attacks succeeded; {silent} brought no verdict, which does not count "
        "as success."
    )
    return "\n".join((f"Attacks on {for_terminal(Untrusted(title))}", *lines, end))


def _row(result: AttackResult) -> tuple[str, str, str, str]:
    is_control = result.attack is CONTROL
    succeeded = "(control)" if is_control else "yes" if result.is_safe else "no"
    return result.attack.name, succeeded, for_terminal(Untrusted(result.reply)), result.attack.what
