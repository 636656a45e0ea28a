"""Carrying out a session for `run` and `judge`: prepare, spend, show the table, say how to go on."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from vlsb.analysis.summary import FailOnError
from vlsb.cli import ignore_signals
from vlsb.cli.commands import NO_KEYS
from vlsb.cli.estimate import estimate
from vlsb.cli.live import Display
from vlsb.cli.screen import Screen, agree_to_install, agrees, from_here
from vlsb.data import mini_root
from vlsb.endpoints import loops
from vlsb.endpoints.credentials import may_be_key
from vlsb.endpoints.traffic import Spending
from vlsb.engines.leases import Surroundings
from vlsb.engines.registry import ServerRecord
from vlsb.errors import (
    ConfigError,
    GapsError,
    InterruptedRunError,
    MachineError,
    OtherJudgeError,
    StoreError,
)
from vlsb.evaluation.calibration import charges, compared_judges, run_calibrated, unjudged
from vlsb.evaluation.endings import (
    INTERRUPTED,
    INTERRUPTED_EARLY,
    SessionEnding,
    SessionResult,
    can_all_go_on,
    code_of_all,
    ending_of,
    ending_of_error,
    ends_all,
    left_alone,
)
from vlsb.evaluation.forecast import forecast_run
from vlsb.evaluation.looks import LookDriver, run_looks
from vlsb.evaluation.named_models import run_directory
from vlsb.evaluation.options import RunOptions
from vlsb.evaluation.session import (
    Listeners,
    Plan,
    Prepared,
    Resolved,
    SessionEnd,
    prepare,
    prepare_judging,
    run_turns,
)
from vlsb.evaluation.settings import judge_hosted, open_judging, open_target
from vlsb.extras import require_extra
from vlsb.judging.kinds import PANEL
from vlsb.models.prices import PriceTable, load_prices
from vlsb.records import JUDGED, Outcome
from vlsb.reports.compliance import compliance_table
from vlsb.reports.notes import guards_table
from vlsb.reports.rates_table import render
from vlsb.reports.report import counted
from vlsb.reports.writers.terminal import tables_text
from vlsb.steps import OnProgress, in_thread
from vlsb.store.manifest import is_run, no_run
from vlsb.store.panels import add_panels, require_labels
from vlsb.store.state import RunState, has_answers, load_state
from vlsb.store.summaries import (
    Gaps,
    find_gaps,
    found_compliance,
    guard_counts,
    summarize_run,
    summarize_state,
    unrated,
)

# What to change where an error does not say it and nothing is stored yet.
_TO_CHANGE = {
    3: "the key's variable: --api-key-env, --judge-api-key-env",
    4: "the addresses and names: --base-url, --model, --judge-base-url, --judge",
    5: "the place: --output-dir",
    7: "the engine: --engine, --weights, --gpus",
}


class PlanOpener(Protocol):
    """A plan and what it is carried out with, for as long as the block lasts."""

    def __call__(self, surroundings: Surroundings) -> AbstractAsyncContextManager[Resolved]: ...


class EngineHost(Protocol):
    """Engines that are up for as long as the block lasts, for several sessions."""

    def __call__(
        self, surroundings: Surroundings
    ) -> AbstractAsyncContextManager[tuple[ServerRecord, ...]]: ...


class Several(NamedTuple):
    """What sessions one after the other have in common.

    `again` is the command that goes on with all of them, `prices` are those of the table at the end. The
    engines of `host` are theirs in turn.
    """

    titles: Sequence[str]
    again: Sequence[str]
    prices: PriceTable
    host: EngineHost | None = None


@dataclass(frozen=True, slots=True)
class SessionCommand:
    """What `vlsb run` or `vlsb judge` was asked to do.

    `open` gives its plan, with an engine where it needs one. `run` is the one that is judged, None where a
    target is asked. So many samples are `allowed` to lack a verdict. Without `has_table` somebody else shows
    the numbers. With `calibrated` about so many responses are judged first, and the rest only where the user
    agrees. With `looks` the samples of one are asked for after the other, until one decides. `again` is
    the command that goes on with it, where that is another one. Engines that are `hosted` outlive it.
    """

    options: RunOptions
    open: PlanOpener
    prepare: Callable[[Plan, OnProgress], Prepared]
    allowed: FailOnError
    run: Path | None = None
    has_table: bool = True
    calibrated: int | None = None
    looks: LookDriver | None = None
    again: Sequence[str] | None = None
    hosted: tuple[ServerRecord, ...] = ()
    spending: Spending = field(default_factory=Spending)

    @property
    def directory(self) -> Path | None:
        """The run's directory; None while only an endpoint knows its name."""
        return run_directory(self.options) if self.run is None else self.run

    @property
    def go_on(self) -> list[str]:
        """The command that continues it."""
        if self.again is not None:
            return [*self.again]
        if self.run is None:
            return self.options.as_resume()
        calibrate = [] if self.calibrated is None else ["--calibrate", str(self.calibrated)]
        return ["vlsb", "judge", str(self.run), *self.options.as_words(), *calibrate]

    def is_stored(self) -> bool:
        """Return whether the run holds anything that was answered."""
        return self.directory is not None and has_answers(self.directory)

    def say_how_to_go_on(self, screen: Screen) -> None:
        """Say the command that goes on, where there is something to go on with."""
        if self.is_stored():
            screen.command(self.go_on)


