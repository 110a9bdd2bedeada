"""Attention over the encoded cells of an image, standard and coarse-to-fine (Deng et al. 2017, section 4).

The coarse-to-fine variants use a coarse grid, in which each cell covers a block of `BLOCK` x `BLOCK` fine cells. They
factor the attention as p(z) = sum over z' of p(z') p(z | z'): first the block, then the cell within it (equation 4).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

# Fine cells along each side of a coarse cell.
BLOCK = 4

# Score of cells outside the image.
OUTSIDE = -1e9


class Memory(NamedTuple):
    """Cells to attend to.

    Attributes:
        values: V, (batch, cells, units).
        keys: (V Wa)^T, (batch, units, cells). In this layout, the product with a single query is twice as fast.
        mask: True inside the image, (batch, cells).
    """

    values: Any
    keys: Any
    mask: Any


class Memories(NamedTuple):
    """The grids of an image; None for a grid that the attention does not use.

    If there is a coarse grid, the fine cells are ordered by block, see `in_blocks`.
    """

    coarse: Memory | None
    fine: Memory | None

    @property
    def read(self) -> Memory:
        """The grid whose values make up the context."""
        memory = self.fine or self.coarse
        assert memory is not None
        return memory


class Attended(NamedTuple):
    """The result of attention. Weights outside an image are zero.

    Attributes:
        context: (batch, queries, units).
        coarse: p(z'), float32, (batch, queries, coarse cells); None without a coarse grid.
        fine: p(z), float32, (batch, queries, fine cells); None without a fine grid.
        chosen: log p(z') of the cell that hard attention chose, (batch, queries); None for other kinds.
    """

    context: Any
    coarse: Any
    fine: Any
    chosen: Any


def attend(kind: str, query: Any, memories: Memories, noise: Any = None) -> Attended:
    """Attends to the memory with a bilinear score (Luong et al. 2015, "general").

    Args:
        kind: `standard`, `coarse_only`, `hierarchical`, `sparsemax` or `hard`.
        query: decoder states h_t, (batch, queries, units).
        memories: the fine grid for `standard`, the coarse grid for `coarse_only`, otherwise both.
        noise: Gumbel noise, (batch, queries, coarse cells). With it, `hard` samples a coarse cell instead of taking the
            most probable one (Maddison et al. 2014).
    """
    coarse = fine = chosen = None
    if memories.coarse is not None:
        scores = _scores(query, memories.coarse)
        if kind == "sparsemax":
            coarse = sparsemax(scores)
        elif kind == "hard":
            cell = ops.argmax(scores if noise is None else scores + ops.cast(noise, "float32"), axis=-1)
            coarse = ops.one_hot(cell, ops.shape(scores)[-1], dtype="float32")
            chosen = ops.sum(coarse * ops.log_softmax(scores, axis=-1), axis=-1)
        else:
            coarse = ops.softmax(scores, axis=-1)
    if memories.fine is not None:
        scores = _scores(query, memories.fine)
        if coarse is None:
            fine = ops.softmax(scores, axis=-1)
        else:
            # In a block outside the image, all scores are equal, and the block's weight is zero.
            fine = _joint(coarse, ops.softmax(_by_block(scores), axis=-1))
    return Attended(_weighted_sum(coarse if fine is None else fine, memories.read.values), coarse, fine, chosen)


def transposed(memories: Memories) -> Memories:
    """Transposes values to (batch, units, cells) and keys to (batch, cells, units), for `attend_gradient`."""

    def transpose(memory: Memory | None) -> Memory | None:
        if memory is None:
            return None
        return Memory(ops.transpose(memory.values, (0, 2, 1)), ops.transpose(memory.keys, (0, 2, 1)), memory.mask)

    return Memories(transpose(memories.coarse), transpose(memories.fine))


def attend_gradient(
    kind: str, attended: Attended, memories: Memories, d_context: Any, d_coarse: Any = None
) -> tuple[Any, Any, Any]:
    """Computes the gradients of a query and of its scores.

    Args:
        kind: as in `attend`.
        attended: the result of `attend`.
        memories: the memories of `attend`, `transposed`.
        d_context: gradient of the context, (batch, queries, units).
        d_coarse: additional gradient of the coarse scores, (batch, queries, coarse cells), or None.

    Returns:
        Gradients of the query, (batch, queries, units), of the coarse scores, (batch, queries, coarse cells), and of
        the fine scores, (batch, queries, fine cells); None for a grid that does not exist.
    """
    d_weights = ops.cast(ops.matmul(d_context, memories.read.values), "float32")
    coarse, fine = (None if part is None else ops.cast(part, "float32") for part in attended[1:3])
    d_fine = None
    if fine is not None and coarse is None:
        d_fine = _softmax_gradient(fine, d_weights)
    elif fine is not None:
        cell_weights = _by_block(fine)
        # Gradient of a coarse weight: the mean of its cells' gradients, weighted by their weights within the block.
        d_block = ops.sum(cell_weights * _by_block(d_weights), axis=-1) / ops.maximum(coarse, 1e-20)
        d_fine = fine * (d_weights - ops.repeat(d_block, BLOCK * BLOCK, axis=-1))
        d_weights = d_block
    d_scores = None
    if coarse is not None:
        if kind == "hard":
            d_scores = ops.zeros_like(coarse)  # choosing a cell is not differentiable
        elif kind == "sparsemax":
            support = ops.cast(coarse > 0, "float32")
            mean = ops.sum(support * d_weights, axis=-1, keepdims=True) / ops.sum(support, axis=-1, keepdims=True)
            d_scores = support * (d_weights - mean)
        else:
            d_scores = _softmax_gradient(coarse, d_weights)
        if d_coarse is not None:
            d_scores = d_scores + ops.cast(d_coarse, "float32")
    d_scores, d_fine = (None if part is None else ops.cast(part, d_context.dtype) for part in (d_scores, d_fine))
    d_query = sum(
        ops.matmul(part, memory.keys)
        for part, memory in zip((d_scores, d_fine), memories, strict=True)
        if memory is not None
    )
    return d_query, d_scores, d_fine


def soft_coarse(query: Any, memory: Memory) -> Any:
    """Returns the probabilities from which hard attention chooses, float32, (batch, queries, coarse cells)."""
    return ops.softmax(_scores(query, memory), axis=-1)


def sparsemax(scores: Any) -> Any:
    """Projects scores onto the probability simplex (Martins and Astudillo 2016, equation 2).

    Args:
        scores: (..., size).

    Returns:
        (..., size), non-negative with sum 1, and exactly zero for low scores.
    """
    # Subtracting the maximum does not change the result.
    x = scores - ops.max(scores, axis=-1, keepdims=True)
    ordered = ops.flip(ops.sort(x, axis=-1), axis=-1)
    ranks = ops.arange(1, ops.shape(x)[-1] + 1, dtype=x.dtype)
    sums = ops.cumsum(ordered, axis=-1)
    supported = ops.cast(1.0 + ranks * ordered > sums, x.dtype)
    size = ops.sum(supported, axis=-1, keepdims=True)
    threshold = (ops.sum(ordered * supported, axis=-1, keepdims=True) - 1.0) / size
    return ops.relu(x - threshold)


def lookups(attended: Attended, memories: Memories) -> tuple[Any, Any]:
    """Counts the coarse and fine cells that each query has to score (Deng et al. 2017, table 2).

    These are all coarse cells of the image, and the fine cells in coarse cells whose weight is not zero.

    Returns:
        Numbers of coarse and of fine cells, int32, (batch, queries).
    """
    weights = attended.coarse if attended.fine is None else attended.fine
    zeros = ops.zeros(ops.shape(weights)[:2], "int32")
    coarse = fine = zeros
    if memories.coarse is not None:
        coarse = zeros + ops.sum(ops.cast(memories.coarse.mask, "int32"), axis=-1, keepdims=True)
    if memories.fine is not None:
        cells = ops.expand_dims(ops.cast(memories.fine.mask, "int32"), 1)
        if attended.coarse is not None:
            cells = cells * ops.cast(ops.repeat(attended.coarse, BLOCK * BLOCK, axis=-1) > 0, "int32")
        fine = zeros + ops.sum(cells, axis=-1)
    return coarse, fine


def flat(grid: Any) -> Any:
    """Reshapes (batch, rows, columns, ...) to (batch, rows * columns, ...)."""
    batch, rows, columns, *rest = ops.shape(grid)
    return ops.reshape(grid, (batch, rows * columns, *rest))


def fill_blocks(grid: Any, fill: float | bool = 0) -> Any:
    """Pads rows and columns of (batch, rows, columns, ...) to multiples of `BLOCK`."""
    _, rows, columns, *rest = ops.shape(grid)
    amounts = [[0, 0], [0, -rows % BLOCK], [0, -columns % BLOCK], *([0, 0] for _ in rest)]
    return ops.pad(grid, amounts, constant_values=fill)


def in_blocks(grid: Any) -> Any:
    """Orders the fine cells of a grid by block, that is, by coarse cell.

    Args:
        grid: (batch, rows, columns, ...), both sides multiples of `BLOCK`.

    Returns:
        (batch, rows * columns, ...): blocks in reading order, and the `BLOCK`^2 cells of each in reading order.
    """
    batch, rows, columns, *rest = ops.shape(grid)
    parted = ops.reshape(grid, (batch, rows // BLOCK, BLOCK, columns // BLOCK, BLOCK, *rest))
    ordered = ops.transpose(parted, (0, 1, 3, 2, 4, *range(5, 5 + len(rest))))
    return ops.reshape(ordered, (batch, rows * columns, *rest))


def out_of_blocks(cells: Any, rows: int, columns: int) -> Any:
    """Undoes `in_blocks`: (..., rows * columns) back to (..., rows, columns)."""
    parted = ops.reshape(cells, (-1, rows // BLOCK, columns // BLOCK, BLOCK, BLOCK))
    return ops.reshape(ops.transpose(parted, (0, 1, 3, 2, 4)), (*ops.shape(cells)[:-1], rows, columns))


def _scores(query: Any, memory: Memory) -> Any:
    """Returns the scores, float32, (batch, queries, cells)."""
    scores = ops.cast(ops.matmul(query, memory.keys), "float32")
    return ops.where(ops.expand_dims(memory.mask, 1), scores, OUTSIDE)


def _by_block(cells: Any) -> Any:
    """Reshapes (batch, queries, cells) to (batch, queries, blocks, cells of a block)."""
    batch, queries, count = ops.shape(cells)
    return ops.reshape(cells, (batch, queries, count // (BLOCK * BLOCK), BLOCK * BLOCK))


def _joint(coarse: Any, within: Any) -> Any:
    """Computes p(z') p(z | z'), (batch, queries, cells).

    Args:
        coarse: p(z'), (batch, queries, blocks).
        within: p(z | z'), (batch, queries, blocks, cells of a block).
    """
    batch, queries, blocks, cells = ops.shape(within)
    return ops.reshape(ops.expand_dims(coarse, -1) * within, (batch, queries, blocks * cells))


def _weighted_sum(weights: Any, values: Any) -> Any:
    """Sums values (batch, cells, units) with weights (batch, queries, cells). Returns (batch, queries, units)."""
    return ops.matmul(ops.cast(weights, values.dtype), values)


def _softmax_gradient(weights: Any, d_weights: Any) -> Any:
    return weights * (d_weights - ops.sum(weights * d_weights, axis=-1, keepdims=True))
