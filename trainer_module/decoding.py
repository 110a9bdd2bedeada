"""Beam search from images to the tokens of their formulas, inside the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from im2latex.graph import LOOPS, LOOPS_AT_LIMIT, MAX_PERIOD
from im2latex.groups import groups_of
from trainer_module.features import END, PAD, START
from trainer_module.model import FormulaModel
from trainer_module.recurrence import DecoderState, Tensor

# Log-probability of impossible continuations.
NEVER = -1e9
# Maximum number of groups within each other; of 347,000 real formulas, none has more than 13.
MAX_DEPTH = 32


class Decoded(NamedTuple):
    """The hypotheses for each image of a batch, best first.

    If the search finds fewer hypotheses than `width`, the others are empty, with a log-probability of minus infinity.

    Attributes:
        tokens: token ids without the end token, followed by padding, int32, (batch, width, steps).
        token_log_probability: natural log-probability of each token, 0 after the last, float32, (batch, width, steps).
        log_probability: natural log-probability of the tokens and the end token, float32, (batch, width).
        score: log_probability with the length penalty applied, float32, (batch, width).
    """

    tokens: Tensor
    token_log_probability: Tensor
    log_probability: Tensor
    score: Tensor


def search(
    model: FormulaModel,
    images: Tensor,
    sizes: Tensor,
    max_tokens: int,
    width: int | Tensor = 1,
    length_penalty: float | Tensor = 0.0,
    views: int = 1,
    vocabulary: Sequence[str] = (),
) -> Decoded:
    """Reads formulas from images with beam search.

    Each step keeps the most probable hypotheses; the search stops when all of them have ended. All steps cost the same,
    because only the decoder's state is passed on. The cells of the images are not repeated for the hypotheses.

    A hypothesis in a loop (`im2latex.graph.LOOPS`; at the maximum length, `LOOPS_AT_LIMIT`) is ended, and the
    repetitions are removed. Its log-probability still includes the removed tokens.

    A hypothesis closes only the innermost open group. If it ends within a group, the group is closed first, with the
    probability of the end; not in a loop, and not at the maximum length.

    Args:
        model: the model.
        images: uint8, (batch, height, width, 1), as in `FormulaModel.encode`.
        sizes: height and width of each image, int32, (batch, 2).
        max_tokens: maximum number of tokens in a formula.
        width: beam width, at least 1; 1 is greedy decoding.
        length_penalty: after the search, hypotheses of n tokens are ranked by log-probability / ((6 + n) / 6) to this
            power (Wu et al. 2016, section 7, with the end counted as a token).
        views: number of consecutive images that show the same formula in different sizes; it divides the batch. The
            probability of a token is its mean over them, and their rows of the result are equal.
        vocabulary: the text of each token id, which says which tokens open and close groups; if empty, none does.
    """
    memories = model.decoder.remember(model.encode(images, sizes))
    kernels = model.decoder.kernels()
    batch = ops.shape(images)[0]
    positions = ops.reshape(ops.arange(max_tokens, dtype="int32"), (1, 1, -1))
    # Index of each image's first hypothesis among the hypotheses of all images.
    first = ops.expand_dims(ops.arange(batch, dtype="int32") * width, 1)
    # After the last position, only the end token is possible; padding and start tokens never are.
    ids = np.arange(model.vocabulary_size)
    groups = groups_of(vocabulary or [""] * len(ids), END)
    possible = ~groups.forbidden & (ids != PAD) & (ids != START)
    # The last two have a row for each kind of the innermost open group.
    only_end, allowed, closing = (
        ops.convert_to_tensor(np.where(is_possible, 0, NEVER).astype(np.float32))
        for is_possible in (ids == END, possible, groups.ending)
    )
    opened, closed = ops.convert_to_tensor(groups.opened), ops.convert_to_tensor(groups.closed)
    loops = ops.convert_to_tensor(LOOPS, "int32")

    def unfinished(step: Tensor, last: Tensor, ended: Tensor, *_: Tensor) -> Tensor:
        return ops.logical_and(step < max_tokens + 1, ops.logical_not(ops.all(ended)))

    def rows_of(values: Tensor, rows: Tensor) -> Tensor:
        length = values.shape[-1]
        return ops.reshape(ops.take(ops.reshape(values, (-1, length)), rows, axis=0), (batch, width, length))

    def extend(
        step: Tensor,
        last: Tensor,
        ended: Tensor,
        state: Tensor,
        tokens: Tensor,
        gained: Tensor,
        recent: Tensor,
        repeated: Tensor,
        within: Tensor,
        before: Tensor,
    ) -> tuple[Tensor, ...]:
        logits, state, _ = model.step(ops.reshape(last, (-1,)), DecoderState(*state), memories, kernels)
        gains = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
        if views > 1:
            of_views = ops.reshape(gains, (-1, views, width, model.vocabulary_size))
            mean = ops.logsumexp(of_views, axis=1, keepdims=True) - math.log(views)
            gains = ops.broadcast_to(mean, ops.shape(of_views))
        gains = ops.reshape(gains, (batch, width, model.vocabulary_size))
        has_to_end = ops.logical_or(step >= max_tokens, ops.any(repeated >= loops, axis=-1, keepdims=True))
        innermost = within[..., 0]
        closed_first = gains[..., END : END + 1] + ops.take(closing, innermost, axis=0)
        matching = ops.maximum(gains, closed_first) + ops.take(allowed, innermost, axis=0)
        gains = ops.where(has_to_end, gains + only_end, matching)
        # A finished hypothesis has a single continuation, at no cost.
        gains = ops.where(ops.expand_dims(ended, -1), only_end, gains)
        candidates = ops.expand_dims(before, -1) + gains
        log_probability, best = ops.top_k(ops.reshape(candidates, (batch, width * model.vocabulary_size)), width)
        best = ops.cast(best, "int32")
        chosen, parents = best % model.vocabulary_size, first + best // model.vocabulary_size
        rows = ops.reshape(parents, (-1,))
        state = tuple(ops.take(part, rows, axis=0) for part in state)
        tokens, gained, recent, repeated, within = (
            rows_of(values, rows) for values in (tokens, gained, recent, repeated, within)
        )
        is_current, ended = ops.equal(positions, step), ops.expand_dims(ops.equal(chosen, END), -1)
        gain = log_probability - ops.reshape(ops.take(ops.reshape(before, (-1,)), rows), (batch, width))
        written = ops.expand_dims(chosen, -1)
        new = ops.logical_and(is_current, ops.logical_not(ended))
        tokens = ops.where(new, written, tokens)
        gained = ops.where(new, ops.expand_dims(gain, -1), gained)
        repeated = ops.where(ended, repeated, ops.where(ops.equal(recent, written), repeated + 1, 0))
        recent = ops.concatenate([recent[..., 1:], written], axis=-1)
        opens, closes = (ops.expand_dims(ops.take(kinds, chosen, axis=0), -1) for kinds in (opened, closed))
        outside = ops.concatenate([within[..., 1:], ops.zeros_like(opens)], axis=-1)
        within = ops.where(closes > 0, outside, within)
        within = ops.where(opens > 0, ops.concatenate([opens, within[..., :-1]], axis=-1), within)
        return step + 1, chosen, ended[..., 0], state, tokens, gained, recent, repeated, within, log_probability

    beams = ops.arange(width, dtype="int32")
    start = (
        ops.zeros((), "int32"),
        ops.full((batch, width), START, "int32"),
        ops.zeros((batch, width), "bool"),
        tuple(model.decoder.initial_state(batch * width)),
        ops.full((batch, width, max_tokens), PAD, "int32"),
        ops.zeros((batch, width, max_tokens)),
        ops.full((batch, width, MAX_PERIOD), PAD, "int32"),
        ops.zeros((batch, width, MAX_PERIOD), "int32"),
        ops.zeros((batch, width, MAX_DEPTH), "int32"),
        # All hypotheses start equal, so only one of them may continue.
        ops.where(beams == 0, 0.0, NEVER) + ops.zeros((batch, 1)),
    )
    *_, tokens, gained, _, repeated, _, log_probability = ops.while_loop(unfinished, extend, start)
    is_at_limit = ops.all(tokens != PAD, axis=-1, keepdims=True)
    limits = ops.where(is_at_limit, ops.convert_to_tensor(LOOPS_AT_LIMIT, "int32"), loops)
    cut = ops.max(ops.where(repeated >= limits, repeated, 0), axis=-1)
    return _ranked(tokens, gained, cut, log_probability, length_penalty)


def _ranked(
    tokens: Tensor, gained: Tensor, cut: Tensor, log_probability: Tensor, length_penalty: float | Tensor
) -> Decoded:
    """Orders hypotheses by their scores, best first; arguments as in `Decoded` and `search`.

    `cut` is the number of tokens at the end of each hypothesis that belong to a loop, int32, (batch, width).
    """
    positions = ops.arange(tokens.shape[-1], dtype="int32")
    lengths = ops.sum(ops.cast(tokens != PAD, "int32"), axis=-1) - cut
    penalties = ops.power((6.0 + ops.cast(lengths, "float32")) / 6.0, length_penalty)
    score, order = ops.top_k(log_probability / penalties, ops.shape(log_probability)[1])
    lengths = ops.take_along_axis(lengths, order, axis=1)
    tokens, gained = (ops.take_along_axis(of, ops.expand_dims(order, -1), axis=1) for of in (tokens, gained))
    log_probability = ops.take_along_axis(log_probability, order, axis=1)
    is_complete = log_probability > NEVER / 2
    shown = ops.logical_and(ops.expand_dims(is_complete, -1), positions < ops.expand_dims(lengths, -1))
    return Decoded(
        ops.where(shown, tokens, PAD),
        ops.where(shown, gained, 0.0),
        ops.where(is_complete, log_probability, -float("inf")),
        ops.where(is_complete, score, -float("inf")),
    )
