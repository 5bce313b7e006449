"""What a ranker learns from: lists with something relevant, and some of earlier windows replayed."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.dataset import RankingDataset, rows_of_lists
from pipelines.errors import TrainingRefused
from pipelines.ndcg import gain
from pipelines.training.ragged import Layout
from registry.contracts.manifest import MetricDefinition


@dataclass(frozen=True, slots=True)
class StepLists:
    """The lists of a step. features: (rows, columns); gains: (lists, longest), zeros in the padding."""

    features: Tensor
    gains: Tensor
    layout: Layout


@dataclass(frozen=True)
class TrainingLists:
    """On one device. features: (rows, columns); gains: (rows,), the metric's; offsets: (lists + 1,).

    fresh: the first so many lists are of the window that is trained on, the others are for replay.
    """

    features: Tensor
    gains: Tensor
    offsets: NDArray[np.int64]
    fresh: int

    @staticmethod
    def of(
        dataset: RankingDataset, replay: RankingDataset | None, metric: MetricDefinition, device: torch.device
    ) -> "TrainingLists":
        """Lists without gain teach nothing and are left out.

        Raises TrainingRefused if the dataset has no other, or the replayed lists are of another feature view.
        """
        if replay is not None and replay.view.fingerprint != dataset.view.fingerprint:
            raise TrainingRefused(
                f"{replay.name}: feature view {replay.view.fingerprint}, the new lists have "
                f"{dataset.view.fingerprint}: replay lists of the same view, or none"
            )
        parts = [_with_gain(part, metric) for part in (dataset, replay) if part is not None]
        if not len(parts[0][2]):
            raise TrainingRefused(f"{dataset.name}: no list has a relevant item: nothing to learn from")
        features, gains, sizes = (
            arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for arrays in zip(*parts, strict=True)
        )
        return TrainingLists(
            torch.from_numpy(features).to(device),
            torch.from_numpy(gains.astype(np.float32)).to(device),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            len(parts[0][2]),
        )

    def count(self, replay_share: float) -> int:
        """How many lists an epoch has: every fresh one, and replayed ones up to that share of all."""
        replayed = round(self.fresh * replay_share / (1 - replay_share))
        return self.fresh + min(replayed, len(self.offsets) - 1 - self.fresh)

    def order(self, generator: np.random.Generator, replay_share: float) -> NDArray[np.int64]:
        """An epoch's lists in random order: fresh ones all, replayed ones drawn anew. Shape (count,)."""
        replayed = self.count(replay_share) - self.fresh
        drawn = generator.permutation(np.arange(self.fresh, len(self.offsets) - 1))[:replayed]
        return generator.permutation(np.concatenate([np.arange(self.fresh), drawn]))

    def step(self, chosen: NDArray[np.int64]) -> StepLists:
        """These lists, at least one."""
        device = self.features.device
        rows = torch.from_numpy(rows_of_lists(self.offsets, chosen)).to(device)
        layout = Layout.of(np.diff(self.offsets)[chosen], device)
        return StepLists(self.features[rows], layout.padded(self.gains[rows]), layout)


def _with_gain(
    dataset: RankingDataset, metric: MetricDefinition
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Features, gains and sizes of the lists that have some."""
    gains = gain(dataset.labels.astype(np.float64), metric)
    lists = np.flatnonzero(np.add.reduceat(gains, dataset.offsets[:-1]) > 0)
    rows = rows_of_lists(dataset.offsets, lists)
    return dataset.features[rows], gains[rows], np.diff(dataset.offsets)[lists]
