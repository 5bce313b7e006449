"""JSON lines: how every process logs, and how lines of programs that know nothing of it join them."""

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")


class JsonFormatter(logging.Formatter):
    """One line a record: ts, level, logger, message, process, everything from `extra`, exception.

    ts is UTC with milliseconds.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": self._process,
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD and key not in line)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return as_json(line)


def configure_logging(process: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """All of this process logs JSON lines to the stream (stderr), uncaught exceptions included."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def timestamp(epoch_s: float) -> str:
    """
    >>> timestamp(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_json(line: Mapping[str, Any]) -> str:
    """The line as JSON, without line breaks; what JSON does not know becomes its text."""
    text = json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else text.encode(errors="replace").decode()  # half a surrogate pair is no text


def adopt(process: str, raw: bytes, now_s: float) -> str:
    """A line that a process wrote, as a JSON line that names the process.

    Objects are kept; other text is wrapped, with the level it seems to have.

    >>> adopt("redis", b"* Ready to accept connections", 0.0)
    '{"ts":"1970-01-01T00:00:00.000Z","level":"INFO","message":"* Ready to accept connections","process":"redis"}'
    """
    text = raw.decode("utf-8", "replace").rstrip()
    if text.startswith("{"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            ours = line.get("process") == process and "\n" not in text and "\r" not in text
            return text if ours else as_json({**line, "process": process})
    level = _LEVEL.search(text[:80])
    return as_json(
        {"ts": timestamp(now_s), "level": level.group() if level else "INFO", "message": text, "process": process}
    )


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("uncaught").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
