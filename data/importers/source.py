"""Shared parts of the importers: the description of a format, the files of a source, and candidate records.

A source may come from anywhere. Files are opened only if they are regular ones, so that a pipe cannot block an import
and a device cannot fill the memory, and each is read up to a limit.
"""

from __future__ import annotations

import codecs
import fnmatch
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from data.dataset.record import BadRecord
from data.importers.archive import IMAGES, MAX_FILE_BYTES, MAX_IMAGE_BYTES, Archive, FilePart, shown, unpack
from im2latex.errors import UserError

SPLIT_NAMES = {"train": "train", "validate": "eval", "val": "eval", "eval": "eval", "test": "test"}
NOT_REGULAR = "link, pipe or device instead of a file"


class Candidate(NamedTuple):
    """A record of the source, not yet checked.

    Attributes:
      split: train, eval or test.
      name: name of the record.
      image: the image file: its bytes, its path, or its place in an archive.
      formula: the formula, encoded.
      problem: why the record is unusable, if the importer has found out already.
    """

    split: str
    name: str
    image: bytes | Path | FilePart
    formula: bytes
    problem: str = ""


def read_image(image: bytes | Path | FilePart) -> bytes:
    """Returns the bytes of a candidate's image file.

    Raises:
      BadRecord: the file is missing, too large or no regular file.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, FilePart):
        with open(image.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), image.size, image.offset)
    try:
        content = read_regular(image, MAX_IMAGE_BYTES)
    except OSError as error:
        raise BadRecord("unreadable image file") from error
    if content is None:
        raise BadRecord(NOT_REGULAR)
    if len(content) > MAX_IMAGE_BYTES:
        raise BadRecord(f"image file of more than {MAX_IMAGE_BYTES:,} bytes")
    return content


def image_size(image: bytes | Path | FilePart) -> int:
    """Returns the size of a candidate's image file, bytes; 0 if it has disappeared."""
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, FilePart):
        return image.size
    try:
        return image.stat().st_size
    except OSError:
        return 0


def read_regular(path: Path, limit: int) -> bytes | None:
    """Returns at most limit + 1 bytes of a regular file; None for a pipe, a device or a folder.

    Raises:
      OSError: the file cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe waits until another process writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return file.read(limit + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def read_text(path: Path) -> bytes:
    """Returns the content of a text file, without a byte order mark.

    Raises:
      UserError: the file cannot be read, is too large, is no regular file, or is UTF-16.
    """
    try:
        content = read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
    if content is None:
        raise UserError(f"{path} is a {NOT_REGULAR}; replace it by the file")
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path} has more than {MAX_FILE_BYTES:,} bytes; check that it is the right file")
    return without_mark(content, str(path))


def without_mark(content: bytes, where: str) -> bytes:
    """Returns a text without UTF-8's byte order mark.

    Raises:
      UserError: the text has UTF-16's; `where` names its file.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{where} is in UTF-16; save it as UTF-8")
    return content.removeprefix(codecs.BOM_UTF8)


class Files:
    """The files of a source, a folder or a .tar archive, by name. Archives within the folder are read on demand.

    Files of archives lie in temporary files, which disappear with this object.

    Args:
      source: the folder or the archive.
      scratch: folder for these temporary files; None for the system's.

    Raises:
      UserError: the source does not exist or is not a readable archive.
    """

    def __init__(self, source: Path, scratch: Path | None = None) -> None:
        self.source = source
        self._scratch = scratch
        self._archives: list[Archive] = []
        self._folders: list[Path] = []
        if source.is_dir():
            self.names: list[str] = sorted(os.listdir(source))
        elif source.is_file():
            self._archives = [unpack(source, scratch)]
            self.names = sorted(self._archives[0])
        elif source.exists():
            raise UserError(f"{source} is a {NOT_REGULAR}; give the folder or the .tar.gz of the data")
        else:
            raise UserError(f"{source} does not exist; give the folder or the .tar.gz of the data")
        self._in_folder = source.is_dir()

    def matching(self, pattern: str) -> list[str]:
        return fnmatch.filter(self.names, pattern)

    def path(self, name: str) -> Path | None:
        """Returns the path of a file in the folder; None in an archive."""
        return self.source / name if self._in_folder else None

    def read(self, name: str) -> bytes:
        """Returns the content of a text file, without a byte order mark.

        Raises:
          UserError: as `read_text`.
        """
        if self._in_folder:
            return read_text(self.source / name)
        part = self._archives[0].get(name)
        assert part is not None, name
        return without_mark(read_image(part), f"{shown(name)} in {self.source}")

    def open_images(self) -> None:
        """Finds the images: here, and in folders and archives with "image" in their names.

        Raises:
          UserError: there are no images, or an archive is not readable.
        """
        if self._in_folder:
            self._folders = [self.source]
            for name in self.names:
                path = self.source / name
                if "image" not in name:
                    continue
                if path.is_dir():
                    self._folders.append(path)
                elif path.is_file() and (".tar" in name or name.endswith(".tgz")):
                    self._archives.append(unpack(path, self._scratch, only_images=True))
        names = (entry.name for folder in self._folders for entry in os.scandir(folder))
        if not any(map(_is_image, names)) and not any(map(_is_image, (name for a in self._archives for name in a))):
            raise UserError(f"{self.source} contains no images; put the image folder or its .tar.gz there")

    def image(self, name: str) -> Path | FilePart:
        """Returns an image by its file name; one in an archive wins over one in a folder.

        Raises:
          BadRecord: there is no such image, or it is no regular file.
        """
        irregular = False
        if _is_image(name) and "/" not in name:
            for archive in reversed(self._archives):
                if (part := archive.get(name)) is not None:
                    return part
                irregular = irregular or name in archive.irregular
            for folder in reversed(self._folders):
                if os.path.isfile(folder / name):
                    return folder / name
                irregular = irregular or os.path.lexists(folder / name)
        raise BadRecord(f"image is a {NOT_REGULAR}" if irregular else "missing image file")


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES)


