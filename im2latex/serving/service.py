"""The HTTP service for a model.

All requests together have limits on images, on pixels to be decoded and on bytes of bodies; beyond them the service
answers 503. A request cannot name a file: pages are held in memory, and models come from the folder that the service
was started with.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from im2latex.answer import describe, status
from im2latex.corrections import Corrections, Full
from im2latex.errors import UserError
from im2latex.pictures import MAX_PIXELS
from im2latex.reading import BLANK, Beam, Hypothesis
from im2latex.serving import rest
from im2latex.serving.batching import Batcher
from im2latex.serving.bodies import Bodies, ClientDisconnected
from im2latex.serving.connections import ABOVE_LIMIT, Connections
from im2latex.serving.decoding import ImageDecoder
from im2latex.serving.hosts import Hosts
from im2latex.serving.limits import Limits
from im2latex.serving.metrics import CONTENT_TYPE, ServiceMetrics
from im2latex.serving.models import Models, Served, read
from im2latex.serving.quotas import Allocation, Busy, Quota
from im2latex.serving.statistics import ServingStatistics
from im2latex.serving.web import QUIET, ROUTE, RequestMiddleware, add_to_log, as_json, shown_path
from im2latex.serving.web_page import POLICY, documentation, files

NAME = "im2latex"
MAX_ALTERNATIVES = 10
# Parsing a larger JSON body, in bytes, needs much memory.
LARGE_JSON = 2**20
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
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_VERSION = re.compile(r"[0-9]{1,19}")

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]


class Service:
    """Answers requests with a model.

    Args:
        models: the model that serves; the service calls its `refresh` regularly.
        limits: limits of the service.
        hosts: the host names that the service answers to.
        corrections: where to save corrections; None saves none.
    """

    def __init__(
        self, models: Models, limits: Limits, hosts: Hosts | None = None, corrections: Corrections | None = None
    ) -> None:
        self.models = models
        self.limits = limits
        self.stopping = False
        self.images = Quota("images are waiting", limits.max_images, self._wait)
        self.bytes = Quota("bytes of other requests are waiting", limits.max_bytes, self._wait)
        self.connections = Connections(limits, HEADERS)
        self.metrics = ServiceMetrics(lambda: self.images.taken, lambda: models.served.version)
        models.reloaded = self.metrics.reloaded
        self.statistics = ServingStatistics(lambda: models.served)
        self.metrics.register(self.statistics)
        self._hosts = hosts or Hosts()
        self._bodies = Bodies(limits, self.bytes)
        self._corrections = corrections
        self._files = files(collects=corrections is not None) | documentation()
        self._decoding: ImageDecoder
        self._batcher: Batcher[Served, list[Hypothesis]]

    def application(self) -> ASGIApp:
        """Returns the ASGI application for uvicorn."""
        versioned = f"/v1/models/{NAME}/versions/{{version}}"
        routes = [_route(address, self._file) for address in self._files]
        routes += [
            _route("/healthz", self._healthz),
            _route("/readyz", self._readyz),
            _route("/metrics", self._metrics),
            _route("/statistics", self._statistics),
            _route("/predict", self._predict, "POST"),
            _route("/corrections", self._correct, "POST"),
            _route(f"/v1/models/{NAME}:predict", self._predict_as_tensorflow_serving, "POST"),
            _route(f"/v1/models/{NAME}", self._status),
            _route(f"/v1/models/{NAME}/metadata", self._metadata),
            _route(f"{versioned}:predict", self._predict_as_tensorflow_serving, "POST"),
            _route(f"{versioned}/metadata", self._metadata),
            _route(versioned, self._status),
        ]
        handlers = dict.fromkeys((HTTPException, UserError, Busy, Exception), lambda request, error: as_json(error))
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._work)
        app.add_exception_handler(405, _wrong_method)
        app.router.redirect_slashes = False
        app.router.default = _unknown_path
        return RequestMiddleware(app, self._hosts, self.metrics, HEADERS, lambda: self.stopping)

    def end(self, requests: int) -> None:
        """Marks the service as not ready, and logs the number of requests in progress."""
        self.stopping = True
        log.info("stopping: %d requests in progress", requests)

    @contextlib.asynccontextmanager
    async def _work(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the background tasks of the service."""
        self._decoding = ImageDecoder(self.limits.max_pixels)
        self._batcher = Batcher(read, self.metrics.batch.observe)
        tasks = [asyncio.create_task(work) for work in (self._watch(), self.connections.look())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._batcher.close()
        self._decoding.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.limits.refresh)
            try:
                await asyncio.to_thread(self.models.refresh)
            except Exception:  # noqa: BLE001  the current version continues, whatever is wrong with the folder
                log.exception("checking for a newer version failed")

    def _wait(self) -> float:
        """Returns the estimated time in seconds to read the images in the queues."""
        return self._decoding.wait() + self._batcher.wait()

    # --- Endpoints -------------------------------------------------------------------------------------------------

    async def _file(self, request: Request) -> Response:
        file = self._files[request.url.path]
        return Response(file.content, headers={"Content-Type": file.content_type, "Cache-Control": "no-cache"})

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def _readyz(self, request: Request) -> Response:
        if self.stopping:
            return PlainTextResponse("stopping\n", 503)
        has_room = self.images.has(1) and self.bytes.has(self.limits.max_body) and self._decoding.pixels.has(MAX_PIXELS)
        if self.connections.is_full or not has_room:
            return PlainTextResponse("busy\n", 503)
        return PlainTextResponse(f"version {self.models.served.version}\n")

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def _statistics(self, request: Request) -> Response:
        return JSONResponse(self.statistics.document())

    async def _status(self, request: Request) -> Response:
        return JSONResponse(rest.status(self._version(request)))

    async def _metadata(self, request: Request) -> Response:
        return JSONResponse(rest.metadata(NAME, self._version(request)))

    async def _predict_as_tensorflow_serving(self, request: Request) -> Response:
        self._version(request)
        with Allocation() as allocation:
            body = await self._bodies.read(request, allocation)
            parse = functools.partial(rest.parse, body)
            parsed = await (self._decoding.alone(parse) if len(body) > LARGE_JSON else asyncio.to_thread(parse))
            del body, parse
            if len(parsed.images) > self.limits.max_images:
                raise UserError(f"a request can contain at most {self.limits.max_images} images; send several requests")
            _, hypotheses = await _until_disconnect(
                request, self._read(allocation, parsed.images, parsed.beam, turn=False)
            )
        add_to_log(request.scope, images=len(hypotheses))
        return JSONResponse(rest.answer(parsed, hypotheses))

    async def _predict(self, request: Request) -> Response:
        beam, as_typed = _options(request)
        with Allocation() as allocation:
            image = await self._bodies.image(request, allocation)
            version, (hypotheses,) = await _until_disconnect(request, self._read(allocation, [image], beam, turn=True))
        add_to_log(request.scope, images=1, version=version)
        described = describe(hypotheses, as_typed)
        answer: dict[str, Any] = {"status": status(hypotheses), **described[0], "version": str(version)}
        return JSONResponse(answer | ({"alternatives": described} if beam else {}))

    async def _correct(self, request: Request) -> Response:
        if self._corrections is None:
            raise HTTPException(404, "this service saves no corrections; `im2latex serve --collect DIR` does")
        with Allocation() as allocation:
            image, fields = await self._bodies.form(request, allocation)
            save = functools.partial(self._corrections.save, image, fields.get("latex", ""), fields.get("name", ""))
            try:
                saved = await self._decoding.alone(save)
            except Full as error:
                raise HTTPException(507, str(error)) from None
        add_to_log(request.scope, correction=saved.name)
        return JSONResponse({"status": "saved" if saved.is_new else "known", "name": saved.name})

    # --- Helpers ---------------------------------------------------------------------------------------------------

    def _version(self, request: Request) -> int:
        """Returns the version that serves; if the request names a version, it must be the same."""
        serves, version = self.models.served.version, request.path_params.get("version")
        if version is not None and not _VERSION.fullmatch(version):
            raise HTTPException(404, f"a version is a whole number, not {version!r:.80}; version {serves} is served")
        if version is not None and int(version) != serves:
            raise HTTPException(404, f"version {version} is not served; version {serves} is")
        return serves

    async def _read(
        self, allocation: Allocation, images: Sequence[bytes], beam: Beam | None, turn: bool
    ) -> tuple[int, list[list[Hypothesis]]]:
        """Reads the images of a request with the current version, batched with other requests."""
        allocation.take(self.images, len(images))
        served = self.models.served

        async def answered() -> list[list[Hypothesis]]:
            pixels = await self._decoding.normalise(served.reader, images, turn, allocation)
            allocation.give_back(self.bytes)
            inked = [image for image in pixels if image is not None]
            wanted = beam or Beam(1)
            hypotheses = iter(await self._batcher.read(served, inked, served.reader.search(wanted)))
            answers = [[BLANK] if image is None else next(hypotheses)[: wanted.width] for image in pixels]
            self.statistics.add(served, pixels, answers)
            return answers

        try:
            return served.version, await asyncio.wait_for(answered(), self.limits.answer_timeout)
        except asyncio.TimeoutError:
            raise HTTPException(504, "the model did not answer in time; try again") from None


