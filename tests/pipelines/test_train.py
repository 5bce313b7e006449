from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.dataset import DatasetSplits
from pipelines.errors import TrainingDiverged, TrainingRefused
from pipelines.fit import EpochReport
from pipelines.letor import load
from pipelines.ndcg import mean_ndcg
from pipelines.ranker import MlpRanker
from pipelines.settings import TrainSettings
from pipelines.train import score, train
from registry.contracts.manifest import JUDGED_NDCG
from tests.pipelines.judged_data import splits

LIGHTGBM = Path(__file__).parents[3] / "shared" / "data" / "lightgbm-lambdarank"
QUICK = TrainSettings(hidden=(8,), learning_rate=0.02, lists_per_step=8, max_epochs=8, device="cpu")


def test_a_ranker_learns_which_column_tells() -> None:
    data = splits()
    trained = train(data, QUICK)
    scores = score(trained.model, data.test)

    def ndcg(of: np.ndarray) -> float:
        return mean_ndcg(data.test.labels, of, data.test.offsets, JUDGED_NDCG).mean

    assert ndcg(scores) > ndcg(data.test.features[:, 1]) + 0.15
    assert ndcg(scores) == pytest.approx(ndcg(data.test.features[:, 0]), abs=0.02)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, second, other = (score(train(splits(), s).model, splits().test) for s in (QUICK, QUICK, _seeded(1)))

    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_training_leaves_torchs_global_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    train(splits(), QUICK)

    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_best_epochs_weights_are_kept_and_every_epoch_is_told() -> None:
    told: list[EpochReport] = []
    data = splits()
    trained = train(data, QUICK, told.append)

    kept = mean_ndcg(
        data.validation.labels, score(trained.model, data.validation), data.validation.offsets, JUDGED_NDCG
    )

    assert tuple(told) == trained.epochs
    assert kept.mean == trained.best.validation_ndcg == max(report.validation_ndcg for report in told)


def test_training_stops_when_patience_is_over() -> None:
    settings = TrainSettings(hidden=(), learning_rate=1e-9, max_epochs=30, patience_epochs=2, device="cpu")

    assert [report.best for report in train(splits(), settings).epochs] == [True, False, False]


def test_a_child_goes_on_from_its_parents_weights() -> None:
    data = splits()
    parent = train(data, QUICK).model.state_dict()
    still = TrainSettings(hidden=(8,), learning_rate=1e-9, max_epochs=1, device="cpu")

    child = train(data, still, parent=parent)

    for name, value in child.model.state_dict().items():
        torch.testing.assert_close(value, parent[name], rtol=0, atol=1e-6)


def test_a_parent_of_another_shape_is_refused() -> None:
    parent = MlpRanker(torch.zeros(3), hidden=(5,)).state_dict()

    with pytest.raises(TrainingRefused, match="start without a parent"):
        train(splits(), QUICK, parent=parent)


def test_lists_without_anything_relevant_teach_nothing() -> None:
    data = splits()
    data.train.labels[:] = 0

    with pytest.raises(TrainingRefused, match="no list has a relevant item"):
        train(data, QUICK)


def test_validation_without_anything_relevant_is_refused() -> None:
    data = splits()
    data.validation.labels[:] = 0

    with pytest.raises(TrainingRefused, match="no epoch can be chosen"):
        train(data, QUICK)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    parent = MlpRanker(torch.zeros(3), hidden=(8,)).state_dict()
    parent["layers.1.weight"][0, 0] = float("nan")

    with pytest.raises(TrainingDiverged, match="learning_rate"):
        train(splits(), QUICK, parent=parent)


def test_a_score_does_not_depend_on_the_other_rows() -> None:
    data = splits().test
    model = train(splits(), QUICK).model
    with torch.no_grad():
        alone = torch.cat([model(row[None]) for row in torch.from_numpy(data.features)])

    np.testing.assert_allclose(score(model, data), alone.numpy(), rtol=1e-5, atol=1e-6)


def test_a_missing_value_counts_as_its_default_and_a_constant_column_as_nothing() -> None:
    model = MlpRanker(torch.tensor([2.0, 5.0]), hidden=(4,))
    model.fit_preprocessing(torch.tensor([[1.0, 5.0], [3.0, float("nan")]]))
    nan = float("nan")

    assert (model.mean.tolist(), model.std.tolist()) == ([2.0, 5.0], [1.0, 1.0])
    assert torch.equal(model(torch.tensor([[nan, nan]])), model(torch.tensor([[2.0, 5.0]])))


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"hidden": (0,)}, r"train.hidden=\(0,\)"),
        ({"dropout": 1.0}, r"train.dropout=1.0: expected 0 <= share < 1"),
        ({"learning_rate": 0.0}, r"train.learning_rate=0"),
        ({"device": "tpu"}, r"train.device='tpu'"),
    ],
)
def test_settings_outside_their_rule_are_refused(setting: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        TrainSettings(**setting)  # type: ignore[arg-type]


@pytest.mark.skipif(not LIGHTGBM.is_dir(), reason="shared data folder is not beside the repository")
def test_on_real_judgements_the_default_settings_reach_the_reference() -> None:
    data: DatasetSplits = load(LIGHTGBM)
    reached = [
        mean_ndcg(data.test.labels, score(train(data, _default(seed)).model, data.test), data.test.offsets, JUDGED_NDCG)
        for seed in range(3)
    ]

    assert np.mean([report.mean for report in reached]) > 0.727 - 0.03


def _seeded(seed: int) -> TrainSettings:
    return TrainSettings(hidden=(8,), learning_rate=0.02, lists_per_step=8, max_epochs=8, device="cpu", seed=seed)


def _default(seed: int) -> TrainSettings:
    return TrainSettings(device="cpu", seed=seed)
