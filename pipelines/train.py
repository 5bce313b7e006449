"""Training of a ranker with the ListNet loss, stopped by validation NDCG.

Source: Cao, Qin, Liu, Tsai & Li, "Learning to rank: from pairwise approach to listwise approach",
ICML 2007 (top-one probabilities), with gains 2**label - 1 as the target distribution.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.dataset import DatasetSplits, RankingDataset, rows_of_lists
from pipelines.errors import TrainingDiverged, TrainingRefused
from pipelines.ndcg import mean_ndcg
from pipelines.ranker import MlpRanker
from pipelines.settings import TrainSettings
from registry.contracts.manifest import JUDGED_NDCG, MetricDefinition

logger = logging.getLogger(__name__)

SCORED_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class EpochReport:
    """epoch: from 1; loss: mean over the train lists; validation_ndcg: of the whole split;
    best: no epoch before was better; seconds: this epoch took."""

    epoch: int
    loss: float
    validation_ndcg: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class TrainedRanker:
    """The best epoch's model, on the CPU and ready to score; epochs: all that were run."""

    model: MlpRanker
    settings: TrainSettings
    epochs: tuple[EpochReport, ...]

    @property
    def best(self) -> EpochReport:
        """The epoch whose weights were kept."""
        return [report for report in self.epochs if report.best][-1]


def train(
    splits: DatasetSplits,
    settings: TrainSettings,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    parent: Mapping[str, Tensor] | None = None,
    metric: MetricDefinition = JUDGED_NDCG,
) -> TrainedRanker:
    """A ranker fitted to the train lists; repeatable to the bit on one machine's CPU.

    parent: weights to go on from (with their standardisation), None to start afresh.
    metric: what validation is measured by; train lists without a relevant item teach nothing and
    are left out.
    Raises TrainingRefused if nothing can be learnt or the parent is of another shape, and
    TrainingDiverged if the loss is no longer a number.
    """
    device = _device(settings.device)
    with _repeatable(settings, device):
        model = _fresh_model(splits.train, settings, parent).to(device)
        lists = _Lists.of(splits.train, device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        order = np.random.default_rng(settings.seed)
        reports: list[EpochReport] = []
        best: dict[str, Tensor] = {}
        best_ndcg, best_epoch = -1.0, 0
        for epoch in range(1, settings.max_epochs + 1):
            started_s = time.perf_counter()
            loss = _one_epoch(model, lists, optimiser, order, settings.lists_per_step)
            ndcg = mean_ndcg(
                splits.validation.labels, score(model, splits.validation), splits.validation.offsets, metric
            ).mean
            report = EpochReport(epoch, loss, ndcg, ndcg > best_ndcg, time.perf_counter() - started_s)
            reports.append(report)
            if report.best:
                best = {name: value.detach().clone() for name, value in model.state_dict().items()}
                best_ndcg, best_epoch = ndcg, epoch
            on_epoch(report)
            if epoch - best_epoch >= settings.patience_epochs:
                break
    if not best:
        raise TrainingRefused(f"{splits.validation.name}: no list has a relevant item, so no epoch can be chosen")
    model.load_state_dict(best)
    logger.info("trained", extra={"epochs": len(reports), "best_epoch": best_epoch, "validation_ndcg": best_ndcg})
    return TrainedRanker(model.cpu().eval(), settings, tuple(reports))


def score(model: MlpRanker, dataset: RankingDataset) -> NDArray[np.float32]:
    """Scores of every candidate, shape (candidates,), by the model as it is (dropout off)."""
    device = model.mean.device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        parts = [model(part.to(device)).cpu() for part in torch.split(torch.from_numpy(dataset.features), SCORED_ROWS)]
    model.train(was_training)
    scores: NDArray[np.float32] = torch.cat(parts).numpy()
    return scores


def listnet_loss(scores: Tensor, target: Tensor, list_of: Tensor, place: Tensor, shape: tuple[int, int]) -> Tensor:
    """Cross entropy between target and softmax of the scores within each list, mean over lists.

    scores, target: (rows,), target summing to 1 in each list; list_of, place: (rows,), where a row
    stands in a matrix of `shape` (lists, longest list).
    """
    padded = scores.new_full(shape, float("-inf")).index_put((list_of, place), scores)
    log_share = scores - torch.logsumexp(padded, dim=1)[list_of]
    return -(target * log_share).sum() / shape[0]


@dataclass(frozen=True)
class _Lists:
    """The train lists with something relevant, on the device."""

    features: Tensor
    target: Tensor
    offsets: NDArray[np.int64]

    @staticmethod
    def of(dataset: RankingDataset, device: torch.device) -> "_Lists":
        gains = np.exp2(dataset.labels.astype(np.float64)) - 1
        totals = np.add.reduceat(gains, dataset.offsets[:-1])
        relevant = np.flatnonzero(totals > 0)
        if not len(relevant):
            raise TrainingRefused(f"{dataset.name}: no list has a relevant item: nothing to learn from")
        rows = rows_of_lists(dataset.offsets, relevant)
        sizes = np.diff(dataset.offsets)[relevant]
        target = (gains[rows] / np.repeat(totals[relevant], sizes)).astype(np.float32)
        return _Lists(
            torch.from_numpy(dataset.features[rows]).to(device),
            torch.from_numpy(target).to(device),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        )

    def loss(self, model: MlpRanker, chosen: NDArray[np.int64]) -> Tensor:
        """Of these lists."""
        sizes = np.diff(self.offsets)[chosen]
        rows = torch.from_numpy(rows_of_lists(self.offsets, chosen)).to(self.target.device)
        list_of = np.repeat(np.arange(len(chosen)), sizes)
        place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return listnet_loss(
            model(self.features[rows]),
            self.target[rows],
            torch.from_numpy(list_of).to(rows.device),
            torch.from_numpy(place).to(rows.device),
            (len(chosen), int(sizes.max())),
        )


def _one_epoch(
    model: MlpRanker, lists: _Lists, optimiser: torch.optim.Optimizer, order: np.random.Generator, lists_per_step: int
) -> float:
    """The mean loss of the lists, each seen once in a new order."""
    model.train()
    count = len(lists.offsets) - 1
    total = 0.0
    shuffled = order.permutation(count)
    for start in range(0, count, lists_per_step):
        chosen = shuffled[start : start + lists_per_step]
        optimiser.zero_grad(set_to_none=True)
        loss = lists.loss(model, chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(loss.detach()) * len(chosen)
    if not np.isfinite(total):
        raise TrainingDiverged("the loss is no longer finite: lower train.learning_rate")
    return total / count


def _fresh_model(dataset: RankingDataset, settings: TrainSettings, parent: Mapping[str, Tensor] | None) -> MlpRanker:
    model = MlpRanker(
        torch.from_numpy(dataset.view.defaults), settings.hidden, settings.dropout, settings.input_dropout
    )
    if parent is None:
        model.fit_standardisation(torch.from_numpy(dataset.features))
        return model
    try:
        model.load_state_dict(parent)
    except RuntimeError as error:
        raise TrainingRefused(
            f"the parent's weights do not fit {len(dataset.view.columns)} columns and train.hidden={settings.hidden}: "
            "start without a parent"
        ) from error
    return model


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingRefused("train.device='cuda': this machine has none: use auto or cpu")
    return torch.device(name)


@contextmanager
def _repeatable(settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """Seeded, with deterministic kernels and a fixed number of threads on the CPU, leaving torch's
    global state as it was.

    On CUDA the seed is the same but cuBLAS may differ in the last bits from run to run.
    """
    strict, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        torch.use_deterministic_algorithms(device.type == "cpu")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)
