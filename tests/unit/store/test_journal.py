"""A journal loses no whole record, whatever happens to the process, the disk or the last line."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.journals import Contents, read_journal
from vlsb.errors import StoreError
from vlsb.store.journal import Journal, quarantine_torn_tail

ODD_TEXTS = (
    "\ud800",
    "\udfff lone",
    "a\u2028b\u2029c\x85d\x0b\x0c",
    "\x00",
    "line\nline\r\n",
    "\U0001f600",
    '"\\',
)
TEXT = st.text(st.characters(codec=None, exclude_categories=())) | st.sampled_from(ODD_TEXTS)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=5)

SEVERAL: list[dict[str, Any]] = [
    {"id": 1, "text": "plain"},
    {"id": 2, "text": "not \ud800 well \u2028 formed \x00"},
    {},
    {"id": 3, "nested": {"a": [1, 2.5, None, True]}},
]


def anything(record: Mapping[str, Any]) -> dict[str, Any]:
    return dict(record)


def read(path: Path) -> Contents[dict[str, Any]]:
    return read_journal(path, anything)


def written(path: Path, records: list[dict[str, Any]]) -> bytes:
    """The bytes of a journal that was given these records."""
    path.unlink(missing_ok=True)
    journal = Journal(path, size=0, lacks_newline=False)
    for record in records:
        journal.append(record)
    journal.close()
    return path.read_bytes()


def reopened(path: Path) -> Journal:
    """What the holder of the lock does on open."""
    contents = read(path)
    if contents.torn_at is not None:
        quarantine_torn_tail(path, contents.torn_at)
    size = path.stat().st_size if path.exists() else 0
    return Journal(path, size=size, lacks_newline=contents.lacks_newline)


@pytest.fixture(scope="module")
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One path for the many examples of a property; each example starts it anew."""
    return tmp_path_factory.mktemp("journal") / "records.jsonl"


@given(records=RECORDS)
def test_any_json_records_come_back_as_they_were(shared_path: Path, records: list[dict[str, Any]]) -> None:
    data = written(shared_path, records)

    assert read(shared_path) == Contents(records, None, lacks_newline=False)
    assert data.isascii()
    assert data.count(b"\n") == len(data.splitlines()) == len(records)


def test_a_missing_file_is_an_empty_journal(tmp_path: Path) -> None:
    assert read(tmp_path / "absent.jsonl") == Contents([], None, lacks_newline=False)


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    journal = Journal(path, size=0, lacks_newline=False)

    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            journal.append({"value": value})

    journal.close()
    assert path.read_bytes() == b""


# Truncation.


def test_after_truncation_at_any_byte_exactly_the_complete_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    whole = written(path, SEVERAL)

    for length in range(len(whole) + 1):
        cut = whole[:length]
        path.write_bytes(cut)
        *lines, last = cut.split(b"\n")
        # A line without its newline counts if all of it is there.
        lacks_newline = last != b"" and last in whole.split(b"\n")
        is_torn = last != b"" and not lacks_newline
        expected = SEVERAL[: len(lines) + lacks_newline]
        torn_at = length - len(last) if is_torn else None

        assert read(path) == Contents(expected, torn_at, lacks_newline=lacks_newline)
        assert path.read_bytes() == cut


