"""Draws data sets from lists of formulas, in many looks.

First a plan chooses a look (`data.pictures.looks`) for each copy of each formula. Then the images are drawn in chunks
of one font and few resolutions, because a LaTeX document has one font and a call of dvipng one resolution. Finished
chunks are kept in a working folder beside the data set, so that the same command continues after Ctrl-C or a kill. At
the end the records are written in an order that depends on seed and formula only, which mixes looks and sources.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor

from data.dataset.record import SPLITS, Record, encode
from data.dataset.tfrecords import frame, read_tfrecords
from data.dataset.writer import DatasetSummary, DatasetWriter
from data.formulas.lists import Formula, Problem, digest
from data.latex.program import Page, RenderingError, draw_pages, find_programs, is_local, unknown_command
from data.parallel import ordered_map
from data.pictures.degradation import degrade
from data.pictures.looks import FONTS, THEMES, Look, Looks
from data.pictures.screenshots import PageFormula, close_chromium, draw_screenshots, find_chromium
from im2latex.errors import UserError

# Maximum number of images in a chunk.
_CHUNK = 256
# Time limit for one LaTeX document, enough on a busy machine.
_SECONDS = 60.0
# The reader's own limit.
_MAX_PIXELS = 16_000_000
# Maximum difference between the channels of a grey pixel.
_GREY = 16
_TEMPORARY = "temporary"
_NUMBER = struct.Struct("<Q")


class PlannedPicture(NamedTuple):
    """An image to draw: its number in the data set, its formula, the name of its record, and its look."""

    number: int
    tokens: str
    name: str
    look: Look


@dataclass(frozen=True)
class Plan:
    """The plan of a drawn data set.

    Attributes:
      pictures: the images to draw, by number.
      splits: the split of each image.
      rejects: name, split and reason of the formulas that are rejected before drawing.
      duplicates: number of repeated formulas, which are drawn once.
      digest: hash of everything that determines the drawn records.
    """

    pictures: list[PlannedPicture]
    splits: list[str]
    rejects: list[tuple[str, str, str]]
    duplicates: int
    digest: str

    def chunks(self) -> list[list[PlannedPicture]]:
        """Groups images by renderer and font, sorted by resolution, into chunks, and shuffles the chunks."""

        def kind(picture: PlannedPicture) -> tuple[str, str]:
            return picture.look.renderer, picture.look.font

        chunks = []
        in_order = sorted(self.pictures, key=lambda picture: (kind(picture), picture.look.resolution, picture.number))
        for _, group in itertools.groupby(in_order, kind):
            same = list(group)
            chunks += [same[start : start + _CHUNK] for start in range(0, len(same), _CHUNK)]
        random.Random(self.digest).shuffle(chunks)
        return chunks


def make_plan(
    formulas: Iterable[Formula | Problem],
    looks: Looks,
    seed: int,
    copies: int = 1,
    split: str | None = None,
    eval_share: float = 0.0,
    test_share: float = 0.0,
) -> Plan:
    """Plans a drawn data set. Formulas that look the same go to the same split.

    Args:
      formulas: the formulas to draw, and problems, which become rejects.
      looks: how often each look is chosen.
      seed: random seed of the looks.
      copies: number of images per formula.
      split: split for formulas without one; None spreads them by the shares.
      eval_share: share of the formulas without a split for eval and test together.
      test_share: share of these for test.
    """
    kept: dict[str, Formula] = {}
    rejects: list[tuple[str, str, str]] = []
    duplicates = 0
    for formula in formulas:
        if isinstance(formula, Problem):
            rejects.append((formula.where, formula.split or split or "train", formula.reason))
            continue
        earlier = kept.get(formula.tokens)
        duplicates += earlier is not None
        # A formula that occurs in several splits goes to the last of train, eval, test.
        if earlier is None or SPLITS.index(formula.split or "train") > SPLITS.index(earlier.split or "train"):
            kept[formula.tokens] = formula
    held_out = {formula.key for formula in kept.values() if formula.split in ("eval", "test")}
    accepted: list[tuple[str, Formula]] = []
    for formula in kept.values():
        target = formula.split or split or _spread(formula.key, eval_share, test_share)
        name = f"{formula.source}-{digest(formula.tokens)}"
        if formula.split not in ("eval", "test") and formula.key in held_out:
            rejects.append((name, target, "draws the same as a formula of eval or test"))
        elif not is_local(formula.tokens):
            command = unknown_command(formula.tokens) or "unbalanced braces"
            rejects.append((name, target, f"a command that is not drawn: {command}"))
        else:
            accepted.append((target, formula))
    copies_in_order = [
        (hashlib.sha256(f"{seed} {copy} {formula.tokens}".encode()).digest(), target, formula, copy)
        for target, formula in accepted
        for copy in range(copies)
    ]
    copies_in_order.sort(key=lambda entry: entry[0])
    pictures = []
    hasher = hashlib.sha256()
    for number, (_, target, formula, copy) in enumerate(copies_in_order):
        look = looks.choose(seed, formula.tokens, copy)
        name = f"{formula.source}-{digest(formula.tokens)}-{copy};{look}"
        pictures.append(PlannedPicture(number, formula.tokens, name, look))
        hasher.update(f"{target} {name} {formula.tokens}\n".encode())
    return Plan(pictures, [target for _, target, _, _ in copies_in_order], rejects, duplicates, hasher.hexdigest())


def _spread(key: str, eval_share: float, test_share: float) -> str:
    """Returns the split of a formula, by a hash of its `drawn_key`."""
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "train" if fraction >= eval_share else "test" if fraction < eval_share * test_share else "eval"


def draw_dataset(
    out: Path,
    sources: Sequence[Path],
    plan: Plan,
    details: dict[str, object],
    allow_rejects: float,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
) -> DatasetSummary:
    """Draws the images of a plan and writes the data set. The same plan and TeX give the same bytes.

    Args:
      out: the folder to make; the finished chunks are kept in `OUT.drawing` until the end.
      sources: paths of the formulas, for dataset.json.
      plan: the images to draw.
      details: further entries of dataset.json.
      allow_rejects: maximum share of rejected images; with more, nothing is written.
      workers: number of processes; one per core by default.
      progress: called with the number of images done since the last call.
      overwrite: also replace a folder that is not a data set.

    Returns:
      Summary of the written data set.

    Raises:
      UserError: there is nothing to draw, programs are missing, the folder is taken, or too many images were rejected.
    """
    if not plan.pictures:
        raise UserError("none of the formulas can be drawn; check that the lists have one LaTeX formula per line")
    renderers = {picture.look.renderer for picture in plan.pictures}
    if "latex" in renderers:
        find_programs()
    if "katex" in renderers:
        find_chromium()
    writer = DatasetWriter(out, ", ".join(map(str, sources)), details, allow_rejects, overwrite)
    work = out.absolute().with_name(f"{out.absolute().name}.drawing")
    with writer, _working_folder(work, plan):  # refuses a folder that is taken before hours of drawing
        chunks = plan.chunks()
        done = [(work / f"{number:06d}.records").exists() for number in range(len(chunks))]
        if progress is not None:
            progress(sum(len(chunk) for chunk, is_done in zip(chunks, done, strict=True) if is_done))
        remaining = [(number, chunk) for number, chunk in enumerate(chunks) if not done[number]]
        for count in ordered_map(functools.partial(_draw_chunk, work=work), remaining, workers):
            if progress is not None:
                progress(count)
        close_chromium()  # its files are in the working folder
        _collect(work, len(chunks), plan, writer)
    shutil.rmtree(work)
    assert writer.summary is not None
    return writer.summary


@contextlib.contextmanager
def _working_folder(work: Path, plan: Plan) -> Iterator[None]:
    """Locks the folder of finished chunks, which an interrupted command with the same plan left or which is new."""
    plan_file = work / "plan"
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write {work}: {error.strerror}; choose another --out") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another command is writing to {work}; wait for it, or choose another --out") from error
        if plan_file.exists() and plan_file.read_text("utf-8") != plan.digest:
            raise UserError(
                f"{work} contains pictures of a command with other formulas or options; run that command again to "
                "finish it, or remove the folder"
            )
        shutil.rmtree(work / _TEMPORARY, ignore_errors=True)  # left by a killed command
        plan_file.write_text(plan.digest, "utf-8")
        yield
    finally:
        os.close(lock)


def _draw_chunk(numbered: tuple[int, list[PlannedPicture]], work: Path) -> int:
    """Draws a chunk and writes its rejects, then its records, atomically to the working folder.

    Returns:
      The number of images in the chunk.
    """
    chunk, pictures = numbered
    with _temporary_files_in(work / _TEMPORARY):
        drawn = (_by_latex if pictures[0].look.renderer == "latex" else _by_katex)(pictures)
    rejects, frames = [], []
    for picture, image in zip(pictures, drawn, strict=True):
        try:
            if isinstance(image, RenderingError):
                raise image
            example = encode(Record(_png(_degraded(image, picture)), picture.tokens, picture.name))
            frames.append(frame(_NUMBER.pack(picture.number) + example))
        except RenderingError as error:
            rejects.append(json.dumps([picture.number, str(error)]) + "\n")
    try:
        for suffix, content in (("rejects", "".join(rejects).encode()), ("records", b"".join(frames))):
            partial = work / f"{chunk:06d}.partial"
            partial.write_bytes(content)
            partial.rename(work / f"{chunk:06d}.{suffix}")
    except OSError as error:
        raise UserError(f"cannot write {work}: {error.strerror}; free some space and start again") from error
    return len(pictures)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Makes LaTeX and Chromium put temporary files into this folder, where the next command removes leftovers."""
    folder.mkdir(exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _by_latex(pictures: Sequence[PlannedPicture]) -> list[np.ndarray | RenderingError]:
    pages = []
    for picture in pictures:
        look = picture.look
        before = f"\\fontsize{{{look.size:g}}}{{{1.2 * look.size:g}}}\\selectfont " + "\\boldmath " * look.bold
        style = "\\displaystyle" if look.display else ""
        pages.append(Page(picture.tokens, int(look.resolution), style, before))
    return draw_pages(pages, FONTS[pictures[0].look.font].preamble, _SECONDS, whole=True)


def _by_katex(pictures: Sequence[PlannedPicture]) -> list[np.ndarray | RenderingError]:
    drawn: list[np.ndarray | RenderingError] = []
    # The images of a chunk are sorted by resolution.
    for scale, group in itertools.groupby(pictures, lambda picture: picture.look.resolution):
        shown = [
            PageFormula(picture.tokens, picture.look.size, picture.look.display, *THEMES[picture.look.theme])
            for picture in group
        ]
        drawn += draw_screenshots(shown, scale)
    return drawn


def _bordered(image: np.ndarray, look: Look) -> np.ndarray:
    """Adds the look's border in the colour of the background."""
    if image.ndim == 2:
        return np.pad(image, look.border, constant_values=255)
    background = THEMES[look.theme].background
    height, width, _ = image.shape
    whole = np.empty((height + 2 * look.border, width + 2 * look.border, 3), np.uint8)
    whole[:] = ImageColor.getrgb(background)
    whole[look.border : look.border + height, look.border : look.border + width] = image
    return whole


def _degraded(image: np.ndarray, picture: PlannedPicture) -> np.ndarray:
    """Adds the border and the degradations of the picture's look.

    Raises:
      RenderingError: the image has more than _MAX_PIXELS pixels.
    """
    look = picture.look
    image = _grey(_bordered(image, look))
    rng = np.random.default_rng(int(digest(picture.name), 16))
    for kind, strength in look.degradations:
        image = degrade(image, kind, strength, rng, look.em)
    if image.shape[0] * image.shape[1] > _MAX_PIXELS:
        raise RenderingError(f"a picture of more than {_MAX_PIXELS:,} pixels")
    return _grey(image)


def _grey(image: np.ndarray) -> np.ndarray:
    """Converts uint8 (H, W, 3) to (H, W) if the image has no visible colour."""
    if image.ndim == 3 and image.shape[2] == 3 and int(np.ptp(image, axis=2).max()) <= _GREY:
        return np.asarray(Image.fromarray(image).convert("L"))
    return image


def _png(image: np.ndarray) -> bytes:
    """Encodes an image, uint8 (H, W), (H, W, 3) or (H, W, 4), as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _collect(work: Path, chunks: int, plan: Plan, writer: DatasetWriter) -> None:
    """Writes the records of all chunks, in the order of their numbers, and the rejects."""
    for name, split, reason in plan.rejects:
        writer.reject(split, name, reason)
    locations: list[tuple[int, int, int] | None] = [None] * len(plan.pictures)  # chunk, offset, length
    for chunk in range(chunks):
        offset = 0
        for content in read_tfrecords(work / f"{chunk:06d}.records"):
            (number,) = _NUMBER.unpack_from(content)
            locations[number] = chunk, offset + 12 + _NUMBER.size, len(content) - _NUMBER.size
            offset += len(content) + 16  # the frame's bytes
        for line in (work / f"{chunk:06d}.rejects").read_text("utf-8").splitlines():
            number, reason = json.loads(line)
            writer.reject(plan.splits[number], plan.pictures[number].name, reason)
    for split, location in zip(plan.splits, locations, strict=True):
        if location is not None:
            chunk, offset, length = location
            with open(work / f"{chunk:06d}.records", "rb", buffering=0) as file:
                writer.write_encoded(split, os.pread(file.fileno(), length, offset))
