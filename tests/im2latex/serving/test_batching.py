from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from im2latex.reading import READ_AT_ONCE, Beam
from im2latex.serving.batching import MOST_WORK, Batcher, _Waiting, choose

GREEDY = Beam(1)
MODEL = "model"


class Slow:
    """A model that waits until it may continue, and records its inputs."""

    def __init__(self, go_on: bool = True) -> None:
        self.batches: list[tuple[list[int], Beam]] = []
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        if go_on:
            self.may_go_on.set()

    def __call__(self, model: str, images: Sequence[np.ndarray], beam: Beam) -> list[str]:
        names = [int(image[0, 0]) for image in images]
        self.batches.append((names, beam))
        self.begun.set()
        assert self.may_go_on.wait(10)
        return [f"{model} {name}" for name in names]

    @property
    def names(self) -> list[list[int]]:
        return [names for names, _ in self.batches]


def image(name: int, width: int = 100, height: int = 20) -> np.ndarray:
    """An image that is identified by its first pixel."""
    return np.full((height, width), name, np.uint8)


def with_batcher(model: Callable[..., Any], use: Callable[[Batcher], Any]) -> Any:
    async def run() -> Any:
        batcher: Batcher = Batcher(model)
        try:
            return await asyncio.wait_for(use(batcher), 20)
        finally:
            await batcher.close()

    return asyncio.run(run())


def test_images_that_arrive_together_are_read_in_one_batch_with_separate_results() -> None:
    model = Slow()

    async def use(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(*(batcher.read(MODEL, [image(name)], GREEDY) for name in range(3)))

    assert with_batcher(model, use) == [["model 0"], ["model 1"], ["model 2"]]
    assert model.batches == [([0, 1, 2], GREEDY)]


def test_a_client_that_is_alone_does_not_wait_and_those_that_come_in_crowds_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("im2latex.serving.batching.LONGEST_WAIT", 1.5)
    model = Slow()

    async def later(batcher: Batcher, name: int) -> None:
        await asyncio.sleep(0.1)
        await batcher.read(MODEL, [image(name)], GREEDY)

    async def use(batcher: Batcher) -> float:
        started = time.monotonic()
        for name in (0, 1, 2):
            await batcher.read(MODEL, [image(name)], GREEDY)
        alone = time.monotonic() - started
        await batcher.read(MODEL, [image(3), image(4)], GREEDY)
        await asyncio.gather(batcher.read(MODEL, [image(5)], GREEDY), later(batcher, 6))
        await asyncio.sleep(0.3)
        started = time.monotonic()
        await batcher.read(MODEL, [image(7)], GREEDY)  # after a pause
        return max(alone, time.monotonic() - started)

    assert with_batcher(model, use) < 1.2
    assert model.names == [[0], [1], [2], [3, 4], [5, 6], [7]]


def test_images_that_arrive_during_a_batch_form_the_next_one_up_to_its_limit() -> None:
    model = Slow(go_on=False)

    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.read(MODEL, [image(0)], GREEDY))
        await asyncio.to_thread(model.begun.wait, 10)
        others = asyncio.create_task(batcher.read(MODEL, [image(1)] * (READ_AT_ONCE + 3), GREEDY))
        await asyncio.sleep(0)
        model.may_go_on.set()
        await asyncio.gather(first, others)

    with_batcher(model, use)
    assert [len(names) for names in model.names] == [1, READ_AT_ONCE, 3]


def test_other_models_other_beams_and_other_sizes_are_other_batches() -> None:
    model = Slow()
    wanted = [(MODEL, image(0, 40), GREEDY), (MODEL, image(1, 700, 190), GREEDY), (MODEL, image(2), Beam(3)),
              (MODEL, image(3, 44), GREEDY), (MODEL, image(4), Beam(3)), ("newer", image(5, 40), GREEDY)]  # fmt: skip

    async def use(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(*(batcher.read(model, [of], beam) for model, of, beam in wanted))

    assert with_batcher(model, use)[-1] == ["newer 5"]
    assert model.batches == [([0, 3], GREEDY), ([1], GREEDY), ([2, 4], Beam(3)), ([5], GREEDY)]


def test_the_work_of_a_batch_is_bounded() -> None:
    side = int((MOST_WORK / 3) ** 0.5)
    for beam, count in ((GREEDY, 3), (Beam(3), 1)):
        waiting: list[_Waiting] = [_Waiting(MODEL, beam, image(0, side, side), 0, answer=None) for _ in range(9)]
        assert len(choose(waiting)) == count
    assert choose([]) == []


def test_a_small_request_comes_before_the_rest_of_a_large_one() -> None:
    model = Slow(go_on=False)
    beam = Beam(32)  # one of these images is a batch

    async def use(batcher: Batcher) -> None:
        large = asyncio.create_task(batcher.read(MODEL, [image(name, 700, 190) for name in range(5)], beam))
        await asyncio.to_thread(model.begun.wait, 10)
        small = asyncio.create_task(batcher.read(MODEL, [image(9)], GREEDY))
        await asyncio.sleep(0)
        model.may_go_on.set()
        await asyncio.gather(large, small)

    with_batcher(model, use)
    assert model.names.index([9]) <= 2
    assert [names for names in model.names if names != [9]] == [[0], [1], [2], [3], [4]]


def test_an_exception_of_the_model_fails_its_whole_batch_but_not_the_next() -> None:
    fails = [True]

    def model(name: str, images: Sequence[np.ndarray], beam: Beam) -> list[str]:
        if fails.pop():
            raise MemoryError("no memory")
        return [name for _ in images]

    async def use(batcher: Batcher) -> None:
        fails.insert(0, False)
        failed = await asyncio.gather(
            *(batcher.read(MODEL, [image(i)], GREEDY) for i in range(2)), return_exceptions=True
        )
        assert [type(error) for error in failed] == [MemoryError, MemoryError]
        assert await batcher.read(MODEL, [image(2)], GREEDY) == [MODEL]

    with_batcher(model, use)


def test_images_of_disconnected_clients_are_not_read() -> None:
    model = Slow(go_on=False)

    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.read(MODEL, [image(0)], GREEDY))
        await asyncio.to_thread(model.begun.wait, 10)
        gone, second = (asyncio.create_task(batcher.read(MODEL, [image(name)], GREEDY)) for name in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        model.may_go_on.set()
        assert list(await asyncio.gather(first, second)) == [["model 0"], ["model 2"]]

    with_batcher(model, use)
    assert model.names == [[0], [2]]


def test_no_image_is_no_batch() -> None:
    async def use(batcher: Batcher) -> None:
        assert await batcher.read(MODEL, [], GREEDY) == []

    with_batcher(Slow(), use)
