"""A run that answered a part of the samples: what it would say of all, given the labels of an earlier run."""

from __future__ import annotations

from collections.abc import Iterator

from vlsb.analysis.given import GivenBaseline
from vlsb.analysis.paired import COMPARED
from vlsb.reports.encode import CsvCell, versioned
from vlsb.reports.report import (
    NO_FIGURE,
    RATE_WORDS,
    Records,
    Report,
    Sentence,
    Table,
    counted,
    interval_text,
    percent,
)

SCHEMA = 1
"""Of the JSON. Fields may be added at the end under the same number."""

_NOTE = (
    "Alone: by the part's own labels. Given: by the baseline's labels of all samples too (prediction-powered "
    "inference by image), on these very samples, and on other images like them."
)


def given_report(found: GivenBaseline) -> Report:
    """Return the rates of the part alone and given its baseline."""
    return Report(
        lead=[_sentence(found)],
        tables=[
            Table(
                Sentence("Rates of ", found.run.name, f" on {counted(found.of, 'sample')}"),
                ("rate", "baseline", "alone", "95 % CI", "given", "95 % CI, these", "other images"),
                [
                    (
                        *(RATE_WORDS[name], percent(rate.judge), percent(found.alone.rate(name))),
                        *(interval_text(found.alone.intervals[name]), percent(rate.corrected)),
                        NO_FIGURE if rate.interval_of_run is None else interval_text(rate.interval_of_run),
                        interval_text(rate.interval),
                    )
                    for name, rate in ((name, found.given.rates[name]) for name in COMPARED)
                ],
                notes=[_NOTE],
            )
        ],
        data={
            **versioned(SCHEMA),
            "simulated": found.simulated,
            "run": found.run.name,
            "baseline": found.baseline.name,
            "judge": found.run.judge,
            "samples": found.samples,
            "of": found.of,
            "images": found.given.images,
            "worth": found.worth,
            "rates": {
                name: {
                    "baseline": rate.judge,
                    "alone": found.alone.rate(name),
                    "alone_interval": found.alone.intervals[name],
                    "given": rate.corrected,
                    "interval": rate.interval,
                    "interval_of_all": rate.interval_of_run,
                }
                for name, rate in found.given.rates.items()
            },
        },
        records=Records(
            ("run", "baseline", "judge", "rate", "n", "estimate", "value", "low", "high"), list(_rows(found))
        ),
    )


def _sentence(found: GivenBaseline) -> Sentence:
    simulated = "SIMULATED: says nothing about any model. " if found.simulated else ""
    safe = found.given.rates["safe_rate"]
    low, high = safe.interval_of_run or safe.interval
    given = f"{safe.corrected:.1f} % safe (95 % CI {low:.1f} to {high:.1f})"
    return Sentence(
        *(simulated, found.run.name, f": {given} on the {counted(found.of, 'sample')} of "),
        *(
            found.baseline.name,
            f", estimated from {counted(found.samples, 'label')} given its labels. That is ",
        ),
        f"as good as {counted(found.worth, 'label')} alone.",
    )


def _rows(found: GivenBaseline) -> Iterator[tuple[CsvCell, ...]]:
    names = found.run.name, found.baseline.name, found.run.judge
    for name, rate in found.given.rates.items():
        alone = (found.alone.rate(name), *found.alone.intervals[name])
        yield (*names, name, found.samples, "alone", *alone)
        yield (*names, name, found.of, "given", rate.corrected, *rate.interval)
