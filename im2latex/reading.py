"""What comes of reading a picture, whatever has read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from im2latex.clean import clean

# The convolutional encoder halves both sides three times.
STRIDE = 8
READ_AT_ONCE = 32


class Hypothesis(NamedTuple):
    """One reading of an image."""

    latex: str  # tokens, separated by one space
    log_probability: float  # natural, of the tokens and the end; exactly the model's float32
    score: float  # what hypotheses are ranked by

    @property
    def clean(self) -> str:
        r"""The LaTeX as a person would type it: `x_i^2`, `\sin`."""
        return clean(self.latex)

    @property
    def probability(self) -> float:
        """Of the whole formula, 0 to 1."""
        return math.exp(self.log_probability)

    @property
    def is_of_blank(self) -> bool:
        """Whether the image holds no ink; models say so by an empty formula that is certain."""
        return not self.latex and self.log_probability == 0


# The only hypothesis of an image without ink.
BLANK = Hypothesis("", 0.0, 0.0)


class Beam(NamedTuple):
    """A beam search.

    Without a length penalty of its own it goes by the model's, and is no narrower than the model's.
    """

    width: int  # hypotheses, at least 1
    length_penalty: float | None = None


class Decoding(NamedTuple):
    """How a model searches where a call does not say otherwise, `trainer_module.config.decoding`."""

    beam_width: int = 1
    length_penalty: float = 0.0

    def search(self, beam: Beam) -> tuple[int, float]:
        """Width and length penalty to search with; of what comes back, `beam.width` hypotheses are wanted."""
        if beam.length_penalty is None:
            return max(beam.width, self.beam_width), self.length_penalty
        return beam.width, beam.length_penalty


class Attention(NamedTuple):
    """Where the model looked before it wrote each token of its best reading."""

    weights: np.ndarray  # float32, (tokens, rows, columns), each map with sum 1
    cell: int  # a cell covers so many pixels of `image` each way
    image: np.ndarray  # the picture as the model saw it, cut out and scaled, uint8, (height, width)


@dataclass(frozen=True)
class Reading:
    """What was read in a picture.

    Attributes:
        alternatives: the readings, the best first; one, if no more were asked for. A picture without ink has one, "".
        attention: where the model looked; None if it was not asked for, or there is no ink.
    """

    alternatives: tuple[Hypothesis, ...]
    attention: Attention | None = None

    @property
    def latex(self) -> str:
        """The formula as tokens, separated by one space."""
        return self.alternatives[0].latex

    @property
    def clean(self) -> str:
        r"""The formula as a person would type it: `x_i^2`, `\sin`."""
        return self.alternatives[0].clean

    @property
    def probability(self) -> float:
        """Of the whole formula, 0 to 1."""
        return self.alternatives[0].probability

    @property
    def is_blank(self) -> bool:
        """Whether the picture holds no ink."""
        return self.alternatives[0].is_of_blank


def of_like_size(sizes: Sequence[tuple[int, int]], at_once: int = READ_AT_ONCE) -> Iterator[np.ndarray]:
    """Cuts images into batches with little padding.

    Args:
        sizes: width and height of each, pixels.
        at_once: images in a batch at most.

    Yields:
        The indices of the images of a batch.
    """
    widths, heights = np.array(sizes).reshape(-1, 2).T
    # Rows of cells first: what is padded below is lost for every column.
    order = np.lexsort((widths, -(-heights // STRIDE)))
    yield from (order[start : start + at_once] for start in range(0, len(order), at_once))
