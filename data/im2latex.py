"""Importers: the processed and the raw im2latex-100k, the TFRecords of Image2Latex-TF2, and data sets of records.

processed   im2latex_formulas.norm.lst, im2latex_{train,validate,test}_filter.lst with lines `<image> <formula line>`,
            images in a folder or a .tar.gz: taken as they are.
raw         formulas.lst, {train,validate,test}.lst (in the download with im2latex_ before) with lines
            `<formula line> <image> <rendering>`, full pages in a folder or a .tar.gz: pages are cropped to the ink,
            bordered and halved as im2markup does, formulas tokenised.
tfrecords   {train,val,test}_100K_00of20.tfrecord, with latex_vocab.txt.
records     train/, eval/ and test/ with TFRecords as in `data.records`: what cannot be used is left out.

Formula lines count from 0 and end with a line feed and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageChops

from data.errors import UserError
from data.parallel import ordered_map
from data.records import (
    EVAL_SHARE,
    MAX_RECORD_BYTES,
    MAX_REJECTED_SHARE,
    MAX_TOKENS,
    SPLITS,
    TEST_SHARE,
    BadRecord,
    DatasetWriter,
    Example,
    Record,
    Summary,
    decode,
    encode,
    read_tfrecords,
    shards,
)
from data.spelling import NORMAL, known_spelling, respell
from im2latex.tokenizer import FormulaError, tokenize

FORMATS = ("processed", "raw", "tfrecords", "records")
BORDER = 8
_CHUNK = 128
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
                    told = f"{Path(member.name).name} of {member.size:,} bytes, more than {MAX_RECORD_BYTES:,}"
                    raise UserError(f"{path} holds {told}; leave it out")
                files[Path(member.name).name] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a readable .tar archive ({error}); download it again") from error
    return files


def detect_format(source: Path, files: Files) -> str:
    """Which of FORMATS a source has, by the names of its files."""
    if files.matching("*_filter.lst"):
        return "processed"
    if files.matching("*formulas.lst"):
        return "raw"
    if files.matching("*.tfrecord"):
        return "tfrecords"
    if any((source / split).is_dir() for split in SPLITS):
        return "records"
    raise UserError(
        f"{source} has none of the known layouts (im2latex_*_filter.lst, formulas.lst, *.tfrecord, train/); "
        "check the folder, or name the layout with --format"
    )


def _listed(files: Files, formulas: str, lists: str, name_first: bool, suffix: str) -> Iterator[Candidate]:
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


def _from_tfrecords(files: Files, vocabulary: Path | None) -> Iterator[Candidate]:
    """Image2Latex-TF2's records: ids back to tokens by the vocabulary's line numbers, which count from 1."""
    if vocabulary is not None:
        try:
            text = vocabulary.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the vocabulary {vocabulary}: {error.strerror}") from error
    elif "latex_vocab.txt" in files.files:
        text = files.read("latex_vocab.txt")
    else:
        raise UserError(f"{files.source} has no latex_vocab.txt; name the vocabulary with --vocabulary FILE")
    tokens = [line.rstrip("\r") for line in text.decode("utf-8", "replace").removesuffix("\n").split("\n")]
    for file in files.matching("*.tfrecord"):
        split = SPLIT_NAMES.get(file.split("_")[0])
        path = files.files[file]
        if split is None or not isinstance(path, Path):
            raise UserError(f"{file} is not a file named train_*, val_* or test_* in a folder; rename or unpack it")
        for number, content in enumerate(read_tfrecords(path)):
            name = f"{file}:{number}"
            try:
                image, formula = _decode_ids(content, tokens)
            except BadRecord as error:
                yield Candidate(split, name, b"", b"", error.reason)
            else:
                yield Candidate(split, name, image, formula.encode())


def _from_records(source: Path) -> Iterator[Candidate]:
    """The records of a data set; one that does not follow the schema is called by its file and number."""
    for split in SPLITS:
        for file in _shards_of(source, split):
            for number, content in enumerate(read_tfrecords(file)):
                try:
                    record = decode(content)
                except BadRecord as error:
                    yield Candidate(split, f"{file.name}:{number}", b"", b"", error.reason)
                else:
                    yield Candidate(split, record.name, record.image, record.latex.encode())


def _shards_of(source: Path, split: str) -> list[Path]:
    return shards(source / split) if (source / split).is_dir() else []


def _decode_ids(content: bytes, tokens: list[str]) -> tuple[bytes, str]:
    """Image and formula of a record. Start and end differ between files, so each record says them itself."""
    example = Example()
    try:
        example.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError is another class in each of its implementations
        raise BadRecord("not a tf.train.Example") from error
    features = example.features.feature
    if any(key not in features for key in ("image", "latex_seq_in", "latex_seq_out")):
        raise BadRecord("image, latex_seq_in or latex_seq_out is missing")
    image = features["image"].bytes_list.value
    sequences = [
        list(itertools.dropwhile(lambda token: token == 0, reversed(features[key].int64_list.value)))[::-1]
        for key in ("latex_seq_in", "latex_seq_out")
    ]
    given, wanted = sequences
    if len(image) != 1 or not given or not wanted or given[1:] != wanted[:-1]:
        raise BadRecord("latex_seq_in and latex_seq_out do not fit together")
    start, end = given[0], wanted[-1]
    if end != start + 1 or start <= len(tokens):
        raise BadRecord("start and end are not ids after the vocabulary")
    ids = given[1:]
    if start - 1 in ids:
        raise BadRecord("a token outside the vocabulary")
    if any(not 1 <= i <= len(tokens) for i in ids):
        raise BadRecord("an id out of range")
    return image[0], " ".join(tokens[i - 1] for i in ids)


def crop_page(page: Image.Image, border: int = BORDER) -> Image.Image:
    """A full page as im2markup prepares it: cropped to the ink, bordered, halved with Lanczos.

    im2markup then places it in one of 21 sizes; batches are cut by size here, so it stays as it is.

    Args:
      page: any mode, black on white; transparency counts as white.
      border: white pixels around the ink, before halving.

    Raises:
      BadRecord: there is no ink.
    """
    grey = _grey(page)
    box = ImageChops.invert(grey).getbbox()
    if box is None:
        raise BadRecord("blank image")
    left, top, right, bottom = box
    bordered = Image.new("L", (right - left + 2 * border, bottom - top + 2 * border), 255)
    bordered.paste(grey.crop(box), (border, border))
    return bordered.resize((max(1, bordered.width // 2), max(1, bordered.height // 2)), Image.Resampling.LANCZOS)


def _grey(image: Image.Image) -> Image.Image:
    """The image in 8-bit grey, what is transparent on white."""
    if image.mode == "P":  # full pages are: 256 colours are faster to convert than four million pixels
        colours = Image.frombytes("P", (256, 1), bytes(range(256)))
        colours.putpalette(image.getpalette() or [])
        colours.info = dict(image.info)
        return Image.frombytes("L", image.size, image.tobytes()).point(_grey(colours.convert("RGBA")).tobytes())
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L")


def convert(candidate: Candidate, raw: bool, max_tokens: int, spelling: str) -> bytes:
    """The encoded record of a candidate.

    Args:
      candidate: what the source has.
      raw: whether its image is a full page and its formula not tokenised.
      max_tokens: of the formula, in its spelling.
      spelling: of the formula, as `data.spelling.respell` takes it.

    Raises:
      BadRecord: with the reason it is set aside for.
    """
    if candidate.problem:
        raise BadRecord(candidate.problem)
    try:
        formula = candidate.formula.decode()
    except UnicodeDecodeError as error:
        raise BadRecord("bad UTF-8") from error
    try:
        # Percent signs before a formula were taken off when the pages were rendered; later ones began a comment.
        tokens = tokenize(formula.lstrip("% ")) if raw else formula.split()
        tokens = respell(" ".join(tokens), spelling).split()
    except FormulaError as error:
        raise BadRecord(f"unreadable formula: {error}") from error
    if not tokens:
        raise BadRecord("empty formula")
    if len(tokens) > max_tokens:
        raise BadRecord(f"formula of more than {max_tokens} tokens")
    try:
        content = candidate.image if isinstance(candidate.image, bytes) else candidate.image.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if raw:
                buffer = io.BytesIO()
                crop_page(image).save(buffer, "PNG", optimize=True)
                content = buffer.getvalue()
            elif image.format not in ("PNG", "JPEG"):
                buffer = io.BytesIO()
                _grey(image).save(buffer, "PNG")
                content = buffer.getvalue()
    except BadRecord:
        raise
    # Pillow's decoders raise many classes, SyntaxError and struct.error among them, for broken images.
    except Exception as error:
        raise BadRecord("undecodable image") from error
    return encode(Record(content, " ".join(tokens), candidate.name))


def _convert_chunk(
    chunk: list[Candidate], raw: bool, max_tokens: int, spelling: str
) -> list[tuple[str, str, bytes | str]]:
    """For each candidate its split, its name, and the encoded record or the reason it is bad."""
    results: list[tuple[str, str, bytes | str]] = []
    for candidate in chunk:
        outcome: bytes | str
        try:
            outcome = convert(candidate, raw, max_tokens, spelling)
        except BadRecord as error:
            outcome = error.reason
        results.append((candidate.split, candidate.name, outcome))
    return results


def _fraction(name: str, salt: str) -> float:
    """A number in [0, 1) that depends on a name only."""
    return int.from_bytes(hashlib.sha256(f"{salt} {name}".encode()).digest()[:6], "big") / 2**48


def hold_out(
    candidates: Iterable[Candidate], present: set[str], eval_share: float, test_share: float
) -> Iterator[Candidate]:
    """Fills splits the source has no list for: eval from train, then test from eval, chosen by the record's name."""
    for candidate in candidates:
        split = candidate.split
        if "eval" not in present and split == "train" and _fraction(candidate.name, "eval") < eval_share:
            split = "eval"
        if "test" not in present and split == "eval" and _fraction(candidate.name, "test") < test_share:
            split = "test"
        yield candidate._replace(split=split)