def test_after_truncation_at_any_byte_a_reopened_journal_goes_on_whole(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    whole = written(path, SEVERAL)
    new = {"id": 99, "text": "after the cut"}

    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = read(path).records
        journal = reopened(path)
        journal.append(new)
        journal.close()

        assert read(path) == Contents([*kept, new], None, lacks_newline=False)
        assert path.read_bytes().count(b"\n") == len(kept) + 1


def test_the_torn_bytes_are_kept_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    whole = written(path, [{"id": 1}])
    path.write_bytes(whole + b'{"id": 2, "paid": "answ')

    kept = quarantine_torn_tail(path, len(whole))

    assert kept.name == "records.jsonl.torn-1"
    assert kept.read_bytes() == b'{"id": 2, "paid": "answ'
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert path.read_bytes() == whole


def test_torn_bytes_of_before_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    names = []

    for tail in (b"first", b"second"):
        path.write_bytes(b"{}\n" + tail)
        names.append(quarantine_torn_tail(path, 3))

    assert [name.read_bytes() for name in names] == [b"first", b"second"]


def test_torn_bytes_that_a_kill_left_in_both_places_are_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for _ in "ab":
        path.write_bytes(b"{}\n" + b"torn")
        quarantine_torn_tail(path, 3)

    assert [each.name for each in tmp_path.glob("*.torn-*")] == ["records.jsonl.torn-1"]
    assert path.read_bytes() == b"{}\n"


def test_bytes_that_are_not_utf8_at_the_end_are_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"id":1}\n\xff\xfe\x00')

    assert read(path) == Contents([{"id": 1}], 9, lacks_newline=False)


# Damage.


BROKEN_LINES = (
    b"garbage",
    b"",
    b"\x00\x00\x00\x00",
    b"\xff\xfe",
    b"[1, 2]",
    b"7",
    b"null",
    b'{"id": 1} {"id": 2}',
    b'{"id": NaN}',
    b'{"id": 1',
    b'{"a":' * 100_000,
    b'{"id": ' + b"9" * 5000 + b"}",
    b"\xef\xbb\xbf\xef\xbb\xbf{}",
)


@pytest.mark.parametrize("after", [b'{"id":3}\n', b""], ids=["in the middle", "at the end"])
@pytest.mark.parametrize("broken", BROKEN_LINES, ids=lambda line: repr(line[:20]))
def test_a_broken_line_with_its_newline_is_an_error_with_path_and_line_number(
    tmp_path: Path, broken: bytes, after: bytes
) -> None:
    """At the end too: it is damage, and no torn write."""
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"id":1}\n' + broken + b"\n" + after)
    before = path.read_bytes()

    with pytest.raises(StoreError) as caught:
        read(path)

    assert caught.value.exit_code == 5
    assert f"{path} line 2" in caught.value.message
    assert "\n" not in caught.value.message
    assert path.read_bytes() == before


def test_other_separators_inside_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    record = {"text": "a\u2028b\u2029c\x85d"}
    # As another program would write it: not escaped.
    path.write_bytes(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    assert read(path).records == [record]


def test_a_directory_in_the_place_of_a_journal_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=str(tmp_path)):
        read(tmp_path)


def test_a_link_in_the_place_of_a_journal_is_not_written_through(tmp_path: Path) -> None:
    elsewhere = tmp_path / "precious"
    elsewhere.write_bytes(b"precious\n")
    link = tmp_path / "records.jsonl"
    link.symlink_to(elsewhere)

    with pytest.raises(StoreError, match="cannot be opened"):
        Journal(link, size=0, lacks_newline=False)

    assert elsewhere.read_bytes() == b"precious\n"


# A disk that takes no more.


LIMITED_DISK = """
import resource, signal, sys
from pathlib import Path
from vlsb.errors import StoreError
from vlsb.store.journal import Journal

path, limit = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
journal = Journal(path, size=0, lacks_newline=False)
refused = 0
for number in range(5):
    try:
        journal.append({"number": number, "text": "x" * 20})
    except StoreError as error:
        assert str(path) in error.message and error.exit_code == 5
        refused += 1
full = path.read_bytes()
print(len(full), refused, len(journal.unwritten))
assert journal.rescue() == refused
assert path.read_bytes() == full
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(journal.rescue(), len(journal.unwritten))
journal.sync()
journal.close()
"""


