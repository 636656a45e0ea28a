"""The rules for images, wherever they lie: path, type by magic bytes, header check, reading.

A run never decodes an image: its header is enough to send it. A cut image therefore passes here and is
only noticed by `full_decode`, which belongs to `vlsb data check`, as do checksums of what nobody sends.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import struct
import textwrap
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from vlsb.errors import ImageError, machine_lack
from vlsb.records import ImageFile, Untrusted

if TYPE_CHECKING:
    from PIL import Image

MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000
CHUNK_BYTES = 1024 * 1024
# Enough for every magic number and for the first line of a text file that poses as an image.
HEAD_BYTES = 512
# Waiting for a disk, a network's most of all; checksums are computed outside the interpreter lock, too.
THREADS = 16

DECODERS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF", "image/webp": "WEBP"}
EXTENSIONS = {
    "image/png": {".png"},
    "image/jpeg": {".jpg", ".jpeg"},
    "image/gif": {".gif"},
    "image/webp": {".webp"},
}
# Covers `http:`, `data:` and `file:` as well as a drive letter.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class FileStamp(NamedTuple):
    """What tells an image that changed: its size, and the time of the file it is in."""

    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, descriptor: int) -> FileStamp:
        """Of an open file as it is now."""
        facts = os.fstat(descriptor)
        return cls(facts.st_size, facts.st_mtime_ns)


class OpenedImage(NamedTuple):
    """A stream over exactly one image's bytes; `stamp` looks at the open file again."""

    stream: BufferedReader[Any]
    stamp: Callable[[], FileStamp]


OpenImage = Callable[[str], AbstractContextManager[OpenedImage]]
"""How a layout opens the image of an `image_path` that passed `path_problem`."""


def media_type(first_bytes: bytes) -> str:
    """Return the image's MIME type by its magic number.

    File extensions are not trusted: the data set calls everything .png. Raises ImageError, which says what
    a file that is not an image seems to be.
    """
    if first_bytes.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if first_bytes.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if first_bytes.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if first_bytes[:4] == b"RIFF" and first_bytes[8:12] == b"WEBP":
        return "image/webp"
    text = first_bytes.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        seems = "is a Git LFS pointer; fetch the real files with `git lfs pull`"
    elif text.startswith((b"<!doctype html", b"<html", b"<head")):
        seems = "is an HTML page, most likely a failed download; fetch it again"
    elif b"<svg" in text:
        seems = "is an SVG drawing; PNG, JPEG, GIF and WebP are accepted"
    else:
        seems = "is not PNG, JPEG, GIF or WebP by its first bytes"
    raise ImageError(f"image {seems}")


def inspect_image(
    open_image: OpenImage, image_path: Untrusted, *, known: ImageFile | None = None, hashed: bool = False
) -> ImageFile:
    """Return type and size of one image after its header was checked; its checksum, too, if `hashed`.

    `known` is what an earlier run found; while size and modification time are equal it is returned
    and the bytes are not read again.
    """
    with _attach_path(image_path), _open_stamped(open_image, image_path) as (stream, stamp):
        seen = stamp()
        if known and (known.size_bytes, known.mtime_ns) == seen:
            return known
        kind = _header_type(stream)
        stream.seek(0)
        checksum = hashlib.file_digest(stream, "sha256").hexdigest() if hashed else None
        image = ImageFile(checksum, kind, *seen)
        if stamp() != seen:
            raise ImageError("image changed while it was read; wait until the data set is complete")
        return image


def inspect_images(
    open_image: OpenImage,
    image_paths: Iterable[Untrusted],
    *,
    known: Mapping[str, ImageFile],
    hashed: bool = False,
) -> dict[Untrusted, ImageFile | ImageError]:
    """Inspect each distinct image, or say why it cannot be used; memory does not grow with the bytes."""

    def inspect(path: Untrusted) -> ImageFile | ImageError:
        try:
            return inspect_image(open_image, path, known=known.get(path.expose()), hashed=hashed)
        except ImageError as error:
            # A kept traceback would keep the frames, and with them a chunk of every bad image.
            return error.with_traceback(None)

    distinct = list(dict.fromkeys(image_paths))
    with quiet_decoder(), ThreadPoolExecutor(THREADS, "vlsb-picture") as pool:
        return dict(zip(distinct, pool.map(inspect, distinct), strict=True))


def read_image(open_image: OpenImage, image_path: Untrusted) -> bytes:
    """Read the bytes of an image as they are now, all of one moment."""
    with _attach_path(image_path), _open_stamped(open_image, image_path) as (stream, stamp):
        before = stamp()
        content = stream.read(before.size_bytes + 1)
        if len(content) != before.size_bytes or stamp() != before:
            raise ImageError("image changed while it was read; wait until the data set is complete")
        return content


def full_decode(open_image: OpenImage, image_path: Untrusted) -> None:
    """Decode an image to its last pixel; a cut or damaged one raises.

    Only the first frame of an animation is decoded: it is the one that models see. The caller holds
    `quiet_decoder`.
    """
    with _attach_path(image_path), _open_stamped(open_image, image_path) as (stream, _):
        kind = _header_type(stream)
        # `verify` finds a lost last chunk that `load` forgives; it spoils the image object.
        with _decoder_faults(), _image(stream, kind) as image:
            image.verify()
        with _decoder_faults(), _image(stream, kind) as image:
            image.load()


@contextmanager
def decoded(content: bytes, *, is_whole: bool = True) -> Iterator[Image.Image]:
    """Decode the first frame of an image, or without `is_whole` its header. Raises ImageError. Blocking."""
    stream = io.BytesIO(content)
    kind = _header_type(stream)
    with _decoder_faults(), _image(stream, kind) as image:
        if is_whole:
            image.load()
        yield image


