"""The network as an ONNX graph: normalised images in, the tokens of their formulas out, by beam search in the graph.

The same computation as `trainer_module.model`, of every attention, and as `trainer_module.decoding.search`; these say
what it is and where it comes from. Images are (batch, channels, height, width) here, as ONNX has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from im2latex.protobuf import Graph, Message, model
from im2latex.weights import SCALE

# The convolutional encoder halves both sides three times, and a coarse cell covers BLOCK x BLOCK of the cells.
STRIDE, BLOCK = 8, 4
PAD, START, END = 0, 1, 2

POOLS = ((2, 2), (2, 2), None, (1, 2), (2, 1), None)
NORMALISED = (False, False, True, False, True, True)
EPSILON = 1e-5
# The score of what lies outside an image, and the log-probability of what is no answer.
OUTSIDE = NEVER = -1e9
INPUTS = ("image", "size", "width", "length_penalty")
OUTPUTS = ("tokens", "log_probability", "score")
# What `attention` of the reader follows back; "coarse" and "fine" as far as the attention has them.
TRACE = ("order", "parents", "coarse", "fine")


class Memory(NamedTuple):
    """Cells that can be attended to, as `trainer_module.attention.Memory`."""

    values: str  # (batch, cells, units)
    keys: str  # (batch, units, cells)
    mask: str  # (batch, 1, cells)


def onnx_model(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], max_tokens: int, note: str) -> Message:
    """The ONNX file of a model.

    Its inputs are `image`, uint8 (batch, height, width), sides multiples of `STRIDE` and filled with white; `size`,
    int64 (batch, 2), height and width of each before filling; `width`, int64 (), hypotheses; `length_penalty`, float32
    (). Its outputs are those of `search`: `tokens`, int64 (batch, width, steps), padded behind the end, and
    `log_probability` and `score`, float32 (batch, width). What tells where it looked is followed back by
    `im2latex.reader`: `order`, int64 (batch, width), `parents`, int64 (steps, batch, width), and the weights of each
    step's attention, `coarse` and `fine`, float32 (steps, batch, width, cells).

    Args:
        config: the network, with the names of `trainer_module.config.model.ModelConfig`.
        weights: by their names, as a file of weights stores them: float32, float16, or int8 with a scale. They stay so.
        max_tokens: formulas are cut there.
        note: JSON that describes the model, kept in the file's metadata as `im2latex`.
    """
    network = _Network(config, weights)
    network.search(max_tokens)
    return model(network.graph, {"im2latex": note})


class _Network:
    """Builds the graph, from its inputs to its outputs."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
        self.config, self.weights = config, weights
        self.kind: str = config["attention"]
        self.units: int = config["decoder_units"]
        self.vocabulary_size = len(weights["embedding/embeddings"])
        self.graph = Graph()

    # Small pieces.

    def weight(self, name: str, arrange: Callable[[np.ndarray], np.ndarray] = lambda value: value) -> str:
        """A weight in float32, its axes as wanted; the runtime converts it once, when it loads the file."""
        value = self.weights[name]
        stored = self.graph.constant(np.ascontiguousarray(arrange(value)))
        full = stored if value.dtype == np.float32 else self.graph.add("Cast", stored, to=1)
        if name + SCALE not in self.weights:
            return full
        scale = np.broadcast_to(self.weights[name + SCALE], (1,) * (value.ndim - 1) + value.shape[-1:])
        return self.graph.add("Mul", full, self.graph.constant(np.ascontiguousarray(arrange(scale))))

    def shape(self, value: str, start: int, end: int) -> str:
        """Sides of a tensor, int64 (end - start,)."""
        return self.graph.add("Shape", value, start=start, end=end)

    def ints(self, *numbers: int) -> str:
        return self.graph.constant(np.array(numbers, np.int64))

    def joined(self, *parts: str | int) -> str:
        """A shape, of sides that are numbers and of shapes."""
        return self.graph.add("Concat", *(self.ints(p) if isinstance(p, int) else p for p in parts), axis=0)

    def reshape(self, value: str, *parts: str | int) -> str:
        return self.graph.add("Reshape", value, self.joined(*parts))

    def count(self, length: str) -> str:
        """0, 1, ... below a length, int64; the length is (1,)."""
        scalar = self.graph.add("Squeeze", length, self.ints(0))
        return self.graph.add("Range", self.graph.constant(0), scalar, self.graph.constant(1))

    def divided_up(self, value: str, by: int) -> str:
        """Rounded up, of positive int64."""
        return self.graph.add("Div", self.graph.add("Add", value, self.ints(by - 1)), self.ints(by))

    def inside(self, extents: str, grid: str) -> str:
        """Which cells of a grid lie inside their image, bool (batch, 1, rows, columns); the grid has its sides last."""
        add = self.graph.add
        of_image = self.graph.add_many("Split", 2, extents, axis=1)
        rows = add("Less", self.count(self.shape(grid, 2, 3)), of_image[0])
        columns = add("Less", self.count(self.shape(grid, 3, 4)), of_image[1])
        return add("And", add("Unsqueeze", rows, self.ints(1, 3)), add("Unsqueeze", columns, self.ints(1, 2)))

    def masked(self, value: str, extents: str) -> str:
        return self.graph.add("Mul", value, self.graph.add("Cast", self.inside(extents, value), to=1))

    # Encoder.

    def encode(self, image: str, size: str) -> tuple[Memory | None, Memory | None]:
        """The coarse and the fine cells, as far as the attention looks at them."""
        add = self.graph.add
        extents = self.divided_up(size, STRIDE)
        pixels = add("Mul", extents, self.ints(STRIDE))
        x = add("Unsqueeze", add("Cast", image, to=1), self.ints(1))
        x = add("Div", add("Sub", x, self.graph.constant(128.0)), self.graph.constant(128.0))
        x = self.masked(x, pixels)
        features = self.convolutions("encoder", x, pixels, POOLS, NORMALISED, 1)
        coarse = fine = None
        if self.kind != "coarse_only":
            mask = self.inside(extents, features)
            cells = self.read_rows("row_encoder", features, extents)
            if self.kind != "standard":
                cells, mask = self.to_blocks(cells, 0.0), self.to_blocks(mask, False)
            fine = self.memory(cells, mask, in_blocks=self.kind != "standard")
        if self.kind != "standard":
            features = self.convolutions("coarse_encoder", features, extents, (None, None), (True, True), 7)
            outside = self.graph.constant(OUTSIDE)
            features = self.to_blocks(add("Where", self.inside(extents, features), features, outside), OUTSIDE)
            pooled = add("MaxPool", features, kernel_shape=[BLOCK, BLOCK], strides=[BLOCK, BLOCK])
            is_inside = add("Greater", pooled, self.graph.constant(OUTSIDE / 2))
            pooled = add("Where", is_inside, pooled, self.graph.constant(0.0))
            extents = self.divided_up(extents, BLOCK)
            mask = self.inside(extents, pooled)
            coarse = self.memory(self.read_rows("coarse_row_encoder", pooled, extents), mask, in_blocks=False)
        return coarse, fine

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
                of_norm = ("gamma", "beta", "moving_mean", "moving_variance")
                given = (self.weight(f"{part}/norm{number}/{name}") for name in of_norm)
                x = add("BatchNormalization", x, *given, epsilon=EPSILON)
            if pool is not None:
                x = add("MaxPool", x, kernel_shape=pool, strides=pool)
                extents = add("Div", extents, self.ints(*pool))
            if not norm or normalise_first:
                x = add("Relu", x)
            x = self.masked(x, extents)
        return x

    def read_rows(self, part: str, features: str, extents: str) -> str:
        """The row encoder's outputs, (batch, channels, rows, columns) -> the same with twice its units as channels."""
        add, units = self.graph.add, self.units // 2
        batch, rows, columns = (self.shape(features, axis, axis + 1) for axis in (0, 2, 3))
        channels = self.weights[f"{part}/forward_kernel"].shape[0]
        x = self.reshape(add("Transpose", features, perm=[3, 0, 2, 1]), columns, -1, channels)

        def gates(value: np.ndarray) -> np.ndarray:
            """Input, forget, candidate and output gate, as ONNX has them: input, output, forget, candidate."""
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
            # (2, 2, most rows, units): hidden and cell state of each direction.
            learned = add("Slice", self.weight(f"{part}/row_embedding"), self.ints(0), rows, self.ints(2))
            for state in self.graph.add_many("Split", 2, learned, axis=0):
                tiled = add("Expand", add("Unsqueeze", self.reshape(state, 2, -1, units), self.ints(1)),
                            self.joined(1, batch, 1, 1))  # fmt: skip
                states.append(self.reshape(tiled, 2, -1, units))
        read = self.graph.add_many(
            "LSTM", 1, x, both("kernel"), both("recurrent_kernel"), biases, add("Cast", lengths, to=6), *states,
            hidden_size=units, direction="bidirectional",
        )[0]  # (columns, 2, batch * rows, units)  # fmt: skip
        read = self.reshape(add("Transpose", read, perm=[2, 1, 3, 0]), batch, rows, 2 * units, columns)
        read = add("Transpose", read, perm=[0, 2, 1, 3])
        if self.config["position_encoding"]:
            gain = self.weight(f"{part}/position_gain", lambda value: value[:, np.newaxis, np.newaxis])
            read = add("Add", read, add("Mul", gain, self.positions(rows, columns)))
        return read

    def positions(self, rows: str, columns: str) -> str:
        """The places of cells as waves, (units, rows, columns)."""
        add, half = self.graph.add, self.units // 2

        def waves(length: str, channels: int) -> str:
            """(channels, length)"""
            channel = np.arange(channels)
            frequency = np.power(np.float32(10000), -(channel // 2 * 2).astype(np.float32) / np.float32(channels))
            place = add("Cast", self.count(length), to=1)
            angle = add("Mul", self.graph.constant(frequency.astype(np.float32)[:, np.newaxis]), place)
            is_even = self.graph.constant((channel % 2 == 0)[:, np.newaxis])
            return add("Where", is_even, add("Sin", angle), add("Cos", angle))

        of_columns = add("Unsqueeze", waves(columns, half), self.ints(1))
        of_rows = add("Unsqueeze", waves(rows, self.units - half), self.ints(2))
        of_columns = add("Expand", of_columns, self.joined(1, rows, 1))
        of_rows = add("Expand", of_rows, self.joined(1, 1, columns))
        return add("Concat", of_columns, of_rows, axis=0)

    def to_blocks(self, grid: str, fill: float | bool) -> str:
        """Fills both sides of a grid, the last two axes, up to multiples of `BLOCK`."""
        add = self.graph.add
        sides = self.shape(grid, 2, 4)
        missing = add("Sub", add("Mul", self.divided_up(sides, BLOCK), self.ints(BLOCK)), sides)
        pads = self.joined(self.ints(0, 0, 0, 0, 0, 0), missing)
        if isinstance(fill, bool):  # there is no Pad of bool in every runtime
            grid = add("Cast", grid, to=6)
            padded = add("Pad", grid, pads, self.graph.constant(np.array(fill, np.int32)))
            return add("Cast", padded, to=9)
        return add("Pad", grid, pads, self.graph.constant(fill))

    def memory(self, cells: str, mask: str, in_blocks: bool) -> Memory:
        """Of (batch, units, rows, columns); in blocks, the cells of a block follow each other."""

        def flat(grid: str, channels: int) -> str:
            """(batch, channels, cells)"""
            if in_blocks:
                sides = self.graph.add("Div", self.shape(grid, 2, 4), self.ints(BLOCK))
                rows, columns = self.graph.add_many("Split", 2, sides, axis=0)
                grid = self.reshape(grid, -1, channels, rows, BLOCK, columns, BLOCK)
                grid = self.graph.add("Transpose", grid, perm=[0, 1, 2, 4, 3, 5])
            return self.reshape(grid, self.shape(grid, 0, 1), channels, -1)

        across = flat(cells, self.units)
        values = self.graph.add("Transpose", across, perm=[0, 2, 1])
        keys = self.graph.add("MatMul", self.weight("decoder/attention_kernel", np.transpose), across)
        return Memory(values, keys, flat(mask, 1))

    # Decoder.

    def attend(self, query: str, coarse: Memory | None, fine: Memory | None) -> tuple[str, str | None, str | None]:
        """The context, (batch, queries, units), and the weights of the coarse and fine cells."""
        add = self.graph.add

        def scores(memory: Memory) -> str:
            return add("Where", memory.mask, add("MatMul", query, memory.keys), self.graph.constant(OUTSIDE))

        of_coarse = of_fine = None
        if coarse is not None:
            of_coarse = scores(coarse)
            if self.kind == "sparsemax":
                of_coarse = self.sparsemax(of_coarse)
            elif self.kind == "hard":
                cell = add("ArgMax", of_coarse, axis=-1, keepdims=0)
                hot = self.graph.constant(np.array([0.0, 1.0], np.float32))
                of_coarse = add("OneHot", cell, self.shape(of_coarse, 2, 3), hot, axis=-1)
            else:
                of_coarse = add("Softmax", of_coarse, axis=-1)
        if fine is not None:
            of_fine = scores(fine)
            if of_coarse is None:
                of_fine = add("Softmax", of_fine, axis=-1)
            else:
                flat = add("Shape", of_fine)
                in_block = add("Reshape", of_fine, self.joined(add("Shape", of_coarse), BLOCK * BLOCK))
                within = add("Softmax", in_block, axis=-1)
                of_fine = add("Reshape", add("Mul", add("Unsqueeze", of_coarse, self.ints(-1)), within), flat)
        memory, weights = (coarse, of_coarse) if fine is None else (fine, of_fine)
        assert memory is not None and weights is not None
        return add("MatMul", weights, memory.values), of_coarse, of_fine

    def sparsemax(self, scores: str) -> str:
        add = self.graph.add
        x = add("Sub", scores, add("ReduceMax", scores, axes=[-1]))
        size = self.shape(x, 2, 3)
        ordered, _ = self.graph.add_many("TopK", 2, x, size)
        one = self.graph.constant(1.0)
        ranks = add("Cast", add("Add", self.count(size), self.ints(1)), to=1)
        sums = add("CumSum", ordered, self.graph.constant(2))
        supported = add("Cast", add("Greater", add("Add", one, add("Mul", ranks, ordered)), sums), to=1)
        total = add("ReduceSum", add("Mul", ordered, supported), self.ints(-1))
        threshold = add("Div", add("Sub", total, one), add("ReduceSum", supported, self.ints(-1)))
        return add("Relu", add("Sub", x, threshold))

    def search(self, max_tokens: int) -> None:
        """All of it, with a loop over the steps of the beam search."""
        graph, vocabulary = self.graph, self.vocabulary_size
        add, sides = graph.add, ("batch", "width")
        image = graph.input("image", "uint8", ("batch", "height", "width_of_image"))
        size = graph.input("size", "int64", ("batch", 2))
        width = add("Reshape", graph.input("width", "int64", ()), self.ints(1))
        length_penalty = graph.input("length_penalty", "float32", ())
        coarse, fine = self.encode(image, size)
        batch = self.shape(image, 0, 1)
        beams = self.joined(batch, width)
        queries = add("Mul", batch, width)
        table = add("MatMul", self.weight("embedding/embeddings"), self.weight("decoder/embedding_kernel"))
        table = add("Add", table, self.weight("decoder/bias"))
        recurrent = [self.weight("decoder/output_kernel")]
        if self.config["hidden_recurrence"]:
            recurrent.append(self.weight("decoder/hidden_kernel"))
        kernel = add("Concat", *recurrent, axis=0)
        combine, of_logits = self.weight("decoder/combine_kernel"), self.weight("decoder/logits_kernel")
        ids = np.arange(vocabulary)
        only_end = graph.constant(np.where(ids == END, 0, NEVER).astype(np.float32))
        answers = graph.constant(np.where((ids == PAD) | (ids == START), NEVER, 0).astype(np.float32))
        first = add("Unsqueeze", add("Mul", self.count(batch), width), self.ints(1))
        by_token, in_all = self.joined(batch, width, vocabulary), self.joined(batch, -1)
        never, of_vocabulary = graph.constant(NEVER), self.ints(vocabulary)

        def filled(shape: str, value: int | float | bool) -> str:
            return add("Expand", graph.constant(value), shape)

        zeros = filled(self.joined(queries, self.units), 0.0)
        # All begin alike: one of them alone may go on.
        is_first = add("Equal", self.count(width), graph.constant(0))
        log_probability = add("Expand", add("Where", is_first, graph.constant(0.0), never), beams)
        start = {
            "last": (filled(beams, START), "int64"),
            "ended": (filled(beams, False), "bool"),
            "hidden": (zeros, "float32"),
            "cell": (zeros, "float32"),
            "output": (zeros, "float32"),
            "tokens": (filled(self.joined(queries, 0), PAD), "int64"),
            "log_probability": (log_probability, "float32"),
        }

        body = self.graph = Graph(graph)
        add = body.add
        step = body.input(body.new_name(), "int64", ())
        body.input(body.new_name(), "bool", ())
        last, ended, hidden, cell, output, tokens, log_probability = (
            body.input(body.new_name(), dtype) for _, dtype in start.values()
        )
        before = add("Concat", output, hidden, axis=1) if self.config["hidden_recurrence"] else output
        of_token = add("Gather", table, add("Reshape", last, self.ints(-1)))
        gates = add("Add", of_token, add("MatMul", before, kernel))
        update, forget, candidate, shown = body.add_many("Split", 4, gates, axis=1)
        kept = add("Mul", add("Sigmoid", forget), cell)
        cell = add("Add", kept, add("Mul", add("Sigmoid", update), add("Tanh", candidate)))
        hidden = add("Mul", add("Sigmoid", shown), add("Tanh", cell))
        context, *looked = self.attend(self.reshape(hidden, beams, self.units), coarse, fine)
        combined = add("Concat", self.reshape(context, -1, self.units), hidden, axis=1)
        output = add("Tanh", add("MatMul", combined, combine))
        gains = add("LogSoftmax", add("MatMul", output, of_logits), axis=-1)
        goes_on = add("Less", step, body.constant(max_tokens))
        gains = add("Add", gains, add("Where", goes_on, answers, only_end))
        gains = add("Where", add("Unsqueeze", ended, self.ints(-1)), only_end, add("Reshape", gains, by_token))
        candidates = add("Add", add("Unsqueeze", log_probability, self.ints(-1)), gains)
        log_probability, best = body.add_many("TopK", 2, add("Reshape", candidates, in_all), width)
        last, parents = add("Mod", best, of_vocabulary), add("Div", best, of_vocabulary)
        rows = add("Reshape", add("Add", first, parents), self.ints(-1))
        hidden, cell, output = (add("Gather", part, rows) for part in (hidden, cell, output))
        ended = add("Equal", last, body.constant(END))
        written = self.reshape(add("Where", ended, body.constant(PAD), last), -1, 1)
        tokens = add("Concat", add("Gather", tokens, rows), written, axis=1)
        going = add("ReduceMax", add("Cast", add("Not", ended), to=6), keepdims=0)
        body.output(add("Cast", going, to=9), body.new_name(), "bool", ())
        states = (last, ended, hidden, cell, output, tokens, log_probability)
        for value, (_, dtype) in zip(states, start.values(), strict=True):
            body.output(value, body.new_name(), dtype)
        seen = {name: value for name, value in zip(("coarse", "fine"), looked, strict=True) if value is not None}
        for value, dtype in ((parents, "int64"), *((value, "float32") for value in seen.values())):
            body.output(value, body.new_name(), dtype)

        self.graph, add = graph, graph.add
        ends = graph.add_many(
            "Loop", len(start) + 1 + len(seen), graph.constant(max_tokens + 1), graph.constant(True),
            *(value for value, _ in start.values()), body=body,
        )  # fmt: skip
        tokens, log_probability, parents, *looked_at = ends[5:]
        # The last step writes nothing but the end of those that are cut.
        tokens = add("Slice", tokens, self.ints(0), self.ints(max_tokens), self.ints(1))
        lengths = add("Cast", add("Not", add("Equal", tokens, graph.constant(PAD))), to=1)
        lengths = self.reshape(add("ReduceSum", lengths, self.ints(1), keepdims=0), beams)
        six = graph.constant(6.0)
        penalties = add("Pow", add("Div", add("Add", six, lengths), six), length_penalty)
        score, order = graph.add_many("TopK", 2, add("Div", log_probability, penalties), width)
        rows = add("Reshape", add("Add", first, order), self.ints(-1))
        tokens = self.reshape(add("Gather", tokens, rows), beams, -1)
        log_probability = add("GatherElements", log_probability, order, axis=1)
        is_sentence = add("Greater", log_probability, graph.constant(NEVER / 2))
        tokens = add("Where", add("Unsqueeze", is_sentence, self.ints(2)), tokens, graph.constant(PAD))
        graph.output(tokens, "tokens", "int64", (*sides, "steps"))
        none = graph.constant(-float("inf"))
        for name, value in (("log_probability", log_probability), ("score", score)):
            graph.output(add("Where", is_sentence, value, none), name, "float32", sides)
        graph.output(order, "order", "int64", sides)
        graph.output(parents, "parents", "int64", ("steps", *sides))
        for name, value in zip(seen, looked_at, strict=True):
            graph.output(value, name, "float32", ("steps", *sides, f"{name}_cells"))
