from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from drift.days.blocks import level_of, means_of, places_of, watched
from drift.days.shift_watch import ShiftWatch
from drift.days.watch import FAMILIES
from drift.settings import Rule, ShiftSettings
from drift.windows.judge import judge
from drift.windows.reference import OF_LISTS, Reference
from drift.windows.window import Window, WindowKey
from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import ExportRefused
from pipelines.ndcg import mean_ndcg
from pipelines.settings import TrainSettings
from pipelines.training.export import SHOWN, export_package, load_scorer, offline_scores
from pipelines.training.ranker import AttentionRanker, MlpRanker
from pipelines.training.train import TrainedRanker, score, train
from registry.artefacts import verify
from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import JUDGED_NDCG, Lineage, ModelPackage
from registry.contracts.profile import confidences
from tests.drift.traffic import rankings
from tests.pipelines.judged_data import splits

SETTINGS = TrainSettings(hidden=(8,), learning_rate=0.02, lists_per_step=8, max_epochs=3, device="cpu")


@pytest.fixture(scope="module")
def data() -> DatasetSplits:
    return splits()


@pytest.fixture(scope="module")
def trained(data: DatasetSplits) -> TrainedRanker:
    return train(data, SETTINGS)


@pytest.fixture(scope="module")
def package(data: DatasetSplits, trained: TrainedRanker) -> ModelPackage:
    lineage = Lineage("made-up", data.train.digest)
    return export_package(trained, data, "made-up", lineage, created_ms=1_767_225_600_000)


def test_the_package_passes_the_registrys_verification(package: ModelPackage) -> None:
    manifest = verify(package, package.digest)

    assert (manifest.inputs[0].name, manifest.inputs[0].shape) == ("features", (-1, 3))
    assert (manifest.outputs[0].name, manifest.outputs[0].shape) == ("scores", (-1,))


@pytest.mark.parametrize("rows", [1, 2, 3, 100, 100_000])
def test_the_program_scores_any_number_of_rows_as_the_model_does(
    package: ModelPackage, trained: TrainedRanker, rows: int
) -> None:
    features = np.random.default_rng(rows).normal(100, 50, size=(rows, 3)).astype(np.float32)
    features[::7, 0] = np.nan
    with torch.no_grad():
        expected = trained.model(torch.from_numpy(features)).numpy()

    np.testing.assert_allclose(load_scorer(package.program)(features), expected, rtol=1e-6, atol=1e-6)


def test_offline_scores_are_the_models_scores(
    package: ModelPackage, trained: TrainedRanker, data: DatasetSplits
) -> None:
    np.testing.assert_allclose(offline_scores(package, data.test), score(trained.model, data.test), atol=1e-5)


def test_the_manifests_figures_are_those_of_the_offline_scores(package: ModelPackage, data: DatasetSplits) -> None:
    for split, part in (("validation", data.validation), ("test", data.test)):
        measured = mean_ndcg(part.labels, offline_scores(package, part), part.offsets, JUDGED_NDCG).mean

        assert package.manifest.metrics[f"{split}_ndcg@10"] == measured


def test_the_profile_is_of_what_the_version_shows(package: ModelPackage, data: DatasetSplits) -> None:
    profile = package.profile
    lists = [*data.train.lists(), *data.validation.lists()]
    shown = sum(min(10, len(judged.labels)) for judged in lists)

    assert profile.lists == len(lists) == profile.margin.count == profile.entropy.count
    assert [feature.count for feature in profile.features] == [shown] * 3
    assert profile.scores.count == len(data.train.labels) + len(data.validation.labels)
    # the telling column is higher among what is shown than among all
    assert profile.features[0].mean > data.train.features[:, 0].mean()
    assert len(profile.importance) == 3
    assert max(profile.importance) > 0.3
    assert 0 <= profile.entropy.minimum <= profile.entropy.maximum <= 1


def test_of_lists_of_shown_items_a_profile_knows_features_and_a_scale_of_scores(
    package: ModelPackage, trained: TrainedRanker, data: DatasetSplits
) -> None:
    clicked = _Shown(data.train, data.validation, data.test)
    of_shown = export_package(trained, clicked, "made-up", Lineage("d", "0"), created_ms=0).profile

    assert of_shown.features == package.profile.features
    assert (of_shown.scores.mean, of_shown.scores.std) == (package.profile.scores.mean, package.profile.scores.std)
    assert [of_shown.scores.count, of_shown.margin.count, of_shown.entropy.count] == [0, 0, 0]
    assert "nothing is known" in of_shown.population
    reference = Reference.of(of_shown)
    unknown = np.isnan(level_of(reference).mean)
    assert {reference.names[place] for place in np.flatnonzero(unknown)} == set(OF_LISTS)


