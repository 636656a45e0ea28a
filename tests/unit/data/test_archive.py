"""Images in `imgs.tar`: read in place, equal to the folder's, and refused when the archive is odd."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vlsb.data import check_dataset, load_dataset, load_dataset_files, mini_root
from vlsb.data.archive import MAX_HEADER_BYTES, scan
from vlsb.errors import DatasetError, ImageError
from vlsb.records import ImageFile, Untrusted

IMAGE = (mini_root() / "imgs" / "0.png").read_bytes()


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """A member with the bytes of an image if it is a file."""
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    found.size = len(IMAGE) if kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) else 0
    return found


def packed(members: Iterable[tarfile.TarInfo], *, form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for each in members:
            archive.addfile(each, io.BytesIO(IMAGE) if each.size else None)
    return buffer.getvalue()


def written(folder: Path, content: bytes) -> Path:
    path = folder / "imgs.tar"
    path.write_bytes(content)
    return path


def refusal(path: Path) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        scan(path)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    assert "imgs.tar" in caught.value.message
    return caught.value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The mini set with its images in an archive."""
    folder = tmp_path / "packed"
    folder.mkdir()
    shutil.copyfile(mini_root() / "data.json", folder / "data.json")
    with tarfile.open(folder / "imgs.tar", "w") as archive:
        archive.add(mini_root() / "imgs", "imgs")
    return folder


def test_many_threads_read_the_bytes_that_the_folder_has(root: Path) -> None:
    data = load_dataset(root)

    with ThreadPoolExecutor(16) as pool:
        contents = list(pool.map(lambda each: data.read(each), data.samples * 4))  # type: ignore[arg-type]

    expected = [(mini_root() / each.image_path.expose()).read_bytes() for each in data.samples]
    assert contents == expected * 4


def test_nothing_is_unpacked_and_no_descriptor_stays_open(root: Path) -> None:
    data = load_dataset(root)
    data.inspect(data.samples, known={})
    before = sorted(Path("/dev/fd").iterdir())

    data.inspect(data.samples, known={})

    assert sorted(Path("/dev/fd").iterdir()) == before
    assert {path.name for path in root.iterdir()} == {"data.json", "imgs.tar"}


def test_a_folder_of_images_wins_over_the_archive(root: Path) -> None:
    shutil.copytree(mini_root() / "imgs", root / "imgs")
    (root / "imgs.tar").write_bytes(b"nothing of a tar")

    data = load_dataset(root)

    assert len(data.inspect(data.samples, known={})) == 30


def test_rows_and_archive_may_be_links_that_lie_apart(root: Path, tmp_path: Path) -> None:
    """As in the hub's cache."""
    (tmp_path / "rows").symlink_to(root / "data.json")
    (tmp_path / "archive").symlink_to(root / "imgs.tar")

    data = load_dataset_files(rows=tmp_path / "rows", archive=tmp_path / "archive")

    assert len(data.inspect(data.samples, known={})) == 30


def test_the_time_of_an_image_is_that_of_the_archive(root: Path) -> None:
    os.utime(root / "imgs.tar", ns=(7, 7))
    data = load_dataset(root)

    images = data.inspect(data.samples, known={})

    assert {image.mtime_ns for image in images.values() if isinstance(image, ImageFile)} == {7}


def test_a_known_image_is_not_read_again(root: Path) -> None:
    data = load_dataset(root)
    found = data.inspect(data.samples, known={})[0]
    assert isinstance(found, ImageFile)
    earlier = ImageFile("hash of an earlier run", found.media_type, found.size_bytes, found.mtime_ns)

    again = data.inspect(data.samples[:1], known={data.samples[0].image_path.expose(): earlier})

    assert again == {0: earlier}


def test_an_archive_that_was_packed_again_gives_each_image_from_where_it_lies_now(root: Path) -> None:
    data = load_dataset(root)
    expected = [data.read(sample) for sample in data.samples]
    names = sorted((path.name for path in (mini_root() / "imgs").iterdir()), reverse=True)
    with tarfile.open(root / "imgs.tar", "w") as archive:
        for name in names:
            archive.add(mini_root() / "imgs" / name, f"imgs/{name}")

    assert [data.read(sample) for sample in data.samples] == expected


def test_an_archive_that_is_damaged_meanwhile_is_not_read(root: Path) -> None:
    data = load_dataset(root)
    (root / "imgs.tar").write_bytes((root / "imgs.tar").read_bytes()[:2000])

    with pytest.raises(ImageError, match="changed meanwhile"):
        data.read(data.samples[0])


