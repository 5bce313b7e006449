"""`python -m deploy.process NAME`: one process of the platform, `archiver` or `worker-0`, say.

What it does is in `wiring.BUILDERS`; here are only settings, logging and the wish to stop.
"""

import _thread
import dataclasses
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from deploy.errors import SluiceError
from deploy.logs import configure_logging
from deploy.machine import metric_files
from deploy.settings import PlatformSettings, log_effective
from deploy.wiring import BUILDERS

logger = logging.getLogger(__name__)


def split_name(name: str) -> tuple[str, int]:
    """Which process and which replica of it.

    >>> split_name("worker-3"), split_name("archiver")
    (('worker', 3), ('archiver', 0))
    """
    kind, dash, replica = name.rpartition("-")
    return (kind, int(replica)) if dash and replica.isdigit() else (name, 0)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set.

    From a thread of its own: a handler runs in the main thread, perhaps just while that holds
    the event's lock, and would wait for itself forever.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: _thread.start_new_thread(stop.set, ()))
    return stop


def main(name: str) -> int:
    """Run the process until it ends or is told to. Returns its exit code."""
    kind, replica = split_name(name)
    try:
        if kind not in BUILDERS:
            raise SluiceError(f"no process is called {kind!r}", f"one of {', '.join(BUILDERS)}")
        settings = dataclasses.replace(PlatformSettings.from_environment(os.environ), replica=replica)
        configure_logging(name, settings.log_level)
        if settings.probe_address:  # alone in a container: no supervisor has told the log
            log_effective(settings, os.environ)
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            metric_files.reserve(Path(folder), os.getpid())
        BUILDERS[kind](settings, stop_on_signals())
    except SluiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m deploy.process [{'|'.join(BUILDERS)}]")
    sys.exit(main(sys.argv[1]))
