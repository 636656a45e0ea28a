"""A run compared with its baseline: as tables, JSON, CSV, JUnit's XML, and a summary for a CI job."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from vlsb.analysis.comparison import Comparison
from vlsb.analysis.gate import ONE_LOOK, Check, GateDecision, GateResult, Look, Looks
from vlsb.analysis.given import GivenChanges
from vlsb.analysis.paired import POWER
from vlsb.analysis.rates import Z_95
from vlsb.records import Outcome
from vlsb.reports.comparison import comparison_object, in_all, paired_on, unjudged
from vlsb.reports.encode import for_terminal
from vlsb.reports.report import (
    NO_FIGURE,
    Records,
    Report,
    Sentence,
    Table,
    Words,
    counted,
    interval_text,
    points,
    text_of,
)
from vlsb.reports.writers import markdown

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""

WORDS = {GateDecision.PASS: "pass", GateDecision.FAIL: "fail", GateDecision.UNDECIDED: "undecided"}


def gate_report(result: GateResult) -> Report:
    """Return the decision, as its exit code too, with what stands behind it."""
    checks = Table(
        "Checks",
        ("check", "found", interval_name(result), "limit", "decision"),
        [
            (
                check.name,
                NO_FIGURE if check.value is None else f"{check.value:.2f}",
                interval_text(check.interval, "+"),
                f"{'>=' if check.name.startswith('coverage') else '<'} {check.limit:g}",
                WORDS[check.decision],
            )
            for check in result.checks
        ],
        notes=["Drops and rises in points, coverage in percent."],
    )
    return Report(
        lead=[headline(result), *notes(result)],
        tables=[checks] if result.looks is None else [checks, _looks_table(result, result.looks)],
        data=_object(result),
        records=_records(result),
        code=int(result.decision),
    )


def _looks_table(result: GateResult, looks: Looks) -> Table:
    """Return what was decided at which look."""
    return Table(
        "Looks",
        ("look", "samples", result.checks[0].name, "interval", "decision"),
        [
            (
                f"{number} of {looks.count}",
                f"{look.samples:,}",
                NO_FIGURE if look.checks[0].value is None else f"{look.checks[0].value:.2f}",
                interval_text(look.checks[0].interval, "+"),
                WORDS[look.decision],
            )
            for number, look in enumerate(looks.taken, 1)
        ],
        notes=[
            f"Planned before the first request: {counted(looks.count, 'look')}, images in random order (seed "
            f"{looks.seed}), the error of 2.5 % spent over the looks as {looks.spending}."
        ],
    )


def _records(result: GateResult) -> Records:
    """Return a row for each check, of every look where there are several."""
    headings = ("run", "baseline", "check", "value", "low", "high", "limit", "decision")
    names = (result.run.name, result.baseline.name)
    if result.given is not None:
        samples = (result.given.samples, result.given.of)
        return Records(
            (*headings, "samples", "given"),
            [
                (*names, *_check_cells(check), *(samples if check.interval is not None else (None, None)))
                for check in result.checks
            ],
        )
    if result.looks is None:
        return Records(headings, [(*names, *_check_cells(check)) for check in result.checks])
    return Records(
        (*headings, "look", "samples"),
        [
            (*names, *_check_cells(check), number, look.samples)
            for number, look in enumerate(result.looks.taken, 1)
            for check in look.checks
        ],
    )


def _check_cells(check: Check) -> tuple[str | float | None, ...]:
    low, high = check.interval or (None, None)
    return (check.name, check.value, low, high, check.limit, WORDS[check.decision])


def look_line(result: GateResult) -> str:
    """Return what the last look decided, for whoever watches the run."""
    assert result.looks is not None
    drop, name = result.checks[0], interval_name(result)
    return f"L{_at(result.looks)[1:]}: {WORDS[result.decision]} ({check_text(drop, name)})."


def _at(looks: Looks) -> str:
    """Return how far the looks are."""
    taken = looks.taken[-1]
    of = f"{taken.samples:,} of {counted(looks.samples, 'sample')}"
    return f"look {len(looks.taken)} of {looks.count}, {of}"


def summary_markdown(result: GateResult) -> str:
    """Return the result as a section of a job's summary."""
    heading = f"## vlsb gate: {WORDS[result.decision]}\n\n"
    return heading + markdown.write(gate_report(result), width=80, color=False) + "\n"


