"""From the labels of a run to the report of its audit: who labelled what, and how judges compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from vlsb.analysis.audit import LabelPair, agreement
from vlsb.analysis.correction import AuditedSample, corrected_rates, labels_needed
from vlsb.errors import ConfigError
from vlsb.records import Key, Label, Untrusted
from vlsb.reports.audit import AuditReport, Compared, Corrected
from vlsb.store.audit import AuditItem, draws_of, require_audit
from vlsb.store.manifest import judge_name
from vlsb.store.state import RunState, load_state

Labels = Mapping[AuditItem, Label]


def audit_report(run: Path) -> AuditReport:
    """The report of a run's drawn sample as its labels stand now."""
    audit, state = require_audit(run), load_state(run)
    items = audit.current(state)
    labels: dict[str, Labels] = {
        entry.file: {
            item: label
            for item, response in items
            if (label := state.label(response.key, entry.file)) is not None
        }
        for entry in state.manifest.judges
    }
    humans = {entry.file for entry in state.manifest.judges if entry.is_human}
    people = [file for file in labels if file in humans and labels[file]]
    judges = [file for file in labels if file not in humans and labels[file]]
    pairs = [*combinations(people, 2), *((person, judge) for judge in judges for person in people)]
    given = [labels[person] for person in people]
    corrections = [_correction(run, state, judge, given) for judge in judges if people]
    return AuditReport(
        run=Untrusted(run.resolve().name),
        target=state.manifest.target,
        simulated=state.manifest.simulated,
        drawn=len(items),
        images=len({item.image_path for item, _ in items}),
        replaced=len(audit.items) - len(items),
        later=len(state.responses) - sum(each.responses for each in audit.frame),
        annotators={_name(file): len(labels[file]) for file in people},
        compared=[
            Compared(
                _name(truth),
                _name(found),
                found in humans,
                agreement([*_pairs(labels[truth], labels[found])]),
            )
            for truth, found in pairs
        ],
        corrected=[each for each in corrections if isinstance(each, Corrected)],
        uncorrected=list(dict.fromkeys(each for each in corrections if isinstance(each, str))),
    )


def _name(file: str) -> Untrusted:
    """A judge as reports call it: by its file, which no other judge of the run has."""
    return Untrusted(judge_name(file))


def _pairs(truth: Labels, found: Labels) -> Iterator[LabelPair]:
    for item, label in truth.items():
        if item in found:
            yield LabelPair(item.image_path, item.weight, label, found[item])


def _correction(run: Path, state: RunState, judge: str, people: Sequence[Labels]) -> Corrected | str:
    """A judge's rates over the run, corrected by people's labels; or why there is no correction."""
    if draws_of(run, state, state.manifest.judge(judge)):
        return f"{judge_name(judge)} has labelled a drawn part: there is no rate to correct."
    paths = {row.sample_id: row.image_path for row in state.manifest.samples}
    human: dict[Key, list[Label]] = {}
    weights = {item.key: item.weight for labels in people for item in labels}
    for item, label in (each for labels in people for each in labels.items()):
        human.setdefault(item.key, []).append(label)
    samples = [
        AuditedSample(paths[key.sample_id], judged, tuple(human.get(key, ())), weights.get(key, 1.0))
        for key in state.asked_for()
        if (judged := state.label(key, judge)) is not None
    ]
    try:
        return Corrected(_name(judge), corrected_rates(samples), labels_needed(samples))
    except ConfigError as error:
        return f"{judge_name(judge)}: {error.message}"
