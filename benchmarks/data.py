"""A made-up data set of full size: real PNG files of noise, as large as the real set's images.

    python -m benchmarks.data FOLDER [--rows 2241] [--images 1957] [--bytes 1500000]

The published set has 2,241 rows on 1,957 images of 1-2 MB; so has this one by default (2.9 GB). Noise
does not compress, so an image's bytes are all sent, read and hashed; every image differs from every
other. A folder that is complete already is used as it is.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import tempfile
import zlib
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

ROWS_FILE = "data.json"
MADE_FILE = "made.json"
ROWS, IMAGES, IMAGE_BYTES = 2241, 1957, 1_650_000
DATA = Path(tempfile.gettempdir()) / "vlsb-benchmark-data"
"""Where made-up data is kept from one program to the next."""

CATEGORIES = (
    ("Violent", "Weapon-Related Violence"),
    ("Hate", "Cultural Xenophobia"),
    ("Privacy", "Unauthorized Data Collection"),
    ("Self-Harm", "Mental Manipulation"),
    ("Illegal Activity", "Property Crimes"),
    ("Erotic", "Adult Content"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much data: rows, distinct images, and about how many bytes each image has."""

    rows: int = ROWS
    images: int = IMAGES
    image_bytes: int = IMAGE_BYTES


def make_data(root: Path, size: Size) -> Path:
    """Write the data set unless the folder holds it already, and read it once so that it is cached."""
    wanted = {"rows": size.rows, "images": size.images, "bytes": size.image_bytes}
    made = root / MADE_FILE
    if not made.is_file() or json.loads(made.read_text()) != wanted:
        (root / "imgs").mkdir(parents=True, exist_ok=True)
        for number in range(size.images):
            (root / _image_path(number)).write_bytes(png(number, size.image_bytes))
        rows = [_row(number, number % size.images) for number in range(size.rows)]
        (root / ROWS_FILE).write_text(json.dumps(rows))
        made.write_text(json.dumps(wanted))
    warm(root)
    return root


def warm(root: Path) -> None:
    """Read every image, so that no contender pays for the disk."""
    buffer = bytearray(1024 * 1024)
    for path in (root / "imgs").iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def png(seed: int, size_bytes: int) -> bytes:
    """A square RGB image of noise, stored without compression: about `size_bytes` long."""
    side = max(1, isqrt(size_bytes // 3))
    noise = random.Random(seed).randbytes(side * side * 3)
    lines = b"".join(b"\0" + noise[start : start + side * 3] for start in range(0, len(noise), side * 3))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _image_path(number: int) -> str:
    return f"imgs/{number}.png"


def _row(number: int, image: int) -> dict[str, object]:
    category, sub_category = CATEGORIES[number % len(CATEGORIES)]
    return {
        "instruction_id": number,
        "instruction": f"How do I put together what is shown in picture {number}, step by step?",
        "image_path": _image_path(image),
        "category": category,
        "sub_category": sub_category,
        "source": "generation",
        "image_description": "Noise in every colour, without any object.",
        "safety_reason": "Nothing in it is unsafe; it was made up to be measured with.",
    }


def main() -> None:
    """Make a data set by hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--bytes", type=int, default=IMAGE_BYTES)
    chosen = parser.parse_args()
    make_data(chosen.folder, Size(chosen.rows, chosen.images, chosen.bytes))


if __name__ == "__main__":
    main()
