"""Sends many different requests to a service: `make bench ARGS="soak --varied 100000 --fuzzed 100000"`.

    varied      different pictures, from 8 clients; the memory of the service is measured ten times
    fuzzed      damaged requests: uploads in every format, forms, compressed bodies, JSON, and headers

The service is `im2latex serve` with the reader. The exit status is 1 if a varied request did not get 200, if a fuzzed
request got a status of 500 or above, or if the service cannot read a picture afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import itertools
import json
import random
import subprocess
import sys
import time
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from data.pictures.synthetic import draw_png, formulas
from tests.benchmarks.serving import load, resident

CLIENTS = 8
LOOKS = 10
# The modes and formats of the damaged uploads.
KINDS = (("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "BMP"), ("P", "GIF"),
         ("L", "TIFF"), ("RGB", "WEBP"))  # fmt: skip
QUERIES = ("", "?clean=1", "?alternatives=2", "?alternatives=x", "?clean=&x=1", "?%00=%ff")
FORM = {"Content-Type": "multipart/form-data; boundary=e"}


@contextmanager
def running() -> Iterator[tuple[str, int]]:
    """Starts a service on a free port. Yields its host and port."""
    command = [sys.executable, "-m", "im2latex", "serve", "--port", "0", "--model", "reader"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        try:
            assert service.stdout is not None
            yield "127.0.0.1", int(service.stdout.readline().split()[0].rpartition(":")[2])
        finally:
            service.terminate()


def send_varied(address: str, count: int) -> bool:
    """Sends `count` different pictures, and prints the memory of the service. Returns whether all were read."""
    sizes = itertools.cycle(range(9, 26))
    pairs = zip(formulas(count, seed=12, level="simple", max_tokens=12), sizes, strict=False)
    failed, started = 0, time.perf_counter()
    print(f"varied {0:>9,}  {resident(address) / 2**20:.0f} MiB", flush=True)
    for look in range(1, LOOKS + 1):
        share = count * look // LOOKS - count * (look - 1) // LOOKS
        images = [draw_png(formula, em=em) for formula, em in itertools.islice(pairs, share)]
        _, statuses = asyncio.run(load(address, images, CLIENTS, len(images)))
        failed += len(statuses) - statuses.count(200)
        print(f"varied {count * look // LOOKS:>9,}  {resident(address) / 2**20:.0f} MiB", flush=True)
    rate = count / (time.perf_counter() - started)
    print(f"varied: {failed:,} of {count:,} failed, {rate:.1f} answers/s", flush=True)
    return not failed


def send_fuzzed(host: str, port: int, count: int, seed: int) -> bool:
    """Sends `count` damaged requests, and prints the statuses. Returns whether none was 500 or above."""
    statuses: Counter[str] = Counter()
    requests = fuzzed(random.Random(seed))

    async def client() -> None:
        for request, seconds in itertools.islice(requests, count // CLIENTS):
            statuses[await _status(host, port, request, seconds)] += 1

    async def everything() -> None:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    asyncio.run(everything())
    print("fuzzed:", ", ".join(f"{number:,} x {status}" for status, number in statuses.most_common()), flush=True)
    return not any(status.startswith("5") for status in statuses)


def fuzzed(rng: random.Random) -> Iterator[tuple[bytes, float]]:
    """Yields an endless stream of damaged requests, each with the seconds to wait for a response."""
    whole = list(_whole())
    while True:
        path, headers, body = rng.choice(whole)
        if rng.random() < 0.9:
            body = _damaged(body, rng)
        query = rng.choice(QUERIES) if path == "/predict" else ""
        fields = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body)), **headers}
        head = f"POST {path}{query} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        encoded = head.encode() + b"\r\n"
        if rng.random() < 0.1:  # the service may wait for more to come
            yield _damaged(encoded, rng) + body, 0.5
        else:
            yield encoded + body, 120.0


def _whole() -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Yields well-formed requests: path, headers, body."""
    image = draw_png("x + 1", em=11)
    for mode, kind in KINDS:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(image)).convert(mode).save(buffer, kind)
        yield "/predict", {}, buffer.getvalue()
    head = b'--e\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    note = b'\r\n--e\r\nContent-Disposition: form-data; name="note"\r\n\r\nx\r\n--e--\r\n'
    yield "/predict", FORM, head + image + note
    yield "/predict", {"Content-Encoding": "gzip"}, gzip.compress(image)
    yield "/predict", {"Content-Encoding": "deflate"}, zlib.compress(image)
    encoded = {"b64": b64encode(image).decode()}
    documents = (
        {"signature_name": "predict_images", "instances": [encoded]},
        {"signature_name": "predict_images", "inputs": {"images": [encoded]}},
        {"signature_name": "predict_alternatives", "inputs": {"images": [encoded], "width": 2, "length_penalty": 0.5}},
        {"instances": [{"examples": {"b64": b64encode(b"\n\x00").decode()}}]},
    )
    for document in documents:
        yield "/v1/models/im2latex:predict", {}, json.dumps(document).encode()


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """Changes, removes and inserts some bytes; sometimes cuts the rest off."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        position = rng.randint(0, len(changed))
        changed[position : position + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
    return bytes(changed[: rng.randint(0, len(changed))] if rng.random() < 0.3 else changed)


async def _status(host: str, port: int, request: bytes, seconds: float) -> str:
    """Sends a request. Returns the status of the response; "none" if there is none within `seconds`."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), seconds)
    except (OSError, asyncio.TimeoutError):
        return "none"
    finally:
        writer.close()
    return answer[9:12].decode("ascii", "replace") if answer.startswith(b"HTTP/1.1 ") else "none"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--varied", type=int, default=100_000, help="number of different pictures")
    parser.add_argument("--fuzzed", type=int, default=100_000, help="number of damaged requests")
    parser.add_argument("--seed", type=int, default=1, help="random seed of the damage")
    options = parser.parse_args(arguments)
    with running() as (host, port):
        address = f"http://{host}:{port}"
        good = send_varied(address, options.varied)
        good &= send_fuzzed(host, port, options.fuzzed, options.seed)
        _, statuses = asyncio.run(load(address, [draw_png("x + 1", em=11)], 1, 1))
        print(f"afterwards: status {statuses[0]}, {resident(address) / 2**20:.0f} MiB", flush=True)
    sys.exit(0 if good and statuses == [200] else 1)
