"""Transformed examples on disk, with an index of them in memory.

A million pictures take some gigabytes, and a training needs those of a batch: the index says where each lies and how
large it is, in 24 bytes, and the system keeps in memory what of the file there is room for. NumPy alone.
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

# What is sorted at once.
RUN_BYTES = 64 << 20
_TOKEN = np.dtype(np.int32)
_INDEX = np.dtype(
    [
        ("offset", np.int64),  # of the image in the file; the ids of the tokens lie behind it
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
    """Examples in a file that nobody else sees and that goes with the process; made by `write` and `write_sorted`.

    A part, `examples[indices]`, shares the file. It can be sent to another process on this machine, which reads the
    file as long as this process keeps it open.
    """

    def __init__(self, file: IO[bytes] | Path, index: np.ndarray, ids: np.ndarray | None = None) -> None:
        """
        Args:
            file: open, or where it can be opened.
            index: of type `_INDEX`, (examples,).
            ids: what stands for each id in the file, int32; None: the id itself.
        """
        # Kept open for those that share it, too.
        self._file = open(file, "rb", buffering=0) if isinstance(file, Path) else file  # noqa: SIM115
        self._index = index
        self._ids = ids

    @classmethod
    def write(cls, examples: Iterable[Example], folder: Path) -> Examples:
        """Keeps examples in their order.

        Args:
            examples: read once.
            folder: on a disk that holds them.

        Raises:
            OSError: the disk is full.
        """
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, open as long as there are examples in it
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
        """Keeps examples in the order of their bytes; arguments and errors as those of `write`."""
        runs = [cls.write(sorted(run, key=_bytes), folder) for run in _runs(examples)]
        return runs[0] if len(runs) == 1 else cls.write(heapq.merge(*runs, key=_bytes), folder)

    @property
    def sizes(self) -> np.ndarray:
        """Height and width in pixels, and tokens, of each example, int32, (examples, 3)."""
        return np.stack([self._index[name] for name in ("height", "width", "tokens")], axis=1, dtype=np.int32)

    def renumbered(self, ids: np.ndarray | None) -> Examples:
        """The same examples with ids[i] in place of the token i, int32."""
        return Examples(self._file, self._index, ids)

    def without_tokens(self) -> Examples:
        """The same images with no tokens."""
        index = self._index.copy()
        index["tokens"] = 0
        return Examples(self._file, index, self._ids)

    def __add__(self, other: Examples) -> Examples:
        """These and then the others, which are in the same file."""
        assert other._file is self._file
        return Examples(self._file, np.concatenate([self._index, other._index]), self._ids)

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice | np.ndarray) -> Examples: ...

    def __getitem__(self, place: int | slice | np.ndarray) -> Example | Examples:
        if isinstance(place, slice | np.ndarray):
            return Examples(self._file, self._index[place], self._ids)
        offset, size, length, height, width = self._index[place].item()
        content = os.pread(self._file.fileno(), size + length * _TOKEN.itemsize, offset)
        tokens = np.frombuffer(content, _TOKEN, length, size) if length else np.zeros(0, _TOKEN)
        return Example(content[:size], height, width, tokens if self._ids is None else self._ids[tokens])

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))

    def __reduce__(self) -> tuple:
        return Examples, (self._path, self._index, self._ids)

    @property
    def _path(self) -> Path:
        """Where other processes find the file, which has no name."""
        return Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")


def sizes_of(examples: Sequence[Example]) -> np.ndarray:
    """Height and width in pixels, and tokens, of each example, int32, (examples, 3)."""
    if isinstance(examples, Examples):
        return examples.sizes
    return np.array([(e.height, e.width, len(e.tokens)) for e in examples], np.int32).reshape(-1, 3)


def part_of(examples: Sequence[Example], indices: np.ndarray) -> Sequence[Example]:
    """The examples of these indices, in this order."""
    return examples[indices] if isinstance(examples, Examples) else [examples[i] for i in indices]


def _bytes(example: Example) -> tuple[bytes, bytes]:
    return example.image, example.tokens.tobytes()


def _runs(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples in lists of about RUN_BYTES; at least one list."""
    run: list[Example] = []
    size = 0
    for example in examples:
        run.append(example)
        size += len(example.image) + example.tokens.nbytes
        if size > RUN_BYTES:
            yield run
            run, size = [], 0
    yield run
