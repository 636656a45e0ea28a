"""Exports of runs on the disk: there as a whole, and never in the place of anything else."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from vlsb.errors import ConfigError, StoreError
from vlsb.files import created_file, new_file, sync_directory


def require_new(path: Path) -> None:
    """Raise ConfigError where something is in the way, or the folder that it goes into is not there."""
    if path.exists() or path.is_symlink():
        raise ConfigError(f"--out {path} exists. Name another: nothing is overwritten.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.absolute().parent}.")


def write_text(path: Path, text: str) -> None:
    """Write a file of text. Raises ConfigError or StoreError."""
    with _put_in_place(path), created_file(path) as file:
        file.write(text.encode("utf-8"))


def write_archive(path: Path, members: Iterable[tuple[str, str]]) -> None:
    """Write a zip archive of texts by name, in this order. Raises ConfigError or StoreError."""
    with _put_in_place(path), created_file(path) as file, ZipFile(file, "w") as archive:
        for name, text in members:
            info = ZipInfo(name)
            info.compress_type = ZIP_DEFLATED
            archive.writestr(info, text.encode("utf-8"))


def write_folder(
    path: Path, text: str, table: str, columns: Mapping[str, Sequence[str | int | None]]
) -> None:
    """Write a folder with a README.md and a Parquet table in it. Raises ConfigError or StoreError."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    draft = path.with_name(f".{path.name}.export")
    numbers = ("instruction_id", "epoch", "response_characters")
    schema = pyarrow.schema(
        [(name, pyarrow.int64() if name in numbers else pyarrow.string()) for name in columns]
    )
    with _put_in_place(path):
        shutil.rmtree(draft, ignore_errors=True)
        try:
            for folder in (draft, (draft / table).parent):
                folder.mkdir(mode=0o700)
            with new_file(draft / "README.md") as file:
                file.write(text.encode("utf-8"))
            with new_file(draft / table) as file:
                parquet.write_table(pyarrow.table(dict(columns), schema=schema), file, compression="zstd")
            sync_directory(draft)
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        sync_directory(path.absolute().parent)


@contextmanager
def _put_in_place(path: Path) -> Iterator[None]:
    require_new(path)
    try:
        yield
    except FileExistsError as error:
        raise ConfigError(f"--out {path} has meanwhile been made by somebody else. Name another.") from error
    except OSError as error:
        raise StoreError.of(f"{path}: cannot be written", error) from error
