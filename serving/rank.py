"""The use case: permit, route, score, log, answer. No HTTP, no sockets, no torch."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from registry.contracts.counters import STAGES
from registry.contracts.events import SCHEMA, RankingEvent
from registry.contracts.ids import RankingIds, model_tag
from registry.contracts.traffic import TrafficPlan
from serving import metrics
from serving.arm_counts import ArmCounts
from serving.begun import MENDABLE, Begun, in_task
from serving.errors import (
    BelowStandard,
    DeadlineExceeded,
    Overloaded,
    PlansUnknown,
    QueryRefused,
    RankingError,
    UnknownModel,
)
from serving.event_log import EventLog
from serving.features.tier import Fetched
from serving.flow.ladder import (
    CACHED_ORDER,
    GIVEN_ORDER,
    LadderRules,
    Order,
    RecentOrders,
    given_order,
    rung_of,
)
from serving.flow.retries import Attempts
from serving.frames import LoadedVersion, RankedReply, ScoreRequest
from serving.glimpses import Glimpses
from serving.permits import Permits
from serving.plan_gauges import PlanGauges
from serving.plans import Plans, newly_served
from serving.ranking import ListFigures, Ranking, RankQuery, build_request, exploration_of, glimpse_of, reasons
from serving.replicas import ReplicaPool
from serving.router import BREAKING, EXPLORING, Route, Router
from serving.shown import Shown, as_ranked, certain, explored, interleaved, left_alone
from serving.tally import CounterTally, HistogramTally
from serving.tracing.spans import Stages
from serving.tracing.tracer import Tracer, of_model, tell_failed

log = logging.getLogger(__name__)

DEGRADED_NOTED_EVERY_S = 1.0
DRAFT_PATIENCE = 0.8  # of the time to the deadline: so long an interleaved list waits for the experiment's version
HOLDER_PATIENCE = 0.5  # of the time to the deadline: so long a query that has a cached order waits for a replica


class Ranker:
    """Ranks queries against the plans it was last told to follow.

    counts: answers by arm. coins: for exploration and drafts. mirror: offered the champion's answers, see
    `mirror.Mirror.offer`. ladder: by how much less a query may be answered.
    tracer: told of answers and failures, for who follows single queries; None: nobody does.
    glimpses: a few answers for who watches.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        event_log: EventLog,
        ids: RankingIds,
        permits: Permits,
        log_every: int,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        counts: ArmCounts | None = None,
        coins: random.Random | None = None,
        mirror: Callable[[RankQuery, TrafficPlan, "Ranking"], None] | None = None,
        ladder: LadderRules | None = None,
        tracer: Tracer | None = None,
        glimpses: Glimpses | None = None,
    ) -> None:
        self._pool, self._fleet = pool, pool.fleet
        self._event_log, self._ids, self._permits = event_log, ids, permits
        self._log_every, self._clock, self._wall_ms = log_every, clock, wall_ms
        self._answered = 0
        self._degraded_noted_s = float("-inf")
        self._tags: dict[str, int] = {}
        self._coins = coins or random.Random()
        self._mirror, self._tracer = mirror, tracer
        self._ladder = ladder or LadderRules()
        self._orders = RecentOrders(self._ladder.cached_bytes, self._ladder.cached_s)
        self.counts = counts or ArmCounts()
        self.glimpses = glimpses or Glimpses()
        self.router = Router(self._fleet.has, self._coins, clock)
        self._stages = [HistogramTally(metrics.STAGE_SECONDS.labels(stage)).observe for stage in STAGES]
        self._gauges = PlanGauges()
        self._refused: dict[str, CounterTally] = {}
        self._wanted: Plans = {}
        self._informed = False
        self.plans: dict[str, TrafficPlan] = {}
        self.held_back: frozenset[str] = frozenset()
        """Models that workers are told not to hold."""
        self._fleet.watch(self.adopt)

    def follow(self, plans: Plans) -> None:
        """Takes new plans, or that there are none yet; each is adopted as soon as it can be served."""
        self._wanted, self._informed = plans, True
        self._tags = {model: model_tag(model) for model in plans}
        self.adopt()

    def adopt(self) -> None:
        """Routes by every wanted plan whose new versions some replica holds, warm. Until then the plan
        before it stays: no query waits for a swap. A model's first plan is adopted at once; and so is one
        that names no version in a new place: a version that is away must not keep its weight. A plan that
        takes traffic from a version waits for its champion only: a rollback must not wait for a version
        that is new elsewhere in the plan, whose units the champion answers meanwhile."""
        for model, plan in self._wanted.items():
            followed = self.plans.get(model)
            if plan != followed and (followed is None or self._fleet.holds(model, newly_served(plan, followed))):
                self.plans[model] = plan
                self._gauges.show(plan)
                self.router.forget(plan)
                log.info("routing %s by revision %d, champion %d", model, plan.revision, plan.champion)

    @property
    def ready(self) -> bool:
        """Whether it has heard which plans there are, and replicas hold the champion of each, warm; of
        models that are held back nobody is to hold any."""
        return self._informed and all(
            self._fleet.has(model, plan.champion) for model, plan in self.plans.items() if model not in self.held_back
        )

    def check_informed(self) -> None:
        """Raises PlansUnknown before the first look at the plans: which models there are is not known yet."""
        if not self._informed:
            raise PlansUnknown(
                "which models are served is not known yet: the plan board (Redis) does not answer and there is no copy"
                " of the plans; ask again"
            )

    async def rank(
        self, query: RankQuery, way: tuple[TrafficPlan, Route] | None = None, attempts: Attempts | None = None
    ) -> Ranking:
        """One answer, logged. way: if it is found already. attempts: what the query has behind it.

        Raises RankingError, having logged no exposure.
        """
        plan, route = way or (None, None)
        began_s = self._clock()
        came_s = began_s if attempts is None else attempts.since_s(began_s)
        try:
            if plan is None or route is None:
                plan = self.plan_of(query.model)
                route = self.router.of(plan, query.unit, query.version)
            if (
                self.router.failed
                and self._rests(query, plan, route)
                and (order := self._orders.of(query, self._clock())) is not None
            ):
                return self._show(query, plan, route, order, CACHED_ORDER, came_s)
            with self._permits.one(query.model, query.deadline_ms / 1000, self._clock):
                if route.drafted:
                    return await self._draft(query, plan, route)
                return await self._answer(query, plan, route, came_s, attempts)
        except RankingError as error:
            if plan is not None and route is not None and error.status in MENDABLE and not query.version:
                lower = await self._lower(query, plan, route, began_s, came_s)
                if lower is not None:
                    if route.arm in BREAKING:
                        self.router.served(query.model, route.version, failed=True)
                    return lower
            self.count_refused(query.model, plan, route, error)
            tell_failed(self._tracer, query, error, self._clock() - came_s)
            raise

    def refused_now(self, model: str) -> Overloaded | None:
        """What a query for the model is told before it is read, if no permit is left: told and counted; None if
        there is one. Who is told so costs next to nothing, which is what there is under overload."""
        if self._permits.free(model) or model not in self.plans:
            return None
        refused = self._refused.get(model)
        if refused is None:
            refused = self._refused[model] = CounterTally(metrics.ANSWERS.labels(model, "", Overloaded.status))
        refused.inc()
        return self._permits.refusal(model)

    def begin(self, query: RankQuery, done: Callable[[Ranking | RankingError], None]) -> Callable[[], None] | None:
        """As `rank`, without a coroutine: `done` is called once, later, unless the query is taken back.

        Returns how to take it back; None if it must go the long way, through `rank`: it would be
        refused, or no replica can have it now.
        """
        plan = self.plans.get(query.model)
        if plan is None or query.model in self.held_back or not self._permits.free(query.model):
            return None
        try:
            route = self.router.of(plan, query.unit, query.version)
        except RankingError:
            return None
        if route.drafted or (self.router.failed and self._rests(query, plan, route)):
            return in_task(self.rank(query, (plan, route)), done)
        began_s = self._clock()
        allowed_s = query.deadline_ms / 1000
        deadline_s = began_s + allowed_s
        rows = exploration_of(query, plan).rows if route.explored else query.top_k

        def settle(reply: RankedReply, loaded: LoadedVersion) -> Ranking:
            shown = self._explored(query, plan, route, reply) if plan.explore_share else as_ranked(reply)
            return self._settle(query, plan, route, loaded, reply, shown, began_s)

        def again(left_ms: int, attempts: Attempts) -> Awaitable[Ranking]:
            query.deadline_ms = left_ms
            return self.rank(query, attempts=attempts)

        def refused(error: RankingError) -> None:
            self.count_refused(query.model, plan, route, error)
            tell_failed(self._tracer, query, error, self._clock() - began_s)

        begun = Begun(self._permits, query.model, self._clock, allowed_s, deadline_s, settle, again, refused, done)

        def build(loaded: LoadedVersion) -> ScoreRequest:
            begun.loaded = loaded
            return build_request(query, loaded, rows)

        try:
            take_back = self._pool.begin(query.model, route.version, deadline_s, build, begun)
        except RankingError:
            return None
        return None if take_back is None else begun.start(take_back)

    async def _answer(
        self, query: RankQuery, plan: TrafficPlan, route: Route, came_s: float, attempts: Attempts | None = None
    ) -> Ranking:
        """came_s: when the query did; its deadline is counted from now, its answer's time from then."""
        began_s = self._clock()
        patience = (
            1.0
            if self._fleet.has(query.model, route.version) or not self._orders.of(query, self._clock())
            else HOLDER_PATIENCE
        )
        deadline_s = began_s + patience * query.deadline_ms / 1000
        rows = exploration_of(query, plan).rows if route.explored else query.top_k
        reply, loaded = await self._pool.score(
            query.model, route.version, deadline_s, lambda loaded: build_request(query, loaded, rows), attempts
        )
        shown = self._explored(query, plan, route, reply) if plan.explore_share else as_ranked(reply)
        return self._settle(query, plan, route, loaded, reply, shown, came_s)

    async def _draft(self, query: RankQuery, plan: TrafficPlan, route: Route) -> Ranking:
        """Both versions rank at once. If the experiment's does not in good time, the champion's list is
        the answer, whole, and counts in no arm."""
        began_s = self._clock()
        allowed_s = query.deadline_ms / 1000
        patient_until_s = began_s + DRAFT_PATIENCE * allowed_s

        def build(loaded: LoadedVersion) -> ScoreRequest:
            return build_request(query, loaded, query.top_k)

        other = asyncio.ensure_future(self._pool.score(query.model, route.drafted, patient_until_s, build))
        try:
            champion = await self._pool.score(query.model, route.version, began_s + allowed_s, build)
            await asyncio.wait([other], timeout=max(0.0, patient_until_s - self._clock()))
            error = other.exception() if other.done() else DeadlineExceeded("too late for the draft")
            self.router.served(
                query.model, route.drafted, failed=error is not None and not isinstance(error, QueryRefused)
            )
        finally:
            other.cancel()
            other.add_done_callback(_look_away)
        reply, loaded = champion
        if error is not None:
            return self._settle(query, plan, route.away(plan.champion), loaded, reply, as_ranked(reply), began_s)
        challenger = other.result()
        shown = interleaved(champion, challenger, self._coins.getrandbits(query.top_k))
        return self._settle(
            query, plan, route, loaded, reply, shown, began_s, reasons(challenger[0], query, challenger[1])
        )

    def _explored(self, query: RankQuery, plan: TrafficPlan, route: Route, reply: RankedReply) -> Shown:
        """The list under a plan that explores: with a swap, or as it happened to stay."""
        if route.arm not in EXPLORING:
            return as_ranked(reply)
        chances = exploration_of(query, plan)
        if route.explored and chances.swaps:
            return explored(reply, chances, self._coins)
        return left_alone(reply, chances)

    def _settle(
        self,
        query: RankQuery,
        plan: TrafficPlan,
        route: Route,
        loaded: LoadedVersion,
        reply: RankedReply,
        shown: Shown,
        began_s: float,
        drafted_without: tuple[str, ...] = (),
    ) -> Ranking:
        """The answer, logged. reply: the version's; shown: made of it. drafted_without: what the other
        version of an interleaved list had to do without."""
        degraded = reasons(reply, query, loaded)
        if route.without or drafted_without:
            degraded = tuple(dict.fromkeys((*route.without, *degraded, *drafted_without)))
        if degraded and (rung := self._ladder.refusal(degraded)):
            raise BelowStandard(f"{', '.join(degraded)}: such an answer is switched off, {rung}=0 in SLUICE_FLOW")
        total_s = self._clock() - began_s
        stages_ms = self._observe(query.model, reply, total_s)
        ranking = self._log(
            query, plan, route, shown, loaded.fingerprint, ListFigures.of(reply), degraded, stages_ms, total_s
        )
        if self.router.failed and route.arm in BREAKING:
            self.router.served(query.model, route.version, failed=False)
        if route.arm == "champion" and not shown.explored:
            if self._ladder.cached_order:
                now_s = began_s + total_s
                self._orders.keep(query, route.version, ranking.items, shown.scores.tobytes(), now_s)
            if plan.layers and self._mirror is not None:
                self._mirror(query, plan, ranking)
        return ranking

    def _log(
        self,
        query: RankQuery,
        plan: TrafficPlan,
        route: Route,
        shown: Shown,
        fingerprint: str,
        figures: ListFigures,
        degraded: tuple[str, ...],
        stages_ms: dict[str, float],
        total_s: float,
    ) -> Ranking:
        """The answer, in the event log and counted."""
        now_ms = self._wall_ms()
        ranking_id = self._ids.issue(self._tags[query.model], now_ms)
        items = [query.item_ids[place] for place in shown.places]
        self._event_log.ranked(
            RankingEvent(
                schema=SCHEMA,
                ranking_id=ranking_id,
                answered_ms=now_ms,
                model=query.model,
                version=route.version,
                arm=route.arm,
                plan_revision=plan.revision,
                unit=query.unit,
                query_id=query.query_id,
                candidates=len(query.item_ids),
                items=tuple(items),
                scores=shown.scores.tobytes(),
                propensities=shown.propensities,
                fingerprint=fingerprint,
                features=shown.features,
                score_mean=figures.score_mean,
                score_std=figures.score_std,
                margin=figures.margin,
                entropy=figures.entropy,
                degraded=degraded,
                latency_ms=total_s * 1000,
                trace_id=query.trace.trace_id,
                experiment=route.experiment,
                teams=shown.teams,
                team_version=shown.team_version,
                explored=shown.explored,
                row_age_s=figures.row_age_s,
            )
        )
        self._note(query, ranking_id, route.version, degraded, stages_ms)
        self.counts.of(query.model, plan.revision, route.experiment, route.assigned, route.arm).answered(
            total_s, bool(degraded)
        )
        ranking = Ranking(
            ranking_id=ranking_id,
            model=query.model,
            version=route.version,
            arm=route.arm,
            plan_revision=plan.revision,
            items=items,
            scores=shown.scores,
            degraded=degraded,
            stages_ms=stages_ms,
            experiment=route.experiment,
        )
        if self.glimpses.due(query.model, now_ms):
            self.glimpses.take(glimpse_of(ranking, now_ms, len(query.item_ids)))
        if self._tracer is not None:
            self._trace(self._tracer, query, ranking, figures.fetched, total_s)
        return ranking

    def _trace(self, tracer: Tracer, query: RankQuery, ranking: Ranking, fetched: Fetched, total_s: float) -> None:
        """Tells of the answer, if it is one that is told of."""
        tracer.answered(
            query.trace,
            query.door,
            total_s,
            lambda: {
                **of_model(query.model, ranking.version),
                "sluice.ranking_id": ranking.ranking_id,
                "sluice.arm": ranking.arm,
                "sluice.plan_revision": ranking.plan_revision,
                "sluice.candidates": len(query.item_ids),
                "sluice.degraded": ",".join(ranking.degraded),
            },
            lambda: Stages.of(ranking.stages_ms, *fetched),
            f"rank {query.model}@{ranking.version}",
        )

    def _rests(self, query: RankQuery, plan: TrafficPlan, route: Route) -> bool:
        """Whether the champion fails so often that a query which has a cached order is not sent to it."""
        if route.version != plan.champion or not self._ladder.cached_order:
            return False
        return self._orders.of(query, self._clock()) is not None and not self.router.lets_through(
            query.model, route.version
        )

    async def _lower(
        self, query: RankQuery, plan: TrafficPlan, route: Route, began_s: float, came_s: float
    ) -> Ranking | None:
        """The answer on the next lower rung of the ladder, None if there is none: the champion's, the last one, the
        candidates as they came. began_s: when its deadline_ms began; came_s: as of `_answer`."""
        rules = self._ladder
        left_ms = query.deadline_ms - int((self._clock() - began_s) * 1000)
        if route.arm == "challenger" and rules.champion_only and left_ms > 0:
            query.deadline_ms = left_ms
            with contextlib.suppress(RankingError), self._permits.one(query.model, left_ms / 1000, self._clock):
                return await self._answer(query, plan, route.away(plan.champion), came_s)
        if rules.cached_order and (order := self._orders.of(query, self._clock())) is not None:
            return self._show(query, plan, route, order, CACHED_ORDER, came_s)
        if rules.given_order:
            return self._show(query, plan, route, given_order(query, plan.champion), GIVEN_ORDER, came_s)
        return None

    def _show(
        self, query: RankQuery, plan: TrafficPlan, route: Route, order: Order, reason: str, began_s: float
    ) -> Ranking:
        """An order that no version gave now, logged; outside of every arm."""
        place = {item: i for i, item in enumerate(query.item_ids)}
        shown = Shown(
            [place[item] for item in order.items], np.frombuffer(order.scores, "<f4"), b"", certain(len(order.items))
        )
        outside = Route("outside", order.version, route.experiment, route.assigned)
        total_s = self._clock() - began_s
        stages_ms = dict.fromkeys(STAGES, 0.0) | {"total": int(total_s * 1e6) / 1000}
        degraded = (*route.without, reason)
        return self._log(query, plan, outside, shown, "", ListFigures(), degraded, stages_ms, total_s)

    def count_answer(self, model: str, plan: TrafficPlan, route: Route, total_s: float, degraded: bool) -> None:
        """One more answer, so long after its permit."""
        self.counts.of(model, plan.revision, route.experiment, route.assigned, route.arm).answered(total_s, degraded)
        if self.router.failed and route.arm in BREAKING:
            self.router.served(model, route.version, failed=False)

    def count_refused(self, model: str, plan: TrafficPlan | None, route: Route | None, error: RankingError) -> None:
        """One more query without an answer. plan, route: None if it did not get so far."""
        if plan is None or route is None:
            metrics.ANSWERS.labels(model if model in self.plans else "", "", error.status).inc()
        else:
            counts = self.counts.of(model, plan.revision, route.experiment, route.assigned, route.arm)
            counts.not_answered(error.status)
            if route.arm in BREAKING:
                self.router.served(model, route.version, failed=error.status >= 500)

    def plan_of(self, model: str) -> TrafficPlan:
        """The plan that the model's queries are routed by now. Raises UnknownModel, or PlansUnknown."""
        plan = self.plans.get(model)
        if plan is None:
            self.check_informed()
            known = ", ".join(sorted(self.plans)) or "none yet, see `sluice models register`"
            raise UnknownModel(f"model={model[:64]!r}: no such model is served (served: {known})")
        if model in self.held_back:
            raise UnknownModel(f"model={model!r} is unloaded: POST /v2/repository/models/{model}/load brings it back")
        return plan

    def _observe(self, model: str, reply: RankedReply, total_s: float) -> dict[str, float]:
        queue_s, features_s, device_s = reply.queue_us / 1e6, reply.features_us / 1e6, reply.device_us / 1e6
        hop_s = max(0.0, total_s - queue_s - features_s - device_s)
        seconds = (queue_s, features_s, device_s, hop_s, total_s)
        self.counts.stages.note(model, seconds)
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
        if degraded:
            metrics.RUNGS.labels(query.model, rung_of(degraded).name.lower()).inc()
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
                extra={"ranking_id": ranking_id, "trace_id": query.trace.trace_id, "total_ms": stages_ms["total"]},
            )


def _look_away(side: "asyncio.Future[Any]") -> None:
    """Asks for the error of a request that nobody waits for any more: asyncio would complain."""
    if not side.cancelled():
        side.exception()
