"""The key sheet as a gateway has it: looked up by hash, followed by a thread, kept on disk."""

import hashlib
import hmac
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from registry.contracts.errors import ContractError
from registry.errors import RegistryError
from registry.key_sheet import KeyBoard, KeySheet, SheetKey
from registry.principals import Principal

log = logging.getLogger(__name__)

USED_STEP_MS = 60_000


class KeyTable:
    """Whom a key proves, by the newest sheet.

    >>> table = KeyTable()
    >>> table.find(b"sluice_unknown") is None, table.informed
    (True, False)
    """

    def __init__(self) -> None:
        self._keys: Mapping[str, SheetKey] = {}
        self.informed = False
        """Whether a sheet was seen."""

    def follow(self, sheet: KeySheet) -> None:
        """Counts from now on, whole."""
        self._keys = {key.hash: key for key in sheet.keys}
        self.informed = True

    def find(self, text: bytes) -> Principal | None:
        """None if nobody has the key; look at `until_ms`."""
        # what is looked up is a hash: who tries keys learns nothing from how long it takes
        hashed = hashlib.sha256(text).hexdigest()
        found = self._keys.get(hashed)
        return found.principal if found is not None and hmac.compare_digest(found.hash, hashed) else None


class KeyWatcher(threading.Thread):
    """Polls the board and calls `changed(sheet)` on this thread whenever the sheet is another; the last one outlives
    its source, in memory and as the file `copy`.

    drain_used: which keys were used since it was last asked, by id, in ms since the epoch. looked: set when the copy
    was read and the board asked once, whether it answered or not.
    """

    def __init__(
        self,
        board: KeyBoard,
        copy: Path,
        changed: Callable[[KeySheet], None],
        drain_used: Callable[[], Mapping[str, int]],
        period_s: float = 0.25,
        used_every_s: float = 60.0,
    ) -> None:
        super().__init__(name="keys", daemon=True)
        self._board, self._copy, self._changed, self._period_s = board, copy, changed, period_s
        self._drain_used, self._used_every_s = drain_used, used_every_s
        self._stop_asked, self.looked = threading.Event(), threading.Event()
        self._tag, self._away, self._noted_s = "", False, time.monotonic()

    def run(self) -> None:
        """Watches until stopped."""
        self._read_copy()
        while not self._stop_asked.is_set():
            self.poll()
            self.looked.set()
            self._stop_asked.wait(self._period_s)
        self._note_used()

    def stop(self) -> None:
        """Ends the thread within a period."""
        self._stop_asked.set()

    def poll(self) -> None:
        """One look at the board."""
        try:
            posted = self._board.read(self._tag)
        except (RegistryError, ContractError) as error:
            if not self._away:
                log.warning("the key board is away, the last key sheet stays: %s", error)
            self._away = True
            return
        self._away = False
        if posted is not None:
            self._tag = posted.tag
            log.info("key sheet of revision %d: %d keys", posted.sheet.revision, len(posted.sheet.keys))
            self._changed(posted.sheet)
            self._write_copy(posted.sheet)
        if time.monotonic() - self._noted_s >= self._used_every_s:
            self._note_used()

    def _note_used(self) -> None:
        self._noted_s = time.monotonic()
        if used_ms := {key: ms // USED_STEP_MS * USED_STEP_MS for key, ms in self._drain_used().items()}:
            try:
                self._board.note_used(used_ms)
            except RegistryError as error:
                log.info("could not note which keys are in use: %s", error)

    def _read_copy(self) -> None:
        try:
            self._changed(KeySheet.decode(self._copy.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ContractError) as error:
            log.warning("left out the unreadable copy of the key sheet: %s", error)

    def _write_copy(self, sheet: KeySheet) -> None:
        fresh = self._copy.with_suffix(".new")
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(sheet.encode())
            fresh.replace(self._copy)
        except OSError as error:
            log.warning("could not keep a copy of the key sheet for a start without the board: %s", error)
