"""Parquet shards: unpacked once, equal to the folder, refused with the row when they are odd."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.simulation.crash_states import NONE, build, pending, state
from tests.simulation.disk import Disk, Recorder
from tests.support.records import digest_of
from vlsb.data import check_dataset, load_dataset, mini_root, shards
from vlsb.errors import ConfigError, DatasetError, StoreError, VlsbError
from vlsb.records import ImageFile

ROWS = json.loads((mini_root() / "data.json").read_bytes())

Change = Callable[[list[dict[str, Any]]], object]


def embedded(row: dict[str, Any]) -> dict[str, Any]:
    path = mini_root() / row["image_path"]
    return row | {"image": {"bytes": path.read_bytes(), "path": path.name}}


def write_shards(root: Path, change: Change | None = None, *, folder: str = "data") -> Path:
    """The mini set as two shards with row groups of ten rows."""
    rows = [embedded(row) for row in ROWS]
    if change:
        change(rows)
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((rows[:20], rows[20:])):
        table = pa.Table.from_pylist(part)
        parquet.write_table(table, root / folder / f"train-{number:05d}-of-00002.parquet", row_group_size=10)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "vlsb"


def complaint(root: Path, cache: Path, expected: type[VlsbError] = DatasetError) -> str:
    with pytest.raises(expected) as caught:
        load_dataset(root, cache=cache)
    assert "\n" not in caught.value.message
    assert not list(cache.glob("parquet/*.part"))
    assert not list(cache.glob("parquet/*/imgs.tar"))
    return caught.value.message


def test_shards_have_the_digest_of_the_folder(root: Path, cache: Path) -> None:
    here, there = load_dataset(mini_root()), load_dataset(root, cache=cache)

    digests = {digest_of(each) for each in (here, there)}

    assert len(digests) == 1
    assert there.samples == here.samples
    assert there.root == root.resolve()


def test_shards_may_lie_beside_each_other(tmp_path: Path, cache: Path) -> None:
    root = write_shards(tmp_path / "shards", folder=".")

    assert len(load_dataset(root, cache=cache).samples) == 30


def test_rows_without_their_images_use_the_shards_beside_them(root: Path, cache: Path) -> None:
    (root / "data.json").write_bytes((mini_root() / "data.json").read_bytes())

    data = load_dataset(root, cache=cache)

    assert len(data.inspect(data.samples, known={})) == 30


def unread(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Every path with what changes when it is written, and not when it is looked at."""
    facts = {path: path.stat() for path in folder.rglob("*")}
    return {path: (each.st_ino, each.st_size, each.st_mtime_ns) for path, each in facts.items()}


def test_shards_are_unpacked_once(root: Path, cache: Path) -> None:
    load_dataset(root, cache=cache)
    before = unread(cache)

    load_dataset(root, cache=cache)

    assert unread(cache) == before


def test_shards_that_a_power_cut_left_unpacked_are_whole(root: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    recorder = Recorder(cache, time.monotonic)
    with Disk([cache], recorder).entered():
        samples = load_dataset(root, cache=cache).samples

    renamed = [at for at, op in enumerate(recorder.ops, start=1) if op.kind == "rename"]
    assert renamed
    for at in renamed:
        others = [each for each in pending(recorder.trace, at) if recorder.ops[each].kind == "create"]
        build(cache, state(recorder.trace, at, dict.fromkeys(others, NONE)))
        assert load_dataset(root, cache=cache).samples == samples


def test_the_cache_is_private(root: Path, cache: Path) -> None:
    load_dataset(root, cache=cache)

    folders = [path for path in (cache, *cache.rglob("*")) if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in cache.glob("*/*/*")} == {0o600}


def test_the_cache_is_where_the_user_keeps_caches(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))

    load_dataset(root)

    assert len(list((tmp_path / "mine" / "vlsb").rglob("imgs.tar"))) == 1


def test_a_changed_shard_is_unpacked_anew(root: Path, cache: Path) -> None:
    before = load_dataset(root, cache=cache)

    write_shards(root, lambda rows: rows[0].update(instruction="Another one."))
    os.utime(root / "data" / "train-00000-of-00002.parquet", ns=(9, 9))
    after = load_dataset(root, cache=cache)

    assert before.samples[0] != after.samples[0]
    assert before.samples[1:] == after.samples[1:]


def test_a_shard_of_another_date_is_unpacked_anew(root: Path, cache: Path) -> None:
    """It may be another one of the same size."""
    load_dataset(root, cache=cache)
    before = set(cache.glob("parquet/*"))

    os.utime(root / "data" / "train-00000-of-00002.parquet", ns=(9, 9))
    load_dataset(root, cache=cache)

    assert set(cache.glob("parquet/*")) != before


