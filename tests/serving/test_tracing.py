"""Which queries are told of, and what their spans say."""

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest

from registry.contracts.traces import UNTRACED, Span, Trace
from serving.errors import QueryRefused, ReplicaUnhealthy, UnknownModel
from serving.infer import InferQuery, InferService
from serving.permits import Permits
from serving.ranking import RankQuery
from serving.replicas import ReplicaPool
from serving.tracing.doors import HTTP_INFER, HTTP_RANK, Door
from serving.tracing.rules import TraceRules
from serving.tracing.spans import Stages
from serving.tracing.tracer import Tracer
from tests.builders import a_plan
from tests.serving.workbench import a_ranker

FOLLOWED, LEFT = Trace("a" * 32, "b" * 16, True), Trace("a" * 32, "b" * 16, False)
OF_OURS = Trace("0" * 32)  # the last that a draw takes
DOOR = Door("POST /x", {"http.route": "/x"})
WORK = Stages(queue_us=1000, features_us=2000, device_us=4000)
END_NS = 1_000_000_000_000


class Heard:
    """What a tracer told; time stands still unless it is moved."""

    def __init__(self, rules: TraceRules) -> None:
        self.spans: list[Span] = []
        self.now_s = 100.0
        self.tracer = Tracer(rules, self.hear, random.Random(3), lambda: self.now_s, lambda: END_NS)

    def hear(self, spans: Sequence[Span]) -> None:
        self.spans += spans

    def query(self, trace: Trace, total_s: float = 0.01, stages: Stages = WORK, error: str = "") -> bool:
        if error:
            return self.tracer.failed(trace, DOOR, total_s, {}, ReplicaUnhealthy(error))
        return self.tracer.answered(trace, DOOR, total_s, lambda: {"sluice.model": "m"}, lambda: stages, "rank m@1")


@pytest.mark.parametrize(
    ("trace", "total_s", "error", "told"),
    [
        (FOLLOWED, 0.01, "", True),
        (LEFT, 0.01, "", False),
        (OF_OURS, 0.01, "", False),
        (LEFT, 0.3, "", True),
        (LEFT, 0.01, "504", True),
    ],
    ids=["the caller wants it", "the caller does not", "not drawn", "slow", "failed"],
)
def test_the_caller_decides_then_the_draw_and_what_is_slow_or_failed_is_told(
    trace: Trace, total_s: float, error: str, told: bool
) -> None:
    heard = Heard(TraceRules(ratio=0.5, slow_ms=250))

    assert heard.query(trace, total_s, error=error) is told
    assert bool(heard.spans) is told


def test_spans_are_one_tree_below_the_caller_s_span_each_inside_of_its_parent() -> None:
    heard = Heard(TraceRules())
    heard.query(FOLLOWED)

    by_id = {span.span_id: span for span in heard.spans}
    root = heard.spans[0]
    assert root.parent_id == FOLLOWED.parent_id
    assert [span.name for span in heard.spans] == ["POST /x", "rank m@1", "rank m@1", "queue", "features", "device"]
    for span in heard.spans[1:]:
        parent = by_id[span.parent_id]
        assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns
    assert {span.trace_id for span in heard.spans} == {FOLLOWED.trace_id}
    assert len(by_id) == len(heard.spans)


def test_stages_last_as_long_as_the_worker_said_in_their_order() -> None:
    heard = Heard(TraceRules())
    heard.query(FOLLOWED, total_s=0.011)

    queue, features, device = heard.spans[3:]
    assert [span.end_ns - span.start_ns for span in (queue, features, device)] == [1_000_000, 2_000_000, 4_000_000]
    assert (queue.end_ns, features.end_ns) == (features.start_ns, device.start_ns)
    assert queue.start_ns - heard.spans[0].start_ns == END_NS - device.end_ns == 2_000_000


def test_stages_that_add_up_to_more_than_the_gateway_saw_stay_inside_of_it() -> None:
    heard = Heard(TraceRules())
    heard.query(FOLLOWED, total_s=0.004)

    root = heard.spans[0]
    assert all(root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns for span in heard.spans)


def test_rows_that_were_fetched_have_a_span_of_their_own_and_rows_from_memory_have_none() -> None:
    heard = Heard(TraceRules())
    heard.query(FOLLOWED, stages=Stages(1000, 2000, 3000))
    assert [span.name for span in heard.spans[3:]] == ["queue", "features", "device"]

    heard = Heard(TraceRules())
    heard.query(FOLLOWED, stages=Stages(1000, 2000, 3000, 3, 1500))
    features, fetch = heard.spans[4:6]
    assert (fetch.name, fetch.kind, fetch.parent_id) == ("fetch", "client", features.span_id)
    assert fetch.attributes == {"db.system.name": "redis", "sluice.rows.fetched": 3}
    assert (fetch.end_ns - fetch.start_ns, fetch.end_ns) == (1_500_000, features.end_ns)


def test_a_query_that_no_worker_answered_is_its_root_with_the_error() -> None:
    heard = Heard(TraceRules())
    heard.query(FOLLOWED, error="no replica")

    assert [(span.name, span.error) for span in heard.spans] == [("POST /x", "no replica")]


def test_a_bad_second_costs_no_more_than_was_allowed() -> None:
    heard = Heard(TraceRules(a_second=3))

    assert [heard.query(FOLLOWED, error="500") for _ in range(5)] == [True, True, True, False, False]
    heard.now_s += 1
    assert heard.query(FOLLOWED, error="500")


def test_what_a_client_did_wrong_is_told_only_if_it_would_have_been_anyway() -> None:
    heard = Heard(TraceRules())

    assert not heard.tracer.failed(LEFT, DOOR, 0.01, {}, QueryRefused("top_k"))
    assert heard.tracer.failed(FOLLOWED, DOOR, 0.01, {}, QueryRefused("top_k"))
    assert (heard.spans[0].error, heard.spans[0].attributes["error.type"]) == ("", "QueryRefused")


def test_rankings_and_tensors_tell_of_their_queries_that_fail() -> None:
    heard = Heard(TraceRules())

    async def scenario() -> None:
        pool = ReplicaPool(("127.0.0.1:1",))
        with a_ranker(pool, a_plan("served"), heard.tracer) as ranker:
            service = InferService(ranker, pool, Permits(64), max_rows=1000, tracer=heard.tracer)
            hashes = np.zeros(1, np.uint64)
            with pytest.raises(UnknownModel):
                await ranker.rank(RankQuery("other", ["a"], b"a", hashes, 1, 1000, trace=FOLLOWED))
            with pytest.raises(UnknownModel):
                await service.infer(InferQuery("other", [], trace=FOLLOWED))

    asyncio.run(scenario())

    told = [(span.name, span.attributes["sluice.model"], span.attributes["error.type"]) for span in heard.spans]
    assert told == [(door.name, "other", "UnknownModel") for door in (HTTP_RANK, HTTP_INFER)]


def test_a_query_that_belongs_to_no_trace_is_told_of_nowhere() -> None:
    assert not Heard(TraceRules(ratio=1.0)).query(UNTRACED, 10.0)