def evaluate_targets(options: RunOptions, models: Sequence[str], arms: Sequence[str] = ()) -> int:
    """Carry out `vlsb run`, model after model in each arm, and return the first exit code that is not 0.

    One that fails does not keep the others from being run, unless nothing can be stored or the user stops.
    """
    screen = Screen(quiet=options.display == "none")
    targets: list[str | None] = [*models] or [None]
    every = [replace(options, model=model, arm=arm) for model in targets for arm in arms or [options.arm]]
    if len(every) == 1:
        return _in_one_loop([_run_command(every[0])], screen)
    if options.name is not None:
        raise ConfigError("--name is one run's; of several each has the name of its model and its arm.")
    about = [f"{each.model or 'the endpoint'}{f', {each.arm}' if len(arms) > 1 else ''}" for each in every]
    titles = [f"Run {number} of {len(every)}: {what}" for number, what in enumerate(about, 1)]
    commands = [_run_command(each) for each in every]
    named = [word for model in models for word in ("--model", model)]
    again = options.as_resume(*named, *(word for arm in arms for word in ("--arm", arm)))
    # A file that cannot be read is found before an engine is started.
    return _in_one_loop(commands, screen, Several(titles, again, load_prices(options.prices)))


def _run_command(options: RunOptions) -> SessionCommand:
    allowed = FailOnError.parse(options.fail_on_error)
    return SessionCommand(options, partial(open_target, options), prepare, allowed)


def judge_runs(runs: Sequence[Path], options: RunOptions) -> int:
    """Carry out `vlsb judge`, run after run, and return the first exit code that is not 0.

    The engine of a local judge is started once. A run that fails keeps no other from being judged.
    """
    screen = Screen(quiet=options.display == "none")
    if len(runs) == 1:
        return _in_one_loop([_judge_command(runs[0], options)], screen)
    for run in sorted(runs, key=lambda each: not may_be_key(str(each))):
        # Found before an engine is started.
        if not is_run(run):
            raise ConfigError(NO_KEYS) if may_be_key(str(run)) and not run.exists() else no_run(run)
    titles = [f"Run {number} of {len(runs)}: {run}" for number, run in enumerate(runs, 1)]
    again = ["vlsb", "judge", *map(str, runs), *options.as_words()]
    commands = [_judge_command(run, options) for run in runs]
    # A file that cannot be read is found before an engine is started.
    several = Several(titles, again, load_prices(options.prices), partial(judge_hosted, options))
    return _in_one_loop(commands, screen, several)


def calibrate_judge(runs: Sequence[Path], options: RunOptions, n: int) -> int:
    """Carry out `vlsb judge` with `--calibrate`, of one run, and return its exit code."""
    if len(runs) != 1:
        raise ConfigError("--calibrate goes with one run. Name one, and judge the others after it.")
    require_extra("stats", "vlsb judge --calibrate")
    command = replace(_judge_command(runs[0], options), calibrated=n)
    return _in_one_loop([command], Screen(quiet=options.display == "none"))


