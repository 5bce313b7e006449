"""The use case: permit, route, score, log, answer. No HTTP, no sockets, no torch."""

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.contracts.events import SCHEMA, RankingEvent
from registry.contracts.ids import RankingIds, model_tag
from registry.contracts.traffic import Arm, Assignment, TrafficPlan
from serving import metrics
from serving.begun import Begun
from serving.errors import QueryRefused, RankingError, UnknownModel
from serving.event_log import EventLog
from serving.frames import LoadedVersion, RankedReply, ScoreRequest
from serving.permits import Permits
from serving.plans import Plans
from serving.replicas import ReplicaPool
from serving.tally import CounterTally, HistogramTally

log = logging.getLogger(__name__)

DEGRADED_NOTED_EVERY_S = 1.0
STAGES = ("queue", "features", "device", "hop", "total")
NO_COLUMNS = np.empty(0, dtype=np.uint16)
NO_VALUES = np.empty(0, dtype=np.float32)


@dataclass(slots=True)
class RankQuery:
    """A validated query. item_ids: distinct, in the order given (ties keep it).

    ids_blob: the ids in UTF-8, joined by NUL. hashes: uint64 (candidates,), theirs. query_features:
    value by column; candidate_features: one value per candidate by column. unit: whose arm is sticky;
    empty: the query's own. priority: see `priority`.
    """

    model: str
    item_ids: Sequence[str]
    ids_blob: bytes
    hashes: NDArray[np.uint64]
    top_k: int
    deadline_ms: int
    unit: str = ""
    query_id: str = ""
    query_features: dict[str, float] | None = None
    candidate_features: dict[str, NDArray[np.float32]] | None = None
    trace_id: str = ""
    priority: int = 0


@dataclass(slots=True)
class Ranking:
    """An answer. items and scores: best first. stages_ms: where its time went."""

    ranking_id: str
    model: str
    version: int
    arm: Arm
    plan_revision: int
    items: list[str]
    scores: NDArray[np.float32]
    degraded: tuple[str, ...]
    stages_ms: dict[str, float]


