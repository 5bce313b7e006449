"""The gateway's HTTP over a real replica: right answers, clear refusals, and no exposure that was none."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
from prometheus_client import REGISTRY

from registry.contracts.events import Click, Event, Exposure, RankingEvent, decode_events
from registry.contracts.ids import IssuedRanking, RankingIds, model_tag
from registry.contracts.traffic import TrafficPlan
from registry.stream import MemoryStream
from serving.batching import BatchWindow
from serving.event_log import EventLog
from serving.gateway.app import build_app
from serving.gateway.http import HotRoutes
from serving.gateway.schema import read_rank
from serving.journal import Journal
from serving.permits import Permits
from serving.rank import Ranker
from serving.ranking import build_request
from serving.replicas import ReplicaPool
from serving.scoring import LoadedModel
from serving.settings import GatewaySettings
from tests.builders import NOW_MS, a_plan, a_tested_plan
from tests.serving.workbench import (
    LENGTHS,
    PATIENCE_S,
    VIEW,
    Held,
    Replica,
    SumOfFeatures,
    a_loaded_model,
    a_replica,
)

T = TypeVar("T")
MODEL = "/v1/models/codesearch"
RANK, FEEDBACK, PREFETCH = "/v1/models/codesearch/rank", "/v1/feedback", "/v1/prefetch"
JSON, CSV = {"content-type": "application/json"}, {"content-type": "text/csv"}
DAY_MS = 24 * 3600 * 1000
TWO_ARMS = a_tested_plan(weight=500)


@dataclass
class Gateway:
    """A gateway as its clients see it (`client`), and what is behind it."""

    client: httpx.AsyncClient
    routes: HotRoutes
    pool: ReplicaPool
    permits: Permits
    event_log: EventLog
    stream: MemoryStream
    ids: RankingIds
    ranker: Ranker

    async def rank(self, **fields: Any) -> httpx.Response:
        """A query for the candidates given, or for three items."""
        return await self.client.post(RANK, json={"candidates": ["item-1", "item-2", "item-3"]} | fields)

    async def feed_back(self, *events: dict[str, Any]) -> httpx.Response:
        return await self.client.post(FEEDBACK, json={"events": list(events)})

    async def until_held(self, plan: TrafficPlan) -> None:
        """Waits for a replica with the plan's champion."""
        await self.pool.fleet.wait_for_holder(plan.model, plan.champion, asyncio.get_running_loop().time() + PATIENCE_S)

    def logged(self) -> list[Event]:
        """Every event logged so far."""
        assert self.event_log.ship()
        return [event for entry in self.stream.entries.values() for event in decode_events(entry.payload)]


@asynccontextmanager
async def a_gateway(address: str, plan: TrafficPlan | None, **changes: Any) -> AsyncIterator[Gateway]:
    """A gateway in front of the replica; changes are the settings'. plan: None has not heard of any yet."""
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "events", 1 << 20) as journal:
        settings = GatewaySettings(Path(folder) / "events", Path(folder) / "plans.json", (address,), **changes)
        stream = MemoryStream()
        event_log = EventLog(journal, stream)
        ids = RankingIds(b"a secret of 24 bytes....", random.Random(1))
        pool, permits = ReplicaPool(settings.workers), Permits(settings.max_in_flight)
        clock = asyncio.get_running_loop().time
        ranker = Ranker(pool, event_log, ids, permits, log_every=100, clock=clock, wall_ms=lambda: NOW_MS)
        if plan is not None:
            ranker.follow({plan.model: plan})
        app = build_app(ranker, pool.fleet, permits, event_log, lambda: REGISTRY, version="0.0")
        routes = HotRoutes(
            app, ranker, event_log, ids, settings, random.Random(2), wall_ms=lambda: NOW_MS, prefetch=pool.prefetch
        )
        await pool.start()
        transport = httpx.ASGITransport(app=routes)
        async with httpx.AsyncClient(transport=transport, base_url="http://sluice", headers=JSON) as client:
            yield Gateway(client, routes, pool, permits, event_log, stream, ids, ranker)
        await pool.stop()


