"""The loop of a monitor: dull, the same for each of them."""

import logging
import threading
from collections.abc import Callable

from registry.errors import StoreUnavailable

log = logging.getLogger(__name__)


def run_steps(
    step: Callable[[], object], save: Callable[[], object], stop: threading.Event, retry_s: float, away: str
) -> None:
    """Steps until told to stop, then saves. While a store is away it says so once, as `away`, and tries
    again every `retry_s`."""
    told = False
    while not stop.is_set():
        try:
            step()
            told = False
        except StoreUnavailable as error:
            if not told:
                log.warning("%s: %s", away, error)
            told = True
            stop.wait(retry_s)
    try:
        save()
    except StoreUnavailable as error:
        log.warning("entries stay unacknowledged until the next start: %s", error)
