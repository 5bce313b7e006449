"""Queries sent to a second replica because the first is slow: the first answer counts, once, and within a budget."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from serving.batching import BatchWindow
from serving.flow.hedging import HedgeRule, Latencies
from serving.replicas import ReplicaPool
from serving.silence import SilenceRule
from tests.serving.workbench import PATIENCE_S, Replica, SumOfFeatures, a_replica, a_request

RULE = HedgeRule(least=10, floor_s=0.02, share=0.0, floor_per_s=0.0, reserve=100)


def test_the_usual_latency_is_the_quantile_of_what_was_seen_lately() -> None:
    rule = HedgeRule(window_s=5.0)
    seconds = np.random.default_rng(1).lognormal(-4.0, 0.7, 5000)
    latencies = Latencies(rule, now_s=0.0)
    for one in seconds:
        latencies.took(float(one))

    assert latencies.look(1.0) == pytest.approx(np.quantile(seconds, 0.95), rel=0.11)  # a bucket is 10 % wide
    assert latencies.look(6.0) is not None  # the window before
    assert latencies.look(12.0) is not None
    assert latencies.look(18.0) is None  # nothing lately


def test_of_few_answers_nothing_is_usual() -> None:
    latencies = Latencies(HedgeRule(least=100), now_s=0.0)
    for _ in range(99):
        latencies.took(0.01)

    assert latencies.look(0.1) is None


class Stalling(SumOfFeatures):
    """Works while it is let; `stalled` is set while it is not and somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go, self.stalled = threading.Event(), threading.Event()
        self.let_go.set()

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `serving.program.Program`."""
        if not self.let_go.is_set():
            self.stalled.set()
        assert self.let_go.wait(PATIENCE_S)
        return super().score(features, query_index, timeout_s)


def hedged(outcome: str) -> float:
    return REGISTRY.get_sample_value("serving_hedged_queries_total", {"outcome": outcome}) or 0.0


def retries() -> float:
    return REGISTRY.get_sample_value("serving_replica_retries_total") or 0.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


async def ask(pool: ReplicaPool, item: str = "item-1") -> float:
    deadline_s = pool._clock() + PATIENCE_S
    reply, _ = await pool.score("codesearch", 1, deadline_s, lambda loaded: a_request([item]))
    return float(reply.scores[0])


@contextmanager
def two_replicas() -> Iterator[tuple[Sequence[Replica], Sequence[Stalling]]]:
    """Each takes one query at a time."""
    programs = (Stalling(), Stalling())
    with a_replica(programs[0], window=BatchWindow(1)) as first, a_replica(programs[1], window=BatchWindow(1)) as other:
        try:
            yield (first, other), programs
        finally:
            for program in programs:
                program.let_go.set()


def with_a_known_latency(
    replicas: Sequence[Replica],
    scenario: Callable[[ReplicaPool], Awaitable[None]],
    rule: HedgeRule = RULE,
    **changes: Any,
) -> None:
    """Runs the scenario once the pool knows how long queries usually take. Silence alone moves no query here."""

    async def run() -> None:
        pool = ReplicaPool(tuple(one.address for one in replicas), hedge=rule, **changes)
        pool._silence = SilenceRule(floor_s=PATIENCE_S)
        await pool.start()
        try:
            await until(lambda: all(replica.held for replica in pool.fleet.replicas))
            for _ in range(2 * rule.least):
                await ask(pool)
            await until(lambda: pool._flows["codesearch"].usual_s is not None)
            async with asyncio.timeout(PATIENCE_S):
                await scenario(pool)
        finally:
            await pool.stop()

    asyncio.run(run())


def test_a_slow_query_is_answered_by_the_other_replica_and_the_slow_one_drops_what_still_waits() -> None:
    with two_replicas() as (replicas, programs):
        slow, sent, won, again = programs[0], hedged("sent"), hedged("won"), retries()

        async def scenario(pool: ReplicaPool) -> None:
            slow.let_go.clear()
            before = len(slow.batches)
            answers = await asyncio.gather(*(ask(pool, f"item-{i}") for i in range(8)))
            assert answers == [i * 0.25 - 6.5 for i in range(8)]
            assert hedged("sent") - sent == hedged("won") - won == 4  # each replica had its half
            slow.let_go.set()
            await until(lambda: not any(replica.outstanding for replica in pool.fleet.replicas))
            assert [replica.candidates for replica in pool.fleet.replicas] == [0, 0]
            assert len(slow.batches) == before + 1  # the one that it worked on; three were taken back

        with_a_known_latency(replicas, scenario)
        assert retries() == again


def test_the_first_replicas_answer_counts_if_it_comes_first() -> None:
    with two_replicas() as (replicas, programs):
        lost = hedged("lost")

        async def scenario(pool: ReplicaPool) -> None:
            for program in programs:
                program.let_go.clear()
            sent = hedged("sent")
            answer = asyncio.ensure_future(ask(pool, "item-4"))
            await until(lambda: hedged("sent") > sent and all(program.stalled.is_set() for program in programs))
            first = next(
                place
                for place, one in enumerate(pool.fleet.replicas)
                if one.outstanding[min(one.outstanding)].tries == 1
            )
            programs[first].let_go.set()
            assert await answer == -5.5
            programs[1 - first].let_go.set()
            await until(lambda: not any(replica.outstanding for replica in pool.fleet.replicas))

        with_a_known_latency(replicas, scenario)
        assert hedged("lost") == lost + 1


@pytest.mark.parametrize(
    ("rule", "calm"),
    [
        (HedgeRule(on=False, least=10), True),
        (HedgeRule(least=10, floor_s=0.02, share=0.0, floor_per_s=0.0, reserve=0), True),
        (RULE, False),
    ],
    ids=["off", "without a budget", "while permits are short"],
)
def test_nothing_is_sent_twice_where_it_may_not_be(rule: HedgeRule, calm: bool) -> None:
    with two_replicas() as (replicas, programs):
        sent = hedged("sent")

        async def scenario(pool: ReplicaPool) -> None:
            programs[0].let_go.clear()
            answers = [asyncio.ensure_future(ask(pool)) for _ in range(4)]
            assert await asyncio.to_thread(programs[0].stalled.wait, PATIENCE_S)
            hedged_by_s = pool._clock() + 10 * rule.floor_s
            await until(lambda: pool._clock() > hedged_by_s)
            assert not all(answer.done() for answer in answers)
            programs[0].let_go.set()
            await asyncio.gather(*answers)

        with_a_known_latency(replicas, scenario, rule, calm=lambda model: calm)
        assert hedged("sent") == sent


def test_a_hedge_whose_other_replica_fails_is_still_answered_by_the_first() -> None:
    with two_replicas() as (replicas, programs):

        async def scenario(pool: ReplicaPool) -> None:
            for program in programs:
                program.let_go.clear()
            sent = hedged("sent")
            answer = asyncio.ensure_future(ask(pool, "item-4"))
            await until(lambda: hedged("sent") > sent)
            second = next(one for one in pool.fleet.replicas if one.outstanding[min(one.outstanding)].tries == 2)
            assert second.transport is not None
            second.transport.abort()
            await until(lambda: second.transport is None or not second.outstanding)
            assert not answer.done()
            for program in programs:
                program.let_go.set()
            assert await answer == -5.5

        with_a_known_latency(replicas, scenario)
