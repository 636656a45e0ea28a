"""`vlsb doctor` and `vlsb selftest`: what is here and what is not, and whether the configured judge holds."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from vlsb._version import __version__
from vlsb.cli import options as opt
from vlsb.cli.command import LIST, as_group, command
from vlsb.cli.screen import Screen, agree_to_install
from vlsb.data import HUB_REPOSITORY, fetch_dataset, load_dataset
from vlsb.data.canaries import FINE_PRINT, SIDE
from vlsb.data.shards import shard_paths
from vlsb.endpoints import loops
from vlsb.engines.doctor import CheckResult, DatasetFacts, Group, State, examine, shown_path
from vlsb.engines.leases import Surroundings
from vlsb.errors import ConfigError, VlsbError
from vlsb.evaluation.attacks import CONTROL, AttackResult, attack_judge
from vlsb.evaluation.clients import TARGET
from vlsb.evaluation.options import HelpPanel, Option, RunOptions, names_in
from vlsb.evaluation.settings import open_judging, open_target
from vlsb.evaluation.vision import Canary, Sight, check_vision, sight
from vlsb.records import Untrusted
from vlsb.reports.encode import for_terminal, json_document, versioned
from vlsb.reports.writers.terminal import MIN_WIDTH, text_console

SCHEMA = 1
"""Of the JSON. Fields may be added at the end under the same number."""

_GROUP_WIDTH = 10
_LONGEST = 400
_LONGEST_REPLY = 60
_MARKS = {State.OK: ("✓", "green"), State.MISSING: ("○", "yellow"), State.PROBLEM: ("✗", "red")}
CHECK_FAILED = 10
"""Exit code of a check that was carried out and failed."""

selftest_app = typer.Typer(help="Check what is configured by attacking it.", callback=as_group)


@command(form=Option("How to write what was found.", choices=LIST))
def doctor_command(
    format_: str,
    data_root: Annotated[
        Path | None,
        Option("A copy of VLSBench to look at. (default: the Hugging Face Hub's cache)", metavar="DIR"),
    ] = None,
    offline: opt.Offline = False,
    model: Annotated[
        str | None,
        Option(
            "A local model to check: whether it could be started here.",
            metavar="NAME",
            variable="VLSB_DOCTOR_MODEL",
        ),
    ] = None,
) -> str:
    """Say what is ready on this machine, and the one command that makes the rest so. Changes nothing."""
    hub_path = f"/api/datasets/{HUB_REPOSITORY}"
    dataset = dataset_facts(data_root)
    rows = loops.run(examine(os.environ, dataset, model=model, is_offline=offline, hub_path=hub_path))
    if format_ == "json":
        return findings_json(rows)
    size = shutil.get_terminal_size((80, 50))
    return findings_text(rows, width=size.columns, height=size.lines, color=sys.stdout.isatty())


def dataset_facts(data_root: Path | None) -> DatasetFacts:
    """Look for the data set: in the folder that was named, or in the Hub's cache."""
    try:
        if data_root is None:
            cached = fetch_dataset(revision=None, offline=True)
            return DatasetFacts(f"revision {cached.revision[:12]} in the Hugging Face cache")
        # Shards are only counted: reading them unpacks them.
        if not (data_root / "data.json").exists() and (shards := shard_paths(data_root)):
            content = f"parquet shards ({len(shards)})"
        else:
            content = f"{len(load_dataset(data_root).samples):,} samples"
        return DatasetFacts(f"{content} at {shown_path(data_root, Path.home())}")
    except VlsbError as error:
        return DatasetFacts(problem=None if data_root is None else error.message)


def findings_json(rows: Sequence[CheckResult]) -> str:
    """One object: the version, and a list of findings in the order of the screen."""
    objects = [
        {
            "group": finding.group.value,
            "name": finding.name,
            "state": finding.state.value,
            "what": finding.what,
            "command": finding.command,
        }
        for finding in rows
    ]
    return json_document({**versioned(SCHEMA), "vlsb": __version__, "findings": objects})


def findings_text(rows: Sequence[CheckResult], *, width: int, height: int, color: bool) -> str:
    """Return the screen, at most `width` columns wide (80 at least) but for commands, which are never broken.

    Where it would not fit into `height` lines, the blank ones between its parts go.
    """
    out = io.StringIO()
    console = text_console(out, width=width, color=color)
    lines = [Text(f"vlsb {__version__}", style="bold"), *_lines(rows, max(width, MIN_WIDTH))]
    # One line is the prompt's.
    is_short = len(lines) >= height
    for line in lines:
        if line.plain or not is_short:
            console.print(line, soft_wrap=True)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _lines(rows: Sequence[CheckResult], width: int) -> Iterator[Text]:
    name_width = max(
        (len(each.name) for each in rows if each.group not in (Group.KEYS, Group.READY)), default=0
    )
    for group, among in groupby(rows, lambda each: each.group):
        members = list(among)
        if group == Group.READY:
            yield Text()
            for each in members:
                sentence = Text(f"{each.name}: ", style="bold") + Text(_clean(each.what))
                for line in sentence.wrap(Console(width=width), width):
                    line.rstrip()
                    yield line
            continue
        label = Text(f"{group.value:<{_GROUP_WIDTH}}", style="bold")
        lines = [Text()]
        if group == Group.KEYS:
            # Beside each other: their names and marks say it all.
            for key in members:
                entry = _name_with_mark(key, _clean(key.name) + "  ")
                if lines[-1].plain and _GROUP_WIDTH + len(lines[-1]) + len(entry) - 2 > width:
                    lines.append(Text())
                lines[-1] = lines[-1] + entry
        else:
            lines = [line for each in members for line in _row(each, name_width, width)]
        yield Text()
        for index, line in enumerate(lines):
            yield (Text(" " * len(label)) if index else label) + line


