"""The command `im2latex predict`: prints the LaTeX of images."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from im2latex.answer import BLANK, DOUBTFUL, describe, status
from im2latex.errors import ImageError, UserError
from im2latex.reading import Beam, Hypothesis

STANDARD_INPUT = "-"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Maximum size of an image file: twice the largest image that is read, uncompressed and with 16 bits per channel.
MOST_BYTES = 2**28
# Number of images in memory at once, enough to form batches of similar size.
HELD = 1024


class ReadsImages(Protocol):
    """A model that reads encoded images, such as `im2latex.Reader`."""

    def read_each(self, images: Sequence[bytes], beam: Beam | None = None) -> list[list[Hypothesis] | ImageError]: ...


class ImageSource(NamedTuple):
    """The source of an image."""

    name: str
    path: Path | None  # None means standard input


def predict_images(
    images: Sequence[str],
    reader: ReadsImages,
    alternatives: int | None,
    as_typed: bool,
    as_json: bool,
    min_confidence: float = 0.0,
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
        min_confidence: a hypothesis with a lower probability gives a message on stderr instead of a line; with
            `as_json` it is printed with the status `doubtful`.

    Returns:
        The exit status: 0, or 1 if an image could not be read, or only with less confidence.

    Raises:
        UserError: nothing can be written to standard output.
    """
    if sys.stdout is None:
        raise UserError("standard output is closed, so the result cannot be written")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may not fit the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        failed = _predict(images, reader, alternatives, as_typed, as_json, min_confidence)
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python would flush standard output again at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(f"the result cannot be written to standard output ({error.strerror})") from None
    return int(failed)


def _predict(
    images: Sequence[str],
    reader: ReadsImages,
    alternatives: int | None,
    as_typed: bool,
    as_json: bool,
    min_confidence: float,
) -> bool:
    """Returns whether an image could not be read, or only with less confidence."""
    failed = False
    sources: list[ImageSource] = []
    for image in images:
        try:
            files, unreadable = find(image)
        except UserError as error:
            failed = _print_error(error, image)
            continue
        sources += files
        for folder, problem in unreadable:
            failed = _print_error(problem, folder)
    beam = Beam(alternatives) if alternatives else None
    for start in range(0, len(sources), HELD):
        chunk = sources[start : start + HELD]
        for source, answer in zip(chunk, _read(reader, chunk, beam), strict=True):
            if isinstance(answer, UserError):
                failed = _print_error(answer, source.name)
                continue
            described, outcome = describe(answer, as_typed), status(answer, min_confidence)
            if outcome == DOUBTFUL:
                failed = True
                if not as_json:
                    probability = described[0]["probability"]
                    say(f"the result is doubtful: its probability is {probability:.3f}", source.name)
                    continue
            if outcome == BLANK and not as_json:
                say("the picture is blank", source.name)
            _print(source.name, outcome, described, bool(beam), named=len(sources) > 1, as_json=as_json)
    return failed


def find(image: str) -> tuple[list[ImageSource], list[tuple[str, UserError]]]:
    """Returns the images that an argument names: a file, all images in a folder and its subfolders, or standard input.

    Returns:
        The images, and the folders that cannot be read, with the errors.

    Raises:
        UserError: the folder contains no images.
    """
    if image == STANDARD_INPUT:
        return [ImageSource(STANDARD_INPUT, None)], []
    if not os.path.isdir(image):
        return [ImageSource(image, Path(image))], []
    wrong: list[tuple[str, UserError]] = []

    def cannot(error: OSError) -> None:
        wrong.append((str(error.filename), UserError(f"the folder cannot be read ({error.strerror})")))

    files = (Path(folder, name) for folder, _, names in os.walk(image, onerror=cannot) for name in names)
    images = sorted(file for file in files if file.suffix.lower() in SUFFIXES and os.path.isfile(file))
    if not images and not wrong:
        raise UserError(f"the folder has no images ({', '.join(SUFFIXES)})")
    return [ImageSource(str(file), file) for file in images], wrong


def _read(reader: ReadsImages, sources: Sequence[ImageSource], beam: Beam | None) -> list[list[Hypothesis] | UserError]:
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


def _content(source: ImageSource) -> bytes:
    try:
        if source.path is None:
            if sys.stdin is None:
                raise UserError("standard input is closed")
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            if not stat.S_ISREG(source.path.stat().st_mode):  # opening a FIFO would block
                raise UserError("this is a pipe or device, not a file; `im2latex predict -` reads standard input")
            with source.path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror}); check the path") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"the file has more than {MOST_BYTES:,} bytes, which is too large for a picture")
    return content


def _print(
    name: str, status: str, hypotheses: Sequence[dict[str, Any]], several: bool, named: bool, as_json: bool
) -> None:
    if as_json:
        line = {"path": name, "status": status, **hypotheses[0]} | ({"alternatives": hypotheses} if several else {})
        print(json.dumps(line, ensure_ascii=False))
        return
    for one in hypotheses:
        columns = [_escaped(name)] if named else []
        columns += [f"{one['probability']:.3f}"] if several else []
        print("\t".join([*columns, one["latex"]]))


def _print_error(error: UserError, name: str = "") -> bool:
    say(str(error), name)
    return True


def say(sentence: str, name: str = "") -> None:
    """Prints a message on stderr, with the name of the image if given."""
    if sys.stderr is not None:
        print(f"im2latex: {_escaped(name) + ': ' if name else ''}{sentence}", file=sys.stderr)


def _escaped(name: str) -> str:
    """Escapes control characters, which a terminal would interpret or which would look like another line or column."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)
