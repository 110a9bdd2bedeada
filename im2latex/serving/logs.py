"""The log of the service, on stderr: lines for people, or one JSON object a line."""

from __future__ import annotations

import datetime
import json
import logging

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)
PACKAGE = "im2latex.serving"
# What of a request stands in a line of its own, as `logging` takes it in `extra`.
REQUEST = ("request_id", "client", "method", "path", "status", "seconds", "images", "version")
ACCESS = logging.getLogger(f"{PACKAGE}.access")


def configure(form: str) -> None:
    """Writes the log to stderr.

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
    """Time, message, and the id of the request that it is about."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s  %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        request = getattr(record, "request_id", None)
        return super().formatMessage(record) + (f"  [{request}]" if request else "")


class Json(logging.Formatter):
    """An object of `time` (UTC), `level`, `message`, what is known of the request, and the traceback."""

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