def test_at_any_size_limit_a_full_disk_leaves_whole_records_and_rescue_writes_the_rest(
    tmp_path: Path,
) -> None:
    """A real limit of the kernel: the write is short first, then refused with EFBIG."""
    path = tmp_path / "records.jsonl"
    line = len(json.dumps({"number": 0, "text": "x" * 20}, separators=(",", ":"))) + 1

    for limit in (0, 1, line - 1, line, 2 * line + line // 2):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", LIMITED_DISK, str(path), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

        assert done.returncode == 0, done.stderr
        fitting = limit // line
        assert done.stdout.split() == [str(fitting * line), str(5 - fitting), str(5 - fitting), "0", "0"]
        assert [record["number"] for record in read(path).records] == list(range(5))


def test_a_device_that_is_always_full_keeps_the_record_in_memory() -> None:
    journal = Journal(Path("/dev/full"), size=0, lacks_newline=False)

    with pytest.raises(StoreError, match="/dev/full"):
        journal.append({"id": 1})

    assert journal.unwritten == [b'{"id":1}\n']
    assert journal.rescue() == 1
    journal.close()


class ShortDisk:
    """Stands for `os.write` on a disk with `room` bytes left; a short write first, ENOSPC after."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write = os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._write(descriptor, data[: self.room])
        self.room -= taken
        return taken


def test_a_partial_line_is_cut_off_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    journal = Journal(path, size=0, lacks_newline=False)
    journal.append({"id": 1})
    disk = ShortDisk(4)
    monkeypatch.setattr(os, "write", disk)

    with pytest.raises(StoreError, match="takes no more"):
        journal.append({"id": 2})

    assert disk.room == 0
    assert path.read_bytes() == b'{"id":1}\n'
    assert journal.unwritten == [b'{"id":2}\n']
    disk.room = 100
    assert journal.rescue() == 0
    assert journal.unwritten == []
    journal.append({"id": 3})
    journal.close()
    assert [record["id"] for record in read(path).records] == [1, 2, 3]


def test_a_write_that_is_merely_short_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    journal = Journal(path, size=0, lacks_newline=False)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:6]))

    journal.append({"id": 1})

    journal.close()
    assert path.read_bytes() == b'{"id":1}\n'


def test_records_wait_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    journal = Journal(path, size=0, lacks_newline=False)
    disk = ShortDisk(0)
    monkeypatch.setattr(os, "write", disk)
    for number in (1, 2, 3):
        with pytest.raises(StoreError):
            journal.append({"id": number})

    disk.room = 20

    assert journal.rescue() == 1
    assert path.read_bytes() == b'{"id":1}\n{"id":2}\n'
    disk.room = 20
    assert journal.rescue() == 0
    journal.close()
    assert [record["id"] for record in read(path).records] == [1, 2, 3]


# Keeping.


class FailingSync:
    """Stands for `os.fsync`: fails with EIO once, then claims success, as Linux does."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        if self.calls == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_failed_sync_says_how_many_records_are_uncertain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    journal = Journal(path, size=0, lacks_newline=False)
    journal.append({"id": 1})
    journal.append({"id": 2})
    sync = FailingSync()
    monkeypatch.setattr(os, "fsync", sync)

    with pytest.raises(StoreError) as caught:
        journal.sync()

    journal.close()
    assert caught.value.exit_code == 5
    assert str(path) in caught.value.message
    assert "2 records" in caught.value.message
    assert sync.calls == 1


def test_a_failed_sync_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may have dropped the pages: a second call would succeed and mean nothing."""
    journal = Journal(tmp_path / "records.jsonl", size=0, lacks_newline=False)
    journal.append({"id": 1})
    sync = FailingSync()
    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(StoreError):
        journal.sync()

    with pytest.raises(StoreError):
        journal.sync()

    journal.close()
    assert sync.calls == 1


def test_only_what_was_written_since_the_last_sync_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "records.jsonl", size=0, lacks_newline=False)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)

    journal.sync()
    assert synced == []
    journal.append({"id": 1})
    assert journal.unsynced == 1
    journal.sync()
    journal.sync()

    journal.close()
    assert len(synced) == 1
    assert journal.unsynced == 0


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "records.jsonl", size=0, lacks_newline=False)
    journal.close()
    other = os.open(tmp_path, os.O_RDONLY)

    journal.close()

    os.fstat(other)
    os.close(other)
