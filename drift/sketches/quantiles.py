"""Quantiles of many quantities at once, in bounded memory and mergeable: KLL, laid out as arrays.

All quantities take the same rows, so their compactors fill and halve together and one sort serves all of them. A
missing value (nan) takes part like any other and sorts last; what is asked is answered of the values that are there.
"""

import struct
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from drift.errors import UnreadableSketch
from drift.moments import FloatArray

K = 200
MOST_LEVELS = 48
LEAST_K, MOST_K = 8, 4096
MOST_QUANTITIES = 1 << 16
MOST_ROWS = 1 << 50  # more than there ever were: a damaged number must not add up past 64 bits
_SHRINK = 2.0 / 3.0
_LEAST_CAPACITY = 8
_U64 = (1 << 64) - 1
_MAGIC = b"KLL1"
_HEAD = struct.Struct("<4sHHIQQ")  # magic, k, levels, quantities, rows, halvings

Rows = NDArray[np.float32]


def rank_error(k: int) -> float:
    """How far a rank is off at most in 99 of 100 cases, as a share of all rows: asked for one value.

    Fitted to the reference implementation's simulations; ours is measured to lie below (`tests/drift`).

    Source: Apache DataSketches, KLL accuracy (normalised rank error, single sided).

    >>> round(rank_error(200), 4)
    0.0193
    """
    return float(2.296 / k**0.9021)


