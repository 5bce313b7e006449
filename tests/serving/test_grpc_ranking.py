"""Rank and Feedback over gRPC give what HTTP gives: the same rules, answers, events and refusals."""

from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from registry.contracts.events import Click, Exposure, RankingEvent
from registry.contracts.ids import model_tag
from serving.gateway.grpc.ranking import rank_body
from serving.gateway.protos import ranking_pb2 as pb
from tests.builders import NOW_MS
from tests.serving.grpc_gateway import RANKING, Gateway, a_worker, served
from tests.serving.workbench import Replica

TIMEOUT_S = 20.0
RANK, FEEDBACK = "/v1/models/codesearch/rank", "/v1/feedback"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def worker() -> Iterator[Replica]:
    with a_worker() as worker:
        yield worker


async def rank(
    gateway: Gateway,
    timeout: float = TIMEOUT_S,
    trace: str = "",
    metadata: tuple[tuple[str, str], ...] = (),
    **fields: Any,
) -> Any:
    """The answer, or the code and message of a refusal."""
    request = pb.RankRequest(**({"model": "codesearch"} | fields))
    return await _call(gateway, "Rank", request, pb.RankResponse, timeout, trace, metadata)


async def feed_back(gateway: Gateway, *events: dict[str, Any]) -> Any:
    return await _call(gateway, "Feedback", pb.FeedbackRequest(events=events), pb.FeedbackResponse, TIMEOUT_S, "")