def test_an_image_that_the_archive_lacks_is_missing(tmp_path: Path) -> None:
    shutil.copyfile(mini_root() / "data.json", tmp_path / "data.json")
    written(tmp_path, packed([member("imgs/0.png")]))

    report = check_dataset(tmp_path)

    assert [each.is_missing for each in report.bad_images] == [True] * 24
    assert "archive" in report.bad_images[0].reason


def test_the_check_reports_the_same_of_an_archive_as_of_its_folder(root: Path) -> None:
    packed_report, report = check_dataset(root), check_dataset(mini_root())

    assert packed_report.digest == report.digest
    assert packed_report.counts == report.counts
    assert packed_report.misnamed_images == report.misnamed_images
    assert packed_report.bad_images == ()


def test_a_bad_image_in_an_archive_is_found_like_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    row = json.loads((mini_root() / "data.json").read_bytes())[0]
    rows = [row | {"instruction_id": number, "image_path": f"imgs/{number}.png"} for number in range(3)]
    contents = (IMAGE[:40], b"<html>", b"")
    for place in (tmp_path, tmp_path / "folder"):
        (place / "data.json").write_text(json.dumps(rows))
    (tmp_path / "folder" / "imgs").mkdir()
    for number, content in enumerate(contents):
        (tmp_path / "folder" / "imgs" / f"{number}.png").write_bytes(content)
    with tarfile.open(tmp_path / "imgs.tar", "w") as archive:
        archive.add(tmp_path / "folder" / "imgs", "imgs")

    reports = [check_dataset(tmp_path), check_dataset(tmp_path / "folder")]

    assert reports[0].bad_images == reports[1].bad_images
    assert reports[0].digest == reports[1].digest


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_every_tar_format_is_read(tmp_path: Path, form: int, prefix: str) -> None:
    name = "imgs/" + "x" * 90 + ".png"
    folders = [member("./", kind=tarfile.DIRTYPE), member(f"{prefix}imgs", kind=tarfile.DIRTYPE)]

    archive = scan(written(tmp_path, packed([*folders, member(prefix + name)], form=form)))

    assert set(archive.members) == {name}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_is_read_whole(tmp_path: Path, form: int) -> None:
    name = "imgs/" + "é" * 110 + ".JPEG"

    assert set(scan(written(tmp_path, packed([member(name)], form=form))).members) == {name}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (member("/etc/passwd.png"), "relative"),
        (member("../0.png"), "relative"),
        (member("imgs/../0.png"), "relative"),
        (member("imgs\\0.png"), "relative"),
        (member("imgs/\x1b[2J.png"), "control"),
        (member("C:imgs/0.png"), "drive"),
        (member("0.png"), "directly in imgs/"),
        (member("data/0.png"), "directly in imgs/"),
        (member("imgs/more/0.png"), "directly in imgs/"),
        (member("imgs//0.png"), "directly in imgs/"),
        (member("././imgs/0.png"), "directly in imgs/"),
        (member("imgs/0.exe"), "extension"),
        (member("imgs/0"), "extension"),
        (member("imgs/.png"), "extension"),
        (member("other", kind=tarfile.DIRTYPE), "folder"),
        (member("imgs/0.png", kind=tarfile.SYMTYPE, link="/etc/passwd"), "symbolic link"),
        (member("imgs/more/0.png", kind=tarfile.LNKTYPE, link="imgs/1.png"), "directly in imgs/"),
        (member("imgs/1.png", kind=tarfile.LNKTYPE, link="imgs/1.png"), "twice"),
        (member("imgs/0.png", kind=tarfile.FIFOTYPE), "FIFO"),
        (member("imgs/0.png", kind=tarfile.CHRTYPE), "device"),
        (member("imgs/0.png", kind=tarfile.BLKTYPE), "device"),
        (member("imgs/0.png", kind=tarfile.CONTTYPE), "unknown kind"),
        (member("imgs/0.png", kind=b"Z"), "unknown kind"),
        (member("imgs/1.png"), "twice"),
        (member("imgs/1.PNG"), "twice"),
        (member("./imgs/1.png"), "twice"),
    ],
)
def test_a_member_that_is_no_plain_image_refuses_the_archive(
    tmp_path: Path, odd: tarfile.TarInfo, words: str
) -> None:
    error = refusal(written(tmp_path, packed([member("imgs/1.png"), odd])))

    assert words in error.message
    assert error.detail is not None


def link(name: str, to: str) -> tarfile.TarInfo:
    return member(name, kind=tarfile.LNKTYPE, link=to)


