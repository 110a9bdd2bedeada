"""Evaluates the trained model on the validation examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.formula_metrics.scores import SCORES, text_statistics
from data.spelling import respell
from pipeline.standalone import say
from pipeline.standalone.examples import Formulas
from pipeline.standalone.training import BATCHES_AHEAD, BATCHES_PER_SHAPE, SHAPES
from trainer_module.batching import Buckets
from trainer_module.examples import Example
from trainer_module.features import PAD
from trainer_module.feeding import batches, prefetched

if TYPE_CHECKING:
    from trainer_module.trained import Trained


# Batch size of the evaluation.
READ_AT_ONCE = 32
SAMPLES = 20


def evaluate(trained: Trained, validation: Formulas, spelling: str, beam: int | None, out: Path) -> dict:
    """Evaluates a model on all validation examples, and writes some of its predictions to `out`.

    Args:
        trained: the model.
        validation: the validation examples.
        spelling: spelling in which formulas are compared, as in `data.spelling.respell`.
        beam: width of an additional evaluation with beam search; None for greedy search only.
        out: folder for predictions.txt.

    Returns:
        The scores by search, `greedy` and `beam`.
    """
    examples, targets = validation.examples.without_tokens(), list(validation.latex())
    metrics: dict[str, dict] = {}
    for name, width in (("greedy", 1), ("beam", beam)):
        if width is None:
            continue
        read = [(respell(latex, spelling), sure) for latex, sure in read_formulas(trained, examples, width)]
        metrics[name] = {"width": width, **scores(targets, [latex for latex, _ in read])}
        say("{}: BLEU {bleu:.4f}, exact match {exact_match:.4f}".format(name, **metrics[name]))
        if name == "greedy":
            (out / "predictions.txt").write_text(_samples(validation.names, targets, read), "utf-8")
    return metrics


def read_formulas(trained: Trained, examples: Sequence[Example], width: int) -> list[tuple[str, float]]:
    """Reads images by beam search. Returns the most likely formula of each, and its natural log-probability.

    `examples` have no tokens, so that the shapes of the batches depend on the images only.
    """
    import jax
    import keras

    from trainer_module.decoding import search
    from trainer_module.weights import model_of

    model = model_of(trained)  # in float32, as when it serves

    @jax.jit
    def best(values: list, images: jax.Array, sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The weights are arguments, because XLA would fold constants at compile time.
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            decoded = search(model, images, sizes, trained.max_tokens, width, vocabulary=trained.vocabulary)
        return decoded.tokens[:, 0], decoded.log_probability[:, 0]

    buckets = Buckets(examples, max(1, min(SHAPES, len(examples) // (BATCHES_PER_SHAPE * READ_AT_ONCE))))
    planned = buckets.cut(examples, READ_AT_ONCE, 0, 0)
    values = [variable.value for variable in model.variables]
    # All batches are dispatched before the first result is awaited.
    answers = [
        best(values, batch.inputs["image"], batch.inputs["size"])
        for batch in prefetched((buckets.fill(b, READ_AT_ONCE) for b in batches(examples, planned)), BATCHES_AHEAD)
    ]
    read = [("", 0.0)] * len(examples)
    for indices, (tokens, log_probabilities) in zip(planned, answers, strict=True):
        for i, row, log_probability in zip(indices, np.array(tokens), np.array(log_probabilities), strict=False):
            read[i] = " ".join(trained.vocabulary[token] for token in row if token != PAD), float(log_probability)
    return read


def scores(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Computes the scores on tokens, in the same way as the pipeline's Evaluator."""
    counted = np.array([text_statistics(*pair) for pair in zip(targets, predictions, strict=True)])
    total = counted.sum(axis=0)
    return {name: score.value(total[score.part]) for name, score in SCORES.items() if score.part.stop <= len(total)}


def _samples(names: Sequence[str], targets: Sequence[str], read: Sequence[tuple[str, float]]) -> str:
    """Formats some examples, evenly spaced: name, right or wrong, log-probability, target and prediction."""
    text = ""
    for i in np.unique(np.linspace(0, len(read) - 1, SAMPLES).astype(int)):
        target, (prediction, log_probability) = targets[i], read[i]
        verdict = "right" if prediction.split() == target.split() else "wrong"
        text += f"{names[i]}  {verdict}  {log_probability:.4f}\n"
        text += f"  target      {target}\n  prediction  {prediction}\n"
    return text
