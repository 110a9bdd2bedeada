"""The results of reading a picture, independent of the model that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from im2latex.clean import clean

# Pixels along each side of a cell: the convolutional encoder halves both sides three times.
STRIDE = 8
READ_AT_ONCE = 32


class Hypothesis(NamedTuple):
    """A hypothesis: one possible formula for an image.

    Attributes:
        latex: tokens, separated by one space.
        log_probability: natural log-probability of the tokens and the end token; exactly the model's float32 value.
            If the picture was read in several sizes, the probability of a token is its mean over them.
        score: the value by which hypotheses are ranked.
        probability: calibrated probability that the whole formula is right, 0 to 1; 0 for an image without ink.
        token_probability: calibrated probability that each token is right; () if the model does not give it.
    """

    latex: str
    log_probability: float
    score: float
    probability: float
    token_probability: tuple[float, ...] = ()

    @property
    def clean(self) -> str:
        r"""The LaTeX as a person would type it: `x_i^2`, `\sin`."""
        return clean(self.latex)

    @property
    def is_of_blank(self) -> bool:
        """Whether the image has no ink; models return an empty formula with log-probability 0 then."""
        return not self.latex and self.log_probability == 0


# The only hypothesis of an image without ink.
BLANK = Hypothesis("", 0.0, 0.0, 0.0)


class Beam(NamedTuple):
    """Settings of a beam search.

    Attributes:
        width: number of hypotheses to return, at least 1.
        length_penalty: length penalty, with a beam of exactly `width`. None uses the model's own length penalty, with a
            beam at least as wide as the model's own.
    """

    width: int
    length_penalty: float | None = None


class Decoding(NamedTuple):
    """A model's default search settings, see `trainer_module.config.decoding`."""

    beam_width: int = 1
    length_penalty: float = 0.0
    rescale_below: float = 0.0
    rescales: Sequence[float] = ()

    @property
    def rereads(self) -> bool:
        """Whether doubtful pictures are read again."""
        return bool(self.rescales) and self.rescale_below > 0

    def search(self, beam: Beam) -> Beam:
        """Returns the beam to search with, which has a length penalty and can be wider."""
        if beam.length_penalty is None:
            return Beam(max(beam.width, self.beam_width), self.length_penalty)
        return beam

    def first_search(self, beam: Beam) -> Beam:
        """Returns the beam for the first reading of a picture.

        It is greedy if one hypothesis is wanted and doubtful pictures are read again: if greedy decoding finds a
        formula with a probability above 0.5, no other formula is as probable.
        """
        search = self.search(beam)
        return search._replace(width=1) if self.rereads and beam == Beam(1) else search


class Attention(NamedTuple):
    """The model's attention for each token of its best hypothesis.

    Attributes:
        weights: float32, (tokens, rows, columns); the weights of each token sum to 1.
        cell: height and width of a cell in pixels of `image`.
        image: the normalised picture that the model received, uint8, (height, width).
    """

    weights: np.ndarray
    cell: int
    image: np.ndarray


@dataclass(frozen=True)
class Reading:
    """The result of reading a picture.

    Attributes:
        alternatives: the hypotheses, best first. A blank picture has a single one, "".
        attention: the model's attention; None if it was not requested or the picture is blank.
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
        """Calibrated probability that the whole formula is right, 0 to 1; 0 for a picture without ink."""
        return self.alternatives[0].probability

    @property
    def is_blank(self) -> bool:
        """Whether the picture has no ink."""
        return self.alternatives[0].is_of_blank


def of_like_size(sizes: Sequence[tuple[int, int]], at_once: int = READ_AT_ONCE) -> Iterator[np.ndarray]:
    """Groups images of similar size into batches.

    Args:
        sizes: width and height of each image in pixels.
        at_once: maximum number of images in a batch.

    Yields:
        The indices of the images of each batch.
    """
    widths, heights = np.array(sizes).reshape(-1, 2).T
    # Sort by rows of cells first, because padding a row wastes computation in every column.
    order = np.lexsort((widths, -(-heights // STRIDE)))
    yield from (order[start : start + at_once] for start in range(0, len(order), at_once))
