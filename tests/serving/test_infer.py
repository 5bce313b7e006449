"""Tensor requests through a real pool and a real worker with real exported programs."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from registry.contracts.manifest import ModelPackage, TensorSpec
from registry.contracts.profile import no_profile
from serving import tally
from serving.batching import BatchWindow
from serving.errors import DeadlineExceeded, QueryRefused, ReplicaLost, UnknownModel
from serving.flow.retries import Attempts
from serving.infer import InferAnswer, InferQuery, InferService
from serving.loaded import LoadedProgram
from serving.permits import Permits
from serving.program import Program, TorchProgram
from serving.replicas import ReplicaPool
from tests.builders import a_manifest, a_plan, a_program, exported_program
from tests.serving.workbench import PATIENCE_S, Held, Replica, a_ranker

T = TypeVar("T")
PLAN = a_plan("tensors")


class TwoInputs(torch.nn.Module):
    """Two inputs, two outputs of different datatypes."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return left + right, (left > right).to(torch.int32)


def two_inputs(
    program: Callable[[Program], Program] = lambda program: program, batchable: bool = True
) -> LoadedProgram:
    """A version that takes two matrices."""
    rows = {"left": torch.zeros(4, 3), "right": torch.zeros(4, 3)}
    inputs = (TensorSpec("left", "FP32", (-1, 3)), TensorSpec("right", "FP32", (-1, 3)))
    outputs = (TensorSpec("sum", "FP32", (-1, 3)), TensorSpec("larger", "INT32", (-1, 3)))
    manifest = a_manifest(model="tensors", inputs=inputs, outputs=outputs, view={}, fingerprint="", batchable=batchable)
    package = ModelPackage.of(exported_program(TwoInputs(), rows), manifest, no_profile())
    return LoadedProgram(
        model="tensors",
        version=1,
        digest=PLAN.champion_digest,
        program=program(TorchProgram(package, "cpu")),
        inputs=inputs,
        outputs=outputs,
        batchable=batchable,
    )


@asynccontextmanager
async def a_service(address: str, **changes: Any) -> AsyncIterator[InferService]:
    """A service in front of the worker at the address."""
    pool = ReplicaPool((address,), **changes)
    with a_ranker(pool, PLAN) as ranker:
        await pool.start()
        await pool.fleet.wait_for_holder("tensors", 1, asyncio.get_running_loop().time() + PATIENCE_S)
        yield InferService(ranker, pool, Permits(64), max_rows=1000)
        await pool.stop()


def served(scenario: Callable[[InferService], Awaitable[T]], loaded: LoadedProgram | None = None, **changes: Any) -> T:
    """What the scenario returns of a service before a worker that holds the version."""
    version = loaded or two_inputs()

    async def run(address: str) -> T:
        async with a_service(address, **changes) as service:
            return await scenario(service)

    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        address = str(Path(folder) / "worker.sock")
        replica = Replica(address, lambda *_: version, PLAN, BatchWindow(4096), lambda: 0.0)
        try:
            return asyncio.run(run(address))
        finally:
            replica.stop()


def a_query(rows: int = 2, seed: int = 0, **changes: Any) -> InferQuery:
    random = np.random.default_rng(seed)
    left, right = (random.normal(size=(rows, 3)).astype(np.float32) for _ in range(2))
    fields: dict[str, Any] = {"inputs": [tensor("right", right), tensor("left", left)], "deadline_ms": 20_000}
    return InferQuery("tensors", **(fields | changes))


def tensor(name: str, values: Any, datatype: str = "FP32") -> Any:
    from serving.tensors import Tensor

    return Tensor.of(name, datatype, np.asarray(values))


def check_answer(query: InferQuery, answer: InferAnswer) -> None:
    """Sum and comparison, as numpy has them."""
    given = {one.name: one.array() for one in query.inputs}
    outputs = {one.name: one.array() for one in answer.outputs}
    np.testing.assert_array_equal(outputs["sum"], given["left"] + given["right"])
    np.testing.assert_array_equal(outputs["larger"], given["left"] > given["right"])


@pytest.mark.parametrize("rows", [1, 2, 999])
@pytest.mark.parametrize("arena_bytes", [4096, 1 << 20])
def test_outputs_are_the_models_whether_tensors_lie_in_the_arena_or_not(rows: int, arena_bytes: int) -> None:
    async def scenario(service: InferService) -> None:
        query = a_query(rows)
        check_answer(query, await service.infer(query))

    served(scenario, arena_bytes=arena_bytes)