class Ranker:
    """Ranks queries against the plans it was last told to follow."""

    def __init__(
        self,
        pool: ReplicaPool,
        event_log: EventLog,
        ids: RankingIds,
        permits: Permits,
        log_every: int,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._pool, self._event_log, self._ids, self._permits = pool, event_log, ids, permits
        self._log_every, self._clock, self._wall_ms = log_every, clock, wall_ms
        self._answered = 0
        self._degraded_noted_s = float("-inf")
        self._tags: dict[str, int] = {}
        self._stages = [HistogramTally(metrics.STAGE_SECONDS.labels(stage)).observe for stage in STAGES]
        self._answers: dict[tuple[str, str], CounterTally] = {}
        self._wanted: Plans = {}
        self._informed = False
        self.plans: dict[str, TrafficPlan] = {}
        self.held_back: frozenset[str] = frozenset()
        """Models that workers are told not to hold."""
        pool.watch(self.adopt)

    def follow(self, plans: Plans) -> None:
        """Takes new plans, or that there are none yet; each is adopted as soon as it can be served."""
        self._wanted, self._informed = plans, True
        self._tags = {model: model_tag(model) for model in plans}
        self.adopt()

    def adopt(self) -> None:
        """Routes by every wanted plan whose versions some replica holds, warm. Until then the plan
        before it stays: no query waits for a swap. A model's first plan is adopted at once."""
        for model, plan in self._wanted.items():
            if plan != self.plans.get(model) and (model not in self.plans or self._pool.holds(plan)):
                self.plans[model] = plan
                metrics.PLAN_REVISION.labels(model).set(plan.revision)
                log.info("routing %s by revision %d, champion %d", model, plan.revision, plan.champion)

    @property
    def ready(self) -> bool:
        """Whether it has heard which plans there are, and replicas hold the champion of each, warm; of
        models that are held back nobody is to hold any."""
        return self._informed and all(
            self._pool.has(model, plan.champion) for model, plan in self.plans.items() if model not in self.held_back
        )

    def model_of(self, tag: int) -> str | None:
        """The model with this tag in its ranking ids."""
        return next((model for model, known in self._tags.items() if known == tag), None)

    async def rank(self, query: RankQuery) -> Ranking:
        """One answer, logged. Raises RankingError, having logged no exposure."""
        arm: Arm | str = ""
        try:
            with self._permits.one():
                plan = self.plan_of(query.model)
                assigned = plan.assign(query.unit)
                arm = assigned.arm
                ranking = await self._answer(query, plan, assigned)
        except RankingError as error:
            metrics.ANSWERS.labels(query.model if query.model in self.plans else "", arm, error.status).inc()
            raise
        self._count_answer(query.model, arm)
        return ranking

    def begin(self, query: RankQuery, done: Callable[[Ranking | RankingError], None]) -> Callable[[], None] | None:
        """As `rank`, without a coroutine: `done` is called once, later, unless the query is taken back.

        Returns how to take it back; None if it must go the long way, through `rank`: it would be
        refused, or no replica can have it now.
        """
        plan = self.plans.get(query.model)
        if plan is None or query.model in self.held_back or not self._permits.free:
            return None
        assigned, began_s = plan.assign(query.unit), self._clock()
        arm, version = assigned.arm, assigned.version
        deadline_s = began_s + query.deadline_ms / 1000

        def settle(reply: RankedReply, loaded: LoadedVersion) -> Ranking:
            ranking = self._settle(query, plan, assigned, loaded, reply, began_s)
            self._count_answer(query.model, arm)
            return ranking

        def again(left_ms: int) -> Awaitable[Ranking]:
            query.deadline_ms = left_ms
            return self.rank(query)

        def refused(error: RankingError) -> None:
            metrics.ANSWERS.labels(query.model, arm, error.status).inc()

        begun = Begun(self._permits, self._clock, deadline_s, settle, again, refused, done)

        def build(loaded: LoadedVersion) -> ScoreRequest:
            begun.loaded = loaded
            return build_request(query, loaded)

        try:
            take_back = self._pool.begin(query.model, version, deadline_s, build, begun)
        except RankingError:
            return None
        return None if take_back is None else begun.start(take_back)

    async def _answer(self, query: RankQuery, plan: TrafficPlan, assigned: Assignment) -> Ranking:
        began_s = self._clock()
        deadline_s = began_s + query.deadline_ms / 1000
        reply, loaded = await self._pool.score(
            query.model, assigned.version, deadline_s, lambda loaded: build_request(query, loaded)
        )
        return self._settle(query, plan, assigned, loaded, reply, began_s)

    def _settle(
        self,
        query: RankQuery,
        plan: TrafficPlan,
        assigned: Assignment,
        loaded: LoadedVersion,
        reply: RankedReply,
        began_s: float,
    ) -> Ranking:
        """The answer, logged."""
        now_ms, total_s = self._wall_ms(), self._clock() - began_s
        ranking_id = self._ids.issue(self._tags[query.model], now_ms)
        degraded = reasons(reply, query, loaded)
        items = [query.item_ids[place] for place in reply.order.tolist()]
        self._event_log.ranked(
            RankingEvent(
                schema=SCHEMA,
                ranking_id=ranking_id,
                answered_ms=now_ms,
                model=query.model,
                version=assigned.version,
                arm=assigned.arm,
                plan_revision=plan.revision,
                unit=query.unit,
                query_id=query.query_id,
                candidates=len(query.item_ids),
                items=tuple(items),
                scores=reply.scores.tobytes(),
                propensities=certain(len(items)),
                fingerprint=loaded.fingerprint,
                features=reply.features,
                score_mean=reply.score_mean,
                score_std=reply.score_std,
                margin=reply.margin,
                entropy=reply.entropy,
                degraded=degraded,
                latency_ms=total_s * 1000,
                trace_id=query.trace_id,
                experiment=assigned.experiment.name if assigned.experiment else "",
            )
        )
        stages_ms = self._observe(reply, total_s)
        self._note(query, ranking_id, assigned.version, degraded, stages_ms)
        return Ranking(
            ranking_id=ranking_id,
            model=query.model,
            version=assigned.version,
            arm=assigned.arm,
            plan_revision=plan.revision,
            items=items,
            scores=reply.scores,
            degraded=degraded,
            stages_ms=stages_ms,
        )

    def _count_answer(self, model: str, arm: str) -> None:
        tally = self._answers.get((model, arm))
        if tally is None:
            tally = self._answers[model, arm] = CounterTally(metrics.ANSWERS.labels(model, arm, 200))
        tally.inc()

    def plan_of(self, model: str) -> TrafficPlan:
        """The plan that the model's queries are routed by now. Raises UnknownModel."""
        plan = self.plans.get(model)
        if plan is None:
            known = ", ".join(sorted(self.plans)) or "none yet, see `sluice models register`"
            raise UnknownModel(f"model={model[:64]!r}: no such model is served (served: {known})")
        if model in self.held_back:
            raise UnknownModel(f"model={model!r} is unloaded: POST /v2/repository/models/{model}/load brings it back")
        return plan

    def _observe(self, reply: RankedReply, total_s: float) -> dict[str, float]:
        queue_s, features_s, device_s = reply.queue_us / 1e6, reply.features_us / 1e6, reply.device_us / 1e6
        hop_s = max(0.0, total_s - queue_s - features_s - device_s)
        seconds = (queue_s, features_s, device_s, hop_s, total_s)
        stages_ms = {}
        for stage, observe, value in zip(STAGES, self._stages, seconds, strict=True):
            observe(value)
            stages_ms[stage] = int(value * 1e6) / 1000
        return stages_ms

    def _note(
        self, query: RankQuery, ranking_id: str, version: int, degraded: tuple[str, ...], stages_ms: dict[str, float]
    ) -> None:
        for reason in degraded:
            metrics.DEGRADED.labels(query.model, reason.partition(":")[0]).inc()
        self._answered += 1
        noteworthy = bool(degraded) and self._clock() - self._degraded_noted_s >= DEGRADED_NOTED_EVERY_S
        if noteworthy:
            self._degraded_noted_s = self._clock()
        if noteworthy or self._answered % self._log_every == 1 % self._log_every:
            log.info(
                "ranked %d candidates by %s@%d%s",
                len(query.item_ids),
                query.model,
                version,
                f", degraded: {', '.join(degraded)}" if degraded else "",
                extra={"ranking_id": ranking_id, "trace_id": query.trace_id, "total_ms": stages_ms["total"]},
            )


@functools.cache
def certain(shown: int) -> bytes:
    """Propensities where nothing was left to chance: ones, float32."""
    return np.ones(shown, dtype="<f4").tobytes()


def build_request(query: RankQuery, loaded: LoadedVersion) -> ScoreRequest:
    """The query in the loaded version's terms.

    Raises QueryRefused if it names a column that the version has not, or the version cannot rank.
    """
    if not loaded.ranks:
        raise QueryRefused(
            f"{loaded.model}@{loaded.version} has no feature view: send tensors to /v2/models/{loaded.model}/infer"
        )
    in_query = query.query_features or {}
    in_candidates = query.candidate_features or {}
    try:
        query_columns = [loaded.place[name] for name in in_query]
        candidate_columns = [loaded.place[name] for name in in_candidates]
    except KeyError as unknown:
        field = "query.features" if unknown.args[0] in in_query else "features"
        raise QueryRefused(
            f"{field}.{unknown.args[0]}: {loaded.model}@{loaded.version} has no such column"
        ) from unknown
    return ScoreRequest(
        number=0,
        slot=loaded.slot,
        top_k=query.top_k,
        deadline_us=0,
        hashes=query.hashes,
        ids=query.ids_blob,
        query_columns=np.array(query_columns, dtype=np.uint16) if in_query else NO_COLUMNS,
        query_values=np.array(list(in_query.values()), dtype=np.float32) if in_query else NO_VALUES,
        candidate_columns=np.array(candidate_columns, dtype=np.uint16) if in_candidates else NO_COLUMNS,
        candidate_values=np.stack(list(in_candidates.values())) if in_candidates else NO_VALUES,
        priority=query.priority,
    )


def reasons(reply: RankedReply, query: RankQuery, loaded: LoadedVersion) -> tuple[str, ...]:
    """What the answer had to do without, most serious first."""
    candidates = len(query.item_ids)
    found = []
    if reply.tier_away:
        found.append("features_away")
    if reply.missing_rows:
        found.append(f"missing_rows:{reply.missing_rows}/{candidates}")
    if reply.stale_rows:
        found.append(f"stale_rows:{reply.stale_rows}/{candidates}")
    in_query, in_candidates = query.query_features or (), query.candidate_features or ()
    if absent := [column for column in loaded.sent if column not in in_query and column not in in_candidates]:
        found.append(f"absent_columns:{','.join(absent)}")
    return tuple(found)
