"""The rows of the data set: `data.json` or the text columns of the shards, as samples.

A row that breaks a rule stops the load, because an evaluation that silently drops rows is not
comparable. An empty instruction breaks none (VLSBench has one).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from vlsb import strict_json
from vlsb.errors import DatasetError, MachineError, machine_lack
from vlsb.records import Sample, Untrusted

ROWS_FILE = "data.json"
MAX_ROWS_BYTES = 64 * 1024 * 1024
MAX_ID = 2**63 - 1


def load_rows(path: Path) -> tuple[Sample, ...]:
    """Load the samples of a `data.json`; raises `DatasetError` with one line that names file and row."""
    try:
        rows = strict_json.loads(_rows_bytes(path))
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise DatasetError(f"{ROWS_FILE} is not JSON ({error}). Download it again.") from error
    return parse_rows(rows, named=ROWS_FILE)


def parse_rows(rows: object, *, named: str) -> tuple[Sample, ...]:
    """Make the samples of a list of rows, in its order; `named` is what the lines of errors call the list."""
    if not isinstance(rows, list):
        raise DatasetError(f"{named} holds {_kind(rows)}, not a list of rows. Is it the right file?")
    if not rows:
        raise DatasetError(f"{named} holds no rows. Download it again.")
    samples = tuple(_sample(row, f"{named} row {position}") for position, row in enumerate(rows, start=1))
    first_row: dict[int, int] = {}
    for position, sample in enumerate(samples, start=1):
        earlier = first_row.setdefault(sample.id, position)
        if earlier != position:
            raise DatasetError(
                f"{named} row {position} (instruction_id {sample.id}): row {earlier} has the same id. "
                "Keep one of the two."
            )
    return samples


def unreadable(path: Path, error: OSError) -> DatasetError | MachineError:
    """Return the one line for a file or folder that the system does not let us read."""
    if lack := machine_lack(error):
        return lack
    reason = os.strerror(error.errno) if error.errno else "no reason given"
    return DatasetError(f"{path} cannot be read: {reason}. Check its permissions.")


def _rows_bytes(path: Path) -> bytes:
    # Opening a FIFO must not hang. A link is the user's own way to place this one file.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DatasetError(f"{path} is not a regular file. Put the real file there.")
        # The descriptor stays ours: `fdopen` would not close it if it failed.
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            content = stream.read(MAX_ROWS_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_ROWS_BYTES:
        limit = MAX_ROWS_BYTES // 1024**2
        raise DatasetError(
            f"{path} is larger than {limit} MiB, far more than VLSBench. Is it the right file?"
        )
    return content.removeprefix(b"\xef\xbb\xbf")


def _sample(row: object, where: str) -> Sample:
    if not isinstance(row, dict):
        raise DatasetError(f"{where}: {_kind(row)}, not an object with fields.")
    sample_id = _sample_id(row, where)
    where = f"{where} (instruction_id {sample_id})"
    sample = Sample(
        id=sample_id,
        instruction=_text(row, "instruction", where),
        image_path=_text(row, "image_path", where),
        category=_text(row, "category", where),
        sub_category=_text(row, "sub_category", where),
        source=_text(row, "source", where),
        image_description=_optional_text(row, "image_description", where),
        safety_reason=_optional_text(row, "safety_reason", where),
    )
    if not row["category"].strip():
        raise DatasetError(f"{where}: category is empty. Give the row the category it belongs to.")
    return sample


def _sample_id(row: Mapping[str, object], where: str) -> int:
    value = row.get("instruction_id")
    # The first data set card declared the id a string.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_ID:
        kind = _kind(value) if "instruction_id" in row else "nothing"
        raise DatasetError(f"{where}: instruction_id must be a whole number, 0 or more, found {kind}.")
    return value


def _text(row: Mapping[str, object], name: str, where: str) -> Untrusted:
    value = row.get(name)
    if not isinstance(value, str):
        kind = _kind(value) if name in row else "nothing"
        raise DatasetError(f"{where}: {name} must be text, found {kind}. Correct the row.")
    return Untrusted(value)


def _optional_text(row: Mapping[str, object], name: str, where: str) -> Untrusted | None:
    return None if row.get(name) is None else _text(row, name, where)


def _kind(value: object) -> str:
    """Name the kind of a value in words that do not show it; shards hold more kinds than JSON."""
    names = {bool: "true or false", int: "a number", float: "a fraction", str: "text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "something else")
