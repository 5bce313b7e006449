"""A version on a real Triton server, served by the real platform."""

import time
from pathlib import Path

import numpy as np
import pytest

from deploy import wiring
from deploy.client import GatewayClient
from deploy.errors import SluiceError
from deploy.models.remote_package import remote_package
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.manifest import ModelPackage, RemoteModel
from registry.contracts.traffic import TrafficPlan
from serving.features.materialiser import write_rows
from tests.builders import a_view
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform, until
from tests.triton import RemoteSource, a_triton

CONFIG = """
max_batch_size: 512
input [ { name: "features" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
CODE = """
import time
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = pb.get_input_tensor_by_name(request, "features").as_numpy()
            if (rows == 300).any():
                time.sleep(3)
            answers.append(pb.InferenceResponse([pb.Tensor("scores", rows.sum(axis=1, keepdims=True))]))
        return answers
"""


@pytest.mark.slow
def test_a_remote_version_ranks_goes_and_comes_back_with_its_server(tmp_path: Path) -> None:
    with a_triton({"ranker": RemoteSource(CONFIG, CODE)}) as triton:
        servers = {"gpu-a": triton.address}
        told = {"triton_servers": f"gpu-a={triton.address}", "flow": "cached_order=0"}  # else the last order answers
        platform = Platform.start(tmp_path / "home", **told)
        try:
            package = remote_package(MODEL, RemoteModel("gpu-a", "ranker"), servers, a_view(), time.time_ns() // 10**6)
            _serve(platform, package)
            with GatewayClient(platform.settings.gateway_url) as gateway:
                assert _ranked(gateway) == ["item-4", "item-3", "item-2"]
                triton.kill()
                with pytest.raises(SluiceError, match=r"503.*is it running"):
                    _ranked(gateway)
                triton.start()
                until(lambda: _answers(gateway), "the server to be asked again")
                assert _ranked(gateway) == ["item-4", "item-3", "item-2"]
        finally:
            platform.stop()


def _serve(platform: Platform, package: ModelPackage) -> None:
    client = wiring.redis_client(platform.settings)
    values = np.arange(len(ITEMS), dtype=np.float32).reshape(-1, 1)
    write_rows(client, a_view(), ITEMS, values, updated_ms=1, on_rows=lambda _: None)
    write(package, platform.settings.versions_folder / MODEL / "1")
    RedisBoard(client).publish(TrafficPlan(MODEL, 1, champion=1, champion_digest=package.digest))
    platform.wait_until_warm()


def _ranked(gateway: GatewayClient) -> list[str]:
    body = {"candidates": ["item-2", "item-4", "item-3"], "deadline_ms": 2000}
    return [item["id"] for item in gateway.post(f"/v1/models/{MODEL}/rank", body)["items"]]


def _answers(gateway: GatewayClient) -> bool:
    try:
        return bool(_ranked(gateway))
    except SluiceError:
        return False
