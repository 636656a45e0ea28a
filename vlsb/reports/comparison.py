"""Runs compared on the same samples: one sentence in plain words, its tables, and the same as JSON and CSV.

Whatever the sentence says is read from the numbers of the tables: a difference is more than noise only where
its interval and its p value, corrected for the other comparisons of the table, both say so. A run is called
by its directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlsb.analysis.agreement import Pair
from vlsb.analysis.compared_runs import LeftOut
from vlsb.analysis.comparison import LEAST_CHANGED, Comparison
from vlsb.analysis.differences import Differences
from vlsb.analysis.paired import POWER, Difference, Equivalence
from vlsb.analysis.several_runs import ComparisonReport
from vlsb.records import PUBLISHED_IDS, Label
from vlsb.reports.encode import CsvCell, for_terminal
from vlsb.reports.notes import stopped_words
from vlsb.reports.report import (
    NO_FIGURE,
    RATE_WORDS,
    Records,
    Report,
    Sentence,
    Table,
    Words,
    counted,
    interval_text,
    percent,
    points,
)

SCHEMA = 1
"""Of the JSON report. Fields may be added at the end under the same number."""


_LABELS = ("refusal", "warning", "unsafe")
_INTERVALS = (
    "Percent of these samples, changes in points. Intervals (95 %) and p values take the samples of one "
    "image together."
)
_OPEN = (
    "Open: the ranks that the data cannot rule out. In 95 % of cases or more they hold the true ranks of "
    "all runs. Safest: the percent of resamples in which no run is safer."
)
_ONE_OF_SEVERAL = "Alone its interval would leave out zero, as one of {} may by noise: among all, p is {}."
_PEOPLE = (
    "What people would find on images like these, whatever the judge gets wrong in one run or the other: "
    "clustered prediction-powered inference on the changes."
)
_EQUIVALENT = (
    "Two one-sided tests at 5 % each: equivalent where the 90 % interval lies within the limits, also after "
    "Holm's correction for all {}. Not shown does not mean that they differ."
)
_EPOCHS = "Several epochs: a sample counts with the mean of those that have a label."
_SIMULATED = "SIMULATED: says nothing about any model."


def comparison_report(report: ComparisonReport, *, shown: int) -> Report:
    """Return what the comparison says, with this many changed samples (0 for all; JSON has all)."""
    data = {
        "schema_version": SCHEMA,
        "simulated": any(each.simulated for each in report.comparisons),
        "runs": [
            {
                "run": run.name,
                "path": run.path,
                "target": run.target,
                "judge": run.judge,
                "epochs": run.epochs,
                "samples_digest": run.conditions.samples_digest,
            }
            for run in report.runs
        ],
        "comparisons": [comparison_object(each) for each in report.comparisons],
        "ranked_samples": report.ranked_samples,
        "ranks": [
            {
                "run": each.run.name,
                "safe_rate": each.safe_rate,
                "rank": each.place,
                "low": each.low,
                "high": each.high,
                "safest_share": each.best,
            }
            for each in report.ranks
        ],
        "judge_agreements": [
            {
                "first": pair.first,
                "second": pair.second,
                "responses": pair.agreement.responses,
                "agreement": pair.agreement.raw,
                "kappa": pair.agreement.kappa,
            }
            for pair in report.agreements
        ],
    }
    return Report(
        lead=list(_lead(report)),
        tables=list(_tables(report, shown)),
        data=data,
        records=Records(_COLUMNS, list(_rows(report))),
    )


def sentence(comparison: Comparison) -> Sentence:
    """Return what the comparison says of the safe rate, in plain words."""
    first, second, safe = comparison.first.name, comparison.second.name, comparison.safe
    change, low, high, by_people = safe.change, comparison.family.low, comparison.family.high, ""
    if comparison.corrected is not None:
        change = comparison.corrected.rates["safe_rate"].corrected
        by_people = f", corrected by {counted(comparison.corrected.human_labels, 'human label')} of each"
    if comparison.is_clear:
        ends = "{:.1f} to {:.1f}".format(*sorted((abs(low), abs(high))))
        by = f"{points(abs(change))} (95 % CI {ends}{by_people}): more than noise."
        than = f" is {'safer' if change > 0 else 'less safe'} than "
        return Sentence(second, than, first, f" by {by}")
    found = f"{change:+.1f} points (95 % CI {low:+.1f} to {high:+.1f}{by_people})."
    # What would seem to say something else, and does not.
    why = ""
    if comparison.corrected is not None:
        if safe.is_clear:
            why = (
                f" By the judge alone it is {safe.change:+.1f} points, of which its errors may be the cause."
            )
    elif not comparison.changed_images:
        why = " No image changed."
    elif comparison.changed_images < LEAST_CHANGED:
        why = f" Only {counted(comparison.changed_images, 'image')} changed, and fewer than six cannot tell."
    elif comparison.safe.is_clear:
        why = f" {_ONE_OF_SEVERAL.format(comparison.comparisons, _p(comparison.family.p))}"
    elif comparison.safe.leaves_out_zero:
        why = f" The interval leaves out zero, but p by image is {_p(comparison.safe.p)}: both must agree."
    safer = f" is safer: the change is {found}{why}"
    return Sentence("The data cannot tell whether ", second, " or ", first, safer)


def equivalence_sentence(comparison: Comparison) -> Sentence:
    """Return whether the safe rates are equivalent, which was asked."""
    found = comparison.equivalence
    assert found is not None
    within = _limit(found)
    interval = f"{found.low:+.1f} to {found.high:+.1f}"
    if found.is_shown:
        verb, why = "are", f": the 90 % CI of the change, {interval}, lies within."
    elif found.lies_within:
        verb = "are not shown to be"
        why = (
            f": the 90 % CI of the change, {interval}, lies within, but among {comparison.comparisons} "
            f"comparisons p (Holm) is {_p(found.p_holm)}."
        )
    else:
        verb = "are not shown to be"
        why = f": the 90 % CI of the change is {interval}. That does not mean that they differ."
    names = (comparison.second.name, " and ", comparison.first.name)
    return Sentence(*names, f" {verb} equivalent within {within}{why}")


def _limit(found: Equivalence) -> str:
    return f"{found.within:g} {'point' if found.within == 1 else 'points'}"


def in_all(comparison: Comparison) -> str:
    """Return the same of all samples of VLSBench, where these are fewer of them."""
    every, more = len(PUBLISHED_IDS), comparison.detectable_in_all
    return "" if more is None or comparison.samples >= every else f"; with all {every:,}, {points(more)}"


def _lead(report: ComparisonReport) -> Iterator[Words]:
    simulated = f"{_SIMULATED} " if any(each.simulated for each in report.comparisons) else ""
    if len(report.comparisons) == 1:
        (comparison,) = report.comparisons
        yield Sentence(simulated, paired_on(comparison))
        yield from _other_differences(comparison)
    else:
        yield (
            f"{simulated}{len(report.runs)} runs, two by two on the samples that "
            f"{_judges(report.comparisons[0])} labelled in both. What is said of them holds for all "
            f"{len(report.comparisons)} comparisons at once."
        )
        apart = [each for each in report.comparisons if each.differs or any(each.left_out)]
        yield from map(paired_on, apart)
        # What is said of one run is said of it once.
        yield from dict.fromkeys(line for each in apart for line in _other_differences(each))
    for run in report.runs:
        if (stopped := stopped_words(run.conditions)) is not None:
            yield Sentence(run.name, ": ", stopped, ".")
    yield from map(_agreement_text, report.agreements)
    yield from map(sentence, report.comparisons)
    yield from (equivalence_sentence(each) for each in report.comparisons if each.equivalence is not None)
    # What so many samples show, whatever was found in them; nothing where few changed.
    if len(report.comparisons) == 1 and comparison.detectable is not None:
        yield (
            f"With {counted(comparison.samples, 'sample')}, a change of {points(comparison.detectable)} is "
            f"found in {100 * POWER:.0f} % of cases{in_all(comparison)}."
        )


def _judges(comparison: Comparison) -> str:
    return " and ".join(dict.fromkeys((comparison.first.judge, comparison.second.judge)))


def paired_on(comparison: Comparison) -> Sentence:
    """Return which samples two runs are compared on, and which are left out."""
    first, second = comparison.first.name, comparison.second.name
    reasons = {
        Sentence("only in ", first): comparison.left_out.only_first,
        Sentence("only in ", second): comparison.left_out.only_second,
        Sentence("with another row or image"): comparison.left_out.changed,
        Sentence("without a label in ", first): comparison.left_out.unjudged_first,
        Sentence("without a label in ", second): comparison.left_out.unjudged_second,
        Sentence("without a label in both"): comparison.left_out.unjudged_both,
    }
    left_out = [Sentence(f"{count:,} ", words) for words, count in reasons.items() if count]
    counts = f"{counted(comparison.samples, 'sample')} ({counted(comparison.images, 'image')})"
    start = (
        second,
        " against ",
        first,
        f": {counts} that {_judges(comparison)} labelled in both; left out: ",
    )
    return Sentence(*start, Sentence.join(", ", left_out or ["none"]), ".")


def _other_differences(comparison: Comparison) -> Iterator[Words]:
    """Tell what else is not alike: protocols, or snapshots of the judge."""
    differs: Differences = comparison.differs
    names = (comparison.first.name, comparison.second.name)
    for name, deviations in zip(names, (differs.deviations_first, differs.deviations_second), strict=True):
        if deviations:
            yield Sentence("Only in ", name, ": ", Sentence.join("; ", deviations), ".")
    for name, models in zip(names, differs.snapshots or (), strict=False):
        answered = Sentence.join(", ", sorted(models))
        yield Sentence("Not the same snapshot: in ", name, " the judge answered as ", answered, ".")
    if comparison.first.epochs > 1 or comparison.second.epochs > 1:
        yield _EPOCHS


def _agreement_text(pair: Pair) -> str:
    raw, kappa = pair.agreement.raw, pair.agreement.kappa
    total = pair.agreement.responses
    # Unsafe is the last label; the first judge's labels are the rows.
    more = 100 * (sum(pair.confusion[-1]) - sum(row[-1] for row in pair.confusion)) / total
    return (
        f"DIFFERENT JUDGES: of {counted(total, 'response')} that both labelled, {pair.first} and "
        f"{pair.second} label {raw.value or 0:.1f} % alike "
        f"(kappa {NO_FIGURE if kappa.value is None else f'{kappa.value:.2f}'}), and {pair.second} finds "
        f"{abs(more):.1f} points {'more' if more >= 0 else 'less'} safe. A change may be the judges' alone."
    )


def _tables(report: ComparisonReport, shown: int) -> Iterator[Table]:
    if len(report.comparisons) > 1:
        yield from _overview(report)
        yield from _corrections(report)
        yield from _equivalences(report)
        return
    (comparison,) = report.comparisons
    names = comparison.first.name, comparison.second.name
    bounds = []
    if missing := unjudged(comparison.left_out):
        bounds.append(
            f"Had the {counted(missing, 'sample')} without a label gone against or for the second run, the "
            f"change of the safe rate would be {comparison.bounds.worst:+.1f} to "
            f"{comparison.bounds.best:+.1f} points."
        )
    yield Table(
        "Rates on these samples",
        ("rate", *names, "change", "95 % CI", "p"),
        [
            (RATE_WORDS[name], percent(rate.first), percent(rate.second), *_change(rate), _p(rate.p))
            for name, rate in comparison.rates.items()
        ],
        notes=[_INTERVALS, *bounds],
    )
    yield from _corrections(report)
    are_counts = comparison.first.epochs == comparison.second.epochs == 1
    yield Table(
        Sentence("Labels by ", names[0], " (rows) and ", names[1], " (columns)"),
        ("", *_LABELS),
        [
            (label, *(f"{count:,.0f}" if are_counts else f"{count:,.1f}" for count in row))
            for label, row in zip(_LABELS, comparison.transitions, strict=True)
        ],
    )
    yield _tests(comparison)
    tests = len(comparison.by_category)
    yield Table(
        "Safe rate by category",
        ("category", "n", *names, "change", "95 % CI", "p (family)" if tests > 1 else "p"),
        [
            (each.category, f"{each.samples:,}", *_safe_cells(each.among_all))
            for each in comparison.by_category
        ],
        notes=[f"Intervals and p are for all {tests} categories at once."] if tests > 1 else (),
    )
    if comparison.flips:
        yield _flips(comparison, names, shown)


def _overview(report: ComparisonReport) -> Iterator[Table]:
    """Yield a row a comparison, and the ranks; where all are with one run, its name stands above."""
    comparisons = report.comparisons
    title: Words = "Safe rates, two by two"
    head: tuple[str, ...] = ("first", "second", "n", "first safe", "second safe")
    if len({each.first.name for each in comparisons}) == 1:
        title = Sentence("Safe rates against ", comparisons[0].first.name)
        head = ("run", "n", "baseline", "safe")
    names = len(head) - 3
    are_corrected = any(each.corrected is not None for each in comparisons)
    at_once = "its own comparison alone" if are_corrected else f"all {len(comparisons)} comparisons at once"
    detectable: Sequence[str] = ()
    if least_changes := [each.detectable for each in comparisons if each.detectable is not None]:
        least, most = (f"{end:.1f}" for end in (min(least_changes), max(least_changes)))
        changes = f"{least} points" if least == most else f"{least} to {most} points"
        detectable = [f"With these samples, changes of {changes} are found in {100 * POWER:.0f} % of cases."]
    yield Table(
        title,
        (*head, "change", "95 % CI", "p" if are_corrected else "p (family)"),
        [
            (
                *(each.first.name, each.second.name)[-names:],
                f"{each.samples:,}",
                *_safe_cells(each.safe if are_corrected else each.among_all),
            )
            for each in comparisons
        ],
        names=names,
        notes=[f"{_INTERVALS} They are for {at_once}.", *detectable],
    )
    if report.ranks:
        opens = [
            f"{each.low}" if each.low == each.high else f"{each.low} to {each.high}" for each in report.ranks
        ]
        ranked = counted(report.ranked_samples, "sample")
        yield Table(
            f"Ranks by safe rate, on the {ranked} that all runs have labels of",
            ("run", "target", "safe", "rank", "open", "safest %"),
            [
                (
                    *(each.run.name, each.run.target, percent(each.safe_rate)),
                    *(f"{each.place}", open_places, f"{each.best:.1f}"),
                )
                for each, open_places in zip(report.ranks, opens, strict=True)
            ],
            names=2,
            notes=[_OPEN, *["The ranks are by the judge alone."][: int(are_corrected)]],
        )


def _corrections(report: ComparisonReport) -> Iterator[Table]:
    """Yield the changes that people would find beside the judge's, where their labels were asked for."""
    are_several = len(report.comparisons) > 1
    rows: list[tuple[Words, ...]] = []
    for each in report.comparisons:
        for name, rate in () if each.corrected is None else each.corrected.rates.items():
            if name in each.rates and (name == "safe_rate" or not are_several):
                names = (each.first.name, each.second.name) if are_several else ()
                changes = f"{rate.judge:+.2f}", f"{rate.corrected:+.2f}"
                interval = (each.family.low, each.family.high) if name == "safe_rate" else rate.interval
                p = [_p(each.family.p)] if are_several else []
                rows.append((*names, RATE_WORDS[name], *changes, interval_text(interval, "+"), *p))
    if rows:
        columns = ("rate", "by the judge", "corrected", "95 % CI")
        at_once = f" For all {len(report.comparisons)} comparisons at once." if are_several else ""
        yield Table(
            "Changes corrected by human labels",
            ("first", "second", *columns, "p (family)") if are_several else columns,
            rows,
            names=2 * are_several + 1,
            notes=[f"{_PEOPLE}{at_once}"],
        )


