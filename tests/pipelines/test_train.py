from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import TrainingDiverged, TrainingRefused
from pipelines.ndcg import mean_ndcg
from pipelines.settings import TrainSettings
from pipelines.sources.letor import load
from pipelines.training.fit import EpochReport, learning_rate
from pipelines.training.losses import LOSSES
from pipelines.training.ranker import MlpRanker, Ranker
from pipelines.training.train import TrainedRanker, fresh_ranker, score, train
from registry.contracts.manifest import JUDGED_NDCG
from tests.pipelines.judged_data import judged, splits

LIGHTGBM = Path(__file__).parents[3] / "shared" / "data" / "lightgbm-lambdarank"
QUICK = TrainSettings(hidden=(8,), learning_rate=0.02, lists_per_step=8, max_epochs=8, device="cpu")


def ndcg_of(scores: np.ndarray, dataset: RankingDataset) -> float:
    return mean_ndcg(dataset.labels, scores, dataset.offsets, JUDGED_NDCG).mean


def ndcg(trained: TrainedRanker, dataset: RankingDataset) -> float:
    return ndcg_of(score(trained.model, dataset), dataset)


def test_a_ranker_learns_which_column_tells() -> None:
    data = splits()
    trained = train(data, QUICK)
    scores = score(trained.model, data.test)

    assert ndcg_of(scores, data.test) > ndcg_of(data.test.features[:, 1], data.test) + 0.15
    assert ndcg_of(scores, data.test) == pytest.approx(ndcg_of(data.test.features[:, 0], data.test), abs=0.02)


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


@pytest.mark.parametrize("ranker", ["mlp", "attention"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_ranker_learns_with_every_loss(ranker: str, loss: str) -> None:
    data = splits()
    settings = replace(QUICK, ranker=ranker, loss=loss, quantiles=9)

    assert ndcg(train(data, settings), data.test) > ndcg_of(data.test.features[:, 1], data.test) + 0.15


@pytest.mark.parametrize("ranker", ["mlp", "attention"])
def test_mixed_precision_learns_the_same_and_keeps_its_weights_in_full(ranker: str) -> None:
    data = splits()
    full, mixed = (train(data, replace(QUICK, ranker=ranker, precision=precision)) for precision in ("full", "mixed"))

    assert ndcg(mixed, data.test) == pytest.approx(ndcg(full, data.test), abs=0.03)
    assert [report.loss for report in mixed.epochs] != [report.loss for report in full.epochs]
    assert {value.dtype for value in mixed.model.state_dict().values()} == {torch.float32}


def test_the_averaged_weights_are_what_is_validated_and_kept() -> None:
    data = splits()
    plain, averaged = (train(data, replace(QUICK, averaging=decay)) for decay in (0.0, 0.95))

    assert averaged.best.validation_ndcg == ndcg(averaged, data.validation)
    both = zip(averaged.epochs, plain.epochs, strict=False)  # patience may end one of them sooner
    assert all(one.loss == other.loss for one, other in both)
    assert (score(averaged.model, data.test) != score(plain.model, data.test)).any()


def test_a_clipped_step_is_as_short_as_it_may_be() -> None:
    data = splits()
    still = replace(QUICK, max_epochs=1, weight_decay=0.0, clip_norm=1e-9, learning_rate=0.001)
    fresh, trained = fresh_ranker_of(still), train(data, still).model

    # Adam divides by the gradient's size: what is left of a length of 1e-9 beside its eps of 1e-8 is under a tenth
    steps = -(-60 // still.lists_per_step)
    for before, after in zip(fresh.parameters(), trained.parameters(), strict=True):
        assert float((after - before).detach().abs().max()) < 0.1 * steps * still.learning_rate


def test_the_rate_warms_up_and_falls_to_nothing_along_a_cosine() -> None:
    settings = replace(QUICK, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(settings, step, 40) for step in range(40)]

    assert rates[0] == settings.learning_rate / 4
    assert rates.index(max(rates)) == 3
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.01 * settings.learning_rate
    assert {learning_rate(QUICK, step, 40) for step in range(40)} == {QUICK.learning_rate}


def test_scores_do_not_depend_on_how_lists_share_a_forward_pass() -> None:
    data = judged("many", 9000, 7)  # over 65,536 rows when padded
    model = train(splits(), replace(QUICK, ranker="attention", max_epochs=1)).model
    first = data.take(np.arange(10))

    np.testing.assert_allclose(score(model, data)[: len(first.labels)], score(model, first), atol=1e-5)


def test_attention_in_training_is_the_attention_that_is_exported() -> None:
    data = splits().test
    model = train(splits(), replace(QUICK, ranker="attention", max_epochs=2)).model.eval()
    index = torch.from_numpy(np.repeat(np.arange(len(data)), np.diff(data.offsets)))

    with torch.no_grad():
        masked = model(torch.from_numpy(data.features), index)

    np.testing.assert_allclose(masked.numpy(), score(model, data), atol=1e-5)


def test_a_quantile_is_the_share_below_less_the_share_above() -> None:
    model = MlpRanker(torch.zeros(1), hidden=(), quantiles=5)
    model.fit_preprocessing(torch.tensor([[0.0], [0.0], [1.0], [5.0], [9.0]]))
    values = torch.tensor([[-1.0], [0.0], [0.5], [5.0], [100.0], [float("inf")], [float("nan")]])
    # below none, at the first two of five, over those, at the fourth, over all; missing is the default, 0
    expected = torch.tensor([[-1.0], [-0.6], [-0.2], [0.4], [1.0], [1.0], [-0.6]])

    placed = model._standardised(values) * model.std + model.mean

    torch.testing.assert_close(placed, expected)


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
        ({"loss": "mse"}, r"train.loss='mse': expected listnet or lambdaloss or approx_ndcg"),
        ({"ranker": "tree"}, r"train.ranker='tree': expected mlp or attention"),
        ({"ranker": "attention", "hidden": ()}, r"expected at least one for an attention ranker"),
        ({"ranker": "attention", "hidden": (9,)}, r"heads=2: expected a divisor of the last width"),
        ({"quantiles": 1}, r"train.quantiles=1: expected 0, or 2 to 256"),
        ({"schedule": "step"}, r"train.schedule='step'"),
        ({"averaging": 1.0}, r"train.averaging=1.0"),
        ({"precision": "half"}, r"train.precision='half': expected full or mixed"),
        ({"replay_share": 1.0}, r"train.replay_share=1.0"),
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


def fresh_ranker_of(settings: TrainSettings) -> Ranker:
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return fresh_ranker(splits().train, settings)


def _seeded(seed: int) -> TrainSettings:
    return TrainSettings(hidden=(8,), learning_rate=0.02, lists_per_step=8, max_epochs=8, device="cpu", seed=seed)


def _default(seed: int) -> TrainSettings:
    return TrainSettings(device="cpu", seed=seed)
