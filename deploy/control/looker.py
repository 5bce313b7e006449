"""A thread of the controller that looks at a store again and again."""

import logging
import threading
from abc import ABC, abstractmethod

from registry.errors import RegistryError

log = logging.getLogger(__name__)


class Looker(ABC):
    """Looks each `every_s` until stopped. name: of the thread. gap: what is missing while the store does not answer,
    which is said once."""

    def __init__(self, name: str, every_s: float, gap: str) -> None:
        self._every_s, self._gap, self._away = every_s, gap, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Once; a store that does not answer changes nothing."""
        try:
            self._look()
            self._away = False
        except RegistryError as error:
            if not self._away:
                log.warning("%s: %s", self._gap, error)
            self._away = True

    @abstractmethod
    def _look(self) -> None:
        """Raises RegistryError if the store does not answer."""

    def _run(self) -> None:
        self.look()
        while not self._stop.wait(self._every_s):
            self.look()
