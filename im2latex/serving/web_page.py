"""The files of the web pages, read once when the service starts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
KATEX = FOLDER / "katex"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".woff2": "font/woff2",
}
# Content security policy: the page may load resources of this service, and images that it holds itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class File(NamedTuple):
    """The content and content type of a file."""

    content: bytes
    content_type: str


def files(collects: bool = False) -> dict[str, File]:
    """Returns the files by URL path.

    Args:
        collects: whether the page can save corrections.
    """
    paths = {
        "/": FOLDER / "page" / "page.html",
        "/page.css": FOLDER / "page" / "page.css",
        "/page.js": FOLDER / "page" / "page.js",
        "/doubts.js": FOLDER / "page" / "doubts.js",
        "/correct.js": FOLDER / "page" / "correct.js",
        "/read.js": FOLDER / "page" / "read.js",
        "/katex/katex.min.css": KATEX / "katex.min.css",
        "/katex/katex.min.js": KATEX / "katex.min.js",
    }
    paths |= {f"/katex/fonts/{path.name}": path for path in (KATEX / "fonts").glob("*.woff2")}
    served = {address: _read(path) for address, path in paths.items()}
    if collects:  # read.js looks for this attribute
        page = served["/"]
        served["/"] = page._replace(content=page.content.replace(b"<body>", b"<body data-collects>"))
    return served


def documentation() -> dict[str, File]:
    """Returns the OpenAPI document of the service, and the page that shows it, by URL path."""
    folder = FOLDER / "openapi"
    return {f"/{path.name.removesuffix('.html')}": _read(path) for path in folder.iterdir()}


def _read(path: Path) -> File:
    return File(path.read_bytes(), TYPES[path.suffix])