def _equivalences(report: ComparisonReport) -> Iterator[Table]:
    """Yield the equivalence of several pairs of runs, where it was asked for."""
    found = [(each, each.equivalence) for each in report.comparisons if each.equivalence is not None]
    if found:
        yield Table(
            f"Safe rates equivalent within {_limit(found[0][1])}",
            ("first", "second", "90 % CI", "p (Holm)", "equivalent"),
            [
                (
                    *(each.first.name, each.second.name, interval_text((of.low, of.high), "+")),
                    *(_p(of.p_holm), "yes" if of.is_shown else "not shown"),
                )
                for each, of in found
            ],
            names=2,
            notes=[_EQUIVALENT.format(len(found))],
        )


def _safe_cells(safe: Difference) -> tuple[str, ...]:
    return (percent(safe.first), percent(safe.second), *_change(safe), _p(safe.p))


def unjudged(comparison: LeftOut) -> int:
    """Count the samples of both runs that lack a label in one of them."""
    return comparison.unjudged_first + comparison.unjudged_second + comparison.unjudged_both


def _change(rate: Difference) -> tuple[str, str]:
    return (f"{rate.change:+.2f}", interval_text((rate.low, rate.high), "+"))


def _p(value: float | None) -> str:
    if value is None:
        return NO_FIGURE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _tests(comparison: Comparison) -> Table:
    rows = []
    if comparison.mcnemar is not None:
        counts = f"{comparison.mcnemar.became_safe:,} safer, {comparison.mcnemar.became_unsafe:,} less safe"
        rows.append(
            ("safe or unsafe", "McNemar, exact", counts, _p(comparison.mcnemar.p), _p(comparison.safe.p))
        )
    three = comparison.stuart_maxwell
    statistic = f"{three.statistic:.2f}, df {three.degrees}"
    rows.append(("three labels", "Stuart-Maxwell", statistic, _p(three.p), _p(three.p_swapped)))
    return Table(
        "Tests of no difference",
        ("labels", "test", "statistic", "p", "p by image"),
        rows,
        names=2,
        notes=["p takes every sample as independent; p by image swaps the runs image by image."],
    )


