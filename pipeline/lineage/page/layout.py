"""Lays out the components of a run from left to right, in layers, with few crossings and straight lines.

This is the method of Sugiyama, Tagawa and Toda ("Methods for Visual Understanding of Hierarchical System Structures",
1981). A block is an execution with its output artifacts below it. The layer of a block is the length of the longest
path to it. If an artifact is used beyond the next layer, space for its line is reserved in each layer between, so that
the line crosses no block. All lines from one artifact share that space.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Heights and distances in the drawing; page.css and page.js have the widths.
EXECUTION_HEIGHT, ARTIFACT_HEIGHT, GAP = 44, 30, 6
BLOCK_GAP, LINE_GAP = 28, 14
SWEEPS = 12


@dataclass(frozen=True)
class Block:
    """An execution and its output artifacts, which are placed together."""

    artifacts: int  # number of artifacts, stacked vertically
    execution: bool = True  # whether there is an execution above them; False for artifacts of other runs

    @property
    def height(self) -> int:
        """The height from the top of the first element to the bottom of the last."""
        return (EXECUTION_HEIGHT if self.execution else -GAP) + self.artifacts * (ARTIFACT_HEIGHT + GAP)

    def port(self, artifact: int) -> float:
        """Returns the vertical distance from the top of the block to the middle of an artifact."""
        above = EXECUTION_HEIGHT + GAP if self.execution else 0
        return above + artifact * (ARTIFACT_HEIGHT + GAP) + ARTIFACT_HEIGHT / 2


class Edge(NamedTuple):
    """An artifact that is the input of an execution."""

    block: int  # block of the artifact
    artifact: int  # index of the artifact in the block
    target: int  # block of the execution


@dataclass(frozen=True)
class GraphLayout:
    """Positions of blocks and lines."""

    layers: list[int]  # layer of each block; 0 is leftmost
    tops: list[int]  # top of each block; 0 is highest
    lines: dict[tuple[int, int], list[int]]  # by block and artifact: heights of its line in the layers between
    height: int


class _Item(NamedTuple):
    """A block, or the space for an artifact's line in a layer between."""

    block: int
    artifact: int = -1  # -1: the block itself
    layer: int = -1


class _Link(NamedTuple):
    """A segment of a line from one layer to the next; `start` and `end` are distances from the tops of the items."""

    left: _Item
    right: _Item
    start: float
    end: float


def lay_out(blocks: Sequence[Block], edges: Sequence[Edge]) -> GraphLayout:
    """Lays out blocks.

    Args:
        blocks: the blocks, in the order in which their executions started.
        edges: inputs of the executions. Edges from a later to an earlier block are ignored.
    """
    forward = sorted({edge for edge in edges if edge.block < edge.target})
    layers = _layers(blocks, forward)
    links = list(_links(blocks, forward, layers))
    columns: list[list[_Item]] = [[] for _ in range(max(layers, default=-1) + 1)]
    for number, layer in enumerate(layers):
        columns[layer].append(_Item(number))
    for item in sorted({link.right for link in links if link.right.artifact >= 0}):
        columns[item.layer].append(item)
    columns = _ordered(columns, links)
    tops = _tops(columns, links, blocks)
    highest = min(tops.values(), default=0)
    lines: dict[tuple[int, int], list[int]] = {}
    for item in sorted(item for item in tops if item.artifact >= 0):
        lines.setdefault((item.block, item.artifact), []).append(round(tops[item] - highest))
    placed = [round(tops[_Item(number)] - highest) for number in range(len(blocks))]
    bottom = max((top + block.height for top, block in zip(placed, blocks, strict=True)), default=0)
    return GraphLayout(layers, placed, lines, max([bottom, *(height for line in lines.values() for height in line)]))


def _layers(blocks: Sequence[Block], edges: Sequence[Edge]) -> list[int]:
    """Returns the layer of each block: the longest path to it. A block without inputs is just before its first user."""
    layers = [0] * len(blocks)
    for edge in sorted(edges, key=lambda edge: edge.target):
        layers[edge.target] = max(layers[edge.target], layers[edge.block] + 1)
    targets = {edge.target for edge in edges}
    for number in range(len(blocks)):
        nexts = [layers[edge.target] for edge in edges if edge.block == number]
        if nexts and number not in targets:
            layers[number] = min(nexts) - 1
    return layers


