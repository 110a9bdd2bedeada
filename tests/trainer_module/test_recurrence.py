"""Compares the gradients of recurrence.py with TensorFlow's automatic gradients of plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trainer_module.attention import Memories, Memory
from trainer_module.recurrence import (
    DecoderKernels,
    DecoderState,
    decode,
    decoder_step,
    recur,
)

BATCH, STEPS, UNITS, BLOCKS = 2, 5, 3, 2
CELLS = 16 * BLOCKS


def draw(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng((seed, *shape)).normal(size=shape))


def gradients(function, arguments: list[tf.Tensor], upstream: list[tf.Tensor]) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        outputs = function(*arguments)
        value = sum(tf.reduce_sum(output * weight) for output, weight in zip(outputs, upstream, strict=True))
    tensors = tape.gradient(value, arguments, unconnected_gradients="zero")
    return [tf.convert_to_tensor(gradient).numpy() for gradient in tensors]


def gradients_in_graph(function, arguments, upstream, in_graph):
    if not in_graph:
        return gradients(function, list(arguments), upstream)
    # Sizes are known only at run time, as in training, except those of the weights.
    free = [
        tf.TensorSpec(
            [None] * (len(part.shape) - 1) + part.shape[-1:] if len(part.shape) == 3 else part.shape, part.dtype
        )
        for part in arguments
    ]

    @tf.function(input_signature=free, autograph=False)
    def graph(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = function(*arguments)
            value = sum(tf.reduce_sum(output * weight) for output, weight in zip(outputs, upstream, strict=True))
        tensors = tape.gradient(value, arguments, unconnected_gradients="zero")
        return [tf.convert_to_tensor(gradient) for gradient in tensors]

    return [gradient.numpy() for gradient in graph(*arguments)]


# The graph mode does not depend on the hidden-to-hidden term.
@pytest.mark.parametrize(("hidden_recurrence", "in_graph"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("kind", "sampled"),
    [("standard", False), ("coarse_only", False), ("hierarchical", False), ("sparsemax", False), ("hard", True)],
)
def test_the_decoder_has_the_gradients_of_a_plain_loop(kind, sampled, hidden_recurrence, in_graph):
    coarse_mask, fine_mask = np.ones((BATCH, BLOCKS), bool), np.ones((BATCH, CELLS), bool)
    coarse_mask[1, 1], fine_mask[1, 16:], fine_mask[1, 12:16] = False, False, False
    noise = tf.cast(-tf.math.log(-tf.math.log(tf.random.stateless_uniform((BATCH, STEPS, BLOCKS), (1, 2)))), tf.float64)
    noise = noise if sampled else None
    sizes = {"standard": [CELLS], "coarse_only": [BLOCKS]}.get(kind, [BLOCKS, CELLS])

    def memories(parts) -> Memories:
        by_size = {len_: Memory(values, keys, mask) for len_, values, keys, mask in zip(
            sizes, parts[::2], parts[1::2],
            [{BLOCKS: coarse_mask, CELLS: fine_mask}[size] for size in sizes], strict=True)}  # fmt: skip
        return Memories(by_size.get(BLOCKS), by_size.get(CELLS))

    def plain(gates, recurrent, combine, *parts):
        zeros = tf.zeros((BATCH, UNITS), gates.dtype)
        state, outputs, choices = DecoderState(zeros, zeros, zeros), [], []
        for step in range(STEPS):
            of_step = None if noise is None else noise[:, step : step + 1]
            state, attended = decoder_step(
                kind, DecoderKernels(recurrent, combine), gates[:, step], state, memories(parts), of_step
            )
            outputs.append(state.output)
            choices.append(tf.zeros(BATCH, gates.dtype) if noise is None else attended.chosen[:, 0])
        return tf.stack(outputs, axis=1), tf.cast(tf.stack(choices, axis=1), gates.dtype)

    def written_out(gates, recurrent, combine, *parts):
        return decode(kind, DecoderKernels(recurrent, combine), gates, memories(parts), noise)

    arguments = [
        draw(BATCH, STEPS, 4 * UNITS),
        draw((2 if hidden_recurrence else 1) * UNITS, 4 * UNITS),
        draw(2 * UNITS, UNITS),
        *(2 * draw(BATCH, *shape, seed=i) for size in sizes for i, shape in enumerate([(size, UNITS), (UNITS, size)])),
    ]
    for output, expected in zip(written_out(*arguments), plain(*arguments), strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-5)
    upstream = [draw(BATCH, STEPS, UNITS, seed=1), draw(BATCH, STEPS, seed=2)]
    actual = gradients_in_graph(written_out, arguments, upstream, in_graph)
    for i, (gradient, expected) in enumerate(zip(actual, gradients(plain, arguments, upstream), strict=True)):
        np.testing.assert_allclose(gradient, expected, atol=1e-5, err_msg=f"argument {i}")
    # Only the keys of coarse cells are used if there are fine cells.
    moved = [np.abs(gradient).max() > 1e-3 for gradient in actual]
    assert moved == [not (len(sizes) == 2 and i == 3) for i in range(len(moved))]


def test_a_recurrence_may_run_backwards():
    inputs = draw(BATCH, STEPS, UNITS)
    zeros = tf.zeros((BATCH, UNITS), inputs.dtype)
    outputs, (last,) = recur(lambda x, states: (x + states[0], [x + states[0]]), inputs, [zeros], backwards=True)
    np.testing.assert_allclose(outputs, np.cumsum(inputs.numpy()[:, ::-1], axis=1)[:, ::-1])
    np.testing.assert_allclose(last, inputs.numpy().sum(axis=1))
