"""Rows in a Redis Cluster: every node asked at once, and a breaker for each."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import redis
from redis.cluster import ClusterNode
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from registry.contracts.features import FeatureView
from serving.features.gets import Answer, PipelinedGets
from serving.features.outage import Outage
from serving.features.stored import StoredRows
from serving.features.tier import RowKeys, Rows, TierAway
from serving.features.topology import ClusterMap

KEYS_A_ROUND_TRIP = 4096  # bounds what one fetch makes the nodes and us buffer
REDIRECTIONS = 3
NOBODY = redis.RedisError("no node of the cluster answers for this row")


@dataclass(slots=True)
class _Share:
    """What one node is asked in a round trip."""

    node: ClusterNode
    asking: bool
    places: list[int] = field(default_factory=list)


class ClusterTier:
    """The rows of one view, spread over the primaries of a cluster.

    A batch's keys fall into nearly as many slots, where MGET is of no use: each node gets a GET for
    each key in one write, all nodes before the first answer is read. Moved slots are followed.
    timeout_s: the most that the answers of one round trip may take. retry_after_s: a node that failed
    counts as away for so long without being asked; the rows of the others are served, and `away` says
    that some are not.
    """

    def __init__(
        self,
        cluster: ClusterMap,
        view: FeatureView,
        timeout_s: float = 0.25,
        retry_after_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._stored = cluster, StoredRows(view)
        self._timeout_s, self._retry_after_s, self._clock = timeout_s, retry_after_s, clock
        self._outages: dict[str, Outage] = {}

    def fetch(self, keys: RowKeys) -> Rows:
        """Raises TierAway if no node says anything of these rows."""
        stored = self._stored.keys(keys)
        answers: list[Answer] = [NOBODY] * len(stored)
        try:
            for start in range(0, len(stored), KEYS_A_ROUND_TRIP):
                places = range(start, min(start + KEYS_A_ROUND_TRIP, len(stored)))
                self._ask(stored, answers, places, min(self._timeout_s, keys.patience_s))
        except redis.RedisError as error:  # of the map: not one node has answered yet
            raise TierAway(str(error)) from error
        found = [None if isinstance(answer, redis.RedisError) else answer for answer in answers]
        unknown = [answer for answer in answers if isinstance(answer, redis.RedisError)]
        if unknown:
            self._cluster.look_soon()
            if len(unknown) == len(stored):
                raise TierAway(str(unknown[0])) from unknown[0]
        return self._stored.read(found, away=bool(unknown))

    def _ask(self, stored: Sequence[bytes], answers: list[Answer], places: Sequence[int], patience_s: float) -> None:
        for _ in range(1 + REDIRECTIONS):
            self._round_trip(stored, answers, self._shares(stored, answers, places), patience_s)
            places = [place for place in places if isinstance(answers[place], AskError)]
            if not places:
                return
            self._cluster.look_soon()  # one moved slot seldom moves alone

    def _shares(self, stored: Sequence[bytes], answers: list[Answer], places: Iterable[int]) -> list[_Share]:
        """Who is asked for which of these places; nobody for one without an owner."""
        owners = self._cluster.owners()
        shares: dict[tuple[str, bool], _Share] = {}
        for place in places:
            answer, asking = answers[place], False
            if isinstance(answer, MovedError):  # which redis-py counts among its AskErrors
                self._cluster.moved(answer)
            if isinstance(answer, AskError) and not isinstance(answer, MovedError):
                node, asking = self._cluster.importing(answer), True
            else:
                found = owners.get(key_slot(stored[place]))
                if not found:
                    continue
                node = found[0]
            share = shares.get((node.name, asking))
            if share is None:
                share = shares[node.name, asking] = _Share(node, asking)
            share.places.append(place)
        return list(shares.values())

    def _round_trip(
        self, stored: Sequence[bytes], answers: list[Answer], shares: list[_Share], patience_s: float
    ) -> None:
        with ExitStack() as connections:
            sent: list[tuple[_Share, PipelinedGets]] = []
            for share in shares:
                if self._outage(share).lasts:
                    self._unanswered(answers, share, NOBODY)
                    continue
                keys = [stored[place] for place in share.places]
                gets = PipelinedGets(self._cluster.pool(share.node), keys, share.asking)
                connections.enter_context(gets)
                try:
                    gets.send()
                    sent.append((share, gets))
                except redis.RedisError as error:
                    self._failed(answers, share, error)
            deadline_s = time.monotonic() + patience_s
            for share, gets in sent:
                try:
                    for place, answer in zip(share.places, gets.read(deadline_s), strict=True):
                        answers[place] = answer
                    self._outage(share).answered()
                except redis.TimeoutError as error:
                    self._outage(share).gave_up(patience_s)
                    self._unanswered(answers, share, error)
                except redis.RedisError as error:
                    self._failed(answers, share, error)

    def _failed(self, answers: list[Answer], share: _Share, error: redis.RedisError) -> None:
        self._outage(share).failed()
        self._unanswered(answers, share, error)

    def _outage(self, share: _Share) -> Outage:
        found = self._outages.get(share.node.name)
        if found is None:
            found = self._outages[share.node.name] = Outage(self._timeout_s, self._retry_after_s, self._clock)
        return found

    @staticmethod
    def _unanswered(answers: list[Answer], share: _Share, error: redis.RedisError) -> None:
        for place in share.places:
            answers[place] = error
