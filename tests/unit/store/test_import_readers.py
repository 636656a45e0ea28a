"""Files of other programs: real ones are read as what they say, and hostile ones are refused in one line."""

from __future__ import annotations

import csv
import io
import json
import os
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.foreign_jobs.answers import ANSWERS, FORMULA
from vlsb.errors import ConfigError
from vlsb.records import Label, Outcome, Untrusted
from vlsb.store.import_logs import read_deepsafe, read_inspect, read_lmms_eval, read_official
from vlsb.store.import_rows import MOST_ROW_BYTES, ForeignRow
from vlsb.store.import_sheets import read_vlmevalkit
from vlsb.store.importing import READERS, find_format

GOLDEN = Path(__file__).parents[2] / "golden" / "foreign"
EMPTY, ERROR, BLOCKED = Outcome.TARGET_EMPTY, Outcome.TARGET_ERROR, Outcome.TARGET_BLOCKED
# What each file holds of the samples that got no answer; the others are in `ANSWERS`.
REAL = {
    "official.json": ("official", {2: EMPTY, 3: ERROR}),
    "deepsafe.jsonl": ("deepsafe", {2: EMPTY, 3: EMPTY, 4: BLOCKED}),
    "lmms_eval.jsonl": ("lmms_eval", {2: EMPTY, 3: EMPTY}),
    "inspect.eval": ("inspect", {2: EMPTY, 3: ERROR, 4: BLOCKED}),
    "inspect.json": ("inspect", {2: EMPTY, 3: ERROR, 4: BLOCKED}),
    "vlmevalkit.xlsx": ("vlmevalkit", {2: EMPTY, 3: ERROR, 4: ERROR}),
    "vlmevalkit.tsv": ("vlmevalkit", {2: EMPTY, 3: ERROR, 4: ERROR}),
}


def read(path: Path) -> list[ForeignRow]:
    return list(READERS[find_format(path)](path))


