"""Rules of the images: which paths are opened, which bytes pass, what is hashed and re-read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlsb.data import Dataset, media_type
from vlsb.data.image_files import (
    MAX_IMAGE_BYTES,
    FileStamp,
    OpenedImage,
    OpenImage,
    full_decode,
    inspect_image,
    inspect_images,
    open_in_folder,
    quiet_decoder,
    read_image,
)
from vlsb.errors import ImageError
from vlsb.records import ImageFile, Sample, Untrusted


def encoded(kind: str = "PNG", size: tuple[int, int] = (32, 24)) -> bytes:
    buffer = io.BytesIO()
    # Noise, so that half of the file is not half of one block; seeded, so that a failure repeats.
    noise = random.Random(0).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, noise).save(buffer, kind)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_declaring(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def sample(sample_id: int, image_path: str) -> Sample:
    text = Untrusted("x")
    return Sample(sample_id, text, Untrusted(image_path), text, text, text)


def below(root: Path) -> OpenImage:
    return partial(open_in_folder, root)


def dataset(root: Path, *image_paths: str) -> Dataset:
    samples = tuple(sample(number, path) for number, path in enumerate(image_paths))
    return Dataset(root, samples, below(root))


def reason(root: Path, image_path: str) -> str:
    with quiet_decoder(), pytest.raises(ImageError) as caught:
        inspect_image(below(root), Untrusted(image_path))
    assert caught.value.detail == Untrusted(image_path)
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "imgs").mkdir(parents=True)
    (root / "imgs" / "0.png").write_bytes(encoded())
    (tmp_path / "outside.png").write_bytes(encoded())
    return root


@pytest.mark.parametrize(
    ("image_path", "words"),
    [
        ("", "no file name"),
        (".", "no file name"),
        ("/etc/passwd", "relative"),
        ("../outside.png", "relative"),
        ("imgs/../../outside.png", "relative"),
        ("imgs/..", "relative"),
        ("imgs\\0.png", "relative"),
        ("imgs/0.png\x00.txt", "control"),
        ("imgs/0\n.png", "control"),
        ("imgs/\x1b[2J.png", "control"),
        ("imgs/\ud800.png", "control"),
        ("C:imgs/0.png", "URL or drive"),
        ("C:\\imgs\\0.png", "URL or drive"),
        ("http://127.0.0.1/0.png", "URL or drive"),
        ("HTTPS://host/0.png", "URL or drive"),
        ("file:imgs/0.png", "URL or drive"),
        ("data:image/png;base64,AAAA", "URL or drive"),
        ("//host/share/0.png", "URL or drive"),
        ("imgs/nothing.png", "missing"),
        ("imgs/0.png/1.png", "missing"),
        ("imgs", "not a regular file"),
        ("imgs/" + "x" * 300 + ".png", "cannot be read"),
    ],
)
def test_a_path_that_is_not_a_file_below_the_folder_is_refused(
    root: Path, image_path: str, words: str
) -> None:
    assert words in reason(root, image_path)


def test_an_absolute_path_inside_the_folder_is_refused(root: Path) -> None:
    assert "relative" in reason(root, str(root / "imgs" / "0.png"))


@given(st.text(max_size=40))
def test_any_path_is_an_image_or_an_image_error(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    found = inspect_images(below(tmp_path_factory.getbasetemp()), [Untrusted(path)], known={})

    assert isinstance(found[Untrusted(path)], ImageError)


def test_a_symlink_out_of_the_folder_is_refused(root: Path) -> None:
    (root / "imgs" / "1.png").symlink_to(root.parent / "outside.png")

    assert "symbolic link" in reason(root, "imgs/1.png")


def test_a_symlink_inside_the_folder_is_refused_too(root: Path) -> None:
    (root / "imgs" / "1.png").symlink_to("0.png")

    assert "symbolic link" in reason(root, "imgs/1.png")


def test_a_linked_folder_that_leads_out_is_refused(root: Path) -> None:
    (root / "other").symlink_to(root.parent)

    assert "outside" in reason(root, "other/outside.png")


def test_a_linked_folder_that_stays_inside_is_followed(root: Path) -> None:
    (root / "pictures").symlink_to("imgs")

    assert inspect_image(below(root), Untrusted("pictures/0.png")).media_type == "image/png"


def test_a_folder_that_becomes_a_link_between_two_reads_leads_nowhere(root: Path) -> None:
    assert read_image(below(root), Untrusted("imgs/0.png"))
    (root / "imgs").rename(root.parent / "moved")
    (root / "imgs").symlink_to(root.parent / "moved")

    assert "outside" in reason(root, "imgs/0.png")


def test_a_folder_that_may_be_passed_but_not_listed_is_passed(root: Path) -> None:
    (root / "imgs").chmod(0o100)
    try:
        assert inspect_image(below(root), Untrusted("imgs/0.png")).media_type == "image/png"
    finally:
        (root / "imgs").chmod(0o700)


@pytest.mark.parametrize("path", ["../outside.png", "imgs/../../outside.png", "/etc/passwd"])
def test_a_path_that_nobody_checked_leads_out_no_more(root: Path, path: str) -> None:
    with pytest.raises(ImageError, match="outside"), open_in_folder(root, path):
        pass


def test_a_loop_of_links_is_refused(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")

    assert "link" in reason(root, "a/0.png")


def test_the_data_set_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)

    assert inspect_image(below(tmp_path / "link"), Untrusted("imgs/0.png")).media_type == "image/png"


def test_a_fifo_does_not_hang(root: Path) -> None:
    os.mkfifo(root / "imgs" / "1.png")

    assert "not a regular file" in reason(root, "imgs/1.png")


def test_a_socket_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Socket addresses are short, paths of test folders are not.
    monkeypatch.chdir(root / "imgs")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("1.png")

        assert "not a regular file" in reason(root, "imgs/1.png")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("GIF", "image/gif"), ("WEBP", "image/webp")],
)
def test_the_type_comes_from_the_bytes_not_the_name(root: Path, kind: str, expected: str) -> None:
    content = encoded(kind)
    (root / "imgs" / "1.png").write_bytes(content)

    image = inspect_image(below(root), Untrusted("imgs/1.png"))
    hashed = inspect_image(below(root), Untrusted("imgs/1.png"), hashed=True)

    facts = (root / "imgs" / "1.png").stat()
    assert image == ImageFile(None, expected, len(content), facts.st_mtime_ns)
    assert hashed == replace(image, sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "HTML"),
        (b"\n <html><body>404</body></html>", "HTML"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7", "is not PNG"),
        (b"II*\x00tiff", "is not PNG"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "is not PNG"),
        (b"\x00\x00\x00 ftypavif", "is not PNG"),
        (b"BM" + bytes(60), "is not PNG"),
        (b"\x89PNG\r\n\x1a\n", "cut or damaged"),
        (b"\x89PNG\r\n\x1a\n<script>", "cut or damaged"),
        (b"\xff\xd8\xff" + bytes(100), "cut or damaged"),
        (b"GIF89a", "cut or damaged"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "cut or damaged"),
        (png_declaring(0, 10), "cut or damaged"),
        (b"GIF89a\x00\x00\x00\x00\x00\x00\x00;", "cut or damaged"),
    ],
)
def test_bytes_that_are_no_image_are_told_apart(root: Path, content: bytes, words: str) -> None:
    (root / "imgs" / "1.png").write_bytes(content)

    assert words in reason(root, "imgs/1.png")


@pytest.mark.parametrize("size", [(10_000, 5_001), (10_000, 10_000), (60_000, 60_000)])
def test_an_image_bomb_is_refused_by_its_header(root: Path, size: tuple[int, int]) -> None:
    (root / "imgs" / "1.png").write_bytes(png_declaring(*size))

    assert "pixels" in reason(root, "imgs/1.png")


def test_fifty_megapixels_pass(root: Path) -> None:
    (root / "imgs" / "1.png").write_bytes(png_declaring(10_000, 5_000))

    assert inspect_image(below(root), Untrusted("imgs/1.png")).media_type == "image/png"


def test_a_file_over_the_size_limit_is_refused_unread(root: Path) -> None:
    with (root / "imgs" / "1.png").open("wb") as stream:
        stream.truncate(MAX_IMAGE_BYTES + 1)

    assert "20 MiB" in reason(root, "imgs/1.png")


@given(st.binary(max_size=64))
def test_media_type_never_guesses(first_bytes: bytes) -> None:
    try:
        kind = media_type(first_bytes)
    except ImageError:
        return

    assert kind in {"image/png", "image/jpeg", "image/gif", "image/webp"}


@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]), places=st.data())
def test_damaged_images_are_decoded_or_refused_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, kind: str, places: st.DataObject
) -> None:
    content = bytearray(encoded(kind, (8, 8)))
    for _ in range(3):
        content[places.draw(st.integers(0, len(content) - 1))] = places.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged-{kind}"
    path.write_bytes(content)

    with quiet_decoder(), contextlib.suppress(ImageError):
        full_decode(below(path.parent), Untrusted(path.name))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_only_a_full_decode_notices_a_cut_image(root: Path, kind: str) -> None:
    content = encoded(kind, (200, 200))
    (root / "imgs" / "1.png").write_bytes(content[: len(content) // 2])
    if kind != "WEBP":  # its header check already needs the whole file
        assert inspect_image(below(root), Untrusted("imgs/1.png")).size_bytes == len(content) // 2

    with quiet_decoder(), pytest.raises(ImageError, match="cut or damaged"):
        full_decode(below(root), Untrusted("imgs/1.png"))


def test_a_png_without_its_last_twenty_bytes_is_noticed(root: Path) -> None:
    (root / "imgs" / "1.png").write_bytes(encoded()[:-20])

    with quiet_decoder(), pytest.raises(ImageError, match="cut or damaged"):
        full_decode(below(root), Untrusted("imgs/1.png"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_whole_image_decodes(root: Path, kind: str) -> None:
    (root / "imgs" / "1.png").write_bytes(encoded(kind))

    with quiet_decoder():
        full_decode(below(root), Untrusted("imgs/1.png"))


def test_samples_that_share_an_image_get_one_inspection(root: Path) -> None:
    data = dataset(root, "imgs/0.png", "imgs/0.png")

    images = data.inspect(data.samples, known={})

    assert images[0] is images[1]


def test_a_known_image_is_not_read_again(root: Path) -> None:
    path = root / "imgs" / "0.png"
    facts = path.stat()
    earlier = ImageFile("hash of an earlier run", "image/png", facts.st_size, facts.st_mtime_ns)
    path.write_bytes(b"x" * facts.st_size)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    data = dataset(root, "imgs/0.png")

    assert data.inspect(data.samples, known={"imgs/0.png": earlier}) == {0: earlier}


@pytest.mark.parametrize(("size", "later"), [(1, 0), (0, 1)])
def test_a_known_image_of_another_size_or_time_is_read_again(root: Path, size: int, later: int) -> None:
    facts = (root / "imgs" / "0.png").stat()
    earlier = ImageFile("stale", "image/png", facts.st_size + size, facts.st_mtime_ns + later)
    data = dataset(root, "imgs/0.png")

    found = data.inspect(data.samples, known={"imgs/0.png": earlier})[0]

    assert found == ImageFile(None, "image/png", facts.st_size, facts.st_mtime_ns)


def test_all_bad_images_are_named_in_one_line(root: Path) -> None:
    data = dataset(root, "imgs/0.png", *(f"imgs/no{number}.png" for number in range(1, 14)))

    with pytest.raises(ImageError) as caught:
        data.inspect(data.samples, known={})

    assert caught.value.message == (
        "The image cannot be used in 13 of 14 rows, instruction_id 1, 2, 3, 4, 5, 6, 7, 8, 9, "
        "10 and 3 more. Row with instruction_id 1: image is missing; copy it to its image_path. "
        "Mend them, or go on without them: --skip-bad-images."
    )
    assert caught.value.detail == Untrusted("imgs/no1.png")
    assert caught.value.exit_code == 2


def test_bad_images_can_be_the_value_of_their_samples(root: Path) -> None:
    data = dataset(root, "imgs/0.png", "imgs/no.png", "imgs/no.png")

    images = data.inspect(data.samples, known={}, skip_bad=True)

    assert isinstance(images[0], ImageFile)
    assert isinstance(images[1], ImageError)
    assert images[2] is images[1]


def test_only_the_given_samples_are_inspected(root: Path) -> None:
    data = dataset(root, "imgs/0.png", "imgs/no.png")

    assert set(data.inspect(data.samples[:1], known={})) == {0}


def test_reading_gives_the_bytes_as_they_are_now(root: Path) -> None:
    """Whether they may be sent is for who knows what was sent before; a new time says nothing."""
    data, path = dataset(root, "imgs/0.png"), root / "imgs" / "0.png"
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(7, 7))

    assert data.read(data.samples[0]) == path.read_bytes()


@pytest.mark.parametrize("change", ["gone", "link", "empty"])
def test_an_image_that_cannot_be_opened_any_more_is_not_read(root: Path, change: str) -> None:
    data, path = dataset(root, "imgs/0.png"), root / "imgs" / "0.png"
    path.rename(root / "moved.png")
    if change == "link":
        path.symlink_to("../moved.png")
    elif change == "empty":
        path.touch()

    with pytest.raises(ImageError):
        data.read(data.samples[0])


def test_an_image_that_changes_while_it_is_read_is_not_read() -> None:
    """A file that is being written gives the first half of one image and the second of another."""
    stamps = iter([FileStamp(8, 1), FileStamp(8, 1), FileStamp(8, 2)])

    @contextmanager
    def growing(image_path: str) -> Iterator[OpenedImage]:
        yield OpenedImage(io.BufferedReader(io.BytesIO(bytes(8))), lambda: next(stamps))

    with pytest.raises(ImageError, match="changed while it was read"):
        read_image(growing, Untrusted("imgs/0.png"))


def test_no_descriptor_is_left_open(root: Path) -> None:
    os.mkfifo(root / "imgs" / "1.png")
    (root / "imgs" / "2.png").write_bytes(b"<html>")
    paths = [Untrusted(f"imgs/{number}.png") for number in range(4)] + [Untrusted("imgs")]
    inspect_images(below(root), paths, known={})
    before = sorted(Path("/dev/fd").iterdir())

    inspect_images(below(root), paths, known={})

    assert sorted(Path("/dev/fd").iterdir()) == before