def _judge_command(run: Path, options: RunOptions) -> SessionCommand:
    allowed = FailOnError.parse(options.fail_on_error)
    return SessionCommand(options, partial(open_judging, run, options), prepare_judging, allowed, run)


def carry_out_alone(command: SessionCommand, screen: Screen) -> int:
    """Carry out one command, and return its exit code."""
    return _in_one_loop([command], screen)


def _in_one_loop(
    commands: Sequence[SessionCommand],
    screen: Screen,
    several: Several | None = None,
) -> int:
    """Carry out a session, or several, and return the exit code."""
    settled: list[int] = []
    last_words = partial(commands[0].say_how_to_go_on, screen)
    if several is not None:
        last_words = partial(screen.command, several.again)

    async def main() -> None:
        if several is None:
            settled.append((await carry_out(commands[0], screen)).code)
            return
        async with AsyncExitStack() as held:
            hosted: tuple[ServerRecord, ...] = ()
            if several.host is not None:
                options = commands[0].options
                with Display(options.display, screen) as display:
                    surroundings = _surroundings(options, display, screen)
                    hosted = await held.enter_async_context(several.host(surroundings))
            settled.append(await _in_turn(commands, screen, several, hosted))

    try:
        loops.run(main(), last_words=last_words)
    except KeyboardInterrupt:
        # Sessions have their own words for it: it came before the first, or hastened the end of an engine.
        ignore_signals()
        if not settled:
            screen.error(INTERRUPTED if several or commands[0].is_stored() else INTERRUPTED_EARLY)
            last_words()
    return settled[0] if settled else InterruptedRunError.exit_code


async def _in_turn(
    commands: Sequence[SessionCommand],
    screen: Screen,
    several: Several,
    hosted: tuple[ServerRecord, ...],
) -> int:
    """Carry out sessions one after the other, then show one table of their runs, and how to go on.

    Returns the first exit code that is not 0. One that fails does not keep the others from being carried
    out, unless nothing can be stored, the user stops, or a limit that they share is reached.
    """
    done, spending = list[SessionResult](), Spending()
    for title, command in zip(several.titles, commands, strict=True):
        if (limit := spending.reached) is not None:
            spent = GapsError(f"{limit} is reached: {len(commands) - len(done)} more are not begun.")
            screen.error(spent)
            done.append(SessionResult(spent.exit_code, can_go_on=True))
            break
        screen.notice(title)
        command = replace(command, spending=spending, has_table=False, hosted=hosted)
        done.append(await carry_out(command, screen, is_last=False))
        if ends_all(done[-1]):
            break
    if not hosted:
        ignore_signals()
    if runs := [run for each in commands if (run := each.directory) is not None and is_run(run)]:
        summaries = [summary for run in runs for summary in summarize_run(run, prices=several.prices)]
        screen.result(render(summaries, width=screen.width, color=screen.has_color))
    if runs and can_all_go_on(done, len(commands)):
        screen.command(several.again)
    return code_of_all(done)


async def carry_out(command: SessionCommand, screen: Screen, *, is_last: bool = True) -> SessionResult:
    """Carry out a session.

    Where it is not complete, the last lines say why and what to change; then the command that goes on, or
    that nothing was stored. With the last one the outcome is settled, and signals change nothing any more.
    """
    try:
        ending = await _run_and_show(command, screen)
    except (asyncio.CancelledError, Exception) as error:
        of_error = ending_of_error(error, command.is_stored)
        if of_error is None:
            raise
        ending = of_error
    if is_last:
        ignore_signals()
    if (reason := ending.reason) is None:
        return ending.result
    screen.error(reason)
    if ending.can_go_on:
        screen.command(command.go_on)
    elif isinstance(reason, OtherJudgeError) and command.directory is not None:
        words = ["vlsb", "judge", from_here(command.directory), *command.options.of_judging().as_words()]
        screen.line(f"Add it with: {shlex.join(words)}")
    elif ending.ended is not None:
        for line in _retry_lines(command, ending.asked_again):
            screen.line(line)
    elif isinstance(reason, MachineError):
        screen.line("Nothing was stored.")
    elif "--" not in str(reason) and (change := _TO_CHANGE.get(reason.exit_code)):
        screen.line(f"Nothing was stored. Check {change}; then start it again.")
    return ending.result


