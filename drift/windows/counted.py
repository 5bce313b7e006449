"""Which rankings were counted, for as long as they could be counted again.

A gateway that was killed ships again what it is not sure of, as soon as it is back, which may be a while. A ranking
always comes with the time it was answered at, and once its window is closed it is late, whoever sends it. So what
must be remembered are the rankings of open windows, by the second in which they were answered.
"""

from collections import OrderedDict
from collections.abc import Iterable

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

MOST = 1 << 22  # 32 MB: 14 minutes of 5,000 a second
HOT_SECONDS = 16
SECOND_MS = 1000


class CountedSecond(msgspec.Struct, frozen=True):
    """Rankings answered in a second: their ids' 64-bit digests, uint64, ascending."""

    second: int
    digests: bytes

    def __post_init__(self) -> None:
        if len(self.digests) % 8:  # as a damaged file may have it
            raise ValueError(f"second {self.second}: expected digests of 8 bytes each, not {len(self.digests)} bytes")


class Counted:
    """The ids of rankings that were counted, by the second of their answer, as 64-bit digests.

    Eight bytes each, but for those of the seconds that are being filled. most: past so many the oldest second is
    forgotten: memory is bounded whatever comes, and a repeat of that second would count twice.

    >>> counted = Counted()
    >>> counted.is_new("a", 5000), counted.is_new("a", 5000), counted.is_new("b", 5000)
    (True, False, True)
    """

    def __init__(self, known: Iterable[CountedSecond] = (), most: int = MOST, hot_seconds: int = HOT_SECONDS) -> None:
        self._most, self._hot_seconds = most, hot_seconds
        self._hot: OrderedDict[int, set[int]] = OrderedDict()  # those filled for longest first
        self._cold = {one.second: np.frombuffer(one.digests, dtype="<u8") for one in known}
        self._count = sum(map(len, self._cold.values()))

    def __len__(self) -> int:
        return self._count

    def is_new(self, ranking_id: str, answered_ms: int) -> bool:
        """Whether it was not counted yet; it is now."""
        second = answered_ms // SECOND_MS
        digests = self._hot.get(second)
        if digests is None:
            digests = self._warmed(second)
        before = len(digests)
        digests.add(xxhash.xxh3_64_intdigest(ranking_id.encode()))
        if len(digests) == before:
            return False
        self._count += 1
        if self._count > self._most:
            self._forget(min((*self._cold, *self._hot)))
        return True

    def forget(self, until_ms: int) -> None:
        """What was answered before then is not asked for any more."""
        first = until_ms // SECOND_MS
        for second in [second for second in (*self._cold, *self._hot) if second < first]:
            self._forget(second)

    def seconds(self) -> tuple[CountedSecond, ...]:
        """For a snapshot, oldest first."""
        frozen = self._cold | {second: _frozen(digests) for second, digests in self._hot.items()}
        return tuple(CountedSecond(second, frozen[second].tobytes()) for second in sorted(frozen))

    def _warmed(self, second: int) -> set[int]:
        cold = self._cold.pop(second, None)
        digests = self._hot[second] = set() if cold is None else set(cold.tolist())
        if len(self._hot) > self._hot_seconds:
            cooled, filled = self._hot.popitem(last=False)
            self._cold[cooled] = _frozen(filled)
        return digests

    def _forget(self, second: int) -> None:
        self._count -= len(self._hot.pop(second, ())) + len(self._cold.pop(second, ()))


def _frozen(digests: set[int]) -> NDArray[np.uint64]:
    return np.sort(np.fromiter(digests, dtype="<u8", count=len(digests)))
