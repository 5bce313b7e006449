"""Training of a ranker, stopped by validation NDCG; it goes on from a parent's weights, and after a kill.

Draws back to the parent's weights are decoupled from the gradient, as AdamW's decay is.
Sources: Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019; Li, Grandvalet & Davoine,
"Explicit inductive bias for transfer learning with convolutional networks", ICML 2018 (the starting point as
what weights decay to); Robins, "Catastrophic forgetting, rehearsal and pseudorehearsal", Connection Science
7(2), 1995 (replay); Polyak & Juditsky, SIAM J. Control Optim. 30(4), 1992 (averaging).
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import TrainingDiverged, TrainingRefused
from pipelines.ndcg import mean_ndcg
from pipelines.settings import TrainSettings
from pipelines.training import checkpoint as checkpoints
from pipelines.training.checkpoint import Checkpoint
from pipelines.training.fit import EpochReport, Fit
from pipelines.training.lists import TrainingLists
from pipelines.training.ragged import Layout
from pipelines.training.ranker import AttentionRanker, MlpRanker, Ranker
from pipelines.training.ranks import Ranks
from registry.contracts.manifest import JUDGED_NDCG, MetricDefinition

logger = logging.getLogger(__name__)

SCORED_CELLS = 65_536  # rows of one forward pass, counting the padding


@dataclass(frozen=True)
class TrainedRanker:
    """The best epoch's model, on the CPU and ready to score; epochs: all that were run."""

    model: Ranker
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
    checkpoint: Path | None = None,
    replay: RankingDataset | None = None,
) -> TrainedRanker:
    """A ranker fitted to the train lists; repeatable to the bit on one machine's CPU.

    parent: weights to go on from (with their preprocessing), None to start afresh. metric: whose gains are
    learnt, and what validation is measured by; train lists without a relevant item teach nothing and are left
    out. checkpoint: written after each epoch; found there, of the same data and settings, training goes on
    after its last epoch and ends with the model it would have ended with. replay: lists of earlier windows, of
    which each epoch has `replay_share`.
    on_epoch is told each epoch once, but for the last one before a kill, which may be told again.
    In a process group (`torchrun`) each rank calls this with the same arguments; only rank 0 writes and tells,
    and all get the same model.
    Raises TrainingRefused if nothing can be learnt, or parent or replay are of another shape, and
    TrainingDiverged if the loss is no longer a number.
    """
    ranks = Ranks.joined()
    device = ranks.device(settings.device)
    with _repeatable(settings, device):
        model = fresh_ranker(splits.train, settings, parent).to(device)
        lists = TrainingLists.of(splits.train, replay if settings.replay_share else None, metric, device)
        fit = Fit(model, settings, ranks, metric.k, parent is not None and settings.parent_pull > 0)
        inputs = _digest(splits, settings, parent, metric, replay)
        saved = checkpoints.read(checkpoint, inputs) if checkpoint is not None and ranks.rank == 0 else b""
        if saved := ranks.first_says(saved, device):
            fit.resume(Checkpoint.decode(saved))
            logger.info("training goes on after epoch %d", len(fit.reports))
        while not fit.over:
            report = _epoch(fit, lists, splits.validation, metric, ranks)
            fit.end_epoch(report)
            if ranks.rank == 0:
                on_epoch(report)
                if checkpoint is not None:
                    checkpoints.write(checkpoint, fit.checkpoint(inputs))
    if fit.best_report is None:
        raise TrainingRefused(f"{splits.validation.name}: no list has a relevant item, so no epoch can be chosen")
    model.load_state_dict(fit.best)
    logger.info(
        "trained",
        extra={
            "epochs": len(fit.reports),
            "best_epoch": fit.best_report.epoch,
            "validation_ndcg": fit.best_report.validation_ndcg,
        },
    )
    return TrainedRanker(model.cpu().eval(), settings, tuple(fit.reports))


def fresh_ranker(
    dataset: RankingDataset, settings: TrainSettings, parent: Mapping[str, Tensor] | None = None
) -> Ranker:
    """An untrained ranker, its preprocessing fitted to the dataset; or one with the parent's weights.

    Raises TrainingRefused if the parent is of another shape.
    """
    defaults = torch.from_numpy(dataset.view.defaults)
    how = (defaults, settings.hidden, settings.dropout, settings.input_dropout, settings.quantiles)
    model: Ranker = (
        MlpRanker(*how)
        if settings.ranker == "mlp"
        else AttentionRanker(*how, heads=settings.heads, blocks=settings.blocks)
    )
    if parent is None:
        model.fit_preprocessing(torch.from_numpy(dataset.features))
        return model
    try:
        model.load_state_dict(parent)
    except RuntimeError as error:
        raise TrainingRefused(
            f"the parent's weights do not fit {len(dataset.view.columns)} columns, train.ranker={settings.ranker}, "
            f"train.hidden={settings.hidden} and train.quantiles={settings.quantiles}: start without a parent, or "
            "train as it was trained"
        ) from error
    return model


def score(model: Ranker, dataset: RankingDataset) -> NDArray[np.float32]:
    """Scores of every candidate, shape (candidates,), by the model as it is (dropout off)."""
    device = model.mean.device
    was_training = model.training
    model.eval()
    parts = []
    with torch.no_grad():
        for first, last in _batches(np.diff(dataset.offsets)):
            rows = slice(int(dataset.offsets[first]), int(dataset.offsets[last]))
            layout = Layout.of(np.diff(dataset.offsets[first : last + 1]), device)
            parts.append(model.scores(torch.from_numpy(dataset.features[rows]).to(device), layout).cpu())
    model.train(was_training)
    scores: NDArray[np.float32] = torch.cat(parts).numpy()
    return scores


def _epoch(
    fit: Fit, lists: TrainingLists, validation: RankingDataset, metric: MetricDefinition, ranks: Ranks
) -> EpochReport:
    started_s = time.perf_counter()
    number = len(fit.reports) + 1
    loss = fit.epoch(lists, number)
    if not np.isfinite(loss):
        raise TrainingDiverged("the loss is no longer finite: lower train.learning_rate")
    measured = b""
    if ranks.rank == 0:
        ndcg = mean_ndcg(validation.labels, score(fit.shown, validation), validation.offsets, metric).mean
        measured = np.float64(ndcg).tobytes()
    ndcg = float(np.frombuffer(ranks.first_says(measured, fit.model.mean.device), np.float64)[0])
    before = fit.best_report
    best = ndcg > (before.validation_ndcg if before else -1.0)
    return EpochReport(number, loss, ndcg, best, time.perf_counter() - started_s)


def _batches(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Lists first:last that fit one forward pass when they are padded to the longest of them."""
    first, longest = 0, 0
    for i, size in enumerate(sizes.tolist()):
        longest = max(longest, size)
        if i > first and (i + 1 - first) * longest > SCORED_CELLS:
            yield first, i
            first, longest = i, size
    yield first, len(sizes)


def _digest(
    splits: DatasetSplits,
    settings: TrainSettings,
    parent: Mapping[str, Tensor] | None,
    metric: MetricDefinition,
    replay: RankingDataset | None,
) -> str:
    """SHA-256 of all that the model depends on, 64 hex characters."""
    total = hashlib.sha256(json.dumps(asdict(settings)).encode())
    for part in (splits.train.digest, splits.validation.digest, metric.digest, replay.digest if replay else "none"):
        total.update(part.encode())
    for name, value in (parent or {}).items():
        total.update(f"{name}{tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().numpy().data)
    return total.hexdigest()


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
