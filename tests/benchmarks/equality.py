"""Benchmark that compares the results of ONNX Runtime and of TensorFlow's SavedModel on real pictures."""

from __future__ import annotations

import io
import itertools
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

import im2latex
from components.evaluator.reading import ImageReader
from data.pictures.synthetic import draw_png, formulas
from im2latex.reading import READ_AT_ONCE, Beam
from pipeline.models.export import save_model
from tests.benchmarks import sample
from tests.benchmarks.measuring import FULL, Figure, Size
from trainer_module import reader

PICTURES = 1_000
# Greedy decoding, and the search settings of the model.
BEAMS = {"greedy": Beam(1, 0.0), "own search": Beam(1)}


def equality(size: Size = FULL) -> dict[str, Figure]:
    """Counts equal formulas of the reader, and measures the largest difference of their log-probabilities."""
    # Sorted by size, so that a batch has little padding.
    images = sorted(pictures(size.of(PICTURES)), key=lambda image: Image.open(io.BytesIO(image)).size)
    figures = {"pictures": Figure(len(images), "images")}
    read = im2latex.Reader()
    with tempfile.TemporaryDirectory() as folder:
        save_model(reader.load(), Path(folder) / "model")
        saved = ImageReader(Path(folder) / "model")
        for name, beam in BEAMS.items():
            same, apart = 0, 0.0
            for start in range(0, len(images), READ_AT_ONCE):
                batch = images[start : start + READ_AT_ONCE]
                for alternatives, (expected, *_) in zip(
                    read.read_each(batch, beam), saved.read(batch, beam), strict=True
                ):
                    assert isinstance(alternatives, list)
                    if alternatives[0].latex == expected.latex:
                        same += 1
                        apart = max(apart, abs(alternatives[0].log_probability - expected.log_probability))
            figures[f"same formulas, {name}"] = Figure(same, "formulas")
            figures[f"log-probabilities apart, {name}"] = Figure(1e6 * apart, "millionths")
    return figures


def pictures(count: int) -> list[bytes]:
    """Returns the first pictures of im2latex-100k; without it, drawn pictures."""
    archive = sample.SAMPLES / "formula_images_processed.tar.gz"
    if not archive.exists():
        print(f"{archive} is missing; using drawn pictures")
        return [draw_png(formula, em=16) for formula in formulas(count, seed=8, level="full")]
    with tarfile.open(archive) as tar:
        files = (tar.extractfile(member) for member in tar if member.isfile())
        return [file.read() for file in itertools.islice(files, count) if file is not None]
