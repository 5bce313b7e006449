"""By how much less a query may be answered, and by how much it was: the one ladder.

    whole > stale_features > defaults > champion_only > cached_order > given_order > refused (503, Retry-After)

An answer says in `degraded` what it did without; its rung is the lowest that any of that leads to. A rung may be
switched off: who would have stood there gets a lower one that is on, or 503.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # settings read the ladder's rules, and `sluice --help` settings: without numpy
    from serving.ranking import RankQuery

CACHED_ORDER, GIVEN_ORDER = "cached_order", "given_order"
FEATURES_AWAY = "features_away"


class Rung(IntEnum):
    """Where an answer stands; higher numbers are lower rungs."""

    WHOLE = 0
    STALE_FEATURES = 1
    DEFAULTS = 2
    CHAMPION_ONLY = 3
    CACHED_ORDER = 4
    GIVEN_ORDER = 5


_RUNGS = {
    "stale_rows": Rung.STALE_FEATURES,
    "missing_rows": Rung.DEFAULTS,
    "absent_columns": Rung.DEFAULTS,
    FEATURES_AWAY: Rung.DEFAULTS,
    "challenger_away": Rung.CHAMPION_ONLY,
    "interleaving_away": Rung.CHAMPION_ONLY,
    CACHED_ORDER: Rung.CACHED_ORDER,
    GIVEN_ORDER: Rung.GIVEN_ORDER,
}


def rung_of(degraded: Sequence[str]) -> Rung:
    """The rung of an answer that did without these.

    >>> rung_of(["stale_rows:3/100"]), rung_of([])
    (<Rung.STALE_FEATURES: 1>, <Rung.WHOLE: 0>)
    """
    return max([_RUNGS[reason.partition(":")[0]] for reason in degraded], default=Rung.WHOLE)


@dataclass(frozen=True, slots=True)
class LadderRules:
    """Which rungs there are. defaults: for rows whose store does not answer; rows that do not exist have defaults in
    any case. champion_only: the champion answers for a version that cannot. cached_order: the order in which the
    same candidates were last answered, at most cached_s ago, of all those that find room in cached_bytes.
    given_order: the caller's own, which looks like an answer and is none: off unless it is wanted.
    """

    stale_features: bool = True
    defaults: bool = True
    champion_only: bool = True
    cached_order: bool = True
    given_order: bool = False
    cached_s: float = 60.0
    cached_bytes: int = 16 << 20

    def refusal(self, degraded: Sequence[str]) -> str:
        """The switched-off rung that such an answer would stand on, empty if there is none.

        >>> LadderRules(stale_features=False).refusal(["stale_rows:3/100"])
        'stale_features'
        """
        for reason in degraded:
            name = reason.partition(":")[0]
            if name == "stale_rows" and not self.stale_features:
                return "stale_features"
            if name == FEATURES_AWAY and not self.defaults:
                return "defaults"
            if _RUNGS[name] is Rung.CHAMPION_ONLY and not self.champion_only:
                return "champion_only"
        return ""


class Order(NamedTuple):
    """What a query was answered: by which version, best first; scores: float32 in bytes."""

    version: int
    items: list[str]
    scores: bytes


class RecentOrders:
    """The last order of each query, bounded in bytes and in age. now_s: of one clock throughout, seconds.

    Two generations: when the young one has half of the bytes, it becomes the old one, and that is forgotten. A query
    is known by a hash of 64 bits, salted in each process: its candidates are not kept.
    """

    def __init__(self, most_bytes: int, kept_s: float) -> None:
        self._most_bytes, self._kept_s = most_bytes, kept_s
        self._young: dict[int, tuple[float, int, list[str], bytes]] = {}
        self._old: dict[int, tuple[float, int, list[str], bytes]] = {}
        self._young_bytes = self._old_bytes = 0

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    @property
    def size_bytes(self) -> int:
        """At most so many are taken."""
        return self._young_bytes + self._old_bytes

    def keep(self, query: "RankQuery", version: int, items: list[str], scores: bytes, now_s: float) -> None:
        """From now on that is the query's order, see `Order`."""
        size = 300 + 70 * len(items)  # as sys.getsizeof has it, roughly
        if 2 * (self._young_bytes + size) > self._most_bytes:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
            if 2 * size > self._most_bytes:
                return
        self._young_bytes += size
        self._young[_key(query)] = (now_s, version, items, scores)  # an `Order` would cost a microsecond more

    def of(self, query: "RankQuery", now_s: float) -> Order | None:
        """The query's order, None if there is none that is young enough."""
        key = _key(query)
        found = self._young.get(key) or self._old.get(key)
        if found is None or now_s - found[0] > self._kept_s:
            return None
        return Order(*found[1:])


def _key(query: "RankQuery") -> int:
    """Queries are the same if they name the same candidates in the same order and the same query features: what
    came with candidates differs by the hour, and the order of an hour ago is still one."""
    features = query.query_features
    return hash((query.model, query.top_k, query.hashes.tobytes(), tuple(features.items()) if features else None))


def given_order(query: "RankQuery", version: int) -> Order:
    """The candidates as they came."""
    items = list(query.item_ids[: query.top_k])
    return Order(version, items, bytes(4 * len(items)))