def test_an_image_has_the_time_of_its_newest_shard(root: Path, cache: Path) -> None:
    """So that a resume knows it again, even when the cache was emptied in between."""
    for number, path in enumerate(sorted(root.rglob("*.parquet"))):
        os.utime(path, ns=(0, 1_000_000 + number))
    data = load_dataset(root, cache=cache)

    images = data.inspect(data.samples, known={})

    assert {each.mtime_ns for each in images.values() if isinstance(each, ImageFile)} == {1_000_001}


def test_two_that_come_at_once_unpack_once(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    unpack_into = shards._unpack_into
    monkeypatch.setattr(shards, "_unpack_into", lambda *args: (calls.append(args), unpack_into(*args)))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_dataset(root, cache=cache).samples, range(4)))

    assert len(calls) == 1
    assert len({len(each) for each in found}) == 1


def test_what_a_killed_attempt_left_is_removed(root: Path, cache: Path) -> None:
    load_dataset(root, cache=cache)
    (place,) = (each for each in (cache / "parquet").iterdir() if each.is_dir())
    left = place.rename(place.with_suffix(".part"))
    (left / "imgs.tar").write_bytes(b"half of it")

    data = load_dataset(root, cache=cache)

    assert len(data.inspect(data.samples, known={})) == 30
    assert not left.exists()


def test_an_image_without_a_name_is_the_one_of_its_row(tmp_path: Path, cache: Path) -> None:
    root = write_shards(tmp_path / "shards", lambda rows: [row["image"].update(path=None) for row in rows])
    data = load_dataset(root, cache=cache)

    assert digest_of(data) == check_dataset(mini_root()).digest


def test_a_row_without_an_image_is_found_at_inspection(tmp_path: Path, cache: Path) -> None:
    root = write_shards(tmp_path / "shards", lambda rows: rows[0]["image"].update(bytes=None))

    report = check_dataset(root, cache=cache)

    assert [(bad.sample_ids, bad.is_missing) for bad in report.bad_images] == [((0,), True)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[21]["image"].update(path="other.png"), "row 2: the image's own file name"),
        (lambda rows: rows[13]["image"].update(bytes=b"another"), "row 14: an earlier row"),
        (lambda rows: rows[1].update(image_path="IMGS/1.png"), "row 2: image_path does not lie directly"),
        (lambda rows: rows[1].update(image_path="../1.png"), "row 2: image_path must have a relative"),
        (lambda rows: rows[1].update(image_path="imgs/0.PNG", image={"bytes": b"x", "path": None}), "case"),
        (lambda rows: rows[1].update(instruction_id=0), "row 2 (instruction_id 0): row 1 has the same id"),
        (lambda rows: rows[25].update(instruction=None), "row 26 (instruction_id 25): instruction must be"),
        (lambda rows: [row.update(source=b"bytes") for row in rows], "source must be text"),
        (lambda rows: [row.pop("category") for row in rows], "no column 'category'"),
        (lambda rows: [row.pop("image") for row in rows], "no column 'image'"),
    ],
)
def test_odd_rows_are_refused_with_their_place(
    tmp_path: Path, cache: Path, change: Change, words: str
) -> None:
    assert words in complaint(write_shards(tmp_path / "shards", change), cache)


def test_what_macos_leaves_beside_shards_is_skipped(root: Path) -> None:
    before = shards.shard_paths(root)
    for folder in (root, root / "data"):
        (folder / "._train-00000-of-00002.parquet").write_bytes(b"\0\x05\x16\x07")

    assert shards.shard_paths(root) == before


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>not found</html>", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(root: Path, cache: Path, content: bytes) -> None:
    (root / "data" / "train-00001-of-00002.parquet").write_bytes(content)

    assert "cannot be read as parquet" in complaint(root, cache)


def test_a_damaged_shard_is_refused(root: Path, cache: Path) -> None:
    path = root / "data" / "train-00000-of-00002.parquet"
    content = path.read_bytes()
    path.write_bytes(
        content[: len(content) // 3] + bytes(len(content) // 3) + content[2 * (len(content) // 3) :]
    )

    complaint(root, cache)


def test_an_image_column_of_another_type_is_refused(tmp_path: Path, cache: Path) -> None:
    root = write_shards(tmp_path / "shards", lambda rows: [row.update(image=3) for row in rows])

    data = load_dataset(root, cache=cache)

    assert len(data.inspect(data.samples, known={}, skip_bad=True)) == 30


def test_a_cache_that_cannot_be_written_is_named(root: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"a file")

    assert str(cache) in complaint(root, cache, StoreError)


def test_a_full_disk_says_how_to_make_room(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fail)

    assert "is full" in complaint(root, cache, StoreError)


def test_without_pyarrow_the_line_says_what_to_install(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ConfigError, match="needs the extra `parquet`") as caught:
        load_dataset(root, cache=cache)

    assert "parquet" in caught.value.advice


def test_pyarrow_is_not_imported_with_the_room() -> None:
    code = "import sys, vlsb.data; raise SystemExit('pyarrow' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
