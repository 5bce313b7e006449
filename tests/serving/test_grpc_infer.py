"""ModelInfer and ModelStreamInfer, asked by unmodified clients."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving.program import Program
from serving.tensors import DATATYPES, DTYPES
from tests.serving.grpc_gateway import Gateway, a_worker, name_of, served
from tests.serving.workbench import PATIENCE_S, Held, Replica

TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def worker() -> Iterator[Replica]:
    with a_worker() as worker:
        yield worker


def values_of(datatype: str, rows: int = 3, seed: int = 0) -> NDArray[Any]:
    """(rows, 2) values, of BF16 in ml_dtypes'."""
    random = np.random.default_rng(seed)
    if datatype == "BYTES":
        return np.array([[random.bytes(int(n)) for n in random.integers(0, 9, 2)] for _ in range(rows)], dtype=object)
    if datatype == "BF16":
        return random.normal(size=(rows, 2)).astype(ml_dtypes.bfloat16)
    dtype = DTYPES[datatype]
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, (rows, 2), dtype=dtype, endpoint=True)
    return (random.normal(size=(rows, 2)) > 0) if dtype.kind == "b" else random.normal(size=(rows, 2)).astype(dtype)


def every_input(rows: int = 3, seed: int = 0) -> list[triton.InferInput]:
    """One input of each datatype, as tritonclient sends them."""
    return [
        triton.InferInput(name_of(datatype), [rows, 2], datatype).set_data_from_numpy(values_of(datatype, rows, seed))
        for datatype in DATATYPES
    ]


def two_inputs(rows: int = 3, seed: int = 0) -> list[triton.InferInput]:
    random = np.random.default_rng(seed)
    return [
        triton.InferInput(name, [rows, 3], "FP32").set_data_from_numpy(random.normal(size=(rows, 3)).astype(np.float32))
        for name in ("left", "right")
    ]


def sum_of(inputs: list[triton.InferInput]) -> NDArray[Any]:
    left, right = (
        np.frombuffer(one._get_content(), np.float32).reshape(-1, 3)
        for one in inputs  # as it is sent
    )
    return left + right


def check_sum(inputs: list[triton.InferInput], result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("sum"), sum_of(inputs))


def refusal(gateway: Gateway, **changes: Any) -> Any:
    """The code and message for a request that differs from a good one by the changes."""

    async def ask() -> tuple[grpc.StatusCode, str | None]:
        async with gateway.channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelInfer(a_message(**changes), timeout=TIMEOUT_S)
            return caught.value.code(), caught.value.details()

    return ask()


def a_message(**changes: Any) -> service_pb2.ModelInferRequest:
    """A good request for the sums of ones; changes are the message's."""
    spec = {"datatype": "FP32", "shape": [1, 3]}
    fields: dict[str, Any] = {
        "model_name": "tensors",
        "inputs": [{"name": "left", **spec}, {"name": "right", **spec}],
        "raw_input_contents": [np.ones(3, np.float32).tobytes()] * 2,
    }
    return service_pb2.ModelInferRequest(**(fields | changes))


# answers


