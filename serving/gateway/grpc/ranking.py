"""Rank and Feedback: the twins of POST /v1/models/{model}/rank and POST /v1/feedback."""

import time
from collections.abc import Callable
from typing import Literal

from registry.contracts.ids import RankingIds, model_tag
from serving import metrics
from serving.errors import QueryRefused
from serving.event_log import EventLog
from serving.gateway.grpc.calls import Answer, Call
from serving.gateway.grpc.inference import decode
from serving.gateway.protos import ranking_pb2 as pb
from serving.gateway.schema import (
    RANKING_HEADER,
    VERSION_HEADER,
    FeedbackBody,
    FeedbackEventBody,
    QueryBody,
    RankBody,
    asked_version,
    feedback_events,
    rank_query,
)
from serving.identity.doorkeeper import Doorkeeper, Visit
from serving.rank import Ranker
from serving.ranking import Ranking
from serving.settings import GatewaySettings
from serving.tracing.doors import GRPC_RANK

_VERSION_HEADER = VERSION_HEADER.encode()
_TYPES: dict[int, Literal["click", "exposure"]] = {pb.EVENT_TYPE_CLICK: "click", pb.EVENT_TYPE_EXPOSURE: "exposure"}


class RankingService:
    """The ranker and the event log that HTTP uses, too."""

    def __init__(
        self,
        ranker: Ranker,
        event_log: EventLog,
        ids: RankingIds,
        settings: GatewaySettings,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        """doorkeeper: None where queries are open to everybody."""
        self._doorkeeper = doorkeeper
        self._ranker, self._event_log, self._ids = ranker, event_log, ids
        self._settings, self._wall_ms = settings, wall_ms

    def methods(self) -> dict[str, Answer]:
        """By name in the service."""
        return {"Rank": self._rank, "Feedback": self._feedback}

    async def _rank(self, call: Call, message: bytes | memoryview) -> bytes:
        model = ""
        try:
            request = decode(pb.RankRequest, message)
            model = request.model
            visit = await self._visit(call, model)
            query = rank_query(model, rank_body(request), self._settings, call.trace)
            query.door = GRPC_RANK
            query.version = asked_version(call.fields.get(_VERSION_HEADER), self._settings)
        except QueryRefused as error:
            metrics.ANSWERS.labels(model if model in self._ranker.plans else "", "", error.status).inc()
            raise
        asked_ms = query.deadline_ms if request.HasField("deadline_ms") else None
        query.deadline_ms = call.deadline_ms(
            asked_ms, self._settings.default_deadline_ms, self._settings.max_deadline_ms
        )
        if visit is not None:
            await visit.admitted(len(query.item_ids))
        ranking = await self._ranker.rank(query)
        call.hints = ((RANKING_HEADER, ranking.ranking_id.encode()),)
        return rank_response(ranking).SerializeToString()

    async def _visit(self, call: Call, model: str | None) -> Visit | None:
        """Raises NotAuthenticated, NotAllowed, or QuotaExceeded if that is known already."""
        if self._doorkeeper is None:
            return None
        visit = await self._doorkeeper.welcome(call.fields, model)
        visit.check()
        return visit

    async def _feedback(self, call: Call, message: bytes | memoryview) -> bytes:
        visit = await self._visit(call, None)
        self._ranker.check_informed()
        models = {model_tag(model): model for model in self._ranker.plans}
        try:
            body = feedback_body(decode(pb.FeedbackRequest, message))
            events = feedback_events(body, self._settings, self._ids, models, self._wall_ms())
        except QueryRefused:
            metrics.FEEDBACK.labels("", "refused").inc()
            raise
        if visit is not None:
            for model in {event.model for event in events}:
                visit.check_model(model)
            await visit.admitted(0)
        self._event_log.feedback(events)
        for event in events:
            metrics.FEEDBACK.labels(type(event).__name__.lower(), "accepted").inc()
        return pb.FeedbackResponse(accepted=len(events)).SerializeToString()


def rank_body(request: pb.RankRequest) -> RankBody:
    """The request in the words of JSON, whose rules apply."""
    body = RankBody(list(request.candidates), unit=request.unit)
    if request.HasField("top_k"):
        body.top_k = request.top_k
    if request.HasField("deadline_ms"):
        body.deadline_ms = request.deadline_ms
    if request.priority:
        body.priority = request.priority
    if request.HasField("query"):
        body.query = QueryBody(request.query.id, dict(request.query.features))
    if request.features:
        body.features = {name: list(column.values) for name, column in request.features.items()}
    return body


def rank_response(ranking: Ranking) -> pb.RankResponse:
    """The answer's message."""
    response = pb.RankResponse(
        ranking_id=ranking.ranking_id,
        model=ranking.model,
        version=ranking.version,
        arm=ranking.arm,
        experiment=ranking.experiment,
        plan_revision=ranking.plan_revision,
        degraded=ranking.degraded,
        stages_ms=ranking.stages_ms,
    )
    for position, (item, score) in enumerate(zip(ranking.items, ranking.scores.tolist(), strict=True), 1):
        response.items.add(id=item, score=score, position=position)
    return response


def feedback_body(request: pb.FeedbackRequest) -> FeedbackBody:
    """The request in the words of JSON, whose rules apply. Raises QueryRefused for an event of no type."""
    return FeedbackBody([_event(f"events[{place}]", event) for place, event in enumerate(request.events)])


def _event(field: str, event: pb.FeedbackEvent) -> FeedbackEventBody:
    kind = _TYPES.get(event.type)
    if kind is None:
        raise QueryRefused(f"{field}.type={event.type}: expected EVENT_TYPE_CLICK or EVENT_TYPE_EXPOSURE")
    return FeedbackEventBody(
        event_id=event.event_id,
        type=kind,
        ranking_id=event.ranking_id,
        item=event.item,
        position=event.position if event.HasField("position") else None,
        time_ms=event.time_ms if event.HasField("time_ms") else None,
        simulated=event.simulated,
    )
