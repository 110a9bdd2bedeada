"""From an image to the tokens of its formula, one step after another, inside the graph."""

from __future__ import annotations

from typing import NamedTuple

from keras import ops

from trainer_module.features import END, PAD, START
from trainer_module.model import FormulaModel
from trainer_module.recurrence import DecoderState, Tensor

# So unlikely that nothing with it is an answer.
NEVER = -1e9


class Decoded(NamedTuple):
    """What was read from a batch of images: hypotheses, the best first.

    Where there are fewer sentences than hypotheses were asked for, the rest is empty, with a
    log-probability of minus infinity.
    """

    tokens: Tensor  # ids, padded behind the end, int32, (batch, width, steps)
    log_probability: Tensor  # of the tokens and the end, natural, float32, (batch, width)
    score: Tensor  # log_probability with the length penalty, float32, (batch, width)


def search(
    model: FormulaModel,
    images: Tensor,
    sizes: Tensor,
    max_tokens: int,
    width: int | Tensor = 1,
    length_penalty: float | Tensor = 0.0,
) -> Decoded:
    """Beam search: goes on with the likeliest beginnings at each step until all of them have ended.

    A step costs the same wherever it stands: only the decoder's state is carried on. The images'
    cells are not repeated for the hypotheses.

    Args:
        model: the model.
        images: uint8, (batch, height, width, 1), as `FormulaModel.encode` takes them.
        sizes: int32, (batch, 2).
        max_tokens: formulas are cut here.
        width: hypotheses kept, at least 1; 1 takes the likeliest token at each step (greedy decoding).
        length_penalty: in the end, hypotheses of n tokens are ranked by log-probability over
            ((6 + n) / 6) to this power (Wu et al. 2016, section 7, the end counted as a token).
    """
    memories = model.decoder.remember(model.encode(images, sizes))
    kernels = model.decoder.kernels()
    batch = ops.shape(images)[0]
    positions = ops.reshape(ops.arange(max_tokens, dtype="int32"), (1, 1, -1))
    # The first row of each image's hypotheses, among those of all.
    first = ops.expand_dims(ops.arange(batch, dtype="int32") * width, 1)
    vocabulary = ops.arange(model.vocabulary_size, dtype="int32")
    # Padding and the start are never answers, and behind the last place there is only the end.
    only_end = ops.where(vocabulary == END, 0.0, NEVER)
    answers = ops.where(ops.logical_or(vocabulary == PAD, vocabulary == START), NEVER, 0.0)

    def unfinished(step: Tensor, last: Tensor, ended: Tensor, *_: Tensor) -> Tensor:
        return ops.logical_and(step < max_tokens + 1, ops.logical_not(ops.all(ended)))

    def extend(
        step: Tensor, last: Tensor, ended: Tensor, state: Tensor, tokens: Tensor, log_probability: Tensor
    ) -> tuple[Tensor, ...]:
        logits, state, _ = model.step(ops.reshape(last, (-1,)), DecoderState(*state), memories, kernels)
        gains = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
        gains = gains + ops.where(step < max_tokens, answers, only_end)
        # A hypothesis that has ended goes on in one way, which costs nothing.
        gains = ops.reshape(gains, (batch, width, model.vocabulary_size))
        gains = ops.where(ops.expand_dims(ended, -1), only_end, gains)
        candidates = ops.expand_dims(log_probability, -1) + gains
        log_probability, kept = ops.top_k(ops.reshape(candidates, (batch, width * model.vocabulary_size)), width)
        kept = ops.cast(kept, "int32")
        chosen, parents = kept % model.vocabulary_size, first + kept // model.vocabulary_size
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
        # All begin alike: one of them alone may go on.
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
    sentence = log_probability > NEVER / 2
    return Decoded(
        ops.where(ops.expand_dims(sentence, -1), tokens, PAD),
        ops.where(sentence, log_probability, -float("inf")),
        ops.where(sentence, score, -float("inf")),
    )