def test_requests_that_go_together_get_their_own_rows() -> None:
    held: list[Held] = []

    def hold(program: Program) -> Program:
        held.append(Held(program))
        return held[0]

    async def scenario(service: InferService) -> None:
        queries = [a_query(1 + seed % 7, seed) for seed in range(40)]
        answers = [asyncio.ensure_future(service.infer(query)) for query in queries]
        await asyncio.to_thread(held[0].working.wait, PATIENCE_S)
        held[0].let_go.set()
        for query, answer in zip(queries, answers, strict=True):
            check_answer(query, await answer)
        while not (counted := service.statistics("tensors")[0]).executions:
            await asyncio.sleep(0.01)
        assert (counted.success.count, counted.failed.count) == (40, 0)
        assert counted.executions < 40

    served(scenario, two_inputs(hold))


def test_a_version_that_is_not_batchable_gets_one_request_at_a_time() -> None:
    async def scenario(service: InferService) -> int:
        queries = [a_query(2, seed) for seed in range(10)]
        for query, answer in zip(queries, await asyncio.gather(*map(service.infer, queries)), strict=True):
            check_answer(query, answer)
        while not (counted := service.statistics("tensors")[0]).executions:
            await asyncio.sleep(0.01)
        return max(counted.batches)

    assert served(scenario, two_inputs(batchable=False)) == 1


def test_outputs_come_in_the_order_asked_for() -> None:
    async def scenario(service: InferService) -> list[list[str]]:
        wanted = [(), ("larger",), ("larger", "sum")]
        answers = [await service.infer(a_query(outputs=outputs)) for outputs in wanted]
        return [[output.name for output in answer.outputs] for answer in answers]

    assert served(scenario) == [["sum", "larger"], ["larger"], ["larger", "sum"]]


