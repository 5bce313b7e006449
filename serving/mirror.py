"""Mirroring: some of the champion's queries are ranked by an experiment's version too, unseen by users.

A query is mirrored after its answer went out, with a deadline of its own, and only while there is room:
so many at once, and none while over half of the permits are taken. In the worker's queue it stands
behind what users wait for. What finds no room is dropped and counted. Both lists go to the event log.
"""

import asyncio
import functools
import logging
import random
import time
from collections.abc import Callable

from registry.contracts.events import SCHEMA, MirrorEvent
from registry.contracts.traffic import WEIGHT_STEPS, Experiment, TrafficPlan
from serving import metrics
from serving.errors import RankingError, ReplicaUnhealthy
from serving.event_log import EventLog
from serving.frames import LoadedVersion, RankedReply, ScoreRequest
from serving.permits import Permits
from serving.ranking import Ranking, RankQuery, build_request
from serving.replicas import ReplicaPool

MIRROR_PRIORITY = 8  # in the worker's queue four levels, 0.4 s, behind a query that users wait for

log = logging.getLogger(__name__)


class Mirror:
    """max_in_flight: mirrored queries without a list yet. deadline_ms: for each. coins: who is mirrored.

    clock: the pool's.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        event_log: EventLog,
        permits: Permits,
        coins: random.Random,
        max_in_flight: int = 32,
        deadline_ms: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._pool, self._event_log, self._permits, self._coins = pool, event_log, permits, coins
        self._max_in_flight, self._deadline_s = max_in_flight, deadline_ms / 1000
        self._clock, self._wall_ms = clock, wall_ms
        self.in_flight = 0

    def __repr__(self) -> str:
        return f"<Mirror [{self.in_flight} in flight]>"

    def offer(self, query: RankQuery, plan: TrafficPlan, ranking: Ranking) -> None:
        """Mirrors the champion's answer to whom the coins say, once the loop has sent it. In the loop."""
        for experiment in plan.experiments:
            if experiment.mirror_share and self._coins.random() * WEIGHT_STEPS < experiment.mirror_share:
                asyncio.get_running_loop().call_soon(self._send, query, ranking, experiment)

    def _send(self, query: RankQuery, ranking: Ranking, experiment: Experiment) -> None:
        if self.in_flight >= self._max_in_flight:
            metrics.MIRRORED.labels(query.model, "dropped_full").inc()
            return
        if self._permits.busy(query.model):
            metrics.MIRRORED.labels(query.model, "dropped_busy").inc()
            return
        sent_s = self._clock()

        def build(loaded: LoadedVersion) -> ScoreRequest:
            request = build_request(query, loaded, query.top_k)
            request.priority = MIRROR_PRIORITY
            return request

        waiter = _Mirrored(functools.partial(self._end, query, ranking, experiment, sent_s))
        self.in_flight += 1
        try:
            sent = self._pool.begin(query.model, experiment.version, sent_s + self._deadline_s, build, waiter, False)
            if sent is None:
                waiter.set_exception(ReplicaUnhealthy(f"no replica holds {query.model}@{experiment.version}"))
        except RankingError as error:  # the version has not all columns that the query names
            waiter.set_exception(error)

    def _end(
        self,
        query: RankQuery,
        ranking: Ranking,
        experiment: Experiment,
        sent_s: float,
        outcome: RankedReply | RankingError,
    ) -> None:
        self.in_flight -= 1
        failed = isinstance(outcome, RankingError)
        metrics.MIRRORED.labels(query.model, "failed" if failed else "ranked").inc()
        items: tuple[str, ...] = ()
        scores, error = b"", ""
        if isinstance(outcome, RankingError):
            error = f"{outcome.status}: {outcome}"
        else:
            items = tuple([query.item_ids[place] for place in outcome.order.tolist()])
            scores = outcome.scores.tobytes()
        self._event_log.mirrored(
            MirrorEvent(
                schema=SCHEMA,
                event_id=f"{ranking.ranking_id}:{experiment.name}",
                ranking_id=ranking.ranking_id,
                model=query.model,
                mirrored_ms=self._wall_ms(),
                plan_revision=ranking.plan_revision,
                experiment=experiment.name,
                champion=ranking.version,
                version=experiment.version,
                candidates=len(query.item_ids),
                items=tuple(ranking.items),
                scores=ranking.scores.tobytes(),
                mirror_items=items,
                mirror_scores=scores,
                latency_ms=ranking.stages_ms["total"],
                mirror_latency_ms=(self._clock() - sent_s) * 1000,
                error=error,
            )
        )


class _Mirrored:
    """The pool's `Waiter` for one mirrored query. end: told once what came of it."""

    __slots__ = ("_end", "_ended")

    def __init__(self, end: Callable[[RankedReply | RankingError], None]) -> None:
        self._end, self._ended = end, False

    def done(self) -> bool:
        """See `Waiter`."""
        return self._ended

    def set_result(self, result: RankedReply) -> None:
        """See `Waiter`."""
        self._tell(result)

    def set_exception(self, error: RankingError) -> None:
        """See `Waiter`."""
        self._tell(error)

    def _tell(self, outcome: RankedReply | RankingError) -> None:
        self._ended = True
        try:
            self._end(outcome)
        except Exception:  # whatever it is, it must not end the connection to the worker
            log.exception("a mirrored query was not logged")
