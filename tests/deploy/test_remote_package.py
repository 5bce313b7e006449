"""Versions made from what a real tritonserver says of its models."""

from collections.abc import Iterator

import pytest

from deploy.models.remote_package import remote_package
from drift.settings import Rule
from drift.windows.judge import judge
from drift.windows.reference import Reference
from drift.windows.window import Window, WindowKey
from registry.artefacts import verify
from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import RemoteModel, TensorSpec
from registry.store import MemoryStore
from serving.errors import RemoteUnfit
from tests.builders import NOW_MS, a_ranking, a_view
from tests.triton import RemoteSource, TritonServer, a_triton

CONFIG = """
max_batch_size: %d
input [ { name: "features" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
CODE = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        rows = [pb.get_input_tensor_by_name(request, "features").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("scores", of_one.sum(axis=-1, keepdims=True))]) for of_one in rows]
"""


@pytest.fixture(scope="module")
def triton() -> Iterator[TritonServer]:
    models = {"ranker": RemoteSource(CONFIG % 8, CODE), "single": RemoteSource(CONFIG % 0, CODE)}
    with a_triton(models) as server:
        yield server


def test_a_ranker_is_registered_as_its_server_describes_it(triton: TritonServer) -> None:
    remote = RemoteModel("gpu-a", "ranker", "1")
    package = remote_package("articles", remote, {"gpu-a": triton.address}, a_view(), NOW_MS)

    store = MemoryStore()
    manifest = store.get("articles", store.register("articles", package)).manifest
    assert manifest == verify(package, package.digest)
    assert manifest.inputs == (TensorSpec("features", "FP32", (-1, 3)),)
    assert manifest.outputs == (TensorSpec("scores", "FP32", (-1, 1)),)
    assert (manifest.remote, manifest.batchable, manifest.ranks) == (remote, True, True)


def test_a_model_without_a_view_takes_tensors_as_they_are_there(triton: TritonServer) -> None:
    package = remote_package("single", RemoteModel("gpu-a", "single"), {"gpu-a": triton.address}, None, NOW_MS)

    manifest = verify(package, package.digest)
    assert manifest.inputs == (TensorSpec("features", "FP32", (3,)),)
    assert (manifest.batchable, manifest.ranks) == (False, False)


def test_what_has_no_reference_to_drift_from_does_not_pass(triton: TritonServer) -> None:
    package = remote_package("codesearch", RemoteModel("gpu-a", "ranker"), {"gpu-a": triton.address}, a_view(), NOW_MS)
    window = Window(WindowKey(NOW_MS, NOW_MS + 1000, "codesearch", 1, "champion"), Reference.of(package.profile))

    window.absorb([a_ranking(f"r{i}") for i in range(500)])

    assert judge(window, Rule()).verdict == "errored"


def test_a_view_that_the_model_does_not_have_is_refused(triton: TritonServer) -> None:
    wider = FeatureView("wider", "article", tuple(Column(name) for name in "abcd"))

    with pytest.raises(RemoteUnfit, match="a ranker takes one float matrix of 4 columns"):
        remote_package("articles", RemoteModel("gpu-a", "ranker"), {"gpu-a": triton.address}, wider, NOW_MS)
