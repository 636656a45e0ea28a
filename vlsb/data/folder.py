"""Images as files below the data set folder; a path never leads out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from vlsb.data.image_files import FileStamp, OpenedImage
from vlsb.errors import ImageError

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def open_in_folder(root: Path, image_path: str) -> Iterator[OpenedImage]:
    """The image at a checked relative path below `root`, opened without following a last link."""
    descriptor = _open_below(root, PurePosixPath(image_path))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ImageError("image is not a regular file")
        # The descriptor stays ours: `fdopen` would not close it if it failed.
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield OpenedImage(stream, lambda: FileStamp.of(descriptor))
    finally:
        os.close(descriptor)


def _open_below(root: Path, relative: PurePosixPath) -> int:
    """Open a file step by step below `root`, where no link leads elsewhere; by its real path if one is met.

    Walking costs a third of resolving the path, which every image of every request would pay for.
    """
    *folders, name = relative.parts
    held: list[int] = []
    try:
        if relative.is_absolute() or ".." in folders:
            raise NotADirectoryError
        held.append(os.open(root, _FOLDER_FLAGS))
        for folder in folders:
            held.append(os.open(folder, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=held[-1]))
    except OSError:
        # A link on the way, or a folder that may be passed but not read.
        return os.open(_real_path(root, relative), _FLAGS)
    else:
        return os.open(name, _FLAGS, dir_fd=held[-1])
    finally:
        for descriptor in held:
            os.close(descriptor)


def _real_path(root: Path, relative: PurePosixPath) -> Path:
    """The path to open, with every folder resolved and the last component as it is."""
    try:
        folder = root.resolve(strict=True)
        parent = (folder / relative.parent).resolve(strict=True)
    except RuntimeError as error:
        # Before Python 3.13 a loop of links is not an OSError.
        raise ImageError("image lies behind a loop of links; copy the real files there") from error
    if not parent.is_relative_to(folder):
        raise ImageError("image lies outside the data set folder, behind a link; copy the real files there")
    return parent / relative.name
