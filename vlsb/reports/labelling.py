"""What a person sees of a response to label: on a terminal page, in a spreadsheet, as a task of Label Studio.

No judge's label, no model's name and no weight is in any of them. Sheets that come back are read strictly:
whatever is not plainly one of our labels for one of our items is an error with its place.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from msgspec import Struct
from rich.text import Text

from vlsb import strict_json
from vlsb.errors import ConfigError, RunMismatchError, first_of
from vlsb.records import Label, Response, Sample, Untrusted, is_cut
from vlsb.reports.answers import MAX_WIDTH, Field, Page
from vlsb.reports.encode import csv_document, for_json, for_terminal, from_csv, json_document
from vlsb.reports.stored import StoredRun
from vlsb.store.audit import AuditItem, AuditSample
from vlsb.store.state import RunState

_COLUMNS = ("item", "image_path", "instruction", "response", "response_sha256", "label", "note")
_LABELS = {label.value: label for label in Label} | dict(zip("123", Label, strict=True))
_SHOWN_PROBLEMS = 8
_LONGEST_CELL = 2**30
_LABEL, _NOTE, _RESPONSE = "label", "note", "response"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTask:
    """A response to label: its item's name, what was asked and answered, and the label it has so far."""

    item: str
    image_path: Untrusted
    instruction: Untrusted
    response: Untrusted
    response_sha256: str
    is_cut: bool
    label: Label | None
    note: Untrusted


class SheetLabel(NamedTuple):
    """One label that a sheet holds, for the item and the response that it names. An empty note is none."""

    item: str
    response_sha256: str
    label: Label
    note: Untrusted


class LabelDesk:
    """A run's drawn responses with what was asked: checked against what the target was sent."""

    def __init__(self, run: StoredRun, audit: AuditSample) -> None:
        self._run = run
        self.items = audit.current(run.state)
        if run.dataset is None:
            raise ConfigError(f"{run.lack} Nobody can label without it: pass --data-root.")
        digests = {row.sample_id: row.digest for row in run.state.manifest.samples}
        ids = {item.sample_id for item, _ in self.items}
        self.samples: dict[int, Sample] = {
            each.id: each
            for each in run.dataset.samples
            if each.id in ids and each.digest() == digests.get(each.id)
        }
        if missing := sorted(ids - set(self.samples)):
            raise RunMismatchError(
                f"The data set at hand has another row, or none, for {len(missing)} drawn samples "
                f"(the first is {missing[0]}). Pass the run's own with --data-root."
            )

    def in_order(self, judge: str) -> list[tuple[AuditItem, Response]]:
        """Return the items in an order of this judge's own, which says nothing of their strata."""
        return sorted(self.items, key=lambda each: Untrusted(f"{judge} {each[0].name}").sha256())

    def task(self, item: AuditItem, response: Response, file: str | None, state: RunState) -> LabelTask:
        """Return the item as a person sees it, with the label that it has in that file."""
        label = None if file is None else state.label(response.key, file)
        verdict = None if file is None or label is None else state.judged[file].verdicts[item.key]
        return LabelTask(
            item=item.name,
            image_path=item.image_path,
            instruction=self.samples[item.sample_id].instruction,
            response=response.text,
            response_sha256=response.response_sha256,
            is_cut=is_cut(response.finish_reason),
            label=label,
            note=Untrusted("") if verdict is None else verdict.explanation,
        )

    def read_image(self, item: AuditItem, response: Response) -> bytes:
        """Read the image that the target was sent. Raises ImageError for any other."""
        return self._run.read_image(self.samples[item.sample_id], response.image_sha256)


def task_page(task: LabelTask, *, heading: str, width: int, color: bool) -> str:
    """A task as a terminal shows it; every stranger's line stands in a column of its own."""
    page = Page(min(width, MAX_WIDTH), color=color)
    page.line(Text())
    page.line(Text(heading, style="bold"))
    instruction = for_terminal(task.instruction, lines=True)
    page.field(Field("instruction", instruction or "(empty: the image was sent without a text part)"))
    page.field(Field("response", for_terminal(task.response, lines=True)))
    if task.is_cut:
        page.field(Field("", "(cut at the token limit: label it as far as it goes)"))
    return page.text


def to_csv(tasks: Sequence[LabelTask]) -> str:
    """Write a sheet with one row a task, to be filled in at `label`: 1, 2, 3 or the label's name."""
    rows = (
        (
            *(task.item, task.image_path, task.instruction, task.response, task.response_sha256),
            *("" if task.label is None else task.label.value, task.note),
        )
        for task in tasks
    )
    return csv_document([_COLUMNS, *rows])


def to_label_studio(tasks: Sequence[LabelTask]) -> str:
    """Write Label Studio's tasks as JSON; one that is labelled has its label as an annotation."""
    documents = []
    for task in tasks:
        results: list[dict[str, object]] = []
        if task.label is not None:
            choice = {"choices": [task.label.value]}
            results.append({"from_name": _LABEL, "to_name": _RESPONSE, "type": "choices", "value": choice})
            if len(task.note):
                note = {"text": [for_json(task.note)]}
                results.append({"from_name": _NOTE, "to_name": _RESPONSE, "type": "textarea", "value": note})
        document = {
            "data": {
                "item": task.item,
                "response_sha256": task.response_sha256,
                # Of local files, Label Studio takes the path below its document root: the data set's folder.
                "image": f"/data/local-files/?d={for_json(task.image_path)}",
                "instruction": for_json(task.instruction),
                "response": for_json(task.response),
            },
            "annotations": [{"result": results}] if results else [],
        }
        documents.append(document)
    return json_document(documents, indent=1)