class QuantileSketch:
    """Takes rows of all its quantities in. See `rank_error` for what `k` buys; some 3 k values are kept of each.

    The error holds however the rows came and whatever was merged in whichever order. Which half of a compactor
    stays is drawn by a hash of how many were halved before: the same rows in the same order are the same sketch.

    Source: Karnin, Lang & Liberty, Optimal quantile approximation in streams, FOCS 2016.

    >>> sketch = QuantileSketch(quantities=1)
    >>> sketch.update(np.arange(101, dtype=np.float32)[:, None])
    >>> sketch.quantiles([0.25, 0.5])
    array([[25., 50.]])
    """

    def __init__(self, quantities: int, k: int = K) -> None:
        if not LEAST_K <= k <= MOST_K:
            raise ValueError(f"k={k}: expected {LEAST_K} to {MOST_K}")
        if not 0 <= quantities <= MOST_QUANTITIES:
            raise ValueError(f"quantities={quantities}: expected 0 to {MOST_QUANTITIES}")
        self.k, self.quantities = k, quantities
        self.rows = 0
        self._halvings = 0
        self._levels: list[Rows] = [_nothing(quantities)]

    def __repr__(self) -> str:
        return f"<QuantileSketch of {self.quantities} quantities [{self.rows} rows | {self.kept} kept]>"

    @property
    def kept(self) -> int:
        """How many values are kept of each quantity."""
        return sum(level.shape[1] for level in self._levels)

    def update(self, rows: Rows, level: int = 0) -> None:
        """rows: (rows, quantities), nan where a value is missing; infinities count as missing.

        level: each row stands for 2**level of them, being the one that was drawn. Raises ValueError if the shape or
        the level does not fit.
        """
        if rows.ndim != 2 or rows.shape[1] != self.quantities:
            raise ValueError(f"rows of shape {rows.shape}: expected (rows, {self.quantities})")
        if not 0 <= level < MOST_LEVELS - 1:
            raise ValueError(f"level {level}: expected 0 to {MOST_LEVELS - 2}")
        known = np.where(np.isfinite(rows), rows, np.float32(np.nan))
        while len(self._levels) <= level:
            self._levels.append(_nothing(self.quantities))
        self._levels[level] = np.hstack([self._levels[level], known.T])
        self.rows += len(rows) << level
        self._compact()

    def merge(self, other: "QuantileSketch") -> "QuantileSketch":
        """Of both. Raises ValueError if they have another k or number of quantities."""
        if (other.k, other.quantities) != (self.k, self.quantities):
            raise ValueError(f"{other!r}, k={other.k}, does not merge with {self!r}, k={self.k}")
        merged = QuantileSketch(self.quantities, self.k)
        merged.rows, merged._halvings = self.rows + other.rows, (self._halvings + other._halvings) & _U64
        height = max(len(self._levels), len(other._levels))
        mine, theirs = (each._levels + [_nothing(self.quantities)] * height for each in (self, other))
        merged._levels = [np.hstack([mine[at], theirs[at]]) for at in range(height)]
        merged._compact()
        return merged

    def sample(self, quantity: int) -> tuple[FloatArray, FloatArray]:
        """The values kept of it, ascending, and how many rows each stands for; missing ones are left out."""
        values, weights = self._sorted()
        known = np.isfinite(values[quantity])
        return values[quantity][known], weights[quantity][known]

    def quantiles(self, shares: Sequence[float]) -> FloatArray:
        """(quantities, shares): the smallest kept value that at least such a share of the known rows does not exceed.

        nan where nothing is known.
        """
        values, weights = self._sorted()
        found = np.full((self.quantities, len(shares)), np.nan)
        reached = np.cumsum(np.where(np.isfinite(values), weights, 0.0), axis=1)
        for quantity in np.flatnonzero(reached[:, -1] > 0) if values.size else []:
            wanted = np.asarray(shares) * reached[quantity, -1]
            last = int(np.isfinite(values[quantity]).sum()) - 1
            places = np.minimum(np.searchsorted(reached[quantity], wanted * (1 - 1e-12), side="left"), last)
            found[quantity] = values[quantity, places]
        return found

    def encode(self) -> bytes:
        """As bytes, for a file."""
        head = _HEAD.pack(_MAGIC, self.k, len(self._levels), self.quantities, self.rows, self._halvings)
        sizes = struct.pack(f"<{len(self._levels)}I", *(level.shape[1] for level in self._levels))
        return head + sizes + b"".join(level.astype("<f4", copy=False).tobytes() for level in self._levels)

    @staticmethod
    def decode(raw: bytes) -> "QuantileSketch":
        """The sketch again. Raises UnreadableSketch if these are not the bytes of one."""
        if len(raw) < _HEAD.size:
            raise UnreadableSketch(f"{len(raw)} bytes are no quantile sketch: expected at least {_HEAD.size}")
        magic, k, levels, quantities, rows, halvings = _HEAD.unpack_from(raw)
        sound = magic == _MAGIC and LEAST_K <= k <= MOST_K and 1 <= levels <= MOST_LEVELS
        if not sound or quantities > MOST_QUANTITIES or len(raw) < _HEAD.size + 4 * levels:
            raise UnreadableSketch("not the head of a quantile sketch")
        sizes = struct.unpack_from(f"<{levels}I", raw, _HEAD.size)
        if len(raw) != _HEAD.size + 4 * levels + 4 * quantities * sum(sizes):
            raise UnreadableSketch(f"a quantile sketch of {quantities} quantities is cut or too long: {len(raw)} bytes")
        if rows > MOST_ROWS:
            raise UnreadableSketch(f"a quantile sketch of {rows} rows: expected at most {MOST_ROWS}")
        if sum(size << level for level, size in enumerate(sizes)) != rows or (rows and not quantities):
            raise UnreadableSketch("the values of a quantile sketch do not stand for as many rows as it says")
        sketch = QuantileSketch(quantities, k)
        sketch.rows, sketch._halvings = rows, halvings
        sketch._levels, at = [], _HEAD.size + 4 * levels
        for size in sizes:
            flat = np.frombuffer(raw, dtype="<f4", count=quantities * size, offset=at)
            known = np.where(np.isfinite(flat), flat, np.float32(np.nan))
            sketch._levels.append(known.reshape(quantities, size))
            at += 4 * quantities * size
        sketch._compact()
        return sketch

    def _sorted(self) -> tuple[FloatArray, FloatArray]:
        """(quantities, kept): values, ascending, missing ones last, and weights."""
        values = np.hstack(self._levels).astype(np.float64)
        weights = np.concatenate([np.full(level.shape[1], 2.0**height) for height, level in enumerate(self._levels)])
        order = np.argsort(values, axis=1, kind="stable")
        return np.take_along_axis(values, order, axis=1), weights[order]

    def _compact(self) -> None:
        """Halves what is over its capacity, the lowest first."""
        height = 0
        while height < len(self._levels):
            if self._levels[height].shape[1] > self._capacity(height) and height < MOST_LEVELS - 1:
                self._halve(height)
            height += 1

    def _halve(self, height: int) -> None:
        """Sorted, every other value goes up and stands for two; an odd last one stays."""
        level = np.sort(self._levels[height], axis=1)
        even = level.shape[1] // 2 * 2
        coin = xxhash.xxh3_64_intdigest(struct.pack("<QB", self._halvings, height)) & 1
        self._halvings = (self._halvings + 1) & _U64
        if height + 1 == len(self._levels):
            self._levels.append(_nothing(self.quantities))
        self._levels[height] = level[:, even:].copy()
        self._levels[height + 1] = np.hstack([self._levels[height + 1], level[:, coin:even:2]])

    def _capacity(self, height: int) -> int:
        depth = len(self._levels) - 1 - height
        return max(int(np.ceil(self.k * _SHRINK**depth)), _LEAST_CAPACITY)


def _nothing(quantities: int) -> Rows:
    return np.empty((quantities, 0), dtype=np.float32)
