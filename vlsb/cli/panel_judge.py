"""`vlsb judge RUN --judge panel:A,B,C`: what most of a run's judges say, as a judge of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlsb import strict_json
from vlsb.analysis.panel import FEWEST, RULE, is_panel, panel_settings
from vlsb.analysis.summary import FailOnError
from vlsb.cli.screen import Screen
from vlsb.errors import ConfigError, GapsError
from vlsb.evaluation.options import RunOptions
from vlsb.judging.kinds import PANEL
from vlsb.records import JUDGED, Outcome, Untrusted
from vlsb.reports.terminal import render
from vlsb.store.manifest import JudgeEntry, Manifest, judge_name, read_manifest, require_run
from vlsb.store.state import RunState, load_state
from vlsb.store.store import add_judge
from vlsb.store.summaries import stored_judge, summarize_state


def judge_by_panel(runs: Sequence[Path], options: RunOptions) -> int:
    """Add the panel to each run, show its rates, and return the exit code: 4 where labels are missing."""
    screen = Screen(quiet=options.display == "none")
    allowed = FailOnError.parse(options.fail_on_error)
    for run in runs:
        require_run(run)
    files = [add_judge(run, _panel(read_manifest(run), options.judge)) for run in runs]
    states = [load_state(run) for run in runs]
    rows = [summarize_state(*each) for each in zip(states, runs, files, strict=True)]
    screen.result(render(rows, width=screen.width, color=screen.has_color))
    for each in zip(runs, states, files, strict=True):
        _require_labels(*each, allowed)
    return 0


def _panel(manifest: Manifest, judges: tuple[str, ...]) -> JudgeEntry:
    """Make the entry of the panel that `--judge` names. Raises ConfigError for unfit members."""
    if len(judges) > 1:
        raise ConfigError(
            f"--judge {PANEL}...: a panel is named alone, when its members have judged the run."
        )
    names = [name for name in judges[0].removeprefix(PANEL).split(",") if name]
    named = {each.file: each for name in names if (each := stored_judge(manifest, name)) is not None}
    if len(named) < FEWEST or len(named) < len(names):
        raise ConfigError(f"--judge {judges[0]}: name {FEWEST} judges of the run or more, each once.")
    for member in named.values():
        if member.is_human or is_panel(member.settings):
            raise ConfigError(f"--judge {judges[0]}: people and panels cannot be members of a panel.")
    members = {judge_name(file): each.settings for file, each in named.items()}
    settings = panel_settings(members)
    deviation = f"judge panel: the majority of {', '.join(sorted(members))} ({RULE})"
    return JudgeEntry(
        name=Untrusted("panel"),
        file=f"panel-{Untrusted(strict_json.dumps(settings)).sha256()[:8]}.jsonl",
        simulated=any(each.simulated for each in named.values()),
        is_added=True,
        settings=settings,
        decision=None,
        deviations=[Untrusted(deviation)],
    )


def _require_labels(run: Path, state: RunState, file: str, allowed: FailOnError) -> None:
    outcomes = [state.outcome(key, file) for key in state.responses]
    missing = sum(outcome not in JUDGED for outcome in outcomes)
    if allowed.is_exceeded(missing, selected=len(outcomes)):
        undecided = outcomes.count(Outcome.JUDGE_UNDECIDED)
        raise GapsError(
            f"{run}: {missing} of {len(outcomes)} responses have no label of the panel: {undecided} "
            f"undecided, {missing - undecided} wait for a member that has not judged them."
        )
