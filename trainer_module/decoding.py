"""From an image to the tokens of its formula, one step after another, inside the graph."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from trainer_module.features import END, PAD, START
from trainer_module.model import DecoderState, FormulaModel, Tensor


class Decoded(NamedTuple):
    """What was read from a batch of images."""

    tokens: Tensor  # ids, padded behind the end, int32, (batch, steps)
    log_probability: Tensor  # of the tokens and the end, natural, float32, (batch,)


def greedy(model: FormulaModel, images: Tensor, sizes: Tensor, max_tokens: int) -> Decoded:
    """Takes the likeliest token at each step until every formula has ended.

    A step costs the same wherever it stands: only the decoder's state is carried on.

    Args:
        model: the model.
        images: uint8, (batch, height, width, 1), as `FormulaModel.encode` takes them.
        sizes: int32, (batch, 2).
        max_tokens: formulas are cut here.
    """
    values, mask = model.encode(images, sizes)
    memory = model.decoder.remember(values, mask)
    batch = ops.shape(values)[0]
    positions = ops.expand_dims(ops.arange(max_tokens, dtype="int32"), 0)

    def unfinished(step: Tensor, last: Tensor, ended: Tensor, *_: Tensor) -> Tensor:
        return ops.logical_and(step < max_tokens + 1, ops.logical_not(ops.all(ended)))

    def decode(
        step: Tensor, last: Tensor, ended: Tensor, state: Tensor, tokens: Tensor, log_probability: Tensor
    ) -> tuple[Tensor, ...]:
        logits, state, _ = model.step(last, DecoderState(*state), memory)
        # Padding and the start are never answers, and behind the last place there is only the end.
        answers = ops.concatenate([ops.full_like(logits[:, :END], -1e9), logits[:, END:]], axis=-1)
        best = ops.where(step < max_tokens, ops.cast(ops.argmax(answers, axis=-1), "int32"), END)
        chosen = ops.squeeze(ops.take_along_axis(logits, ops.expand_dims(best, 1), axis=-1), -1)
        gain = chosen - ops.logsumexp(logits, axis=-1)
        log_probability = log_probability + ops.where(ended, 0.0, gain)
        ended = ops.logical_or(ended, ops.equal(best, END))
        written = ops.expand_dims(ops.where(ended, PAD, best), 1)
        tokens = ops.where(ops.equal(positions, step), written, tokens)
        return step + 1, best, ended, tuple(state), tokens, log_probability

    start = (
        ops.zeros((), "int32"),
        ops.full((batch,), START, "int32"),
        ops.zeros((batch,), "bool"),
        tuple(model.decoder.initial_state(values)),
        ops.full((batch, max_tokens), PAD, "int32"),
        ops.zeros((batch,), "float32"),
    )
    *_, tokens, log_probability = ops.while_loop(unfinished, decode, start)
    return Decoded(tokens, log_probability)
