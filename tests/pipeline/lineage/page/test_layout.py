from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipeline.lineage.page.layout import (
    ARTIFACT_HEIGHT,
    EXECUTION_HEIGHT,
    GAP,
    Block,
    Edge,
    GraphLayout,
    lay_out,
)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Block], list[Edge]]:
    blocks = draw(st.lists(st.builds(Block, st.integers(1, 3), st.booleans()), min_size=1, max_size=9))
    numbers = st.integers(0, len(blocks) - 1)
    edges = draw(st.lists(st.tuples(numbers, st.integers(0, 2), numbers), max_size=20))
    return blocks, [Edge(*edge) for edge in edges if edge[1] < blocks[edge[0]].artifacts]


def spans(blocks: list[Block], layout: GraphLayout, layer: int) -> list[tuple[int, int]]:
    """Returns the tops and bottoms of the blocks in a layer, from top to bottom."""
    places = zip(blocks, layout.layers, layout.tops, strict=True)
    return sorted((top, top + block.height) for block, of, top in places if of == layer)


def test_the_height_of_a_block_follows_from_its_content() -> None:
    assert Block(2).height == EXECUTION_HEIGHT + 2 * (GAP + ARTIFACT_HEIGHT)
    assert Block(1, execution=False).height == ARTIFACT_HEIGHT
    assert Block(2).port(1) == Block(2).height - ARTIFACT_HEIGHT / 2
    assert Block(2, execution=False).port(0) == ARTIFACT_HEIGHT / 2


@given(graphs())
def test_inputs_are_left_of_their_users(graph: tuple[list[Block], list[Edge]]) -> None:
    blocks, edges = graph
    layout = lay_out(blocks, edges)
    assert min(layout.layers) >= 0
    for edge in edges:
        if edge.block < edge.target:
            assert layout.layers[edge.block] < layout.layers[edge.target]


@given(graphs())
def test_nothing_overlaps_and_no_line_crosses_a_block(graph: tuple[list[Block], list[Edge]]) -> None:
    blocks, edges = graph
    layout = lay_out(blocks, edges)
    for layer in set(layout.layers):
        column = spans(blocks, layout, layer)
        assert all(above[1] < below[0] for above, below in itertools.pairwise(column))
        for (block, _), heights in layout.lines.items():
            passed = layer - layout.layers[block] - 1
            if 0 <= passed < len(heights):
                assert not any(top <= heights[passed] <= bottom for top, bottom in column)
    assert layout.height >= max(top + block.height for top, block in zip(layout.tops, blocks, strict=True))
    assert min(layout.tops) >= 0


@given(graphs())
def test_a_line_has_space_in_every_layer_that_it_passes(graph: tuple[list[Block], list[Edge]]) -> None:
    blocks, edges = graph
    layout = lay_out(blocks, edges)
    for block, artifact in {(edge.block, edge.artifact) for edge in edges}:
        targets = [e.target for e in edges if e[:2] == (block, artifact) and e.target > block]
        farthest = max((layout.layers[target] for target in targets), default=0)
        between = max(0, farthest - layout.layers[block] - 1)
        assert len(layout.lines.get((block, artifact), [])) == between


def test_avoidable_crossings_are_avoided() -> None:
    # Two chains whose middle blocks start in reverse order.
    blocks = [Block(1) for _ in range(6)]
    edges = [Edge(0, 0, 3), Edge(1, 0, 2), Edge(2, 0, 4), Edge(3, 0, 5)]
    tops = lay_out(blocks, edges).tops
    assert (tops[0] < tops[1]) == (tops[3] < tops[2]) == (tops[5] < tops[4])


def test_a_chain_is_horizontal() -> None:
    layout = lay_out([Block(1)] * 4, [Edge(0, 0, 1), Edge(1, 0, 2), Edge(2, 0, 3)])
    assert layout.layers == [0, 1, 2, 3]
    # Each execution is at the height of its input artifact.
    down = Block(1).port(0) - EXECUTION_HEIGHT / 2
    assert [after - before for before, after in itertools.pairwise(layout.tops)] == [down] * 3


def test_the_layout_is_deterministic() -> None:
    blocks, edges = [Block(2), Block(1), Block(1)], [Edge(0, 0, 1), Edge(0, 1, 2), Edge(1, 0, 2)]
    assert lay_out(blocks, edges) == lay_out(blocks, edges[::-1])


def test_blocks_without_edges_are_stacked() -> None:
    layout = lay_out([Block(1), Block(0)], [])
    assert layout.layers == [0, 0]
    assert layout.tops[1] > layout.tops[0] + Block(1).height
    assert lay_out([], []).height == 0
