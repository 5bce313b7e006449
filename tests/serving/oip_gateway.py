"""A gateway and a worker with real exported programs, and requests for them in tritonclient's words."""

import asyncio
import http.client
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput

from registry.artefacts import strip_sample_inputs
from registry.contracts.manifest import ModelPackage, TensorSpec
from registry.contracts.profile import no_profile
from registry.contracts.traffic import TrafficPlan
from serving.batching import BatchWindow
from serving.identity.doorkeeper import Doorkeeper
from serving.loaded import LoadedProgram
from serving.program import TorchProgram
from serving.regions import Regions
from serving.tensors import DATATYPES
from tests.builders import a_manifest, a_plan
from tests.serving.http_gateway import RunningGateway, a_running_gateway
from tests.serving.oip_tensors import NUMPY, as_input, same
from tests.serving.workbench import PATIENCE_S, Replica

PLAN = a_plan("tensors")
EVERY = a_plan("every")
ROWS = 4


class EveryDatatype(torch.nn.Module):
    """Gives back every input, floats doubled."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(one * 2 if one.is_floating_point() else one.clone() for one in inputs)


def every_datatype() -> LoadedProgram:
    """A version with an input and an output of each datatype; BYTES are two tensors to torch."""
    inputs = tuple(TensorSpec(f"in_{name.lower()}", name, (-1,)) for name in DATATYPES)
    outputs = tuple(TensorSpec(f"out_{name.lower()}", name, (-1,)) for name in DATATYPES)
    dtypes = [torch.from_numpy(np.zeros(1, NUMPY[name])).dtype for name in DATATYPES if name not in ("BF16", "BYTES")]
    examples = [torch.zeros(ROWS, dtype=dtype) for dtype in (*dtypes, torch.bfloat16)]
    examples += [torch.zeros((ROWS, 6), dtype=torch.uint8), torch.zeros(ROWS, dtype=torch.int64)]
    rows, width = torch.export.Dim("rows", min=1), torch.export.Dim("width", min=1)
    shapes: list[dict[int, Any]] = [{0: rows, 1: width} if one.dim() == 2 else {0: rows} for one in examples]
    exported = torch.export.export(EveryDatatype(), tuple(examples), dynamic_shapes=(tuple(shapes),))
    archive = io.BytesIO()
    torch.export.save(exported, archive)
    manifest = a_manifest(model="every", inputs=inputs, outputs=outputs, view={}, fingerprint="")
    package = ModelPackage.of(strip_sample_inputs(archive.getvalue()), manifest, no_profile())
    program = TorchProgram(package, "cpu")
    return LoadedProgram(
        model="every", version=1, digest=EVERY.champion_digest, program=program, inputs=inputs, outputs=outputs
    )


@dataclass
class Served:
    """A running gateway."""

    gateway: RunningGateway

    def client(self) -> InferenceServerClient:
        """The unmodified one."""
        return InferenceServerClient(self.gateway.address)


@contextmanager
def serve(
    version: LoadedProgram,
    plan: TrafficPlan,
    regions: Regions | None = None,
    doorkeeper: Callable[[], Doorkeeper] | None = None,
) -> Iterator[Served]:
    """A gateway and a worker that holds the version. regions: None for shared memory off. doorkeeper: makes one."""
    running: list[RunningGateway] = []

    async def control(model: str, wanted: bool) -> None:
        held_back = frozenset[str]() if wanted else frozenset({model})
        running[0].ranker.held_back = held_back
        replica.shelf.hold_back(held_back)
        await asyncio.to_thread(replica.shelf.settle)

    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        replica = Replica(str(Path(folder) / "worker.sock"), lambda *_: version, plan, BatchWindow(4096), lambda: 0.0)
        try:
            with a_running_gateway(replica.address, plan, regions, control, doorkeeper=doorkeeper) as gateway:
                running.append(gateway)
                yield Served(gateway)
        finally:
            replica.stop()


def matrices(rows: int = 2, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The values of `left` and `right`."""
    random = np.random.default_rng(seed)
    left, right = (random.normal(size=(rows, 3)).astype(np.float32) for _ in range(2))
    return left, right


def inputs_of(rows: int = 2, seed: int = 0, binary: bool = True) -> list[InferInput]:
    """Both inputs of `two_inputs`, out of order."""
    left, right = matrices(rows, seed)
    return [as_input("right", "FP32", right, binary), as_input("left", "FP32", left, binary)]


def check(result: Any, rows: int = 2, seed: int = 0) -> None:
    """Sum and comparison, as numpy has them."""
    left, right = matrices(rows, seed)
    assert same(result.as_numpy("sum"), left + right)
    assert same(result.as_numpy("larger"), (left > right).astype(np.int32))


def post(served: Served, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any, bytes]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection(served.gateway.address, timeout=PATIENCE_S)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found
