"""Leases: a row that was fetched on another thread is kept only if it did not change meanwhile.

Between a fetch and its arrival an invalidation may pass by: the row that arrives later is the one
from before the change, and nothing would ever push it out again. So whoever fetches ahead takes a
lease first; a change revokes it for its rows, a lost channel for all rows.

Source: Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.features.tier import RowKeys

MOST_REVOKED = 100_000  # beyond this it is cheaper to revoke all than to remember which


@dataclass(frozen=True, slots=True)
class Lease:
    """Rows that are being fetched. granted: the moment, in changes counted by `Leases`."""

    keys: RowKeys
    granted: int


class Leases:
    """The leases of one tier. One thread grants, revokes and ends them; the fetch may be another's."""

    def __init__(self) -> None:
        self._moment = 0
        self._all_revoked = 0
        self._revoked: dict[int, int] = {}
        self._under_way: set[int] = set()
        self._open = 0

    def __len__(self) -> int:
        """Leases that have not ended."""
        return self._open

    def grant(self, keys: RowKeys) -> Lease:
        """For distinct keys that are not under way."""
        self._open += 1
        self._under_way.update(keys.hashes.tolist())
        return Lease(keys, self._moment)

    def under_way(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of them are being fetched. Shape (hashes,)."""
        if not self._under_way:
            return np.zeros(len(hashes), dtype=bool)
        return np.fromiter((one in self._under_way for one in hashes.tolist()), dtype=bool, count=len(hashes))

    def revoke(self, hashes: Iterable[int]) -> None:
        """These rows changed."""
        if not self._open:  # nothing is on its way that could be older
            return
        self._moment += 1
        for one in hashes:
            self._revoked[one] = self._moment
        if len(self._revoked) > MOST_REVOKED:
            self.revoke_all()

    def revoke_all(self) -> None:
        """Any row may have changed."""
        self._moment += 1
        self._all_revoked = self._moment
        self._revoked.clear()

    def end(self, lease: Lease) -> NDArray[np.bool_]:
        """Which of its rows may be kept. Shape (its keys,)."""
        self._open -= 1
        hashes = lease.keys.hashes.tolist()
        self._under_way.difference_update(hashes)
        if lease.granted < self._all_revoked:
            kept = np.zeros(len(hashes), dtype=bool)
        else:
            kept = np.fromiter(
                (self._revoked.get(one, 0) <= lease.granted for one in hashes), dtype=bool, count=len(hashes)
            )
        if not self._open:
            self._revoked.clear()
        return kept
