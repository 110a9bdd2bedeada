"""The optimiser of a training: its learning rate over time, and steps that it leaves out."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from trainer_module.config.training import TrainingConfig
from trainer_module.recurrence import Tensor


@keras.saving.register_keras_serializable("im2latex")
class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then a constant rate or a cosine decay to zero.

    Args:
        peak: the highest rate.
        warmup_steps: number of warm-up steps.
        cosine_steps: number of steps until the rate is zero (Loshchilov and Hutter 2017); None for a constant rate.
        factor: multiplies the whole schedule.
    """

    def __init__(self, peak: float, warmup_steps: int, cosine_steps: int | None, factor: float = 1.0) -> None:
        self.peak, self.warmup_steps, self.cosine_steps, self.factor = peak, warmup_steps, cosine_steps, factor

    def __call__(self, step: Tensor) -> Tensor:
        step = ops.cast(step, "float32") + 1.0
        after: Tensor = 1.0
        if self.cosine_steps is not None:
            length = max(self.cosine_steps - self.warmup_steps, 1)
            progress = ops.clip((step - self.warmup_steps) / length, 0.0, 1.0)
            after = 0.5 * (1.0 + ops.cos(math.pi * progress))
        return self.factor * self.peak * ops.where(step < self.warmup_steps, step / max(self.warmup_steps, 1), after)

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("peak", "warmup_steps", "cosine_steps", "factor")}


class _SkipsDamagedSteps:
    """Mixin of an optimiser: if a gradient is not finite, the step counts as one in which all gradients are zero.

    Otherwise, a single batch whose gradients overflow would make all weights NaN, because gradients are scaled by their
    global norm.

    Attributes:
        skipped: number of such steps, () int32.
    """

    skipped: keras.Variable

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the optimiser's variables."""
        if not self.built:  # type: ignore[attr-defined]
            self.skipped = self.add_variable(  # type: ignore[attr-defined]
                (), dtype="int32", aggregation="only_first_replica", name="skipped"
            )
        super().build(variables)  # type: ignore[misc]

    def _clip_gradients(self, grads: list[Tensor]) -> list[Tensor]:
        finite = ops.isfinite(sum(ops.sum(ops.square(ops.cast(grad, "float32"))) for grad in grads))
        self.skipped.assign_add(ops.cast(ops.logical_not(finite), "int32"))
        return [ops.where(finite, grad, ops.zeros_like(grad)) for grad in super()._clip_gradients(grads)]  # type: ignore[misc]


@keras.saving.register_keras_serializable("im2latex")
class SGD(_SkipsDamagedSteps, keras.optimizers.SGD):
    """Stochastic gradient descent that skips damaged steps."""


@keras.saving.register_keras_serializable("im2latex")
class Adam(_SkipsDamagedSteps, keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015) that skips damaged steps."""


@keras.saving.register_keras_serializable("im2latex")
class AdamW(_SkipsDamagedSteps, keras.optimizers.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) that skips damaged steps."""


def make_optimizer(config: TrainingConfig, steps: int) -> SGD | Adam | AdamW:
    """Makes the optimiser for a training of `steps` steps."""
    cosine = steps if config.schedule == "cosine" else None
    rate = LearningRate(config.learning_rate, config.warmup_steps, cosine)
    if config.optimizer == "adamw":
        return AdamW(rate, weight_decay=config.weight_decay, global_clipnorm=config.clip_norm)
    kind: type[SGD] | type[Adam] = SGD if config.optimizer == "sgd" else Adam
    return kind(rate, global_clipnorm=config.clip_norm)