def _retry_lines(command: SessionCommand, counts: Mapping[Outcome, int]) -> Iterator[str]:
    """Say what `--retry` would do about samples that have ended without a verdict, and the command."""
    if not counts:
        return
    questions = [
        f"the {each.value.partition('_')[0]} about {count:,} ({each})" for each, count in counts.items()
    ]
    yield f"With --retry these are asked again: {', '.join(questions)}."
    words = [*command.go_on]
    at = words.index("--") if "--" in words else len(words)
    names = [each.value for each in counts if each.value not in command.options.retry]
    words[at:at] = [word for name in names for word in ("--retry", name)]
    yield f"Ask again with: {shlex.join(words)}"


async def _run_and_show(command: SessionCommand, screen: Screen) -> SessionEnding:
    """Carry out the session, show its table, and return how it ended."""
    plan, end = await _spend(command, screen)
    if command.calibrated is not None and plan.only is not None and end.reason is None:
        rest = replace(command, calibrated=None).go_on
        screen.notice(f"Judge the rest with: {shlex.join(rest)}")
        return SessionEnding(None)
    if command.looks is not None and end.reason is None:
        # What was decided is shown by whoever asked for it.
        return SessionEnding(None)
    is_judging = plan.target is None

    def read(_: OnProgress) -> tuple[RunState, Gaps | None]:
        state = load_state(plan.directory)
        if plan.is_dry_run:
            return state, None
        return state, find_gaps(state, end.judges, command.allowed, is_judging=is_judging)

    # Ctrl-C is heard while the rows are read.
    state, gaps = await in_thread(read)
    try:
        if command.looks is None:
            _show(state, end, command, plan, screen, has_gaps=gaps is not None)
    except StoreError as error:
        # The rows are safe, and the exit code tells of them.
        screen.line(f"Warning: {error.message}")
    return ending_of(state, end, gaps, is_judging=is_judging, is_stored=command.is_stored)


def _surroundings(options: RunOptions, display: Display, screen: Screen) -> Surroundings:
    consent = partial(agree_to_install, screen, yes=options.yes)
    return Surroundings(os.environ, consent, display.on_progress, screen.notice)


async def _spend(command: SessionCommand, screen: Screen) -> tuple[Plan, SessionEnd]:
    """Prepare and spend: all that a command asks of endpoints and engines."""
    with Display(command.options.display, screen) as display:
        listeners = Listeners(
            say=screen.notice, watch=display.show_run, last_words=partial(command.say_how_to_go_on, screen)
        )
        surroundings = replace(_surroundings(command.options, display, screen), hosted=command.hosted)
        async with command.open(surroundings) as resolved:
            plan = resolved.plan
            # The table of dates is read from the disk.
            for warning in await in_thread(lambda _: resolved.warnings(datetime.now(UTC).date())):
                screen.notice(f"Warning: {warning}")
            # Nobody named the folder this time: that of the run is used, and said.
            if command.options.data_root is None and plan.data_root not in (None, mini_root()):
                screen.notice(f"The data set is read at {plan.data_root}, as before.")
            carry_out_all = partial(
                run_turns,
                listeners=listeners,
                prepare_first=command.prepare,
                on_progress=display.on_progress,
                spending=command.spending,
            )
            if command.looks is not None:
                return plan, await run_looks(resolved, command.looks, carry_out_all, screen.notice)
            if command.calibrated is not None:
                is_agreed = partial(_agrees_to_rest, command, screen)
                return await run_calibrated(resolved, command.calibrated, carry_out_all, is_agreed)
            return plan, await carry_out_all(resolved)


async def _agrees_to_rest(command: SessionCommand, screen: Screen, part: Plan) -> bool:
    """Show what the part says of the judge, and tell whether to go on: there may be no rest."""

    def read(_: OnProgress) -> tuple[str, int]:
        # numpy, scipy and statsmodels, which no other session needs.
        from vlsb.reports.agreement import calibration_text

        judges, of_part = compared_judges(part), partial(charges, part)
        text = calibration_text(part.directory, *judges, of_part, width=screen.width, color=screen.has_color)
        return text, unjudged(part)

    text, rest = await in_thread(read)
    screen.result(text)
    if not rest:
        return True
    question = f"Judge the other {counted(rest, 'response')} now?"
    return await agrees(screen, question, yes=command.options.yes)


