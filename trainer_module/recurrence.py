"""Recurrent loops over columns and tokens, with a custom gradient for the decoder.

In the backward pass, each decoder step passes only the gradients of the states to the step before it. Everything else
needs no loop: the activations are recomputed from the states for all steps at once before the loop, and the gradients
of the weights and the memory, which are sums over all steps, are computed after it. Automatic differentiation would
accumulate these sums in each step, and so move the memory and every weight through the CPU caches each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
from keras import ops

from trainer_module.attention import Attended, Memories, Memory, attend, attend_gradient, soft_coarse, transposed

# A tensor of the current backend.
Tensor: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
# A step of a recurrence: takes its inputs and the states before it, returns its output and the states after it.
Step: TypeAlias = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, list[Tensor]]]


class DecoderState(NamedTuple):
    """The state that the decoder passes from step to step; each tensor is (batch * queries, units)."""

    hidden: Tensor  # h, the LSTM's output
    cell: Tensor  # c, the LSTM's memory
    output: Tensor  # o, the attended output


class DecoderKernels(NamedTuple):
    """The weights of a decoder step."""

    recurrent: Tensor  # from [o; h], or from o only, to the gates, (2 * units or units, 4 * units)
    combine: Tensor  # Wc, (2 * units, units)


def decoder_step(
    kind: str,
    kernels: DecoderKernels,
    gates: Tensor,
    state: DecoderState,
    memories: Memories,
    noise: Tensor | None = None,
) -> tuple[DecoderState, Attended]:
    """Runs one decoder step for one or more queries per image; the queries of an image are adjacent.

    Args:
        kind, noise: as in `attend`.
        kernels: the weights.
        gates: the tokens' contribution to the LSTM's gates, (batch * queries, 4 * units).
        state: the state before the step.
        memories: the memories of the images.

    Returns:
        The state after the step, and the attention.
    """
    units = kernels.combine.shape[1]
    hidden, cell = lstm_cell(
        gates + ops.matmul(_carried(kernels, state.output, state.hidden), kernels.recurrent), state.cell
    )
    batch = ops.shape(memories.read.mask)[0]
    query = ops.reshape(hidden, (batch, ops.shape(hidden)[0] // batch, units))
    attended = attend(kind, query, memories, noise)
    context = ops.reshape(attended.context, ops.shape(hidden))
    output = ops.tanh(ops.matmul(ops.concatenate([context, hidden], axis=-1), kernels.combine))
    return DecoderState(hidden, cell, output), attended


def decode_all(
    kind: str, kernels: DecoderKernels, gates: Tensor, memories: Memories, noise: Tensor | None = None
) -> tuple[Tensor, Attended]:
    """Runs all decoder steps from a zero state, without the custom gradient.

    Args:
        kind, kernels, memories: as in `decoder_step`.
        gates: the tokens' contribution to the gates, (batch, steps, 4 * units).
        noise: (batch, steps, coarse cells).

    Returns:
        [o; h; c] of each step, (batch, steps, 3 * units), and the attention of each step without the
        context: `coarse` and `fine` (batch, steps, cells), `chosen` (batch, steps).
    """
    units = kernels.combine.shape[1]
    inputs = gates if noise is None else ops.concatenate([gates, ops.cast(noise, gates.dtype)], axis=-1)

    def step(inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        of_step = None if noise is None else ops.expand_dims(inputs[:, 4 * units :], 1)
        state, attended = decoder_step(kind, kernels, inputs[:, : 4 * units], DecoderState(*states), memories, of_step)
        parts = [state.output, state.hidden, state.cell]
        if noise is not None:
            parts.append(ops.cast(attended.chosen, gates.dtype))
        parts += [ops.cast(part[:, 0], gates.dtype) for part in (attended.coarse, attended.fine) if part is not None]
        return ops.concatenate(parts, axis=-1), list(state)

    zeros = ops.zeros((ops.shape(gates)[0], units), gates.dtype)
    outputs, _ = recur(step, inputs, [zeros, zeros, zeros])
    cells = [0 if memory is None else ops.shape(memory.mask)[1] for memory in memories]
    states, chosen, coarse, fine = _cut(outputs, [3 * units, 0 if noise is None else 1, *cells])
    return states, Attended(
        None,
        None if memories.coarse is None else coarse,
        None if memories.fine is None else fine,
        None if noise is None else chosen[..., 0],
    )


def decode(
    kind: str, kernels: DecoderKernels, gates: Tensor, memories: Memories, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Runs all decoder steps with the custom gradient, for training.

    Args:
        kind, kernels, gates, memories, noise: as in `decode_all`.

    Returns:
        The attended outputs, (batch, steps, units), and the log-probability of each step's choice,
        (batch, steps), which is zero without `noise`.
    """
    masks = [None if memory is None else memory.mask for memory in memories]
    units = kernels.combine.shape[1]

    @ops.custom_gradient
    def run(gates: Tensor, recurrent: Tensor, combine: Tensor, *values_and_keys: Tensor) -> Any:
        parts = iter(values_and_keys)
        seen = Memories(*(None if mask is None else Memory(next(parts), next(parts), mask) for mask in masks))
        kernels = DecoderKernels(recurrent, combine)
        states, attended = decode_all(kind, kernels, gates, seen, noise)
        chosen = ops.zeros_like(gates[..., 0]) if attended.chosen is None else attended.chosen

        def gradient(*arguments: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, ...]:
            d_outputs = arguments[0] if upstream is None else upstream
            return _decode_gradient(kind, kernels, gates, seen, states, attended, d_outputs)

        # Return a single tensor, because the backends pass the gradients of several tensors in different ways.
        return ops.concatenate([states[..., :units], ops.expand_dims(chosen, -1)], axis=-1), gradient

    values_and_keys = [part for memory in memories if memory is not None for part in memory[:2]]
    outputs = run(gates, *kernels, *values_and_keys)
    return outputs[..., :units], outputs[..., units]


