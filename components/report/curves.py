"""Reads the training curves from the TensorBoard logs that Keras writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.dataset.tfrecords import read_tfrecords


class Epoch(NamedTuple):
    """The logged values of one epoch; a value is None if it was not logged."""

    number: int  # from 1
    loss: float | None
    validation_loss: float | None
    perplexity: float | None
    validation_perplexity: float | None
    learning_rate: float | None  # at its end


def read_epochs(logs: Path) -> list[Epoch]:
    """Reads the epochs from a folder of logs, in order; [] if there are no logs.

    Raises:
        UserError: a file is damaged.
    """
    scalars_of = {kind: dict(_scalars(logs / kind)) for kind in ("train", "validation")}

    def value(kind: str, name: str, step: int) -> float | None:
        return scalars_of[kind].get((f"epoch_{name}", step))

    steps = sorted({step for scalars in scalars_of.values() for name, step in scalars if name.startswith("epoch_")})
    return [
        Epoch(
            step + 1,
            value("train", "loss", step),
            value("validation", "loss", step),
            value("train", "perplexity", step),
            value("validation", "perplexity", step),
            value("train", "learning_rate", step),
        )
        for step in steps
    ]


def best(epochs: list[Epoch]) -> Epoch | None:
    """Returns the epoch with the lowest validation perplexity, whose weights are exported.

    None if the log does not begin with the first epoch: the best one may be in the log of another run.
    """
    if not epochs or epochs[0].number > 1:
        return None
    known = [epoch for epoch in epochs if epoch.validation_perplexity is not None]
    return min(known, key=lambda epoch: epoch.validation_perplexity or 0.0, default=None)


def _scalars(folder: Path) -> Iterator[tuple[tuple[str, int], float]]:
    """Yields (name, step) and value of every scalar in a folder's event files."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util.tensor_util import make_ndarray

    # No two files hold the same epoch.
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for content in read_tfrecords(file):
            event = Event.FromString(content)
            for value in event.summary.value:
                if value.HasField("tensor"):
                    array = make_ndarray(value.tensor)
                    if array.ndim == 0 and np.issubdtype(array.dtype, np.number):
                        yield (value.tag, event.step), float(array)
