"""Fits the network of `glyph_size` to formulas drawn at known sizes, and prints its error.

    python -m trainer_module.fit_glyph_size DATA... [--out FILE]

DATA are data sets that `im2latex data draw` made: the names of their records tell the size of the text and the
resolution. Without --out the network that is there is measured.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.dataset.record import Record
from data.dataset.tfrecords import read_records
from data.parallel import ordered_map
from data.pictures.looks import look_of
from im2latex.errors import UserError
from im2latex.glyph_size import Estimator, estimator, measures, predict, relative
from im2latex.images import ink_of

UNITS = 48
# One of this many formulas is held out to measure the error.
HELD_OUT = 6
CHUNK = 64


class Sample(NamedTuple):
    """A training sample: the network's input for an image, and the true glyph size.

    Attributes:
        inputs: the network's input, see `relative`, float32, (3 * PYRAMID_LEVELS,).
        stroke: logarithm of the stroke width in pixels.
        em: logarithm of the glyph size in pixels.
        kind: the font, or `katex`.
        held_out: whether the sample is used to measure the error instead of training.
    """

    inputs: np.ndarray
    stroke: float
    em: float
    kind: str
    held_out: bool


def samples(record: Record) -> Sample | None:
    """Makes the sample of a record; None if its name contains no look or its image is blank."""
    look = look_of(record.name)
    sums, area = measures(ink_of(record.image))
    if look is None or area < 1:
        return None
    inputs, stroke = relative(sums, area)
    held_out = zlib.crc32(record.latex.encode()) % HELD_OUT == 0
    return Sample(inputs, float(stroke), math.log(look.em), look.font, held_out)


def _samples(chunk: Sequence[Record]) -> list[Sample]:
    return [sample for record in chunk if (sample := samples(record)) is not None]


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def fit(training: Sequence[Sample], epochs: int = 20) -> Estimator:
    """Trains a network to minimise the absolute error on samples."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = np.stack([sample.inputs for sample in training])
    targets = np.array([sample.em - sample.stroke for sample in training], np.float32)
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + np.float32(1e-3)
    hidden = [keras.layers.Dense(UNITS, activation="relu") for _ in range(2)]
    model = keras.Sequential([*hidden, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), loss="mean_absolute_error")
    for rate in (3e-3, 1e-3, 3e-4, 1e-4):
        model.optimizer.learning_rate = rate
        model.fit((inputs - mean) / deviation, targets, batch_size=256, epochs=epochs, verbose=0)
    kernel, bias, second, second_bias, output, output_bias = model.get_weights()
    return Estimator(mean, deviation, kernel, bias, second, second_bias, output[:, 0], output_bias[0])


def errors(network: Estimator, measured: Sequence[Sample]) -> np.ndarray:
    """Returns the logarithm of estimated size / true size for each sample, float64, (samples,)."""
    return np.array([predict(network, sample.inputs, sample.stroke) - sample.em for sample in measured], np.float64)


def _row(name: str, deviations: np.ndarray) -> str:
    within = (np.abs(deviations) < math.log(1.2)).mean()
    bias, spread = np.median(deviations), np.percentile(np.abs(deviations - np.median(deviations)), 68)
    return f"{name:<14}{len(deviations):>7,}{bias:>+9.1%}{spread:>9.1%}{within:>9.1%}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer_module.fit_glyph_size", description=__doc__)
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help="data sets made by `im2latex data draw`")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a network fitted to them, as .npz")
    parser.add_argument("--examples", type=int, default=40_000, metavar="N", help="pictures of each data set at most")
    arguments = parser.parse_args(argv)
    try:
        measured: list[Sample] = []
        for folder in arguments.data:
            records = itertools.islice(read_records(folder / "train"), arguments.examples)
            measured += itertools.chain.from_iterable(ordered_map(_samples, _chunks(records)))
        if not measured:
            raise UserError(f"no record of {arguments.data[0]} has a name of `im2latex data draw`; draw formulas first")
    except UserError as error:
        print(f"im2latex: {error}", file=sys.stderr)
        return 1
    held_out = [sample for sample in measured if sample.held_out]
    network = estimator()
    if arguments.out is not None:
        network = fit([sample for sample in measured if not sample.held_out])
        np.savez(arguments.out, **network._asdict())
    deviations = errors(network, held_out)
    print(f"{'font':<14}{'images':>7}{'bias':>9}{'error':>9}{'< 20 %':>9}")
    print(_row("all", deviations))
    for kind in sorted({sample.kind for sample in held_out}):
        print(_row(kind, deviations[[sample.kind == kind for sample in held_out]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
