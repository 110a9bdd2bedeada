"""The HTTP service on pushed models.

A request keeps a place in the queue before its body is read, so that neither bodies nor images can fill the memory;
over capacity it is answered 503. Nothing in a request names a file: pages are held in memory, models come from the
folder that the service was started with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer
from aiohttp import BodyPartReader, web

from im2latex.answer import describe, status
from im2latex.errors import ImageError, UserError
from im2latex.pictures import prepare
from im2latex.reading import Beam
from pipeline.serving import rest
from pipeline.serving.batching import Batcher, Busy
from pipeline.serving.connections import listen
from pipeline.serving.hosts import Hosts, hosts_of
from pipeline.serving.metrics import CONTENT_TYPE, Metrics
from pipeline.serving.models import Models, Read
from pipeline.serving.web_page import POLICY, files

NAME = "im2latex"
MAX_ALTERNATIVES = 10
# How long the rest of a body that is not wanted is taken and thrown away, so that its client reads the answer.
LINGERING_SECONDS = 3.0
# Between looks whether everything is answered, when the service is to end.
FINISHING_SECONDS = 0.05
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Server": NAME,
}
# After these the rest of a request may still be under way.
CLOSING = (408, 413)
FALSE = ("", "0", "false", "no")

SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Limits:
    """What the service takes at most."""

    capacity: int = 128  # images that wait or are read
    connections: int = 512  # that are open
    body: int = 16 * 1024 * 1024  # bytes of a request's body
    body_seconds: float = 20.0  # for a body to arrive
    idle_seconds: float = 15.0  # for the head of a request to arrive, on a new connection or on one that is kept
    answer_seconds: float = 120.0  # for the model to answer
    ending_seconds: float = 30.0  # for what is being answered when the service is told to end
    refresh_seconds: float = 2.0  # between looks for a newer version


class Service:
    """Answers requests by a model.

    Args:
        models: the model that serves; its `refresh` is called for as long as the service lives.
        limits: what it takes at most.
        hosts: the names it answers to.
    """

    def __init__(self, models: Models, limits: Limits, hosts: Hosts | None = None) -> None:
        self.models = models
        self.limits = limits
        self.hosts = hosts or Hosts()
        self.ending = False
        self.metrics = Metrics(lambda: self._batcher.places_taken, lambda: models.served.version)
        models.reloaded = self.metrics.reloaded
        self._files = files()
        self._batcher: Batcher[Read]

    def application(self) -> web.Application:
        """The application that aiohttp runs."""
        app = web.Application(middlewares=[self._count, self._as_json], client_max_size=self.limits.body)
        app.cleanup_ctx.append(self._work)
        app.on_response_prepare.append(_secure)
        for address in self._files:
            app.router.add_get(address, self._file)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/predict", self._predict)
        for prefix in (f"/v1/models/{NAME}", f"/v1/models/{NAME}/versions/{{version:[0-9]{{1,19}}}}"):
            app.router.add_get(prefix, self._status)
            app.router.add_post(f"{prefix}:predict", self._predict_as_tensorflow_serving)
        return app

    async def finish(self) -> None:
        """Waits until what was asked is answered, or the time for that is over."""
        self.ending = True
        log.info("ending: %d images are still to be answered", self._batcher.places_taken)
        over = time.monotonic() + self.limits.ending_seconds
        while self._batcher.places_taken and time.monotonic() < over:
            await asyncio.sleep(FINISHING_SECONDS)

    async def _work(self, app: web.Application) -> AsyncIterator[None]:
        """What goes on beside the requests."""
        self._batcher = Batcher(self.models.read, self.limits.capacity, self.metrics.batch.observe)
        watch = asyncio.create_task(self._watch())
        yield
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        await self._batcher.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.limits.refresh_seconds)
            try:
                await asyncio.to_thread(self.models.refresh)
            except Exception:  # noqa: BLE001  whatever is wrong with the folder now, the version that serves goes on
                log.exception("could not look for a newer version")

    # --- Answers ---------------------------------------------------------------------------------------------------

    async def _file(self, request: web.Request) -> web.Response:
        file = self._files[request.path]
        return web.Response(body=file.content, headers={"Content-Type": file.content_type, "Cache-Control": "no-cache"})

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self.ending:
            return web.Response(status=503, text="ending\n")
        return web.Response(text=f"version {self.models.served.version}\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def _status(self, request: web.Request) -> web.Response:
        self._check_version(request)
        return web.json_response(rest.status(self.models.served.version))

    async def _predict_as_tensorflow_serving(self, request: web.Request) -> web.Response:
        self._check_version(request)
        with self._batcher.places(1):
            body = await self._in_time(request.read())
            asked = await asyncio.to_thread(rest.parse, body)
            del body
            self._check_beam(asked.beam)
            if len(asked.images) > self.limits.capacity:
                raise UserError(f"a request may hold {self.limits.capacity} images; send them in several")
            with self._batcher.places(max(len(asked.images) - 1, 0)):
                read = await self._read(asked.images, asked.beam, turn=False)
        return web.json_response(rest.answer(asked, [of.hypotheses for of in read]))

    async def _predict(self, request: web.Request) -> web.Response:
        beam = self._beam_of_query(request.query.get("alternatives"))
        as_typed = request.query.get("clean", "").lower() not in FALSE
        with self._batcher.places(1):
            image = await self._in_time(_image_of_body(request))
            (read,) = await self._read([image], beam, turn=True)
        found = describe(read.hypotheses, as_typed)
        answer: dict[str, Any] = {"status": status(read.hypotheses), **found[0], "version": str(read.version)}
        return web.json_response(answer | ({"alternatives": found} if beam else {}))

    # --- Parts of them ---------------------------------------------------------------------------------------------

    def _check_version(self, request: web.Request) -> None:
        version = request.match_info.get("version")
        if version is not None and int(version) != self.models.served.version:
            raise web.HTTPNotFound(text=f"version {version} does not serve; {self.models.served.version} does")

    def _check_beam(self, beam: Beam | None) -> None:
        if beam and not self.models.served.reader.has_alternatives:
            raise UserError("this model has no signature predict_alternatives; push a newly trained model")

    def _beam_of_query(self, alternatives: str | None) -> Beam | None:
        if alternatives is None:
            return None
        if not alternatives.isascii() or not alternatives.isdecimal() or not 1 <= int(alternatives) <= MAX_ALTERNATIVES:
            raise UserError(f"alternatives has to be a whole number from 1 to {MAX_ALTERNATIVES}")
        beam = Beam(int(alternatives))
        self._check_beam(beam)
        return beam

    async def _in_time(self, body: Awaitable[Result]) -> Result:
        """What a client sends, if it sends it in time."""
        try:
            return await asyncio.wait_for(body, self.limits.body_seconds)
        except asyncio.TimeoutError:
            text = f"the body did not arrive within {self.limits.body_seconds:g} s"
            raise web.HTTPRequestTimeout(text=text) from None

    async def _read(self, images: Sequence[bytes], beam: Beam | None, turn: bool) -> list[Read]:
        """Reads the images of a request, for which there are places, in the batches of all requests."""
        tasks = [asyncio.ensure_future(self._read_one(image, beam, turn)) for image in images]
        try:
            return await asyncio.wait_for(asyncio.gather(*tasks), self.limits.answer_seconds)
        except ImageError as error:
            if len(images) == 1:
                raise
            failed = [task.done() and task.exception() is error for task in tasks].index(True)
            raise ImageError(f"image {failed + 1} of {len(images)}: {error}") from None
        except asyncio.TimeoutError:
            raise web.HTTPGatewayTimeout(text="the model did not answer in time; try again") from None
        finally:
            for task in tasks:
                task.cancel()

    async def _read_one(self, image: bytes, beam: Beam | None, turn: bool) -> Read:
        return await self._batcher.read(await asyncio.to_thread(prepare, image, turn), beam)

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        status = 499  # as nginx calls it: the client is gone before its answer
        resource = request.match_info.route.resource
        route = "other" if resource is None else resource.canonical
        try:
            response = await handler(request)
            if self.ending:
                response.force_close()
            status = response.status
            return response
        finally:
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)

    @web.middleware
    async def _as_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers whatever is wrong with a sentence in JSON, as TensorFlow Serving does."""
        try:
            self.hosts.check(request)
            return await handler(request)
        except UserError as error:
            return _error(400, str(error))
        except Busy as busy:
            return _error(503, str(busy), {"Retry-After": str(busy.seconds)})
        except web.HTTPRequestEntityTooLarge:
            return _error(413, f"the body is larger than {self.limits.body:,} bytes; send less at once")
        except web.HTTPException as error:
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return _error(error.status, error.text or error.reason, allowed)
        except (asyncio.CancelledError, ConnectionError):  # the client is gone
            raise
        except Exception:  # noqa: BLE001  a fault of ours must not end the service, and what it is stays here
            log.exception("%s %s failed", request.method, request.path)
            return _error(500, "the model failed; the service's log says how")


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> web.Response:
    response = web.json_response({"error": sentence}, status=status, headers=headers)
    if status in CLOSING:
        response.force_close()
    return response


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = NAME  # aiohttp has put its own there


