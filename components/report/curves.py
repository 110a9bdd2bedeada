"""The course of a training, from the TensorBoard logs that Keras leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.dataset.tfrecords import read_tfrecords


class Epoch(NamedTuple):
    """What was logged of an epoch; None where nothing was."""

    number: int  # the first is 1
    loss: float | None
    validation_loss: float | None
    perplexity: float | None
    validation_perplexity: float | None
    learning_rate: float | None  # at its end


def read_epochs(logs: Path) -> list[Epoch]:
    """Reads the epochs in a folder of logs, in order; none where there is no log.

    Raises:
        UserError: a file is damaged.
    """
    found = {kind: dict(_scalars(logs / kind)) for kind in ("train", "validation")}

    def value(kind: str, name: str, step: int) -> float | None:
        return found[kind].get((f"epoch_{name}", step))

    steps = sorted({step for scalars in found.values() for name, step in scalars if name.startswith("epoch_")})
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
    """The epoch with the lowest validation perplexity, which is the one that is exported.

    None where the log does not begin with the first one: the best may be among those that another run logged.
    """
    if not epochs or epochs[0].number > 1:
        return None
    known = [epoch for epoch in epochs if epoch.validation_perplexity is not None]
    return min(known, key=lambda epoch: epoch.validation_perplexity or 0.0, default=None)


def _scalars(folder: Path) -> Iterator[tuple[tuple[str, int], float]]:
    """Every number in a folder's event files, by its name and step."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util.tensor_util import make_ndarray

    # Each epoch has files of its own, and is in no other.
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for content in read_tfrecords(file):
            event = Event.FromString(content)
            for value in event.summary.value:
                if value.HasField("tensor"):
                    array = make_ndarray(value.tensor)
                    if array.ndim == 0 and np.issubdtype(array.dtype, np.number):
                        yield (value.tag, event.step), float(array)