def served(
    scenario: Callable[[Gateway], Awaitable[T]], replica: Replica, plan: TrafficPlan = TWO_ARMS, **changes: Any
) -> T:
    """What the scenario returns of a gateway that is ready."""

    async def run() -> T:
        async with a_gateway(replica.address, plan, **changes) as gateway:
            await gateway.until_held(plan)
            return await scenario(gateway)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def replica() -> Iterator[Replica]:
    with a_replica(plan=TWO_ARMS) as replica:
        yield replica


def a_click_of(ranking_id: str, **changes: Any) -> dict[str, Any]:
    return {"event_id": "c1", "type": "click", "ranking_id": ranking_id, "item": "item-1"} | changes


def an_id(gateway: Gateway, model: str = "codesearch", issued_ms: int = NOW_MS) -> str:
    return gateway.ids.issue(model_tag(model), issued_ms)


# answers


def test_the_answer_is_ordered_by_score_and_its_exposure_is_logged(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        items = ["item-3", "item-100", "nobody", "item-40"]
        answer = await gateway.rank(
            candidates=items,
            top_k=3,
            query={"id": "q7", "features": {"query_words": 4.0}},
            features={"match": [9.0, 0.5, 0.25, 0.125]},
        )

        assert answer.status_code == 200
        body = answer.json()
        assert body["items"] == [
            {"id": "item-100", "score": LENGTHS["item-100"] + 0.5 + 4.0, "position": 1},
            {"id": "item-40", "score": LENGTHS["item-40"] + 0.125 + 4.0, "position": 2},
            {"id": "item-3", "score": LENGTHS["item-3"] + 9.0 + 4.0, "position": 3},
        ]
        assert gateway.ids.recognise(body["ranking_id"]) == IssuedRanking(NOW_MS, model_tag("codesearch"))
        assert (body["model"], body["version"], body["arm"], body["plan_revision"]) == ("codesearch", 1, "champion", 1)
        assert body["degraded"] == ["missing_rows:1/4"]
        assert body["stages_ms"].keys() == {"queue", "features", "device", "hop", "total"}

        [event] = gateway.logged()
        assert isinstance(event, RankingEvent)
        assert (event.ranking_id, event.candidates) == (body["ranking_id"], 4)
        assert event.items == tuple(item["id"] for item in body["items"])
        assert event.score_array().tolist() == [item["score"] for item in body["items"]]
        assert event.propensity_array().tolist() == [1.0] * 3
        assert event.feature_matrix()[0].tolist() == [LENGTHS["item-100"], 0.5, 4.0]
        assert (event.fingerprint, event.query_id, event.version) == (VIEW.fingerprint, "q7", 1)
        assert event.degraded == ("missing_rows:1/4",)
        assert event.row_age_s is not None

    served(scenario, replica)


def test_ten_items_are_returned_unless_asked_otherwise_and_never_more_than_there_are(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> list[int]:
        items = list(LENGTHS)[:30]
        answers = [await gateway.rank(candidates=items), await gateway.rank(candidates=items, top_k=10**20)]
        return [len(answer.json()["items"]) for answer in answers]

    assert served(scenario, replica) == [10, 30]


def test_what_was_not_sent_marks_the_answer_degraded(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> list[str]:
        return list((await gateway.rank()).json()["degraded"])

    assert served(scenario, replica) == ["absent_columns:match,query_words"]


def test_a_units_arm_is_the_plans_and_its_version_answers(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        for unit in (f"user-{i}" for i in range(20)):
            body = (await gateway.rank(unit=unit)).json()
            assert body["arm"] == TWO_ARMS.assign(unit).arm
            assert body["version"] == {"champion": 1, "challenger": 2}[body["arm"]]
        arms = {event.arm for event in gateway.logged() if isinstance(event, RankingEvent)}
        assert arms == {"champion", "challenger"}

    served(scenario, replica)


def test_a_callers_trace_id_is_kept_in_the_event(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> list[str]:
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        for traceparent in (f"00-{trace}-00f067aa0ba902b7-01", "nonsense"):
            await gateway.client.post(RANK, json={"candidates": ["item-1"]}, headers={"traceparent": traceparent})
        return [event.trace_id for event in gateway.logged() if isinstance(event, RankingEvent)]

    kept, made = served(scenario, replica)

    assert kept == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert len(made) == 32 and int(made, 16) != int(kept, 16)


def test_item_ids_may_be_any_text(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> set[str]:
        answer = await gateway.rank(candidates=items)
        return {item["id"] for item in answer.json()["items"]}

    items = ["größe 大小", "a:b", "😀", '"quoted"', "x" * 256]

    assert served(scenario, replica) == set(items)


# refusals

BAD_BODIES: dict[str, tuple[bytes, str, str]] = {
    "no candidates": (b'{"candidates": []}', "candidates", "expected 1 to 10000"),
    "candidates absent": (b"{}", "candidates", "missing required field"),
    "too many candidates": (msgspec.json.encode({"candidates": list(map(str, range(10001)))}), "candidates", "10000"),
    "duplicate ids": (b'{"candidates": ["a", "b", "a"]}', "candidates: 'a'", "distinct"),
    "NaN": (b'{"candidates": ["a"], "features": {"match": [NaN]}}', "body", "not JSON"),
    "null": (b'{"candidates": ["a"], "features": {"match": [null]}}', "features", "expected `float`"),
    "1e400": (b'{"candidates": ["a"], "features": {"match": [1e400]}}', "features", "out of range"),
    "1e39": (b'{"candidates": ["a"], "features": {"match": [1e39]}}', "features.match[0]", "float32"),
    "1e39 in the query": (
        b'{"candidates": ["a"], "query": {"features": {"query_words": -1e39}}}',
        "query.features.query_words",
        "float32",
    ),
    "too few values": (b'{"candidates": ["a", "b"], "features": {"match": [1]}}', "features.match", "1 values for 2"),
    "too many values": (b'{"candidates": ["a"], "features": {"match": [1, 2]}}', "features.match", "2 values for 1"),
    "unknown column": (b'{"candidates": ["a"], "features": {"speed": [1]}}', "features.speed", "no such column"),
    "unknown query column": (
        b'{"candidates": ["a"], "query": {"features": {"speed": 1}}}',
        "query.features.speed",
        "no such column",
    ),
    "unknown field": (b'{"candidates": ["a"], "topk": 3}', "topk", "unknown field"),
    "top_k 0": (b'{"candidates": ["a"], "top_k": 0}', "top_k=0", "at least 1"),
    "top_k as text": (b'{"candidates": ["a"], "top_k": "3"}', "top_k", "expected `int`"),
    "priority too low": (b'{"candidates": ["a"], "priority": 256}', "priority=256", "1 (first) to 255 (last)"),
    "priority below 0": (b'{"candidates": ["a"], "priority": -1}', "priority=-1", "expected 0 (the default, as 4)"),
    "deadline 0": (b'{"candidates": ["a"], "deadline_ms": 0}', "deadline_ms=0", "expected 1 to 60000"),
    "deadline too late": (b'{"candidates": ["a"], "deadline_ms": 60001}', "deadline_ms=60001", "expected 1 to 60000"),
    "control character": (b'{"candidates": ["a", "b\\u0007"]}', "candidates[1]", "control characters"),
    "NUL": (b'{"candidates": ["a\\u0000b"]}', "candidates[0]", "control characters"),
    "empty id": (b'{"candidates": ["a", ""]}', "candidates[1]", "expected 1 to 256 characters"),
    "id too long": (msgspec.json.encode({"candidates": ["x" * 257]}), "candidates[0]", "expected 1 to 256 characters"),
    "lone surrogate": (b'{"candidates": ["\\ud800"]}', "body", "not JSON"),
    "lone surrogate inside": (b'{"candidates": ["\\ud800 and more text"]}', "body", "not JSON"),
    "unit with control character": (b'{"candidates": ["a"], "unit": "\\n"}', "unit", "control characters"),
    "query id too long": (
        msgspec.json.encode({"candidates": ["a"], "query": {"id": "x" * 257}}),
        "query.id",
        "expected 1 to 256 characters",
    ),
    "id that is a number": (b'{"candidates": ["a", 5]}', "candidates[1]", "expected `str`"),
    "no object": (b'["a"]', "body", "expected `object`"),
    "cut short": (b'{"candidates": ["a"', "body", "not JSON"),
    "empty": (b"", "body", "not JSON"),
    "not UTF-8": (b'{"candidates": ["\xff"]}', "body", "not JSON"),
    "deeply nested": (b'{"candidates": ' + b"[" * 100_000, "candidates[0]", "expected `str`"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_query_is_refused_naming_field_and_rule_and_shows_nothing(replica: Replica, name: str) -> None:
    async def scenario(gateway: Gateway) -> httpx.Response:
        answer = await gateway.client.post(RANK, content=body)
        assert gateway.logged() == []
        assert gateway.permits.taken == 0
        return answer

    body, field, rule = BAD_BODIES[name]
    answer = served(scenario, replica)

    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert field in answer.json()["error"]
    assert rule in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "headers", "content", "status", "error"),
    [
        ("/v1/models/nobody/rank", JSON, b'{"candidates": ["a"]}', 404, "model='nobody'"),
        ("/v1/models/a b%2f/rank", JSON, b'{"candidates": ["a"]}', 404, "no such"),
        (RANK, JSON, b" " * (10 << 20), 413, "expected at most"),
        (FEEDBACK, JSON, b" " * (10 << 20), 413, "expected at most"),
        (RANK, CSV, b'{"candidates": ["a"]}', 415, "content-type=text/csv: expected application/json"),
        (FEEDBACK, CSV, b"{}", 415, "content-type=text/csv: expected application/json"),
        ("/v1/nowhere", JSON, b"{}", 404, "/v1/nowhere: no such route"),
        ("/health", JSON, b"{}", 405, "POST /health: this route takes another method"),
    ],
)
def test_what_cannot_be_read_is_refused(
    replica: Replica, path: str, headers: dict[str, str], content: bytes, status: int, error: str
) -> None:
    async def scenario(gateway: Gateway) -> httpx.Response:
        answer = await gateway.client.post(path, headers=headers, content=content)
        assert gateway.logged() == []
        return answer

    answer = served(scenario, replica)

    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert error in answer.json()["error"]


def test_a_body_that_grows_past_the_limit_without_saying_so_is_refused(replica: Replica) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * (1 << 20)

    async def scenario(gateway: Gateway) -> httpx.Response:
        return await gateway.client.post(RANK, content=chunks())

    answer = served(scenario, replica)

    assert (answer.status_code, answer.json()) == (413, {"error": "body: more than 4194304 bytes"})


@pytest.mark.parametrize("path", [RANK, FEEDBACK])
def test_a_hot_route_takes_post_alone(replica: Replica, path: str) -> None:
    async def scenario(gateway: Gateway) -> httpx.Response:
        return await gateway.client.get(path)

    answer = served(scenario, replica)

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"error": f"GET {path}: expected POST"}


def test_a_client_who_leaves_before_the_body_is_complete_gets_nothing(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        messages = iter(
            [{"type": "http.request", "body": b'{"candidates"', "more_body": True}, {"type": "http.disconnect"}]
        )
        sent: list[Any] = []

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        await gateway.routes({"type": "http", "method": "POST", "path": RANK, "headers": headers}, receive, send)
        assert (sent, gateway.logged()) == ([], [])

    served(scenario, replica)


# feedback


def test_feedback_is_accepted_and_logged_as_it_was_sent(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        ranking_id = (await gateway.rank()).json()["ranking_id"]
        answer = await gateway.feed_back(
            a_click_of(ranking_id, position=2, time_ms=NOW_MS - 5, simulated=True),
            a_click_of(ranking_id, event_id="x1", type="exposure", item="item-2"),
        )

        assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
        assert gateway.logged()[1:] == [
            Click(1, "c1", ranking_id, "codesearch", "item-1", 2, NOW_MS - 5, NOW_MS, True),
            Exposure(1, "x1", ranking_id, "codesearch", "item-2", None, NOW_MS, NOW_MS, False),
        ]

    served(scenario, replica)


def test_a_click_after_the_clock_was_set_back_happened_no_sooner_than_its_ranking(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        ranking_id = an_id(gateway, issued_ms=NOW_MS + 7_200_000)
        answer = await gateway.feed_back(a_click_of(ranking_id))

        assert answer.status_code == 202
        times = [(event.clicked_ms, event.received_ms) for event in gateway.logged() if isinstance(event, Click)]
        assert times == [(NOW_MS + 7_200_000, NOW_MS + 7_200_000)]

    served(scenario, replica)


BAD_FEEDBACK: dict[str, tuple[Callable[[Gateway], dict[str, Any]], str, str]] = {
    "unknown ranking": (lambda g: {"ranking_id": "0" * 50}, "ranking_id", "no ranking of this installation"),
    "tampered ranking": (
        lambda g: {"ranking_id": an_id(g)[:-1] + ("0" if an_id(g)[-1] == "1" else "1")},
        "ranking_id",
        "no ranking of this installation",
    ),
    "malformed ranking": (lambda g: {"ranking_id": "r1"}, "ranking_id", "50 digits"),
    "another model's": (lambda g: {"ranking_id": an_id(g, "nobody")}, "ranking_id", "not served here"),
    "old ranking": (lambda g: {"ranking_id": an_id(g, issued_ms=NOW_MS - 31 * DAY_MS)}, "ranking_id", "30 days"),
    "ranking to come": (
        lambda g: {"ranking_id": an_id(g, issued_ms=NOW_MS + 2 * DAY_MS)},
        "ranking_id",
        "from the past",
    ),
    "future": (lambda g: {"time_ms": NOW_MS + 120_000}, "time_ms", "not in the future"),
    "before the epoch": (lambda g: {"time_ms": -1}, "time_ms=-1", "since the epoch"),
    "position 0": (lambda g: {"position": 0}, "position=0", "expected 1 to 65535"),
    "position too large": (lambda g: {"position": 65536}, "position=65536", "expected 1 to 65535"),
    "item with control character": (lambda g: {"item": "a\n"}, "item", "control characters"),
    "no event id": (lambda g: {"event_id": ""}, "event_id", "expected 1 to 256 characters"),
    "another type": (lambda g: {"type": "purchase"}, "type", "invalid enum value"),
    "unknown field": (lambda g: {"colour": "red"}, "colour", "unknown field"),
}


@pytest.mark.parametrize("name", BAD_FEEDBACK)
def test_bad_feedback_is_refused_as_a_whole_naming_event_field_and_rule(replica: Replica, name: str) -> None:
    async def scenario(gateway: Gateway) -> httpx.Response:
        good = a_click_of(an_id(gateway))
        answer = await gateway.feed_back(good, good | changes(gateway))
        assert gateway.logged() == []
        return answer

    changes, field, rule = BAD_FEEDBACK[name]
    answer = served(scenario, replica)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "events[1]" in error
    assert field in error
    assert rule in error


@pytest.mark.parametrize("events", [0, 1001])
def test_feedback_has_1_to_1000_events(replica: Replica, events: int) -> None:
    async def scenario(gateway: Gateway) -> httpx.Response:
        answer = await gateway.feed_back(*[a_click_of(an_id(gateway), event_id=f"c{i}") for i in range(events)])
        assert gateway.logged() == []
        return answer

    answer = served(scenario, replica)

    assert (answer.status_code, answer.json()) == (400, {"error": f"events: {events}, expected 1 to 1000"})


def test_feedback_that_cannot_be_kept_is_not_accepted(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        ranking_id = an_id(gateway)
        batch = [a_click_of(ranking_id, event_id=f"{i:0>200}", item="x" * 256) for i in range(1000)]
        statuses = [(await gateway.feed_back(*batch)).status_code for _ in range(2)]
        refused = await gateway.feed_back(*batch)

        assert statuses[0] == 202
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "the event journal is full" in refused.json()["error"]

    served(scenario, replica)


def test_a_querys_priority_goes_to_the_worker() -> None:
    loaded = a_loaded_model().describe(slot=0)
    settings = GatewaySettings(Path("journal"), Path("plans"), ("worker",))

    for body, priority in ((b'{"candidates": ["a"]}', 0), (b'{"candidates": ["a"], "priority": 2}', 2)):
        assert build_request(read_rank("m", body, settings, ""), loaded, rows=1).priority == priority


# overload, deadlines, health


def test_without_a_permit_a_query_is_refused_with_when_to_come_back() -> None:
    async def scenario(gateway: Gateway) -> None:
        first = asyncio.create_task(gateway.rank(deadline_ms=60_000))
        await asyncio.to_thread(program.working.wait, PATIENCE_S)
        refused = await gateway.rank()
        program.let_go.set()

        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json() == {"error": "1 queries are in flight: slow down"}
        assert (await first).status_code == 200
        assert len(gateway.logged()) == 1
        assert gateway.permits.taken == 0

    program = Held(SumOfFeatures())
    with a_replica(program) as replica:
        served(scenario, replica, a_plan(), max_in_flight=1)


def test_a_query_past_its_deadline_is_504_and_shows_nothing_even_if_the_model_answers_later() -> None:
    async def scenario(gateway: Gateway) -> None:
        late = await gateway.rank(deadline_ms=50)
        program.let_go.set()
        in_time = await gateway.rank(candidates=["item-5"])

        assert (late.status_code, in_time.status_code) == (504, 200)
        assert "deadline" in late.json()["error"]
        assert [event.items for event in gateway.logged() if isinstance(event, RankingEvent)] == [("item-5",)]

    program = Held(SumOfFeatures())
    with a_replica(program) as replica:
        served(scenario, replica, a_plan())


def test_a_query_that_breaks_the_model_is_500_and_shows_nothing(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> httpx.Response:
        answer = await gateway.rank(features={"match": [666.0, 1.0, 2.0]})
        assert gateway.logged() == []
        return answer

    answer = served(scenario, replica)

    assert (answer.status_code, answer.json()) == (500, {"error": "codesearch@1 failed: poison"})


def test_the_gateway_is_ready_when_it_has_heard_of_the_plans_and_every_champion_is_held(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        async def statuses() -> tuple[int, bool]:
            status = (await gateway.client.get("/v1/status")).json()["ready"]
            return (await gateway.client.get("/v2/health/ready")).status_code, status

        ranker = Ranker(gateway.pool, gateway.event_log, gateway.ids, gateway.permits, log_every=100)
        assert not ranker.ready  # it has heard of nothing, though a worker is warm
        ranker.follow({})
        assert ranker.ready  # and this, that there is nothing to hold

        assert await statuses() == (200, True)
        gateway.ranker.follow({"codesearch": TWO_ARMS, "others": a_plan("others")})
        assert await statuses() == (503, False)
        gateway.ranker.held_back = frozenset({"others"})
        assert await statuses() == (200, True)

        gateway.ranker.follow({"codesearch": a_plan(revision=9, champion=5)})  # not held: the old one goes on
        assert await statuses() == (200, True)

    served(scenario, replica)


def test_a_gateway_that_has_not_heard_of_any_plan_says_503_and_not_that_there_is_no_such_model(
    replica: Replica,
) -> None:
    async def scenario() -> None:
        async with a_gateway(replica.address, None) as gateway:
            feedback = a_click_of(an_id(gateway))
            for answer in (await gateway.rank(), await gateway.feed_back(feedback), await gateway.client.get(MODEL)):
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
                assert "not known yet" in answer.json()["error"]

            gateway.ranker.follow({})  # now it is known that there are none
            assert (await gateway.rank()).status_code == 404

    asyncio.run(scenario())


def test_the_gateway_is_ready_once_a_champion_is_warm_and_lives_all_the_time() -> None:
    warm = False

    def load(model: str, version: int, digest: str) -> LoadedModel:
        if not warm:
            raise RuntimeError("still warming up")
        return a_loaded_model(version=version, digest=digest)

    async def scenario(address: str) -> None:
        nonlocal warm
        async with a_gateway(address, a_plan()) as gateway:
            for path in ("/health", "/v2/health/live"):
                assert (await gateway.client.get(path)).status_code == 200
            assert (await gateway.client.get("/v2/health/ready")).status_code == 503
            cold = await gateway.rank(deadline_ms=20)
            assert (cold.status_code, cold.headers["retry-after"]) == (503, "1")
            assert cold.json()["error"].startswith("no replica holds codesearch@1")

            warm = True
            starting.follow(a_plan(revision=2))
            await gateway.until_held(a_plan())
            assert (await gateway.client.get("/v2/health/ready")).status_code == 200
            assert (await gateway.rank()).status_code == 200

    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        address = str(Path(folder) / "worker.sock")
        starting = Replica(address, load, a_plan(), BatchWindow(4096), clock=lambda: 0.0)
        try:
            asyncio.run(scenario(address))
        finally:
            starting.stop()


def test_the_status_says_who_serves_what(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        status = (await gateway.client.get("/v1/status")).json()
        assert status["ready"] and status["permits_in_use"] == status["events_waiting"] == 0
        assert status["plans"]["codesearch"] == msgspec.json.decode(TWO_ARMS.encode())
        [seen] = status["replicas"]
        assert (seen["replica"], seen["connected"]) == ("worker-0", True)
        assert seen["versions"] == ["codesearch@1", "codesearch@2"]
        assert (await gateway.client.get("/v1/models")).json().keys() == {"codesearch"}
        assert (await gateway.client.get("/v1/models/codesearch")).json()["champion"] == 1
        unknown = await gateway.client.get("/v1/models/nobody")
        assert (unknown.status_code, unknown.json().keys()) == (404, {"error"})

    served(scenario, replica)


def test_metrics_count_answers_by_model_arm_and_status_and_no_made_up_model(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> str:
        await gateway.rank()
        await gateway.client.post("/v1/models/made-up/rank", json={"candidates": ["a"]})
        return (await gateway.client.get("/metrics")).text

    text = served(scenario, replica)

    assert 'serving_answers_total{arm="champion",model="codesearch",status="200"}' in text
    assert 'serving_answers_total{arm="",model="",status="404"}' in text
    assert "made-up" not in text


def references(part: Any) -> Iterator[str]:
    """Every $ref inside a document."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_the_openapi_document_is_whole_and_has_the_hot_routes(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> Any:
        return (await gateway.client.get("/openapi.json")).json()

    document = served(scenario, replica)

    assert document["openapi"].startswith("3.")
    assert document["paths"].keys() >= {
        "/v1/models/{model}/rank",
        FEEDBACK,
        PREFETCH,
        "/health",
        "/v2/health/ready",
        "/metrics",
    }
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(operation["summary"] and operation["responses"] for operation in operations)
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    rank = document["paths"]["/v1/models/{model}/rank"]["post"]
    assert rank["responses"].keys() == {"200", "400", "404", "413", "415", "429", "500", "503", "504"}
    for reference in references(document):
        part = document
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]
        assert part["type"] == "object"


# prefetch


def test_a_prefetch_is_accepted_and_counts_distinct_items(replica: Replica) -> None:
    async def scenario(gateway: Gateway) -> httpx.Response:
        return await gateway.client.post(PREFETCH, json={"model": "codesearch", "items": ["a", "b", "a"]})

    answer = served(scenario, replica)

    assert (answer.status_code, answer.json()) == (202, {"accepted": 2})


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"items": ["a"]}, 400, "body: object missing required field `model`"),
        ({"model": "codesearch"}, 400, "body: object missing required field `items`"),
        ({"model": "codesearch", "items": []}, 400, "items: 0 ids, expected 1 to 3"),
        ({"model": "codesearch", "items": list("abcd")}, 400, "items: 4 ids, expected 1 to 3"),
        ({"model": "codesearch", "items": ["a", ""]}, 400, "items[1]"),
        ({"model": "codesearch", "items": ["a", "b\x00"]}, 400, "items[1]"),
        ({"model": "codesearch", "items": ["a", 7]}, 400, "items[1]: expected `str`, got `int`"),
        ({"model": "codesearch", "items": ["a"], "top_k": 1}, 400, "unknown field `top_k`"),
        ({"model": "nobody", "items": ["a"]}, 404, "nobody"),
    ],
)
def test_a_bad_prefetch_is_refused_naming_field_and_rule(
    replica: Replica, body: dict[str, Any], status: int, told: str
) -> None:
    async def scenario(gateway: Gateway) -> httpx.Response:
        return await gateway.client.post(PREFETCH, json=body)

    answer = served(scenario, replica, max_candidates=3)

    assert answer.status_code == status
    assert told in answer.json()["error"]


def test_without_a_replica_a_prefetch_says_so(tmp_path: Path) -> None:
    async def run() -> httpx.Response:
        async with a_gateway(str(tmp_path / "nobody.sock"), TWO_ARMS) as gateway:
            return await gateway.client.post(PREFETCH, json={"model": "codesearch", "items": ["a"]})

    answer = asyncio.run(run())

    assert answer.status_code == 503
    assert "sluice status" in answer.json()["error"]