@pytest.mark.parametrize("order", [1, -1])
def test_hard_links_to_members_are_followed_in_any_order(tmp_path: Path, order: int) -> None:
    members = [
        member("imgs/0.png"),
        link("imgs/1.png", "imgs/0.png"),
        link("imgs/2.png", "./imgs/1.png"),
        link("./imgs/3.png", "imgs/2.png"),
    ]

    archive = scan(written(tmp_path, packed(members[::order])))

    assert set(archive.members) == {f"imgs/{number}.png" for number in range(4)}
    assert len(set(archive.members.values())) == 1
    with archive.open_image("imgs/3.png") as image:
        assert image.stream.read() == IMAGE


def test_hard_links_as_the_tar_command_makes_them_are_followed(root: Path, tmp_path: Path) -> None:
    imgs = tmp_path / "imgs"
    shutil.copytree(mini_root() / "imgs", imgs)
    (imgs / "0.png").unlink()
    (imgs / "0.png").hardlink_to(imgs / "1.png")
    (root / "imgs.tar").unlink()
    subprocess.run(["tar", "-cf", root / "imgs.tar", "imgs"], cwd=tmp_path, check=True)
    with tarfile.open(root / "imgs.tar") as archive:
        assert sum(each.islnk() for each in archive) == 1

    data = load_dataset(root)
    images = data.inspect(data.samples, known={})

    by_path = {each.image_path.expose(): images[each.id] for each in data.samples}
    assert by_path["imgs/0.png"] == by_path["imgs/1.png"]


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ({"imgs/1.png": "imgs/9.png"}, "to a member that the archive lacks"),
        ({"imgs/1.png": "imgs/._0.png"}, "to a member that the archive lacks"),
        ({"imgs/1.png": "/etc/passwd"}, "out of the archive"),
        ({"imgs/1.png": "../secret.png"}, "out of the archive"),
        ({"imgs/1.png": "imgs/2.png", "imgs/2.png": "/etc/passwd"}, "out of the archive"),
        ({"imgs/2.png": "/etc/passwd", "imgs/1.png": "imgs/2.png"}, "out of the archive"),
        ({"imgs/1.png": "imgs/1.png"}, "in a circle"),
        ({"imgs/1.png": "imgs/2.png", "imgs/2.png": "imgs/3.png", "imgs/3.png": "imgs/2.png"}, "in a circle"),
    ],
)
def test_a_hard_link_that_leads_to_no_member_costs_its_own_image_only(
    tmp_path: Path, links: dict[str, str], words: str
) -> None:
    members = [member("imgs/0.png"), member("imgs/._0.png"), *(link(*each) for each in links.items())]
    archive = scan(written(tmp_path, packed(members)))

    with archive.open_image("imgs/0.png") as image:
        assert image.stream.read() == IMAGE
    with pytest.raises(ImageError, match=words), archive.open_image("imgs/1.png"):
        pass


def test_a_long_chain_of_hard_links_takes_no_time_in_its_square(tmp_path: Path) -> None:
    count = 20_000
    members = [link(f"imgs/{number}.png", f"imgs/{number + 1}.png") for number in range(count)]
    path = written(tmp_path, packed([*members, member(f"imgs/{count}.png")]))

    assert len(scan(path).members) == count + 1


MACOS = ("imgs/._0.png", "._imgs", "imgs/.DS_Store", ".DS_Store", "__MACOSX/imgs/._0.png", "imgs/._.DS_Store")


def test_what_macos_leaves_beside_files_is_skipped_in_an_archive(tmp_path: Path) -> None:
    odd = [member("__MACOSX", kind=tarfile.DIRTYPE), *map(member, MACOS)]

    assert set(scan(written(tmp_path, packed([*odd, member("imgs/0.png")]))).members) == {"imgs/0.png"}


