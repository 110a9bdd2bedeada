"""An object store with the part of S3's HTTP API that lists and reads buckets; the buckets are folders.

It accepts requests signed with one key (without checking the signature), and returns three objects per page.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3


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
        self._answer(404, "")

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        bucket, _, key = unquote(parts.path).strip("/").partition("/")
        if f"Credential={self.objects.key}/" not in self.headers.get("Authorization", ""):
            self._refuse(403, "InvalidAccessKeyId")
        elif not (self.objects.folder / bucket).is_dir():
            self._refuse(404, "NoSuchBucket")
        elif key or query.get("list-type") != "2":
            self.objects.read.append(key)
            self._refuse(404, "NoSuchKey")
        else:
            self._list(bucket, query.get("prefix", ""), int(query.get("continuation-token", 0)))

    def _list(self, bucket: str, prefix: str, begin: int) -> None:
        folder = self.objects.folder / bucket
        files = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
        keys = sorted(key for key in files if key.startswith(prefix))
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
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