def test_a_day_with_more_candidates_than_were_shown_does_not_alarm_on_a_version_made_of_clicks(
    trained: TrainedRanker, data: DatasetSplits
) -> None:
    rows = np.random.default_rng(5).normal((130, 0, 0), (30, 1, 1), size=(2000, 60, 3)).astype(np.float32)
    shown = [_best(trained, matrix) for matrix in rows]
    before = _of_lists("before", data, shown[:400])
    clicked = _Shown(before, _of_lists("validation", data, shown[400:500]), data.test)
    package = export_package(trained, clicked, "made-up", Lineage("d", "0"), created_ms=0)
    scorer, profile = load_scorer(package.program), package.profile
    day = Window(WindowKey(0, 86_400_000, "made-up", 2, "challenger"), Reference.of(profile))
    events, (event,) = [], rankings(1, 1)
    for number in range(500, 2000):
        scores = scorer(rows[number])
        sure = confidences(scores[np.newaxis], np.array([len(scores)]), profile.scores.std)
        given = {"candidates": len(scores), "fingerprint": data.view.fingerprint, "features": shown[number].tobytes()}
        told = {"score_mean": float(scores.mean()), "score_std": float(scores.std())}
        told |= {"margin": float(sure.margin[0]), "entropy": float(sure.entropy[0])}
        events.append(msgspec.structs.replace(event, items=("i",) * SHOWN, **given, **told))
    day.absorb(events)
    assert day.reference is not None

    for family in FAMILIES:
        watch, places = ShiftWatch(watched(day.reference, family), ShiftSettings()), places_of(day.reference, family)
        for number in range(7):
            means = means_of(day).of(places)
            means = replace(means, start_ms=number * 86_400_000, end_ms=(number + 1) * 86_400_000)
            assert watch.day(means, level_of(day.reference).of(places)) == ()
    assert judge(day, Rule()).verdict == "passed"


class _Shown(DatasetSplits):
    """As `ClickSplits`, without its report."""

    whole = False


def _best(trained: TrainedRanker, matrix: "np.typing.NDArray[np.float32]") -> "np.typing.NDArray[np.float32]":
    with torch.no_grad():
        scores = trained.model(torch.from_numpy(matrix)).numpy()
    return matrix[np.argsort(-scores, kind="stable")[:SHOWN]]


def _of_lists(name: str, data: DatasetSplits, lists: "list[np.typing.NDArray[np.float32]]") -> RankingDataset:
    offsets = np.arange(0, SHOWN * len(lists) + 1, SHOWN)
    queries, items = (tuple(f"{name}-{i}" for i in range(length)) for length in (len(lists), offsets[-1]))
    return RankingDataset(
        name, data.view, np.concatenate(lists), np.zeros(offsets[-1], np.float32), offsets, queries, items
    )


def test_a_dataset_of_another_view_is_refused(package: ModelPackage, data: DatasetSplits) -> None:
    other = FeatureView("other", "item", tuple(Column(name) for name in "abc"))

    with pytest.raises(ExportRefused, match="feature view"):
        offline_scores(package, replace(data.test, view=other))


class _ForgetfulRanker(MlpRanker):
    """Scores differently while it is traced: what an export that bakes in a branch would do."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores = super().forward(features)
        return scores + 1 if torch.compiler.is_exporting() else scores


def test_a_program_that_scores_otherwise_than_its_model_is_refused(data: DatasetSplits) -> None:
    model = _ForgetfulRanker(torch.zeros(3), hidden=(4,))

    with pytest.raises(ExportRefused, match="differs from the model by 1"):
        export_package(TrainedRanker(model, SETTINGS, ()), data, "made-up", Lineage("d", "0"), created_ms=0)


@pytest.fixture(scope="module")
def listwise(data: DatasetSplits) -> TrainedRanker:
    return train(data, replace(SETTINGS, ranker="attention", loss="lambdaloss", quantiles=5))


@pytest.fixture(scope="module")
def listwise_package(data: DatasetSplits, listwise: TrainedRanker) -> ModelPackage:
    return export_package(listwise, data, "made-up", Lineage("made-up", data.train.digest), created_ms=0)


def test_a_listwise_version_says_that_it_asks_which_list_a_row_is_of(listwise_package: ModelPackage) -> None:
    manifest = verify(listwise_package, listwise_package.digest)

    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs] == [
        ("features", "FP32", (-1, 3)),
        ("query_index", "INT64", (-1,)),
    ]


def test_lists_score_together_in_the_program_as_each_does_alone_in_the_model(
    listwise_package: ModelPackage, listwise: TrainedRanker, data: DatasetSplits
) -> None:
    index = np.repeat(np.arange(len(data.test)), np.diff(data.test.offsets))
    together = load_scorer(listwise_package.program)(data.test.features, index)

    np.testing.assert_allclose(together, score(listwise.model, data.test), atol=1e-5)
    np.testing.assert_allclose(together, offline_scores(listwise_package, data.test), atol=1e-5)


def test_a_listwise_versions_figures_and_profile_are_of_its_lists(
    listwise_package: ModelPackage, data: DatasetSplits
) -> None:
    measured = mean_ndcg(
        data.test.labels, offline_scores(listwise_package, data.test), data.test.offsets, JUDGED_NDCG
    ).mean

    assert listwise_package.manifest.metrics["test_ndcg@10"] == measured
    assert listwise_package.profile.lists == len(data.train) + len(data.validation)


class _MixingRanker(AttentionRanker):
    """Exported, it lets a row look at every list of the batch."""

    def forward(self, features: torch.Tensor, query_index: torch.Tensor) -> torch.Tensor:
        lists = torch.zeros_like(query_index) if torch.compiler.is_exporting() else query_index
        return super().forward(features, lists)


def test_a_program_that_mixes_lists_is_refused(data: DatasetSplits) -> None:
    torch.manual_seed(0)
    model = _MixingRanker(torch.zeros(3), hidden=(4,))

    with pytest.raises(ExportRefused, match=r"differs from the model by .* over 7 rows"):
        export_package(TrainedRanker(model, SETTINGS, ()), data, "made-up", Lineage("d", "0"), created_ms=0)
