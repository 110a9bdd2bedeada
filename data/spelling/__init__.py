r"""The normal form of formulas: a single spelling for everything that looks the same.

LaTeX has many spellings for the same picture: `\to` and `\rightarrow`, `{ \cal D }` and `\mathcal { D }`,
`{ x } _ { 1 }` and `x _ { 1 }`. A model that reads pictures cannot tell them apart. Therefore training labels, and
references and predictions in an evaluation, are put into normal form. docs/concepts/normal-form.md lists the rules.

`reader` parses tokens into items, `rows` puts rows of items into normal form, and `writer` turns rows into tokens.
"""

from __future__ import annotations

from data.spelling.reader import read
from data.spelling.writer import write
from im2latex.errors import UserError
from im2latex.tokenizer import FormulaError, tokenize

NORMAL, AS_THE_SOURCE = "normal", "im2markup"
SPELLINGS = (NORMAL, AS_THE_SOURCE)


def known_spelling(spelling: str) -> str:
    """Returns the spelling unchanged after checking it.

    Raises:
      UserError: there is no such spelling.
    """
    if spelling not in SPELLINGS:
        raise UserError(f"there is no spelling {spelling}; the spellings are {', '.join(SPELLINGS)}")
    return spelling


def respell(latex: str, spelling: str) -> str:
    """Converts a formula to a spelling.

    Args:
      latex: a formula, raw or tokenised.
      spelling: `NORMAL` returns the normal form, or the formula unchanged if it cannot be parsed or its normal form is
        empty. `AS_THE_SOURCE` returns the formula unchanged.

    Raises:
      UserError: there is no such spelling.
    """
    if known_spelling(spelling) == AS_THE_SOURCE:
        return latex
    try:
        return normal_form(latex) or latex
    except FormulaError:
        return latex


def normal_form(latex: str) -> str:
    """Returns the normal form of a formula, its tokens joined by single spaces.

    Args:
      latex: a formula, raw or tokenised.

    Raises:
      FormulaError: the formula cannot be parsed, see `im2latex.tokenizer.tokenize`, or is nested too deeply.
    """
    tokens = tokenize(latex)
    try:
        return " ".join(write(read(tokens)))
    except RecursionError as error:
        raise FormulaError("nested too deeply") from error
