"""The network and the beam search as an ONNX graph, from normalised images to the tokens of their formulas.

The computation is the same as in `trainer_module.model`, for all kinds of attention, and `trainer_module.decoding`,
where it is explained, with sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from im2latex.calibration import CERTAIN, Calibration
from im2latex.encoder_graph import BLOCK, OUTSIDE, EncoderGraph, MemoryNames
from im2latex.groups import groups_of
from im2latex.protobuf import Message, OnnxGraph, model

PAD, START, END = 0, 1, 2
# Log-probability of impossible continuations.
NEVER = -1e9
# Number of repeated tokens from which a formula is in a loop, by the period of the repetition, longest period first: at
# least 40, and at least two periods. This occurs in 12 of 347,000 real formulas, with blanks or mistakes in macros.
MAX_PERIOD = 50
LOOPS = [max(40, 2 * period) for period in range(MAX_PERIOD, 0, -1)]
# The same for a formula of the maximum length, where a loop has no room for more: one repetition is enough.
LOOPS_AT_LIMIT = [max(20, period) for period in range(MAX_PERIOD, 0, -1)]


def onnx_model(
    config: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    max_tokens: int,
    note: str,
    calibration: Calibration | None = None,
    vocabulary: Sequence[str] = (),
) -> Message:
    """Returns the ONNX file of a model.

    Inputs:
        `image`: uint8 (batch, height, width), padded with white to multiples of `STRIDE`.
        `size`: height and width of each image before padding, int64 (batch, 2).
        `known_coarse`, `known_fine`: cells that an earlier run returned, float32 (batch, units, rows, columns), padded
            with any number, for the grids that the model has. They are used instead of `image`, if there are any.
        `search`: false ends the search after one step, bool (); for a run that only encodes.
        `views`: number of consecutive images that show the same formula in different sizes, int64 (); it divides the
            batch. Their rows of the outputs are equal, except the attention.
        `width`: beam width, int64 ().
        `length_penalty`: float32 ().

    Outputs:
        `coarse_cells`, `fine_cells`: the encoded images, float32 (batch, units, rows, columns).
        `tokens`, `token_log_probability`, `log_probability`, `score`: as in `trainer_module.decoding.Decoded`, with
            int64 tokens.
        `token_probability`, `probability`: calibrated, with the same shapes.
        `order`: position of each final hypothesis in the last beam, int64 (batch, width).
        `parents`: position of each hypothesis's parent in the beam before, int64 (steps, batch, width).
        `coarse`, `fine`: attention weights of each step, float32 (steps, batch, width, cells), for the grids that the
            model has. `im2latex.reader` follows `order` and `parents` back to the weights of a hypothesis.

    Args:
        config: the network, with the names of `trainer_module.config.model.ModelConfig`.
        weights: weights by name as in a file of weights: float32, float16, or int8 with a scale. The ONNX file stores
            them with the same dtypes.
        max_tokens: maximum number of tokens in a formula.
        note: JSON that describes the model, stored in the file's metadata as `im2latex`.
        calibration: None leaves the model's probabilities as they are.
        vocabulary: as in `trainer_module.decoding.search`.
    """
    network = _Network(config, weights)
    network.search(max_tokens, calibration or Calibration(), vocabulary)
    return model(network.graph, {"im2latex": note})


class _Network(EncoderGraph):
    """Builds the graph of the decoder and the search on top of the encoder."""

    # Decoder.

    def attend(
        self, query: str, coarse: MemoryNames | None, fine: MemoryNames | None
    ) -> tuple[str, str | None, str | None]:
        """Adds the attention. Returns the context, (batch, queries, units), and the coarse and fine weights."""
        add = self.graph.add

        def scores(memory: MemoryNames) -> str:
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

    def cells(self) -> tuple[str, list[str]]:
        """Adds the inputs for images, and the encoder. Returns the images' sizes and the cells of each grid."""
        graph = self.graph
        image = graph.input("image", "uint8", ("batch", "height", "width_of_image"))
        size = graph.input("size", "int64", ("batch", 2))
        known = [
            graph.input(f"known_{grid}", "float32", ("known", "units", f"known_{grid}_rows", f"known_{grid}_columns"))
            for grid in self.grids
        ]
        encoding, passing = OnnxGraph(graph), OnnxGraph(graph)
        self.graph = encoding
        for value in self.encode(image, size):
            encoding.output(value, "float32")
        self.graph = graph
        for value in known:
            passing.output(passing.add("Identity", value), "float32")
        is_unknown = graph.add("Equal", graph.add("Size", known[0]), graph.constant(0))
        cells = graph.add_many("If", len(known), is_unknown, then_branch=encoding, else_branch=passing)
        for grid, value in zip(self.grids, cells, strict=True):
            graph.output(value, "float32", f"{grid}_cells", ("batch", self.units, f"{grid}_rows", f"{grid}_columns"))
        return size, cells

    def calibrated(self, log_probability: str, slope: float, offset: float) -> str:
        """Returns the calibrated probability."""
        add, constant = self.graph.add, self.graph.constant
        below = add("Min", log_probability, constant(CERTAIN))
        odds = add("Sub", below, add("Log", add("Sub", constant(1.0), add("Exp", below))))
        return add("Sigmoid", add("Add", add("Mul", odds, constant(slope)), constant(offset)))

    def search(self, max_tokens: int, calibration: Calibration, vocabulary: Sequence[str]) -> None:
        """Adds the whole graph: encoder, beam search as a loop over steps, and the outputs."""
        graph, vocabulary_size = self.graph, self.vocabulary_size
        add, sides = graph.add, ("batch", "width")
        size, cells = self.cells()
        memories = {grid: self.memory(grid, value, size) for grid, value in zip(self.grids, cells, strict=True)}
        coarse, fine = memories.get("coarse"), memories.get("fine")
        search = graph.input("search", "bool", ())
        views = add("Reshape", graph.input("views", "int64", ()), self.ints(1))
        width = add("Reshape", graph.input("width", "int64", ()), self.ints(1))
        length_penalty = graph.input("length_penalty", "float32", ())
        batch = self.shape(size, 0, 1)
        beams = self.joined(batch, width)
        queries, formulas = add("Mul", batch, width), add("Div", batch, views)
        table = add("MatMul", self.weight("embedding/embeddings"), self.weight("decoder/embedding_kernel"))
        table = add("Add", table, self.weight("decoder/bias"))
        recurrent = [self.weight("decoder/output_kernel")]
        if self.config["hidden_recurrence"]:
            recurrent.append(self.weight("decoder/hidden_kernel"))
        kernel = add("Concat", *recurrent, axis=0)
        combine, logits_kernel = self.weight("decoder/combine_kernel"), self.weight("decoder/logits_kernel")
        ids = np.arange(vocabulary_size)
        groups = groups_of(vocabulary or [""] * vocabulary_size, END)
        possible = ~groups.forbidden & (ids != PAD) & (ids != START)
        # By the kind of the innermost open group; the last row is for hypotheses that have to end.
        allowed, closing, only_end = (
            graph.constant(np.where(is_possible, 0, NEVER).astype(np.float32))
            for is_possible in (np.vstack([possible, ids == END]), np.vstack([groups.ending, ids < 0]), ids == END)
        )
        # The open groups are the digits of a number, the innermost last: a token multiplies it, adds to it, divides it.
        # 64 bits are enough for 24 groups within each other, with the five kinds that the reader has.
        kinds = len(groups.forbidden)
        changes = np.where(groups.opened > 0, kinds, 1), groups.opened, np.where(groups.closed > 0, kinds, 1)
        factor, addend, divisor = (graph.constant(change.astype(np.int64)[:, np.newaxis]) for change in changes)
        offsets = add("Unsqueeze", add("Mul", self.count(batch), width), self.ints(1))
        first = self.reshape(add("Expand", offsets, beams), -1)
        never, vocabulary_shape = graph.constant(NEVER), self.ints(vocabulary_size)
        hidden_shape, in_all = self.joined(beams, self.units), self.joined(batch, -1)
        of_query, of_view = self.joined(queries, vocabulary_size), self.joined(formulas, views, width, vocabulary_size)
        log_views = add("Log", add("Cast", views, to=1))
        flat, column, in_units = self.ints(-1), self.ints(-1, 1), self.ints(-1, self.units)
        start_of_recent, end_of_recent, along = self.ints(-MAX_PERIOD), self.ints(np.iinfo(np.int64).max), self.ints(1)
        # How many more tokens have to repeat, by period, if none does so far.
        to_repeat = self.ints(*(-length for length in LOOPS))

        def filled(value: int | float | bool, *shape: int) -> str:
            return add("Expand", graph.constant(value), self.joined(queries, *shape))

        zeros = filled(0.0, self.units)
        # All hypotheses start equal, so only one of them may continue.
        is_first = add("Equal", self.count(width), graph.constant(0))
        log_probability = add("Expand", add("Where", is_first, graph.constant(0.0), never), beams)
        log_probability = add("Reshape", log_probability, column)
        start = {
            "last": (filled(START), "int64"),  # (queries,)
            "ended": (filled(False, 1), "bool"),
            "hidden": (zeros, "float32"),
            "cell": (zeros, "float32"),
            "output": (zeros, "float32"),
            "within": (filled(0, 1), "int64"),  # the open groups
            "log_probability": (log_probability, "float32"),  # (queries, 1)
            # From here on with a column for each step.
            "tokens": (filled(PAD, MAX_PERIOD), "int64"),  # and MAX_PERIOD columns before the first step
            "sums": (log_probability, "float32"),  # log-probabilities, and a column before the first step
            # Above -1 for periods with enough repeated tokens for a loop, (queries, MAX_PERIOD).
            "repeated": (add("Expand", to_repeat, self.joined(queries, MAX_PERIOD)), "int64"),
        }

        body = self.graph = OnnxGraph(graph)
        add = body.add
        step = body.input(body.new_name(), "int64", ())
        body.input(body.new_name(), "bool", ())
        last, ended, hidden, cell, output, within, before, tokens, sums, repeated = (
            body.input(body.new_name(), dtype) for _, dtype in start.values()
        )
        recurrent_input = add("Concat", output, hidden, axis=1) if self.config["hidden_recurrence"] else output
        gates = add("Add", add("Gather", table, last), add("MatMul", recurrent_input, kernel))
        update, forget, candidate, output_gate = body.add_many("Split", 4, gates, axis=1)
        remembered = add("Mul", add("Sigmoid", forget), cell)
        cell = add("Add", remembered, add("Mul", add("Sigmoid", update), add("Tanh", candidate)))
        hidden = add("Mul", add("Sigmoid", output_gate), add("Tanh", cell))
        context, *attention_weights = self.attend(add("Reshape", hidden, hidden_shape), coarse, fine)
        combined = add("Concat", add("Reshape", context, in_units), hidden, axis=1)
        output = add("Tanh", add("MatMul", combined, combine))
        gains = add("LogSoftmax", add("MatMul", output, logits_kernel), axis=-1)
        mean = add("ReduceLogSumExp", add("Reshape", gains, of_view), axes=[1])
        gains = add("Reshape", add("Expand", add("Sub", mean, log_views), of_view), of_query)
        is_last = add("Equal", step, body.constant(max_tokens))
        has_to_end = add("Or", is_last, add("Greater", add("ReduceMax", repeated, axes=[1]), body.constant(-1)))
        row = add("Where", has_to_end, self.ints(kinds), add("Mod", within, self.ints(kinds)))
        row = add("Reshape", row, flat)
        closed_first = add("Add", add("Gather", gains, self.ints(END), axis=1), add("Gather", closing, row))
        gains = add("Add", add("Max", gains, closed_first), add("Gather", allowed, row))
        candidates = add("Add", before, add("Where", ended, only_end, gains))
        log_probability, best = body.add_many("TopK", 2, add("Reshape", candidates, in_all), width)
        best = add("Reshape", best, flat)
        last, parents = add("Mod", best, vocabulary_shape), add("Div", best, vocabulary_shape)
        rows = add("Add", first, parents)
        hidden, cell, output, within = (add("Gather", part, rows) for part in (hidden, cell, output, within))
        within = add("Add", add("Mul", within, add("Gather", factor, last)), add("Gather", addend, last))
        within = add("Div", within, add("Gather", divisor, last))
        tokens, sums, repeated = (add("Gather", part, rows) for part in (tokens, sums, repeated))
        written, log_probability = add("Unsqueeze", last, along), add("Reshape", log_probability, column)
        ended = add("Equal", written, body.constant(END))
        same = add("Equal", add("Slice", tokens, start_of_recent, end_of_recent, along), written)
        counted = add("Where", same, add("Add", repeated, body.constant(1)), to_repeat)
        repeated = add("Where", ended, repeated, counted)
        tokens = add("Concat", tokens, add("Where", ended, body.constant(PAD), written), axis=1)
        sums = add("Concat", sums, log_probability, axis=1)
        all_ended = add("ReduceMin", add("Cast", ended, to=6), keepdims=0)
        goes_on = add("And", add("Equal", all_ended, body.constant(np.array(0, np.int32))), search)
        body.output(goes_on, "bool", shape=())
        states = (last, ended, hidden, cell, output, within, log_probability, tokens, sums, repeated)
        for value, (_, dtype) in zip(states, start.values(), strict=True):
            body.output(value, dtype)
        grid_weights = {
            name: value for name, value in zip(("coarse", "fine"), attention_weights, strict=True) if value is not None
        }
        for value, dtype in ((parents, "int64"), *((value, "float32") for value in grid_weights.values())):
            body.output(value, dtype)

        self.graph, add = graph, graph.add
        ends = graph.add_many(
            "Loop", len(start) + 1 + len(grid_weights), graph.constant(max_tokens + 1), graph.constant(True),
            *(value for value, _ in start.values()), body=body,
        )  # fmt: skip
        log_probability, tokens, sums, repeated, parents, *all_weights = ends[6:]
        log_probability = add("Reshape", log_probability, beams)
        parents = self.reshape(parents, -1, beams)
        to_end = self.ints(np.iinfo(np.int64).max)
        tokens = add("Slice", tokens, self.ints(MAX_PERIOD), to_end, along)
        gained = add("Sub", add("Slice", sums, along, to_end, along), add("Slice", sums, self.ints(0), flat, along))
        # The last step only ends hypotheses that have reached max_tokens.
        tokens, gained = (add("Slice", of, self.ints(0), self.ints(max_tokens), along) for of in (tokens, gained))
        lengths = add("Cast", add("Not", add("Equal", tokens, graph.constant(PAD))), to=7)
        lengths = add("ReduceSum", lengths, along)
        is_at_limit = add("Equal", lengths, self.ints(max_tokens))
        least = add("Where", is_at_limit, self.ints(*LOOPS_AT_LIMIT), self.ints(*LOOPS))
        repeated = add("Sub", repeated, to_repeat)
        of_loop = add("Where", add("Less", repeated, least), graph.constant(0), repeated)
        lengths = add("Sub", lengths, add("ReduceMax", of_loop, axes=[1]))
        six, counted = graph.constant(6.0), self.reshape(add("Cast", lengths, to=1), beams)
        penalties = add("Pow", add("Div", add("Add", six, counted), six), length_penalty)
        score, order = graph.add_many("TopK", 2, add("Div", log_probability, penalties), width)
        rows = add("Add", first, add("Reshape", order, flat))
        is_shown = add("Less", self.count(self.shape(tokens, 1, 2)), add("Gather", lengths, rows))
        is_shown = self.reshape(is_shown, beams, -1)
        tokens, gained = (self.reshape(add("Gather", of, rows), beams, -1) for of in (tokens, gained))
        log_probability = add("GatherElements", log_probability, order, axis=1)
        is_sentence = add("Greater", log_probability, graph.constant(NEVER / 2))
        is_shown = add("And", add("Unsqueeze", is_sentence, self.ints(2)), is_shown)
        tokens = add("Where", is_shown, tokens, graph.constant(PAD))
        gained = add("Where", is_shown, gained, graph.constant(0.0))
        graph.output(tokens, "int64", "tokens", (*sides, "steps"))
        of_token = self.calibrated(gained, calibration.token_slope, calibration.token_offset)
        of_token = add("Where", is_shown, of_token, graph.constant(0.0))
        of_formula = self.calibrated(log_probability, calibration.formula_slope, calibration.formula_offset)
        of_formula = add("Where", is_sentence, of_formula, graph.constant(0.0))
        for name, value in (("token_log_probability", gained), ("token_probability", of_token)):
            graph.output(value, "float32", name, (*sides, "steps"))
        graph.output(of_formula, "float32", "probability", sides)
        none = graph.constant(-float("inf"))
        for name, value in (("log_probability", log_probability), ("score", score)):
            graph.output(add("Where", is_sentence, value, none), "float32", name, sides)
        graph.output(order, "int64", "order", sides)
        graph.output(parents, "int64", "parents", ("steps", *sides))
        for name, value in zip(grid_weights, all_weights, strict=True):
            graph.output(value, "float32", name, ("steps", *sides, f"{name}_cells"))