def _decode_gradient(
    kind: str,
    kernels: DecoderKernels,
    gates: Tensor,
    memories: Memories,
    states: Tensor,
    attended: Attended,
    d_outputs: Tensor,
) -> tuple[Tensor, ...]:
    """Computes the gradients of the gates, both kernels, and each memory's values and keys.

    Args:
        kind, kernels, gates, memories: the arguments of `decode_all`.
        states, attended: the results of `decode_all`.
        d_outputs: gradients of o and of `attended.chosen`, (batch, steps, units + 1).
    """
    units = kernels.combine.shape[1]
    has_hidden = kernels.recurrent.shape[0] > units
    output, hidden, cell = _cut(states, [units] * 3)
    # Before the loop: recompute the activations, and their derivatives.
    carried = _carried(kernels, _before(output), _before(hidden))
    factors = lstm_factors(gates + ops.matmul(carried, kernels.recurrent), _before(cell), cell)
    inputs = [d_outputs[..., :units], 1.0 - ops.square(output), factors]
    attention_parts = [part for part in (attended.coarse, attended.fine) if part is not None]
    if attended.chosen is not None and memories.coarse is not None:
        # This gradient does not depend on later steps.
        probabilities = ops.cast(soft_coarse(hidden, memories.coarse), gates.dtype)
        attention_parts.append(d_outputs[..., units:] * (attended.coarse - probabilities))
    inputs += attention_parts
    widths = [ops.shape(part)[-1] for part in inputs]
    from_gates, from_combined = ops.transpose(kernels.recurrent), ops.transpose(kernels.combine)
    from_memories = transposed(memories)

    def step(inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        d_output, slope, factors, *parts = _cut(inputs, widths)
        attention_parts = iter(ops.expand_dims(part, 1) for part in parts)
        coarse = None if memories.coarse is None else next(attention_parts)
        fine = None if memories.fine is None else next(attention_parts)
        d_carried_output, d_carried_hidden, d_cell = states
        d_sum = (d_output + d_carried_output) * slope
        d_context, d_hidden = _cut(ops.matmul(d_sum, from_combined), [units, units])
        d_query, *d_scores = attend_gradient(
            kind,
            Attended(None, coarse, fine, None),
            from_memories,
            ops.expand_dims(d_context, 1),
            next(attention_parts, None),
        )
        d_gates, d_cell = lstm_gradient(factors, d_hidden + d_carried_hidden + d_query[:, 0], d_cell)
        d_carried = ops.matmul(d_gates, from_gates)
        d_hidden = d_carried[:, units:] if has_hidden else ops.zeros_like(d_cell)
        d_steps = [d_sum, d_gates, *(part[:, 0] for part in d_scores if part is not None)]
        return ops.concatenate(d_steps, axis=-1), [d_carried[:, :units], d_hidden, d_cell]

    zeros = ops.zeros_like(output[:, 0])
    d_steps, _ = recur(step, ops.concatenate(inputs, axis=-1), [zeros, zeros, zeros], backwards=True)
    # After the loop: the sums over all steps.
    cells = [ops.shape(memory.mask)[1] for memory in memories if memory is not None]
    d_sum, d_gates, *d_scores = _cut(d_steps, [units, 4 * units, *cells])
    d_context = ops.matmul(d_sum, from_combined[:, :units])
    weights = attention_parts[len(cells) - 1]  # attention weights of the grid from which the context is taken
    combined = ops.concatenate([ops.matmul(weights, memories.read.values), hidden], axis=-1)
    d_memories: list[Tensor] = []
    for memory, d_score in zip([memory for memory in memories if memory is not None], d_scores, strict=True):
        is_read = memory is memories.read
        d_memories += [
            ops.einsum("bsc,bsu->bcu", weights, d_context) if is_read else ops.zeros_like(memory.values),
            ops.einsum("bsu,bsc->buc", hidden, d_score),
        ]
    return d_gates, _outer(carried, d_gates), _outer(combined, d_sum), *d_memories


def recur(step: Step, inputs: Tensor, states: Sequence[Tensor], backwards: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Runs a function sequentially over the second axis of its inputs, on any backend.

    Args:
        step: takes the inputs of one step, (batch, ...), and the states before it; returns the output
            and the states after it.
        inputs: (batch, steps, ...).
        states: initial states, each (batch, ..., units).
        backwards: whether to run from the last step to the first.

    Returns:
        The outputs of all steps, (batch, steps, ...), in the order of the inputs, and the last states.
    """
    cell = _Cell(step, states)
    layer = keras.layers.RNN(
        cell, return_sequences=True, return_state=True, go_backwards=backwards, dtype=cell.compute_dtype
    )
    outputs, *last = layer(inputs, initial_state=list(states))
    return ops.flip(outputs, axis=1) if backwards else outputs, last


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the LSTM's hidden and cell state after a step (Hochreiter and Schmidhuber 1997).

    Args:
        gates: input, forget, candidate and output gate before their non-linearities, (..., 4 * units).
        cell: cell state before the step, (..., units).
    """
    update, forget, candidate, output = ops.split(gates, 4, axis=-1)
    cell = ops.sigmoid(forget) * cell + ops.sigmoid(update) * ops.tanh(candidate)
    return ops.sigmoid(output) * ops.tanh(cell), cell


def forget_bias(shape: Shape, dtype: str | None = None) -> Tensor:
    """Initialises the biases of an LSTM: ones for the forget gate, otherwise zeros (Jozefowicz et al. 2015)."""
    ones = ops.arange(shape[-1]) // (shape[-1] // 4) == 1
    return ops.broadcast_to(ops.cast(ones, dtype), shape)


def lstm_factors(gates: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Computes the factors that `lstm_gradient` needs, (..., 6 * units).

    Args:
        gates: as in `lstm_cell`.
        before, after: cell states before and after the step, (..., units).
    """
    update, forget, candidate, output = ops.split(gates, 4, axis=-1)
    update, forget, output = ops.sigmoid(update), ops.sigmoid(forget), ops.sigmoid(output)
    candidate, shown = ops.tanh(candidate), ops.tanh(after)
    return ops.concatenate(
        [
            candidate * update * (1.0 - update),
            before * forget * (1.0 - forget),
            update * (1.0 - ops.square(candidate)),
            shown * output * (1.0 - output),
            output * (1.0 - ops.square(shown)),
            forget,
        ],
        axis=-1,
    )


def lstm_gradient(factors: Tensor, d_hidden: Tensor, d_cell: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the gradients of the gates and of the cell state before a step from those of the states after it."""
    update, forget, candidate, output, shown, kept = ops.split(factors, 6, axis=-1)
    d_cell = d_cell + d_hidden * shown
    d_gates = ops.concatenate([d_cell * update, d_cell * forget, d_cell * candidate, d_hidden * output], axis=-1)
    return d_gates, d_cell * kept


class _Cell:
    """Wraps a step function as a cell for `keras.layers.RNN`."""

    def __init__(self, step: Step, states: Sequence[Tensor]) -> None:
        self.step = step
        self.state_size = [state.shape[-1] for state in states]
        self.compute_dtype = keras.backend.standardize_dtype(states[0].dtype)

    def call(self, inputs: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.step(inputs, states)

    __call__ = call


def _carried(kernels: DecoderKernels, output: Tensor, hidden: Tensor) -> Tensor:
    """Returns the part of the state that the gates depend on: [o; h], or o without a hidden-to-hidden term."""
    if kernels.recurrent.shape[0] == kernels.combine.shape[1]:
        return output
    return ops.concatenate([output, hidden], axis=-1)


def _before(sequence: Tensor) -> Tensor:
    """Shifts a sequence by one step along the second axis, with zeros before the first step."""
    return ops.concatenate([ops.zeros_like(sequence[:, :1]), sequence[:, :-1]], axis=1)


def _cut(tensor: Tensor, widths: Sequence[int | Tensor]) -> list[Tensor]:
    """Splits the last axis into parts of these widths."""
    parts, start = [], 0
    for width in widths:
        part = tensor[..., start : start + width]
        # The reshape sets the static size, which a slice of an axis of unknown size lacks.
        parts.append(ops.reshape(part, (*ops.shape(part)[:-1], width)))
        start = start + width
    return parts


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Sums the outer products of (..., m) and (..., n). Returns (m, n)."""
    m, n = left.shape[-1], right.shape[-1]
    return ops.matmul(ops.transpose(ops.reshape(left, (-1, m))), ops.reshape(right, (-1, n)))