async def _call(
    gateway: Gateway,
    name: str,
    request: Any,
    answer: Any,
    timeout: float,
    trace: str,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Any:
    if trace:
        metadata = (*metadata, ("traceparent", f"00-{trace}-00f067aa0ba902b7-01"))
    async with gateway.channel() as channel:
        method = channel.unary_unary(
            f"/sluice.ranking.v1.Ranking/{name}", type(request).SerializeToString, answer.FromString
        )
        try:
            return await method(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()


def test_a_rankings_id_is_in_the_answers_head_for_who_does_not_read_messages(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        async with gateway.channel() as channel:
            method = channel.unary_unary(
                "/sluice.ranking.v1.Ranking/Rank", pb.RankRequest.SerializeToString, pb.RankResponse.FromString
            )
            call = method(pb.RankRequest(model="codesearch", candidates=["item-1", "item-2"]), timeout=TIMEOUT_S)
            answer, head = await call, dict(await call.initial_metadata())
            refused = method(pb.RankRequest(model="nobody", candidates=["item-1"]), timeout=TIMEOUT_S)
            assert await refused.code() == grpc.StatusCode.NOT_FOUND
            head_of_refusal = dict(await refused.initial_metadata())
        over_http = await gateway.http.post(RANK, json={"candidates": ["item-1"]})

        assert head == {"x-sluice-ranking-id": answer.ranking_id}
        assert over_http.headers["x-sluice-ranking-id"] == over_http.json()["ranking_id"]
        assert "x-sluice-ranking-id" not in head_of_refusal

    served(scenario, worker)


QUERIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ids alone": ({"candidates": ["item-1", "item-2", "item-3"]}, {"candidates": ["item-1", "item-2", "item-3"]}),
    "everything": (
        {
            "candidates": ["item-3", "item-100", "nobody"],
            "top_k": 2,
            "unit": "user-3",
            "query": {"id": "q7", "features": {"query_words": 4.0}},
            "features": {"match": {"values": [9.0, 0.5, 0.25]}},
            "deadline_ms": 5000,
            "priority": 1,
        },
        {
            "candidates": ["item-3", "item-100", "nobody"],
            "top_k": 2,
            "unit": "user-3",
            "query": {"id": "q7", "features": {"query_words": 4.0}},
            "features": {"match": [9.0, 0.5, 0.25]},
            "deadline_ms": 5000,
            "priority": 1,
        },
    ),
}


@pytest.mark.parametrize("case", QUERIES)
def test_a_ranking_is_the_one_that_http_gives(worker: Replica, case: str) -> None:
    message, body = QUERIES[case]

    async def scenario(gateway: Gateway) -> None:
        answer, over_http = await rank(gateway, **message), (await gateway.http.post(RANK, json=body)).json()
        assert [{"id": item.id, "score": item.score, "position": item.position} for item in answer.items] == over_http[
            "items"
        ]
        for name in ("model", "version", "arm", "experiment", "plan_revision"):
            assert getattr(answer, name) == over_http[name]
        assert list(answer.degraded) == over_http["degraded"]
        assert answer.stages_ms.keys() == over_http["stages_ms"].keys()
        assert gateway.ids.recognise(answer.ranking_id).issued_ms == NOW_MS

        mine, http_event = gateway.logged()
        assert isinstance(mine, RankingEvent)
        assert isinstance(http_event, RankingEvent)
        assert mine.ranking_id == answer.ranking_id
        for name in ("items", "scores", "features", "query_id", "unit", "candidates", "version", "degraded"):
            assert getattr(mine, name) == getattr(http_event, name)

    served(scenario, worker)


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no candidates": ({}, {"candidates": []}),
    "twice the same": ({"candidates": ["a", "a"]}, {"candidates": ["a", "a"]}),
    "an empty id": ({"candidates": [""]}, {"candidates": [""]}),
    "no top": ({"candidates": ["a"], "top_k": 0}, {"candidates": ["a"], "top_k": 0}),
    "too long a deadline": ({"candidates": ["a"], "deadline_ms": 60_001}, {"candidates": ["a"], "deadline_ms": 60_001}),
    "no deadline": ({"candidates": ["a"], "deadline_ms": 0}, {"candidates": ["a"], "deadline_ms": 0}),
    "a priority that is none": ({"candidates": ["a"], "priority": 256}, {"candidates": ["a"], "priority": 256}),
    "a column too short": (
        {"candidates": ["a", "b"], "features": {"match": {"values": [1.0]}}},
        {"candidates": ["a", "b"], "features": {"match": [1.0]}},
    ),
    "an unknown column": (
        {"candidates": ["a"], "query": {"features": {"colour": 1.0}}},
        {"candidates": ["a"], "query": {"features": {"colour": 1.0}}},
    ),
    "a unit with a line break": ({"candidates": ["a"], "unit": "u\n"}, {"candidates": ["a"], "unit": "u\n"}),
}


def test_every_field_of_a_request_is_read() -> None:
    request = pb.RankRequest(candidates=["a"], top_k=3, unit="u", deadline_ms=9, priority=2)
    request.query.id = "q"

    body = rank_body(request)

    assert (body.top_k, body.unit, body.deadline_ms, body.priority, body.query.id) == (3, "u", 9, 2, "q")


@pytest.mark.parametrize("case", REFUSALS)
def test_a_query_is_refused_in_the_words_of_http(worker: Replica, case: str) -> None:
    message, body = REFUSALS[case]

    async def scenario(gateway: Gateway) -> None:
        over_http = await gateway.http.post(RANK, json=body)
        assert over_http.status_code == 400
        assert await rank(gateway, **message) == (grpc.StatusCode.INVALID_ARGUMENT, over_http.json()["error"])
        assert gateway.logged() == []

    served(scenario, worker)


def test_a_feature_that_is_no_number_is_refused(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> Any:
        return await rank(gateway, candidates=["a"], features={"match": {"values": [float("nan")]}})

    assert served(scenario, worker) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "features.match[0]=nan: expected a finite number of float32's range",
    )


def test_an_unknown_model_is_not_found(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> Any:
        return await rank(gateway, model="nobody", candidates=["a"])

    code, message = served(scenario, worker)

    assert code is grpc.StatusCode.NOT_FOUND
    assert message.startswith("model='nobody': no such model is served")


def test_a_units_arm_is_the_plans(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> set[str]:
        arms = set()
        for unit in (f"user-{i}" for i in range(12)):
            answer = await rank(gateway, candidates=["item-1"], unit=unit)
            assert answer.arm == RANKING.assign(unit).arm
            assert answer.experiment == ("test" if answer.arm == "challenger" else "")
            arms.add(answer.arm)
        return arms

    assert served(scenario, worker) == {"champion", "challenger"}


def test_a_call_may_name_a_version_of_the_plan_where_that_is_allowed(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> list[Any]:
        asked = [(("x-sluice-version", number),) for number in ("2", "7")]
        return [await rank(gateway, candidates=["item-1"], metadata=metadata) for metadata in asked]

    answer, unknown = served(scenario, worker, version_header=True)
    assert (answer.version, answer.arm, answer.experiment) == (2, "outside", "")
    assert unknown[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "names 1, 2" in unknown[1]

    refused, _ = served(scenario, worker)
    assert refused[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "SLUICE_VERSION_HEADER=1" in refused[1]


def test_a_callers_trace_id_is_kept_in_the_event_and_another_call_gets_a_new_one(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> list[str]:
        await rank(gateway, candidates=["item-1"], trace=TRACE)
        await rank(gateway, candidates=["item-1"])
        return [event.trace_id for event in gateway.logged() if isinstance(event, RankingEvent)]

    kept, made = served(scenario, worker)

    assert kept == TRACE
    assert len(made) == 32
    assert made != TRACE


def test_feedback_is_logged_as_over_http(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        ranking_id = gateway.ids.issue(model_tag("codesearch"), NOW_MS)
        click = {"event_id": "c1", "ranking_id": ranking_id, "item": "item-1", "position": 3, "time_ms": NOW_MS - 5}
        shown = {"event_id": "x1", "ranking_id": ranking_id, "item": "item-2", "simulated": True}
        answer = await feed_back(
            gateway, click | {"type": pb.EVENT_TYPE_CLICK}, shown | {"type": pb.EVENT_TYPE_EXPOSURE}
        )
        assert answer.accepted == 2
        over_grpc = gateway.logged()
        assert [type(event) for event in over_grpc] == [Click, Exposure]
        await gateway.http.post(FEEDBACK, json={"events": [click | {"type": "click"}, shown | {"type": "exposure"}]})
        assert gateway.logged()[2:] == over_grpc

    served(scenario, worker)


@pytest.mark.parametrize(
    "changes", [{"event_id": ""}, {"ranking_id": "made up"}, {"position": 0}, {"time_ms": NOW_MS + 3_600_000}]
)
def test_feedback_is_refused_in_the_words_of_http(worker: Replica, changes: dict[str, Any]) -> None:
    async def scenario(gateway: Gateway) -> None:
        ranking_id = gateway.ids.issue(model_tag("codesearch"), NOW_MS)
        event = {"event_id": "c1", "ranking_id": ranking_id, "item": "item-1"} | changes
        over_http = await gateway.http.post(FEEDBACK, json={"events": [event | {"type": "click"}]})
        told = await feed_back(gateway, event | {"type": pb.EVENT_TYPE_CLICK})
        assert told == (grpc.StatusCode.INVALID_ARGUMENT, over_http.json()["error"])
        assert gateway.logged() == []

    served(scenario, worker)


def test_an_event_without_a_type_is_refused(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> Any:
        return await feed_back(gateway, {"event_id": "c1", "ranking_id": "r", "item": "item-1"})

    assert served(scenario, worker) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "events[0].type=0: expected EVENT_TYPE_CLICK or EVENT_TYPE_EXPOSURE",
    )
