"""Trains a model with Keras on JAX."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.parallel import ProcessPool
from im2latex.errors import UserError
from im2latex.statistics import to_document
from pipeline.config import Config
from pipeline.standalone import say
from pipeline.standalone.examples import Formulas
from pipeline.standalone.hosts import Hosts, agreed, check_same, distribute, join, leave
from trainer_module.batching import Batch, Buckets, Share
from trainer_module.config.training import TrainingConfig
from trainer_module.examples import Examples
from trainer_module.feeding import feeders, prefetched
from trainer_module.statistics import of_transformed

if TYPE_CHECKING:
    from trainer_module.model import FormulaModel
    from trainer_module.trained import Trained


# Maximum number of batch shapes, for each of which the training step is compiled. More shapes need less padding and
# more time to compile.
SHAPES = 16
# Minimum number of batches per epoch for each shape.
BATCHES_PER_SHAPE = 8
BATCHES_AHEAD = 8


class Clock:
    """Keras callbacks that measure the batches per second of each epoch, without validation, and handle Ctrl-C.

    Python raises KeyboardInterrupt wherever it happens to be. In a finaliser or in a callback of JAX the exception is
    lost, so it is raised again at the end of the batch.
    """

    def __init__(self) -> None:
        self.interrupted = False
        signal.signal(signal.SIGINT, self._interrupt)
        self.begun = 0.0
        self.count = 0
        self.rates: list[float] = []  # batches per second of each epoch

    def begin(self, epoch: int, logs: dict | None = None) -> None:
        self.begun, self.count = time.monotonic(), 0

    def batch(self, batch: int, logs: dict | None = None) -> None:
        self.count += 1
        if self.interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, *signal_and_frame: object) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def end(self, logs: dict | None = None) -> None:
        self.rates.append(self.count / (time.monotonic() - self.begun))


def train_model(
    config: Config,
    vocabulary: list[str],
    training: Formulas,
    validation: Formulas,
    out: Path,
    deadline: float,
    hosts: Hosts,
) -> tuple[Trained, dict]:
    """Trains a model, together with the other hosts; host 0 writes its weights to `out`.

    Returns:
        The trained model, and facts about the training for metrics.json.
    """
    import jax
    import keras

    from im2latex.weights import WEIGHTS
    from trainer_module.trained import Trained, save_weights
    from trainer_module.training import CHECKPOINT, DTYPES, choose_precision, train, training_digest
    from trainer_module.weights import average, extended, weights_of
    from trainer_module.widening import widened

    knobs = config.training
    start = _start(knobs.start_from) if knobs.start_from else None
    if start is not None:
        vocabulary = extended(vocabulary, start.vocabulary)
    learnt, watched = _numbered(training, vocabulary, knobs), _numbered(validation, vocabulary, knobs)
    sections = [dataclasses.asdict(section) for section in (config.image, config.model, config.training)]
    digest = training_digest(sections, vocabulary, learnt + watched)
    buckets = Buckets(learnt + watched, max(1, min(SHAPES, len(learnt) // (BATCHES_PER_SHAPE * knobs.batch_size))))
    devices = join(hosts, knobs.batch_size)
    checkpoints = out / "checkpoints" / digest
    check_same("data, settings or options", f"{digest} {deadline < math.inf}")
    check_same("checkpoints", _content(checkpoints / CHECKPOINT))
    device = jax.devices()[0].device_kind
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("trainer_module").setLevel(logging.INFO)
    of_a_device = dataclasses.replace(knobs, batch_size=knobs.batch_size // devices)
    dtypes = list(DTYPES.values())
    dtype = choose_precision(of_a_device, config.model, config.image, vocabulary, learnt)
    dtype = dtypes[int(agreed(dtypes.index(dtype)))]
    if devices > 1:
        distribute()
    model = _initial_model(config, vocabulary, dtype, start)
    on = device if devices == 1 else f"{devices} x {device}"
    say(f"{model.count_params():,} parameters, {dtype}, on {on}, {len(buckets.shapes)} shapes to compile")

    def feed(source: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
        return prefetched((buckets.fill(batch, knobs.batch_size // hosts.count) for batch in source()), BATCHES_AHEAD)

    clock = Clock()
    with ProcessPool(feeders(), with_main=False) as pool:
        progress = train(
            model,
            knobs,
            learnt,
            watched,
            checkpoints=checkpoints,
            feed=feed,
            cut=buckets.cut,
            deadline=deadline,
            pool=pool,
            share=Share(hosts.host, hosts.count),
            agreed=agreed,
            glyph_size=config.image.glyph_size,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_epoch_begin=clock.begin, on_train_batch_end=clock.batch, on_test_begin=clock.end
                )
            ],
        )
    say(f"validation perplexity {progress.best:.4f}, the best of {progress.epoch} epochs")
    if start is not None and knobs.start_share:
        weights = widened(start, config.model, knobs.seed)
        average(model, vocabulary, weights, start.vocabulary, knobs.start_share)
    statistics = to_document(of_transformed(learnt))
    weights = weights_of(model)
    trained = Trained(
        config.model, config.image, vocabulary, knobs.max_tokens, weights, config.decoding, statistics=statistics
    )
    leave(hosts)
    if hosts.host == 0:
        save_weights(out / WEIGHTS, trained)
    # The mean, because some batches are not full.
    images_per_batch = len(learnt) / len(buckets.cut(learnt, knobs.batch_size, 0, 0))
    rate = round(max(clock.rates) * images_per_batch, 1) if clock.rates else _earlier_rate(out, digest)
    return trained, {
        "run": digest,
        "examples": {"train": len(learnt), "eval": len(watched)},
        "vocabulary": len(vocabulary),
        "parameters": model.count_params(),
        "epochs": progress.epoch,
        "perplexities": progress.perplexities,
        "hosts": hosts.count,
        "devices": devices,
        "device": device,
        "precision": dtype,
        "shapes": len(buckets.shapes),
        # Of the fastest epoch, because the first one includes compilation.
        "images_per_second": rate,
    }


def _numbered(formulas: Formulas, vocabulary: list[str], knobs: TrainingConfig) -> Examples:
    """Returns the examples of a split with their token ids; formulas that are too long are left out."""
    numbered = formulas.numbered(vocabulary)
    examples = numbered[np.flatnonzero(numbered.sizes[:, 2] <= knobs.max_tokens)]
    if not examples:
        raise UserError(f"a split has no formula of at most {knobs.max_tokens} tokens; raise training.max_tokens")
    return examples


def _initial_model(config: Config, vocabulary: list[str], dtype: str, start: Trained | None) -> FormulaModel:
    """Creates the model before training, with those weights of `start` that fit."""
    from trainer_module.weights import new_model, warm_start
    from trainer_module.widening import widened

    knobs = config.training
    # Not keras.utils.set_random_seed, which imports TensorFlow to seed it too, if it is installed.
    random.seed(knobs.seed)
    np.random.seed(knobs.seed)
    model = new_model(config.model, config.image, vocabulary, dtype)
    if start is not None:
        weights = widened(start, config.model, knobs.seed)
        fresh = warm_start(model, vocabulary, weights, start.vocabulary)
        say(f"started from {knobs.start_from}; new weights: {', '.join(fresh) or 'none'}")
    return model


def _start(name: str) -> Trained:
    """Loads the model that a training starts from."""
    from trainer_module import reader
    from trainer_module.trained import load_weights

    return reader.load() if name == reader.NAME else load_weights(Path(name))


def _content(file: Path) -> str:
    """Returns a hash of a file; empty if there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def _earlier_rate(out: Path, digest: str) -> float | None:
    """Returns the images per second that an earlier call of the same training measured; None if there was none."""
    try:
        metrics = json.loads((out / "metrics.json").read_text("utf-8"))
        return metrics["images_per_second"] if metrics["run"] == digest else None
    except (KeyError, OSError, TypeError, ValueError):
        return None