class FileLines(Sequence[bytes]):
    """The lines of a file, split at line feeds only. They stay one block of memory, with 8 bytes for each line."""

    def __init__(self, content: bytes) -> None:
        self._content = content.removesuffix(b"\n")
        self._ends = np.append(np.flatnonzero(np.frombuffer(self._content, np.uint8) == ord("\n")), len(self._content))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, number: int) -> bytes: ...

    @overload
    def __getitem__(self, number: slice) -> list[bytes]: ...

    def __getitem__(self, number: int | slice) -> bytes | list[bytes]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        start = int(self._ends[number - 1]) + 1 if number else 0
        return self._content[start : int(self._ends[number])]


class Format(NamedTuple):
    """An import format. Formats are detected in the order of `data.importers.formats.FORMATS`.

    Attributes:
      name: its name for --format.
      help: its description on the command line.
      looks_like: the files that identify it, for error messages.
      detect: returns whether a source has this format.
      read: takes the source and the file of the vocabulary, if any; yields the records in the source's own splits.
      splits: returns the names of the source's own splits; names that are not in SPLIT_NAMES are ignored.
      raw: whether images are full pages and formulas are not tokenised.
    """

    name: str
    help: str
    looks_like: str
    detect: Callable[[Files], bool]
    read: Callable[[Files, Path | None], Iterator[Candidate]]
    splits: Callable[[Files], set[str]]
    raw: bool = False


def read_lists(files: Files, formulas: str, lists: str, name_first: bool, suffix: str) -> Iterator[Candidate]:
    """Yields the examples of the split lists, with their images and formulas.

    Args:
      files: the source.
      formulas: glob pattern of the file with one formula per line.
      lists: glob pattern of the split lists.
      name_first: whether rows are `<image> <formula line>` instead of `<formula line> <image>`.
      suffix: appended to image names if they come second.

    Raises:
      UserError: the source lacks one of the files.
    """
    formula_files, list_files = files.matching(formulas), files.matching(lists)
    list_files = [name for name in list_files if name not in formula_files]
    if len(formula_files) != 1 or not list_files:
        raise UserError(f"{files.source} lacks {formulas} or {lists}; complete the download, or check --format")
    lines = FileLines(files.read(formula_files[0]))
    files.open_images()
    for list_file in list_files:
        kind = Path(list_file).stem.removeprefix("im2latex_").removesuffix("_filter")
        if kind not in SPLIT_NAMES:
            continue
        split = SPLIT_NAMES[kind]
        for number, row in enumerate(FileLines(files.read(list_file)), start=1):
            where = f"{list_file}:{number}"
            fields = row.decode("utf-8", "replace").split()
            if not fields:
                continue
            if len(fields) < 2:
                yield Candidate(split, where, b"", b"", "line without image and formula line")
                continue
            image, line = (fields[0], fields[1]) if name_first else (fields[1] + suffix, fields[0])
            try:
                if not image.isprintable():
                    raise BadRecord("control character in the name of the image")
                if line_number(line) >= len(lines):
                    raise BadRecord("formula line out of range")
                yield Candidate(split, image, files.image(image), lines[line_number(line)])
            except BadRecord as error:
                yield Candidate(split, image if image.isprintable() else where, b"", b"", error.reason)


def line_number(text: str) -> int:
    """Returns the number of a line as a list gives it, from 0; a number that no list reaches for other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 1 << 30
