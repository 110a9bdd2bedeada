"""Benchmark of `im2latex serve`: clients that send their next request as soon as they get a response."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence

import aiohttp
import numpy as np

from data.pictures.synthetic import draw_png, formulas
from tests.benchmarks.measuring import FULL, Figure, Size

PICTURES = 256


def serving(size: Size = FULL) -> dict[str, Figure]:
    """Measures `im2latex serve` with the reader, on different pictures and with 1 to 300 concurrent clients."""
    images = pictures(size.of(PICTURES))
    figures: dict[str, Figure] = {}
    command = [sys.executable, "-m", "im2latex", "serve", "--port", "0", "--model", "reader"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        try:
            assert service.stdout is not None
            address = service.stdout.readline().split()[0]
            figures_of(address, images, size.of(64), size.of(500))  # warms up
            for clients, requests in ((1, 200), (8, 1_000), (64, 3_000), (300, 3_000)):
                figures |= figures_of(address, images, size.of(clients), size.of(requests))
            before = resident(address)
            figures_of(address, images, size.of(64), size.of(10_000))
            figures["memory before 10,000 requests"] = Figure(before / 2**20, "MiB")
            figures["memory after them"] = Figure(resident(address) / 2**20, "MiB")
        finally:
            service.terminate()
    return figures


def pictures(count: int) -> list[bytes]:
    """Draws pictures of different formulas and sizes."""
    drawn = formulas(count, seed=8, level="standard", max_tokens=30)
    return [draw_png(formula, em=em) for formula, em in zip(drawn, itertools.cycle(range(10, 24)), strict=False)]


def figures_of(address: str, images: Sequence[bytes], clients: int, requests: int) -> dict[str, Figure]:
    """Measures the throughput and latency of a number of concurrent clients."""
    started = time.perf_counter()
    seconds, statuses = asyncio.run(load(address, images, clients, requests))
    spent = time.perf_counter() - started
    good = statuses.count(200)
    name = f"{clients} clients" if clients > 1 else "1 client"
    return {
        name: Figure(good / spent, "answers/s"),
        f"{name}, median": Figure(1e3 * float(np.median(seconds)), "ms"),
        f"{name}, 99th percentile": Figure(1e3 * float(np.percentile(seconds, 99)), "ms"),
        f"{name}, refused": Figure(statuses.count(503), "answers"),
        f"{name}, errors": Figure(requests - good - statuses.count(503), "answers"),
    }


async def load(
    address: str, images: Sequence[bytes], clients: int, requests: int, query: str = ""
) -> tuple[list[float], list[int]]:
    """Sends the requests. Returns the duration in seconds and the status of each; status 0 if there was no response."""
    seconds: list[float] = []
    statuses: list[int] = []
    numbers = iter(range(requests))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client() -> None:
            for number in numbers:
                started = time.perf_counter()
                try:
                    picture = images[number % len(images)]
                    async with session.post(f"{address}/predict{query}", data=picture) as answer:
                        await answer.read()
                        statuses.append(answer.status)
                except (aiohttp.ClientError, OSError):
                    statuses.append(0)
                seconds.append(time.perf_counter() - started)

        await asyncio.gather(*(client() for _ in range(clients)))
    return seconds, statuses


def resident(address: str) -> float:
    """Returns the memory of the service in bytes, from its metrics."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        (value,) = re.findall(r"^process_resident_memory_bytes (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(value)


if __name__ == "__main__":  # python -m tests.benchmarks.serving ADDRESS... compares running services
    drawn = pictures(PICTURES)
    for clients, requests in ((1, 100), (8, 300), (64, 600), (300, 600)):
        for address in sys.argv[1:]:
            for name, figure in figures_of(address, drawn, clients, requests).items():
                print(f"{address}  {name:<32} {figure.value:>8.1f} {figure.unit}", flush=True)
    for address in sys.argv[1:]:
        print(f"{address}  memory {resident(address) / 2**20:.0f} MiB")
