"""Im2Markup: convolutions, a row encoder and an attention decoder, in Keras alone.

The model of Deng et al., "Image-to-Markup Generation with Coarse-to-Fine Attention"
(ICML 2017), section 4, as the Image2Latex-TF2 project dimensions it. Nothing of
TensorFlow is imported: the file runs on every Keras backend.

An image is padded with white to a multiple of `STRIDE` and from there on with nothing:
activations outside that area are zero at every layer, exactly as a convolution's own zero
padding would have them. So an image has the same logits alone or in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
from keras import ops

from trainer_module.attention import BLOCK, OUTSIDE, Attended, Memories, Memory, in_blocks, lookups, out_of_blocks
from trainer_module.config.image import STRIDE
from trainer_module.config.model import ModelConfig
from trainer_module.recurrence import (
    DecoderKernels,
    DecoderState,
    Tensor,
    decode,
    decode_all,
    decoder_step,
    lstm_cell,
    recur,
)

Shape: TypeAlias = tuple[int, ...]

# Of hard attention: discount of later rewards, and the rate of their moving average (Deng et al. 2017, section 5).
HARD_DISCOUNT = 0.5
HARD_BASELINE_RATE = 0.01


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
            self.biases.append(self.add_weight(shape=(4 * units,), name=f"{direction}_bias", initializer=_forget_bias))
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


class AttentionDecoder(keras.layers.Layer):
    """An LSTM that attends over the memory at each step, with input feeding (Luong et al. 2015).

    h_t = LSTM([y_{t-1}; o_{t-1}]), a_t = softmax(V Wa h_t), o_t = tanh(Wc [a_t V; h_t]),
    p(y_t) = softmax(W o_t) (Deng et al. 2017, equations 1 and 2), or with the coarse-to-fine
    attention of `config.attention`; the coarse and the fine grid share Wa. Without the
    hidden-to-hidden term the recurrence runs through o and c alone.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.vocabulary_size = config.decoder_units, vocabulary_size
        self.hidden_recurrence, self.attention = config.hidden_recurrence, config.attention
        self.dropout = keras.layers.Dropout(config.dropout, dtype=self.dtype_policy)
        self.random = keras.random.SeedGenerator()

    def build(self, encoded_shape: Any, embedded_shape: Shape) -> None:
        units, embedding = self.units, embedded_shape[-1]
        self.embedding_kernel = self.add_weight(shape=(embedding, 4 * units), name="embedding_kernel")
        self.output_kernel = self.add_weight(shape=(units, 4 * units), name="output_kernel")
        if self.hidden_recurrence:
            self.hidden_kernel = self.add_weight(
                shape=(units, 4 * units), name="hidden_kernel", initializer=keras.initializers.Orthogonal()
            )
        self.bias = self.add_weight(shape=(4 * units,), name="bias", initializer=_forget_bias)
        self.attention_kernel = self.add_weight(shape=(units, units), name="attention_kernel")
        self.combine_kernel = self.add_weight(shape=(2 * units, units), name="combine_kernel")
        self.logits_kernel = self.add_weight(shape=(units, self.vocabulary_size), name="logits_kernel")

    def call(self, encoded: Encoded, embedded: Tensor, training: bool = False) -> Tensor | dict[str, Tensor]:
        """Logits of every step, given the right tokens before it.

        Args:
            encoded: what to look at.
            embedded: embeddings of the tokens before each step, (batch, steps, embedding units).
            training: whether dropout is active, and hard attention samples.

        Returns:
            float32 logits, (batch, steps, vocabulary); of hard attention in training, `logits` and
            `chosen`, the log-probability of each step's coarse cell, float32 (batch, steps).
        """
        memories = self.remember(encoded)
        samples = training and self.attention == "hard"
        noise = None
        if samples and memories.coarse is not None:
            shape = (*ops.shape(embedded)[:2], ops.shape(memories.coarse.mask)[1])
            uniform = keras.random.uniform(shape, 1e-7, 1.0 - 1e-7, dtype="float32", seed=self.random)
            noise = -ops.log(-ops.log(uniform))
        outputs, chosen = decode(self.attention, self.kernels(embedded.dtype), self.gates(embedded), memories, noise)
        logits = self.logits(self.dropout(outputs, training=training))
        return {"logits": logits, "chosen": ops.cast(chosen, "float32")} if samples else logits

    def gates(self, embedded: Tensor) -> Tensor:
        """The tokens' share of the LSTM's gates, (..., 4 * units), of their embeddings."""
        return ops.matmul(embedded, self.embedding_kernel) + self.bias

    def kernels(self, dtype: str = "float32") -> DecoderKernels:
        """The weights of a step, put together: before a loop, not in it."""
        recurrent = [self.output_kernel, self.hidden_kernel] if self.hidden_recurrence else [self.output_kernel]
        return DecoderKernels(
            ops.concatenate([ops.cast(kernel, dtype) for kernel in recurrent], axis=0),
            ops.cast(self.combine_kernel, dtype),
        )

    def remember(self, encoded: Encoded) -> Memories:
        """What does not depend on the step: the cells, and they times Wa."""

        def memory(values: Tensor, mask: Tensor) -> Memory:
            return Memory(values, ops.transpose(ops.matmul(values, self.attention_kernel), (0, 2, 1)), mask)

        coarse = fine = None
        if encoded.coarse is not None:
            coarse = memory(*(_flat(part) for part in encoded.coarse))
        if encoded.fine is not None:
            lay_out = _flat if coarse is None else lambda part: in_blocks(_to_blocks(part))
            fine = memory(*(lay_out(part) for part in encoded.fine))
        return Memories(coarse, fine)

    def initial_state(self, count: Tensor, dtype: str = "float32") -> DecoderState:
        """Zeros: the state of so many queries before the first token."""
        zeros = ops.zeros((count, self.units), dtype)
        return DecoderState(zeros, zeros, zeros)

    def logits(self, outputs: Tensor) -> Tensor:
        """float32 logits, (..., vocabulary), of attended outputs, (..., units)."""
        return ops.cast(ops.matmul(outputs, self.logits_kernel), "float32")


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


