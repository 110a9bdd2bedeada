"""The encoder as part of an ONNX graph: convolutions and row encoders, as in `trainer_module.encoder`.

Images are (batch, channels, height, width), as ONNX requires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from im2latex.protobuf import OnnxGraph
from im2latex.weights import SCALE

# The convolutional encoder halves both sides three times, and a coarse cell covers BLOCK x BLOCK fine cells.
STRIDE, BLOCK = 8, 4
POOLS = ((2, 2), (2, 2), None, (1, 2), (2, 1), None)
NORMALISED = (False, False, True, False, True, True)
EPSILON = 1e-5
# Score of cells outside the image.
OUTSIDE = -1e9


class MemoryNames(NamedTuple):
    """Names of the tensors with the cells to attend to, as in `trainer_module.attention.Memory`."""

    values: str  # (batch, cells, units)
    keys: str  # (batch, units, cells)
    mask: str  # (batch, 1, cells)


class EncoderGraph:
    """Builds the encoder in `graph`. All methods take and return names of values."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
        self.config, self.weights = config, weights
        self.kind: str = config["attention"]
        self.units: int = config["decoder_units"]
        self.vocabulary_size = len(weights["embedding/embeddings"])
        self.graph = OnnxGraph()

    # Helpers.

    def weight(self, name: str, arrange: Callable[[np.ndarray], np.ndarray] = lambda value: value) -> str:
        """Adds a weight as float32, rearranged by `arrange`. The runtime converts it once, when it loads the file."""
        value = self.weights[name]
        stored = self.graph.constant(np.ascontiguousarray(arrange(value)))
        full = stored if value.dtype == np.float32 else self.graph.add("Cast", stored, to=1)
        if name + SCALE not in self.weights:
            return full
        scale = np.broadcast_to(self.weights[name + SCALE], (1,) * (value.ndim - 1) + value.shape[-1:])
        return self.graph.add("Mul", full, self.graph.constant(np.ascontiguousarray(arrange(scale))))

    def shape(self, value: str, start: int, end: int) -> str:
        """Returns the sizes of the axes from `start` to `end`, int64 (end - start,)."""
        return self.graph.add("Shape", value, start=start, end=end)

    def ints(self, *numbers: int) -> str:
        return self.graph.constant(np.array(numbers, np.int64))

    def joined(self, *parts: str | int) -> str:
        """Concatenates numbers and shapes to a shape."""
        return self.graph.add("Concat", *(self.ints(p) if isinstance(p, int) else p for p in parts), axis=0)

    def reshape(self, value: str, *parts: str | int) -> str:
        return self.graph.add("Reshape", value, self.joined(*parts))

    def count(self, length: str) -> str:
        """Returns 0, 1, ... up to a length, exclusive, int64; the length has the shape (1,)."""
        scalar = self.graph.add("Squeeze", length, self.ints(0))
        return self.graph.add("Range", self.graph.constant(0), scalar, self.graph.constant(1))

    def divided_up(self, value: str, by: int) -> str:
        """Divides positive int64 values and rounds up."""
        return self.graph.add("Div", self.graph.add("Add", value, self.ints(by - 1)), self.ints(by))

    def inside(self, extents: str, grid: str) -> str:
        """Returns which cells of a grid, (..., rows, columns), are inside the image, bool (batch, 1, rows, columns)."""
        add = self.graph.add
        of_image = self.graph.add_many("Split", 2, extents, axis=1)
        rows = add("Less", self.count(self.shape(grid, 2, 3)), of_image[0])
        columns = add("Less", self.count(self.shape(grid, 3, 4)), of_image[1])
        return add("And", add("Unsqueeze", rows, self.ints(1, 3)), add("Unsqueeze", columns, self.ints(1, 2)))

    def masked(self, value: str, extents: str) -> str:
        return self.graph.add("Mul", value, self.graph.add("Cast", self.inside(extents, value), to=1))

    # Encoder.

    @property
    def grids(self) -> tuple[str, ...]:
        """The grids of cells that the attention uses: `coarse`, `fine`, or both in this order."""
        return {"standard": ("fine",), "coarse_only": ("coarse",)}.get(self.kind, ("coarse", "fine"))

    def encode(self, image: str, size: str) -> list[str]:
        """Adds the encoder. Returns the cells of each grid, float32 (batch, units, rows, columns)."""
        add, cells = self.graph.add, {}
        extents = self.divided_up(size, STRIDE)
        pixels = add("Mul", extents, self.ints(STRIDE))
        x = add("Unsqueeze", add("Cast", image, to=1), self.ints(1))
        x = add("Div", add("Sub", x, self.graph.constant(128.0)), self.graph.constant(128.0))
        x = self.masked(x, pixels)
        features = self.convolutions("encoder", x, pixels, POOLS, NORMALISED, 1)
        if "fine" in self.grids:
            cells["fine"] = self.read_rows("row_encoder", features, extents)
        if "coarse" in self.grids:
            features = self.convolutions("coarse_encoder", features, extents, (None, None), (True, True), 7)
            outside = self.graph.constant(OUTSIDE)
            features = self.to_blocks(add("Where", self.inside(extents, features), features, outside), OUTSIDE)
            pooled = add("MaxPool", features, kernel_shape=[BLOCK, BLOCK], strides=[BLOCK, BLOCK])
            is_inside = add("Greater", pooled, self.graph.constant(OUTSIDE / 2))
            pooled = add("Where", is_inside, pooled, self.graph.constant(0.0))
            cells["coarse"] = self.read_rows("coarse_row_encoder", pooled, self.divided_up(extents, BLOCK))
        return [cells[grid] for grid in self.grids]

    def convolutions(
        self,
        part: str,
        x: str,
        extents: str,
        pools: Sequence[tuple[int, int] | None],
        normalised: Sequence[bool],
        first: int,
    ) -> str:
        add, normalise_first = self.graph.add, self.config["normalisation"] == "before_relu"
        for number, (pool, norm) in enumerate(zip(pools, normalised, strict=True), start=first):
            kernel = self.weight(f"{part}/conv{number}/kernel", lambda value: value.transpose(3, 2, 0, 1))
            x = add("Conv", x, kernel, self.weight(f"{part}/conv{number}/bias"), pads=[1, 1, 1, 1])
            if norm and not normalise_first:
                x = add("Relu", x)
            if norm:
                names = ("gamma", "beta", "moving_mean", "moving_variance")
                norm_weights = (self.weight(f"{part}/norm{number}/{name}") for name in names)
                x = add("BatchNormalization", x, *norm_weights, epsilon=EPSILON)
            if pool is not None:
                x = add("MaxPool", x, kernel_shape=pool, strides=pool)
                extents = add("Div", extents, self.ints(*pool))
            if not norm or normalise_first:
                x = add("Relu", x)
            x = self.masked(x, extents)
        return x

    def read_rows(self, part: str, features: str, extents: str) -> str:
        """Adds a row encoder: (batch, channels, rows, columns) -> (batch, 2 * units, rows, columns)."""
        add, units = self.graph.add, self.units // 2
        batch, rows, columns = (self.shape(features, axis, axis + 1) for axis in (0, 2, 3))
        channels = self.weights[f"{part}/forward_kernel"].shape[0]
        x = self.reshape(add("Transpose", features, perm=[3, 0, 2, 1]), columns, -1, channels)

        def gates(value: np.ndarray) -> np.ndarray:
            """Reorders the gates from input, forget, candidate, output to ONNX's input, output, forget, candidate."""
            update, forget, candidate, output = np.split(value, 4, axis=-1)
            return np.concatenate([update, output, forget, candidate], axis=-1).T

        def both(name: str) -> str:
            ways = [self.weight(f"{part}/{way}_{name}", gates) for way in ("forward", "backward")]
            return add("Concat", *(add("Unsqueeze", weight, self.ints(0)) for weight in ways), axis=0)

        biases = add("Concat", both("bias"), self.graph.constant(np.zeros((2, 4 * units), np.float32)), axis=1)
        of_columns = self.graph.add_many("Split", 2, extents, axis=1)[1]
        lengths = self.reshape(add("Expand", of_columns, self.joined(1, rows)), -1)
        states: list[str] = []
        if self.config["row_embedding"]:
            # row_embedding is (2, 2, rows, units): hidden and cell state of each direction.
            learned = add("Slice", self.weight(f"{part}/row_embedding"), self.ints(0), rows, self.ints(2))
            for state in self.graph.add_many("Split", 2, learned, axis=0):
                tiled = add("Expand", add("Unsqueeze", self.reshape(state, 2, -1, units), self.ints(1)),
                            self.joined(1, batch, 1, 1))  # fmt: skip
                states.append(self.reshape(tiled, 2, -1, units))
        encoded = self.graph.add_many(
            "LSTM", 1, x, both("kernel"), both("recurrent_kernel"), biases, add("Cast", lengths, to=6), *states,
            hidden_size=units, direction="bidirectional",
        )[0]  # (columns, 2, batch * rows, units)  # fmt: skip
        encoded = self.reshape(add("Transpose", encoded, perm=[2, 1, 3, 0]), batch, rows, 2 * units, columns)
        encoded = add("Transpose", encoded, perm=[0, 2, 1, 3])
        if self.config["position_encoding"]:
            gain = self.weight(f"{part}/position_gain", lambda value: value[:, np.newaxis, np.newaxis])
            encoded = add("Add", encoded, add("Mul", gain, self.positions(rows, columns)))
        return encoded

    def positions(self, rows: str, columns: str) -> str:
        """Returns the position encoding of cells, (units, rows, columns), see `trainer_module.encoder`."""
        add, half = self.graph.add, self.units // 2

        def waves(length: str, channels: int) -> str:
            """Returns sines and cosines, (channels, length)."""
            channel = np.arange(channels)
            frequency = np.power(np.float32(10000), -(channel // 2 * 2).astype(np.float32) / np.float32(channels))
            position = add("Cast", self.count(length), to=1)
            angle = add("Mul", self.graph.constant(frequency.astype(np.float32)[:, np.newaxis]), position)
            is_even = self.graph.constant((channel % 2 == 0)[:, np.newaxis])
            return add("Where", is_even, add("Sin", angle), add("Cos", angle))

        of_columns = add("Unsqueeze", waves(columns, half), self.ints(1))
        of_rows = add("Unsqueeze", waves(rows, self.units - half), self.ints(2))
        of_columns = add("Expand", of_columns, self.joined(1, rows, 1))
        of_rows = add("Expand", of_rows, self.joined(1, 1, columns))
        return add("Concat", of_columns, of_rows, axis=0)

    def to_blocks(self, grid: str, fill: float | bool) -> str:
        """Pads rows and columns of a grid, the last two axes, to multiples of `BLOCK`."""
        add = self.graph.add
        sides = self.shape(grid, 2, 4)
        missing = add("Sub", add("Mul", self.divided_up(sides, BLOCK), self.ints(BLOCK)), sides)
        pads = self.joined(self.ints(0, 0, 0, 0, 0, 0), missing)
        if isinstance(fill, bool):  # not every runtime can pad bool
            grid = add("Cast", grid, to=6)
            padded = add("Pad", grid, pads, self.graph.constant(np.array(fill, np.int32)))
            return add("Cast", padded, to=9)
        return add("Pad", grid, pads, self.graph.constant(fill))

    def memory(self, grid: str, cells: str, size: str) -> MemoryNames:
        """Makes the memory of a grid from its cells, (batch, units, rows, columns); fine cells go by coarse cell."""
        extents = self.divided_up(size, STRIDE * BLOCK if grid == "coarse" else STRIDE)
        mask, in_blocks = self.inside(extents, cells), self.grids == ("coarse", "fine") and grid == "fine"
        if in_blocks:
            cells, mask = self.to_blocks(cells, 0.0), self.to_blocks(mask, False)

        def flat(values: str, channels: int) -> str:
            """Flattens a grid to (batch, channels, cells)."""
            if in_blocks:
                sides = self.graph.add("Div", self.shape(values, 2, 4), self.ints(BLOCK))
                rows, columns = self.graph.add_many("Split", 2, sides, axis=0)
                values = self.reshape(values, -1, channels, rows, BLOCK, columns, BLOCK)
                values = self.graph.add("Transpose", values, perm=[0, 1, 2, 4, 3, 5])
            return self.reshape(values, self.shape(values, 0, 1), channels, -1)

        across = flat(cells, self.units)
        values = self.graph.add("Transpose", across, perm=[0, 2, 1])
        keys = self.graph.add("MatMul", self.weight("decoder/attention_kernel", np.transpose), across)
        return MemoryNames(values, keys, flat(mask, 1))
