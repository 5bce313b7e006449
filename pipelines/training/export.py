"""A trained ranker becomes a model version: exported program, manifest, reference profile.

Figures are those of the exported program, read back from the package's bytes: what is measured is
what is served.
"""

import io
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import ExportRefused
from pipelines.ndcg import mean_ndcg
from pipelines.training.ragged import Layout
from pipelines.training.ranker import Ranker, Weights
from pipelines.training.train import TrainedRanker
from registry.artefacts import strip_sample_inputs
from registry.contracts.manifest import (
    JUDGED_NDCG,
    Lineage,
    MetricDefinition,
    ModelManifest,
    ModelPackage,
    TensorSpec,
)
from registry.contracts.profile import ReferenceProfile, confidences, describe, followed, scale_only

SHOWN = 10
QUERY_INDEX = "query_index"  # serving's name for it
COMPARED_LISTS = ((1,), (2,), (3, 4), (100,), (1,) * 20 + (37, 200, 63), (1000,) * 2)
"""Sizes of the lists that share a batch when the exported program is compared with the model."""
TOLERANCE = 1e-6
LISTWISE_TOLERANCE = 1e-5  # a list alone sums in another order than one among others

Scores = NDArray[np.float32]


class Scorer(Protocol):
    """An exported program as a function."""

    def __call__(self, features: NDArray[np.float32], query_index: NDArray[np.int64] | None = None) -> Scores:
        """Scores float32 (rows,) of features (rows, columns).

        query_index: (rows,), ascending, which list each row is of; None: all of one. A pointwise program
        does not ask.
        """
        ...


def export_package(
    trained: TrainedRanker,
    splits: DatasetSplits,
    model: str,
    lineage: Lineage,
    created_ms: int,
    metric: MetricDefinition = JUDGED_NDCG,
    description: str = "",
) -> ModelPackage:
    """The version, ready to be registered under the model's name.

    Metrics: `validation_ndcg@k` and `test_ndcg@k` of the exported program. The profile is fitted on
    train and validation; of what was only shown (`DatasetSplits.whole`) it tells features alone.
    Raises ExportRefused if the exported program scores differently from the model.
    """
    program = export_program(trained.model)
    scorer = load_scorer(program)
    _compare(trained.model, scorer, splits.train.features)
    view = splits.view
    manifest = ModelManifest(
        model=model,
        inputs=(
            TensorSpec("features", "FP32", (-1, len(view.columns))),
            *([TensorSpec(QUERY_INDEX, "INT64", (-1,))] if trained.model.listwise else []),
        ),
        outputs=(TensorSpec("scores", "FP32", (-1,)),),
        view=view.to_json(),
        fingerprint=view.fingerprint,
        metric=metric,
        metrics={
            f"{split}_ndcg@{metric.k}": mean_ndcg(part.labels, _scored(scorer, part), part.offsets, metric).mean
            for split, part in (("validation", splits.validation), ("test", splits.test))
        },
        lineage=lineage,
        created_ms=created_ms,
        description=description,
    )
    return ModelPackage.of(program, manifest, _profile(scorer, (splits.train, splits.validation), splits.whole))


def offline_scores(package: ModelPackage, dataset: RankingDataset) -> Scores:
    """The exported program's scores, list by list as they are served. Shape (candidates,).

    Raises ExportRefused if the dataset's view is not the package's.
    """
    if dataset.view.fingerprint != package.manifest.fingerprint:
        raise ExportRefused(
            f"dataset {dataset.name!r} has feature view {dataset.view.fingerprint}, the version "
            f"{package.manifest.fingerprint}: use the data it was trained for"
        )
    return _scored(load_scorer(package.program), dataset)


def export_program(model: Ranker) -> bytes:
    """The model as a torch.export archive without any pickle: input `features`, and `query_index` if it is
    listwise, dynamic rows."""
    inputs = {"features": torch.zeros(2, len(model.default))}
    if model.listwise:
        inputs[QUERY_INDEX] = torch.zeros(2, dtype=torch.int64)
    rows = torch.export.Dim("rows", min=1)
    exported = torch.export.export(
        model.eval(), tuple(inputs.values()), dynamic_shapes={name: {0: rows} for name in inputs}
    )
    archive = io.BytesIO()
    torch.export.save(exported, archive)
    return strip_sample_inputs(archive.getvalue())


