"""Queries sent again: how often, when, to whom, and never more than the budget bears."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from registry.contracts.ids import hash64
from serving.errors import RankingError, ReplicaFailed, ReplicaLost
from serving.flow.retries import Attempts, RetryBudget, RetryRule, refusal
from serving.frames import LoadedVersion, WorkerState, encode_arena, encode_state
from serving.ranking import Ranking, RankQuery
from serving.replicas import ARENA_BYTES, ReplicaPool
from tests.builders import a_plan
from tests.serving.workbench import MATCH, PATIENCE_S, POISON, VIEW, SumOfFeatures, a_ranker, a_replica, a_request

T = TypeVar("T")
RULE = RetryRule()
LATE_S = 0.2


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 5), st.integers(0, 60)), max_size=60),
    st.floats(0, 0.5),
    st.floats(0, 20),
    st.integers(0, 100),
)
def test_a_budget_gives_no_more_than_its_reserve_and_what_was_earned(
    steps: list[tuple[int, float, int]], share: float, floor_per_s: float, reserve: int
) -> None:
    budget, now_s, taken = RetryBudget(share, floor_per_s, reserve, 0.0), 0.0, 0
    for queries, passed_s, wanted in steps:
        budget.queries += queries
        now_s += passed_s
        taken += sum(budget.take(now_s) for _ in range(wanted))
        assert taken <= reserve + share * budget.queries + floor_per_s * now_s + 1e-6


def test_a_budget_that_is_spent_is_earned_back_by_queries_and_by_time() -> None:
    budget = RetryBudget(share=0.1, floor_per_s=2.0, reserve=3, now_s=0.0)
    assert [budget.take(0.0) for _ in range(4)] == [True, True, True, False]

    budget.queries += 10
    assert [budget.take(0.0) for _ in range(2)] == [True, False]
    assert [budget.take(0.5) for _ in range(2)] == [True, False]


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_fair_over_all_it_may_be_and_bounded(tries: int, coin: float) -> None:
    longest_s = min(RULE.most_s, RULE.base_s * 2 ** (tries - 1))

    assert RULE.pause_s(tries, coin) == pytest.approx(coin * longest_s)


@given(st.integers(1, 9), st.floats(0, 1), st.floats(0, 1), st.floats(0, 2), st.booleans())
def test_a_query_is_never_sent_again_past_its_deadline_or_its_tries(
    tries: int, pause_s: float, usual_s: float, left_s: float, elsewhere: bool
) -> None:
    if not refusal(RULE, Attempts(tries), pause_s, usual_s, left_s, elsewhere):
        assert tries < RULE.most_tries
        assert pause_s + usual_s < left_s
        assert not elsewhere


def with_pool(addresses: tuple[str, ...], rule: RetryRule, scenario: Callable[[ReplicaPool], Awaitable[T]]) -> T:
    async def run() -> T:
        pool = ReplicaPool(addresses, retry=rule)
        await pool.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not all(replica.held for replica in pool.fleet.replicas):
                    await asyncio.sleep(0.005)
                return await scenario(pool)
        finally:
            await pool.stop()

    return asyncio.run(run())


async def ask(pool: ReplicaPool, match: float = 0.5) -> float:
    deadline_s = pool._clock() + PATIENCE_S
    request = a_request(["item-1"], in_candidates={MATCH: [match]})
    reply, _ = await pool.score("codesearch", 1, deadline_s, lambda loaded: request)
    return float(reply.scores[0])


class Broken(SumOfFeatures):
    """Fails on everything."""

    def score(self, features: object, query_index: object, timeout_s: float | None = None) -> object:  # type: ignore[override]
        self.batches.append(1)
        raise OSError("the device has gone")


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("serving_refused_retries_total", {"reason": reason}) or 0.0


def test_what_one_replica_fails_on_is_answered_by_another() -> None:
    broken = Broken()
    with a_replica(broken) as first, a_replica() as second:

        async def scenario(pool: ReplicaPool) -> list[float]:
            return [await ask(pool) for _ in range(4)]

        assert with_pool((first.address, second.address), RULE, scenario) == [-6.25] * 4
    assert broken.batches


def test_what_every_replica_fails_on_is_tried_twice_and_no_more() -> None:
    programs = [SumOfFeatures() for _ in range(3)]
    before = refused("alone")
    with a_replica(programs[0]) as first, a_replica(programs[1]) as second, a_replica(programs[2]) as third:

        async def scenario(pool: ReplicaPool) -> None:
            with pytest.raises(RankingError, match="poison"):
                await ask(pool, POISON)

        with_pool((first.address, second.address, third.address), RULE, scenario)
        assert sum(len(program.batches) for program in programs) == 2

        with_pool((first.address, second.address), RULE, scenario)
        assert sum(len(program.batches) for program in programs) == 4
    assert refused("alone") == before + 1


def test_without_a_budget_the_caller_is_told_what_went_wrong() -> None:
    before = refused("budget")
    with a_replica(Broken()) as first, a_replica(Broken()) as second:

        async def scenario(pool: ReplicaPool) -> None:
            with pytest.raises(ReplicaFailed, match="the device has gone"):
                await ask(pool)

        spent = RetryRule(share=0.0, floor_per_s=0.0, reserve=0)
        with_pool((first.address, second.address), spent, scenario)
    assert refused("budget") == before + 1


def test_the_budget_and_the_breakers_are_told_also_with_one_replica() -> None:
    def told(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, labels)

    with a_replica() as one:

        async def scenario(pool: ReplicaPool) -> None:
            await ask(pool)
            pool._flow("codesearch").retries.take(pool._clock())
            async with asyncio.timeout(PATIENCE_S):
                while told("serving_retry_budget_queries", model="codesearch") != 6:
                    await asyncio.sleep(0.005)
            assert told("serving_replica_breakers", state="open") == 0

        with_pool((one.address,), RetryRule(share=0.0, floor_per_s=0.0, reserve=7), scenario)


class BrokenLate(SumOfFeatures):
    """Fails on everything, a while after it was asked."""

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        threading.Event().wait(LATE_S)
        self.batches.append(1)
        raise OSError("the device has gone")


def test_the_time_of_an_answer_counts_from_when_its_query_came_not_from_when_it_was_sent_again() -> None:
    broken = BrokenLate()
    with a_replica(broken) as first, a_replica() as second:

        async def scenario(pool: ReplicaPool) -> None:
            with a_ranker(pool, a_plan()) as ranker:
                while not broken.batches:
                    hashes = np.array([hash64("item-1")], dtype=np.uint64)
                    query = RankQuery("codesearch", ["item-1"], b"item-1", hashes, 1, 10_000)
                    answer: asyncio.Future[Ranking | RankingError] = asyncio.get_running_loop().create_future()
                    assert ranker.begin(query, answer.set_result) is not None
                    ranking = await answer
                assert isinstance(ranking, Ranking)
                assert ranking.stages_ms["total"] >= 1000 * LATE_S

        with_pool((first.address, second.address), RULE, scenario)


async def dies_of_every_query(address: str, seen: list[int]) -> asyncio.Server:
    """A replica that closes the connection when it is asked, and is there again at once."""
    columns, sources = ("length", "match", "query_words"), ("row", "candidate", "query")
    held = LoadedVersion(0, "codesearch", 1, "d", VIEW.fingerprint, columns, sources)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_state(WorkerState("dying", 100 + len(seen), True, (held,))))
        await reader.readexactly(len(encode_arena(ARENA_BYTES)))
        if await reader.read(1):
            seen.append(1)
        writer.close()

    return await asyncio.start_unix_server(serve, address)


def test_a_query_that_kills_whoever_takes_it_does_not_go_on_for_ever(tmp_path: Path) -> None:
    address, seen = str(tmp_path / "w"), []

    async def run() -> None:
        async with await dies_of_every_query(address, seen):
            pool = ReplicaPool((address,), retry=RetryRule(most_tries=3))
            await pool.start()
            with pytest.raises(ReplicaLost):
                await ask(pool)
            await pool.stop()

    asyncio.run(run())
    assert len(seen) == 3
