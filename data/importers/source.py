"""Shared parts of the importers: the description of a format, the files of a source, and candidate records."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from data.dataset.tfrecords import MAX_RECORD_BYTES
from im2latex.errors import UserError

SPLIT_NAMES = {"train": "train", "validate": "eval", "val": "eval", "eval": "eval", "test": "test"}


class Candidate(NamedTuple):
    """A record of the source, not yet checked.

    Attributes:
      split: train, eval or test.
      name: name of the record.
      image: the image file, as bytes or as a path.
      formula: the formula, encoded.
      problem: why the record is unusable, if the importer has found out already.
    """

    split: str
    name: str
    image: bytes | Path
    formula: bytes
    problem: str = ""


class Files:
    """The files of a source, a folder or a .tar archive, by name. Archives within the folder are read on demand.

    Raises:
      UserError: the source does not exist or is not a readable archive.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        if source.is_dir():
            self.files: dict[str, bytes | Path] = {path.name: path for path in sorted(source.iterdir())}
        elif source.is_file():
            self.files = _read_tar(source)
        else:
            raise UserError(f"{source} does not exist; give the folder or the .tar.gz of the data")

    def matching(self, pattern: str) -> list[str]:
        return sorted(name for name in self.files if Path(name).match(pattern))

    def read(self, name: str) -> bytes:
        content = self.files[name]
        try:
            return content if isinstance(content, bytes) else content.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {name} in {self.source}: {error.strerror}; check its permissions") from error

    def images(self) -> dict[str, bytes | Path]:
        """Returns images by file name, also those in folders and archives with "image" in their names.

        Raises:
          UserError: there are no images.
        """
        images = {name: content for name, content in self.files.items() if name.lower().endswith(IMAGES)}
        for name, content in self.files.items():
            if not isinstance(content, Path) or "image" not in name:
                continue
            if content.is_dir():
                images |= {path.name: path for path in content.iterdir() if path.name.lower().endswith(IMAGES)}
            elif ".tar" in name or name.endswith(".tgz"):
                images |= {name: image for name, image in _read_tar(content).items() if name.lower().endswith(IMAGES)}
        if not images:
            raise UserError(f"{self.source} holds no images; put the image folder or its .tar.gz there")
        return images


IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def _read_tar(path: Path) -> dict[str, bytes | Path]:
    """Reads the regular files of an archive into memory, by base name, so that no member can choose a path to write."""
    files: dict[str, bytes | Path] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                if member.size > MAX_RECORD_BYTES:
                    message = f"{Path(member.name).name} of {member.size:,} bytes, more than {MAX_RECORD_BYTES:,}"
                    raise UserError(f"{path} holds {message}; leave it out")
                files[Path(member.name).name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a readable .tar archive ({error}); download it again") from error
    return files


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
    lines = files.read(formula_files[0]).removesuffix(b"\n").split(b"\n")
    images = files.images()
    for list_file in list_files:
        kind = Path(list_file).stem.removeprefix("im2latex_").removesuffix("_filter")
        if kind not in SPLIT_NAMES:
            continue
        split = SPLIT_NAMES[kind]
        for number, row in enumerate(files.read(list_file).decode("utf-8", "replace").splitlines()):
            where = f"{list_file}:{number + 1}"
            fields = row.split()
            if not fields:
                continue
            if len(fields) < 2:
                yield Candidate(split, where, b"", b"", "line without image and formula line")
                continue
            image, line = (fields[0], fields[1]) if name_first else (fields[1] + suffix, fields[0])
            if not line.isdecimal() or int(line) >= len(lines):
                yield Candidate(split, image, b"", b"", "formula line out of range")
            elif image not in images:
                yield Candidate(split, image, b"", b"", "missing image file")
            else:
                yield Candidate(split, image, images[image], lines[int(line)])
