"""Stores transformed examples on disk, with an index in memory.

A million pictures take some gigabytes, while training needs only those of the current batch. The index holds the
position and size of each example in 24 bytes, and the operating system caches the file as memory allows. This module
uses NumPy only.
"""

from __future__ import annotations

import array
import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, overload

import numpy as np

# Number of bytes that are sorted at once, in memory.
RUN_BYTES = 64 << 20
_TOKEN = np.dtype(np.int32)
_INDEX = np.dtype(
    [
        ("offset", np.int64),  # position of the image in the file; the token ids follow it
        ("image", np.uint32),  # bytes
        ("tokens", np.uint32),
        ("height", np.uint32),  # pixels
        ("width", np.uint32),
    ]
)


class Example(NamedTuple):
    """A transformed example."""

    image: bytes  # PNG, 8-bit grey, normalised
    height: int  # pixels
    width: int  # pixels
    tokens: np.ndarray  # ids without start and end, int32, (length,)


class Examples(Sequence[Example]):
    """Examples in an unnamed temporary file, which is deleted when the process exits; use `write` or `write_sorted`.

    A part, `examples[indices]`, shares the file. It can be sent to another process on the same machine, which can read
    the file as long as this process keeps it open.
    """

    def __init__(self, file: IO[bytes] | Path, index: np.ndarray, ids: np.ndarray | None = None) -> None:
        """
        Args:
            file: an open file, or the path of one.
            index: index of type `_INDEX`, (examples,).
            ids: new token id for each token id in the file, int32; None keeps the ids.
        """
        # The file stays open, also for processes that share it.
        self._file = open(file, "rb", buffering=0) if isinstance(file, Path) else file  # noqa: SIM115
        self._index = index
        self._ids = ids

    @classmethod
    def write(cls, examples: Iterable[Example], folder: Path) -> Examples:
        """Stores examples in the given order.

        Args:
            examples: the examples; they are iterated once.
            folder: folder on a disk with enough space.

        Raises:
            OSError: the disk is full.
        """
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, stays open while its examples are used
        sizes = array.array("I")
        for example in examples:
            file.write(example.image)
            file.write(example.tokens.astype(_TOKEN, copy=False).tobytes())
            sizes.extend((len(example.image), len(example.tokens), example.height, example.width))
        file.flush()
        table = np.frombuffer(sizes, np.uint32).reshape(-1, 4)
        index = np.zeros(len(table), _INDEX)
        for column, name in enumerate(("image", "tokens", "height", "width")):
            index[name] = table[:, column]
        np.cumsum(table[:-1, 0] + _TOKEN.itemsize * table[:-1, 1].astype(np.int64), out=index["offset"][1:])
        return cls(file, index)

    @classmethod
    def write_sorted(cls, examples: Iterable[Example], folder: Path) -> Examples:
        """Stores examples sorted by their bytes; arguments and errors as in `write`."""
        runs = [cls.write(sorted(run, key=_bytes), folder) for run in _runs(examples)]
        return runs[0] if len(runs) == 1 else cls.write(heapq.merge(*runs, key=_bytes), folder)

    @property
    def sizes(self) -> np.ndarray:
        """Returns height and width in pixels, and number of tokens, of each example, int32, (examples, 3)."""
        return np.stack([self._index[name] for name in ("height", "width", "tokens")], axis=1, dtype=np.int32)

    def renumbered(self, ids: np.ndarray | None) -> Examples:
        """Returns the same examples with token i replaced by ids[i], int32."""
        return Examples(self._file, self._index, ids)

    def without_tokens(self) -> Examples:
        """Returns the same images with empty formulas."""
        index = self._index.copy()
        index["tokens"] = 0
        return Examples(self._file, index, self._ids)

    def __add__(self, other: Examples) -> Examples:
        """Concatenates two parts of the same file."""
        assert other._file is self._file
        return Examples(self._file, np.concatenate([self._index, other._index]), self._ids)

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> Examples: ...

    def __getitem__(self, index: int | slice | np.ndarray) -> Example | Examples:
        if isinstance(index, slice | np.ndarray):
            return Examples(self._file, self._index[index], self._ids)
        offset, size, length, height, width = self._index[index].item()
        content = os.pread(self._file.fileno(), size + length * _TOKEN.itemsize, offset)
        tokens = np.frombuffer(content, _TOKEN, length, size) if length else np.zeros(0, _TOKEN)
        return Example(content[:size], height, width, tokens if self._ids is None else self._ids[tokens])

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))

    def __reduce__(self) -> tuple:
        return Examples, (self._path, self._index, self._ids)

    @property
    def _path(self) -> Path:
        """Path by which other processes can open the file, which has no name."""
        return Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")


def sizes_of(examples: Sequence[Example]) -> np.ndarray:
    """Returns height and width in pixels, and number of tokens, of each example, int32, (examples, 3)."""
    if isinstance(examples, Examples):
        return examples.sizes
    return np.array([(e.height, e.width, len(e.tokens)) for e in examples], np.int32).reshape(-1, 3)


def part_of(examples: Sequence[Example], indices: np.ndarray) -> Sequence[Example]:
    """Returns the examples with these indices, in this order."""
    return examples[indices] if isinstance(examples, Examples) else [examples[i] for i in indices]


def _bytes(example: Example) -> tuple[bytes, bytes]:
    return example.image, example.tokens.tobytes()


def _runs(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yields the examples in lists of about RUN_BYTES; at least one list."""
    run: list[Example] = []
    size = 0
    for example in examples:
        run.append(example)
        size += len(example.image) + example.tokens.nbytes
        if size > RUN_BYTES:
            yield run
            run, size = [], 0
    yield run
