"""Settings of the pipelines room; they fail at start, naming key, value and rule."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a ranker is trained.

    hidden: widths of the hidden layers, first to last; empty is a linear ranker.
    dropout: share of hidden units, and input_dropout of (standardised) features, that a training
    step does not see.
    lists_per_step: lists in one gradient step. patience_epochs: stop after so many without a
    better validation NDCG. seed: of weights, order and dropout. device: `cpu`, `cuda` or `auto`
    (cuda if there is one). threads: of the CPU; for models of this size one is fastest, and several
    wait for each other where serving shares the machine (5 x slower, seen on two busy cores).
    """

    hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.3
    input_dropout: float = 0.1
    learning_rate: float = 0.001
    weight_decay: float = 0.1
    lists_per_step: int = 32
    max_epochs: int = 30
    patience_epochs: int = 5
    seed: int = 0
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        for rule, holds in {
            f"hidden={self.hidden}: expected widths of 1 to 4096": all(1 <= width <= 4096 for width in self.hidden),
            f"dropout={self.dropout}: expected 0 <= share < 1": 0 <= self.dropout < 1,
            f"input_dropout={self.input_dropout}: expected 0 <= share < 1": 0 <= self.input_dropout < 1,
            f"learning_rate={self.learning_rate}: expected 0 < rate <= 1": 0 < self.learning_rate <= 1,
            f"weight_decay={self.weight_decay}: expected >= 0": self.weight_decay >= 0,
            f"lists_per_step={self.lists_per_step}: expected >= 1": self.lists_per_step >= 1,
            f"max_epochs={self.max_epochs}: expected >= 1": self.max_epochs >= 1,
            f"patience_epochs={self.patience_epochs}: expected >= 1": self.patience_epochs >= 1,
            f"threads={self.threads}: expected 1 to 256": 1 <= self.threads <= 256,
            f"device={self.device!r}: expected auto, cpu or cuda": self.device in ("auto", "cpu", "cuda"),
        }.items():
            if not holds:
                raise ValueError(f"train.{rule}")


@dataclass(frozen=True, slots=True)
class ArchiverSettings:
    """When buffered stream entries are written: at so many, so many bytes, or at that age.

    An entry holds up to 64 events. flush_age_s is how far the archive may lag behind the answers.
    """

    flush_entries: int = 2000
    flush_bytes: int = 8 << 20
    flush_age_s: float = 1.0

    def __post_init__(self) -> None:
        for rule, holds in {
            f"flush_entries={self.flush_entries}: expected 1 to 100000": 1 <= self.flush_entries <= 100_000,
            f"flush_bytes={self.flush_bytes}: expected 1 to 2**30": 1 <= self.flush_bytes <= 1 << 30,
            f"flush_age_s={self.flush_age_s}: expected 0 < s <= 60": 0 < self.flush_age_s <= 60,
        }.items():
            if not holds:
                raise ValueError(f"archiver.{rule}")


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """period_s: of the engine's looks; a rollback takes one, and the second in which gateways follow.

    repair_s: how often aliases are held against the tables, whatever moved them; retry_s: when MLflow did
    not answer.
    """

    period_s: float = 1.0
    repair_s: float = 300.0
    retry_s: float = 5.0

    def __post_init__(self) -> None:
        for rule, holds in {
            f"period_s={self.period_s}: expected 0 < s <= 3": 0 < self.period_s <= 3,
            f"repair_s={self.repair_s}: expected 1 to 86400": 1 <= self.repair_s <= 86_400,
            f"retry_s={self.retry_s}: expected 0 < s <= 300": 0 < self.retry_s <= 300,
        }.items():
            if not holds:
                raise ValueError(f"rollouts.{rule}")


@dataclass(frozen=True, slots=True)
class GateSettings:
    """period_s: of the judge's looks at all gates. settle_s: what happened so long ago is in the archive.

    yearly_alpha: chance that of a year's decisions, were no challenger better than its champion, one or more is
    promoted; decisions: of a model in a year, one each fortnight. They give each decision's alpha.
    """

    period_s: float = 60.0
    settle_s: float = 10.0
    yearly_alpha: float = 0.5
    decisions: int = 26

    def __post_init__(self) -> None:
        for rule, holds in {
            f"period_s={self.period_s}: expected 0 < s <= 3600": 0 < self.period_s <= 3600,
            f"settle_s={self.settle_s}: expected 0 to 3600": 0 <= self.settle_s <= 3600,
            f"yearly_alpha={self.yearly_alpha}: expected 0 < chance < 1": 0 < self.yearly_alpha < 1,
            f"decisions={self.decisions}: expected 1 to 1000": 1 <= self.decisions <= 1000,
        }.items():
            if not holds:
                raise ValueError(f"gates.{rule}")


def parse_gates(text: str) -> GateSettings:
    """Settings by name, the others as they are by default. Raises ValueError saying what was expected.

    >>> parse_gates("period_s=5, yearly_alpha=0.2").period_s
    5.0
    """
    kinds = {"period_s": float, "settle_s": float, "yearly_alpha": float, "decisions": int}
    told: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name not in kinds or name in told:
            raise ValueError(f"{part}: expected name=number, each name once, of {', '.join(kinds)}")
        try:
            told[name] = kinds[name](value)
        except ValueError as error:
            kind = "a whole number" if kinds[name] is int else "a number"
            raise ValueError(f"{part}: expected {kind}") from error
    return GateSettings(**told)
