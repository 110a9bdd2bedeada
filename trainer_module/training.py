"""Training: loss, metric, optimiser, training loop, and checkpoints to continue an interrupted training."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from data.files import atomic_file
from data.parallel import ProcessPool
from data.pictures.degradation import EM
from im2latex.errors import UserError
from trainer_module.augmentation import Augmentation
from trainer_module.batching import ALL, Share, plan
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.display import EpochBar, EpochLines, places
from trainer_module.examples import Example, sizes_of
from trainer_module.feeding import batches
from trainer_module.model import FormulaModel
from trainer_module.optimizer import make_optimizer
from trainer_module.recurrence import Tensor
from trainer_module.weights import new_model

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.npz"

# Keras's dtype policy for each `training.precision`; weights are float32 with either.
DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
TIMED_STEPS = 3
# The training looks for skipped steps each time after so many steps, and stops if it has skipped them all.
MOST_SKIPPED = 100


class Diverged(UserError):
    """The training diverged; lower rates may help."""


@keras.saving.register_keras_serializable("im2latex")
class TokenCrossEntropy(keras.losses.Loss):
    """Mean negative log-likelihood per token in nats, without padding.

    Args:
        label_smoothing: probability mass spread over the whole vocabulary (Szegedy et al. 2016).
    """

    def __init__(self, label_smoothing: float = 0.0, name: str = "cross_entropy") -> None:
        super().__init__(name=name, reduction="mean_with_sample_weight")
        self.label_smoothing = label_smoothing

    def call(self, targets: Tensor, logits: Tensor) -> Tensor:
        """Returns the loss of each token, (batch, steps).

        Args:
            targets: token ids, (batch, steps).
            logits: (batch, steps, vocabulary).
        """
        log_probabilities = ops.log_softmax(logits, axis=-1)
        targets = ops.expand_dims(ops.cast(targets, "int32"), -1)
        loss = -ops.squeeze(ops.take_along_axis(log_probabilities, targets, axis=-1), -1)
        if self.label_smoothing:
            uniform = -ops.mean(log_probabilities, axis=-1)
            loss = (1.0 - self.label_smoothing) * loss + self.label_smoothing * uniform
        return loss


@keras.saving.register_keras_serializable("im2latex")
class Perplexity(keras.metrics.Mean):
    """Perplexity: e to the mean negative log-likelihood per token, over all tokens of all batches, without padding."""

    def __init__(self, name: str = "perplexity") -> None:
        super().__init__(name=name)
        self.loss = TokenCrossEntropy()

    def update_state(self, targets: Tensor, logits: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch: targets (batch, steps), logits (batch, steps, vocabulary) and weights (batch, steps)."""
        # Flatten the losses: Keras would average each row, so that tokens of short batches would count more.
        losses = ops.reshape(self.loss.call(targets, logits), (-1,))
        super().update_state(losses, sample_weight=None if sample_weight is None else ops.reshape(sample_weight, (-1,)))

    def result(self) -> Tensor:
        return ops.exp(super().result())


