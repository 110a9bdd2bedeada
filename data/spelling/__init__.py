r"""The normal form of a formula: one spelling for one look.

LaTeX has many spellings that draw the same picture: `\to` and `\rightarrow`, `{ \cal D }` and `\mathcal { D }`,
`{ x } _ { 1 }` and `x _ { 1 }`. A model that reads pictures cannot tell them apart, so its labels, and both sides of an
evaluation, are put into this form. docs/concepts/normal-form.md lists the rules.

`reader` reads tokens into items, `rows` makes rows of them that are in normal form, `writer` writes these as tokens.
"""

from __future__ import annotations

from data.spelling.reader import read
from data.spelling.writer import write
from im2latex.errors import UserError
from im2latex.tokenizer import FormulaError, tokenize

NORMAL, AS_THE_SOURCE = "normal", "im2markup"
SPELLINGS = (NORMAL, AS_THE_SOURCE)


def known_spelling(spelling: str) -> str:
    """The spelling, if there is such a one.

    Raises:
      UserError: there is not.
    """
    if spelling not in SPELLINGS:
        raise UserError(f"there is no spelling {spelling}; the spellings are {', '.join(SPELLINGS)}")
    return spelling


def respell(latex: str, spelling: str) -> str:
    """A formula in a spelling.

    Args:
      latex: a formula, raw or tokenised.
      spelling: `NORMAL` for the normal form; a formula that cannot be parsed, or of which nothing would be left, stays
        as it is. `AS_THE_SOURCE` changes nothing.

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
    """The normal form of a formula, its tokens joined by single spaces.

    Args:
      latex: a formula, raw or tokenised.

    Raises:
      FormulaError: as `im2latex.tokenizer.tokenize` does.
    """
    tokens = tokenize(latex)
    try:
        return " ".join(write(read(tokens)))
    except RecursionError as error:
        raise FormulaError("nested too deeply") from error
