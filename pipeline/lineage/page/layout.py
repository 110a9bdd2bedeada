"""Lays the components of a run out from left to right: in layers, with few crossings and straight lines.

This is the method of Sugiyama, Tagawa and Toda ("Methods for Visual Understanding of Hierarchical System Structures",
1981). A block is a component's execution with the artifacts that it gave below it; its layer is the longest way to it.
An artifact that is used in a later layer than the next has a place kept free in each layer between them, so that its
line crosses no block; all lines from one artifact share it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Heights and distances of what is drawn; page.css and page.js know the widths.
EXECUTION_HEIGHT, ARTIFACT_HEIGHT, GAP = 44, 30, 6
BLOCK_GAP, LINE_GAP = 28, 14
SWEEPS = 12


@dataclass(frozen=True)
class Block:
    """What is placed as one."""

    artifacts: int  # below each other
    execution: bool = True  # above them; without it they are artifacts that no execution here gave

    @property
    def height(self) -> int:
        """From the top of the first to the bottom of the last."""
        return (EXECUTION_HEIGHT if self.execution else -GAP) + self.artifacts * (ARTIFACT_HEIGHT + GAP)

    def port(self, artifact: int) -> float:
        """The middle of an artifact, below the top of the block."""
        above = EXECUTION_HEIGHT + GAP if self.execution else 0
        return above + artifact * (ARTIFACT_HEIGHT + GAP) + ARTIFACT_HEIGHT / 2


class Edge(NamedTuple):
    """An artifact that an execution took."""

    block: int  # that has the artifact
    artifact: int  # which of the block's
    target: int  # block of the execution


@dataclass(frozen=True)
class Layout:
    """Where things are."""

    layers: list[int]  # of the blocks, 0 is leftmost
    tops: list[int]  # of the blocks, 0 is highest
    lines: dict[tuple[int, int], list[int]]  # by block and artifact: heights of its line in the layers that it passes
    height: int


class _Item(NamedTuple):
    """A block, or the place of an artifact's line in a layer that it passes."""

    block: int
    artifact: int = -1  # -1: the block itself
    layer: int = -1


class _Link(NamedTuple):
    """A part of a line from one layer to the next, with its ends' distances from the tops of the items."""

    left: _Item
    right: _Item
    start: float
    end: float


def lay_out(blocks: Sequence[Block], edges: Sequence[Edge]) -> Layout:
    """Places blocks.

    Args:
        blocks: in the order in which they were begun. Edges point from earlier to later ones; an edge that does not
            has no influence.
        edges: which artifacts went where.
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
    return Layout(layers, placed, lines, max([bottom, *(height for line in lines.values() for height in line)]))


def _layers(blocks: Sequence[Block], edges: Sequence[Edge]) -> list[int]:
    """The longest way to each block; what nothing leads to stands right before what it leads to first."""
    layers = [0] * len(blocks)
    for edge in sorted(edges, key=lambda edge: edge.target):
        layers[edge.target] = max(layers[edge.target], layers[edge.block] + 1)
    led_to = {edge.target for edge in edges}
    for number in range(len(blocks)):
        nexts = [layers[edge.target] for edge in edges if edge.block == number]
        if nexts and number not in led_to:
            layers[number] = min(nexts) - 1
    return layers


def _links(blocks: Sequence[Block], edges: Sequence[Edge], layers: Sequence[int]) -> Iterator[_Link]:
    """The lines, cut at the layers; parts that lines of one artifact share are there once."""
    middle = EXECUTION_HEIGHT / 2
    seen = set()
    for block, artifact, target in edges:
        before, start = _Item(block), blocks[block].port(artifact)
        for layer in range(layers[block] + 1, layers[target]):
            passed = _Item(block, artifact, layer)
            if passed not in seen:
                seen.add(passed)
                yield _Link(before, passed, start, 0)
            before, start = passed, 0
        yield _Link(before, _Item(target), start, middle)


def _ordered(columns: list[list[_Item]], links: Sequence[_Link]) -> list[list[_Item]]:
    """Orders each layer by the mean place of the neighbours, to and fro; keeps the order with the fewest crossings."""
    best, fewest = [list(column) for column in columns], _crossings(columns, links)
    for sweep in range(SWEEPS):
        to_the_right = sweep % 2 == 0
        neighbours = _neighbours(links, to_the_right)
        for column in columns[1:] if to_the_right else columns[-2::-1]:
            places = {item: place for other in columns for place, item in enumerate(other)}
            means = {
                item: statistics.fmean(places[other] + 0.01 * shift for other, shift, _ in neighbours[item])
                if item in neighbours
                else places[item]
                for item in column
            }
            column.sort(key=means.__getitem__)
        crossings = _crossings(columns, links)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    return best


def _neighbours(links: Sequence[_Link], to_the_right: bool) -> dict[_Item, list[tuple[_Item, float, float]]]:
    """By item, what it is linked to one layer before (or after), with the distance of either end from its top."""
    found: dict[_Item, list[tuple[_Item, float, float]]] = {}
    for left, right, start, end in links:
        if to_the_right:
            found.setdefault(right, []).append((left, start, end))
        else:
            found.setdefault(left, []).append((right, end, start))
    return found


def _crossings(columns: Sequence[Sequence[_Item]], links: Sequence[_Link]) -> int:
    places = {item: place for column in columns for place, item in enumerate(column)}
    layer = {item: number for number, column in enumerate(columns) for item in column}
    found = 0
    for number in range(len(columns)):
        ends = [
            ((places[link.left], link.start), (places[link.right], link.end))
            for link in links
            if layer[link.left] == number
        ]
        found += sum(one[0] < other[0] and one[1] > other[1] for one in ends for other in ends)
    return found


def _tops(columns: Sequence[Sequence[_Item]], links: Sequence[_Link], blocks: Sequence[Block]) -> dict[_Item, float]:
    """Heights with which lines are as level as the order allows."""
    sizes = {item: blocks[item.block].height if item.artifact < 0 else 0.0 for column in columns for item in column}
    tops: dict[_Item, float] = {}
    for column in columns:
        tops |= dict(zip(column, _apart(column, sizes, [0.0] * len(column)), strict=True))
    for sweep in range(SWEEPS):
        to_the_right = sweep % 2 == 0
        neighbours = _neighbours(links, to_the_right)
        for column in columns if to_the_right else columns[::-1]:
            wanted = [
                statistics.fmean(tops[other] + shift - own for other, shift, own in neighbours[item])
                if item in neighbours
                else tops[item]
                for item in column
            ]
            tops |= dict(zip(column, _apart(column, sizes, wanted), strict=True))
    return tops


def _apart(column: Sequence[_Item], sizes: Mapping[_Item, float], wanted: Sequence[float]) -> list[float]:
    """The heights nearest to those wanted, by least squares, at which nothing overlaps (pool adjacent violators)."""
    offsets = [0.0]
    for above, below in zip(column, column[1:], strict=False):
        line = above.artifact >= 0 and below.artifact >= 0
        offsets.append(offsets[-1] + sizes[above] + (LINE_GAP if line else BLOCK_GAP))
    pools: list[tuple[float, int]] = []  # mean and count
    for want, offset in zip(wanted, offsets, strict=False):
        mean, count = want - offset, 1
        while pools and pools[-1][0] >= mean:
            before, of = pools.pop()
            mean, count = (mean * count + before * of) / (count + of), count + of
        pools.append((mean, count))
    levels = [mean for mean, count in pools for _ in range(count)]
    return [level + offset for level, offset in zip(levels, offsets, strict=False)]