def _name_with_mark(finding: CheckResult, name: str) -> Text:
    mark, style = _MARKS[finding.state]
    if finding.state == State.MISSING and finding.command is None:
        style = "dim"  # nothing to do about it
    return Text(f"{mark} ", style=style) + Text(name)


def _row(finding: CheckResult, name_width: int, width: int) -> list[Text]:
    """Return what a finding says, wrapped below itself, and its command at the end where there is room."""
    head = _name_with_mark(finding, f"{_clean(finding.name):<{name_width}}  ")
    room = width - _GROUP_WIDTH - len(head)
    words = Text(_clean(finding.what), style="red" if finding.state == State.PROBLEM else "")
    lines = list(words.wrap(Console(width=width), room)) or [Text()]
    lines[-1].rstrip()
    if finding.command is not None:
        command = Text("→ ", style="dim") + Text(finding.command, style="cyan")
        if cell_len(lines[-1].plain) + 2 + cell_len(command.plain) <= room:
            lines[-1] = lines[-1] + Text("  ") + command
        else:
            lines.append(command)
    return [(Text(" " * len(head)) if index else head) + line for index, line in enumerate(lines)]


def _clean(text: str) -> str:
    """Paths, an engine's version and a GPU's name are not ours."""
    return for_terminal(Untrusted(text))[:_LONGEST]


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

    async def attack() -> tuple[str, int | None, list[AttackResult]]:
        consent = partial(agree_to_install, screen, yes=options.yes)
        surroundings = Surroundings(os.environ, consent, say=screen.notice)
        async with open_judging(None, options, surroundings) as resolved:
            judge = resolved.plan.judges[0]
            return judge.title, judge.kind.response_cap, await attack_judge(resolved, screen.notice)

    title, cap, results = loops.run(attack(), last_words=lambda: None)
    screen.result(attacks_table(title, results))
    if cap is not None:
        screen.notice(
            f"Of a longer response the judge sees only {cap:,} characters, its beginning and its end."
        )
    control = next(each for each in results if each.attack is CONTROL)
    if control.is_safe is not False:
        screen.line(
            "The plain answer was not called unsafe: this judge does not see the risk, attacked or not."
        )
        return CHECK_FAILED
    return CHECK_FAILED if any(each.is_safe for each in results) else 0


@selftest_app.command("vision")
@command()
@opt.takes_run_options(
    *names_in(HelpPanel.TARGET),
    *("max_tokens", "temperature", "thinking", "system_prompt", "target_field"),
    *("attempt_timeout", "backoff", "allow_http", "ca_bundle", "transport"),
    *("weights", "revision", "gpus", "engine", "servers_dir", "start_timeout", "max_restarts", "yes"),
)
def vision_command(**given: Any) -> int:
    """Ask a target about images drawn a moment ago; exit code 10 if they do not reach it."""
    options = RunOptions.of({"no_judge": True, **given})
    screen = Screen()

    async def check() -> tuple[str, list[Canary]]:
        consent = partial(agree_to_install, screen, yes=options.yes)
        surroundings = Surroundings(os.environ, consent, say=screen.notice)
        async with open_target(options, surroundings) as resolved:
            return resolved.plan.models[TARGET].endpoint.model, await check_vision(resolved, screen.notice)

    title, canaries = loops.run(check(), last_words=lambda: None)
    found = sight(canaries)
    screen.result(vision_table(title, canaries))
    screen.line(_SIGHTS[found])
    return 0 if found in (Sight.WHOLE, Sight.COARSE) else CHECK_FAILED


_SIGHTS = {
    Sight.WHOLE: "Images reach this target, fine print included.",
    Sight.COARSE: (
        f"Images reach this target, but print of {FINE_PRINT} pixels on {SIDE} is not read: something makes "
        "images smaller on their way, or the model itself does. Ask the provider, or compare with another."
    ),
    Sight.UNCLEAR: "This target sees something of the images, but not what is plain in them.",
    Sight.NONE: (
        "No image reaches this target: its answers do not come from the images. A rate on VLSBench would say "
        "nothing of it. Check the gateway, and whether the model takes images."
    ),
}


def vision_table(title: str, canaries: Sequence[Canary]) -> str:
    """A row a canary: what was drawn, and what the target said."""
    rows = [("asked for", "drawn", "seen", "the target said")]
    for each in canaries:
        said = for_terminal(each.reply)[:_LONGEST_REPLY]
        rows.append((each.trait.value, each.expected, "yes" if each.is_seen else "no", said))
    return "\n".join((f"What {for_terminal(Untrusted(title))} sees", *_aligned(rows)))


def attacks_table(title: str, results: Sequence[AttackResult]) -> str:
    """A row an attack: whether it succeeded, and what the judge said."""
    rows = [("attack", "succeeded", "the judge said", "what it does")]
    for each in results:
        succeeded = "(control)" if each.attack is CONTROL else "yes" if each.is_safe else "no"
        rows.append((each.attack.name, succeeded, for_terminal(Untrusted(each.reply)), each.attack.what))
    attacks = [each for each in results if each.attack is not CONTROL]
    silent = sum(each.is_safe is None for each in attacks)
    end = (
        f"{sum(bool(each.is_safe) for each in attacks)} of {len(attacks)} attacks succeeded; {silent} "
        "brought no verdict, which does not count as success."
    )
    return "\n".join((f"Attacks on {for_terminal(Untrusted(title))}", *_aligned(rows), end))


def _aligned(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    """Return rows as lines, all columns but the last padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]))
        for row in rows
    ]
