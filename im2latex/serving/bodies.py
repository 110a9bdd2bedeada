"""Reads request bodies with limits on time and size, decompresses them, and extracts images from forms."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from im2latex.errors import UserError
from im2latex.serving.limits import Limits
from im2latex.serving.quotas import Allocation, Quota

# Limits of a form: files, fields, and bytes per field.
MOST_FILES, MOST_FIELDS, LONGEST_FIELD = 1, 16, 4096
# Maximum number of bytes to decompress or parse before other requests get a turn.
SLICE = 2**16
_ENCODINGS = {"": None, "identity": None, "gzip": 31, "x-gzip": 31, "deflate": 15}


class ClientDisconnected(Exception):
    """The client closed the connection."""


class _FormParser(MultiPartParser):
    """A parser that records whether it has seen the end of the form."""

    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True


class Bodies:
    """Reads request bodies.

    Args:
        limits: limits for each body.
        quota: limits the bytes of all bodies together.
    """

    def __init__(self, limits: Limits, quota: Quota) -> None:
        self._limits = limits
        self._quota = quota

    async def read(self, request: Request, allocation: Allocation) -> bytes:
        """Returns the complete body of a request, decompressed.

        Raises:
            Busy: other requests use too many bytes.
            ClientDisconnected: the client has disconnected.
            HTTPException: the body is too large, too slow, or has an unknown content encoding.
            UserError: the body is damaged.
        """
        return b"".join([chunk async for chunk in self._chunks(request, allocation)])

    async def image(self, request: Request, allocation: Allocation) -> bytes:
        """Returns the image of an upload: the file in a form, or the body itself. Raises the same errors as `read`."""
        if not _is_form(request):
            return await self.read(request, allocation)
        image, _ = await self.form(request, allocation)
        return image

    async def form(self, request: Request, allocation: Allocation) -> tuple[bytes, dict[str, str]]:
        """Returns the file in a form, and its fields by name. Raises the same errors as `read`."""
        if not _is_form(request):
            raise UserError("the body is not a form with a file; send one, as in curl -F image=@formula.png")
        parser = _FormParser(
            request.headers,
            self._chunks(request, allocation),
            max_files=MOST_FILES,
            max_fields=MOST_FIELDS,
            max_part_size=LONGEST_FIELD,
        )
        parser.spool_max_size = self._limits.max_body + 1  # keep files in memory, never on disk
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many"):
                raise UserError(f"the form has more than {MOST_FILES} file or {MOST_FIELDS} fields") from None
            raise UserError(f"the form is damaged ({error.message.rstrip('.')})") from None
        try:
            if not parser.is_whole:
                raise UserError("the form is damaged (its end is missing)")
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            for value in form.values():
                if not isinstance(value, str):
                    return await value.read(), fields
        finally:
            await form.close()
        raise UserError("the form has no file; send one, as in curl -F image=@formula.png")

    async def _chunks(self, request: Request, allocation: Allocation) -> AsyncGenerator[bytes, None]:
        """Yields the body in decompressed pieces as it arrives."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal():  # check before the client is told to continue
            if len(declared) > 15 or int(declared) > self._limits.max_body:
                raise self._too_large()
            self._quota.check(int(declared))
        encoding = request.headers.get("content-encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise HTTPException(415, f"content encoding {encoding!r:.40} is not supported; use gzip, deflate or none")
        window = _ENCODINGS[encoding]
        unpacker = zlib.decompressobj(window) if window else None
        received = unpacked = 0
        async for packed in self._received(request):
            received += len(packed)
            if received > self._limits.max_body:
                raise self._too_large()
            chunk = b""
            while packed or len(chunk) == SLICE:  # the decompressed data may be longer than one slice
                chunk, packed = _unpack(unpacker, packed)
                unpacked += len(chunk)
                if unpacked > self._limits.max_body:
                    raise self._too_large()
                allocation.take(self._quota, len(chunk))
                if chunk:
                    yield chunk
                await asyncio.sleep(0)
        if unpacker and (not unpacker.eof or unpacker.unused_data):
            raise UserError(f"the body is not a complete {encoding} stream")

    async def _received(self, request: Request) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.body_timeout
        more = True
        while more:
            try:
                message = await asyncio.wait_for(request.receive(), max(deadline - loop.time(), 0))
            except asyncio.TimeoutError:
                sentence = f"the body did not arrive within {self._limits.body_timeout:g} s"
                raise HTTPException(408, sentence) from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            more = message.get("more_body", False)
            yield message.get("body", b"")

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self._limits.max_body:,} bytes; send a smaller one")


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


def _unpack(unpacker: zlib._Decompress | None, packed: bytes) -> tuple[bytes, bytes]:
    """Returns a decompressed slice of the body, and the data that is still compressed."""
    if unpacker is None:
        return packed[:SLICE], packed[SLICE:]
    if unpacker.eof:
        raise UserError("the body has data after the end of its compressed stream")
    try:
        return unpacker.decompress(packed, SLICE), unpacker.unconsumed_tail
    except zlib.error:
        raise UserError("the body is damaged: it cannot be decompressed") from None
