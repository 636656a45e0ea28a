"""Images made from those of a data set, to see what a target does without theirs, or with a worse one.

All of it is Pillow's, and the same for the same bytes: no clock, no random number of the system.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from io import BytesIO
from statistics import NormalDist
from typing import TYPE_CHECKING

from vlsb.data.image_files import decoded

if TYPE_CHECKING:
    from PIL import Image

LEVELS = 5
"""Levels of a corruption, from 1."""
# Shares of the image that the view zooms in by; as the two below from Hendrycks and Dietterich, ICLR 2019.
_ZOOMS = (0.11, 0.16, 0.21, 0.26, 0.33)
_ZOOM_STEPS = 12
_QUALITIES = (25, 18, 15, 10, 7)
_NOISES = (0.08, 0.12, 0.18, 0.26, 0.38)
_DOWNSCALES = (2, 4, 8, 16, 32)
_GREY = (128, 128, 128)


def blank_like(content: bytes) -> bytes:
    """Return a PNG of one grey, as wide and high as an image. Raises ImageError. Blocking."""
    from PIL import Image

    with decoded(content, is_whole=False) as image:
        size = image.size
    return _png(Image.new("RGB", size, _GREY))


def corrupt(content: bytes, kind: str, level: int) -> bytes:
    """Return a corrupted image: a PNG, or a JPEG where that is the corruption. Blocking.

    Raises ImageError. `kind` is one of `CORRUPTIONS`; `level` counts from 1 to `LEVELS`.
    """
    with decoded(content) as image:
        plain = image.convert("RGB")
    if kind == "jpeg":
        drawn = BytesIO()
        plain.save(drawn, "JPEG", quality=_QUALITIES[level - 1])
        return drawn.getvalue()
    return _png(_OF_PIXELS[kind](plain, level))


def corrupted_type(kind: str) -> str:
    """Return the MIME type that an image has after a corruption."""
    return "image/jpeg" if kind == "jpeg" else "image/png"


def most_bytes(content: bytes) -> int:
    """Return how large an altered image can be, roughly: that of its pixels. Raises ImageError. Blocking."""
    with decoded(content, is_whole=False) as image:
        return 3 * image.width * image.height + 4096


def _png(image: Image.Image) -> bytes:
    drawn = BytesIO()
    # The fastest level: these are made for one request each.
    image.save(drawn, "PNG", compress_level=1)
    return drawn.getvalue()


def _zoom_blur(image: Image.Image, level: int) -> Image.Image:
    """Average an image with what a camera sees that zooms in on its middle while it takes it."""
    from PIL import Image

    mean = image
    for step in range(1, _ZOOM_STEPS + 1):
        share = 1 + _ZOOMS[level - 1] * step / _ZOOM_STEPS
        left, top = image.width * (1 - 1 / share) / 2, image.height * (1 - 1 / share) / 2
        box = (left, top, image.width - left, image.height - top)
        closer = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
        mean = Image.blend(mean, closer, 1 / (step + 1))
    return mean


def _downscale(image: Image.Image, level: int) -> Image.Image:
    """Drop pixels, and draw what is left in the size of before: a model spends as many tokens on it."""
    from PIL import Image

    by = _DOWNSCALES[level - 1]
    small = image.resize((max(1, image.width // by), max(1, image.height // by)), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def _gaussian_noise(image: Image.Image, level: int) -> Image.Image:
    """Add normal noise to every channel of every pixel, drawn from a seed that the pixels give."""
    from PIL import Image, ImageChops

    pixels = image.tobytes()
    dice = random.Random(hashlib.sha256(pixels).digest())
    uniform = Image.frombytes("RGB", image.size, dice.randbytes(len(pixels)))
    normal = NormalDist(128, 255 * _NOISES[level - 1])
    quantiles = [min(255, max(0, round(normal.inv_cdf((value + 0.5) / 256)))) for value in range(256)]
    return ImageChops.add(image, uniform.point(quantiles * 3), scale=1, offset=-128)


_OF_PIXELS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "zoom-blur": _zoom_blur,
    "downscale": _downscale,
    "gaussian-noise": _gaussian_noise,
}
CORRUPTIONS = (*_OF_PIXELS, "jpeg")
"""The kinds of corruption, by name."""
