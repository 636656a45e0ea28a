"""What was sent of each image, so that target, judges, epochs and sessions see one and the same.

The checksum that is sent first binds the run. It is taken of the very bytes that are about to be sent: before
the first request nobody has read them, and a file's time says nothing about them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Set

import xxhash

from vlsb.data import media_type
from vlsb.endpoints.request import ReadImage
from vlsb.errors import ImageChangedError, ImageError
from vlsb.records import ImageFile, Sample


class SentImages:
    """Reads images for requests, and refuses one that is not what was sent before.

    Called from many threads. With `accepts_changed` a changed image is sent all the same.
    """

    def __init__(
        self, read: Callable[[Sample], bytes], sent: Mapping[str, Set[str]], *, accepts_changed: bool
    ) -> None:
        self._read = read
        self._sent = {path: set(checksums) for path, checksums in sent.items()}
        self._accepts_changed = accepts_changed
        self._lock = threading.Lock()
        # The checksums of what was read before, by a quick digest of the same bytes.
        self._known: dict[bytes, str] = {}

    def read(self, sample: Sample, image: ImageFile) -> ReadImage:
        """Read the bytes to send now, for a request that was composed for `image`. Blocking.

        Raises ImageChangedError if others were sent before, ImageError if these cannot be sent.
        """
        content = self._read(sample)
        # Target, judges and epochs compute the slow checksum of the same bytes once.
        quick = xxhash.xxh3_128_digest(content)
        if (checksum := self._known.get(quick)) is None:
            checksum = self._known[quick] = ReadImage.of(content).sha256
        # Rows may share an image, and requests are prepared side by side: who comes first binds the others.
        with self._lock:
            sent = self._sent.setdefault(sample.image_path.expose(), set())
            if sent - {checksum} and not self._accepts_changed:
                raise ImageChangedError(
                    f"The image of sample {sample.id} is not the one that was sent before. Restore it, or "
                    "send it as it is now: --accept-changed-images",
                    detail=sample.image_path,
                )
            if not sent and len(content) != image.size_bytes:
                raise ImageError("image changed since it was checked; finish copying it and start again")
            if media_type(content) != image.media_type:
                raise ImageError("image is of another type than when it was checked; start again")
            sent.add(checksum)
        return ReadImage(content, checksum)
