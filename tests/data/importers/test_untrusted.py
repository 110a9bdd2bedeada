"""Imports of sources that were made to do harm: each ends with a sentence, or leaves records out with a reason."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest

from data.dataset.tfrecords import read_tfrecords
from data.importers import archive
from data.importers.archive import unpack
from data.importers.importing import import_dataset
from data.pictures.synthetic import draw_png
from im2latex.errors import UserError
from tests.data.importers.test_im2latex import processed, records

MIB = 1 << 20


def bomb(path: Path, name: str, files: int, size: int) -> Path:
    """An archive with files of zeros, which unpack to a thousand times its size."""
    zeros = bytes(MIB)
    with gzip.open(path, "wb", 1) as packed:
        for number in range(files):
            member = tarfile.TarInfo(name.format(number))
            member.size = size
            packed.write(member.tobuf())
            for _ in range(size // MIB):
                packed.write(zeros)
        packed.write(bytes(1024))
    return path


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def with_archive(source: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """Replaces the images of a source by an archive."""
    shutil.rmtree(source / "formula_images_processed")
    with tarfile.open(source / "images.tar.gz", "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return source


def reasons(source: Path, out: Path) -> dict[str, str]:
    """Imports a source, and returns the reasons for its rejects by name."""
    import_dataset(source, out, allow_rejects=0.9, workers=1)
    rejects = (json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines())
    return {reject["name"]: reject["reason"] for reject in rejects}


def test_an_archive_of_few_bytes_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = bomb(tmp_path / "images.tar.gz", "images/{}.png", files=4, size=16 * MIB)
    assert path.stat().st_size < MIB
    tracemalloc.start()
    try:
        unpacked = unpack(path, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB and len(unpacked) == 4
    part = unpacked.get("2.png")
    assert part is not None and part[1:] == (2 * 16 * MIB, 16 * MIB)
    assert [path.name for path in tmp_path.iterdir()] == ["images.tar.gz"]  # unpacked files have no name


def test_too_large_files_and_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = processed(tmp_path / "source")
    shutil.rmtree(source / "formula_images_processed")
    images = source / "images.tar.gz"
    images.write_bytes(gzip.compress(header(tarfile.REGTYPE, 200 * MIB, "0.png")))  # which is read no further
    with pytest.raises(
        UserError, match=r"images.tar.gz contains 0.png of 209,715,200 bytes, more than 67,108,864; remove"
    ):
        import_dataset(source, tmp_path / "set", workers=1)
    monkeypatch.setattr(archive, "MAX_BYTES", 2 * MIB)
    bomb(images, "images/{}.png", files=3, size=MIB)
    with pytest.raises(UserError, match=r"images.tar.gz unpacks to more than .*unpack it yourself"):
        import_dataset(source, tmp_path / "set", workers=1)
    bomb(images, "images/{}.png", files=1, size=MIB)
    monkeypatch.setattr(archive, "_FREE_BYTES", 1 << 60)
    with pytest.raises(UserError, match=r"no space is left to unpack .*images.tar.gz"):
        import_dataset(source, tmp_path / "set", workers=1)


PAX = tarfile.XHDTYPE


@pytest.mark.parametrize(
    "content",
    [
        header(PAX, 8 << 30),  # a header that would be read into memory
        header(tarfile.GNUTYPE_LONGNAME, 1 << 33),
        100 * (header(tarfile.XGLTYPE, 512) + b"20 k=" + bytes(507)) * 30,  # headers of headers
        header(tarfile.REGTYPE, -1024),  # the next file would be this one
        header(PAX, -512),
        header(tarfile.REGTYPE, 0, "a.png") + header(tarfile.REGTYPE, 0, "b.png").replace(b"b.png", b"c.png"),
        header(tarfile.REGTYPE, 1000, "a.png") + b"cut off",
    ],
    ids=["pax", "long name", "nested", "negative", "negative pax", "checksum", "cut off"],
)
def test_damaged_and_hostile_headers_are_refused(content: bytes, tmp_path: Path) -> None:
    for name, packed in (("images.tar.gz", gzip.compress(content)), ("images.tar", content)):
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(UserError, match=rf"{name} is not a readable .tar archive"):
            unpack(tmp_path / name, tmp_path)


def test_members_of_an_archive_are_regular_files_and_choose_no_paths(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(draw_png("W", 10))
    members = []
    for number in range(30):
        member = tarfile.TarInfo(f"images/{number}.png" if number != 5 else "../../5.png")
        content = draw_png(f"x _ {{ {' '.join(str(number))} }}", 10)
        if number < 4:
            member.type = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)[number]
            member.linkname, content = str(tmp_path / "secret.png"), b""
        members.append((member, content))
    source = with_archive(processed(tmp_path / "source", count=30), members)
    why = "image is a link, pipe or device instead of a file"
    assert reasons(source, tmp_path / "set") == {f"{number}.png": why for number in range(4)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.png", "set", "source"]
    assert len(records(tmp_path / "set")["train"]) == 15 - 4


def test_pipes_and_devices_in_a_folder_are_not_opened(tmp_path: Path) -> None:
    source = processed(tmp_path / "source")
    images = source / "formula_images_processed"
    for number in range(3):
        (images / f"{number}.png").unlink()
    os.mkfifo(images / "0.png")
    (images / "1.png").symlink_to("/dev/zero")
    (images / "2.png").symlink_to(tmp_path / "nowhere")
    why = "image is a link, pipe or device instead of a file"
    assert reasons(source, tmp_path / "set") == {f"{number}.png": why for number in range(3)}
    formulas = source / "im2latex_formulas.norm.lst"
    formulas.unlink()
    os.mkfifo(formulas)
    with pytest.raises(UserError, match=r"norm.lst is a link, pipe or device instead of a file; replace it"):
        import_dataset(source, tmp_path / "set", workers=1)
    with pytest.raises(UserError, match=r"norm.lst is a link, pipe or device instead of a file; give the folder"):
        import_dataset(formulas, tmp_path / "set", workers=1)
    with pytest.raises(UserError, match=r"norm.lst is a link, pipe or device instead of a file; replace it"):
        next(read_tfrecords(formulas))


def test_a_byte_order_mark_is_left_out_and_utf_16_is_refused(tmp_path: Path) -> None:
    source = processed(tmp_path / "source")
    lists = sorted(source.glob("*.lst"))
    before = [path.read_bytes() for path in lists]
    for path, content in zip(lists, before, strict=True):
        path.write_bytes(b"\xef\xbb\xbf" + content)
    assert reasons(source, tmp_path / "set") == {}
    assert records(tmp_path / "set")["train"][0].latex == "x _ { 0 }"
    lists[0].write_bytes(before[0].decode().encode("utf-16"))
    with pytest.raises(UserError, match=rf"{lists[0].name} is in UTF-16; save it as UTF-8"):
        import_dataset(source, tmp_path / "set", workers=1)


def test_control_characters_and_endless_tokens_are_left_out_with_a_reason(tmp_path: Path) -> None:
    source = processed(tmp_path / "source")
    formulas = source / "im2latex_formulas.norm.lst"
    lines = formulas.read_bytes().split(b"\n")
    lines[:6] = [
        b"x \0 y", b"x \x1b[2J", "x \x9b2J".encode(), b"\\" + 200 * b"a", b"x " * 40_000, b"x\t^\t{ 2 }\r",
    ]  # fmt: skip
    formulas.write_bytes(b"\n".join(lines))
    rows = source / "im2latex_train_filter.lst"
    rows.write_text(rows.read_text().replace("6.png 6\n", "\x1b[2J.png 6\n").replace("7.png 7\n", "7.png 9" * 2000))
    control = "control character in the formula"
    assert reasons(source, tmp_path / "set") == {
        "0.png": control,
        "1.png": control,
        "2.png": control,
        "3.png": "token of more than 128 bytes",
        "4.png": "formula of more than 65,536 bytes",
        "im2latex_train_filter.lst:7": "control character in the name of the image",
        "7.png": "formula line out of range",
    }
    assert records(tmp_path / "set")["train"][0].latex == "x ^ { 2 }"


def picture(width: int, height: int) -> bytes:
    """Returns a PNG whose header claims a size, without pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_pictures_of_too_many_pixels_or_other_formats_are_not_decoded(tmp_path: Path) -> None:
    source = processed(tmp_path / "source")
    images = source / "formula_images_processed"
    contents = [
        picture(50_000, 50_000),
        picture(10_000, 10_000),
        picture(1, 20_000),
        picture(40, 40),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\xff\xd8" + 101 * b"\xff\xda",
    ]
    for number, content in enumerate(contents):
        (images / f"{number}.png").write_bytes(content)
    with (images / "6.png").open("wb") as file:
        file.truncate(65 * MIB)  # a hole, without blocks on the disk
    large = "image of more than 16,000,000 pixels, or 16,000 a side"
    assert reasons(source, tmp_path / "set") == {
        "0.png": large,
        "1.png": large,
        "2.png": large,
        "3.png": "undecodable image",
        "4.png": "undecodable image",
        "5.png": "JPEG of more than 100 scans",
        "6.png": "image file of more than 67,108,864 bytes",
    }
