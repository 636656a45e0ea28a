"""What a person sees of a response to label: on a terminal page, in a spreadsheet, as a task of Label Studio.

No judge's label, no model's name and no weight is in any of them. Sheets that come back are read strictly:
whatever is not plainly one of our labels for one of our items is an error with its place.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.text import Text

from vlsb import strict_json
from vlsb.errors import ConfigError
from vlsb.records import Label, Untrusted
from vlsb.reports.answers import MAX_WIDTH, Field, Page
from vlsb.reports.encode import for_csv, for_json, for_terminal, json_document

_COLUMNS = ("item", "image_path", "instruction", "response", "response_sha256", "label", "note")
_LABELS = {label.value: label for label in Label} | dict(zip("123", Label, strict=True))
_SHOWN_PROBLEMS = 8
_LABEL, _RESPONSE = "label", "response"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
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
    """One label that a sheet holds, for the item and the response that it names."""

    item: str
    response_sha256: str
    label: Label
    note: Untrusted


def task_page(task: Task, *, heading: str, width: int, color: bool) -> str:
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


def to_csv(tasks: Sequence[Task]) -> str:
    """A sheet with one row a task, to be filled in at `label`: 1, 2, 3 or the label's name."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, quoting=csv.QUOTE_ALL)
    writer.writerow(_COLUMNS)
    for task in tasks:
        texts = (task.image_path, task.instruction, task.response)
        label = "" if task.label is None else task.label.value
        writer.writerow([task.item, *map(for_csv, texts), task.response_sha256, label, for_csv(task.note)])
    return sheet.getvalue()


def to_label_studio(tasks: Sequence[Task]) -> str:
    """Label Studio's tasks as JSON; one that is labelled has its label as an annotation."""
    documents = [
        {
            "data": {
                "item": task.item,
                "response_sha256": task.response_sha256,
                # Of local files, Label Studio takes the path below its document root: the data set's folder.
                "image": f"/data/local-files/?d={for_json(task.image_path)}",
                "instruction": for_json(task.instruction),
                "response": for_json(task.response),
            },
            "annotations": [] if task.label is None else [{"result": [_choice(task.label)]}],
        }
        for task in tasks
    ]
    return json_document(documents, indent=1)


def _choice(label: Label) -> dict[str, object]:
    value = {"choices": [label.value]}
    return {"from_name": _LABEL, "to_name": _RESPONSE, "type": "choices", "value": value}


def parse_sheet(raw: bytes, *, completed_by: str | None = None) -> list[SheetLabel]:
    """The labels of a filled-in CSV or of Label Studio's JSON export, rows without a label left out.

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
            problems.append(f"{place}: its label is none of 1, 2, 3 and {', '.join(Label)}")
        elif label is not None:
            note = Untrusted(row.get("note", "").strip())
            labels.append(SheetLabel(row["item"].strip(), row["response_sha256"].strip(), label, note))
    require_no(problems)
    return labels


def require_no(problems: Sequence[str]) -> None:
    """Raise ConfigError if there is a problem with a sheet."""
    if problems:
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise ConfigError(
            f"The sheet was not imported, nothing was changed. {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}."
        )


def _csv_rows(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    # Where a comma is the decimal sign, spreadsheets write semicolons.
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    csv.field_size_limit(max(len(text), 1))
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
            yield f"line {reader.line_num}", {str(name): value or "" for name, value in row.items()}
    except csv.Error as error:
        raise ConfigError(f"The sheet is no CSV at line {reader.line_num} ({error}).") from error


def _studio_rows(
    text: str, completed_by: str | None, problems: list[str]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    try:
        tasks = strict_json.loads(text)
    except ValueError as error:
        raise ConfigError("The sheet is no JSON.") from error
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks], start=1):
        place = f"task {number}"
        try:
            given = [each for each in task["annotations"] if _is_by(each, completed_by)]
            choices = [_only_choice(each) for each in given]
            row = {"item": str(task["data"]["item"]), "response_sha256": str(task["data"]["response_sha256"])}
        except (KeyError, TypeError, IndexError, ValueError):
            problems.append(f"{place}: not a task that was exported here, or not exactly one choice in it")
            continue
        if len(set(choices)) > 1:
            problems.append(f"{place}: several annotations; choose whose with --completed-by")
        yield place, row | {"label": choices[-1] if choices else ""}


def _is_by(annotation: Mapping[str, Any], completed_by: str | None) -> bool:
    if annotation.get("was_cancelled"):
        return False
    by = annotation.get("completed_by")
    names = {str(by.get("id")), str(by.get("email"))} if isinstance(by, dict) else {str(by)}
    return completed_by is None or completed_by in names


def _only_choice(annotation: Mapping[str, Any]) -> str:
    (choice,) = [
        name
        for each in annotation["result"]
        if each.get("from_name") == _LABEL
        for name in each["value"]["choices"]
    ]
    return str(choice)