LEFT, RIGHT = tensor("left", np.zeros((2, 3))), tensor("right", np.zeros((2, 3)))
REFUSALS = {
    "missing": ({"inputs": [LEFT]}, "input 'right': missing"),
    "unknown": ({"inputs": [LEFT, RIGHT, tensor("up", np.zeros((2, 3)))]}, "input 'up': tensors@1 takes left, right"),
    "twice": (
        {"inputs": [LEFT, RIGHT, LEFT.__class__("left", "FP32", (2, 3), LEFT.data)]},
        "input 'left': given twice",
    ),
    "datatype": ({"inputs": [LEFT, tensor("right", np.zeros((2, 3)), "FP64")]}, "input 'right': datatype FP64"),
    "shape": (
        {"inputs": [LEFT, tensor("right", np.zeros((2, 4)))]},
        r"input 'right': shape \[2, 4\], expected \[-1, 3\]",
    ),
    "rows": ({"inputs": [LEFT, tensor("right", np.zeros((3, 3)))]}, "input 'right': 3 rows, but 'left' has 2"),
    "too many rows": (
        {"inputs": [tensor(name, np.zeros((1001, 3))) for name in ("left", "right")]},
        "input 'left': 1001 rows, expected 1 to 1000",
    ),
    "no such output": ({"outputs": ("product",)}, "output 'product': tensors@1 gives sum, larger"),
    "output twice": ({"outputs": ("sum", "sum")}, "names one twice"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_fit_the_manifest_is_refused_naming_tensor_and_rule(
    changes: dict[str, Any], message: str
) -> None:
    async def scenario(service: InferService) -> None:
        with pytest.raises(QueryRefused, match=message):
            await service.infer(a_query(**changes))

    served(scenario)


def test_versions_and_models_that_are_not_there_are_not_found() -> None:
    async def scenario(service: InferService) -> None:
        with pytest.raises(UnknownModel, match=r"version 7 of model 'tensors' is not loaded \(loaded: 1\)"):
            await service.infer(a_query(version=7))
        with pytest.raises(UnknownModel, match="no such model"):
            await service.infer(InferQuery("other", []))
        assert service.ready("tensors")
        assert not service.ready("tensors", 7)
        assert [(one.name, one.version, one.state) for one in service.index()] == [("tensors", "1", "READY")]
        assert service.describe("tensors").versions == (1,)

    served(scenario)


def test_a_caller_who_leaves_is_dropped_before_the_device() -> None:
    held: list[Held] = []

    def hold(program: Program) -> Program:
        held.append(Held(program))
        return held[0]

    async def scenario(service: InferService) -> None:
        first = asyncio.ensure_future(service.infer(a_query(3)))
        await asyncio.to_thread(held[0].working.wait, PATIENCE_S)
        leaving = asyncio.ensure_future(service.infer(a_query(5, 1)))
        staying = asyncio.ensure_future(service.infer(a_query(7, 2)))
        await asyncio.sleep(0)  # both are on their way
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await asyncio.sleep(0)
        held[0].let_go.set()
        check_answer(a_query(3), await first)
        check_answer(a_query(7, 2), await staying)
        while not (counted := service.statistics("tensors")[0]).executions:
            await asyncio.sleep(0.01)
        assert counted.inferences == 10

    served(scenario, two_inputs(hold))


def test_an_answer_past_its_deadline_is_refused() -> None:
    held: list[Held] = []

    def hold(program: Program) -> Program:
        held.append(Held(program))
        return held[0]

    async def scenario(service: InferService) -> None:
        with pytest.raises(DeadlineExceeded):
            await service.infer(a_query(deadline_ms=50))
        held[0].let_go.set()
        query = a_query(seed=5)
        check_answer(query, await service.infer(query))

    served(scenario, two_inputs(hold))


def test_the_time_of_an_answer_counts_from_when_its_query_came_also_if_it_was_sent_again() -> None:
    def total_s() -> float:
        tally.flush()
        return REGISTRY.get_sample_value("serving_stage_seconds_sum", {"stage": "total"}) or 0.0

    async def scenario(service: InferService) -> float:
        before_s = total_s()
        attempts = Attempts(tries=1, began_s=time.monotonic() - 100.0).failed(ReplicaLost("gone", ("elsewhere", 1)))
        await service.infer(a_query(), attempts)
        return total_s() - before_s

    assert served(scenario) >= 100.0


def test_a_program_that_fails_fails_its_own_request_only() -> None:
    class Picky:
        def __init__(self, program: Program) -> None:
            self._program = program
            self.score = program.score

        def run(self, inputs: Any, timeout_s: float | None = None) -> Any:
            if (inputs[0].array() == 666).any():
                raise ZeroDivisionError("poison")
            return self._program.run(inputs, timeout_s)

    poison = a_query(inputs=[tensor(name, np.full((2, 3), 666.0)) for name in ("left", "right")])

    async def scenario(service: InferService) -> None:
        queries = [a_query(seed=1), poison, a_query(seed=2)]
        answers = await asyncio.gather(*map(service.infer, queries), return_exceptions=True)
        assert "poison" in str(answers[1])
        for place in (0, 2):
            answer = answers[place]
            assert isinstance(answer, InferAnswer)
            check_answer(queries[place], answer)

    served(scenario, two_inputs(Picky))


def test_lists_of_different_requests_keep_numbers_of_their_own() -> None:
    inputs = (TensorSpec("features", "FP32", (-1, 3)), TensorSpec("query_index", "INT64", (-1,)))
    outputs = (TensorSpec("scores", "FP32", (-1,)),)
    package = ModelPackage.of(
        a_program(1.0, listwise=True), a_manifest(model="tensors", inputs=inputs, outputs=outputs), no_profile()
    )
    held = Held(TorchProgram(package, "cpu"))
    loaded = LoadedProgram(
        model="tensors", version=1, digest=PLAN.champion_digest, program=held, inputs=inputs, outputs=outputs
    )

    async def scenario(service: InferService) -> list[list[float]]:
        one = [tensor("features", np.ones((2, 3))), tensor("query_index", [0, 1], "INT64")]
        first, *others = [
            asyncio.ensure_future(service.infer(InferQuery("tensors", one, deadline_ms=20_000))) for _ in range(3)
        ]
        await asyncio.to_thread(held.working.wait, PATIENCE_S)
        held.let_go.set()
        answers = await asyncio.gather(first, *others)
        return [answer.outputs[0].array().tolist() for answer in answers]

    scores = served(scenario, loaded)

    # the toy model subtracts a list's number from its scores; the three went to the worker in one write
    assert scores == [[3.0, 2.0], [1.0, 0.0], [-1.0, -2.0]]
