"""Which keys are good, shown to gateways: after every change, and again whenever the board says something else."""

import logging
import threading

from registry.api_keys import KeyRing
from registry.key_sheet import KeyBoard, tag_of

log = logging.getLogger(__name__)

INSIST_AFTER = 10  # turns in which the board has a newer sheet than the database


class KeyPublisher:
    """ring: where keys are kept. board: where gateways look. Safe for several threads."""

    def __init__(self, ring: KeyRing, board: KeyBoard) -> None:
        self._ring, self._board = ring, board
        self._lock = threading.Lock()
        self._behind = 0

    def publish(self) -> None:
        """Has gateways follow what is in the database now. Raises StoreUnavailable."""
        with self._lock:
            sheet = self._ring.sheet()
            if self._board.tag() == tag_of(sheet.encode()) or self._board.publish(sheet):
                self._behind = 0
                return
            # somebody who read the database later was quicker; or the database is an older copy of itself, and then
            # it stays behind for as long as one looks
            self._behind += 1
            if self._behind >= INSIST_AFTER:
                log.warning(
                    "the key board is ahead of the database, which was restored from a copy, it seems: the database's "
                    "keys count (revision %d)",
                    sheet.revision,
                )
                self._board.publish(sheet, force=True)
                self._behind = 0
