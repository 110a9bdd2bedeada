"""Feature names, special tokens and token ids, shared by all parts of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow_transform as tft

# Features of a record, the inputs of Transform.
IMAGE = "image"
LATEX = "latex"
NAME = "name"

# Features that Transform adds; it also replaces IMAGE by the normalised image.
TOKENS = "tokens"
HEIGHT = "height"
WIDTH = "width"

# Name of the vocabulary file in Transform's output, with one token per line; line i (from 0) has the id SPECIALS + i.
VOCABULARY = "tokens"

# File with the model's description in an exported SavedModel, in the folder that loaders ignore.
DESCRIPTION = "assets.extra/im2latex.json"

PAD, START, END, UNKNOWN = range(4)
SPECIAL_TEXTS = ("<pad>", "<start>", "<end>", "<unknown>")
SPECIALS = len(SPECIAL_TEXTS)


def read_vocabulary(source: tft.TFTransformOutput | str | Path) -> list[str]:
    """Reads the text of every token id.

    Args:
        source: Transform's output, or the path of the vocabulary file.

    Returns:
        The texts by id: the four special tokens, then the lines of the vocabulary.

    Raises:
        FileNotFoundError: the file is missing.
    """
    path = Path(source if isinstance(source, str | Path) else source.vocabulary_file_by_name(VOCABULARY))
    # splitlines() would also split at characters such as U+2028, which a token may contain.
    return [*SPECIAL_TEXTS, *path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
