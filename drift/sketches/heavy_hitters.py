"""Which values come up most, in bounded memory and mergeable: Misra-Gries."""

from collections.abc import Iterable, Mapping

import msgspec

from drift.errors import UnreadableSketch

CAPACITY = 64
MOST_CAPACITY = 1 << 16
LONGEST = 256
MOST_TOTAL = 1 << 50  # more than there ever were: a damaged number must not add up past 64 bits


class _Encoded(msgspec.Struct, frozen=True, array_like=True):
    """As `HeavyHitters` has them."""

    capacity: int
    total: int
    missed: int
    counts: tuple[tuple[str, int], ...]


_decoder = msgspec.msgpack.Decoder(_Encoded)


class HeavyHitters:
    """Counts the values that come up most; each count is at most `missed` too low, and never too high.

    capacity: how many values are kept. missed: at most total / (capacity + 1), so that each value which is more
    than that share of all is kept. Merging in any order and grouping keeps that bound. Values are cut after 256
    characters.

    Source: Misra & Gries, Science of Computer Programming 2(2), 1982; merged as in Agarwal et al., Mergeable
    summaries, PODS 2012.

    >>> hitters = HeavyHitters(capacity=2)
    >>> hitters.update(["a"] * 5 + ["b"] * 3 + ["c"])
    >>> hitters.counts, hitters.missed
    ({'a': 4, 'b': 2}, 1)
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if not 1 <= capacity <= MOST_CAPACITY:
            raise ValueError(f"capacity={capacity}: expected 1 to {MOST_CAPACITY}")
        self.capacity = capacity
        self.total = self.missed = 0
        self.counts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<HeavyHitters [{self.total} values | {len(self.counts)} of {self.capacity} kept]>"

    def update(self, values: Iterable[str], each: int = 1) -> None:
        """each: how many of it a value stands for."""
        counted: dict[str, int] = {}
        for value in values:
            counted[value] = counted.get(value, 0) + each
        self.add(counted)

    def add(self, counted: Mapping[str, int]) -> None:
        """Values with how often they came, at least 1 each. Raises ValueError."""
        for value, count in counted.items():
            if count < 1:
                raise ValueError(f"{value!r} came {count} times: expected at least 1")
            self.total += count
            self.counts[value[:LONGEST]] = self.counts.get(value[:LONGEST], 0) + count
        self._shrink()

    def merge(self, other: "HeavyHitters") -> "HeavyHitters":
        """Of both; keeps as many values as the smaller of them."""
        merged = HeavyHitters(min(self.capacity, other.capacity))
        merged.total, merged.missed = self.total + other.total, self.missed + other.missed
        merged.counts = dict(self.counts)
        for value, count in other.counts.items():
            merged.counts[value] = merged.counts.get(value, 0) + count
        merged._shrink()
        return merged

    def shares(self) -> dict[str, float]:
        """Of all values, the largest first, equal ones by name."""
        ordered = sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return {value: count / self.total for value, count in ordered}

    def encode(self) -> bytes:
        """As bytes, for a file."""
        counts = tuple(sorted(self.counts.items()))
        return msgspec.msgpack.encode(_Encoded(self.capacity, self.total, self.missed, counts))

    @staticmethod
    def decode(raw: bytes) -> "HeavyHitters":
        """The counts again. Raises UnreadableSketch if these are not the bytes of some."""
        try:
            found = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UnreadableSketch(f"not the counts of values: {error}") from error
        counts = dict(found.counts)
        sound = 1 <= found.capacity <= MOST_CAPACITY and len(found.counts) == len(counts) <= found.capacity
        sound = sound and all(count > 0 and len(value) <= LONGEST for value, count in counts.items())
        if not sound or found.missed < 0 or not sum(counts.values()) + found.missed <= found.total <= MOST_TOTAL:
            raise UnreadableSketch("the counts of values do not add up")
        hitters = HeavyHitters(found.capacity)
        hitters.total, hitters.missed, hitters.counts = found.total, found.missed, counts
        return hitters

    def _shrink(self) -> None:
        """Takes as much from every count as the first that does not fit has."""
        if len(self.counts) <= self.capacity:
            return
        taken = sorted(self.counts.values(), reverse=True)[self.capacity]
        self.missed += taken
        self.counts = {value: count - taken for value, count in self.counts.items() if count > taken}
