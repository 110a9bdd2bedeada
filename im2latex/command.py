"""The command `im2latex predict`: prints the LaTeX of images."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from im2latex.answer import BLANK, describe, status
from im2latex.errors import ImageError, UserError
from im2latex.reading import Beam, Hypothesis

STANDARD_INPUT = "-"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Number of images in memory at once, enough to form batches of similar size.
HELD = 1024


class ReadsImages(Protocol):
    """A model that reads encoded images, such as `im2latex.Reader`."""

    def read_each(self, images: Sequence[bytes], beam: Beam | None = None) -> list[list[Hypothesis] | ImageError]: ...


class Source(NamedTuple):
    """The source of an image."""

    name: str
    path: Path | None  # None means standard input


def predict_images(
    images: Sequence[str], reader: ReadsImages, alternatives: int | None, as_typed: bool, as_json: bool
) -> int:
    """Reads images and prints a line for each: its LaTeX, after its name if there are several images, or JSON.

    An image that cannot be read gives a message on stderr, and the command continues with the others. A blank image
    gives a message on stderr and an empty line.

    Args:
        images: files, folders, or - for standard input.
        reader: the model.
        alternatives: number of hypotheses per image, by beam search; None prints the best one of the model's search.
        as_typed: print LaTeX as a person would type it.
        as_json: print a JSON object per line.

    Returns:
        The exit status: 0, or 1 if an image could not be read.
    """
    failed = False
    sources: list[Source] = []
    for image in images:
        try:
            sources += find(image)
        except UserError as error:
            failed = _complain(error)
    beam = Beam(alternatives) if alternatives else None
    for start in range(0, len(sources), HELD):
        held = sources[start : start + HELD]
        for source, answer in zip(held, _read(reader, held, beam), strict=True):
            if isinstance(answer, UserError):
                failed = _complain(answer, source.name)
                continue
            found, came = describe(answer, as_typed), status(answer)
            if came == BLANK and not as_json:
                say("the picture is blank", source.name)
            _print(source.name, came, found, bool(beam), named=len(sources) > 1, as_json=as_json)
    return int(failed)


def find(image: str) -> list[Source]:
    """Returns the images that an argument names: a file, all images in a folder and its subfolders, or standard input.

    Raises:
        UserError: the folder contains no images.
    """
    if image == STANDARD_INPUT:
        return [Source(STANDARD_INPUT, None)]
    path = Path(image)
    if not path.is_dir():
        return [Source(image, path)]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise UserError(f"{image}: the folder has no images, files such as {', '.join(SUFFIXES[:3])}")
    return [Source(str(file), file) for file in found]


def _read(reader: ReadsImages, sources: Sequence[Source], beam: Beam | None) -> list[list[Hypothesis] | UserError]:
    """Reads images; returns for each its hypotheses, or the error."""
    answers: dict[int, list[Hypothesis] | UserError] = {}
    contents: dict[int, bytes] = {}
    for i, source in enumerate(sources):
        try:
            contents[i] = _content(source)
        except UserError as error:
            answers[i] = error
    answers |= zip(contents, reader.read_each(list(contents.values()), beam), strict=True)
    return [answers[i] for i in range(len(sources))]


def _content(source: Source) -> bytes:
    try:
        return sys.stdin.buffer.read() if source.path is None else source.path.read_bytes()
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})") from None


def _print(name: str, status: str, found: Sequence[dict[str, Any]], several: bool, named: bool, as_json: bool) -> None:
    if as_json:
        line = {"path": name, "status": status, **found[0]} | ({"alternatives": found} if several else {})
        print(json.dumps(line, ensure_ascii=False))
        return
    for one in found:
        columns = [name] if named else []
        columns += [f"{one['probability']:.3f}"] if several else []
        print("\t".join([*columns, one["latex"]]))


def _complain(error: UserError, name: str = "") -> bool:
    say(str(error), name)
    return True


def say(sentence: str, name: str = "") -> None:
    """Prints a message on stderr, with the name of the image if given."""
    print(f"im2latex: {name + ': ' if name else ''}{sentence}", file=sys.stderr)