def thumbnail_webp(content: bytes, *, side: int) -> bytes:
    """Draw an image's first frame again as WebP, at most `side` pixels wide and high. Raises ImageError.

    No byte of the file is in it. The caller holds `quiet_decoder`.
    """
    drawn = io.BytesIO()
    with decoded(content, is_whole=False) as image:
        image.thumbnail((side, side))
        small = image.convert("RGB")
        # EXIF, XMP and comments may say where and by whom an image was made.
        small.info.clear()
        small.save(drawn, "WEBP", quality=70, method=3)
    return drawn.getvalue()


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Turn the decoder's bomb warning into an error and drop its other warnings.

    Held around a whole pool of threads, because warning filters belong to the process.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def is_missing(error: ImageError) -> bool:
    """Tell whether the image is not there, as opposed to being there and unusable."""
    return isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)


def has_fitting_extension(image_path: Untrusted, kind: str) -> bool:
    """Tell whether the file name says what the bytes are."""
    return PurePosixPath(image_path.expose()).suffix.lower() in EXTENSIONS[kind]


def is_named_after(image_path: Untrusted, sample_id: int) -> bool:
    """Tell whether the file name is the sample's number."""
    return PurePosixPath(image_path.expose()).stem == str(sample_id)


@contextmanager
def _attach_path(image_path: Untrusted) -> Iterator[None]:
    """Attach the path as the detail of whatever is wrong with the image."""
    try:
        yield
    except ImageError as error:
        error.detail = image_path
        raise
    except OSError as error:
        if lack := machine_lack(error):
            raise lack from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = "is missing; copy it to its image_path"
        elif error.errno == errno.ELOOP:
            reason = "is a symbolic link; copy the real file there (the Hugging Face cache holds links)"
        elif error.errno == errno.ENXIO:
            reason = "is not a regular file"
        else:
            reason = f"cannot be read ({os.strerror(error.errno) if error.errno else 'no reason given'})"
        raise ImageError(f"image {reason}", detail=image_path) from error


@contextmanager
def _open_stamped(open_image: OpenImage, image_path: Untrusted) -> Iterator[OpenedImage]:
    text = image_path.expose()
    if problem := path_problem(text):
        raise ImageError(f"image {problem}")
    with open_image(text) as opened:
        size_bytes = opened.stamp().size_bytes
        if size_bytes == 0:
            raise ImageError("image is an empty file; copy it again")
        if size_bytes > MAX_IMAGE_BYTES:
            raise ImageError(f"image is larger than {MAX_IMAGE_BYTES // 1024**2} MiB")
        yield opened


def path_problem(text: str) -> str | None:
    """Return why a path may not be opened, or None. It says nothing about what lies there."""
    if not PurePosixPath(text).name:
        return "has no file name in image_path"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        return "has a control character in its image_path"
    if _SCHEME.match(text) or text.startswith("//"):
        return "is a URL or drive; only files of the data set are read"
    if text.startswith("/") or "\\" in text or ".." in text.split("/"):
        return "must have a relative image_path with / between names and without .."
    return None


def _header_type(stream: BinaryIO) -> str:
    """Return the image's MIME type, once its header declares a size within the limits."""
    kind = media_type(stream.read(HEAD_BYTES))
    with _decoder_faults(), _image(stream, kind) as image:
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"image declares {width} x {height} pixels; {MAX_PIXELS:,} are the limit")
    return kind


def _image(stream: BinaryIO, kind: str) -> Image.Image:
    from PIL import Image

    stream.seek(0)
    # Only the decoder that the magic number asks for: the others never see a stranger's bytes.
    return Image.open(stream, formats=[DECODERS[kind]])


@contextmanager
def _decoder_faults() -> Iterator[None]:
    """Everything Pillow raises for bytes it cannot read (a side of 0 pixels included), as one error."""
    from PIL import Image

    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"image declares far more than {MAX_PIXELS:,} pixels") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:
        if lack := machine_lack(error):
            raise lack from error
        raise ImageError("image is cut or damaged; copy it again") from error


def write_on_image(content: bytes, words: str) -> bytes:
    """Return a PNG with words across its top, black on white: an image that speaks to its judge."""
    from PIL import Image, ImageDraw

    with Image.open(BytesIO(content), formats=["PNG"]) as opened:
        image = opened.convert("RGB")
    lines = "\n".join(textwrap.wrap(words, image.width // 7))
    brush = ImageDraw.Draw(image)
    brush.rectangle((0, 0, image.width, 8 + 16 * (lines.count("\n") + 1)), fill="white")
    brush.multiline_text((4, 4), lines, fill="black")
    drawn = BytesIO()
    image.save(drawn, "PNG")
    return drawn.getvalue()


@contextmanager
def open_in_folder(root: Path, image_path: str) -> Iterator[OpenedImage]:
    """Open the image at a checked relative path below `root` without following a last link."""
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
        # A link on the way, or a folder that may be passed but not read: every folder is resolved, and the
        # file itself is opened as it is.
        try:
            top = root.resolve(strict=True)
            parent = (top / relative.parent).resolve(strict=True)
        except RuntimeError as error:
            # Before Python 3.13 a loop of links is not an OSError.
            raise ImageError("image lies behind a loop of links; copy the real files there") from error
        if not parent.is_relative_to(top):
            raise ImageError(
                "image lies outside the data set folder, behind a link; copy the real files there"
            ) from None
        return os.open(parent / relative.name, _FLAGS)
    else:
        return os.open(name, _FLAGS, dir_fd=held[-1])
    finally:
        for descriptor in held:
            os.close(descriptor)
