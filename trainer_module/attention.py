"""Attention over the encoded cells of an image (Deng et al. 2017, section 4)."""

from __future__ import annotations

from typing import Any

from keras import ops


def standard_attention(query: Any, keys: Any, memory: Any, mask: Any) -> tuple[Any, Any]:
    """Soft attention over every cell, with a bilinear score (Luong et al. 2015, "general").

    Args:
        query: decoder state h_t, (batch, units).
        keys: memory times the attention matrix, V Wa, (batch, cells, units).
        memory: the encoded cells V, (batch, cells, units).
        mask: True where a cell lies inside its image, (batch, cells).

    Returns:
        The context, (batch, units), and the weights, (batch, cells); weights outside the mask are zero.
    """
    scores = ops.squeeze(ops.matmul(keys, ops.expand_dims(query, -1)), -1)  # (batch, cells)
    scores = ops.where(mask, scores, ops.cast(-1e9, scores.dtype))
    weights = ops.softmax(scores, axis=-1)
    context = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), memory), 1)  # (batch, units)
    return context, weights
