"""A training that is killed ends with the model it would have ended with."""

import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.dataset import DatasetSplits
from pipelines.settings import TrainSettings
from pipelines.training.checkpoint import Checkpoint
from pipelines.training.fit import EpochReport
from pipelines.training.train import TrainedRanker, train
from registry.contracts.manifest import CLICK_NDCG
from tests.pipelines.judged_data import judged, splits
from tests.pipelines.trainings import begun, epochs_in, finished, killed_after, saved

MLP = TrainSettings(hidden=(8,), learning_rate=0.01, max_epochs=6, patience_epochs=6, quantiles=5, device="cpu")
ATTENTION = TrainSettings(
    ranker="attention",
    hidden=(8,),
    loss="lambdaloss",
    learning_rate=0.01,
    averaging=0.9,
    schedule="cosine",
    max_epochs=6,
    patience_epochs=6,
    device="cpu",
)


class Killed(Exception):
    """Where a kill could be."""


def bits(trained: TrainedRanker) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in trained.model.state_dict().items()}


def curve(trained: TrainedRanker) -> list[tuple[float, float, bool]]:
    return [(report.loss, report.validation_ndcg, report.best) for report in trained.epochs]


def killed_in(epoch: int, settings: TrainSettings, checkpoint: Path) -> None:
    """A training that ends while it tells of this epoch, before that is in the checkpoint."""

    def die(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Killed

    with pytest.raises(Killed):
        train(splits(), settings, die, checkpoint=checkpoint)


@pytest.mark.parametrize("settings", [MLP, ATTENTION], ids=["mlp", "attention"])
@pytest.mark.parametrize("epoch", [1, 2, 5, 6])
def test_a_training_put_down_in_any_epoch_ends_with_the_same_bits(
    settings: TrainSettings, epoch: int, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.npz"
    killed_in(epoch, settings, checkpoint)
    assert epochs_in(checkpoint) == epoch - 1
    told: list[int] = []

    resumed = train(splits(), settings, lambda report: told.append(report.epoch), checkpoint=checkpoint)

    whole = train(splits(), settings)
    assert bits(resumed) == bits(whole)
    assert curve(resumed) == curve(whole)
    assert told == list(range(epoch, 7))


def test_kill_9_again_and_again_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    folder, checkpoint = saved(splits(), tmp_path / "data"), tmp_path / "runs" / "checkpoint.npz"
    settings = replace(ATTENTION, max_epochs=30, patience_epochs=30, lists_per_step=6)

    first = killed_after(begun(folder, settings, checkpoint), checkpoint, 2)
    second = killed_after(begun(folder, settings, checkpoint), checkpoint, first + 3)
    said = finished(begun(folder, settings, checkpoint))

    assert 2 <= first < second < 30
    assert f"goes on after epoch {second}" in said
    # the file is the result: what is called with the same arguments takes it from there
    told: list[EpochReport] = []
    resumed = train(DatasetSplits.load(folder), settings, told.append, checkpoint=checkpoint)
    assert told == []
    whole = train(DatasetSplits.load(folder), settings)
    assert bits(resumed) == bits(whole)
    assert curve(resumed) == curve(whole)


@pytest.mark.parametrize(
    "what", ["seed", "train", "validation", "metric", "parent", "replay"], ids=lambda what: f"other {what}"
)
def test_a_checkpoint_of_other_inputs_is_left_aside_and_said(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, data = tmp_path / "checkpoint.npz", splits()
    earlier = train(data, MLP, checkpoint=checkpoint)
    told: list[EpochReport] = []

    with caplog.at_level(logging.WARNING):
        train(
            replace(data, **{what: judged(what, 30, 9)}) if what in ("train", "validation") else data,
            replace(MLP, seed=1) if what == "seed" else MLP,
            told.append,
            parent=earlier.model.state_dict() if what == "parent" else None,
            checkpoint=checkpoint,
            replay=judged("replay", 30, 9) if what == "replay" else None,
            **({"metric": CLICK_NDCG} if what == "metric" else {}),  # type: ignore[arg-type]
        )

    assert told[0].epoch == 1
    assert "is of other data or settings: training starts afresh" in caplog.text


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x04."], ids=["empty", "cut off", "a pickle"])
def test_a_damaged_checkpoint_is_left_aside_and_said(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "checkpoint.npz"
    checkpoint.write_bytes(content)

    trained = train(splits(), MLP, checkpoint=checkpoint)

    assert "no readable checkpoint" in caplog.text
    assert epochs_in(checkpoint) == len(trained.epochs)


def test_a_checkpoint_cut_off_anywhere_is_refused() -> None:
    content = Checkpoint("inputs", {"steps": 3}, {"a/b": torch.arange(50.0)}).encode()

    for length in range(0, len(content) - 1, 37):
        with pytest.raises(ValueError, match="no checkpoint"):
            Checkpoint.decode(content[:length])


def test_objects_in_a_checkpoint_are_never_unpickled() -> None:
    content = io.BytesIO()
    np.savez(content, header=np.array([{"inputs": "x"}], dtype=object))

    with pytest.raises(ValueError, match="allow_pickle"):
        Checkpoint.decode(content.getvalue())


def test_a_checkpoint_reads_back_as_it_was_written() -> None:
    tensors = {"model/layers.1.weight": torch.randn(3, 2), "optimiser/0/step": torch.tensor(7.0)}
    told = {"steps": 7, "epochs": [{"loss": 0.1 + 0.2, "validation_ndcg": float("nan")}]}

    read = Checkpoint.decode(Checkpoint("inputs", told, tensors).encode())

    assert read.inputs == "inputs"
    assert str(read.told) == str(told)
    assert {name: value.tolist() for name, value in read.tensors.items()} == {
        name: value.tolist() for name, value in tensors.items()
    }
