"""What processes write to stdout and stderr, carried into one rotating file.

A reader a process takes lines as they come and never waits for the file: between them lies a
bounded queue, and what does not fit is dropped and counted. A full or slow disk costs lines of
log, never a child that hangs in `print`.
"""

import contextlib
import logging
import logging.handlers
import queue
import threading
import time
from pathlib import Path
from typing import IO

from deploy.logs import JsonFormatter, adopt, as_json, timestamp

MAX_LINE_BYTES = 64 << 10
QUEUED_LINES = 10_000


class LogPump:
    """Owns the log file. `close` returns when all that was read is written."""

    def __init__(self, path: Path, file_bytes: int = 10_000_000, older_files: int = 5) -> None:
        self._file = logging.handlers.RotatingFileHandler(path, maxBytes=file_bytes, backupCount=older_files)
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUED_LINES)
        self._dropped = 0
        self._readers: list[threading.Thread] = []
        self._writer = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._writer.start()

    def attach(self, process: str, stream: IO[bytes]) -> None:
        """Carry the stream's lines until it ends."""
        reader = threading.Thread(target=self._read, args=(process, stream), name=f"log-{process}", daemon=True)
        reader.start()
        self._readers = [each for each in self._readers if each.is_alive()] + [reader]

    def handler(self, process: str) -> logging.Handler:
        """For the log records of this process itself."""
        handler = _PumpHandler(self)
        handler.setFormatter(JsonFormatter(process))
        return handler

    def put(self, line: str) -> None:
        """Queue a line without its line break; never waits."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self, patience_s: float = 2.0) -> None:
        """Write what is queued. A stream that somebody keeps open is given up after a while."""
        until_s = time.monotonic() + patience_s
        for reader in self._readers:
            reader.join(max(0.0, until_s - time.monotonic()))
        with contextlib.suppress(queue.Full):  # then the file takes nothing, and the writer waits for it forever
            self._lines.put(None, timeout=patience_s)
            self._writer.join(patience_s)
            self._file.close()

    def _read(self, process: str, stream: IO[bytes]) -> None:
        with stream:
            while raw := stream.readline(MAX_LINE_BYTES):
                if not raw.isspace():
                    self.put(adopt(process, raw, time.time()))

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._emit(line)
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                self._emit(
                    as_json(
                        {
                            "ts": timestamp(time.time()),
                            "level": "WARNING",
                            "message": f"{dropped} lines of log were dropped: the file was slower than the processes",
                            "process": "supervisor",
                        }
                    )
                )

    def _emit(self, line: str) -> None:
        self._file.emit(logging.makeLogRecord({"msg": line}))


class _PumpHandler(logging.Handler):
    def __init__(self, pump: LogPump) -> None:
        super().__init__()
        self._pump = pump

    def emit(self, record: logging.LogRecord) -> None:
        self._pump.put(self.format(record))
