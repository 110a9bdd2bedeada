"""Names of the features and the numbering of tokens, the same in every part of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow_transform as tft

# Of the record: Transform's inputs.
IMAGE = "image"
LATEX = "latex"
NAME = "name"

# Added by Transform; it also replaces IMAGE by the normalised image.
TOKENS = "tokens"
HEIGHT = "height"
WIDTH = "width"

# The file in Transform's output with one token a line; line i has the id SPECIALS + i.
VOCABULARY = "tokens"

# In an exported model, beside the SavedModel's own files, where loaders leave it alone: what its model is.
DESCRIPTION = "assets.extra/im2latex.json"

PAD, START, END, UNKNOWN = range(4)
SPECIAL_TEXTS = ("<pad>", "<start>", "<end>", "<unknown>")
SPECIALS = len(SPECIAL_TEXTS)


def read_vocabulary(source: tft.TFTransformOutput | str | Path) -> list[str]:
    """Reads the text of every token id: the four specials, then the vocabulary's lines.

    Args:
        source: Transform's output, or the path of the vocabulary's text file.

    Returns:
        The text of id i at index i.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(source if isinstance(source, str | Path) else source.vocabulary_file_by_name(VOCABULARY))
    # Not splitlines(): it also cuts at characters such as U+2028 that a token may hold.
    return [*SPECIAL_TEXTS, *path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