def _flips(comparison: Comparison, names: tuple[Words, Words], shown: int) -> Table:
    flips = comparison.flips[:shown] if shown else comparison.flips
    are = "is" if len(flips) == 1 else "are"
    more = f" {len(flips):,} {are} shown; --show 0 shows all." if len(flips) < len(comparison.flips) else ""
    less_safe, safer = (sum(sign * each.safer > 0 for each in comparison.flips) for sign in (-1, 1))
    between = len(comparison.flips) - less_safe - safer
    counts = f"{less_safe:,} less safe, {safer:,} safer, {between:,} between refusal and warning."
    return Table(
        f"{counted(len(comparison.flips), 'sample')} with another label, the worst first",
        ("id", "category", "sub-category", *names),
        [
            (
                f"{each.sample_id}",
                each.category,
                each.sub_category,
                label_text(each.first),
                label_text(each.second),
            )
            for each in flips
        ],
        names=5,
        notes=[f"{counts}{more} Read one: vlsb show RUN and its id."],
    )


def label_text(shares: Sequence[float]) -> str:
    """Return a sample's label, or the shares of its epochs where these differ."""
    labels = [(label, share) for label, share in zip(_LABELS, shares, strict=True) if share]
    if len(labels) == 1:
        return labels[0][0]
    return ", ".join(f"{label} {100 * share:.0f} %" for label, share in labels)


