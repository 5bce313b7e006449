"""The host tiers of a worker, and what other threads know of their rows, applied between batches."""

from collections import deque
from collections.abc import Callable, Collection

from serving.features.host import HostTier
from serving.features.prefetch import Prefetcher
from serving.features.tier import RowKeys


class Tiers:
    """The host tiers of this process, one per feature view layout, and what changed under them.

    prefetcher: fetches rows ahead; None: nobody does.
    """

    def __init__(self, prefetcher: Prefetcher | None = None) -> None:
        self._prefetcher = prefetcher
        self._by_fingerprint: dict[str, tuple[str, HostTier]] = {}
        self._changes: deque[tuple[str, list[int]] | None] = deque()

    def of(self, view_name: str, fingerprint: str, make: Callable[[], HostTier]) -> HostTier:
        """The tier of a layout, made on first use. Called by the loading thread."""
        if fingerprint not in self._by_fingerprint:
            self._by_fingerprint = {**self._by_fingerprint, fingerprint: (view_name, make())}
        return self._by_fingerprint[fingerprint][1]

    def keep(self, fingerprints: Collection[str]) -> None:
        """Lets go of the tiers of all other layouts, and of their memory. Called by the loading thread,
        which knows that none of them is about to be used."""
        by_fingerprint = self._by_fingerprint
        self._by_fingerprint = {one: by_fingerprint[one] for one in by_fingerprint if one in fingerprints}
        for one in by_fingerprint.keys() - self._by_fingerprint.keys():
            by_fingerprint[one][1].close()

    def changed(self, view_name: str, hashes: list[int]) -> None:
        """Rows that another thread knows to have changed."""
        self._changes.append((view_name, hashes))

    def resync(self) -> None:
        """Changes may have been missed: trust nothing that is held before it was looked up again."""
        self._changes.append(None)

    def prefetch(self, fingerprint: str, keys: RowKeys) -> None:
        """Has the rows of a layout fetched that are not here, unless too many wait; returns at once."""
        held = self._by_fingerprint.get(fingerprint)
        if held is not None and self._prefetcher is not None:
            self._prefetcher.prefetch(held[1], keys)

    def apply_changes(self) -> None:
        """Between batches: makes the next lookup see what has changed and what was fetched ahead."""
        while self._changes:
            change = self._changes.popleft()
            for name, tier in self._by_fingerprint.values():
                if change is None:
                    tier.distrust()
                elif change[0] == name:
                    tier.drop(change[1])
        if self._prefetcher is not None:
            self._prefetcher.hand_over()
