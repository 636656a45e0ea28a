"""Whole files and locks, on a real disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vlsb.files import FileLock, draft_of, new_file, replace_file


def test_a_replacement_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        replace_file(path, parts())

    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "old"


def test_a_replaced_file_is_private_and_takes_the_place_of_a_killed_writers_draft(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "run.json", tmp_path / "elsewhere"
    draft_of(path).symlink_to(elsewhere)

    replace_file(path, [b"new ", b"contents"])

    assert path.read_text() == "new contents"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_new_file_is_never_one_that_is_there(tmp_path: Path, is_link: bool) -> None:
    there, path = tmp_path / "there", tmp_path / "new"
    path.symlink_to(there) if is_link else path.write_text("kept")

    with pytest.raises(FileExistsError), new_file(path):
        pass

    assert not there.exists()


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_lock_has_one_holder_and_is_given_back(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path if is_folder else tmp_path / "lock"
    with FileLock(path, is_folder=is_folder) as lock, FileLock(path, is_folder=is_folder) as other:
        assert lock.try_lock()
        assert not other.try_lock()
        lock.close()
        lock.close()

        assert other.try_lock()


def test_a_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        FileLock(tmp_path / "lock")

    assert not (tmp_path / "elsewhere").exists()
