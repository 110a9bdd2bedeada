r"""The groups of a formula: braces, \left and \right, and environments. The search predicts only groups that match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from im2latex.tokenizer import is_end, side_of


class Groups(NamedTuple):
    r"""How the tokens of a vocabulary open and close groups. The kinds of groups have numbers from 1.

    Attributes:
        opened: the kind of group that each token opens, 0 for none, int32, (tokens,).
        closed: the kind of group that each token closes, 0 for none, int32, (tokens,).
        forbidden: whether a token is not possible, by the kind of the innermost open group, 0 for none, bool,
            (1 + kinds, tokens): tokens that close another group, and the end of the formula within a group.
        ending: whether a token closes the innermost group if the formula ends within it, such as `\right.`, bool,
            (1 + kinds, tokens).
    """

    opened: np.ndarray
    closed: np.ndarray
    forbidden: np.ndarray
    ending: np.ndarray


def groups_of(vocabulary: Sequence[str], end: int) -> Groups:
    """Returns the groups of a vocabulary.

    Args:
        vocabulary: the text of each token. A kind of group is left out if no token opens it, or none closes it.
        end: the id of the token at the end of a formula.
    """
    openers, closers = [_opened(token) for token in vocabulary], [_closed(token) for token in vocabulary]
    kinds = ["", *sorted(set(openers) & set(closers) - {""})]
    opened, closed = (
        np.array([kinds.index(kind) if kind in kinds else 0 for kind in of], np.int32) for of in (openers, closers)
    )
    innermost = np.arange(len(kinds))[:, np.newaxis]
    forbidden = (closed > 0) & (closed != innermost)
    forbidden[1:, end] = True
    ending = np.zeros_like(forbidden)
    for kind in range(1, len(kinds)):
        candidates = np.flatnonzero(closed == kind)
        invisible = [token for token in candidates if vocabulary[token] == "\\right."]
        ending[kind, invisible or candidates[:1]] = True
    return Groups(opened, closed, forbidden, ending)


def _opened(token: str) -> str:
    """Returns the kind of group that a token opens."""
    if token.startswith("\\begin{"):
        return token[len("\\begin{") : -1]
    return "{" if token == "{" else "\\left" if side_of(token) == "\\left" else ""


def _closed(token: str) -> str:
    """Returns the kind of group that a token closes."""
    if is_end(token):
        return token[len("\\end{") : -1]
    return "{" if token == "}" else "\\left" if side_of(token) == "\\right" else ""
