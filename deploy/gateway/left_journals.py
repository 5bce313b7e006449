"""Journals of gateways that there are no more: what they acknowledged and could not ship, shipped by the first."""

import logging
import re
import threading
from pathlib import Path

from registry.stream import StreamWriter
from serving.event_log import EventLog
from serving.journal import Journal, JournalInUse

log = logging.getLogger(__name__)

RETRY_S = 30.0
_NAME = re.compile(r"gateway-([0-9]{1,9})\.journal")
_CAPACITY_BYTES = 1 << 12  # of one whose making failed: a file without a size


def left_journals(folder: Path, gateways: int) -> list[Path]:
    """Those of gateways from number `gateways` on."""
    found = [(path, _NAME.fullmatch(path.name)) for path in sorted(folder.glob("gateway-*.journal"))]
    return [path for path, name in found if name is not None and int(name[1]) >= gateways]


class LeftJournals(threading.Thread):
    """Ships what is left in a folder's journals from number `gateways` on and deletes those that are empty then.

    A journal that a process owns is left alone; while the stream is away all stay, and are tried again.
    """

    def __init__(self, folder: Path, gateways: int, stream: StreamWriter) -> None:
        super().__init__(name="left-journals", daemon=True)
        self._folder, self._gateways, self._stream = folder, gateways, stream
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Until nothing is left, or stopped."""
        while not self._stop_asked.is_set() and not self.ship():
            self._stop_asked.wait(RETRY_S)

    def stop(self) -> None:
        """Ends the thread."""
        self._stop_asked.set()
        self.join()

    def ship(self) -> bool:
        """Whether nothing is left that may be shipped later."""
        return not [path for path in left_journals(self._folder, self._gateways) if not self._shipped(path)]

    def _shipped(self, path: Path) -> bool:
        try:
            with Journal(path, _CAPACITY_BYTES) as journal:
                events = journal.backlog
                if not EventLog(journal, self._stream).ship() or journal.backlog:
                    return False
                path.unlink()  # its lock is ours
        except JournalInUse:
            return True
        except OSError as error:
            log.warning("the journal of a gateway that is no more cannot be shipped: %s", error)
            return False
        log.info("%d events of a gateway that is no more are shipped, %s is deleted", events, path)
        return True
