"""Im2Markup: convolutions, a row encoder and an attention decoder, in Keras alone.

The model of Deng et al., "Image-to-Markup Generation with Coarse-to-Fine Attention"
(ICML 2017), section 4, as the Image2Latex-TF2 project dimensions it. Nothing of
TensorFlow is imported: the file runs on every Keras backend.

An image is padded with white to a multiple of `STRIDE` and from there on with nothing:
activations outside that area are zero at every layer, exactly as a convolution's own zero
padding would have them. So an image has the same logits alone or in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
from keras import ops

from trainer_module.attention import standard_attention
from trainer_module.config import STRIDE, ModelConfig

# Whatever the backend computes with.
Tensor: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
# A step of a recurrence: takes its inputs and the states before it, returns its output and the states after it.
Step: TypeAlias = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, list[Tensor]]]


class Memory(NamedTuple):
    """What the decoder reads of an image."""

    values: Tensor  # V, (batch, cells, units)
    keys: Tensor  # V Wa, (batch, cells, units)
    mask: Tensor  # True inside the image, (batch, cells)


class DecoderState(NamedTuple):
    """What the decoder carries from step to step; each (batch, units)."""

    hidden: Tensor  # h, the LSTM's output
    cell: Tensor  # c, the LSTM's memory
    output: Tensor  # o, the attended output


def inside(extents: Tensor, size: int, axis: int) -> Tensor:
    """Where a padded axis lies inside its image.

    Args:
        extents: valid cells along the axis, int, (batch,).
        size: cells along the padded axis.
        axis: 1 for rows, 2 for columns.

    Returns:
        bool, (batch, size, 1, 1) or (batch, 1, size, 1).
    """
    valid = ops.expand_dims(ops.arange(size, dtype=extents.dtype), 0) < ops.expand_dims(extents, 1)
    shape = (-1, size, 1, 1) if axis == 1 else (-1, 1, size, 1)
    return ops.reshape(valid, shape)


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


class ConvolutionalEncoder(keras.layers.Layer):
    """Six convolutions that make one cell of an 8 x 8 pixel area (Deng et al. 2017, table 1)."""

    # Pooling window behind each convolution, and whether batch normalisation follows it.
    POOLS = ((2, 2), (2, 2), None, (1, 2), (2, 1), None)
    NORMALISED = (False, False, True, False, True, True)

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalise_first = config.normalisation == "before_relu"
        self.convolutions = [
            keras.layers.Conv2D(filters, 3, padding="same", name=f"conv{i}")
            for i, filters in enumerate(config.filters, start=1)
        ]
        self.norms = [
            MaskedBatchNormalization(momentum=0.9, epsilon=1e-5, name=f"norm{i}") if normalised else None
            for i, normalised in enumerate(self.NORMALISED, start=1)
        ]

    def call(self, images: Tensor, sizes: Tensor, training: bool = False) -> Tensor:
        """Encodes images.

        Args:
            images: grey levels 0..255, (batch, height, width, 1), both sides multiples of `STRIDE`,
                white where a side was filled up to a multiple of it.
            sizes: height and width of each image before any padding, int, (batch, 2).
            training: whether batch normalisation learns.

        Returns:
            Features (batch, height / 8, width / 8, channels), zero outside the images.
        """
        x = (ops.cast(images, self.compute_dtype) - 128.0) / 128.0
        extents = -(-sizes // STRIDE) * STRIDE  # (batch, 2)
        heights, widths = extents[:, 0], extents[:, 1]
        mask = None
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.POOLS, strict=True):
            if mask is None:
                mask = self._mask(x, heights, widths)
                x = x * mask
            x = convolution(x)
            if norm is not None and self.normalise_first:
                x = norm(x, training=training, inside=mask)
            if norm is not None and not self.normalise_first:
                x = norm(ops.relu(x), training=training, inside=mask)
            if pool is not None:
                # Windows never cross an image's edge, since its sides are multiples of the stride.
                x = ops.max_pool(x, pool, pool)
                heights, widths = heights // pool[0], widths // pool[1]
                mask = self._mask(x, heights, widths)
            if norm is None or self.normalise_first:
                x = ops.relu(x)
            x = x * mask
        return x

    def _mask(self, x: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
        height, width = ops.shape(x)[1], ops.shape(x)[2]
        return ops.cast(ops.logical_and(inside(heights, height, 1), inside(widths, width, 2)), x.dtype)


class RowEncoder(keras.layers.Layer):
    """A bidirectional LSTM along every row of cells (Deng et al. 2017, section 4, "Row Encoder").

    All rows of all images, and both directions, go through one loop.

    Args:
        units: units of each direction.
        rows: rows that get a learned initial state (the paper's position embedding); 0 for none.
    """

    def __init__(self, units: int, rows: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.rows = units, rows

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

    def call(self, features: Tensor, sizes: Tensor) -> Tensor:
        """Reads every row both ways.

        Args:
            features: (batch, rows, columns, channels).
            sizes: height and width of each image, pixels, int, (batch, 2).

        Returns:
            (batch, rows, columns, 2 * units): forward and backward output, side by side.
        """
        batch, rows, columns, channels = ops.shape(features)
        count, units = batch * rows, self.units
        x = ops.reshape(features, (count, columns, channels))
        x = ops.transpose(x, (1, 0, 2))  # (columns, count, channels)
        # The gates' inputs of all steps at once; backward, the columns are read from the end.
        forward = ops.matmul(x, self.kernels[0]) + self.biases[0]
        backward = ops.matmul(ops.flip(x, axis=0), self.kernels[1]) + self.biases[1]
        # Read backwards, a narrow image's padding comes first: gates that write nothing, forget
        # nothing and show nothing leave the state as it is.
        padding = columns - ops.repeat(-(-sizes[:, 1] // STRIDE), rows)  # (count,)
        inside = ops.expand_dims(ops.expand_dims(ops.arange(columns, dtype=padding.dtype), 1) >= padding, -1)
        shut = ops.repeat(ops.convert_to_tensor([-1e9, 1e9, 0.0, -1e9], dtype=x.dtype), units)
        gates = ops.stack([forward, ops.where(inside, backward, shut)])  # (2, columns, count, 4 * units)
        recurrent_kernels = ops.stack([ops.cast(kernel, x.dtype) for kernel in self.recurrent_kernels])
        hidden = cell = ops.zeros((2, count, units), x.dtype)
        if self.rows:
            initial = ops.tile(ops.cast(self.row_embedding[:, :, :rows], x.dtype), (1, 1, batch, 1))
            cell = initial[1]
            # A hidden state acts through the gates alone, so it can enter at the first column inside.
            entry = ops.stack([ops.zeros_like(padding), padding])  # (2, count)
            first = ops.equal(
                ops.reshape(ops.arange(columns, dtype=entry.dtype), (1, -1, 1)), ops.expand_dims(entry, 1)
            )
            pushed = ops.expand_dims(ops.matmul(initial[0], recurrent_kernels), 1)  # (2, 1, count, 4 * units)
            gates = gates + ops.expand_dims(ops.cast(first, x.dtype), -1) * pushed

        def step(gates: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
            hidden, cell = lstm_cell(gates + ops.matmul(states[0], recurrent_kernels), states[1])
            return hidden, [hidden, cell]

        outputs = recur(step, gates, [hidden, cell])  # (2, columns, count, units)
        outputs = ops.concatenate([outputs[0], ops.flip(outputs[1], axis=0)], axis=-1)
        return ops.reshape(ops.transpose(outputs, (1, 0, 2)), (batch, rows, columns, 2 * units))


class AttentionDecoder(keras.layers.Layer):
    """An LSTM that attends over the memory at each step, with input feeding (Luong et al. 2015).

    h_t = LSTM([y_{t-1}; o_{t-1}]), a_t = softmax(V Wa h_t), o_t = tanh(Wc [a_t V; h_t]),
    p(y_t) = softmax(W o_t) (Deng et al. 2017, equations 1 and 2). Without the hidden-to-hidden
    term the recurrence runs through o and c alone.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.vocabulary_size = config.decoder_units, vocabulary_size
        self.hidden_recurrence = config.hidden_recurrence
        self.dropout = keras.layers.Dropout(config.dropout)

    def build(self, values_shape: Shape, embedded_shape: Shape) -> None:
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

    def call(self, values: Tensor, embedded: Tensor, mask: Tensor, training: bool = False) -> Tensor:
        """Logits of every step, given the right tokens before it.

        Args:
            values: encoded cells, (batch, cells, units).
            embedded: embeddings of the tokens before each step, (batch, steps, embedding units).
            mask: True inside the image, (batch, cells).
            training: whether dropout is active.

        Returns:
            float32 logits, (batch, steps, vocabulary).
        """
        memory = self.remember(values, mask)
        # The tokens' share of the gates, and below the logits, for all steps at once.
        gates = ops.matmul(embedded, self.embedding_kernel) + self.bias

        def step(gates: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
            state, _ = self.step(gates, DecoderState(*states), memory)
            return state.output, list(state)

        outputs = recur(step, gates, self.initial_state(values))  # (batch, steps, units)
        return self.logits(self.dropout(outputs, training=training))

    def remember(self, values: Tensor, mask: Tensor) -> Memory:
        """What does not depend on the step: the memory, and it times Wa."""
        return Memory(values, ops.matmul(values, self.attention_kernel), mask)

    def initial_state(self, values: Tensor) -> DecoderState:
        """Zeros: the state before the first token."""
        zeros = ops.zeros((ops.shape(values)[0], self.units), values.dtype)
        return DecoderState(zeros, zeros, zeros)

    def step(self, gates: Tensor, state: DecoderState, memory: Memory) -> tuple[DecoderState, Tensor]:
        """One step of the decoder.

        Args:
            gates: the token's share of the LSTM's gates, (batch, 4 * units).
            state: the state before the step.
            memory: what `remember` returned.

        Returns:
            The state after the step, and the attention weights, (batch, cells).
        """
        gates = gates + ops.matmul(state.output, self.output_kernel)
        if self.hidden_recurrence:
            gates = gates + ops.matmul(state.hidden, self.hidden_kernel)
        hidden, cell = lstm_cell(gates, state.cell)
        context, weights = standard_attention(hidden, memory.keys, memory.values, memory.mask)
        output = ops.tanh(ops.matmul(ops.concatenate([context, hidden], axis=-1), self.combine_kernel))
        return DecoderState(hidden, cell, output), weights

    def logits(self, outputs: Tensor) -> Tensor:
        """float32 logits, (..., vocabulary), of attended outputs, (..., units)."""
        return ops.cast(ops.matmul(outputs, self.logits_kernel), "float32")


class FormulaModel(keras.Model):
    """Images of formulas to LaTeX tokens.

    Args:
        config: the network's dimensions.
        vocabulary_size: tokens, the four specials included.
        max_rows: rows of cells in the tallest image; counts only with `config.row_embedding`.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, max_rows: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.vocabulary_size = config, vocabulary_size
        self.encoder = ConvolutionalEncoder(config, name="encoder")
        rows = max_rows if config.row_embedding else 0
        self.row_encoder = RowEncoder(config.decoder_units // 2, rows, name="row_encoder")
        self.embedding = keras.layers.Embedding(vocabulary_size, config.embedding_units, name="embedding")
        self.decoder = AttentionDecoder(config, vocabulary_size, name="decoder")
        self.call(
            {
                "image": ops.zeros((1, 2 * STRIDE, 2 * STRIDE, 1), "uint8"),
                "size": ops.full((1, 2), 2 * STRIDE, "int32"),
                "tokens": ops.zeros((1, 1), "int32"),
            }
        )
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor:
        """Teacher-forced logits.

        Args:
            inputs: `image`, uint8 (batch, height, width, 1), and `size`, int32 (batch, 2), as in
                `encode`; `tokens`, int32 (batch, steps), the token before each step.
            training: whether batch normalisation and dropout are active.

        Returns:
            float32 logits, (batch, steps, vocabulary).
        """
        values, mask = self.encode(inputs["image"], inputs["size"], training=training)
        return self.decoder(values, self.embedding(inputs["tokens"]), mask, training=training)

    def encode(self, images: Tensor, sizes: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """Cells of each image.

        Args:
            images: uint8, (batch, height, width, 1); sides are multiples of `STRIDE`, filled with white.
            sizes: height and width of each image before filling, int32, (batch, 2).

        Returns:
            Cells in reading order, (batch, cells, units), and whether each lies inside, bool (batch, cells).
        """
        features = self.encoder(images, sizes, training=training)
        encoded = self.row_encoder(features, sizes)
        batch, rows, columns, units = ops.shape(encoded)
        extents = -(-sizes // STRIDE)
        mask = ops.logical_and(inside(extents[:, 0], rows, 1), inside(extents[:, 1], columns, 2))
        return ops.reshape(encoded, (batch, rows * columns, self.config.decoder_units)), ops.reshape(mask, (batch, -1))

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        """One step of decoding from the tokens chosen last.

        Args:
            tokens: int32, (batch,).
            state, memory: as in `AttentionDecoder.step`.

        Returns:
            float32 logits, (batch, vocabulary), the new state, and the attention weights, (batch, cells).
        """
        gates = ops.matmul(self.embedding(tokens), self.decoder.embedding_kernel) + self.decoder.bias
        state, weights = self.decoder.step(gates, state, memory)
        return self.decoder.logits(state.output), state, weights


class _Cell:
    """What `keras.layers.RNN` asks of a cell, around a function."""

    def __init__(self, step: Step, states: Sequence[Tensor]) -> None:
        self.step = step
        self.state_size = [state.shape[-1] for state in states]
        self.compute_dtype = keras.backend.standardize_dtype(states[0].dtype)

    def call(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.step(inputs, states)

    __call__ = call


def recur(step: Step, inputs: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Runs a function over the second axis of its inputs, one step after another, on any backend.

    Args:
        step: takes the inputs of one step, (batch, ...), and the states before it; returns the output
            and the states after it.
        inputs: (batch, steps, ...).
        states: initial states, each (batch, ..., units).

    Returns:
        The outputs of all steps, (batch, steps, ...).
    """
    cell = _Cell(step, states)
    return keras.layers.RNN(cell, return_sequences=True, dtype=cell.compute_dtype)(inputs, initial_state=list(states))


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The LSTM's hidden and cell state after a step (Hochreiter and Schmidhuber 1997).

    Args:
        gates: input, forget, candidate and output gate before their non-linearity, (..., 4 * units).
        cell: cell state before, (..., units).
    """
    update, forget, candidate, output = ops.split(gates, 4, axis=-1)
    cell = ops.sigmoid(forget) * cell + ops.sigmoid(update) * ops.tanh(candidate)
    return ops.sigmoid(output) * ops.tanh(cell), cell


def _forget_bias(shape: Shape, dtype: str | None = None) -> Tensor:
    """Zeros, and ones for the forget gate (Jozefowicz et al. 2015)."""
    ones = ops.arange(shape[-1]) // (shape[-1] // 4) == 1
    return ops.broadcast_to(ops.cast(ones, dtype), shape)