class FormulaModel(keras.Model):
    """Images of formulas to LaTeX tokens.

    Args:
        config: the network's dimensions.
        vocabulary_size: tokens, the four specials included.
        max_rows: rows of cells in the tallest image; counts only with `config.row_embedding`.
        dtype: Keras's name of a dtype policy: `float32`, or `mixed_bfloat16` to compute with fewer bits.
    """

    # Poolings behind the six convolutions, and which of them are normalised (Deng et al. 2017, table 1).
    POOLS = ((2, 2), (2, 2), None, (1, 2), (2, 1), None)
    NORMALISED = (False, False, True, False, True, True)

    def __init__(
        self, config: ModelConfig, vocabulary_size: int, max_rows: int = 0, dtype: str = "float32", **kwargs: Any
    ) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.config, self.vocabulary_size = config, vocabulary_size
        first, units = config.normalisation == "before_relu", config.decoder_units
        rows = max_rows if config.row_embedding else 0
        self.encoder = Convolutions(config.filters, self.POOLS, self.NORMALISED, first, name="encoder", dtype=dtype)
        self.row_encoder: RowEncoder | None = None
        self.coarse_encoder: Convolutions | None = None
        self.coarse_row_encoder: RowEncoder | None = None
        if config.attention != "coarse_only":
            self.row_encoder = RowEncoder(units // 2, rows, config.position_encoding, name="row_encoder", dtype=dtype)
        if config.attention != "standard":
            filters = (config.filters[-1],) * 2
            self.coarse_encoder = Convolutions(
                filters, (None, None), (True, True), first, 7, name="coarse_encoder", dtype=dtype
            )
            self.coarse_row_encoder = RowEncoder(
                units // 2, -(-rows // BLOCK), config.position_encoding, name="coarse_row_encoder", dtype=dtype
            )
        self.embedding = keras.layers.Embedding(vocabulary_size, config.embedding_units, name="embedding", dtype=dtype)
        self.decoder = AttentionDecoder(config, vocabulary_size, name="decoder", dtype=dtype)
        if config.attention == "hard":
            self.baseline = self.add_weight(shape=(), initializer="zeros", trainable=False, name="baseline")
        self.encode(ops.zeros((1, STRIDE, STRIDE, 1), "uint8"), ops.convert_to_tensor([[STRIDE, STRIDE]], "int32"))
        embedded = self.embedding(ops.zeros((1, 1), "int32"))
        # Not by calling it: Keras 3.12, on Python 3.10, asks for the shape of the grid that there is not.
        self.decoder.build(None, embedded.shape)
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor | dict[str, Tensor]:
        """Teacher-forced logits.

        Args:
            inputs: `image`, uint8 (batch, height, width, 1), and `size`, int32 (batch, 2), as in
                `encode`; `tokens`, int32 (batch, steps), the token before each step.
            training: whether batch normalisation and dropout are active, and hard attention samples.

        Returns:
            As `AttentionDecoder.call`.
        """
        encoded = self.encode(inputs["image"], inputs["size"], training=training)
        return self.decoder(encoded, self.embedding(inputs["tokens"]), training=training)

    def encode(self, images: Tensor, sizes: Tensor, training: bool = False) -> Encoded:
        """Cells of each image.

        Args:
            images: grey levels, uint8, (batch, height, width, 1); sides are multiples of `STRIDE`, filled
                with white.
            sizes: height and width of each image before filling, int32, (batch, 2).
        """
        # Keras tries models out with floats, whatever they take.
        extents = -(-ops.cast(sizes, "int32") // STRIDE)
        x = (ops.cast(images, self.compute_dtype) - 128.0) / 128.0
        x = x * ops.cast(ops.expand_dims(inside(extents * STRIDE, *ops.shape(x)[1:3]), -1), x.dtype)
        features = self.encoder(x, extents * STRIDE, training=training)
        coarse = fine = None
        if self.row_encoder is not None:
            fine = _cells(self.row_encoder(features, extents), extents)
        if self.coarse_encoder is not None and self.coarse_row_encoder is not None:
            features = self.coarse_encoder(features, extents, training=training)
            features, extents = self._pool(features, extents), -(-extents // BLOCK)
            coarse = _cells(self.coarse_row_encoder(features, extents), extents)
        return Encoded(coarse, fine)

    def _pool(self, features: Tensor, extents: Tensor) -> Tensor:
        """The highest value in each block, of the cells inside; zero where none is."""
        within = ops.expand_dims(inside(extents, *ops.shape(features)[1:3]), -1)
        features = _to_blocks(ops.where(within, features, ops.cast(OUTSIDE, features.dtype)), OUTSIDE)
        batch, rows, columns, channels = ops.shape(features)
        pooled = ops.max(ops.reshape(in_blocks(features), (batch, -1, BLOCK * BLOCK, channels)), axis=2)
        pooled = ops.where(pooled > OUTSIDE / 2, pooled, ops.zeros_like(pooled))
        return ops.reshape(pooled, (batch, rows // BLOCK, columns // BLOCK, channels))

    def step(
        self, tokens: Tensor, state: DecoderState, memories: Memories, kernels: DecoderKernels
    ) -> tuple[Tensor, DecoderState, Attended]:
        """One step of decoding from the tokens chosen last.

        Args:
            tokens: int32, (batch * queries,).
            state, memories, kernels: as in `decoder_step`.

        Returns:
            float32 logits, (batch * queries, vocabulary), the new state, and what was looked at.
        """
        gates = self.decoder.gates(self.embedding(tokens))
        state, attended = decoder_step(self.config.attention, kernels, gates, state, memories)
        return self.decoder.logits(state.output), state, attended

    def attention_maps(self, images: Tensor, sizes: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Where the model looks before it writes each token.

        Args:
            images, sizes: as in `encode`.
            tokens: the token before each step, int32, (batch, steps).

        Returns:
            `coarse` and `fine`, as far as the model has them: weights over the cells, float32,
            (batch, steps, rows, columns); a fine cell covers `STRIDE` x `STRIDE` pixels, a coarse one
            `BLOCK` x `BLOCK` fine ones.
        """
        encoded, _, attended = self._look(images, sizes, tokens)
        maps, (batch, steps) = {}, ops.shape(tokens)
        if encoded.coarse is not None:
            maps["coarse"] = ops.reshape(attended.coarse, (batch, steps, *ops.shape(encoded.coarse.mask)[1:]))
        if encoded.fine is not None:
            rows, columns = ops.shape(encoded.fine.mask)[1:]
            if encoded.coarse is None:
                maps["fine"] = ops.reshape(attended.fine, (batch, steps, rows, columns))
            else:
                padded = out_of_blocks(attended.fine, -(-rows // BLOCK) * BLOCK, -(-columns // BLOCK) * BLOCK)
                maps["fine"] = padded[:, :, :rows, :columns]
        return {name: ops.cast(values, "float32") for name, values in maps.items()}

    def lookups(self, images: Tensor, sizes: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """How many coarse and fine cells the model looks at in each step, int32, (batch, steps), as `lookups` counts.

        Args:
            images, sizes, tokens: as in `attention_maps`.
        """
        _, memories, attended = self._look(images, sizes, tokens)
        return lookups(attended, memories)

    def _look(self, images: Tensor, sizes: Tensor, tokens: Tensor) -> tuple[Encoded, Memories, Attended]:
        encoded = self.encode(images, sizes)
        memories, embedded = self.decoder.remember(encoded), self.embedding(tokens)
        kernels, gates = self.decoder.kernels(embedded.dtype), self.decoder.gates(embedded)
        _, attended = decode_all(self.config.attention, kernels, gates, memories)
        return encoded, memories, attended

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """The loss; for hard attention with REINFORCE's term, whose value is zero (Williams 1992).

        The reward of a step is the log-likelihood of its token; each choice is credited with the
        rewards that follow, discounted, above a moving average (Deng et al. 2017, section 4).
        """
        if not isinstance(y_pred, dict):
            return super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        loss = super().compute_loss(x=x, y=y, y_pred=y_pred["logits"], sample_weight=sample_weight, training=training)
        weights = ops.cast(sample_weight, "float32")
        count = ops.maximum(ops.sum(weights), 1.0)
        rewards = -ops.stop_gradient(self.loss.call(y, y_pred["logits"])) * weights
        steps = ops.arange(ops.shape(rewards)[1], dtype="float32")
        ahead = ops.expand_dims(steps, 1) - steps  # (steps, steps): how far the first is ahead of the second
        credit = ops.matmul(rewards, ops.where(ahead >= 0, ops.power(HARD_DISCOUNT, ops.maximum(ahead, 0.0)), 0.0))
        term = -ops.sum((credit - self.baseline) * y_pred["chosen"] * weights) / count
        mean = ops.sum(credit * weights) / count
        self.baseline.assign(self.baseline + HARD_BASELINE_RATE * (mean - self.baseline))
        return loss + term - ops.stop_gradient(term)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight=sample_weight)


def _cells(values: Tensor, extents: Tensor) -> Cells:
    return Cells(values, inside(extents, *ops.shape(values)[1:3]))


def _flat(grid: Tensor) -> Tensor:
    """(batch, rows * columns, ...)"""
    batch, rows, columns, *rest = ops.shape(grid)
    return ops.reshape(grid, (batch, rows * columns, *rest))


def _to_blocks(grid: Tensor, fill: float | bool = 0) -> Tensor:
    """Fills both sides of (batch, rows, columns, ...) up to multiples of `BLOCK`."""
    _, rows, columns, *rest = ops.shape(grid)
    amounts = [[0, 0], [0, -rows % BLOCK], [0, -columns % BLOCK], *([0, 0] for _ in rest)]
    return ops.pad(grid, amounts, constant_values=fill)


def _forget_bias(shape: Shape, dtype: str | None = None) -> Tensor:
    """Zeros, and ones for the forget gate (Jozefowicz et al. 2015)."""
    ones = ops.arange(shape[-1]) // (shape[-1] // 4) == 1
    return ops.broadcast_to(ops.cast(ones, dtype), shape)
