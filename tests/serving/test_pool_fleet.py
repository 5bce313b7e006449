"""A pool of several replicas: they come and go, fall silent, and fail, and queries are answered."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TypeVar

import pytest

from serving.connecting import RECONNECT_S
from serving.replicas import ReplicaPool
from tests.serving.workbench import PATIENCE_S, Held, Replica, SumOfFeatures, a_replica, a_request

T = TypeVar("T")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


def with_pool(addresses: tuple[str, ...], scenario: Callable[[ReplicaPool], Awaitable[T]]) -> T:
    async def run() -> T:
        pool = ReplicaPool(addresses)
        await pool.start()
        try:
            return await scenario(pool)
        finally:
            await pool.stop()

    return asyncio.run(run())


async def ask(pool: ReplicaPool, item: str = "item-1", deadline_in_s: float = PATIENCE_S) -> float:
    deadline_s = pool._clock() + deadline_in_s
    reply, _ = await pool.score("codesearch", 1, deadline_s, lambda loaded: a_request([item]))
    return float(reply.scores[0])


def test_a_new_replica_is_used_and_one_that_is_gone_is_left() -> None:
    with a_replica() as first, a_replica() as second:

        async def scenario(pool: ReplicaPool) -> None:
            await until(lambda: pool.fleet.connected(first.address))
            pool.fleet.set_addresses((first.address, second.address))
            await until(lambda: all(replica.held for replica in pool.fleet.replicas) and len(pool.fleet.replicas) == 2)
            pool.fleet.set_addresses((second.address,))
            assert not pool.fleet.connected(first.address)
            assert await ask(pool) == -6.25
            await until(lambda: not pool.fleet.leaving)

        with_pool((first.address,), scenario)


@pytest.mark.parametrize("said", [b"", b"\xff" * 16])
def test_who_hangs_up_before_it_says_what_it_holds_is_tried_ever_more_rarely(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    tried_s: list[float] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried_s.append(asyncio.get_running_loop().time())
        writer.write(said)
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            pool = ReplicaPool((f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}",))
            await pool.start()
            await until(lambda: len(tried_s) == 4)
            await pool.stop()

    asyncio.run(scenario())
    pauses_s = [later_s - sooner_s for sooner_s, later_s in pairwise(tried_s)]
    assert all(pause_s >= 0.99 * RECONNECT_S * 2 ** (i + 1) for i, pause_s in enumerate(pauses_s))
    assert len([one for one in caplog.records if "hangs up before" in one.message]) == 1


def test_a_replica_that_is_left_answers_what_it_has() -> None:
    program = Held(SumOfFeatures())
    with a_replica(program) as replica:

        async def scenario(pool: ReplicaPool) -> float:
            answer = asyncio.ensure_future(ask(pool))
            await asyncio.to_thread(program.working.wait, PATIENCE_S)
            pool.fleet.set_addresses(())
            program.let_go.set()
            return await answer

        assert with_pool((replica.address,), scenario) == -6.25


def test_a_query_that_a_silent_replica_holds_is_answered_by_another() -> None:
    stuck = Held(SumOfFeatures())
    with a_replica(stuck) as silent, a_replica() as lively:
        pair: tuple[Replica, Replica] = (silent, lively)

        async def scenario(pool: ReplicaPool) -> None:
            await until(lambda: all(replica.held for replica in pool.fleet.replicas))
            answers = await asyncio.gather(*(ask(pool, f"item-{i}") for i in range(20)))
            assert answers == [i * 0.25 - 6.5 for i in range(20)]
            assert next(one for one in pool.fleet.replicas if one.address == silent.address).silent
            stuck.let_go.set()
            await until(lambda: not any(one.silent for one in pool.fleet.replicas))  # it has been heard of again

        with_pool(tuple(replica.address for replica in pair), scenario)


def test_equally_busy_replicas_take_turns() -> None:
    programs = [SumOfFeatures(), SumOfFeatures()]
    with a_replica(programs[0]) as first, a_replica(programs[1]) as second:

        async def scenario(pool: ReplicaPool) -> None:
            await until(lambda: all(replica.held for replica in pool.fleet.replicas))
            for _ in range(20):
                await ask(pool)

        with_pool((first.address, second.address), scenario)

    assert [len(program.batches) for program in programs] == [10, 10]
