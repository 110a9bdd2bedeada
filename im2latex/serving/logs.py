"""Writes the service's log to stderr, as text or as one JSON object per line."""

from __future__ import annotations

import datetime
import json
import logging

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
PACKAGE = "im2latex.serving"
# Attributes of a request that are logged; `logging` takes them as `extra`.
REQUEST = ("request_id", "client", "method", "path", "status", "seconds", "images", "version")
ACCESS = logging.getLogger(f"{PACKAGE}.access")


def configure(form: str) -> None:
    """Configures logging to stderr.

    Args:
        form: one of `FORMATS`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if form == JSON else Text())
    for name, level in ((PACKAGE, logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


class Text(logging.Formatter):
    """Formats the time, the message and the request id."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s  %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name comes from logging
        request = getattr(record, "request_id", None)
        return super().formatMessage(record) + (f"  [{request}]" if request else "")


class Json(logging.Formatter):
    """Formats an object with `time` (UTC), `level`, `message`, the request's attributes and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in REQUEST if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