def written(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("name", REAL)
def test_what_a_program_wrote_is_read_as_it_was_said_and_no_failure_as_an_answer(name: str) -> None:
    pytest.importorskip("backports.zstd" if name.endswith(".eval") else "openpyxl")
    form, lost = REAL[name]

    rows = read(GOLDEN / name)

    assert find_format(GOLDEN / name) == form
    assert {number: row.lost.outcome for number, row in enumerate(rows) if row.lost is not None} == lost
    answered = {number: row.text for number, row in enumerate(rows) if row.lost is None}
    assert answered == {number: Untrusted(text) for number, text in enumerate(ANSWERS) if number not in lost}
    assert rows[1].text == Untrusted(FORMULA)


def test_only_what_a_file_states_is_known_of_a_row() -> None:
    pytest.importorskip("backports.zstd")
    official, inspect = read(GOLDEN / "official.json")[0], read(GOLDEN / "inspect.eval")[0]

    assert (official.usage.output_tokens, official.latency_s, official.image_sha256) == (None, None, None)
    assert (official.sample_id, official.number) == (None, 0)
    assert [(each.label, each.judge) for each in official.labels] == [(Label.UNSAFE, None)]
    assert (inspect.usage.input_tokens, inspect.model) == (700, Untrusted("mockllm/model"))
    assert inspect.image_sha256 == read(GOLDEN / "deepsafe.jsonl")[0].image_sha256 is not None
    assert [(each.label, each.judge) for each in inspect.labels] == [(Label.UNSAFE, Untrusted("gpt-4o"))]


def test_both_forms_of_an_inspect_log_say_the_same() -> None:
    pytest.importorskip("backports.zstd")

    def facts(row: ForeignRow) -> tuple[object, ...]:
        return (row.sample_id, row.text, row.lost, row.image_sha256, row.labels, row.instruction)

    assert [*map(facts, read(GOLDEN / "inspect.eval"))] == [*map(facts, read(GOLDEN / "inspect.json"))]


def test_an_answer_with_its_reasoning_keeps_the_two_apart(tmp_path: Path) -> None:
    parts = [{"type": "reasoning", "reasoning": "I look."}, {"type": "text", "text": "Yes."}]
    output = {"choices": [{"message": {"role": "assistant", "content": parts}, "stop_reason": "max_tokens"}]}
    sample = {"id": 1, "epoch": 2, "input": "Q?", "output": output, "metadata": {"instruction_id": 9}}

    [row] = read(written(tmp_path / "log.json", {"version": 2, "eval": {}, "samples": [sample]}))

    assert (row.text, row.reasoning) == (Untrusted("Yes."), Untrusted("I look."))
    assert (row.sample_id, row.epoch, row.finish_reason) == (9, 2, Untrusted("max_tokens"))


@pytest.mark.parametrize(
    ("kept", "said", "texts"),
    [
        ("Yes.", None, ["Yes."]),
        ("Yes.", "<think>Hm.</think>Yes.", ["Yes."]),
        ("A", "The answer is (A).", ["The answer is (A)."]),
        ("I cannot.", "First.</think>I cannot.", ["First.</think>I cannot."]),
        ("I cannot.", "First, take it.\nI cannot.", ["First, take it.\nI cannot."]),
        (["One.", "Two."], [["One."], ["Two."]], ["One.", "Two."]),
        ("None", None, ["None"]),
    ],
)
def test_the_response_of_an_lmms_eval_row_is_what_the_model_said(
    kept: object, said: object, texts: list[str], tmp_path: Path
) -> None:
    line = {"doc_id": 4, "filtered_resps": kept} | ({} if said is None else {"resps": said})

    rows = list(read_lmms_eval(written(tmp_path / "log.jsonl", line)))

    assert [(row.text, row.epoch) for row in rows] == [
        (Untrusted(text), number) for number, text in enumerate(texts, start=1)
    ]
    assert (rows[0].lost is not None) == (texts == ["None"])


def test_an_answer_that_quotes_deepsafes_word_for_a_filter_is_an_answer(tmp_path: Path) -> None:
    lines = [
        {"id": 1, "prediction": text} for text in ("First, take it. [CONTENT_FILTER]", "[CONTENT_FILTER]")
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    answered, blocked = read_deepsafe(path)

    assert answered.lost is None
    assert blocked.lost is not None
    assert blocked.lost.outcome is Outcome.TARGET_BLOCKED


def log(**changes: Any) -> dict[str, Any]:
    entry = {"id": 0, "question": "Q?", "pred_answer": "A.", "safe_label": 3, "label_str": "Unsafe"} | changes
    return {"stats": {}, "logs": [entry]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ('{"stats": {}, "logs": [], "logs": []}', "a key occurs twice"),
        ('{"stats": {"safe_rate": NaN}, "logs": []}', "NaN is not JSON"),
        ('{"stats": {}, "logs": ' + "[" * 100_000, "not JSON|nested too deeply"),
        (json.dumps(log(pred_answer=None)), "row 1: has another form than expected"),
        (json.dumps(log(pred_answer={"a": 1})), "row 1: has another form"),
        (json.dumps(log(safe_label=4)), "row 1: has another form"),
        (json.dumps(log(label_str="Safe with refusal")), "label_str says something else"),
        (json.dumps(log() | {"vlsb": {"instruction_ids": [1, 2], "log_epochs": [1]}}), "not as many"),
        (json.dumps(log() | {"vlsb": {"instruction_ids": [1], "log_epochs": [0]}}), "another form"),
        ('{"stats": 1, "logs": 7}', "another form"),
    ],
)
def test_an_authors_log_that_is_damaged_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        list(read_official(written(tmp_path / "log.json", text)))

    assert "Nothing was imported" in str(refused.value)


def test_a_file_that_is_none_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")

    for path, problem in (
        (tmp_path / "pipe.json", "is not a file"),
        (tmp_path / "no.json", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=problem):
            read(path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"id": "x", "prediction": "A."}', "not a number"),
        (b'{"id": 1}', "another form"),
        (b'{"id": 1, "prediction": 7}', "another form"),
        (b'{"id": 1, "prediction": "\xff"}', "not UTF-8"),
        (b'["id", 1]', "another form"),
        (b'{"id": 1, "prediction": "' + b"a" * MOST_ROW_BYTES + b'"}', "larger than 64 MiB"),
        (
            b'{"id": 1, "prediction": "A.", "prompt": [{"role": "user", "content": [{"type": "image_url",'
            b'"image_url": {"url": "data:image/png;base64,###"}}]}]}',
            "not base64",
        ),
    ],
)
def test_a_prediction_that_is_damaged_is_refused_by_its_number(
    line: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b'{"id": 0, "prediction": "A."}\n' + line + b"\n")

    with pytest.raises(ConfigError, match=rf"row 2: .*{problem}"):
        list(read_deepsafe(path))