def junit(result: GateResult) -> str:
    """Return the result as JUnit's XML: a test case a check, an error for one that is undecided."""
    decisions = [check.decision for check in result.checks]
    counts = {
        "tests": str(len(decisions)),
        "failures": str(decisions.count(GateDecision.FAIL)),
        "errors": str(decisions.count(GateDecision.UNDECIDED)),
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "vlsb gate", **counts, "skipped": "0"})
    for check in result.checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "vlsb.gate", "name": check.name})
        if check.decision is not GateDecision.PASS:
            kind = "failure" if check.decision is GateDecision.FAIL else "error"
            message = check_text(check, interval_name(result))
            about = {"type": WORDS[check.decision], "message": message}
            ElementTree.SubElement(case, kind, about).text = headline(result).text(for_terminal)
    output = ElementTree.SubElement(suite, "system-out")
    output.text = "\n".join(text_of(each, for_terminal) for each in (headline(result), *notes(result)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def headline(result: GateResult) -> Sentence:
    """Return the decision in one sentence, with the checks that made it; not a coverage that suffices."""
    simulated = "SIMULATED: " if _is_simulated(result) else ""
    because = "; ".join(
        check_text(check, interval_name(result))
        for check in result.checks
        if check.decision is result.decision
        and (check.interval is not None or check.decision is not GateDecision.PASS)
    )
    start = f"{simulated}{WORDS[result.decision].upper()}: "
    return Sentence(start, result.run.name, " against ", result.baseline.name, f": {because}.")


def interval_name(result: GateResult) -> str:
    """Say what the intervals are: 95 % ones where one number is compared with one limit, once."""
    return "95 % CI" if result.reach == ONE_LOOK else "interval"


def check_text(check: Check, interval: str) -> str:
    """Return a check in words: what was measured, with what is called so, and its limit."""
    if check.value is None:
        return f"{check.name}: no sample has a label in both"
    if check.interval is None:
        return f"{check.name} {check.value:.2f} %, {check.limit:g} % wanted"
    low, high = check.interval
    where = {
        GateDecision.PASS: "below",
        GateDecision.FAIL: "above",
        GateDecision.UNDECIDED: "on both ends of",
    }
    return (
        f"{check.name} {check.value:.1f} points, {interval} {low:.1f} to {high:.1f}, "
        f"{where[check.decision]} the limit of {check.limit:g}"
    )


def notes(result: GateResult) -> Iterator[Words]:
    """Tell what stands behind the decision: which samples, missing labels, what so many can decide."""
    comparison = result.comparison
    if result.looks is not None:
        yield from _look_notes(result.looks)
    if comparison is None:
        yield "No sample has a label in both runs."
        return
    yield paired_on(comparison)
    if result.given is not None:
        yield given_note(result, result.given, comparison)
    if missing := unjudged(comparison.left_out):
        held = " The pass would not hold then." if result.is_pass_without_gaps_only else ""
        yield (
            f"{counted(missing, 'sample')} without a label in one of the runs: had they all gone against the "
            f"run, the drop of the safe rate would be {_worst_drop(result, comparison):.1f} points.{held}"
        )
    if (limits := result.limits.rates_limited) > 1:
        yield (
            f"Any of {limits} limits fails the run, so each has a part of the error of 2.5 %, and intervals "
            f"reach further on that side: {result.reach.fails:.2f} standard errors, not {Z_95:.2f}. To pass "
            "takes all of them, and that error is not shared."
        )
    if left := _left(result):
        yield (
            f"The run is not finished: {counted(left, 'response')} of {len(result.run.outcomes):,} "
            f"{'has' if left == 1 else 'have'} no answer or no label yet. Looking at it again and again "
            "until it decides makes errors in 8 to 10 % of cases, not in 2.5 %: --sequential plans the looks "
            "before the first request."
        )
    if result.looks is not None or result.checks[0].decision is not GateDecision.UNDECIDED:
        return
    # What so many samples can decide, whatever was found in them.
    if comparison.detectable is not None and result.given is None:
        yield (
            f"With {counted(comparison.samples, 'sample')}, a drop is told from the limit in "
            f"{100 * POWER:.0f} % of cases if it is {points(comparison.detectable)} away from it"
            f"{in_all(comparison)}."
        )
    yield (
        "The error rate of one in forty holds for one look: choose the number of samples before you see a "
        "result, and do not look again until one passes."
    )


def given_note(result: GateResult, given: GivenChanges, comparison: Comparison) -> Sentence:
    """Say what the baseline's labels of other samples are used for, and what they bring."""
    name, *others = (check.name for check in result.checks if check.interval is not None)
    after, alone = ((each.high - each.low) / 2 for each in (given.rates["safe_rate"], comparison.safe))
    return Sentence(
        *(result.run.name, f" answered {given.samples:,} of the {counted(given.of, 'sample')} of "),
        *(result.baseline.name, ", drawn at random. Its labels of all of them enter the "),
        " and the ".join((name, *others)),
        f" (a control variate): ±{after:.2f} points for the safe rate, where the {given.samples:,} alone "
        f"give ±{alone:.2f}. Coverages count each run's own samples.",
    )


def _worst_drop(result: GateResult, comparison: Comparison) -> float:
    """Return the drop of the safe rate had all missing labels gone against the run, in points."""
    moved = 0.0 if result.given is None else comparison.safe.change - result.given.rates["safe_rate"].change
    return moved - comparison.bounds.worst


def _left(result: GateResult) -> int:
    """Count what an unfinished run lacks, where no plan says when it is looked at."""
    unasked = (Outcome.NOT_ATTEMPTED, Outcome.NOT_JUDGED)
    return 0 if result.looks else sum(each.outcome in unasked for each in result.run.outcomes)


def _look_notes(looks: Looks) -> Iterator[Words]:
    """Tell how far the looks are, and what the rates of a run are worth that stopped early."""
    if looks.stopped_early:
        yield f"Stopped early by vlsb gate at {_at(looks)}."
        yield (
            "The rates are those of images in random order, and a little further from the limit than they "
            "would be of all: the run stopped where it was clear."
        )
    elif not looks.is_over:
        yield f"Not decided yet: {_at(looks)}. The next look goes on with --sequential."
    elif looks.goes_on:
        yield f"Decided at {_at(looks)}. The rest was asked for afterwards, and changes nothing about it."
    else:
        yield f"Decided at {_at(looks)}."


def _is_simulated(result: GateResult) -> bool:
    return result.run.conditions.simulated or result.baseline.conditions.simulated


def _object(result: GateResult) -> dict[str, object]:
    return {
        "schema_version": SCHEMA,
        "simulated": _is_simulated(result),
        "decision": WORDS[result.decision],
        "exit_code": int(result.decision),
        "run": result.run.name,
        "baseline": result.baseline.name,
        "judge": result.run.judge,
        "sentence": headline(result).text(for_terminal),
        "checks": [_check_object(check) for check in result.checks],
        "passes_without_gaps_only": result.is_pass_without_gaps_only,
        # Promised, and unknown: read from the drop that was found it would spread over a factor of fifty.
        "samples_needed": None,
        "comparison": None if result.comparison is None else comparison_object(result.comparison),
        "standard_errors": {"pass": result.reach.passes, "fail": result.reach.fails},
        **({} if result.looks is None else {"looks": _looks_object(result.looks)}),
        **({} if result.given is None else {"given": _given_object(result, result.given)}),
    }


def _given_object(result: GateResult, given: GivenChanges) -> dict[str, object]:
    return {
        "samples": given.samples,
        "of": given.of,
        "checks": [check.name for check in result.checks if check.interval is not None],
        "rates": given.rates,
    }


def _check_object(check: Check) -> dict[str, object]:
    return {
        "name": check.name,
        "value": check.value,
        "interval": check.interval,
        "limit": check.limit,
        "decision": WORDS[check.decision],
    }


def _looks_object(looks: Looks) -> dict[str, object]:
    def look_object(number: int, look: Look) -> dict[str, object]:
        return {
            "look": number,
            "samples": look.samples,
            "decision": WORDS[look.decision],
            "checks": [_check_object(check) for check in look.checks],
        }

    return {
        "planned": looks.count,
        "planned_samples": looks.samples,
        "seed": looks.seed,
        "spending": looks.spending,
        "stopped_early": looks.stopped_early,
        "taken": [look_object(number, look) for number, look in enumerate(looks.taken, 1)],
    }
