"""Tensors in shared memory over REST, by the real tritonclient."""

import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, shared_memory

from serving.regions import Regions
from tests.serving.oip_gateway import EVERY, PLAN, Served, every_datatype, matrices, serve
from tests.serving.oip_tensors import an_output, same
from tests.serving.test_infer import two_inputs


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    regions = Regions(tmp_path_factory.mktemp("regions") / "book")
    with serve(two_inputs(), PLAN, regions) as served:
        yield served
    regions.close()


@pytest.fixture(scope="module")
def off() -> Iterator[Served]:
    with serve(every_datatype(), EVERY) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[InferenceServerClient]:
    with served.client() as client:
        yield client


@pytest.fixture
def shm() -> Iterator[Any]:
    key = f"/sluice-test-{uuid.uuid4().hex}"
    handle = shared_memory.create_shared_memory_region("region", key, 4096)
    try:
        yield handle, key
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_tensors_lie_in_shared_memory_both_ways(client: InferenceServerClient, shm: Any) -> None:
    handle, key = shm
    left, right = matrices()
    shared_memory.set_shared_memory_region(handle, [left, right], offset=64)
    client.register_system_shared_memory("region", key, 1024, offset=64)
    assert client.get_system_shared_memory_status("region") == [
        {"name": "region", "key": key, "offset": 64, "byte_size": 1024}
    ]
    inputs = [InferInput(name, [2, 3], "FP32") for name in ("left", "right")]
    inputs[0].set_shared_memory("region", left.nbytes)
    inputs[1].set_shared_memory("region", right.nbytes, offset=left.nbytes)
    wanted = [an_output("sum"), an_output("larger")]
    wanted[0].set_shared_memory("region", left.nbytes, offset=256)

    result = client.infer("tensors", inputs, outputs=wanted)

    assert same(shared_memory.get_contents_as_numpy(handle, np.float32, (2, 3), offset=64 + 256), left + right)
    assert result.get_output("sum")["parameters"] == {"shared_memory_region": "region", "shared_memory_byte_size": 24}
    assert same(result.as_numpy("larger"), (left > right).astype(np.int32))

    wanted[0].set_shared_memory("region", 8, offset=256)
    with pytest.raises(InferenceServerException, match="output 'sum': shared_memory_byte_size=8, expected at least 24"):
        client.infer("tensors", inputs, outputs=wanted)
    inputs[0].set_shared_memory("region", left.nbytes, offset=1020)
    with pytest.raises(InferenceServerException, match=r"input 'left'.*region 'region' has 1024 bytes"):
        client.infer("tensors", inputs)
    client.unregister_system_shared_memory("region")
    assert client.get_system_shared_memory_status() == []
    with pytest.raises(InferenceServerException, match="input 'left': shared_memory_region='region' is not registered"):
        client.infer("tensors", inputs)


def test_shared_memory_that_is_off_says_how_to_turn_it_on(off: Served, shm: Any) -> None:
    with off.client() as client:
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status() == []
        with pytest.raises(InferenceServerException, match=r"\[501\].*SLUICE_SHARED_MEMORY_REGIONS=1"):
            client.register_system_shared_memory("region", shm[1], 64)
        given = InferInput("in_fp32", [1], "FP32")
        given.set_shared_memory("region", 4)
        with pytest.raises(InferenceServerException, match=r"\[400\] input 'in_fp32'.*SLUICE_SHARED_MEMORY_REGIONS=1"):
            client.infer("every", [given])


def test_cuda_shared_memory_is_not_served_and_there_is_none_to_forget(client: InferenceServerClient) -> None:
    client.unregister_cuda_shared_memory()
    assert client.get_cuda_shared_memory_status() == []
    with pytest.raises(InferenceServerException, match=r"\[501\] CUDA shared memory is not served"):
        client.register_cuda_shared_memory("region", b"handle", 0, 64)