def test_what_macos_leaves_beside_files_changes_nothing_in_a_folder(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(mini_root(), folder)
    for name in MACOS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\x05\x16\x07")
    shutil.copyfile(mini_root() / "data.json", root / "data.json")
    with tarfile.open(root / "imgs.tar", "w") as archive:
        for name in ("imgs", *MACOS):
            archive.add(folder / name, name)

    reports = [check_dataset(each) for each in (folder, root)]

    assert reports[0].digest == reports[1].digest == check_dataset(mini_root()).digest
    assert not reports[0].bad_images
    assert not reports[1].bad_images


def test_two_names_that_differ_by_their_unicode_form_are_refused(tmp_path: Path) -> None:
    content = packed([member("imgs/\u00e9.png"), member("imgs/e\u0301.png")])

    assert "twice" in refusal(written(tmp_path, content)).message


@pytest.mark.parametrize(
    "pax", [{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, {"GNU.sparse.size": "9"}]
)
def test_a_sparse_member_is_refused(tmp_path: Path, pax: dict[str, str]) -> None:
    sparse = member("imgs/0.png")
    sparse.pax_headers = pax

    refusal(written(tmp_path, packed([sparse], form=tarfile.PAX_FORMAT)))


def test_an_old_gnu_sparse_member_is_refused(tmp_path: Path) -> None:
    refusal(written(tmp_path, packed([member("imgs/0.png", kind=tarfile.GNUTYPE_SPARSE)])))


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, lambda raw: b"\x28\xb5\x2f\xfd"]
)
def test_a_compressed_archive_is_told_to_be_decompressed(tmp_path: Path, compress) -> None:
    assert "Decompress it" in refusal(written(tmp_path, compress(packed([member("imgs/0.png")])))).message


@pytest.mark.parametrize(
    "raw", [b"", b"\x00", b"<html>not found</html>", b"x" * 5000, b"version https://git-lfs"]
)
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, raw: bytes) -> None:
    assert "cut or damaged" in refusal(written(tmp_path, raw)).message


@pytest.mark.parametrize("cut_at", ["header", "content", "boundary"])
def test_a_cut_archive_names_the_last_member_it_has(tmp_path: Path, cut_at: str) -> None:
    whole = packed([member("imgs/0.png"), member("imgs/1.png")])
    one = 512 + (len(IMAGE) + 511) // 512 * 512
    length = {"header": one + 100, "content": 2 * one - 600, "boundary": 2 * one}[cut_at]

    error = refusal(written(tmp_path, whole[:length]))

    assert "cut or damaged" in error.message
    assert error.detail == Untrusted("imgs/0.png" if cut_at == "header" else "imgs/1.png")


def test_a_damaged_header_does_not_end_the_archive_early(tmp_path: Path) -> None:
    content = bytearray(packed([member("imgs/0.png"), member("imgs/1.png")]))
    content[512 + (len(IMAGE) + 511) // 512 * 512 + 3] ^= 0xFF

    error = refusal(written(tmp_path, bytes(content)))

    assert error.detail == Untrusted("imgs/0.png")


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    assert "damaged" in refusal(written(tmp_path, packed([member("imgs/0.png")]) + b"more")).message


def test_a_header_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    greedy = tarfile.TarInfo("imgs/0.png")
    greedy.type, greedy.size = tarfile.XHDTYPE, MAX_HEADER_BYTES + 1
    content = greedy.tobuf(tarfile.USTAR_FORMAT) + bytes(MAX_HEADER_BYTES + 4096)

    refusal(written(tmp_path, content))


def test_endless_nested_headers_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 5
    content = (link.tobuf(tarfile.GNU_FORMAT) + b"name\0".ljust(512, b"\0")) * 5000

    refusal(written(tmp_path, content))


def test_a_negative_size_does_not_hang(tmp_path: Path) -> None:
    backwards = tarfile.TarInfo("imgs/0.png")
    backwards.size = -1024

    refusal(written(tmp_path, backwards.tobuf(tarfile.GNU_FORMAT) + bytes(2048)))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlsb.data.archive.MAX_MEMBERS", 2)

    error = refusal(written(tmp_path, packed([member(f"imgs/{number}.png") for number in range(3)])))

    assert "more than 2 images" in error.message


def test_a_size_beyond_every_limit_is_refused(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("imgs/0.png")
    huge.size = 2**40

    with (tmp_path / "imgs.tar").open("wb") as stream:
        stream.write(huge.tobuf(tarfile.GNU_FORMAT))
        stream.truncate(2**20)

    assert "64 GiB" in refusal(tmp_path / "imgs.tar").message


def test_an_image_over_its_limit_is_refused_unread(tmp_path: Path) -> None:
    shutil.copyfile(mini_root() / "data.json", tmp_path / "data.json")
    large = tarfile.TarInfo("imgs/0.png")
    large.size = 21 * 1024**2
    with (tmp_path / "imgs.tar").open("wb") as stream:
        stream.write(large.tobuf(tarfile.GNU_FORMAT))
        stream.truncate(512 + large.size + 1024)

    data = load_dataset(tmp_path)
    found = data.inspect(data.samples[:1], known={}, skip_bad=True)[0]

    assert isinstance(found, ImageError)
    assert "20 MiB" in found.message


def test_a_fifo_in_place_of_the_archive_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "imgs.tar")

    assert "not a regular file" in refusal(tmp_path / "imgs.tar").message