async def _image_of_body(request: web.Request) -> bytes:
    """The image of an upload: the first file of a form, or the body itself.

    Raises:
        UserError: a form without a file, or damaged.
    """
    if request.content_type != "multipart/form-data":
        return await request.read()
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and (part.filename is not None or part.name == "image"):
                return bytes(await part.read())
    except (ValueError, AssertionError) as error:
        raise UserError(f"the form is damaged ({error})") from None
    raise UserError("the form has no file; send one, as in curl -F image=@formula.png")


# --- Running it ------------------------------------------------------------------------------------------------------


def runner_of(service: Service) -> web.AppRunner:
    """What runs the application."""
    return web.AppRunner(
        service.application(),
        # A client that is gone has its images taken out of the queue.
        handler_cancellation=True,
        shutdown_timeout=service.limits.ending_seconds,
    )


async def listen_for(service: Service, runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
    """Takes connections for a service, with its limits of number and time.

    Raises:
        OSError: the address cannot be had.
    """
    # What clients send that is no HTTP is answered 400, and is no fault of the service to be logged.
    quiet = logging.getLogger("aiohttp.server")
    quiet.setLevel(logging.CRITICAL)
    return await listen(
        runner,
        host,
        port,
        service.limits.connections,
        HEADERS,
        access_log=None,
        logger=quiet,
        keepalive_timeout=service.limits.idle_seconds,
        lingering_time=LINGERING_SECONDS,
    )


async def run(service: Service, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers what it has begun; a second signal ends it at once.

    Args:
        service: what answers.
        host: the address to listen at.
        port: 0 takes one that is free.
        started: called with the service's address when it listens.

    Raises:
        UserError: the address cannot be had.
    """
    runner = runner_of(service)
    await runner.setup()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        ended.set()
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    try:
        try:
            server = await listen_for(service, runner, host, port)
        except OSError as error:
            raise UserError(f"cannot listen at {host}:{port} ({error.strerror}); choose another --port") from None
        for number in SIGNALS:
            loop.add_signal_handler(number, end)
        address = f"[{host}]" if ":" in host else host
        started(f"http://{address}:{server.sockets[0].getsockname()[1]}")
        await ended.wait()
        # New connections are refused from here on; aiohttp's own end would cut off bodies that are still coming.
        server.close()
        await service.finish()
    finally:
        await runner.cleanup()


def serve(folders: Callable[[], Sequence[Path]], host: str, port: int, allowed: Sequence[str] = ()) -> None:
    """`im2latex serve`: loads the newest of the versions and serves until it is told to end.

    Raises:
        UserError: no version works, or the address cannot be had.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    package = logging.getLogger("pipeline.serving")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    service = Service(Models(folders), Limits(), hosts_of(host, allowed))

    def started(address: str) -> None:
        served = service.models.served
        typer.echo(f"{address} serves {served.folder}; Ctrl-C ends it")

    asyncio.run(run(service, host, port, started))