def test_every_datatype_comes_back_as_it_went(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        result = await gateway.client(lambda client: client.infer("every", every_input()))
        for datatype in DATATYPES:
            np.testing.assert_array_equal(result.as_numpy(name_of(datatype)), values_of(datatype))

    served(scenario, worker)


@pytest.mark.parametrize("rows", [1, 3, 100, 1000])
def test_one_right_answer_for_each_of_many_calls_at_once(worker: Replica, rows: int) -> None:
    async def scenario(gateway: Gateway) -> None:
        async with triton_aio.InferenceServerClient(gateway.address) as client:
            asked = [two_inputs(rows, seed) for seed in range(40)]
            answers = await asyncio.gather(*(client.infer("tensors", inputs) for inputs in asked))
            for inputs, answer in zip(asked, answers, strict=True):
                check_sum(inputs, answer)

    served(scenario, worker)


def test_messages_larger_than_any_window_go_both_ways(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        await gateway.client(lambda client: check_large(client))

    def check_large(client: triton.InferenceServerClient) -> None:
        texts = np.full((1000, 2), b"x" * 5000, dtype=object)
        inputs = [
            triton.InferInput("a_bytes", [1000, 2], "BYTES").set_data_from_numpy(texts),
            *(one for one in every_input(1000) if one.name() != "a_bytes"),
        ]
        result = client.infer("every", inputs, outputs=[triton.InferRequestedOutput("a_bytes")])
        assert (result.as_numpy("a_bytes") == texts).all()

    served(scenario, worker)


def test_outputs_come_as_asked_for_with_the_requests_id_and_the_version(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        outputs = [triton.InferRequestedOutput("larger"), triton.InferRequestedOutput("sum")]
        response = (
            await gateway.client(
                lambda client: client.infer(
                    "tensors", two_inputs(), model_version="1", outputs=outputs, request_id="seven"
                )
            )
        ).get_response()
        assert [output.name for output in response.outputs] == ["larger", "sum"]
        assert (response.model_name, response.model_version, response.id) == ("tensors", "1", "seven")

    served(scenario, worker)


def test_classes_are_the_largest_values_of_each_row(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        inputs = two_inputs()
        wanted = [triton.InferRequestedOutput("sum", class_count=2)]
        classes = (await gateway.client(lambda client: client.infer("tensors", inputs, outputs=wanted))).as_numpy("sum")
        expected = [
            [f"{row[at]:f}:{at}".encode() for at in np.argsort(-row, kind="stable")[:2]] for row in sum_of(inputs)
        ]
        assert classes.tolist() == expected

    served(scenario, worker)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_answered(worker: Replica, algorithm: str) -> None:
    async def scenario(gateway: Gateway) -> None:
        for rows in (1, 1000):
            inputs = two_inputs(rows)
            check_sum(
                inputs,
                await gateway.client(
                    lambda client, inputs=inputs: client.infer("tensors", inputs, compression_algorithm=algorithm)
                ),
            )

    served(scenario, worker)


# refusals

BAD: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "another shape": (
        {"raw_input_contents": [bytes(12), bytes(24)]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'right': 24 bytes, expected 12 for FP32 of shape [1, 3]",
    ),
    "too few raw entries": (
        {"raw_input_contents": [bytes(12)]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'right': no data, raw_input_contents has only 1 entries",
    ),
    "too many raw entries": (
        {"raw_input_contents": [bytes(12)] * 3},
        grpc.StatusCode.INVALID_ARGUMENT,
        "raw_input_contents: 3 entries, expected 2, one for each input of this form",
    ),
    "no data": (
        {"raw_input_contents": []},
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'left': no data, expected contents, raw_input_contents or a shared memory region",
    ),
    "an unknown datatype": (
        {"inputs": [{"name": "left", "datatype": "FP31", "shape": [1, 3]}]},
        grpc.StatusCode.INVALID_ARGUMENT,
        f"input 'left': datatype 'FP31', expected one of {', '.join(DATATYPES)}",
    ),
    "an input that is missing": (
        {
            "inputs": [{"name": "left", "datatype": "FP32", "shape": [1, 3]}],
            "raw_input_contents": [bytes(12)],
        },
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'right': missing, tensors@1 takes left, right",
    ),
    "an unknown output": (
        {"outputs": [{"name": "product"}]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "output 'product': tensors@1 gives sum, larger",
    ),
    "shared memory that is off": (
        {
            "inputs": [
                {
                    "name": "left",
                    "datatype": "FP32",
                    "shape": [1, 3],
                    "parameters": {"shared_memory_region": service_pb2.InferParameter(string_param="r")},
                }
            ],
            "raw_input_contents": [],
        },
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'left': shared_memory_region='r': shared memory regions are off: "
        "start the platform with SLUICE_SHARED_MEMORY_REGIONS=1",
    ),
    "a sequence": (
        {"parameters": {"sequence_id": service_pb2.InferParameter(int64_param=7)}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameters.sequence_id: models here keep no state between requests: leave it out",
    ),
    "a priority of another type": (
        {"parameters": {"priority": service_pb2.InferParameter(string_param="high")}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameters.priority: expected `int`, got `str`",
    ),
    "an unknown model": (
        {"model_name": "nobody"},
        grpc.StatusCode.NOT_FOUND,
        "model='nobody': no such model is served (served: codesearch, every, tensors)",
    ),
    "a version that is not loaded": (
        {"model_version": "9"},
        grpc.StatusCode.NOT_FOUND,
        "version 9 of model 'tensors' is not loaded (loaded: 1)",
    ),
    "a version that is no number": (
        {"model_version": "newest"},
        grpc.StatusCode.INVALID_ARGUMENT,
        "version='newest': expected a number",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told_by_code_tensor_and_rule(worker: Replica, case: str) -> None:
    changes, code, message = BAD[case]

    assert served(lambda gateway: refusal(gateway, **changes), worker) == (code, message)


def test_a_value_beyond_its_datatype_is_refused_not_wrapped(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> Any:
        inputs = [{"name": "left", "datatype": "INT8", "shape": [1], "contents": {"int_contents": [128]}}]
        return await refusal(gateway, inputs=inputs, raw_input_contents=[])

    message = "input 'left': a value beyond INT8, expected -128 to 127"
    assert served(scenario, worker) == (grpc.StatusCode.INVALID_ARGUMENT, message)


def test_a_message_over_the_limit_is_refused_before_it_has_arrived(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> Any:
        return await refusal(gateway, raw_input_contents=[bytes(2_000_000)])

    code, message = served(scenario, worker, max_infer_bytes=1_000_000, max_json_bytes=1_000_000)

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.endswith("bytes, expected at most 1000000")


def test_a_small_message_that_grows_over_the_limit_is_refused(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> Any:
        async with gateway.channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                bomb = a_message(raw_input_contents=[bytes(5_000_000)])
                await stub.ModelInfer(bomb, timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
            return caught.value.code(), caught.value.details()

    assert served(scenario, worker, max_infer_bytes=1_000_000, max_json_bytes=1_000_000) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "body: more than 1000000 bytes after decompression",
    )


def test_without_a_permit_the_client_is_told_when_to_come_back(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> Any:
        with gateway.permits.one("codesearch", 1.0, clock=lambda: 0.0):
            async with gateway.channel() as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ModelInfer(a_message(), timeout=TIMEOUT_S)
                return caught.value.code(), dict(caught.value.trailing_metadata())["retry-after"]

    assert served(scenario, worker, max_in_flight=1) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "1")


# deadlines and cancellation


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it holds; fails the test if it never does."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def held() -> Iterator[tuple[Replica, list[Held]]]:
    """A worker whose programs wait for `let_go` in their first batch."""
    programs: list[Held] = []

    def hold(program: Program) -> Program:
        programs.append(Held(program))
        return programs[-1]

    with a_worker(hold) as worker:
        try:
            yield worker, programs
        finally:
            for program in programs:
                program.let_go.set()


@pytest.mark.parametrize("asked", ["the call's deadline", "the timeout parameter"])
def test_who_is_not_answered_in_time_is_told_so(held: tuple[Replica, list[Held]], asked: str) -> None:
    worker, _ = held

    async def scenario(gateway: Gateway) -> grpc.aio.AioRpcError:
        changes: dict[str, Any] = {}
        timeout_s = 0.05
        if asked == "the timeout parameter":
            changes = {"parameters": {"timeout": service_pb2.InferParameter(int64_param=50_000)}}
            timeout_s = TIMEOUT_S
        async with gateway.channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ModelInfer(a_message(**changes), timeout=timeout_s)
            return caught.value

    error = served(scenario, worker)

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    if asked == "the timeout parameter":  # long before the client's own deadline
        assert error.details() == "the deadline passed while the model worked"


@pytest.mark.parametrize("how", ["cancelled", "connection closed"])
def test_a_call_that_is_given_up_gives_its_permit_back(held: tuple[Replica, list[Held]], how: str) -> None:
    worker, programs = held

    async def scenario(gateway: Gateway) -> None:
        channel = gateway.channel()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer(a_message(), timeout=TIMEOUT_S)
        answer = asyncio.ensure_future(call)
        await until(lambda: gateway.permits.taken == 1)
        if how == "cancelled":
            call.cancel()
        else:
            await channel.close()
        await until(lambda: gateway.permits.taken == 0)
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await answer
        await channel.close()
        for program in programs:
            program.let_go.set()

    served(scenario, worker)


def test_a_gateway_that_ends_answers_what_it_has_taken(held: tuple[Replica, list[Held]]) -> None:
    worker, programs = held

    async def scenario(gateway: Gateway) -> None:
        async with gateway.channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = asyncio.ensure_future(stub.ModelInfer(a_message(), timeout=TIMEOUT_S))
            await until(lambda: gateway.permits.taken == 1)
            ending = asyncio.ensure_future(gateway.server.stop(PATIENCE_S))
            await asyncio.sleep(0)
            assert repr(gateway.server) == "<GrpcServer [CLOSED | 1 connections]>"
            for program in programs:
                program.let_go.set()
            assert np.frombuffer((await answer).raw_output_contents[0], np.float32).tolist() == [2.0] * 3
            await ending

    served(scenario, worker)


# streams


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_a_stream_is_answered_in_its_order_with_errors_in_their_places(worker: Replica, algorithm: str | None) -> None:
    async def scenario(gateway: Gateway) -> None:
        await gateway.client(stream)

    def stream(client: triton.InferenceServerClient) -> None:
        told: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: told.put((result, error)), compression_algorithm=algorithm)
        asked = [two_inputs(1 + seed % 5, seed) for seed in range(200)]
        for seed, inputs in enumerate(asked):
            model = "nobody" if seed % 50 == 7 else "tensors"
            client.async_stream_infer(model, inputs, request_id=str(seed), enable_empty_final_response=True)
        for seed, inputs in enumerate(asked):
            result, error = told.get(timeout=PATIENCE_S)
            if seed % 50 == 7:
                assert error.message().startswith("model='nobody': no such model is served")
            else:
                assert error is None
                check_sum(inputs, result)
                response = result.get_response()
                assert response.id == str(seed)
                assert response.parameters["triton_final_response"].bool_param
        client.stop_stream()

    served(scenario, worker)


def test_a_stream_of_the_asynchronous_client_is_answered(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        asked = [two_inputs(2, seed) for seed in range(5)]

        async def requests() -> Any:
            for inputs in asked:
                yield {"model_name": "tensors", "inputs": inputs}

        async with triton_aio.InferenceServerClient(gateway.address) as client:
            answers = [answer async for answer in client.stream_infer(requests())]
        assert len(answers) == 5
        for inputs, (result, error) in zip(asked, answers, strict=True):
            assert error is None
            check_sum(inputs, result)

    served(scenario, worker)


def test_requests_of_a_stream_work_together_and_give_their_permits_back_when_it_is_given_up(
    held: tuple[Replica, list[Held]],
) -> None:
    worker, programs = held

    async def scenario(gateway: Gateway) -> None:
        all_begun = threading.Event()
        using = asyncio.ensure_future(gateway.client(lambda client: give_up(client, all_begun)))
        await until(lambda: gateway.permits.taken == 3)
        all_begun.set()
        await using
        await until(lambda: gateway.permits.taken == 0)
        for program in programs:
            program.let_go.set()

    def give_up(client: triton.InferenceServerClient, all_begun: threading.Event) -> None:
        told: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: told.put((result, error)))
        for seed in range(3):
            client.async_stream_infer("tensors", two_inputs(1, seed))
        assert all_begun.wait(PATIENCE_S)
        client.stop_stream(cancel_requests=True)
        _, error = told.get(timeout=PATIENCE_S)
        assert isinstance(error, InferenceServerException)
        assert error.status() == "StatusCode.CANCELLED"

    served(scenario, worker)


def test_a_slow_reader_of_a_stream_loses_nothing(worker: Replica) -> None:
    """Answers of 6 MB in all, of which the client takes 64 KB at a time."""

    async def scenario(gateway: Gateway) -> None:
        async with gateway.channel(**{"http2.lookahead_bytes": 65_536}) as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(timeout=60)
            one = np.ones((1000, 3), np.float32).tobytes()
            spec = {"datatype": "FP32", "shape": [1000, 3]}
            large = a_message(
                inputs=[{"name": "left", **spec}, {"name": "right", **spec}], raw_input_contents=[one, one]
            )

            async def write() -> None:
                for _ in range(250):
                    await call.write(large)
                await call.done_writing()

            writing = asyncio.ensure_future(write())
            count = 0
            async for response in call:
                assert len(response.infer_response.raw_output_contents[0]) == 12_000
                count += 1
            await writing
            assert count == 250

    served(scenario, worker)
