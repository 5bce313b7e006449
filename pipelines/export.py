"""A trained ranker becomes a model version: exported program, manifest, reference profile.

Figures are those of the exported program, read back from the package's bytes: what is measured is
what is served.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import ExportRefused
from pipelines.ndcg import mean_ndcg
from pipelines.ranker import MlpRanker
from pipelines.train import TrainedRanker
from registry.artefacts import strip_sample_inputs
from registry.contracts.manifest import (
    JUDGED_NDCG,
    Lineage,
    MetricDefinition,
    ModelManifest,
    ModelPackage,
    TensorSpec,
)
from registry.contracts.profile import ReferenceProfile, confidences, describe, followed

SHOWN = 10
COMPARED_ROWS = (1, 2, 7, 100, 5000)
TOLERANCE = 1e-6

Scores = NDArray[np.float32]
Scorer = Callable[[NDArray[np.float32]], Scores]


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
    train and validation.
    Raises ExportRefused if the exported program scores differently from the model.
    """
    program = export_program(trained.model)
    scorer = load_scorer(program)
    _compare(trained.model, scorer, splits.train.features)
    view = splits.view
    manifest = ModelManifest(
        model=model,
        inputs=(TensorSpec("features", "FP32", (-1, len(view.columns))),),
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
    return ModelPackage.of(program, manifest, _profile(scorer, (splits.train, splits.validation)))


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


def export_program(model: MlpRanker) -> bytes:
    """The model as a torch.export archive without any pickle: input `features`, dynamic rows."""
    sample = torch.zeros(2, len(model.default))
    rows = torch.export.Dim("rows", min=1)
    exported = torch.export.export(model.eval(), (sample,), dynamic_shapes={"features": {0: rows}})
    archive = io.BytesIO()
    torch.export.save(exported, archive)
    return strip_sample_inputs(archive.getvalue())


def load_scorer(program: bytes) -> Scorer:
    """Scores float32 (rows,) of features (rows, columns), by a program whose package is ours or verified."""
    module = torch.export.load(io.BytesIO(program)).module()

    def scores(features: NDArray[np.float32]) -> Scores:
        with torch.inference_mode():
            scored: Scores = module(torch.from_numpy(features)).numpy()
            return scored

    return scores


def _compare(model: MlpRanker, exported: Scorer, features: NDArray[np.float32]) -> None:
    """Both score alike, for few and many rows and where values are missing."""
    for rows in COMPARED_ROWS:
        given = features[np.arange(rows) % len(features)]
        given[::3, ::2] = np.nan
        with torch.inference_mode():
            expected = model.eval()(torch.from_numpy(given)).numpy()
        if not np.allclose(exported(given), expected, rtol=TOLERANCE, atol=TOLERANCE):
            worst = float(np.abs(exported(given) - expected).max())
            raise ExportRefused(f"the exported program differs from the model by {worst:g} over {rows} rows")


def _scored(scorer: Scorer, dataset: RankingDataset) -> Scores:
    return np.concatenate([scorer(judged.features) for judged in dataset.lists()])


def _profile(scorer: Scorer, datasets: tuple[RankingDataset, ...]) -> ReferenceProfile:
    """How the version's own rankings of these lists look: features of what they show, all scores."""
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
    return ReferenceProfile(
        fingerprint=view.fingerprint,
        population=f"the first {SHOWN} of the version's own rankings of train and validation lists",
        lists=len(scores),
        features=tuple(describe(column.name, shown[:, i]) for i, column in enumerate(view.columns)),
        scores=spread,
        margin=describe("margin", sureness.margin),
        entropy=describe("entropy", sureness.entropy),
        importance=followed(features, scores),
    )
