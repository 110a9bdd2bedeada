"""The encoder: convolutions, and a row encoder over the cells that they make, in Keras alone.

Deng et al. 2017, "Image-to-Markup Generation with Coarse-to-Fine Attention", section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from trainer_module.recurrence import Shape, Tensor, forget_bias, lstm_cell, recur


class Cells(NamedTuple):
    """A grid of encoded cells."""

    values: Tensor  # (batch, rows, columns, units)
    mask: Tensor  # True inside the image, (batch, rows, columns)


class Encoded(NamedTuple):
    """What the encoder makes of images; None where the attention does not look."""

    coarse: Cells | None
    fine: Cells | None


def inside(extents: Tensor, rows: int, columns: int) -> Tensor:
    """Which cells of a padded grid lie inside their image.

    Args:
        extents: valid rows and columns of each image, int, (batch, 2).
        rows, columns: sides of the padded grid.

    Returns:
        bool, (batch, rows, columns).
    """
    of_rows = ops.expand_dims(ops.arange(rows, dtype=extents.dtype), 0) < extents[:, :1]
    of_columns = ops.expand_dims(ops.arange(columns, dtype=extents.dtype), 0) < extents[:, 1:]
    return ops.logical_and(ops.expand_dims(of_rows, 2), ops.expand_dims(of_columns, 1))


class MaskedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose statistics count only what lies inside the images."""

    def call(self, inputs: Tensor, training: bool = False, inside: Tensor | None = None) -> Tensor:
        """Normalises over all axes but the last.

        Args:
            inputs: (batch, height, width, channels).
            training: whether to use, and to learn from, this batch's statistics.
            inside: 1 inside the images and 0 outside, (batch, height, width, 1); needed in training.
        """
        if not training:
            return super().call(inputs, training=False)
        x = ops.cast(inputs, "float32")
        weight = ops.cast(inside, "float32")
        count = ops.maximum(ops.sum(weight), 1.0)
        within = x * weight
        mean = ops.sum(within, axis=(0, 1, 2)) / count
        # The variance as E[x^2] - E[x]^2: one pass less over the largest tensors of the model.
        variance = ops.maximum(ops.sum(within * x, axis=(0, 1, 2)) / count - ops.square(mean), 0.0)
        self.moving_mean.assign(self.moving_mean * self.momentum + ops.stop_gradient(mean) * (1.0 - self.momentum))
        self.moving_variance.assign(
            self.moving_variance * self.momentum + ops.stop_gradient(variance) * (1.0 - self.momentum)
        )
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast(x * scale + (self.beta - mean * scale), inputs.dtype)


