"""What the importers share: the format that each describes, the source that it reads, the candidates that it gives."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from data.dataset.tfrecords import MAX_RECORD_BYTES
from im2latex.errors import UserError

SPLIT_NAMES = {"train": "train", "validate": "eval", "val": "eval", "eval": "eval", "test": "test"}


class Candidate(NamedTuple):
    """A record before it is checked: an image's bytes or file, the formula's bytes, or a problem already seen."""

    split: str
    name: str
    image: bytes | Path
    formula: bytes
    problem: str = ""


class Files:
    """The files of a source, a folder or a .tar archive, by name; archives in the folder are read as they are asked."""

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
        """Images by file name, from the folders and archives whose names speak of images."""
        found = {name: content for name, content in self.files.items() if name.lower().endswith(_IMAGES)}
        for name, content in self.files.items():
            if not isinstance(content, Path) or "image" not in name:
                continue
            if content.is_dir():
                found |= {path.name: path for path in content.iterdir() if path.name.lower().endswith(_IMAGES)}
            elif ".tar" in name or name.endswith(".tgz"):
                found |= {name: image for name, image in _read_tar(content).items() if name.lower().endswith(_IMAGES)}
        if not found:
            raise UserError(f"{self.source} holds no images; put the image folder or its .tar.gz there")
        return found


_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


def _read_tar(path: Path) -> dict[str, bytes | Path]:
    """The regular files of an archive by base name, in memory: nothing in it can choose where it is written."""
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
    """A format of data sets. Formats are tried in the order of `data.importers.formats.FORMATS`."""

    name: str
    help: str  # what it is, for the command line
    looks_like: str  # the files by which it is known, for a person
    detect: Callable[[Files], bool]
    # Takes the file of a vocabulary, too, or None; gives the records, in the splits of the source's own lists.
    read: Callable[[Files, Path | None], Iterator[Candidate]]
    splits: Callable[[Files], set[str]]  # the splits that the source has lists for; other names are ignored
    raw: bool = False  # images are full pages, and formulas are not tokenised


def read_lists(files: Files, formulas: str, lists: str, name_first: bool, suffix: str) -> Iterator[Candidate]:
    """The rows of the split lists, with their images and formulas."""
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