def load_scorer(program: bytes) -> Scorer:
    """Of a program whose package is ours or verified."""
    exported = torch.export.load(io.BytesIO(program))
    listwise = QUERY_INDEX in exported.graph_signature.user_inputs
    module = exported.module()

    def scores(features: NDArray[np.float32], query_index: NDArray[np.int64] | None = None) -> Scores:
        lists = np.zeros(len(features), np.int64) if query_index is None else query_index
        with torch.inference_mode():
            arguments = [torch.from_numpy(array) for array in ((features, lists) if listwise else (features,))]
            scored: Scores = module(*arguments).numpy()
            return scored

    return scores


def weights_of(package: ModelPackage) -> Weights | None:
    """What `train` takes as a parent: weights and preprocessing of a version, read from its exported program.

    The archive holds them as raw bytes (`registry.artefacts` lets nothing else in), so nothing is unpickled.
    None if the version is no ranker of ours: it runs elsewhere, or was exported by others.
    """
    if package.manifest.remote is not None:
        return None
    state = torch.export.load(io.BytesIO(package.program)).state_dict
    if not {"default", "mean", "std"} <= state.keys():
        return None
    return {name: value.detach().clone() for name, value in state.items()}


def _compare(model: Ranker, exported: Scorer, features: NDArray[np.float32]) -> None:
    """Both score alike: few and many rows, lists alone in the model and together in the program, values missing."""
    allowed = LISTWISE_TOLERANCE if model.listwise else TOLERANCE
    for sizes in COMPARED_LISTS:
        rows = sum(sizes)
        given = features[np.arange(rows) % len(features)]
        given[::3, ::2] = np.nan
        with torch.inference_mode():
            lists = torch.split(torch.from_numpy(given), list(sizes))
            expected = torch.cat([model.eval().scores(own, _alone(own)) for own in lists]).numpy()
        scored = exported(given, np.repeat(np.arange(len(sizes)), sizes))
        if not np.allclose(scored, expected, rtol=allowed, atol=allowed):
            worst = float(np.abs(scored - expected).max())
            raise ExportRefused(f"the exported program differs from the model by {worst:g} over {rows} rows")


def _alone(rows: Tensor) -> Layout:
    return Layout.of(np.array([len(rows)]))


def _scored(scorer: Scorer, dataset: RankingDataset) -> Scores:
    return np.concatenate([scorer(judged.features) for judged in dataset.lists()])


def _profile(scorer: Scorer, datasets: tuple[RankingDataset, ...], whole: bool) -> ReferenceProfile:
    """How the version's own rankings of these lists look: features of what they show, all scores.

    whole: whether lists hold all candidates. If not, the scores' spread is of the best alone, narrower and higher than
    what the version will be seen to do: it is a scale for serving, and nothing to compare a day with.
    """
    view = datasets[0].view
    features = [judged.features for dataset in datasets for judged in dataset.lists()]
    scores = [scorer(matrix) for matrix in features]
    best = [np.argsort(-own, kind="stable")[:SHOWN] for own in scores]
    shown = np.concatenate([matrix[rows] for matrix, rows in zip(features, best, strict=True)])
    spread = describe("scores", np.concatenate(scores))
    counts = np.array([len(own) for own in scores], dtype=np.int64)
    padded = np.full((len(scores), counts.max()), -np.inf, dtype=np.float32)
    padded[np.arange(padded.shape[1]) < counts[:, np.newaxis]] = np.concatenate(scores)
    sureness = confidences(padded, counts, spread.std)
    margin, entropy = describe("margin", sureness.margin), describe("entropy", sureness.entropy)
    population = f"the first {SHOWN} of the version's own rankings of train and validation lists"
    if not whole:
        spread, margin, entropy = scale_only(spread), scale_only(margin), scale_only(entropy)
        population += ", which hold what was shown: of all candidates' scores, margin and entropy nothing is known"
    return ReferenceProfile(
        fingerprint=view.fingerprint,
        population=population,
        lists=len(scores),
        features=tuple(describe(column.name, shown[:, i]) for i, column in enumerate(view.columns)),
        scores=spread,
        margin=margin,
        entropy=entropy,
        importance=followed(features, scores),
    )
