"""Two processes that torchrun starts train as one does, and only the first of them writes."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.training.train_ranks import main
from pipelines.settings import TrainSettings
from pipelines.training.ranks import Ranks
from pipelines.training.train import TrainedRanker, score, train
from tests.pipelines.judged_data import splits
from tests.pipelines.trainings import TORCHRUN, begun, epochs_in, finished, saved

# without dropout: each rank draws its own. 60 lists in steps of 59: the last has 1, so one rank goes without
SETTINGS = TrainSettings(
    hidden=(8,),
    loss="lambdaloss",
    dropout=0.0,
    input_dropout=0.0,
    learning_rate=0.01,
    clip_norm=1.0,
    averaging=0.9,
    lists_per_step=59,
    max_epochs=4,
    patience_epochs=4,
    device="cpu",
)


def assert_same_ranking_scores(together: TrainedRanker, alone: TrainedRanker) -> None:
    """But for a shift of all: no loss tells where that should be, so the last bias walks with the rounding."""
    ours, theirs = (score(trained.model, splits().test) for trained in (together, alone))
    np.testing.assert_allclose(ours - ours.mean(), theirs - theirs.mean(), atol=1e-3 * theirs.std())


def test_two_processes_end_with_the_model_of_one_over_the_same_steps(tmp_path: Path) -> None:
    folder, checkpoint = saved(splits(), tmp_path), tmp_path / "checkpoint.npz"

    said = finished(begun(folder, SETTINGS, checkpoint, TORCHRUN))

    together = train(splits(), SETTINGS, checkpoint=checkpoint)  # takes it from the checkpoint
    alone = train(splits(), SETTINGS)
    assert epochs_in(checkpoint) == 4
    assert said.count('"epoch":') == 4  # only one of the two tells
    assert "rank 0 of 2 is done" in said and "rank 1 of 2 is done" in said
    assert_same_ranking_scores(together, alone)
    for one, two in zip(alone.epochs, together.epochs, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-4)
        assert two.validation_ndcg == pytest.approx(one.validation_ndcg, abs=1e-3)


def test_what_one_process_began_two_end(tmp_path: Path) -> None:
    folder, checkpoint = saved(splits(), tmp_path), tmp_path / "checkpoint.npz"

    class Stopped(Exception):
        pass

    def stop(report: object) -> None:
        if epochs_in(checkpoint) == 1:
            raise Stopped

    with pytest.raises(Stopped):
        train(splits(), SETTINGS, stop, checkpoint=checkpoint)
    said = finished(begun(folder, SETTINGS, checkpoint, TORCHRUN))

    alone, together = train(splits(), SETTINGS), train(splits(), SETTINGS, checkpoint=checkpoint)
    assert said.count('"epoch":') == 3
    assert_same_ranking_scores(together, alone)


def test_what_is_refused_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = splits()
    data.train.labels[:] = 0
    arguments = [str(saved(data, tmp_path)), str(tmp_path / "checkpoint.npz")]

    assert main(arguments) == main([*arguments, "--settings", '{"loss": "mse"}']) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: train: no list has a relevant item: nothing to learn from"
    assert second.startswith("error: train.loss='mse': expected listnet or")


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_every_list_of_a_step_is_some_ranks(of: int) -> None:
    lists = torch.arange(4).numpy()

    shares = [Ranks(rank, of).share(lists).tolist() for rank in range(of)]

    assert sorted(chain.from_iterable(shares)) == [0, 1, 2, 3]


def test_a_process_alone_gives_its_own_loss_and_leaves_gradients_as_they_are() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    (weight.sum() * 3).backward()

    assert Ranks().sum_gradients([weight], torch.tensor(0.5)) == 0.5
    assert weight.grad is not None and weight.grad.tolist() == [3.0, 3.0]
    assert Ranks().first_says(b"as it is", torch.device("cpu")) == b"as it is"