def choose_precision(
    training: TrainingConfig,
    model: ModelConfig,
    image: ImageConfig,
    vocabulary: Sequence[str],
    examples: Sequence[Example],
) -> str:
    """Returns Keras's dtype policy for `training.precision`; `auto` times a few steps of each and takes the faster."""
    if training.precision != "auto":
        return DTYPES[training.precision]
    planned = plan(examples, training.batch_size, training.seed, 1)
    sizes = sizes_of(examples)
    # Take a batch of median size.
    planned.sort(key=lambda batch: sizes[batch, :2].prod(axis=1).max())
    batch = next(batches(examples, planned[len(planned) // 2 :]))
    seconds = {}
    for name, dtype in DTYPES.items():
        tried = new_model(model, image, vocabulary, dtype)
        tried.compile(make_optimizer(training, 100), TokenCrossEntropy(training.label_smoothing))
        tried.train_on_batch(*batch)
        starts = []
        for _ in range(TIMED_STEPS):
            starts.append(time.perf_counter())
            tried.train_on_batch(*batch)
        seconds[name] = float(np.median(np.diff([*starts, time.perf_counter()])))
    fastest = min(seconds, key=seconds.__getitem__)
    log.info("seconds a step: %s; training in %s", seconds, fastest)
    return DTYPES[fastest]


def training_digest(config: object, vocabulary: Sequence[str], examples: Iterable[Example]) -> str:
    """Returns a hash of the configuration (as JSON), vocabulary and examples; it names the folder of the checkpoint."""
    digest = hashlib.sha256(json.dumps([config, list(vocabulary)], sort_keys=True).encode())
    for example in examples:
        digest.update(example.image)
        digest.update(example.tokens.tobytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass
class Progress:
    """Progress of a training."""

    epoch: int = 0  # number of finished epochs
    batch: int = 0  # number of finished batches of the current epoch
    rate_factor: float = 1.0  # factor of the learning rate, halved by epochs without improvement
    best: float = math.inf  # lowest validation perplexity so far
    perplexities: list[float] = dataclasses.field(default_factory=list)  # validation perplexity of each finished epoch

    @property
    def epochs_since_best(self) -> int:
        """Number of finished epochs after the best one."""
        return self.epoch - 1 - self.perplexities.index(self.best) if self.perplexities else 0


def train(
    model: FormulaModel,
    config: TrainingConfig,
    training: Sequence[Example],
    validation: Sequence[Example],
    checkpoints: Path | None = None,
    logs: Path | None = None,
    feed: Callable | None = None,
    cut: Callable[..., list[np.ndarray]] = plan,
    deadline: float = math.inf,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    pool: ProcessPool | None = None,
    share: Share = ALL,
    agreed: Callable[[float], float] = float,
    show: bool = True,
    glyph_size: int = 0,
) -> Progress:
    """Trains a model and leaves it with the weights of the epoch with the lowest validation perplexity.

    Args:
        model: the model, compiled here.
        config: settings of the training.
        training, validation: examples.
        checkpoints: folder of the checkpoint, written every `config.checkpoint_minutes` and after each
            epoch; the training continues from an existing one. None disables checkpoints. All hosts read the
            checkpoint, host 0 writes it.
        logs: folder for TensorBoard logs; None disables them.
        feed: converts a function that returns an iterator of `Batch` into an input of `keras.Model.fit`.
            None passes the iterator itself; on TensorFlow, Keras then requires batches of equal size.
        cut: divides an epoch into batches, like `plan`.
        deadline: latest end in the time of `time.monotonic()`; it ends the current epoch and the training.
        callbacks: additional Keras callbacks for the `fit` of each epoch.
        pool: worker processes that make the batches; None makes them in this process.
        share: the part of each batch that this host reads, if several hosts train the model together.
        agreed: returns what host 0 passed to it; all hosts call it at the same points of the training.
        show: whether to show the progress; otherwise it is logged only.
        glyph_size: size of an em in the images, for the augmentation, pixels; 0: unknown.

    Returns:
        The progress at the end of the training.

    Raises:
        Diverged: the validation perplexity is not a number, or the gradients of `MOST_SKIPPED` steps in a row.
        UserError: the checkpoint is damaged.
    """
    feed = feed or (lambda source: source())
    steps = len(cut(training, config.batch_size, config.seed, 0))
    model.compile(
        optimizer=make_optimizer(config, steps * config.epochs),
        loss=TokenCrossEntropy(config.label_smoothing),
        weighted_metrics=[Perplexity()],
    )
    model.optimizer.build(model.trainable_variables)
    validating = cut(validation, config.batch_size, config.seed, 0)
    progress = Progress()
    is_main = share.host == 0

    def is_late() -> bool:
        return deadline < math.inf and bool(agreed(time.monotonic() > deadline))

    keep = Checkpointing(model, progress, checkpoints, config.checkpoint_minutes if is_main else math.inf, is_late)
    keep.restore()
    _set_rate_factor(model, progress.rate_factor)
    has_bar, write = places() if is_main and show else (False, log.info if is_main else log.debug)
    lines = EpochLines(config.epochs, write, deadline)
    callbacks = [keep, SkippedSteps(config), lines, *([EpochBar(config.epochs)] if has_bar else []), *callbacks]
    if logs is not None:
        # Keep update_freq="epoch": other values drop losses if an epoch's length is not a multiple of them.
        callbacks.append(keras.callbacks.TensorBoard(str(logs), write_graph=False))
    while progress.epoch < config.epochs and not (config.patience and progress.epochs_since_best >= config.patience):
        epoch = progress.epoch
        planned = cut(training, config.batch_size, config.seed, epoch, config.short_first)
        lines.plan(list(map(len, planned)), progress.batch)
        augmented = None
        if config.augmentation:
            augmented = Augmentation(config.augmentation, (config.seed, epoch), glyph_size or EM)
        history = model.fit(
            feed(functools.partial(batches, training, planned[progress.batch :], augmented, pool, share)),
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=len(planned) - progress.batch,
            validation_data=feed(functools.partial(batches, validation, validating, None, pool, share)),
            validation_steps=len(validating),
            callbacks=callbacks,
            shuffle=False,  # the plan is shuffled already; Keras would warn that it cannot shuffle
            verbose=int(has_bar),
        )
        _finish_epoch(model, config, progress, agreed(history.history["val_perplexity"][0]))
        if progress.epochs_since_best == 0:
            keep.keep_best()
        if is_main:
            keep.save()
        if is_late():
            break
    keep.restore_best()
    return progress


def _finish_epoch(model: FormulaModel, config: TrainingConfig, progress: Progress, perplexity: float) -> None:
    """Records a finished epoch with its validation perplexity, and lowers the learning rate on a plateau.

    Raises:
        Diverged: the perplexity is not a number.
    """
    if not math.isfinite(perplexity):
        raise _diverged(config, f"the validation perplexity of epoch {progress.epoch + 1} is {perplexity}")
    if config.schedule == "plateau" and progress.perplexities and perplexity >= progress.perplexities[-1]:
        progress.rate_factor *= 0.5
        _set_rate_factor(model, progress.rate_factor)
    progress.epoch, progress.batch = progress.epoch + 1, 0
    progress.perplexities.append(perplexity)
    progress.best = min(progress.best, perplexity)


def _diverged(config: TrainingConfig, why: str) -> Diverged:
    return Diverged(
        f"the training diverged: {why}; lower training.learning_rate (now {config.learning_rate:g}) "
        "or training.clip_norm"
    )


def _set_rate_factor(model: FormulaModel, factor: float) -> None:
    """Changes the learning rate. The training step is compiled again, because the factor is a constant in it."""
    schedule = model.optimizer._learning_rate
    if schedule.factor != factor:
        schedule.factor = factor
        model.train_function = None


class SkippedSteps(keras.callbacks.Callback):
    """Reports the steps that the optimiser skips, and stops a training that makes no other steps.

    Raises:
        Diverged: the gradients of `MOST_SKIPPED` steps in a row are not finite.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.before = self.skipped = self._skipped()  # a checkpoint may contain some

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if (batch + 1) % MOST_SKIPPED == 0:
            before, self.skipped = self.skipped, self._skipped()
            if self.skipped - before == MOST_SKIPPED:
                raise _diverged(self.config, f"the gradients of {MOST_SKIPPED} steps in a row are not finite")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.skipped = self._skipped()
        if count := self.skipped - self.before:
            log.warning("epoch %d: %d steps were skipped, because their gradients are not finite", epoch + 1, count)

    def _skipped(self) -> int:
        _synchronise(self.model)
        return int(keras.ops.convert_to_numpy(self.model.optimizer.skipped))


class Checkpointing(keras.callbacks.Callback):
    """Saves the state of a training atomically, and restores it.

    A checkpoint contains all variables of the model and the optimiser in order, so it fits only a model and an
    optimiser of the same structure.
    """

    def __init__(
        self,
        model: FormulaModel,
        progress: Progress,
        folder: Path | None,
        minutes: float,
        is_late: Callable[[], bool],
    ) -> None:
        super().__init__()
        self.trained = model
        self.progress, self.folder, self.seconds, self.is_late = progress, folder, minutes * 60, is_late
        self.last = time.monotonic()
        self.best: list[np.ndarray] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.progress.batch += 1
        # Not after the last batch: only validation is left then, and `train` saves after that.
        if batch + 1 < self.params["steps"] and time.monotonic() - self.last > self.seconds:
            self.save()
        if self.is_late():
            self.trained.stop_training = True

    def save(self) -> None:
        """Writes the checkpoint atomically."""
        self.last = time.monotonic()
        if self.folder is None:
            return
        _synchronise(self.trained)
        arrays = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
        with atomic_file(self.folder / CHECKPOINT) as file:
            np.savez(
                file,
                progress=np.array(json.dumps(dataclasses.asdict(self.progress))),
                **{f"state{i}": array for i, array in enumerate(arrays)},
                **{f"best{i}": array for i, array in enumerate(self.best)},
            )

    def restore(self) -> None:
        """Restores the state from the checkpoint if there is one.

        Raises:
            UserError: the checkpoint is damaged or belongs to another model.
        """
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return
        path = self.folder / CHECKPOINT
        try:
            with np.load(path) as saved:
                progress = json.loads(str(saved["progress"]))
                state = [saved[f"state{i}"] for i in range(len(self._variables()))]
                self.best = [saved[f"best{i}"] for i in range(sum(name.startswith("best") for name in saved))]
            for variable, value in zip(self._variables(), state, strict=True):
                variable.assign(value)
        except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
            raise UserError(f"the checkpoint {path} is damaged or of another model; remove it to start over") from None
        for field, value in progress.items():
            setattr(self.progress, field, value)

    def keep_best(self) -> None:
        """Remembers the model's weights as the best so far."""
        self.best = [keras.ops.convert_to_numpy(variable) for variable in self.trained.variables]

    def restore_best(self) -> None:
        """Sets the model's weights to the best ones."""
        for variable, value in zip(self.trained.variables, self.best, strict=True):
            variable.assign(value)

    def _variables(self) -> list[keras.Variable]:
        return [*self.trained.variables, *self.trained.optimizer.variables]


def _synchronise(model: FormulaModel) -> None:
    """Updates a model's variables within `fit`; on JAX, the trainer keeps the current values elsewhere."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
