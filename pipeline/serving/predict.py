"""`im2latex predict`: the LaTeX of pictures, on the command line."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from components.evaluator.reading import Beam, Hypothesis, ImageReader, of_like_size
from data.errors import UserError
from pipeline.serving.answer import BLANK, describe, status
from pipeline.serving.pictures import Picture, prepare

STANDARD_INPUT = "-"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Images that are held at once: enough to make batches of like size from.
HELD = 1024


class Source(NamedTuple):
    """Where an image comes from."""

    name: str
    path: Path | None  # None is standard input


def predict_images(images: Sequence[str], model: Path, alternatives: int | None, as_typed: bool, as_json: bool) -> int:
    """Reads images and prints a line for each: its LaTeX, behind its name where there are several, or JSON.

    What cannot be read is one sentence on stderr, and the others are read. A blank picture is one too, and an empty
    line.

    Args:
        images: files, folders of them, or - for standard input.
        model: folder of a SavedModel.
        alternatives: hypotheses of each, by beam search; None reads the likeliest token at each step.
        as_typed: LaTeX as a person would type it.
        as_json: a JSON object on each line.

    Returns:
        0, or 1 if an image could not be read.

    Raises:
        UserError: the model cannot be used, or it cannot search a beam.
    """
    failed = False
    sources: list[Source] = []
    for image in images:
        try:
            sources += find(image)
        except UserError as error:
            failed = _complain(error)
    if not sources:
        return 1
    reader = ImageReader(model)
    if alternatives and not reader.has_alternatives:
        raise UserError(
            f"{model} has no signature predict_alternatives; leave out --alternatives, or train a new model"
        )
    beam = Beam(alternatives) if alternatives else None
    for held in _chunks(sources):
        for source, answer in zip(held, read(reader, held, beam), strict=True):
            if isinstance(answer, UserError):
                failed = _complain(answer, source.name)
                continue
            found, came = describe(answer, as_typed), status(answer)
            if came == BLANK and not as_json:
                _say("the picture is blank", source.name)
            _print(source.name, came, found, bool(beam), named=len(sources) > 1, as_json=as_json)
    return int(failed)


def find(image: str) -> list[Source]:
    """The images that an argument names: a file, all in a folder and below it, or standard input.

    Raises:
        UserError: there is none.
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


def read(reader: ImageReader, sources: Sequence[Source], beam: Beam | None) -> list[list[Hypothesis] | UserError]:
    """Reads images in batches of like size; what cannot be read has the reason in its place."""
    answers: dict[int, list[Hypothesis] | UserError] = {}
    pictures: dict[int, Picture] = {}
    for i, source in enumerate(sources):
        try:
            pictures[i] = prepare(_content(source))
        except UserError as error:
            answers[i] = error
    places = list(pictures)
    for chosen in of_like_size([(pictures[i].width, pictures[i].height) for i in places]):
        batch = [places[place] for place in chosen]
        answers |= zip(batch, reader.read_each([pictures[i].encoded for i in batch], beam), strict=True)
    return [answers[i] for i in range(len(sources))]


def _content(source: Source) -> bytes:
    try:
        return sys.stdin.buffer.read() if source.path is None else source.path.read_bytes()
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})") from None


def _chunks(sources: Sequence[Source]) -> Iterator[list[Source]]:
    for start in range(0, len(sources), HELD):
        yield list(itertools.islice(sources, start, start + HELD))


def _print(name: str, status: str, found: Sequence[dict[str, Any]], several: bool, named: bool, as_json: bool) -> None:
    if as_json:
        line = {"path": name, "status": status, **found[0]} | ({"alternatives": found} if several else {})
        typer.echo(json.dumps(line, ensure_ascii=False))
        return
    for one in found:
        columns = [name] if named else []
        columns += [f"{one['probability']:.3f}"] if several else []
        typer.echo("\t".join([*columns, one["latex"]]))


def _complain(error: UserError, name: str = "") -> bool:
    _say(str(error), name)
    return True


def _say(sentence: str, name: str) -> None:
    typer.echo(f"im2latex: {name + ': ' if name else ''}{sentence}", err=True)
