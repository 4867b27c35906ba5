"""The server's log on stderr: a JSON object a line for programs, plain lines on a terminal. Never what people wrote.

{"time": "2026-01-31T12:00:00.123Z", "level": "info", "message": "answered", "request": "5f0c...", "path": ..., "ms": 12.3}
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from hornbook.serve.guard.refusals import printable

_USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JSONLines(logging.Formatter):
    """What a call gave as ``extra`` becomes keys of its line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= extras(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Lines(logging.Formatter):
    """The same for a person."""

    def format(self, record: logging.LogRecord) -> str:
        more = " ".join(f"{key}={printable(str(value))}" for key, value in extras(record).items())
        text = f"{_time(record)[11:19]} {record.getMessage()} {more}".rstrip()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _USUAL}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def begin() -> None:
    """Send what Hornbook and its HTTP library log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines() if sys.stderr.isatty() else JSONLines())
    for name, level in (("hornbook", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
