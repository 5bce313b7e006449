"""MLflow's aliases kept as the tables say, by a thread of its own.

Aliases are copies for people and for MLflow's UI; traffic follows the board. So nothing waits for them:
MLflow takes seconds to import, and may be away for as long as it likes.
"""

import logging
import threading
from collections.abc import Callable

from pipelines.settings import RolloutSettings
from registry.errors import RegistryError, StoreUnavailable
from registry.promotion import Promoter
from registry.store import ModelStore

log = logging.getLogger(__name__)


class AliasKeeper(threading.Thread):
    """Points the aliases of models that it is told of, and every so often of all.

    open_store: takes its time and may raise StoreUnavailable; asked again until it does not.
    promoter: over the store.
    """

    def __init__(
        self,
        open_store: Callable[[], ModelStore],
        promoter: Callable[[ModelStore], Promoter],
        settings: RolloutSettings,
    ) -> None:
        super().__init__(name="aliases", daemon=True)
        self._open_store, self._make_promoter, self._settings = open_store, promoter, settings
        self._store: ModelStore | None = None
        self._told, self._wake = set[str](), threading.Condition()
        self._stopped = self._behind = False

    def store(self) -> ModelStore:
        """The store, once it is open. Raises StoreUnavailable until then."""
        if self._store is None:
            raise StoreUnavailable("the model registry is not open yet: try again in some seconds")
        return self._store

    def decided(self, model: str) -> None:
        """Tells of a new plan; does not block."""
        with self._wake:
            self._told.add(model)
            self._wake.notify()

    def run(self) -> None:
        """Everything at first, then what it is told, and everything again every `repair_s`."""
        wait_s = 0.0
        while (models := self._next(wait_s)) is not None:
            wait_s = self._settings.repair_s if self._keep(models) else self._settings.retry_s

    def stop(self) -> None:
        """Ends the thread, after what it is at."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def _next(self, wait_s: float) -> set[str] | None:
        """The models it was told of, or after the wait none, for all; None to end."""
        with self._wake:
            self._wake.wait_for(lambda: self._told or self._stopped, wait_s)
            models, self._told = self._told, set()
            return None if self._stopped else models

    def _keep(self, models: set[str]) -> bool:
        try:
            if self._store is None:
                self._store = self._open_store()
            promoter = self._make_promoter(self._store)
            if models and not self._behind:
                promoter.publish(sorted(models))
            else:
                promoter.repair()
        except RegistryError as error:
            if not self._behind:  # once, not at every try: MLflow takes a while to start
                log.warning("aliases wait, a try each %.0f s: %s", self._settings.retry_s, error)
            self._behind = True  # the next time for all: no model that it was told of is forgotten
            return False
        if self._behind:
            log.info("aliases are as decided again")
        self._behind = False
        return True
