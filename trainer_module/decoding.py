"""Beam search from images to the tokens of their formulas, inside the graph."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from trainer_module.features import END, PAD, START
from trainer_module.model import FormulaModel
from trainer_module.recurrence import DecoderState, Tensor

# Log-probability of impossible continuations.
NEVER = -1e9


class Decoded(NamedTuple):
    """The hypotheses for each image of a batch, best first.

    If the search finds fewer hypotheses than `width`, the others are empty, with a log-probability of minus infinity.

    Attributes:
        tokens: token ids without the end token, followed by padding, int32, (batch, width, steps).
        log_probability: natural log-probability of the tokens and the end token, float32, (batch, width).
        score: log_probability with the length penalty applied, float32, (batch, width).
    """

    tokens: Tensor
    log_probability: Tensor
    score: Tensor


def search(
    model: FormulaModel,
    images: Tensor,
    sizes: Tensor,
    max_tokens: int,
    width: int | Tensor = 1,
    length_penalty: float | Tensor = 0.0,
) -> Decoded:
    """Reads formulas from images with beam search.

    Each step keeps the most probable hypotheses; the search stops when all of them have ended. All steps cost the same,
    because only the decoder's state is passed on. The cells of the images are not repeated for the hypotheses.

    Args:
        model: the model.
        images: uint8, (batch, height, width, 1), as in `FormulaModel.encode`.
        sizes: height and width of each image, int32, (batch, 2).
        max_tokens: maximum number of tokens in a formula.
        width: beam width, at least 1; 1 is greedy decoding.
        length_penalty: after the search, hypotheses of n tokens are ranked by log-probability / ((6 + n) / 6) to this
            power (Wu et al. 2016, section 7, with the end counted as a token).
    """
    memories = model.decoder.remember(model.encode(images, sizes))
    kernels = model.decoder.kernels()
    batch = ops.shape(images)[0]
    positions = ops.reshape(ops.arange(max_tokens, dtype="int32"), (1, 1, -1))
    # Index of each image's first hypothesis among the hypotheses of all images.
    first = ops.expand_dims(ops.arange(batch, dtype="int32") * width, 1)
    vocabulary = ops.arange(model.vocabulary_size, dtype="int32")
    # Padding and start tokens are never allowed, and after the last position only the end token is.
    only_end = ops.where(vocabulary == END, 0.0, NEVER)
    allowed = ops.where(ops.logical_or(vocabulary == PAD, vocabulary == START), NEVER, 0.0)

    def unfinished(step: Tensor, last: Tensor, ended: Tensor, *_: Tensor) -> Tensor:
        return ops.logical_and(step < max_tokens + 1, ops.logical_not(ops.all(ended)))

    def extend(
        step: Tensor, last: Tensor, ended: Tensor, state: Tensor, tokens: Tensor, log_probability: Tensor
    ) -> tuple[Tensor, ...]:
        logits, state, _ = model.step(ops.reshape(last, (-1,)), DecoderState(*state), memories, kernels)
        gains = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
        gains = gains + ops.where(step < max_tokens, allowed, only_end)
        # A finished hypothesis has a single continuation, at no cost.
        gains = ops.reshape(gains, (batch, width, model.vocabulary_size))
        gains = ops.where(ops.expand_dims(ended, -1), only_end, gains)
        candidates = ops.expand_dims(log_probability, -1) + gains
        log_probability, best = ops.top_k(ops.reshape(candidates, (batch, width * model.vocabulary_size)), width)
        best = ops.cast(best, "int32")
        chosen, parents = best % model.vocabulary_size, first + best // model.vocabulary_size
        rows = ops.reshape(parents, (-1,))
        state = tuple(ops.take(part, rows, axis=0) for part in state)
        tokens = ops.reshape(ops.take(ops.reshape(tokens, (-1, max_tokens)), rows, axis=0), (batch, width, max_tokens))
        ended = ops.equal(chosen, END)
        written = ops.expand_dims(ops.where(ended, PAD, chosen), -1)
        return step + 1, chosen, ended, state, ops.where(ops.equal(positions, step), written, tokens), log_probability

    beams = ops.arange(width, dtype="int32")
    start = (
        ops.zeros((), "int32"),
        ops.full((batch, width), START, "int32"),
        ops.zeros((batch, width), "bool"),
        tuple(model.decoder.initial_state(batch * width)),
        ops.full((batch, width, max_tokens), PAD, "int32"),
        # All hypotheses start equal, so only one of them may continue.
        ops.where(beams == 0, 0.0, NEVER) + ops.zeros((batch, 1)),
    )
    *_, tokens, log_probability = ops.while_loop(unfinished, extend, start)
    return _ranked(tokens, log_probability, length_penalty)


def _ranked(tokens: Tensor, log_probability: Tensor, length_penalty: float | Tensor) -> Decoded:
    """Orders hypotheses by their scores, best first; arguments as in `Decoded` and `search`."""
    lengths = ops.cast(ops.sum(ops.cast(tokens != PAD, "int32"), axis=-1), "float32")
    penalties = ops.power((6.0 + lengths) / 6.0, length_penalty)
    score, order = ops.top_k(log_probability / penalties, ops.shape(log_probability)[1])
    tokens = ops.take_along_axis(tokens, ops.expand_dims(order, -1), axis=1)
    log_probability = ops.take_along_axis(log_probability, order, axis=1)
    is_complete = log_probability > NEVER / 2
    return Decoded(
        ops.where(ops.expand_dims(is_complete, -1), tokens, PAD),
        ops.where(is_complete, log_probability, -float("inf")),
        ops.where(is_complete, score, -float("inf")),
    )
