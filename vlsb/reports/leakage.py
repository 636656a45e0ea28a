"""Why models are unsafe, as tables, JSON and CSV: what text, image and caption each change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlsb.analysis.leakage import CAPTION, CauseShare, Leakage, SampleCause
from vlsb.records import Untrusted
from vlsb.reports.encode import CsvCell, versioned
from vlsb.reports.report import (
    NO_FIGURE,
    RATE_HEADINGS,
    Records,
    Report,
    Sentence,
    Table,
    Words,
    counted,
    interval_text,
    rate_figures,
    rate_object,
)
from vlsb.store.arms import ArmRates, TargetArms

SCHEMA = 1
"""Of the JSON. Fields may be added at the end under the same number."""

WORDS = {
    SampleCause.GIVEN_AWAY: "given away",
    SampleCause.HANDLED: "handled",
    SampleCause.MISLED: "misled",
    SampleCause.UNSEEN: "unseen",
    SampleCause.UNHEEDED: "unheeded",
    SampleCause.UNSEEN_OR_UNHEEDED: "unseen or unheeded",
}
_MEANING = {
    SampleCause.GIVEN_AWAY: "Given away: safe by the text alone, and with the image.",
    SampleCause.HANDLED: "Handled: safe with the image, and not without it.",
    SampleCause.MISLED: "Misled: safe by the text alone, unsafe with the image.",
    SampleCause.UNSEEN: "Unseen: unsafe with the image, safe when told what it shows.",
    SampleCause.UNHEEDED: "Unheeded: unsafe even when told.",
    SampleCause.UNSEEN_OR_UNHEEDED: f"A run with --arm {CAPTION} tells what is unseen from what is unheeded.",
}
_NO_FLOOR = (
    "How much of this is chance cannot be told, since each arm was asked once. Run one again, under another "
    "name or with --epochs."
)


def leakage_report(found: Sequence[TargetArms], *, by_dataset: bool) -> Report:
    """Return what became of the samples of each target; `by_dataset` puts the data sets beside each other."""
    return Report(
        lead=[_sentence(each) for each in found],
        tables=[_by_dataset(found)] if by_dataset else [table for each in found for table in _tables(each)],
        data={
            **versioned(SCHEMA),
            "targets": [
                {
                    "target": each.target,
                    "dataset": each.dataset,
                    "judge": each.judge,
                    "simulated": each.simulated,
                    "changed": each.changed,
                    "arms": [{"arm": arm.arm, "run": arm.run, **rate_object(arm.rates)} for arm in each.arms],
                    "causes": _object(each.whole),
                    "categories": {name: _object(part) for name, part in each.categories.items()},
                }
                for each in found
            ],
        },
        records=Records(
            (
                *("target", "dataset", "judge", "category", "cause", "n", "observed", "corrected"),
                *("low", "high"),
            ),
            list(_records(found)),
        ),
    )


def _sentence(each: TargetArms) -> Sentence:
    simulated = "SIMULATED: says nothing about any model. " if each.simulated else ""
    if each.whole is None:
        return Sentence(simulated, each.target, ": no sample has a label in each arm. Judge the runs first.")
    told = [f"{_best(share):.1f} % {WORDS[cause]}" for cause, share in each.whole.shares.items() if share]
    among = counted(each.whole.samples, "sample")
    return Sentence(simulated, each.target, f": of {among}, {', '.join(told[:-1])} and {told[-1]}.")


def _tables(each: TargetArms) -> Iterator[Table]:
    yield Table(
        Sentence("What ", each.target, " says when it is shown more or less"),
        ("arm", *RATE_HEADINGS),
        [(_arm_name(each, arm), *rate_figures(arm.rates)) for arm in each.arms],
        notes=[f"The judge {each.judge} always saw the sample's own image and question."],
    )
    if each.whole is None:
        return
    yield Table(
        Sentence("Why ", each.target, " is unsafe, in percent of the samples"),
        ("cause", "observed", "not by chance", "95 % CI"),
        [
            (
                *(WORDS[cause], f"{share.observed:.1f}"),
                NO_FIGURE if share.corrected is None else f"{share.corrected:.1f}",
                interval_text(share.interval),
            )
            for cause, share in each.whole.shares.items()
        ],
        notes=list(_notes(each, each.whole)),
    )
    causes = list(each.whole.shares)
    yield Table(
        Sentence("Why, by category, in percent"),
        ("category", "n", *(WORDS[cause] for cause in causes)),
        [
            (category, f"{part.samples:,}", *(f"{_best(part.shares[cause]):.1f}" for cause in causes))
            for category, part in each.categories.items()
        ],
        notes=["Intervals of each are in the JSON and the CSV."],
    )


def _arm_name(each: TargetArms, arm: ArmRates) -> Words:
    """Return the arm, with the run where several have it."""
    is_alone = sum(other.arm == arm.arm for other in each.arms) == 1
    return arm.arm if is_alone else Sentence(arm.arm, " (", arm.run, ")")


def _notes(each: TargetArms, whole: Leakage) -> Iterator[Words]:
    yield " ".join(_MEANING[cause] for cause in whole.shares)
    if whole.flips:
        flips = ", ".join(f"{arm} {rate:.1f} %" for arm, rate in whole.flips.items())
        yield (
            f"Chance: a label flips in {flips} of cases, by what was asked twice; an arm that was asked once "
            "is taken to flip as these do. The interval is of the share that is not chance."
        )
    else:
        yield _NO_FLOOR
    left_out = [
        f"{counted(number, 'sample')} {what}"
        for number, what in (
            (whole.unlabelled, "without a label in one of the arms"),
            (each.changed, "with another row or image in one of the runs"),
        )
        if number
    ]
    if left_out:
        yield f"Left out: {' and '.join(left_out)}."


def _by_dataset(found: Sequence[TargetArms]) -> Table:
    return Table(
        "What the text alone gives away, in percent of the samples",
        ("data set", "target", "n", "text safe", "95 % CI", "given away", "handled", "misled"),
        [
            (
                *(each.dataset, each.target, f"{whole.samples:,}", f"{_best(whole.text_safe):.1f}"),
                interval_text(whole.text_safe.interval),
                *(
                    f"{_best(whole.shares[cause]):.1f}"
                    for cause in (SampleCause.GIVEN_AWAY, SampleCause.HANDLED, SampleCause.MISLED)
                ),
            )
            for each in sorted(found, key=lambda each: (each.dataset, each.target))
            if (whole := each.whole) is not None
        ],
        names=2,
        notes=[
            "Text safe: answered safely by the text alone. Where the risk stands in the text, models do that "
            "without a look at the image, and a rate says little about what they make of images."
        ],
    )


def _best(share: CauseShare) -> float:
    """Return the share that chance did not make, where that is known."""
    return share.observed if share.corrected is None else share.corrected


def _object(found: Leakage | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "n": found.samples,
        "unlabelled": found.unlabelled,
        "images": found.images,
        "flips": found.flips,
        "shares": {
            name: {
                "observed": share.observed,
                "corrected": share.corrected,
                "low": share.interval.low,
                "high": share.interval.high,
            }
            for name, share in _named(found)
        },
    }


def _named(found: Leakage) -> list[tuple[str, CauseShare]]:
    return [*((cause.value, share) for cause, share in found.shares.items()), ("text_safe", found.text_safe)]


def _records(found: Sequence[TargetArms]) -> Iterator[tuple[CsvCell, ...]]:
    for each in found:
        parts: list[tuple[Untrusted | str, Leakage]] = [*each.categories.items()]
        if each.whole is not None:
            parts.insert(0, ("", each.whole))
        for category, part in parts:
            for name, share in _named(part):
                yield (
                    *(each.target, each.dataset, each.judge, category, name, part.samples),
                    *(share.observed, share.corrected, *share.interval),
                )
