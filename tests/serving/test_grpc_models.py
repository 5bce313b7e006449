"""What is served and what it is, as an unmodified tritonclient asks for it; the same as over REST."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving.gateway.protos.health_pb2 import HealthCheckRequest, HealthCheckResponse
from serving.regions import Regions
from tests.serving.grpc_gateway import SPECS, Gateway, a_worker, served
from tests.serving.workbench import PATIENCE_S, Replica

TIMEOUT_S = 20.0
HEALTH = "/grpc.health.v1.Health"


@pytest.fixture(scope="module")
def worker() -> Iterator[Replica]:
    with a_worker() as worker:
        yield worker


def test_server_and_models_say_whether_they_are_ready(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        assert await gateway.client(
            lambda client: (
                client.is_server_live(),
                client.is_server_ready(),
                client.is_model_ready("tensors"),
                client.is_model_ready("tensors", "1"),
                client.is_model_ready("tensors", "9"),
                client.is_model_ready("nobody"),
            )
        ) == (True, True, True, True, False, False)

    served(scenario, worker)


def test_metadata_configuration_and_statistics_are_those_of_rest(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        for path, ask in {
            "/v2/models/tensors": lambda client: client.get_model_metadata("tensors", as_json=True),
            "/v2/models/every/versions/1": lambda client: client.get_model_metadata("every", "1", as_json=True),
        }.items():
            over_rest = (await gateway.http.get(path)).json()
            for tensor in over_rest["inputs"] + over_rest["outputs"]:
                tensor["shape"] = [str(size) for size in tensor["shape"]]  # as protobuf's JSON has int64
            assert await gateway.client(ask) == over_rest
        config = (await gateway.client(lambda client: client.get_model_config("tensors", as_json=True)))["config"]
        over_rest = (await gateway.http.get("/v2/models/tensors/config")).json()
        assert config["max_batch_size"] == over_rest["max_batch_size"] == 1000
        assert config["input"] == [
            {"name": spec.name, "data_type": "TYPE_FP32", "dims": ["3"]} for spec in SPECS["tensors"][0]
        ]

    served(scenario, worker)


def test_the_server_names_its_extensions(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        found = await gateway.client(lambda client: client.get_server_metadata())
        assert (found.name, found.version) == ("sluice", "0.0")
        assert {"classification", "model_repository", "statistics"} <= {*found.extensions}

    served(scenario, worker)


def test_statistics_count_what_was_asked(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        async def counted() -> Any:
            found = await gateway.client(lambda client: client.get_inference_statistics("tensors"))
            [one] = found.model_stats
            return one

        before = (await counted()).inference_count
        rows = np.ones((7, 3), np.float32)
        inputs = [triton.InferInput(name, [7, 3], "FP32").set_data_from_numpy(rows) for name in ("left", "right")]
        await gateway.client(lambda client: client.infer("tensors", inputs))
        async with asyncio.timeout(PATIENCE_S):
            while (now := await counted()).inference_count == before:
                await asyncio.sleep(0.01)
        assert now.inference_count == before + 7
        assert now.inference_stats.success.count == now.inference_stats.compute_infer.count >= 1
        assert now.inference_stats.success.ns > 0
        assert [batch.batch_size for batch in now.batch_stats] == [1]
        everything = await gateway.client(lambda client: client.get_inference_statistics())
        assert {one.name for one in everything.model_stats} == {"codesearch", "every", "tensors"}

    served(scenario, worker)


def test_the_index_lists_every_version(worker: Replica) -> None:
    async def scenario(gateway: Gateway) -> None:
        found = await gateway.client(lambda client: client.get_model_repository_index())
        assert sorted((one.name, one.version, one.state) for one in found.models) == [
            ("codesearch", "1", "READY"),
            ("codesearch", "2", "READY"),
            ("every", "1", "READY"),
            ("tensors", "1", "READY"),
        ]

    served(scenario, worker)


REFUSED = {
    "metadata of an unknown model": (
        lambda client: client.get_model_metadata("nobody"),
        "StatusCode.NOT_FOUND",
        "model='nobody': no such model is served",
    ),
    "configuration of a version that is none": (
        lambda client: client.get_model_config("tensors", "latest"),
        "StatusCode.INVALID_ARGUMENT",
        "version='latest': expected a number",
    ),
    "loading where that is off": (
        lambda client: client.load_model("tensors"),
        "StatusCode.INVALID_ARGUMENT",
        "loading and unloading by API is off",
    ),
    "loading with a configuration": (
        lambda client: client.load_model("tensors", config="{}"),
        "StatusCode.UNIMPLEMENTED",
        "a model's configuration and files come from the registry",
    ),
    "unloading where that is off": (
        lambda client: client.unload_model("tensors"),
        "StatusCode.INVALID_ARGUMENT",
        "loading and unloading by API is off",
    ),
    "CUDA shared memory": (
        lambda client: client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 64),
        "StatusCode.UNIMPLEMENTED",
        "CUDA shared memory is not served",
    ),
    "a CUDA region": (
        lambda client: client.get_cuda_shared_memory_status("r"),
        "StatusCode.NOT_FOUND",
        "region 'r': CUDA shared memory is not served",
    ),
    "shared memory that is off": (
        lambda client: client.register_system_shared_memory("r", "/key", 64),
        "StatusCode.UNIMPLEMENTED",
        "shared memory regions are off",
    ),
    "trace settings": (
        lambda client: client.get_trace_settings(),
        "StatusCode.UNIMPLEMENTED",
        "trace settings are not served",
    ),
    "log settings": (
        lambda client: client.get_log_settings(),
        "StatusCode.UNIMPLEMENTED",
        "log settings are not served",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_served_is_told_by_code_and_what_to_do(worker: Replica, case: str) -> None:
    ask, status, message = REFUSED[case]

    async def scenario(gateway: Gateway) -> None:
        with pytest.raises(InferenceServerException) as caught:
            await gateway.client(ask)
        assert caught.value.status() == status
        assert caught.value.message().startswith(message)

    served(scenario, worker)


def test_who_tidies_up_before_it_begins_may(worker: Replica) -> None:
    """As every example of shared memory does."""

    def tidy_up(client: triton.InferenceServerClient) -> None:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        assert not client.get_system_shared_memory_status().regions
        assert not client.get_cuda_shared_memory_status().regions

    served(lambda gateway: gateway.client(tidy_up), worker)


def test_tensors_go_through_shared_memory_both_ways(worker: Replica, tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    key = f"/sluice-test-{tmp_path.name}"
    handle = shared_memory.create_shared_memory_region("region", key, 3 * rows.nbytes)

    def use(client: triton.InferenceServerClient) -> None:
        shared_memory.set_shared_memory_region(handle, [rows, rows])
        client.register_system_shared_memory("region", key, 3 * rows.nbytes)
        [status] = client.get_system_shared_memory_status().regions.values()
        assert (status.name, status.key, status.byte_size) == ("region", key, 3 * rows.nbytes)
        inputs = [triton.InferInput(name, [2, 3], "FP32") for name in ("left", "right")]
        for place, one in enumerate(inputs):
            one.set_shared_memory("region", rows.nbytes, offset=place * rows.nbytes)
        wanted = [triton.InferRequestedOutput("larger"), triton.InferRequestedOutput("sum")]
        wanted[1].set_shared_memory("region", rows.nbytes, offset=2 * rows.nbytes)
        result = client.infer("tensors", inputs, outputs=wanted)
        assert result.as_numpy("larger").tolist() == [[0] * 3] * 2
        written = shared_memory.get_contents_as_numpy(handle, np.float32, [2, 3], offset=2 * rows.nbytes)
        np.testing.assert_array_equal(written, rows + rows)
        assert result.get_output("sum").parameters["shared_memory_byte_size"].int64_param == rows.nbytes
        client.unregister_system_shared_memory("region")
        assert not client.get_system_shared_memory_status().regions
        with pytest.raises(InferenceServerException, match="shared_memory_region='region' is not registered"):
            client.infer("tensors", inputs)

    regions = Regions(tmp_path / "regions")
    try:
        served(lambda gateway: gateway.client(use), worker, regions=regions)
    finally:
        regions.close()
        shared_memory.destroy_shared_memory_region(handle)


@pytest.mark.parametrize(
    ("service", "answer"),
    [
        ("", HealthCheckResponse.SERVING),
        ("inference.GRPCInferenceService", HealthCheckResponse.SERVING),
        ("sluice.ranking.v1.Ranking", HealthCheckResponse.SERVING),
        ("nobody", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_health_is_told_to_those_who_probe(worker: Replica, service: str, answer: Any) -> None:
    async def scenario(gateway: Gateway) -> Any:
        async with gateway.channel() as channel:
            check = channel.unary_unary(
                f"{HEALTH}/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
            )
            try:
                return (await check(HealthCheckRequest(service=service), timeout=TIMEOUT_S)).status
            except grpc.aio.AioRpcError as error:
                return error.code()

    assert served(scenario, worker) == answer


def test_who_watches_is_told_when_the_last_replica_is_gone() -> None:
    async def scenario(gateway: Gateway) -> list[int]:
        async with gateway.channel() as channel:
            watch = channel.unary_stream(
                f"{HEALTH}/Watch", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
            )(HealthCheckRequest(), timeout=PATIENCE_S)
            told = [(await watch.read()).status]
            await asyncio.to_thread(worker.stop)
            told.append((await watch.read()).status)
            watch.cancel()
            worker.start()
            return told

    with a_worker() as worker:
        assert served(scenario, worker) == [HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING]


def test_calls_are_counted_by_method_and_code(worker: Replica) -> None:
    from prometheus_client import REGISTRY

    from serving import tally

    def count(method: str, code: str) -> float:
        tally.flush()
        return REGISTRY.get_sample_value("serving_grpc_calls_total", {"method": method, "code": code}) or 0.0

    live, unknown = "/inference.GRPCInferenceService/ServerLive", ""

    async def scenario(gateway: Gateway) -> None:
        async with gateway.channel() as channel:
            await service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerLive(service_pb2.ServerLiveRequest())
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/made.Up/Method")(b"")

    before = count(live, "OK"), count(unknown, "UNIMPLEMENTED")
    served(scenario, worker)
    assert (count(live, "OK"), count(unknown, "UNIMPLEMENTED")) == (before[0] + 1, before[1] + 1)
