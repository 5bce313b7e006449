"""Finding replicas: what the board shows, what the settings name, and what still answers."""

import logging
import threading
from collections.abc import Callable, Mapping

from registry.contracts.replicas import ReplicaRecord
from registry.errors import RegistryError
from registry.replica_board import ReplicaBoard

log = logging.getLogger(__name__)

Records = Mapping[str, ReplicaRecord]


def present(
    seeds: tuple[str, ...], known: tuple[str, ...], shown: Records, connected: Callable[[str], bool]
) -> tuple[str, ...]:
    """The addresses to use now, those known before first, in their order.

    In: what the board shows; the seeds (addresses from settings); and what was known, is not shown
    any more but still answers: its heartbeat or the board's memory was lost, not the replica.
    Out: what drains, whoever names it; and what is neither shown nor connected.

    >>> present(("unix:/seed",), ("unix:/known",), {}, lambda address: False)
    ('unix:/seed',)
    """
    wanted = dict.fromkeys((*known, *seeds, *shown))
    return tuple(
        address
        for address in wanted
        if not (address in shown and shown[address].draining)
        and (address in shown or address in seeds or connected(address))
    )


class ReplicaWatcher(threading.Thread):
    """Polls the board and calls `changed(addresses)` on this thread whenever others are to be used.

    connected: whether a gateway has a connection to the address; called on this thread.
    """

    def __init__(
        self,
        board: ReplicaBoard,
        seeds: tuple[str, ...],
        connected: Callable[[str], bool],
        changed: Callable[[tuple[str, ...]], None],
        period_s: float = 0.25,
    ) -> None:
        super().__init__(name="replicas", daemon=True)
        self._board, self._seeds, self._connected, self._changed = board, seeds, connected, changed
        self._period_s, self._stop_asked, self._away = period_s, threading.Event(), False
        self.addresses, self.records = seeds, dict[str, ReplicaRecord]()

    def run(self) -> None:
        """Watches until stopped."""
        while not self._stop_asked.is_set():
            self.poll()
            self._stop_asked.wait(self._period_s)

    def stop(self) -> None:
        """Ends the thread within a period."""
        self._stop_asked.set()

    def poll(self) -> None:
        """One look at the board; while it is away the last replicas known stay."""
        try:
            self.records = self._board.read()
        except RegistryError as error:
            if not self._away:
                log.warning("the replica board is away, the last replicas stay: %s", error)
            self._away = True
            return
        self._away = False
        addresses = present(self._seeds, self.addresses, self.records, self._connected)
        if addresses != self.addresses:
            for address in dict.fromkeys((*self.addresses, *addresses)):
                if (address in addresses) != (address in self.addresses):
                    log.info("replica %s %s", address, "found" if address in addresses else "left out")
            self.addresses = addresses
            self._changed(addresses)
