"""Many models and versions in one worker: none is taken for another, whatever comes and goes."""

import asyncio

import numpy as np
from numpy.typing import NDArray

from serving.batching import BatchWindow
from serving.replicas import ReplicaPool
from serving.scoring import LoadedModel
from serving.shelf import LEAVE_S
from tests.builders import a_plan, a_tested_plan
from tests.serving.test_worker_and_pool import a_pool
from tests.serving.workbench import LENGTHS, PATIENCE_S, SumOfFeatures, a_loaded_model, a_replica, a_request

ITEMS = [f"item-{i}" for i in range(20)]
SUMS = np.array([LENGTHS[item] + 0.5 for item in ITEMS], dtype=np.float32)  # match by default


class Scaled(SumOfFeatures):
    """The sum of a row, times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `serving.program.Program`."""
        scores: NDArray[np.float32] = SumOfFeatures.score(self, features, query_index) * np.float32(self._factor)
        return scores


def factor_of(model: str, version: int, digest: str) -> float:
    """Of every model, version and digest another one."""
    return float({"a": 1, "b": 10}[model] * (100**version) * int(digest[-1], 16))


def load(model: str, version: int, digest: str) -> LoadedModel:
    """A version whose scores tell which it is."""
    program = Scaled(factor_of(model, version, digest))
    return a_loaded_model(program, model=model, version=version, digest=digest)


async def factor(pool: ReplicaPool, model: str, version: int = 1) -> float:
    """Asks, and sees by the scores who has answered."""
    deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
    reply, _ = await pool.score(model, version, deadline_s, lambda loaded: a_request(ITEMS))
    scores = np.empty(len(ITEMS), dtype=np.float32)
    scores[reply.order] = reply.scores
    found = float(scores[0] / SUMS[0])
    np.testing.assert_allclose(scores, SUMS * np.float32(found), rtol=1e-5)
    return round(found)


def test_models_with_the_same_version_numbers_answer_each_their_own_queries() -> None:
    async def scenario() -> list[float]:
        async with a_pool(replica.address) as pool:
            asked = [factor(pool, model, version) for _ in range(50) for model in "ab" for version in (1, 2)]
            return await asyncio.gather(*asked)

    plans = [a_tested_plan(model, weight=100) for model in "ab"]
    with a_replica(load=load, plan=plans[0], window=BatchWindow(100)) as replica:
        replica.follow(*plans)
        answers = asyncio.run(scenario())

    expected = [factor_of(model, version, f"{version:064x}") for model in "ab" for version in (1, 2)]
    assert answers == expected * 50


def test_another_digest_of_a_version_answers_as_soon_as_it_is_there_and_never_both() -> None:
    async def scenario() -> None:
        async with a_pool(replica.address) as pool:
            assert await factor(pool, "a") == factor_of("a", 1, "1")
            replica.follow(a_plan("a", revision=2, champion_digest="f" * 64))
            answers = [await factor(pool, "a")]
            while answers[-1] != factor_of("a", 1, "f"):
                answers.append(await factor(pool, "a"))
            answers += [await factor(pool, "a") for _ in range(20)]
            assert answers == sorted(answers)  # once the new one has answered, the old one never does

    with a_replica(load=load, plan=a_plan("a")) as replica:
        asyncio.run(scenario())


def test_no_query_fails_while_other_models_come_and_go() -> None:
    async def scenario() -> tuple[int, set[float]]:
        async with a_pool(replica.address) as pool:
            churn = asyncio.create_task(asyncio.to_thread(come_and_go))
            answers = []
            while not churn.done():
                answers += await asyncio.gather(*(factor(pool, "a") for _ in range(8)))
            await churn
            return len(answers), set(answers)

    def come_and_go() -> None:
        nonlocal now_s
        for revision in range(2, 12):
            replica.follow(steady, a_plan("b", revision, champion=revision % 3 + 1))
            replica.shelf.hold_back(frozenset({"b"}) if revision % 2 else frozenset())
            for _ in range(3):
                now_s += LEAVE_S
                replica.shelf.settle()

    now_s, steady = 0.0, a_plan("a")
    with a_replica(load=load, plan=steady, clock=lambda: now_s) as replica:
        answered, factors = asyncio.run(scenario())

    assert answered >= 8
    assert factors == {factor_of("a", 1, "1")}


def test_queries_sent_before_a_version_left_are_answered_by_it() -> None:
    async def scenario() -> list[float]:
        async with a_pool(replica.address) as pool:
            await factor(pool, "a")
            asked = [asyncio.create_task(factor(pool, "a")) for _ in range(50)]
            await asyncio.sleep(0)  # they are on their way
            replica.shelf.hold_back(frozenset({"a"}))
            replica.shelf.settle()
            return await asyncio.gather(*asked)

    with a_replica(load=load, plan=a_plan("a")) as replica:
        answers = asyncio.run(scenario())

    assert answers == [factor_of("a", 1, "1")] * 50