def comparison_object(comparison: Comparison) -> dict[str, object]:
    """Return a comparison for JSON: rates and changes in percent and points, p values plain."""
    differs = comparison.differs
    return {
        "first": comparison.first.name,
        "second": comparison.second.name,
        # Read by people, from a terminal too.
        "sentence": sentence(comparison).text(for_terminal),
        "samples": comparison.samples,
        "images": comparison.images,
        "left_out": comparison.left_out,
        "differences": differs.aspects,
        "deviations_first": differs.deviations_first,
        "deviations_second": differs.deviations_second,
        "rates": comparison.rates,
        "p_holm": comparison.p_holm,
        "safe_rate_bounds": comparison.bounds,
        "labels": list(Label),
        "transitions": comparison.transitions,
        "mcnemar": comparison.mcnemar,
        "stuart_maxwell": comparison.stuart_maxwell,
        "detectable": comparison.detectable,
        # Promised, and unknown: read from the change that was found it would spread over a factor of fifty.
        "samples_needed": None,
        "by_category": {
            each.category: {
                "samples": each.samples,
                "safe_rate": each.safe,
                "p_holm": each.p_holm,
                "family": each.family,
            }
            for each in comparison.by_category
        },
        "changed": [
            {
                "instruction_id": each.sample_id,
                "category": each.category,
                "sub_category": each.sub_category,
                "first": each.first,
                "second": each.second,
            }
            for each in comparison.flips
        ],
        "is_clear": comparison.is_clear,
        "comparisons": comparison.comparisons,
        "changed_images": comparison.changed_images,
        "detectable_in_all": comparison.detectable_in_all,
        "corrected": comparison.corrected,
        "equivalence": _equivalence_object(comparison),
        "family": comparison.family,
    }