class Convolutions(keras.layers.Layer):
    """Convolutions, each with batch normalisation, ReLU and max-pooling behind it where there is one.

    Args:
        filters: channels of each convolution.
        pools: pooling window behind each; None where there is none.
        normalised: whether batch normalisation follows each.
        normalise_first: whether it stands before the ReLU (the paper) or behind it (Image2Latex-TF2).
        first: number of the first convolution.
    """

    def __init__(
        self,
        filters: Sequence[int],
        pools: Sequence[tuple[int, int] | None],
        normalised: Sequence[bool],
        normalise_first: bool,
        first: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pools, self.normalise_first = tuple(pools), normalise_first
        self.convolutions = [
            keras.layers.Conv2D(count, 3, padding="same", name=f"conv{i}", dtype=self.dtype_policy)
            for i, count in enumerate(filters, start=first)
        ]
        self.norms = [
            MaskedBatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm{i}", dtype=self.dtype_policy)
            if norm
            else None
            for i, norm in enumerate(normalised, start=first)
        ]

    def call(self, x: Tensor, extents: Tensor, training: bool = False) -> Tensor:
        """Features of grids.

        Args:
            x: (batch, height, width, channels), zero outside the grids; both sides are multiples of
                what the windows pool together.
            extents: rows and columns of each grid, int, (batch, 2), multiples of the same, so that no
                window crosses an edge.
            training: whether batch normalisation learns.

        Returns:
            (batch, rows, columns, channels), zero outside the grids.
        """
        mask = None
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            if mask is None:
                mask = self._mask(x, extents)
            x = convolution(x)
            if norm is not None and self.normalise_first:
                x = norm(x, training=training, inside=mask)
            if norm is not None and not self.normalise_first:
                x = norm(ops.relu(x), training=training, inside=mask)
            if pool is not None:
                x = ops.max_pool(x, pool, pool)
                extents = extents // ops.convert_to_tensor(pool, extents.dtype)
                mask = self._mask(x, extents)
            if norm is None or self.normalise_first:
                x = ops.relu(x)
            x = x * mask
        return x

    def _mask(self, x: Tensor, extents: Tensor) -> Tensor:
        return ops.cast(ops.expand_dims(inside(extents, *ops.shape(x)[1:3]), -1), x.dtype)


class RowEncoder(keras.layers.Layer):
    """A bidirectional LSTM along every row of cells (Deng et al. 2017, section 4, "Row Encoder").

    All rows of all images, and both directions, go through one loop.

    Args:
        units: units of each direction.
        rows: rows that get a learned initial state (the paper's position embedding); 0 for none.
        positions: whether a cell's place is added to its output, each channel with a learned gain.
    """

    def __init__(self, units: int, rows: int = 0, positions: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.rows, self.positions = units, rows, positions

    def build(self, features_shape: Shape) -> None:
        channels, units = features_shape[-1], self.units
        self.kernels, self.recurrent_kernels, self.biases = [], [], []
        for direction in ("forward", "backward"):
            self.kernels.append(self.add_weight(shape=(channels, 4 * units), name=f"{direction}_kernel"))
            self.recurrent_kernels.append(
                self.add_weight(
                    shape=(units, 4 * units), name=f"{direction}_recurrent_kernel", initializer="orthogonal"
                )
            )
            self.biases.append(self.add_weight(shape=(4 * units,), name=f"{direction}_bias", initializer=forget_bias))
        if self.rows:
            self.row_embedding = self.add_weight(
                shape=(2, 2, self.rows, units), name="row_embedding", initializer="random_uniform"
            )
        if self.positions:
            self.position_gain = self.add_weight(shape=(2 * units,), name="position_gain", initializer="zeros")

    def call(self, features: Tensor, extents: Tensor) -> Tensor:
        """Reads every row both ways.

        Args:
            features: (batch, rows, columns, channels).
            extents: rows and columns of each image's grid, int, (batch, 2).

        Returns:
            (batch, rows, columns, 2 * units): forward and backward output, side by side.
        """
        batch, rows, columns, channels = ops.shape(features)
        count, units = batch * rows, self.units
        # Where each direction's step finds its cell, among those of all rows: backward, a row is read
        # from its image's last column, and what is padding last of all.
        lengths = ops.repeat(extents[:, 1], rows)  # (count,)
        forward = ops.expand_dims(ops.arange(columns, dtype=lengths.dtype), 1) + ops.zeros_like(lengths)
        backward = ops.where(forward < lengths, lengths - 1 - forward, forward)
        cells = ops.stack([forward, backward])  # (2, columns, count)
        row = ops.arange(count, dtype=lengths.dtype)
        x = ops.take(ops.reshape(features, (count * columns, channels)), row * columns + cells, axis=0)
        # The gates' inputs of all steps at once.
        x = ops.reshape(x, (2, columns * count, channels))
        kernels, recurrent_kernels, biases = (
            ops.stack([ops.cast(weight, x.dtype) for weight in weights])
            for weights in (self.kernels, self.recurrent_kernels, self.biases)
        )
        gates = ops.matmul(x, kernels) + ops.expand_dims(biases, 1)
        gates = ops.reshape(gates, (2, columns, count, 4 * units))
        hidden = cell = ops.zeros((2, count, units), x.dtype)
        if self.rows:
            initial = ops.tile(ops.cast(self.row_embedding[:, :, :rows], x.dtype), (1, 1, batch, 1))
            hidden, cell = initial[0], initial[1]

        def step(gates: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
            hidden, cell = lstm_cell(gates + ops.matmul(states[0], recurrent_kernels), states[1])
            return hidden, [hidden, cell]

        outputs, _ = recur(step, gates, [hidden, cell])  # (2, columns, count, units)
        # Reading backward twice leads back: the same places, now of the outputs' steps.
        direction = ops.expand_dims(ops.expand_dims(ops.arange(2, dtype=lengths.dtype), 1), 1)
        places = ops.transpose((direction * columns + cells) * count + row, (2, 1, 0))  # (count, columns, 2)
        read = ops.take(ops.reshape(outputs, (2 * columns * count, units)), places, axis=0)
        read = ops.reshape(read, (batch, rows, columns, 2 * units))
        if self.positions:
            places = self.position_gain * encode_positions(rows, columns, 2 * units)
            read = read + ops.cast(places, read.dtype)
        return read


def encode_positions(rows: int, columns: int, units: int) -> Tensor:
    """The places of cells as waves (Wang and Liu 2019, "Translating Math Formula Images to LaTeX Sequences", 3.1).

    Returns:
        float32, (rows, columns, units): sine and cosine by turns, of the column in the first half of the channels, of
        the row in the second, with wavelengths from 2 pi cells to 10,000 times as many.
    """

    def waves(count: int, channels: int) -> Tensor:
        channel = ops.arange(channels, dtype="int32")
        frequency = ops.power(10000.0, -ops.cast(channel // 2 * 2, "float32") / channels)
        angle = ops.expand_dims(ops.arange(count, dtype="float32"), 1) * frequency
        return ops.where(channel % 2 == 0, ops.sin(angle), ops.cos(angle))  # (count, channels)

    of_columns, of_rows = waves(columns, units // 2), waves(rows, units - units // 2)
    zeros = ops.zeros((rows, columns, 1), "float32")
    return ops.concatenate([zeros + of_columns, zeros + ops.expand_dims(of_rows, 1)], axis=-1)