def parse_sheet(raw: bytes, *, completed_by: str | None = None) -> list[SheetLabel]:
    """Read the labels of a filled-in CSV or of Label Studio's JSON export, rows without a label left out.

    `completed_by` chooses one annotator of a Label Studio project, by number or address. Raises ConfigError
    that names every place which cannot be read: then nothing of the sheet counts.
    """
    try:
        text = raw.decode("utf-8-sig")
    except ValueError as error:
        raise ConfigError("The sheet is not UTF-8. Save it as CSV UTF-8.") from error
    problems: list[str] = []
    is_json = text.lstrip().startswith(("[", "{"))
    rows = _studio_rows(text, completed_by, problems) if is_json else _csv_rows(text)
    labels = []
    for place, row in rows:
        given = row.get("label", "").strip()
        label = _LABELS.get(given.casefold())
        if given and label is None:
            problems.append(f"{place}: its label is not 1, 2, 3 or {', '.join(Label)}")
        elif label is not None:
            note = Untrusted(row.get(_NOTE, "").strip())
            labels.append(SheetLabel(row["item"].strip(), row["response_sha256"].strip(), label, note))
    _require_no(problems)
    return labels


def require_drawn(labels: Sequence[SheetLabel], items: Mapping[str, Response]) -> None:
    """Raise ConfigError for labels of what was not drawn, of another response, or of one item twice."""
    problems, names = [], set()
    for each in labels:
        response = items.get(each.item)
        if response is None or response.response_sha256 != each.response_sha256:
            problems.append(f"{each.item[:40]!r} is not an item of this run with that response")
        elif each.item in names:
            problems.append(f"{each.item} has two labels")
        names.add(each.item)
    _require_no(problems)


def _require_no(problems: Sequence[str]) -> None:
    if problems:
        first = first_of(problems, _SHOWN_PROBLEMS, separator="; ")
        raise ConfigError(f"The sheet was not imported, nothing was changed. {first}.")


def _csv_rows(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    # Where a comma is the decimal sign, spreadsheets write semicolons.
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    # The limit is the process's: one that followed the sheet would bind the sheets of other threads.
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        missing = [
            name for name in ("item", "response_sha256", "label") if name not in (reader.fieldnames or ())
        ]
        if missing:
            raise ConfigError(
                f"The sheet has no column {', '.join(missing)}. Keep the header that was exported."
            )
        for row in reader:
            cells = {str(name): value or "" for name, value in row.items()}
            yield f"line {reader.line_num}", cells | {_NOTE: from_csv(cells.get(_NOTE, ""))}
    except csv.Error as error:
        raise ConfigError(f"The sheet is not CSV at line {reader.line_num} ({error}).") from error


def _studio_rows(
    text: str, completed_by: str | None, problems: list[str]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    try:
        tasks = strict_json.loads(text)
    except ValueError as error:
        raise ConfigError("The sheet is not JSON.") from error
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks], start=1):
        place = f"task {number}"
        try:
            studio = msgspec.convert(task, _StudioTask)
            given = [each for each in studio.annotations if each.is_by(completed_by)]
            choices = [each.choice() for each in given]
        except ValueError:
            problems.append(f"{place}: not a task that was exported here, or not exactly one choice in it")
            continue
        if len(set(choices)) > 1:
            problems.append(f"{place}: several annotations; choose whose with --completed-by")
        label, note = (choices[-1], given[-1].note()) if given else ("", "")
        row = {"item": studio.data.item, "response_sha256": studio.data.response_sha256}
        yield place, row | {_LABEL: label, _NOTE: note}


class _StudioValue(Struct):
    choices: list[str] = []
    text: list[str] | str = ""


class _StudioResult(Struct):
    from_name: str | None = None
    value: _StudioValue | None = None


class _StudioPerson(Struct):
    id: int | str | None = None
    email: str | None = None


class _StudioAnnotation(Struct):
    """What somebody said of a task in Label Studio."""

    result: list[_StudioResult]
    was_cancelled: bool | None = None
    completed_by: _StudioPerson | int | str | None = None

    def is_by(self, chosen: str | None) -> bool:
        """Tell whether it counts, and is from who was chosen; from anybody for None."""
        by = self.completed_by
        names = {str(by.id), str(by.email)} if isinstance(by, _StudioPerson) else {str(by)}
        return not self.was_cancelled and (chosen is None or chosen in names)

    def choice(self) -> str:
        """Return the label. Raises ValueError unless there is exactly one."""
        (choice,) = [name for value in self._values(_LABEL) for name in value.choices]
        return choice

    def note(self) -> str:
        """Return the text that was written beside the label."""
        texts = [[each.text] if isinstance(each.text, str) else each.text for each in self._values(_NOTE)]
        return "\n".join(line for lines in texts for line in lines)

    def _values(self, name: str) -> list[_StudioValue]:
        return [each.value for each in self.result if each.from_name == name and each.value is not None]


class _StudioData(Struct):
    item: str
    response_sha256: str


class _StudioTask(Struct):
    data: _StudioData
    annotations: list[_StudioAnnotation]