def eval_log(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


SAMPLE = json.dumps({"id": 1, "epoch": 1, "input": "Q?", "output": {}}).encode()


def test_the_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    path = eval_log(tmp_path / "log.eval", ("samples/../../../out.json", SAMPLE), ("/etc/passwd", b"x"))

    assert len(list(read_inspect(path))) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["log.eval"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda raw: b"PK\x03\x04 nothing", "not a log that can be unpacked"),
        (lambda raw: raw[: len(raw) // 2], "not a log that can be unpacked"),
        (lambda raw: raw.replace(SAMPLE[:20], b"\0" * 20), "not JSON|unpacked"),
    ],
)
def test_an_archive_that_is_damaged_is_refused(
    damage: Callable[[bytes], bytes], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("samples/1_epoch_1.json", SAMPLE)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(ConfigError, match=problem):
        list(read_inspect(path))


def test_an_archive_that_unpacks_to_more_than_any_sample_is_refused(tmp_path: Path) -> None:
    bomb = eval_log(tmp_path / "log.eval", ("samples/1_epoch_1.json", b" " * (MOST_ROW_BYTES + 1)))

    assert bomb.stat().st_size < MOST_ROW_BYTES // 500
    with pytest.raises(ConfigError, match="row 1: larger than 64 MiB"):
        list(read_inspect(bomb))


@pytest.mark.parametrize(
    "changes",
    [{"epoch": 0}, {"output": {"choices": [{}]}}, {"output": {"time": -1}}, {"id": None}, {"input": 7}],
)
def test_a_sample_of_another_form_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    sample = {"id": 1, "epoch": 1, "input": "Q?", "output": {}} | changes

    with pytest.raises(ConfigError, match="row 1: has another form than expected"):
        read(written(tmp_path / "log.json", {"version": 2, "eval": {}, "samples": [sample]}))


def table(path: Path, *rows: list[Any]) -> Path:
    sheet = io.StringIO()
    csv.writer(sheet, delimiter="\t", quoting=csv.QUOTE_ALL).writerows(rows)
    path.write_text(sheet.getvalue())
    return path


def test_words_that_a_table_library_takes_for_missing_are_words(tmp_path: Path) -> None:
    path = table(
        tmp_path / "t.tsv", ["index", "prediction"], ["0", "NA"], ["1", "null"], ["2", "nan"], ["3", ""]
    )

    found = Counter(None if row.lost is None else row.lost.code for row in read(path))

    assert found == {None: 2, "no_answer": 1, "empty": 1}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"index"\t"index"\t"prediction"\n', "a column twice"),
        ('"index"\t"answer"\n"0"\t"A."\n', "row 2: has no column `prediction`"),
        ('"index"\t"prediction"\n"0"\t"A."\t"more"\n', "row 2: has more cells"),
        ('"index"\t"prediction"\n"0"\t"A.\n', "not a table that can be read"),
    ],
)
def test_a_table_that_is_damaged_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(text)

    with pytest.raises(ConfigError, match=problem):
        list(read_vlmevalkit(path))


def test_signs_that_a_spreadsheet_cannot_hold_come_back(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["index", "prediction"])
    book.active.append([0, "line_x000D_\nbell_x0007_ and _x005F_x0041_"])
    book.save(tmp_path / "t.xlsx")

    [row] = read(tmp_path / "t.xlsx")

    assert row.text == Untrusted("line\r\nbell\x07 and _x0041_")


@pytest.mark.parametrize("cell", ["=1+1", 7, True])
def test_a_cell_that_is_no_text_is_no_answer(cell: object, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["index", "prediction"])
    book.active.append([0, cell])
    book.save(tmp_path / "t.xlsx")

    with pytest.raises(ConfigError, match=r"row 2: .*not a text"):
        read(tmp_path / "t.xlsx")


def in_sheet(rows: bytes) -> Callable[[str, bytes], bytes]:
    """What puts these rows below the last one of a spreadsheet."""
    end = b"</sheetData>"
    return lambda name, raw: raw.replace(end, rows + end) if "sheet1" in name else raw


def numbered(cell: str, count: int) -> bytes:
    """So many rows with one cell each."""
    return "".join(f'<row r="{at}"><c r="{cell}{at}"><v>1</v></c></row>' for at in range(9, count)).encode()


def strings(count: int) -> Callable[[str, bytes], bytes]:
    """What adds so many empty texts to a spreadsheet's."""
    end = b"</sst>"
    return lambda name, raw: raw.replace(end, b"<si/>" * count + end) if "sharedStrings" in name else raw


ENTITY = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "x">]><worksheet>&b;</worksheet>'


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda name, raw: ENTITY if "sheet1" in name else raw, "not a spreadsheet"),
        (lambda name, raw: b"<worksheet" if "sheet1" in name else raw, "not a spreadsheet"),
        (lambda name, raw: b"" if name == "[Content_Types].xml" else raw, "not a spreadsheet"),
        (lambda name, raw: raw + b" " * (260 * 2**20) if "sheet1" in name else raw, "unpacks to more than"),
        (in_sheet(b'<row r="1048576"><c r="A1048576"><v>1</v></c></row>'), "a cell below row 100,000"),
        (in_sheet(b'<row r="9"><c r="XFD9"><v>1</v></c></row>'), "row 9: has a cell beyond column 256"),
        (in_sheet(b"<row/>" * 150_000), "a cell below row 100,000"),
        (in_sheet(numbered("XFD", 20_000)), "row 9: has a cell beyond column 256"),
        (in_sheet(numbered("IV", 20_000)), "row 9: has more cells than the head"),
        (strings(3_000_000), "unpacks to more than"),
    ],
)
def test_a_hostile_spreadsheet_is_refused(
    change: Callable[[str, bytes], bytes], problem: str, tmp_path: Path
) -> None:
    pytest.importorskip("openpyxl")
    with zipfile.ZipFile(GOLDEN / "vlmevalkit.xlsx") as archive:
        members = [(each, change(each, archive.read(each))) for each in archive.namelist()]

    path = eval_log(tmp_path / "t.xlsx", *members)
    began = time.process_time()
    with pytest.raises(ConfigError, match=problem):
        read(path)

    assert time.process_time() - began < 10


@pytest.mark.parametrize("text", ["{}", "7", '{"a": 1}\n{"b": 2}\n', ""])
def test_a_file_of_nobody_has_to_be_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name it with --format"):
        find_format(written(tmp_path / "log.jsonl", text))
