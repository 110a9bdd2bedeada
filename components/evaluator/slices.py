"""Slices of the examples: by the length of the formula, the area of the image, the structures in it, and the source."""

from __future__ import annotations

import bisect

from im2latex.corrections import is_correction

# Lower bounds of the ranges of length, tokens of the target.
_LENGTHS = (1, 10, 20, 40, 80)
# Lower bounds of the ranges of area, pixels of the original image.
_AREAS = (0, 2_000, 4_000, 8_000, 16_000)

_STRUCTURES = {
    "fraction": {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\binom"},
    "matrix": {
        f"\\begin{{{name}}}"
        for name in ("array", "matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "cases")
    },
    "root": {"\\sqrt"},
    "big operator": {
        "\\sum", "\\prod", "\\coprod", "\\int", "\\iint", "\\iiint", "\\oint", "\\bigcup", "\\bigcap", "\\bigoplus",
        "\\bigotimes", "\\bigvee", "\\bigwedge",
    },
}  # fmt: skip
PLAIN = "none of these"
CORRECTIONS, OTHERS = "corrections", "others"


def _ranges(starts: tuple[int, ...]) -> list[str]:
    ends = [f"-{end - 1}" for end in starts[1:]] + ["+"]
    return [f"{start}{end}" for start, end in zip(starts, ends, strict=True)]


# The values of every slice key.
SLICES = {
    "length": _ranges(_LENGTHS),
    "area": _ranges(_AREAS),
    "structure": [*_STRUCTURES, PLAIN],
    "source": [CORRECTIONS, OTHERS],
}
KEYS = tuple(SLICES)


def source_of(name: str) -> str:
    """Returns the slice of the key `source` for a record with this name."""
    return CORRECTIONS if is_correction(name) else OTHERS


def slices_of(latex: str, height: int, width: int) -> dict[str, list[str]]:
    """Returns the slices that an example belongs to, by key except for `source`.

    Args:
        latex: the target, tokens separated by spaces.
        height, width: size of the image, pixels.
    """
    tokens = latex.split()
    present = [name for name, commands in _STRUCTURES.items() if not commands.isdisjoint(tokens)]
    return {
        "length": [_range("length", _LENGTHS, len(tokens))],
        "area": [_range("area", _AREAS, height * width)],
        "structure": present or [PLAIN],
    }


def _range(key: str, starts: tuple[int, ...], value: int) -> str:
    return SLICES[key][max(bisect.bisect_right(starts, value) - 1, 0)]
