"""Reads untrusted .tar archives: their files go to disk, one at a time, and the resources for an archive are limited.

An archive of 4 MB can hold gigabytes of zeros, headers of gigabytes, names that point out of a folder, links and
devices. So nothing is taken at its word: only regular files are read, by their base names, into one unnamed file.
"""

from __future__ import annotations

import array
import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from im2latex.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
# Limits of a file, bytes. An image of 16 million pixels has at most 64 MB.
MAX_IMAGE_BYTES = 64 << 20
MAX_FILE_BYTES = 256 << 20
# Limits of an archive, unpacked: bytes, and files.
MAX_BYTES = 32 << 30
MAX_FILES = 4_000_000
# Limits of the headers of one file, and of its name, bytes.
_MAX_HEADER_BYTES = 1 << 20
_MAX_NAME_BYTES = 255
# Bytes of the disk that are left free.
_FREE_BYTES = 256 << 20
_CHUNK = 1 << 20
_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError)


class FilePart(NamedTuple):
    """A part of a file, which other processes on this machine can read too."""

    path: str
    offset: int
    size: int  # bytes


class Archive:
    """The regular files of an unpacked archive, by base name. They stay on disk as long as this object is kept.

    Attributes:
      irregular: base names of links, devices and pipes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        # Compact, because there may be millions.
        self._numbers: dict[str, int] = {}
        self._offsets, self._sizes = array.array("Q"), array.array("L")
        self.irregular: set[str] = set()

    def add(self, name: str, offset: int, size: int) -> None:
        """Adds a file; a later one of the same name replaces it."""
        self._numbers[name] = len(self._offsets)
        self._offsets.append(offset)
        self._sizes.append(size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._offsets)

    def get(self, name: str) -> FilePart | None:
        """Returns a file; None if there is none of this name."""
        number = self._numbers.get(name)
        if number is None:
            return None
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"  # the file has no name
        return FilePart(path, self._offsets[number], self._sizes[number])


class _Stream:
    """An unpacked archive as tarfile reads it, with a limit on the bytes that it reads as headers."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.left = _MAX_HEADER_BYTES
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError("a header is too large")
        self.left -= size
        self.last = self.stream.read(size)
        return self.last

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, offset: int) -> int:
        return self.stream.seek(offset)


def unpack(path: Path, folder: Path | None = None, only_images: bool = False) -> Archive:
    """Unpacks a .tar archive, compressed with gzip, bzip2, xz or not at all, into an unnamed file.

    Args:
      path: the archive.
      folder: folder on a disk with enough space; None for the system's folder of temporary files.
      only_images: leave out files whose names do not end as those of `IMAGES`.

    Raises:
      UserError: the archive is damaged, a file in it is too large, or all together are, or the disk is full.
    """
    try:
        with open(path, "rb") as raw:
            start = raw.read(6)
            raw.seek(0)
            opener = next((opener for magic, opener in _OPENERS if start.startswith(magic)), None)
            stream = raw if opener is None else opener(raw, "rb")
            return _unpacked(path, cast(IO[bytes], stream), tempfile.TemporaryFile(dir=folder), only_images)  # noqa: SIM115
    except _DAMAGE as error:
        raise UserError(f"{path} is not a readable .tar archive ({error}); download it again") from error


def _unpacked(path: Path, stream: IO[bytes], out: IO[bytes], only_images: bool) -> Archive:
    archive, metered, end = Archive(out), _Stream(stream), 0
    with tarfile.TarFile(fileobj=metered) as members:  # type: ignore[arg-type]
        while (member := members.next()) is not None:
            if members.offset <= end:
                raise tarfile.ReadError("a size is negative")
            end = members.offset
            if end > MAX_BYTES or len(archive) >= MAX_FILES:
                raise UserError(
                    f"{path} unpacks to more than {MAX_BYTES >> 30} GiB or {MAX_FILES:,} files; if you trust it, "
                    "unpack it yourself, and import the folder"
                )
            name = member.name.rpartition("/")[2]
            is_image = name.lower().endswith(IMAGES)
            if len(os.fsencode(name)) <= _MAX_NAME_BYTES and (is_image or not only_images):
                if member.isreg() and not member.issparse():
                    limit = MAX_IMAGE_BYTES if is_image else MAX_FILE_BYTES
                    if member.size > limit:
                        what = f"{shown(name)} of {member.size:,} bytes, more than {limit:,}"
                        raise UserError(f"{path} contains {what}; remove it")
                    archive.add(name, out.tell(), member.size)
                    _copy(stream, out, member.size, path)
                elif not member.isdir():
                    archive.irregular.add(name)
            # tarfile would keep every header.
            members.members = []  # type: ignore[attr-defined]
            members.pax_headers = {}
            metered.left = _MAX_HEADER_BYTES
        if metered.last.strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")
    out.flush()
    return archive


def _copy(stream: IO[bytes], out: IO[bytes], size: int, path: Path) -> None:
    full = f"no space is left to unpack {path}; free some, or unpack it on another disk and import the folder"
    if shutil.disk_usage(out.fileno()).free < size + _FREE_BYTES:
        raise UserError(full)
    while size:
        content = stream.read(min(size, _CHUNK))
        if not content:
            raise EOFError("it is cut off")
        try:
            out.write(content)
        except OSError as error:
            raise UserError(full) from error
        size -= len(content)


def shown(name: str) -> str:
    """Returns a name that is safe to print: escaped if it contains control characters."""
    return name if name.isprintable() else ascii(name)