def _equivalence_object(comparison: Comparison) -> dict[str, object] | None:
    if (found := comparison.equivalence) is None:
        return None
    said = equivalence_sentence(comparison).text(for_terminal)
    return {**found._asdict(), "is_equivalent": found.is_shown, "sentence": said}


_COLUMNS = (
    *("first", "second", "scope", "name", "rate", "n"),
    *("first_rate", "second_rate", "change", "low", "high", "p", "p_holm"),
    *("family_low", "family_high", "p_family"),
)


def _rows(report: ComparisonReport) -> Iterator[tuple[CsvCell, ...]]:
    """Return one row a rate of a comparison, and one a category."""
    for comparison in report.comparisons:
        names = comparison.first.name, comparison.second.name
        for name, rate in comparison.rates.items():
            holm = comparison.p_holm if name == "safe_rate" else None
            family = comparison.family if name == "safe_rate" else (None, None, None)
            yield (*names, "all", "", name, comparison.samples, *rate, holm, *family)
        corrected = {} if comparison.corrected is None else comparison.corrected.rates
        for name, fixed in corrected.items():
            change = (None, None, fixed.corrected, *fixed.interval, *[None] * 5)
            yield (*names, "corrected", "", name, comparison.samples, *change)
        if (of := comparison.equivalence) is not None:
            moved = comparison.safe.change
            if comparison.corrected is not None:
                moved = comparison.corrected.rates["safe_rate"].corrected
            about = ("equivalence", f"within {_limit(of)}", "safe_rate", comparison.samples)
            yield (*names, *about, None, None, moved, of.low, of.high, of.p, of.p_holm, *[None] * 3)
        for each in comparison.by_category:
            scope = ("category", each.category, "safe_rate", each.samples)
            yield (*names, *scope, *each.safe, each.p_holm, *each.family)
