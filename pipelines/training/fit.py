"""A training under way: weights, optimiser and averages, a step at a time; it can be put down and taken up."""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.settings import TrainSettings
from pipelines.training.checkpoint import Checkpoint
from pipelines.training.lists import TrainingLists
from pipelines.training.losses import LOSSES
from pipelines.training.ranker import Ranker
from pipelines.training.ranks import Ranks

_YOUNG_STEPS = 10  # the average of a young training reaches back a part of its steps only


@dataclass(frozen=True, slots=True)
class EpochReport:
    """epoch: from 1; loss: mean over the train lists; validation_ndcg: of the whole split;
    best: no epoch before was better; seconds: this epoch took."""

    epoch: int
    loss: float
    validation_ndcg: float
    best: bool
    seconds: float


class Fit:
    """model is trained; shown is what is validated and kept: the model, or the average of its weights.

    parent: what the weights are drawn back to, if the settings say so.
    """

    def __init__(self, model: Ranker, settings: TrainSettings, ranks: Ranks, k: int, parent: bool) -> None:
        self.model, self.settings, self._ranks, self._k = model, settings, ranks, k
        self.shown = copy.deepcopy(model) if settings.averaging else model
        self._anchor = [weight.detach().clone() for weight in model.parameters()] if parent else []
        self._optimiser = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._steps = 0
        self.reports: list[EpochReport] = []
        self.best: dict[str, Tensor] = {}

    @property
    def best_report(self) -> EpochReport | None:
        """The epoch whose weights are kept so far."""
        return next((report for report in reversed(self.reports) if report.best), None)

    @property
    def over(self) -> bool:
        """Whether all epochs were run, or patience is at its end."""
        if not self.reports:
            return False
        best = self.best_report
        waited = self.reports[-1].epoch - (best.epoch if best else 0)
        return len(self.reports) >= self.settings.max_epochs or waited >= self.settings.patience_epochs

    def epoch(self, lists: TrainingLists, number: int) -> float:
        """Each list once, in the order that follows from seed and epoch; the mean loss. nan if it diverged."""
        settings = self.settings
        torch.manual_seed(_seed(settings.seed, number, self._ranks.rank))
        order = lists.order(np.random.default_rng([settings.seed, number]), settings.replay_share)
        steps = settings.max_epochs * -(-len(order) // settings.lists_per_step)
        self.model.train()
        total = 0.0
        for start in range(0, len(order), settings.lists_per_step):
            chosen = order[start : start + settings.lists_per_step]
            total += self._step(lists, chosen, steps) * len(chosen)
        return total / len(order)

    def end_epoch(self, report: EpochReport) -> None:
        """Keeps the report, and the weights if they are the best."""
        self.reports.append(report)
        if report.best:
            self.best = {name: value.detach().clone() for name, value in self.shown.state_dict().items()}

    def checkpoint(self, inputs: str) -> Checkpoint:
        """All that the next epochs depend on."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        if self.shown is not self.model:
            tensors |= {f"shown/{name}": value for name, value in self.shown.state_dict().items()}
        for place, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{place}/{name}": value for name, value in state.items()}
        told = {"steps": self._steps, "epochs": [asdict(report) for report in self.reports]}
        return Checkpoint(inputs, told, tensors)

    def resume(self, saved: Checkpoint) -> None:
        """Stands where the checkpoint was made. Raises KeyError or RuntimeError if it is of another model."""
        self.model.load_state_dict(_under("model/", saved.tensors))
        if self.shown is not self.model:
            self.shown.load_state_dict(_under("shown/", saved.tensors))
        self.best = {name: value.to(self.model.mean.device) for name, value in _under("best/", saved.tensors).items()}
        optimiser = self._optimiser.state_dict()
        states: dict[int, dict[str, Tensor]] = {}
        for path, value in _under("optimiser/", saved.tensors).items():
            place, _, name = path.partition("/")
            states.setdefault(int(place), {})[name] = value
        self._optimiser.load_state_dict(optimiser | {"state": states})
        self._steps = saved.told["steps"]
        self.reports = [EpochReport(**report) for report in saved.told["epochs"]]

    def _step(self, lists: TrainingLists, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], steps: int) -> float:
        """One gradient step over these lists, of all ranks together; their mean loss."""
        settings = self.settings
        for group in self._optimiser.param_groups:
            group["lr"] = rate = learning_rate(settings, self._steps, steps)
        self._optimiser.zero_grad(set_to_none=True)
        mine = self._ranks.share(chosen)
        loss = self.model.mean.new_zeros(())
        if len(mine):
            step = lists.step(mine)
            with torch.autocast(loss.device.type, torch.bfloat16, enabled=settings.precision == "mixed"):
                scores = self.model.scores(step.features, step.layout)
            losses = LOSSES[settings.loss](step.layout.padded(scores), step.gains, step.layout.inside, self._k)
            loss = losses.sum() / len(chosen)
            loss.backward()  # type: ignore[no-untyped-call]
        mean = self._ranks.sum_gradients(self.model.parameters(), loss.detach())
        if settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self._optimiser.step()
        self._steps += 1
        with torch.no_grad():
            for weight, parents in zip(self.model.parameters(), self._anchor, strict=False):
                weight.lerp_(parents, min(1.0, rate * settings.parent_pull))
            if self.shown is not self.model:
                decay = min(settings.averaging, self._steps / (self._steps + _YOUNG_STEPS))
                for average, weight in zip(self.shown.parameters(), self.model.parameters(), strict=True):
                    average.lerp_(weight, 1 - decay)
        return mean


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Of this step, from 0, of so many.

    >>> [round(learning_rate(TrainSettings(schedule="cosine", warmup_steps=2), s, 8) * 1e6) for s in (0, 1, 4, 7)]
    [500, 962, 500, 38]
    """
    rate = settings.learning_rate * min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * step / steps)) / 2
    return rate


def _seed(*numbers: int) -> int:
    """One of 63 bits for torch."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
