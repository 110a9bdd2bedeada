"""The decoder: an LSTM with attention that writes a formula token by token. It uses Keras only."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainer_module.attention import Memories, Memory, fill_blocks, flat, in_blocks
from trainer_module.config.model import ModelConfig
from trainer_module.encoder import Encoded
from trainer_module.recurrence import DecoderKernels, DecoderState, Shape, Tensor, decode, forget_bias


class AttentionDecoder(keras.layers.Layer):
    """An LSTM that attends over the memory at each step, with input feeding (Luong et al. 2015).

    h_t = LSTM([y_{t-1}; o_{t-1}]), a_t = softmax(V Wa h_t), o_t = tanh(Wc [a_t V; h_t]),
    p(y_t) = softmax(W o_t) (Deng et al. 2017, equations 1 and 2), or with the coarse-to-fine
    attention of `config.attention`; the coarse and the fine grid share Wa. Without
    `config.hidden_recurrence`, the gates depend on o_{t-1} but not on h_{t-1}.
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
        self.bias = self.add_weight(shape=(4 * units,), name="bias", initializer=forget_bias)
        self.attention_kernel = self.add_weight(shape=(units, units), name="attention_kernel")
        self.combine_kernel = self.add_weight(shape=(2 * units, units), name="combine_kernel")
        self.logits_kernel = self.add_weight(shape=(units, self.vocabulary_size), name="logits_kernel")

    def call(self, encoded: Encoded, embedded: Tensor, training: bool = False) -> Tensor | dict[str, Tensor]:
        """Computes the logits of every step with teacher forcing.

        Args:
            encoded: the encoded images.
            embedded: embeddings of the correct token before each step, (batch, steps, embedding units).
            training: whether dropout is active and hard attention samples.

        Returns:
            float32 logits, (batch, steps, vocabulary). Hard attention in training returns a dictionary of `logits` and
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
        """Computes the tokens' contribution to the LSTM's gates, (..., 4 * units), from their embeddings."""
        return ops.matmul(embedded, self.embedding_kernel) + self.bias

    def kernels(self, dtype: str = "float32") -> DecoderKernels:
        """Combines the weights of a step; call it once before a loop over steps."""
        recurrent = [self.output_kernel, self.hidden_kernel] if self.hidden_recurrence else [self.output_kernel]
        return DecoderKernels(
            ops.concatenate([ops.cast(kernel, dtype) for kernel in recurrent], axis=0),
            ops.cast(self.combine_kernel, dtype),
        )

    def remember(self, encoded: Encoded) -> Memories:
        """Computes what does not depend on the step: the cells, and their products with Wa."""

        def memory(values: Tensor, mask: Tensor) -> Memory:
            return Memory(values, ops.transpose(ops.matmul(values, self.attention_kernel), (0, 2, 1)), mask)

        coarse = fine = None
        if encoded.coarse is not None:
            coarse = memory(*(flat(part) for part in encoded.coarse))
        if encoded.fine is not None:
            lay_out = flat if coarse is None else lambda part: in_blocks(fill_blocks(part))
            fine = memory(*(lay_out(part) for part in encoded.fine))
        return Memories(coarse, fine)

    def initial_state(self, count: Tensor, dtype: str = "float32") -> DecoderState:
        """Returns the state before the first token, zeros, for `count` queries."""
        zeros = ops.zeros((count, self.units), dtype)
        return DecoderState(zeros, zeros, zeros)

    def logits(self, outputs: Tensor) -> Tensor:
        """Computes float32 logits, (..., vocabulary), from attended outputs, (..., units)."""
        return ops.cast(ops.matmul(outputs, self.logits_kernel), "float32")
