"""Training on a GPU: in both precisions, by torchrun over NCCL, resumed, and served by captured graphs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.ndcg import mean_ndcg
from pipelines.settings import TrainSettings
from pipelines.training.export import export_package
from pipelines.training.fit import EpochReport
from pipelines.training.train import TrainedRanker, score, train
from registry.contracts.manifest import JUDGED_NDCG, Lineage
from serving.device.graphs import BucketedForward, row_buckets
from serving.device.opening import open_program
from serving.device.streams import CudaDevice, Lane
from tests.pipelines.judged_data import splits
from tests.pipelines.trainings import begun, epochs_in, finished, saved

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SETTINGS = TrainSettings(
    hidden=(16,), loss="lambdaloss", learning_rate=0.02, lists_per_step=8, quantiles=9, max_epochs=6, device="cuda"
)
KINDS = pytest.mark.parametrize("ranker", ["mlp", "attention"])


def ndcg(trained: TrainedRanker) -> float:
    test = splits().test
    return mean_ndcg(test.labels, score(trained.model, test), test.offsets, JUDGED_NDCG).mean


@KINDS
@pytest.mark.parametrize("precision", ["full", "mixed"])
def test_a_gpu_learns_what_the_cpu_learns(ranker: str, precision: str) -> None:
    on_gpu = train(splits(), replace(SETTINGS, ranker=ranker, precision=precision))
    on_cpu = train(splits(), replace(SETTINGS, ranker=ranker, device="cpu"))

    assert on_gpu.model.mean.device.type == "cpu"  # ready to be exported
    assert ndcg(on_gpu) == pytest.approx(ndcg(on_cpu), abs=0.03)


@KINDS
def test_a_training_goes_on_after_a_kill(ranker: str, tmp_path: Path) -> None:
    settings, checkpoint = replace(SETTINGS, ranker=ranker, patience_epochs=6), tmp_path / "checkpoint.npz"

    class Killed(Exception):
        pass

    def die(report: EpochReport) -> None:
        if report.epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        train(splits(), settings, die, checkpoint=checkpoint)
    assert epochs_in(checkpoint) == 3

    resumed, whole = train(splits(), settings, checkpoint=checkpoint), train(splits(), settings)
    for one, other in zip(resumed.epochs, whole.epochs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)


def test_every_gpu_takes_part_over_nccl(tmp_path: Path) -> None:
    settings = replace(SETTINGS, dropout=0.0, input_dropout=0.0, max_epochs=3)
    folder, checkpoint = saved(splits(), tmp_path), tmp_path / "checkpoint.npz"
    count = torch.cuda.device_count()
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")

    said = finished(begun(folder, settings, checkpoint, torchrun))

    together, alone = train(splits(), settings, checkpoint=checkpoint), train(splits(), settings)
    assert f"rank {count - 1} of {count} is done" in said
    ours, theirs = (score(trained.model, splits().test) for trained in (together, alone))
    np.testing.assert_allclose(ours - ours.mean(), theirs - theirs.mean(), atol=0.01 * theirs.std())


@KINDS
def test_a_trained_version_is_served_by_captured_graphs(ranker: str) -> None:
    settings = replace(SETTINGS, ranker=ranker, max_epochs=2)
    package = export_package(train(splits(), settings), splits(), "made-up", Lineage("d", "0"), created_ms=0)
    device = CudaDevice(torch.device("cuda:0"))
    forward = BucketedForward(open_program(package, "cuda:0"), Lane.of(device), "made-up", 3, 512)

    device.settle()
    forward.capture()

    assert forward.buckets == row_buckets(512)