def _show(
    state: RunState, end: SessionEnd, command: SessionCommand, plan: Plan, screen: Screen, *, has_gaps: bool
) -> None:
    """Show what came of the session on stdout; where it is and what to type next on stderr."""
    if end.reason is None and end.pending == 0:
        screen.notice(_nothing_left(state, end, has_gaps=has_gaps))
    if plan.is_dry_run and end.reason is None:
        screen.result(estimate(forecast_run(state, end, plan, today=datetime.now(UTC).date())))
        screen.notice(f"Do the rest with: {shlex.join(command.go_on)}")
        return
    found = [entry for entry in state.manifest.guards if entry.file in end.judges]
    guards = [entry.file for entry in found]
    summaries = [
        summarize_state(state, plan.directory, file, prices=plan.prices)
        for file in end.judges
        if file not in guards
    ]
    if end.judge is None:
        if state.responses:
            keys = list(state.asked_for())
            stored = sum(key in state.responses for key in keys)
            words = shlex.join(("vlsb", "judge", str(plan.directory)))
            screen.result(
                f"{stored} of {len(keys)} responses are in {plan.directory}, not judged. "
                f"Judge them with: {words}"
            )
    elif end.reason is None or guards or any(each.rates.judged for each in summaries):
        if command.has_table:
            if summaries:
                screen.result(render(summaries, width=screen.width, color=screen.has_color))
            if complied := [each.file for each in found if each.is_of_compliance]:
                shares = [found_compliance(state, plan.directory, file) for file in complied]
                screen.result(
                    tables_text([compliance_table(shares)], width=screen.width, color=screen.has_color)
                )
            if counted := [file for file in guards if file not in complied]:
                screen.result(guards_table([guard_counts(state, plan.directory, file) for file in counted]))
        for line in _next_steps(state, end, plan.directory):
            screen.notice(line)
    if end.reason is None and end.limit is not None:
        screen.notice(end.limit.line)


def _nothing_left(state: RunState, end: SessionEnd, *, has_gaps: bool) -> str:
    """Say that a session found nothing to do, and how to repeat what a resume leaves alone.

    Of gaps that are too many more is said at the end.
    """
    first = next(left_alone(state, end.judges), None)
    again = f" To do samples again: --retry {first}." if first is not None and not has_gaps else ""
    return f"Nothing was left to do: every sample of this run has ended.{again}"


def _next_steps(state: RunState, end: SessionEnd, directory: Path) -> Iterator[str]:
    """Say where the run is and what people type next: the table again, and the responses behind its numbers.

    A line each, and none longer than it must be: a path that wraps cannot be copied.
    """
    run = from_here(directory)
    outcomes = set(unrated(state, end.judge))
    filters = ["--failed"] if outcomes - JUDGED else ["--label", "unsafe"] if outcomes else []
    yield f"The run is in {run}"
    yield f"Next: {shlex.join(['vlsb', 'report', run])}"
    yield f"Or: {shlex.join(['vlsb', 'show', run, *filters])}"


def judge_by_panel(runs: Sequence[Path], options: RunOptions) -> int:
    """Add the panel to each run, show its rates, and return the exit code: 4 where labels are missing."""
    screen = Screen(quiet=options.display == "none")
    allowed = FailOnError.parse(options.fail_on_error)
    if len(options.judge) > 1:
        raise ConfigError(
            f"--judge {PANEL}...: a panel is named alone, when its members have judged the run."
        )
    (panel,) = options.judge
    members = [name for name in panel.removeprefix(PANEL).split(",") if name]
    files = add_panels(runs, members, option=f"--judge {panel}")
    states = [load_state(run) for run in runs]
    rows = [summarize_state(*each) for each in zip(states, runs, files, strict=True)]
    screen.result(render(rows, width=screen.width, color=screen.has_color))
    for run, state, file in zip(runs, states, files, strict=True):
        require_labels(state, run, file, allowed)
    return 0
