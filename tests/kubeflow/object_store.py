"""An object store with the part of S3's HTTP API that lists and reads buckets; the buckets are folders.

It accepts requests signed with one key (without checking the signature), and returns three objects per page. It
also lists buckets as Google Cloud Storage does, for requests with a token that it issued.
"""

from __future__ import annotations

import json
import os
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3
GOOGLE = "/storage/v1/b/"


class ObjectStore:
    """The store, in a thread of this process; a context manager."""

    def __init__(self, folder: Path, key: str, secret: str) -> None:
        self.folder = folder
        self.key = key
        self.secret = secret
        self.read: list[str] = []  # objects whose content was requested
        store = self

        class Handler(_Handler):
            objects = store

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        """The address of the store."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> ObjectStore:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    objects: ObjectStore
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *message: object) -> None:
        """Logs nothing."""

    def do_HEAD(self) -> None:
        file = self.objects.folder / unquote(urlsplit(self.path).path).strip("/")
        if file.is_file():
            self._send(200, b"", file.stat().st_size)
        else:
            self._answer(404, "")

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith(GOOGLE):
            self._list_as_google(parts.path.removeprefix(GOOGLE).split("/")[0], query)
            return
        bucket, _, key = unquote(parts.path).strip("/").partition("/")
        if f"Credential={self.objects.key}/" not in self.headers.get("Authorization", ""):
            self._refuse(403, "InvalidAccessKeyId")
        elif not (self.objects.folder / bucket).is_dir():
            self._refuse(404, "NoSuchBucket")
        elif key:
            self.objects.read.append(key)
            self._read(self.objects.folder / bucket / key)
        else:
            self._list(bucket, query.get("prefix", ""), int(query.get("continuation-token", 0)))

    def do_POST(self) -> None:
        """Returns a token of Google for a refresh token, which is the secret."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if form["refresh_token"] == [self.objects.secret]:
            token = {"access_token": "token", "token_type": "Bearer", "expires_in": 3600, "scope": "", "id_token": "id"}
            self._answer_json(200, token)
        else:
            self._answer_json(401, {"error": "invalid_grant"})

    def _list_as_google(self, bucket: str, query: dict[str, str]) -> None:
        if self.headers.get("Authorization") != "Bearer token":
            self._answer_json(401, {"error": {"code": 401, "message": "no token"}})
            return
        keys, files = self._keys(bucket, query.get("prefix", ""))
        begin = int(query.get("pageToken") or 0)
        items = [
            {
                "kind": "storage#object",
                "name": key,
                "bucket": bucket,
                "size": str(files[key].st_size),
                "updated": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(files[key].st_mtime)),
            }
            for key in keys[begin : begin + PAGE]
        ]
        more = {"nextPageToken": str(begin + PAGE)} if begin + PAGE < len(keys) else {}
        self._answer_json(200, {"kind": "storage#objects", "items": items, **more})

    def _keys(self, bucket: str, prefix: str) -> tuple[list[str], dict[str, os.stat_result]]:
        folder = self.objects.folder / bucket
        files = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
        return sorted(key for key in files if key.startswith(prefix)), files

    def _read(self, file: Path) -> None:
        """Returns an object, or the requested range of it."""
        if not file.is_file():
            self._refuse(404, "NoSuchKey")
            return
        content = file.read_bytes()
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        part = content[int(first or 0) : int(last or len(content)) + 1]
        self._send(206 if first else 200, part, len(part))

    def _list(self, bucket: str, prefix: str, begin: int) -> None:
        keys, files = self._keys(bucket, prefix)
        page = keys[begin : begin + PAGE]
        more = f"<NextContinuationToken>{begin + PAGE}</NextContinuationToken>" if begin + PAGE < len(keys) else ""
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{files[key].st_size}</Size><StorageClass>STANDARD</StorageClass>"
            f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(files[key].st_mtime))}</LastModified>"
            "</Contents>"
            for key in page
        )
        self._answer(
            200,
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>{PAGE}</MaxKeys>"
            f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
            f"{more}{contents}</ListBucketResult>",
        )

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")

    def _answer(self, status: int, document: str) -> None:
        content = f'<?xml version="1.0" encoding="UTF-8"?>{document}'.encode() if document else b""
        self._send(status, content, len(content))

    def _answer_json(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self._send(status, content, len(content))

    def _send(self, status: int, content: bytes, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(length))
        self.send_header("Last-Modified", formatdate(usegmt=True))
        self.end_headers()
        self.wfile.write(content)
