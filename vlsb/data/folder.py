"""A data set folder: `data.json` with one row a sample, and the pictures it names.

Rows are parsed once, here; a row that breaks a rule stops the load, because an evaluation that
silently drops rows is not comparable. An empty instruction breaks none (VLSBench has one).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vlsb import strict_json
from vlsb.data.pictures import inspect_pictures, read_picture
from vlsb.errors import DatasetError, ImageError
from vlsb.records import Picture, Sample, Untrusted

ROWS_FILE = "data.json"
MAX_ROWS_BYTES = 64 * 1024 * 1024
MAX_ID = 2**63 - 1
LAYOUT = "a folder with data.json and imgs/"
SHOWN_IDS = 10


@dataclass(frozen=True, slots=True)
class Dataset:
    """The samples of one folder, in its order. `root` is where `image_path` starts."""

    root: Path
    samples: tuple[Sample, ...]

    def inspect(
        self, samples: Iterable[Sample], *, known: Mapping[str, Picture], skip_bad: bool = False
    ) -> Mapping[int, Picture | ImageError]:
        """Each sample's picture by sample id. Blocking: reads every distinct picture once.

        `known` maps an `image_path` to what an earlier run found there. All bad pictures are found
        before one `ImageError` names them; with `skip_bad` each is the value of its samples instead.
        """
        chosen = tuple(samples)
        found = inspect_pictures(self.root, (sample.image_path for sample in chosen), known=known)
        pictures = {sample.id: found[sample.image_path] for sample in chosen}
        if not skip_bad:
            _refuse_bad(pictures)
        return pictures

    def read(self, sample: Sample, picture: Picture) -> bytes:
        """The picture's bytes, if it has not changed since it was inspected. Blocking."""
        return read_picture(self.root, sample.image_path, picture)

    def digest(self, pictures: Mapping[int, Picture | ImageError]) -> str:
        """Hex sha256 of the samples in `pictures` and their pictures' bytes, in order of id.

        Neither the folder's place nor file times count. A bad picture counts as bad, whatever ails it.
        """
        digest = hashlib.sha256()
        for sample in sorted(self.samples, key=lambda sample: sample.id):
            if sample.id in pictures:
                picture = pictures[sample.id]
                content = picture.sha256 if isinstance(picture, Picture) else "bad"
                digest.update(f"{sample.id} {sample.digest()} {content}\n".encode())
        return digest.hexdigest()


def load_dataset(root: Path) -> Dataset:
    """The samples of the folder `root`; raises `DatasetError` with one line that names file and row.

    Pictures are not looked at yet: that is `Dataset.inspect`, for the samples that were selected.
    """
    try:
        _check_layout(root)
    except OSError as error:
        raise _unreadable(root, error) from error
    rows = _parsed(_rows_bytes(root / ROWS_FILE))
    if not isinstance(rows, list):
        raise DatasetError(f"{ROWS_FILE} holds {_kind(rows)}, not a list of rows. Pass {LAYOUT}.")
    if not rows:
        raise DatasetError(f"{ROWS_FILE} holds no rows. Download it again.")
    samples = tuple(_sample(row, position) for position, row in enumerate(rows, start=1))
    _check_ids(samples)
    return Dataset(root.resolve(), samples)


def _check_layout(root: Path) -> None:
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(f"{root} {problem}. Pass {LAYOUT}.")
    if not (root / ROWS_FILE).exists():
        raise DatasetError(f"{root} has no {ROWS_FILE}{_other_layout(root)}. Pass {LAYOUT}.")
    if (root / "imgs.tar").exists() and not (root / "imgs").exists():
        raise DatasetError(f"{root} has imgs.tar but no imgs/. Unpack it there: vlsb reads {LAYOUT}.")


def _other_layout(root: Path) -> str:
    if (root / "imgs.tar").exists():
        return ", only imgs.tar"
    if any(root.glob("*.parquet")) or any(root.glob("data/*.parquet")):
        return ", only parquet files"
    return ""


def _rows_bytes(path: Path) -> bytes:
    try:
        # Opening a FIFO must not hang. A link is the user's own way to place this one file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return _checked_bytes(path, descriptor).removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)


def _checked_bytes(path: Path, descriptor: int) -> bytes:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise DatasetError(f"{path} is not a regular file. Pass {LAYOUT}.")
    with os.fdopen(descriptor, "rb", closefd=False) as stream:
        content = stream.read(MAX_ROWS_BYTES + 1)
    if len(content) > MAX_ROWS_BYTES:
        limit = MAX_ROWS_BYTES // 1024**2
        raise DatasetError(
            f"{path} is larger than {limit} MiB, far more than VLSBench. Is it the right file?"
        )
    return content


def _unreadable(path: Path, error: OSError) -> DatasetError:
    reason = os.strerror(error.errno) if error.errno else "no reason given"
    return DatasetError(f"{path} cannot be read: {reason}. Check its permissions.")


def _parsed(content: bytes) -> object:
    try:
        return strict_json.loads(content)
    except ValueError as error:
        raise DatasetError(f"{ROWS_FILE} is not JSON ({error}). Download it again.") from error


def _sample(row: object, position: int) -> Sample:
    if not isinstance(row, dict):
        raise DatasetError(f"{ROWS_FILE} row {position}: {_kind(row)}, not an object with fields.")
    sample_id = _sample_id(row, f"{ROWS_FILE} row {position}")
    where = f"{ROWS_FILE} row {position} (instruction_id {sample_id})"
    sample = Sample(
        id=sample_id,
        instruction=_text(row, "instruction", where),
        image_path=_text(row, "image_path", where),
        category=_text(row, "category", where),
        sub_category=_text(row, "sub_category", where),
        source=_text(row, "source", where),
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
        found = _kind(value) if "instruction_id" in row else "nothing"
        raise DatasetError(f"{where}: instruction_id must be a whole number, 0 or more, found {found}.")
    return value


def _text(row: Mapping[str, object], name: str, where: str) -> Untrusted:
    value = row.get(name)
    if not isinstance(value, str):
        found = _kind(value) if name in row else "nothing"
        raise DatasetError(f"{where}: {name} must be text, found {found}. Correct the row.")
    return Untrusted(value)


def _check_ids(samples: Iterable[Sample]) -> None:
    first_row: dict[int, int] = {}
    for position, sample in enumerate(samples, start=1):
        earlier = first_row.setdefault(sample.id, position)
        if earlier != position:
            raise DatasetError(
                f"{ROWS_FILE} row {position} (instruction_id {sample.id}): row {earlier} has the same id. "
                "Keep one of the two."
            )


def _kind(value: object) -> str:
    """What a JSON value is, in words that do not show it."""
    names = {bool: "true or false", int: "a number", float: "a fraction", str: "text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names[type(value)]


def _refuse_bad(pictures: Mapping[int, Picture | ImageError]) -> None:
    bad = {sample_id: found for sample_id, found in pictures.items() if isinstance(found, ImageError)}
    if not bad:
        return
    first, reason = next(iter(bad.items()))
    ids = ", ".join(map(str, list(bad)[:SHOWN_IDS]))
    more = f" and {len(bad) - SHOWN_IDS} more" if len(bad) > SHOWN_IDS else ""
    raise ImageError(
        f"{ROWS_FILE}: the picture cannot be used in {len(bad)} of {len(pictures)} rows, instruction_id "
        f"{ids}{more}. Row with instruction_id {first}: {reason.message}. "
        "Mend them, or go on without them: --skip-bad-pictures.",
        detail=reason.detail,
    ) from reason
