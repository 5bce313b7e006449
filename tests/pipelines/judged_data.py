"""Small judged data in which one column tells the label and the others do not."""

import numpy as np

from pipelines.dataset import DatasetSplits, RankingDataset
from registry.contracts.features import Column, FeatureView

VIEW = FeatureView("made-up", "item", (Column("telling"), Column("noise", "candidate"), Column("asked", "query")))


def judged(name: str, lists: int, seed: int) -> RankingDataset:
    """Lists of 2 to 14 candidates, labels 0 to 3."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 15, lists)
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
    labels = rng.integers(0, 4, offsets[-1]).astype(np.float32)
    features = rng.normal(size=(offsets[-1], 3)).astype(np.float32)
    features[:, 0] = 100 + 20 * labels + 15 * features[:, 0]
    return RankingDataset(
        name,
        VIEW,
        features,
        labels,
        offsets,
        tuple(f"{name}-{i}" for i in range(lists)),
        tuple(f"{name}-item-{i}" for i in range(offsets[-1])),
        tuple(f"question {i % 7}" for i in range(lists)),
    )


def splits() -> DatasetSplits:
    """60 lists to train on, 20 and 20 to hold against."""
    return DatasetSplits(judged("train", 60, 0), judged("validation", 20, 1), judged("test", 20, 2))
