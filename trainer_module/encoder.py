"""The encoder: convolutions, followed by a row encoder over the resulting cells. It uses Keras only.

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
    """The encoded grids of images; None for a grid that the attention does not use."""

    coarse: Cells | None
    fine: Cells | None


def inside(extents: Tensor, rows: int, columns: int) -> Tensor:
    """Returns which cells of a padded grid lie inside their image.

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
    """Batch normalisation whose statistics ignore the padding around images."""

    def call(self, inputs: Tensor, training: bool = False, inside: Tensor | None = None) -> Tensor:
        """Normalises over all axes but the last.

        Args:
            inputs: (batch, height, width, channels).
            training: whether to use this batch's statistics and update the moving ones.
            inside: 1 inside the images and 0 outside, (batch, height, width, 1); required in training.
        """
        if not training:
            return super().call(inputs, training=False)
        x = ops.cast(inputs, "float32")
        weight = ops.cast(inside, "float32")
        count = ops.maximum(ops.sum(weight), 1.0)
        within = x * weight
        mean = ops.sum(within, axis=(0, 1, 2)) / count
        # E[x^2] - E[x]^2 needs one pass less over the largest tensors of the model.
        variance = ops.maximum(ops.sum(within * x, axis=(0, 1, 2)) / count - ops.square(mean), 0.0)
        self.moving_mean.assign(self.moving_mean * self.momentum + ops.stop_gradient(mean) * (1.0 - self.momentum))
        self.moving_variance.assign(
            self.moving_variance * self.momentum + ops.stop_gradient(variance) * (1.0 - self.momentum)
        )
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return ops.cast(x * scale + (self.beta - mean * scale), inputs.dtype)


class Convolutions(keras.layers.Layer):
    """A stack of convolutions, each followed by ReLU and, optionally, batch normalisation and max-pooling.

    Args:
        filters: channels of each convolution.
        pools: pooling window after each convolution, or None.
        normalised: whether each convolution has batch normalisation.
        normalise_first: whether batch normalisation comes before the ReLU (the paper) or after it (Image2Latex-TF2).
        first: number of the first convolution, for its name.
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
        """Applies the convolutions to a batch of padded grids.

        Args:
            x: (batch, height, width, channels), zero outside the grids; both sides are multiples of
                the product of all pooling windows.
            extents: rows and columns of each grid, int, (batch, 2), multiples of the same products, so that no
                pooling window crosses an edge.
            training: whether batch normalisation uses and updates statistics.

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

    A single loop processes all rows of all images in both directions.

    Args:
        units: units of each direction.
        rows: maximum number of rows, each with a learned initial state (the paper's position embedding); 0 disables it.
        positions: whether to add an encoding of a cell's position to its output, each channel with a learned gain.
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
        """Encodes every row in both directions.

        Args:
            features: (batch, rows, columns, channels).
            extents: rows and columns of each image's grid, int, (batch, 2).

        Returns:
            (batch, rows, columns, 2 * units): forward and backward output, concatenated.
        """
        batch, rows, columns, channels = ops.shape(features)
        count, units = batch * rows, self.units
        # Column that each direction reads at each step: the backward direction starts at the last column
        # inside the image, and reads padding at the end.
        lengths = ops.repeat(extents[:, 1], rows)  # (count,)
        forward = ops.expand_dims(ops.arange(columns, dtype=lengths.dtype), 1) + ops.zeros_like(lengths)
        backward = ops.where(forward < lengths, lengths - 1 - forward, forward)
        cells = ops.stack([forward, backward])  # (2, columns, count)
        row = ops.arange(count, dtype=lengths.dtype)
        x = ops.take(ops.reshape(features, (count * columns, channels)), row * columns + cells, axis=0)
        # Compute the gates' inputs of all steps at once.
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
        # The backward order is its own inverse, so the same indices put the outputs into column order.
        direction = ops.expand_dims(ops.expand_dims(ops.arange(2, dtype=lengths.dtype), 1), 1)
        indices = ops.transpose((direction * columns + cells) * count + row, (2, 1, 0))  # (count, columns, 2)
        encoded = ops.take(ops.reshape(outputs, (2 * columns * count, units)), indices, axis=0)
        encoded = ops.reshape(encoded, (batch, rows, columns, 2 * units))
        if self.positions:
            positions = self.position_gain * encode_positions(rows, columns, 2 * units)
            encoded = encoded + ops.cast(positions, encoded.dtype)
        return encoded


def encode_positions(rows: int, columns: int, units: int) -> Tensor:
    """Encodes positions of cells (Wang and Liu 2019, "Translating Math Formula Images to LaTeX Sequences", 3.1).

    Returns:
        float32, (rows, columns, units): alternating sines and cosines, of the column in the first half of the channels
        and of the row in the second half, with wavelengths from 2 pi cells to 10,000 times that.
    """

    def waves(count: int, channels: int) -> Tensor:
        channel = ops.arange(channels, dtype="int32")
        frequency = ops.power(10000.0, -ops.cast(channel // 2 * 2, "float32") / channels)
        angle = ops.expand_dims(ops.arange(count, dtype="float32"), 1) * frequency
        return ops.where(channel % 2 == 0, ops.sin(angle), ops.cos(angle))  # (count, channels)

    column_waves, row_waves = waves(columns, units // 2), waves(rows, units - units // 2)
    zeros = ops.zeros((rows, columns, 1), "float32")
    return ops.concatenate([zeros + column_waves, zeros + ops.expand_dims(row_waves, 1)], axis=-1)
