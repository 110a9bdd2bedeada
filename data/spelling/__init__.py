r"""The normal form of a formula: one spelling for one look.

LaTeX has many spellings that draw the same picture: `\to` and `\rightarrow`, `{ \cal D }` and `\mathcal { D }`,
`{ x } _ { 1 }` and `x _ { 1 }`. A model that reads pictures cannot tell them apart, so its labels, and both sides of an
evaluation, are put into this form. docs/normal-form.md lists the rules.

`reader` reads tokens into items, `rows` makes rows of them that are in normal form, `writer` writes these as tokens.
"""

from __future__ import annotations

from data.spelling.reader import read
from data.spelling.writer import write
from data.tokenizer import FormulaError, tokenize


def normal_form(latex: str) -> str:
    """The normal form of a formula, its tokens joined by single spaces.

    Args:
      latex: a formula, raw or tokenised.

    Raises:
      FormulaError: as `data.tokenizer.tokenize` does.
    """
    tokens = tokenize(latex)
    try:
        return " ".join(write(read(tokens)))
    except RecursionError as error:
        raise FormulaError("nested too deeply") from error
