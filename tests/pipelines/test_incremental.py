"""A child goes on from its champion: it learns the new window, and replay keeps what the old one taught.

NDCG@10 of the old window and the new, seed 0: champion .978 and .718; child without replay .708 and .988, with a
tenth replayed .796 and .986, with three tenths .976 and .989; without replay but pulled back, at 5, .868 and .964.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import TrainingRefused
from pipelines.ndcg import mean_ndcg
from pipelines.settings import TrainSettings
from pipelines.training.export import export_package, weights_of
from pipelines.training.lists import TrainingLists
from pipelines.training.train import TrainedRanker, score, train
from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import JUDGED_NDCG, Lineage
from tests.builders import a_package
from tests.pipelines.judged_data import judged, splits

SETTINGS = TrainSettings(
    hidden=(16,),
    dropout=0.0,
    input_dropout=0.0,
    learning_rate=0.01,
    weight_decay=0.0,
    lists_per_step=16,
    max_epochs=12,
    patience_epochs=12,
    device="cpu",
)


def window(name: str, lists: int, seed: int, told_by: int) -> RankingDataset:
    """Lists of a season: column 0 says which (0 or 1), column 1 or 2 tells the label, the other is noise."""
    rng = np.random.default_rng(seed)
    data = judged(name, lists, seed)
    features = rng.normal(size=data.features.shape).astype(np.float32)
    features[:, told_by] = data.labels - 1.5 + 0.5 * features[:, told_by]
    features[:, 0] = told_by - 1
    return replace(data, features=features)


@cache
def old() -> DatasetSplits:
    return DatasetSplits(window("old", 150, 0, 1), window("old-validation", 50, 1, 1), window("old-test", 100, 2, 1))


@cache
def new() -> DatasetSplits:
    return DatasetSplits(window("new", 150, 3, 2), window("new-validation", 50, 4, 2), window("new-test", 100, 5, 2))


@cache
def champion() -> TrainedRanker:
    return train(old(), SETTINGS)


def reached(trained: TrainedRanker, dataset: RankingDataset) -> float:
    return mean_ndcg(dataset.labels, score(trained.model, dataset), dataset.offsets, JUDGED_NDCG).mean


def child(**changes: float) -> TrainedRanker:
    weights = champion().model.state_dict()
    return train(new(), replace(SETTINGS, **changes), parent=weights, replay=old().train)  # type: ignore[arg-type]


def test_without_replay_a_child_learns_the_new_window_and_forgets_the_old() -> None:
    forgetful = child(replay_share=0.0)

    assert reached(champion(), old().test) > 0.9
    assert reached(forgetful, new().test) > 0.9 > reached(champion(), new().test) + 0.1
    assert reached(forgetful, old().test) < reached(champion(), old().test) - 0.1


def test_replayed_lists_keep_most_of_the_old_window_and_cost_little_of_the_new() -> None:
    forgetful, remembering = child(replay_share=0.0), child(replay_share=0.3)

    lost, kept = (reached(champion(), old().test) - reached(one, old().test) for one in (forgetful, remembering))
    assert kept < lost / 2
    assert reached(remembering, new().test) > reached(forgetful, new().test) - 0.03


def test_a_pull_to_the_parents_weights_forgets_less() -> None:
    free, held = child(replay_share=0.0), child(replay_share=0.0, parent_pull=5.0)

    def way(trained: TrainedRanker) -> float:
        pairs = zip(trained.model.parameters(), champion().model.parameters(), strict=True)
        return sum(float((weight - parents).detach().square().sum()) for weight, parents in pairs)

    assert way(held) < way(free) / 2
    assert reached(held, old().test) > reached(free, old().test) + 0.1
    assert reached(held, new().test) > reached(free, new().test) - 0.05


def test_an_epoch_has_every_fresh_list_and_the_replays_share_drawn_anew() -> None:
    lists = TrainingLists.of(window("a", 21, 0, 1), window("b", 40, 1, 1), JUDGED_NDCG, torch.device("cpu"))
    random = np.random.default_rng(0)
    fresh = lists.fresh

    first, second = lists.order(random, 0.25), lists.order(random, 0.25)

    for order in (first, second):
        assert sorted(order[order < fresh]) == list(range(fresh))
        assert (order >= fresh).sum() == round(fresh / 3)
        assert len(set(order.tolist())) == len(order) == lists.count(0.25)
    assert set(first) != set(second)
    assert lists.count(0.9) == len(lists.offsets) - 1  # there are no more


def test_replay_of_another_view_is_refused() -> None:
    other = replace(old().train, view=FeatureView("other", "item", tuple(Column(name) for name in "abc")))

    with pytest.raises(TrainingRefused, match="replay lists of the same view"):
        train(new(), SETTINGS, replay=other)


@pytest.mark.parametrize("ranker", ["mlp", "attention"])
def test_a_champions_weights_are_in_its_version(ranker: str) -> None:
    settings = replace(SETTINGS, ranker=ranker, quantiles=5, max_epochs=1)
    trained = train(splits(), settings)
    package = export_package(trained, splits(), "made-up", Lineage("d", "0"), created_ms=0)

    weights = weights_of(package)

    assert weights is not None
    still = train(splits(), replace(settings, learning_rate=1e-9), parent=weights)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(weights[name], value)
        torch.testing.assert_close(still.model.state_dict()[name], value, rtol=0, atol=1e-6)


def test_a_version_of_others_has_no_weights_for_us() -> None:
    assert weights_of(a_package()) is None


def test_weights_from_before_there_were_quantiles_still_fit() -> None:
    weights = {name: value for name, value in champion().model.state_dict().items() if name != "edges"}

    train(new(), replace(SETTINGS, max_epochs=1), parent=weights)


@pytest.mark.parametrize("changes", [{"hidden": (8,)}, {"quantiles": 5}, {"ranker": "attention", "heads": 1}])
def test_a_parent_of_another_form_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TrainingRefused, match="start without a parent, or train as it was trained"):
        train(new(), replace(SETTINGS, **changes), parent=champion().model.state_dict())  # type: ignore[arg-type]