def open_source(
    source: Path, layout: str | None = None, vocabulary: Path | None = None
) -> tuple[str, Iterator[Candidate], set[str]]:
    """Finds out what a source holds.

    Args:
      source, layout, vocabulary: as those of `import_dataset`.

    Returns:
      The layout, its records in the splits of the source's own lists, and the splits there are lists for.

    Raises:
      UserError: the source is incomplete or of no known layout; some of it only as the records are read.
    """
    files = Files(source)
    layout = layout or detect_format(source, files)
    if layout == "processed":
        candidates = _listed(files, "*formulas.norm.lst", "*_filter.lst", name_first=True, suffix="")
        present = {
            name.removeprefix("im2latex_").removesuffix("_filter.lst") for name in files.matching("*_filter.lst")
        }
    elif layout == "raw":
        candidates = _listed(files, "*formulas.lst", "*.lst", name_first=False, suffix=".png")
        present = {Path(name).stem.removeprefix("im2latex_") for name in files.matching("*.lst")}
    elif layout == "tfrecords":
        candidates = _from_tfrecords(files, vocabulary)
        present = {name.split("_")[0] for name in files.matching("*.tfrecord")}
    elif layout == "records":
        candidates = _from_records(source)
        contents = {split: map(read_tfrecords, _shards_of(source, split)) for split in SPLITS}
        present = {split for split in SPLITS if next(itertools.chain.from_iterable(contents[split]), None) is not None}
    else:
        raise UserError(f"there is no layout {layout}; --format is one of {', '.join(FORMATS)}")
    return layout, candidates, {SPLIT_NAMES[name] for name in present if name in SPLIT_NAMES}


