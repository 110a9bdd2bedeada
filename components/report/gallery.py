"""The gallery: the best, median and worst predictions, drawn, compared with the targets, and with attention maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from components.metadata import SERVING
from components.report import pictures
from components.report.attention import CELLS, Looked, look
from components.report.examples import images
from components.report.predictions import AlignedPart, Evaluated, Prediction, choose, compare
from components.report.reported_run import ReportedRun
from components.report.sections import Missing, folder_of, section, then
from data.latex.rendering import render_all
from trainer_module.features import DESCRIPTION

# Resolutions, dpi: images are taken to have DPI and shown at SHOWN_DPI, the size of text. DENSITY is the number of
# drawn pixels per shown pixel.
DPI, SHOWN_DPI, DENSITY = 100, 150, 2
# Magnification of the model's input image.
ENLARGED = 3
# Visible on the image, which is light in the dark colour scheme too. The finest map is more opaque than those below.
COLOURS = {"coarse": (38, 110, 220), "fine": (245, 130, 0)}
FINEST, BELOW = 0.85, 0.3


class Layer(NamedTuple):
    """An attention map as a film, one frame per step."""

    name: str
    film: str
    rows: int
    columns: int
    cell: int  # side of a cell, pixels of the image
    opacity: float


class AttentionView(NamedTuple):
    """The attention of one prediction."""

    image: pictures.EmbeddedPicture
    width: int  # of the image, pixels
    height: int
    layers: list[Layer]
    # For each step: the token, the highest weight in percent, and its position in percent from the left and the top.
    steps: list[tuple[str, int, int, int]]


class ShownPrediction(NamedTuple):
    """A prediction in the gallery; a picture is None if it is missing."""

    prediction: Prediction
    probability: float
    image: pictures.EmbeddedPicture | None
    target: pictures.EmbeddedPicture | None
    read: pictures.EmbeddedPicture | None
    target_parts: list[AlignedPart]
    read_parts: list[tuple[str, list[tuple[int, str]]]]  # kind, and tokens with their steps
    attention: AttentionView | None


class Shows(NamedTuple):
    """The gallery."""

    groups: list[tuple[str, list[ShownPrediction]]]
    notes: list[str]  # which parts are missing, and why


def gallery(run: ReportedRun, renderer: str | None, evaluated: Evaluated) -> Shows:
    """Builds the gallery of the best, median and worst predictions.

    Args:
        run: the run.
        renderer: renderer that the evaluation used; None for the default.
        evaluated: all predictions.
    """
    chosen = choose(evaluated.predictions)
    every = [prediction for group in chosen for prediction in group]
    encoded = section(_images, run, every)
    looked = then(encoded, _look, run, every)
    drawn = section(_draw, every, renderer)
    index_of = {prediction.record: index for index, prediction in enumerate(every)}

    def shown(prediction: Prediction) -> ShownPrediction:
        index = index_of[prediction.record]
        target_parts, read_parts = compare(prediction)
        return ShownPrediction(
            prediction=prediction,
            probability=math.exp(prediction.log_probability),
            image=pictures.of_bytes(encoded.content[index], DPI / SHOWN_DPI) if encoded.content else None,
            target=drawn.content[prediction.target] if drawn.content else None,
            read=drawn.content[prediction.read] if drawn.content else None,
            target_parts=target_parts,
            read_parts=_numbered(read_parts),
            attention=_attention(looked.content[index], prediction) if looked.content else None,
        )

    titles = ("Best", "Median", "Worst")
    groups = [(title, [shown(p) for p in group]) for title, group in zip(titles, chosen, strict=True) if group]
    notes = dict.fromkeys(part.note for part in (encoded, looked, drawn) if part.note)
    return Shows(groups, list(notes))


def _images(run: ReportedRun, predictions: Sequence[Prediction]) -> list[bytes]:
    folder = folder_of(run, "examples")
    if run.split is None:
        raise Missing("The split of the evaluated examples is unknown, so there are no images.")
    images_of = images(folder / f"Split-{run.split}", [prediction.record for prediction in predictions])
    return [images_of[prediction.record] for prediction in predictions]


def _draw(predictions: Sequence[Prediction], renderer: str | None) -> dict[str, pictures.EmbeddedPicture | None]:
    """Draws every target and every prediction; None for a formula that cannot be drawn."""
    formulas = sorted({formula for prediction in predictions for formula in (prediction.target, prediction.read)})
    drawings = render_all(formulas, dpi=DENSITY * SHOWN_DPI, border=0, renderer=renderer)
    return {
        formula: None if drawing is None else pictures.of_pixels(drawing, DENSITY)
        for formula, drawing in zip(formulas, drawings, strict=True)
    }


def _look(run: ReportedRun, predictions: Sequence[Prediction], encoded: Sequence[bytes]) -> list[Looked]:
    model = folder_of(run, "model") / SERVING
    if not (model / DESCRIPTION).exists():
        raise Missing("The model has no record of its configuration, so its attention cannot be shown.")
    return look(str(model), encoded, [prediction.read for prediction in predictions])


def _numbered(parts: Sequence[AlignedPart]) -> list[tuple[str, list[tuple[int, str]]]]:
    numbered, step = [], 0
    for part in parts:
        numbered.append((part.kind, list(enumerate(part.tokens, start=step))))
        step += len(part.tokens)
    return numbered


def _attention(looked: Looked, prediction: Prediction) -> AttentionView:
    height, width = looked.image.shape
    *_, finest = looked.maps
    layers = []
    for name, maps in looked.maps.items():
        opacity = FINEST if name == finest else BELOW
        film = pictures.film(maps, COLOURS[name])
        layers.append(Layer(name, film, maps.shape[1], maps.shape[2], CELLS[name], opacity))
    steps = []
    for token, weights in zip([*prediction.read.split(), ""], looked.maps[finest], strict=True):
        row, column = np.unravel_index(int(weights.argmax()), weights.shape)
        left, top = ((int(index) + 0.5) * CELLS[finest] for index in (column, row))
        weight, x, y = (round(100 * share) for share in (float(weights.max()), left / width, top / height))
        steps.append((token, weight, min(x, 100), min(y, 100)))
    image = pictures.of_pixels(looked.image)
    return AttentionView(image, width, height, layers, steps)
