from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from im2latex.pictures import MAX_PIXELS, Picture
from im2latex.reading import READ_AT_ONCE, Beam
from pipeline.serving.batching import Batcher, Busy, _Waiting, choose


class Slow:
    """A model that waits to be let go on, and notes what it was given."""

    def __init__(self, go_on: bool = True) -> None:
        self.batches: list[tuple[list[bytes], Beam | None]] = []
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        if go_on:
            self.may_go_on.set()

    def __call__(self, images: Sequence[bytes], beam: Beam | None) -> list[Any]:
        self.batches.append((list(images), beam))
        self.begun.set()
        assert self.may_go_on.wait(10)
        return [ValueError(image) if image == b"bad" else image.upper() for image in images]


def picture(name: str, width: int = 100, height: int = 20) -> Picture:
    return Picture(name.encode(), width, height)


def with_batcher(model: Callable[..., Any], use: Callable[[Batcher], Any], capacity: int = 100) -> Any:
    async def run() -> Any:
        batcher: Batcher = Batcher(model, capacity)
        try:
            return await asyncio.wait_for(use(batcher), 20)
        finally:
            await batcher.close()

    return asyncio.run(run())


def test_images_that_come_together_are_read_together_and_each_has_its_own_answer() -> None:
    model = Slow()

    async def use(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(*(batcher.read(picture(name), None) for name in "abc"))

    assert with_batcher(model, use) == [b"A", b"B", b"C"]
    assert model.batches == [([b"a", b"b", b"c"], None)]


def test_a_client_that_is_alone_does_not_wait_and_those_that_come_in_crowds_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.serving.batching.LONGEST_WAIT", 1.5)
    model = Slow()

    async def later(batcher: Batcher, name: str) -> None:
        await asyncio.sleep(0.1)
        await batcher.read(picture(name), None)

    async def use(batcher: Batcher) -> float:
        started = time.monotonic()
        for name in "abc":
            await batcher.read(picture(name), None)
        alone = time.monotonic() - started
        await asyncio.gather(*(batcher.read(picture(name), None) for name in "de"))
        await asyncio.gather(batcher.read(picture("f"), None), later(batcher, "g"))
        return alone

    assert with_batcher(model, use) < 1.2
    assert [images for images, _ in model.batches] == [[b"a"], [b"b"], [b"c"], [b"d", b"e"], [b"f", b"g"]]


def test_what_comes_while_the_model_reads_is_the_next_batch_and_no_larger_than_allowed() -> None:
    model = Slow(go_on=False)

    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.read(picture("first"), None))
        await asyncio.to_thread(model.begun.wait, 10)
        others = [asyncio.create_task(batcher.read(picture(str(i)), None)) for i in range(READ_AT_ONCE + 3)]
        await asyncio.sleep(0)
        model.may_go_on.set()
        await asyncio.gather(first, *others)

    with_batcher(model, use)
    assert [len(images) for images, _ in model.batches] == [1, READ_AT_ONCE, 3]


def test_other_beams_and_other_sizes_are_other_batches() -> None:
    model = Slow()
    wanted = [(picture("small", 40, 20), None), (picture("page", 900, 1200), None), (picture("beam"), Beam(3)),
              (picture("little", 44, 20), None), (picture("other", 100, 20), Beam(3))]  # fmt: skip

    async def use(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.read(*one) for one in wanted))

    with_batcher(model, use)
    assert model.batches == [([b"small", b"little"], None), ([b"page"], None), ([b"beam", b"other"], Beam(3))]


def test_a_batch_has_no_more_pixels_than_one_image_may_have() -> None:
    side = int((MAX_PIXELS / 3) ** 0.5)
    waiting: list[_Waiting] = [_Waiting(picture(str(i), side, side), None, answer=None) for i in range(9)]
    assert len(choose(waiting)) == 3
    assert choose([]) == []


def test_one_that_fails_does_not_harm_the_others() -> None:
    async def use(batcher: Batcher[Any]) -> list[Any]:
        return await asyncio.gather(
            *(batcher.read(picture(name), None) for name in ("a", "bad", "c")), return_exceptions=True
        )

    a, bad, c = with_batcher(Slow(), use)
    assert a == b"A" and c == b"C" and isinstance(bad, ValueError)


def test_a_model_that_raises_is_told_to_all_of_the_batch_and_the_next_is_read() -> None:
    fails = [True]

    def model(images: Sequence[bytes], beam: Beam | None) -> list[bytes]:
        if fails.pop():
            raise MemoryError("no memory")
        return list(images)

    async def use(batcher: Batcher) -> None:
        fails.insert(0, False)
        failed = await asyncio.gather(*(batcher.read(picture(i), None) for i in "ab"), return_exceptions=True)
        assert [type(error) for error in failed] == [MemoryError, MemoryError]
        assert await batcher.read(picture("c"), None) == b"c"

    with_batcher(model, use)


def test_what_nobody_waits_for_is_not_read() -> None:
    model = Slow(go_on=False)

    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.read(picture("first"), None))
        await asyncio.to_thread(model.begun.wait, 10)
        gone, second = (asyncio.create_task(batcher.read(picture(name), None)) for name in ("gone", "second"))
        await asyncio.sleep(0)
        gone.cancel()
        model.may_go_on.set()
        assert list(await asyncio.gather(first, second)) == [b"FIRST", b"SECOND"]

    with_batcher(model, use)
    assert [images for images, _ in model.batches] == [[b"first"], [b"second"]]


def test_over_capacity_there_is_no_place_until_one_is_given_back() -> None:
    async def use(batcher: Batcher) -> None:
        with batcher.places(2):
            with batcher.places(1):
                assert batcher.places_taken == 3
                with pytest.raises(Busy, match="try again in 1 s") as error, batcher.places(1):
                    raise AssertionError("there was a place")
                assert error.value.seconds == 1
            with batcher.places(1):
                pass
        assert batcher.places_taken == 0

    with_batcher(Slow(), use, capacity=3)