def import_dataset(
    source: Path | str,
    out: Path | str,
    layout: str | None = None,
    vocabulary: Path | None = None,
    max_tokens: int = MAX_TOKENS,
    eval_share: float = EVAL_SHARE,
    test_share: float = TEST_SHARE,
    allow_rejects: float = MAX_REJECTED_SHARE,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
    spelling: str = NORMAL,
) -> Summary:
    """Imports a data set.

    Args:
      source: a folder or .tar.gz in one of the layouts.
      out: the folder to make.
      layout: one of FORMATS; otherwise detected.
      vocabulary: file of tokens, for layout tfrecords; otherwise latex_vocab.txt in the source.
      max_tokens: longer formulas are rejected.
      eval_share: the share of train that becomes eval where the source has no validation list.
      test_share: the share of eval that becomes test where the source has no test list.
      allow_rejects: the share of rejected records above which the whole is refused.
      workers: processes; otherwise one for each core.
      progress: called with the number of records handled since the last call.
      overwrite: replace a folder that is not a data set too.
      spelling: of the formulas, as `data.spelling.respell` takes it.

    Raises:
      UserError: the source is incomplete or of no known layout, there is no such spelling, too much is bad, or out
        cannot be made.
    """
    source = Path(source)
    layout, candidates, splits = open_source(source, layout, vocabulary)
    held_out = {
        split: f"{share:.0%} of {origin}"
        for split, share, origin in (("eval", eval_share, "train"), ("test", test_share, "eval"))
        if split not in splits
    }
    details = {"layout": layout, "max_tokens": max_tokens, "held_out": held_out, "spelling": spelling}
    convert_all = functools.partial(
        _convert_chunk, raw=layout == "raw", max_tokens=max_tokens, spelling=known_spelling(spelling)
    )
    chunks = chunked(hold_out(candidates, splits, eval_share, test_share))
    with DatasetWriter(out, source.name, details, allow_rejects, overwrite) as writer:
        for converted in ordered_map(convert_all, chunks, workers):
            for split, name, outcome in converted:
                if isinstance(outcome, bytes):
                    writer.write_encoded(split, outcome)
                else:
                    writer.reject(split, name, outcome)
            if progress is not None:
                progress(len(converted))
    assert writer.summary is not None
    return writer.summary


def chunked(candidates: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    iterator = iter(candidates)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk
