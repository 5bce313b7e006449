"""Buckets, and which models may be padded to them."""

import logging
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from registry.contracts.manifest import ModelPackage, TensorSpec
from serving.device.graphs import BucketedForward, bucket_of, row_buckets
from serving.device.streams import CpuDevice, Lane, Work
from serving.program import TorchProgram
from tests.builders import a_manifest, a_profile
from tests.models import COLUMNS, KINDS, a_ranker, exported
from tests.serving.devices import ShuffledDevice


class OverTheBatch(nn.Module):
    """Listwise by its looks, but it subtracts the mean of the whole batch: padding moves every score."""

    def forward(self, features: torch.Tensor, query_index: torch.Tensor) -> torch.Tensor:
        raw = features.sum(dim=1) + 0.0 * query_index
        return raw - raw.mean()


def over_the_batch() -> ModelPackage:
    inputs = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    rows = torch.export.Dim("rows", min=1)
    specs = (TensorSpec("features", "FP32", (-1, 3)), TensorSpec("query_index", "INT64", (-1,)))
    program = exported(OverTheBatch(), inputs, {"features": {0: rows}, "query_index": {0: rows}})
    return ModelPackage.of(program, a_manifest(inputs=specs), a_profile())


def forward_of(package: ModelPackage, largest: int = 64, device: CpuDevice | None = None) -> BucketedForward:
    columns = len(package.manifest.feature_view().columns)
    lane = Lane.of(device or CpuDevice())
    return BucketedForward(TorchProgram(package, "cpu"), lane, "m", columns, largest)


@given(largest=st.integers(1, 5000), data=st.data())
def test_a_bucket_holds_its_batch_and_pads_it_by_half_at_most(largest: int, data: st.DataObject) -> None:
    buckets = row_buckets(largest)
    rows = data.draw(st.integers(1, largest))

    bucket = bucket_of(rows, buckets)

    assert bucket is not None and rows <= bucket <= largest
    assert rows < 64 or bucket <= 1.5 * rows + 1
    assert buckets == tuple(sorted(set(buckets))) and buckets[-1] == largest


def test_beyond_the_largest_bucket_there_is_none() -> None:
    assert bucket_of(65, row_buckets(64)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_in_a_padded_bucket_scores_as_the_plain_pass(kind: str) -> None:
    forward = forward_of(a_ranker(kind))
    forward.capture()
    assert forward.buckets == row_buckets(64)
    source = np.random.default_rng(1)

    for rows in (1, 5, 8, 33, 64, 100):
        features = torch.from_numpy(source.standard_normal((rows, COLUMNS), dtype=np.float32))
        index = torch.arange(rows) // 7
        with torch.inference_mode():
            room = forward.room(rows)
            room.matrix[:rows] = features
            room.matrix[rows:] = 0
            room.query_index[:rows], room.query_index[rows:] = index, int(index[-1]) + 1
            forward.compute(room)
            plain = TorchProgram(a_ranker(kind), "cpu").score(features.numpy(), index.numpy())
        assert (room.replay is None) == (rows > 64)
        np.testing.assert_allclose(room.scores[:rows].numpy(), plain, rtol=3e-5, atol=3e-5)


def test_a_model_that_padding_moves_has_no_graphs(caplog: pytest.LogCaptureFixture) -> None:
    forward = forward_of(over_the_batch())

    with caplog.at_level(logging.WARNING):
        forward.capture()

    assert forward.buckets == ()
    assert "standard deviations under padding" in caplog.text
    assert forward.room(20).replay is None


def test_a_model_that_cannot_be_captured_runs_without_graphs(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(CpuDevice):
        """As CUDA answers a program that asks for a value while it is captured."""

        def captured(self, work: Work) -> Work:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    forward = forward_of(a_ranker("mlp"), device=Refusing())

    with caplog.at_level(logging.WARNING):
        forward.capture()

    assert forward.buckets == ()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("serving.")]  # torch may trace
    assert told == ["m: batches of up to 64 rows run without a graph: operation not permitted when stream is capturing"]


def test_graphs_are_tried_in_the_order_of_the_compute_stream() -> None:
    forward = forward_of(a_ranker("mlp"), device=ShuffledDevice(random.Random(2).randrange))

    forward.capture()

    assert forward.buckets == row_buckets(64)