def _links(blocks: Sequence[Block], edges: Sequence[Edge], layers: Sequence[int]) -> Iterator[_Link]:
    """Yields the lines, split at the layers; segments that the lines of an artifact share are yielded once."""
    middle = EXECUTION_HEIGHT / 2
    seen = set()
    for block, artifact, target in edges:
        previous, start = _Item(block), blocks[block].port(artifact)
        for layer in range(layers[block] + 1, layers[target]):
            passed = _Item(block, artifact, layer)
            if passed not in seen:
                seen.add(passed)
                yield _Link(previous, passed, start, 0)
            previous, start = passed, 0
        yield _Link(previous, _Item(target), start, middle)


def _ordered(columns: list[list[_Item]], links: Sequence[_Link]) -> list[list[_Item]]:
    """Orders each layer by the mean position of neighbours, in alternating sweeps; keeps the best order found."""
    best, fewest = [list(column) for column in columns], _crossings(columns, links)
    for sweep in range(SWEEPS):
        to_the_right = sweep % 2 == 0
        neighbours = _neighbours(links, to_the_right)
        for column in columns[1:] if to_the_right else columns[-2::-1]:
            positions = {item: position for other in columns for position, item in enumerate(other)}
            means = {
                item: statistics.fmean(positions[other] + 0.01 * shift for other, shift, _ in neighbours[item])
                if item in neighbours
                else positions[item]
                for item in column
            }
            column.sort(key=means.__getitem__)
        crossings = _crossings(columns, links)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    return best


def _neighbours(links: Sequence[_Link], to_the_right: bool) -> dict[_Item, list[tuple[_Item, float, float]]]:
    """Returns for each item its neighbours in the layer before (or after), with the distances of both ends."""
    neighbours: dict[_Item, list[tuple[_Item, float, float]]] = {}
    for left, right, start, end in links:
        if to_the_right:
            neighbours.setdefault(right, []).append((left, start, end))
        else:
            neighbours.setdefault(left, []).append((right, end, start))
    return neighbours


def _crossings(columns: Sequence[Sequence[_Item]], links: Sequence[_Link]) -> int:
    positions = {item: position for column in columns for position, item in enumerate(column)}
    layer = {item: number for number, column in enumerate(columns) for item in column}
    count = 0
    for number in range(len(columns)):
        ends = [
            ((positions[link.left], link.start), (positions[link.right], link.end))
            for link in links
            if layer[link.left] == number
        ]
        count += sum(one[0] < other[0] and one[1] > other[1] for one in ends for other in ends)
    return count


def _tops(columns: Sequence[Sequence[_Item]], links: Sequence[_Link], blocks: Sequence[Block]) -> dict[_Item, float]:
    """Returns the tops of items for which the lines are as horizontal as the order allows."""
    sizes = {item: blocks[item.block].height if item.artifact < 0 else 0.0 for column in columns for item in column}
    tops: dict[_Item, float] = {}
    for column in columns:
        tops |= dict(zip(column, _apart(column, sizes, [0.0] * len(column)), strict=True))
    for sweep in range(SWEEPS):
        to_the_right = sweep % 2 == 0
        neighbours = _neighbours(links, to_the_right)
        for column in columns if to_the_right else columns[::-1]:
            preferred = [
                statistics.fmean(tops[other] + shift - own_shift for other, shift, own_shift in neighbours[item])
                if item in neighbours
                else tops[item]
                for item in column
            ]
            tops |= dict(zip(column, _apart(column, sizes, preferred), strict=True))
    return tops


def _apart(column: Sequence[_Item], sizes: Mapping[_Item, float], preferred: Sequence[float]) -> list[float]:
    """Returns the tops nearest to the preferred ones, by least squares, without overlaps (pool adjacent violators)."""
    offsets = [0.0]
    for above, below in zip(column, column[1:], strict=False):
        line = above.artifact >= 0 and below.artifact >= 0
        offsets.append(offsets[-1] + sizes[above] + (LINE_GAP if line else BLOCK_GAP))
    pools: list[tuple[float, int]] = []  # mean and count
    for top, offset in zip(preferred, offsets, strict=False):
        mean, count = top - offset, 1
        while pools and pools[-1][0] >= mean:
            before, of = pools.pop()
            mean, count = (mean * count + before * of) / (count + of), count + of
        pools.append((mean, count))
    levels = [mean for mean, count in pools for _ in range(count)]
    return [level + offset for level, offset in zip(levels, offsets, strict=False)]
