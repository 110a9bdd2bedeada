"""The Im2Markup model: convolutions, a row encoder and an attention decoder, in Keras only.

This is the model of Deng et al., "Image-to-Markup Generation with Coarse-to-Fine Attention"
(ICML 2017), section 4, with the dimensions of the Image2Latex-TF2 project. It does not import
TensorFlow, so it runs on every Keras backend.

An image is padded with white to a multiple of `STRIDE`. Beyond that, activations are zero at
every layer, exactly like the zero padding of a convolution. Therefore an image has the same
logits alone and in any batch.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer_module.attention import BLOCK, OUTSIDE, Attended, Memories, fill_blocks, in_blocks, lookups, out_of_blocks
from trainer_module.config.image import STRIDE
from trainer_module.config.model import ModelConfig
from trainer_module.decoder import AttentionDecoder
from trainer_module.encoder import Cells, Convolutions, Encoded, RowEncoder, inside
from trainer_module.recurrence import DecoderKernels, DecoderState, Tensor, decode_all, decoder_step

# Hard attention: discount of later rewards, and update rate of their moving average (Deng et al. 2017, section 5).
HARD_DISCOUNT = 0.5
HARD_BASELINE_RATE = 0.01


class FormulaModel(keras.Model):
    """A model from images of formulas to LaTeX tokens.

    Args:
        config: the network's dimensions.
        vocabulary_size: number of tokens, including the four special tokens.
        max_rows: rows of cells in the tallest image; used only with `config.row_embedding`.
        dtype: Keras dtype policy: `float32`, or `mixed_bfloat16` to compute in lower precision.
    """

    # Pooling after each of the six convolutions, and whether it has batch normalisation (Deng et al. 2017, table 1).
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
        # Calling the decoder to build it fails: Keras 3.12, on Python 3.10, needs the shape of a grid that is None.
        self.decoder.build(None, embedded.shape)
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool = False) -> Tensor | dict[str, Tensor]:
        """Computes logits with teacher forcing.

        Args:
            inputs: `image`, uint8 (batch, height, width, 1), and `size`, int32 (batch, 2), as in
                `encode`; `tokens`, int32 (batch, steps), the token before each step.
            training: whether batch statistics and dropout are used and hard attention samples.

        Returns:
            The result of `AttentionDecoder.call`.
        """
        encoded = self.encode(inputs["image"], inputs["size"], training=training)
        return self.decoder(encoded, self.embedding(inputs["tokens"]), training=training)

    def encode(self, images: Tensor, sizes: Tensor, training: bool = False) -> Encoded:
        """Encodes images into grids of cells.

        Args:
            images: grey levels, uint8, (batch, height, width, 1), padded with white to multiples of `STRIDE`.
            sizes: height and width of each image before padding, int32, (batch, 2).
            training: whether batch normalisation uses and updates statistics.
        """
        # Keras tries models with float inputs.
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
        """Returns the maximum over the cells of each block that are inside the image; zero if there are none."""
        within = ops.expand_dims(inside(extents, *ops.shape(features)[1:3]), -1)
        features = fill_blocks(ops.where(within, features, ops.cast(OUTSIDE, features.dtype)), OUTSIDE)
        batch, rows, columns, channels = ops.shape(features)
        pooled = ops.max(ops.reshape(in_blocks(features), (batch, -1, BLOCK * BLOCK, channels)), axis=2)
        pooled = ops.where(pooled > OUTSIDE / 2, pooled, ops.zeros_like(pooled))
        return ops.reshape(pooled, (batch, rows // BLOCK, columns // BLOCK, channels))

    def step(
        self, tokens: Tensor, state: DecoderState, memories: Memories, kernels: DecoderKernels
    ) -> tuple[Tensor, DecoderState, Attended]:
        """Decodes one step.

        Args:
            tokens: the tokens chosen last, int32, (batch * queries,).
            state, memories, kernels: as in `decoder_step`.

        Returns:
            float32 logits, (batch * queries, vocabulary), the new state, and the attention.
        """
        gates = self.decoder.gates(self.embedding(tokens))
        state, attended = decoder_step(self.config.attention, kernels, gates, state, memories)
        return self.decoder.logits(state.output), state, attended

    def attention_maps(self, images: Tensor, sizes: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Returns the attention weights of each step.

        Args:
            images, sizes: as in `encode`.
            tokens: the token before each step, int32, (batch, steps).

        Returns:
            `coarse` and `fine`, for the grids that the model has: weights of the cells, float32,
            (batch, steps, rows, columns). A fine cell covers `STRIDE` x `STRIDE` pixels, a coarse one
            `BLOCK` x `BLOCK` fine cells.
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
        """Counts the coarse and fine cells that the model scores in each step, see `attention.lookups`.

        Args:
            images, sizes, tokens: as in `attention_maps`.

        Returns:
            Numbers of coarse and of fine cells, int32, (batch, steps).
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
        """Computes the loss, with the REINFORCE term for hard attention (Williams 1992).

        The term adds a gradient but has the value zero. The reward of a step is the log-likelihood of its
        token; each choice of a cell is credited with its own and the discounted later rewards, minus a moving
        average (Deng et al. 2017, section 4).
        """
        if not isinstance(y_pred, dict):
            return super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        loss = super().compute_loss(x=x, y=y, y_pred=y_pred["logits"], sample_weight=sample_weight, training=training)
        weights = ops.cast(sample_weight, "float32")
        count = ops.maximum(ops.sum(weights), 1.0)
        rewards = -ops.stop_gradient(self.loss.call(y, y_pred["logits"])) * weights
        steps = ops.arange(ops.shape(rewards)[1], dtype="float32")
        ahead = ops.expand_dims(steps, 1) - steps  # distance from the step in the second axis to the first
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