def _route(path: str, handler: Handler, *methods: str) -> Route:
    async def endpoint(request: Request) -> Response:
        request.scope["state"][ROUTE] = path
        if request.scope["state"].get(ABOVE_LIMIT) and path not in QUIET:
            raise HTTPException(503, "too many connections; try again later", headers={"Retry-After": "5"})
        return await handler(request)

    return Route(path, endpoint, methods=methods or ("GET",))


async def _unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(404, f"there is no path {shown_path(scope)}; the page /docs lists the paths")


def _wrong_method(request: Request, error: Exception) -> Response:
    """Returns the response to a method that a path does not take; Starlette's error has the others in a header."""
    assert isinstance(error, HTTPException) and error.headers
    allowed = " or ".join(sorted(error.headers["Allow"].split(", ")))
    detail = f"{shown_path(request.scope)} takes {allowed}, not {request.method:.20}; the page /docs lists the requests"
    return as_json(HTTPException(405, detail, error.headers))


def _options(request: Request) -> tuple[Beam | None, bool]:
    """Returns the beam of a request, and whether to return LaTeX as a person would type it.

    Raises:
        UserError: a parameter is wrong or unknown.
    """
    known = ("alternatives", "clean")
    parameters = request.query_params.multi_items()
    for name, _ in parameters:
        if name not in known:
            raise UserError(f"unknown parameter {name!r:.80}; the parameters are {', '.join(known)}")
    query = dict(parameters)
    if len(query) < len(parameters):
        raise UserError("a parameter is repeated; give each one once")
    clean, alternatives = query.get("clean", "").lower(), query.get("alternatives")
    if clean not in (*TRUE, *FALSE):
        raise UserError(f"clean has to be 1 or 0, not {clean!r:.80}")
    if alternatives is None:
        return None, clean in TRUE
    if not re.fullmatch("[0-9]{1,2}", alternatives) or not 1 <= int(alternatives) <= MAX_ALTERNATIVES:
        raise UserError(f"alternatives has to be a whole number from 1 to {MAX_ALTERNATIVES}")
    return Beam(int(alternatives)), clean in TRUE


async def _until_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Awaits the work, and cancels it if the client disconnects.

    Raises:
        ClientDisconnected: the client disconnected.
    """
    task = asyncio.create_task(work)
    disconnected = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        for future in (task, disconnected):
            future.cancel()
        await asyncio.gather(task, disconnected, return_exceptions=True)
