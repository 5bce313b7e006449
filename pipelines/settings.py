"""Settings of the pipelines room; they fail at start, naming key, value and rule."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

_DAY_MS = 86_400_000
LOSS_NAMES = ("listnet", "lambdaloss", "approx_ndcg")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a ranker is trained.

    ranker: `mlp` scores a candidate by itself, `attention` in the light of its list. hidden: widths of the
    hidden layers, first to last; empty is a linear ranker. heads, blocks: of an attention ranker, after its
    hidden layers. quantiles: of each feature, to which it is compared before it is standardised; 0 for none.
    loss: see `losses`. dropout: share of hidden units, and input_dropout of (standardised) features, that a
    training step does not see.
    lists_per_step: lists in one gradient step, of all ranks together. schedule: `constant`, or `cosine` down
    to zero at max_epochs; warmup_steps: steps in which the rate grows to learning_rate. clip_norm: longest
    gradient, 0 for any. averaging: decay of the average of weights over steps, which is what is validated and
    kept; 0 for the weights themselves. precision: `full`, or `mixed`: matrix products in bfloat16.
    patience_epochs: stop after so many without a better validation NDCG. seed: of weights, order and dropout.
    replay_share: of an epoch's lists, from earlier windows, if some are given. parent_pull: share of the
    learning rate by which each step draws the weights back to the parent's.
    device: `cpu`, `cuda` or `auto` (cuda if there is one). threads: of the CPU; for models of this size one is
    fastest, and several wait for each other where serving shares the machine (5 x slower, seen on two busy cores).
    """

    ranker: str = "mlp"
    hidden: tuple[int, ...] = (64, 32)
    heads: int = 2
    blocks: int = 1
    quantiles: int = 0
    loss: str = "listnet"
    dropout: float = 0.3
    input_dropout: float = 0.1
    learning_rate: float = 0.001
    weight_decay: float = 0.1
    lists_per_step: int = 32
    schedule: str = "constant"
    warmup_steps: int = 0
    clip_norm: float = 0.0
    averaging: float = 0.0
    precision: str = "full"
    max_epochs: int = 30
    patience_epochs: int = 5
    replay_share: float = 0.3
    parent_pull: float = 0.0
    seed: int = 0
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        attends = self.ranker == "attention"
        for rule, holds in {
            f"ranker={self.ranker!r}: expected mlp or attention": self.ranker in ("mlp", "attention"),
            f"hidden={self.hidden}: expected widths of 1 to 4096": all(1 <= width <= 4096 for width in self.hidden),
            f"hidden={self.hidden}: expected at least one for an attention ranker": not attends or self.hidden,
            f"heads={self.heads}: expected 1 to 64": 1 <= self.heads <= 64,
            f"heads={self.heads}: expected a divisor of the last width in hidden={self.hidden}": not attends
            or not self.hidden
            or self.hidden[-1] % self.heads == 0,
            f"blocks={self.blocks}: expected 1 to 32": 1 <= self.blocks <= 32,
            f"quantiles={self.quantiles}: expected 0, or 2 to 256": self.quantiles == 0 or 2 <= self.quantiles <= 256,
            f"loss={self.loss!r}: expected {' or '.join(LOSS_NAMES)}": self.loss in LOSS_NAMES,
            f"dropout={self.dropout}: expected 0 <= share < 1": 0 <= self.dropout < 1,
            f"input_dropout={self.input_dropout}: expected 0 <= share < 1": 0 <= self.input_dropout < 1,
            f"learning_rate={self.learning_rate}: expected 0 < rate <= 1": 0 < self.learning_rate <= 1,
            f"weight_decay={self.weight_decay}: expected >= 0": self.weight_decay >= 0,
            f"lists_per_step={self.lists_per_step}: expected >= 1": self.lists_per_step >= 1,
            f"schedule={self.schedule!r}: expected constant or cosine": self.schedule in ("constant", "cosine"),
            f"warmup_steps={self.warmup_steps}: expected >= 0": self.warmup_steps >= 0,
            f"clip_norm={self.clip_norm}: expected >= 0": self.clip_norm >= 0,
            f"averaging={self.averaging}: expected 0 <= decay < 1": 0 <= self.averaging < 1,
            f"precision={self.precision!r}: expected full or mixed": self.precision in ("full", "mixed"),
            f"max_epochs={self.max_epochs}: expected >= 1": self.max_epochs >= 1,
            f"patience_epochs={self.patience_epochs}: expected >= 1": self.patience_epochs >= 1,
            f"replay_share={self.replay_share}: expected 0 <= share < 1": 0 <= self.replay_share < 1,
            f"parent_pull={self.parent_pull}: expected 0 <= share": self.parent_pull >= 0,
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
class RunSettings:
    """How runs are worked on.

    lease_s: how long whoever works on a run is believed to be alive without a word; beat_s: how often he gives one.
    max_attempts: of one step, then the run is dead and waits for a person; backoff_s: before the second, four times
    longer before each one after, at most most_backoff_s. limits: how long a step may take, in s, by its name;
    step_limit_s where none is named. kill_after_s: past the limit, before the step's process is killed. tick_s:
    how often due windows and silent workers are looked for. kept: runs of a model and kind whose files stay, beside
    those that may still be worked on.
    """

    lease_s: float = 30.0
    beat_s: float = 5.0
    max_attempts: int = 4
    backoff_s: float = 30.0
    most_backoff_s: float = 3600.0
    limits: Mapping[str, float] = field(default_factory=lambda: {"train": 12 * 3600.0})
    step_limit_s: float = 2 * 3600.0
    kill_after_s: float = 60.0
    tick_s: float = 5.0
    kept: int = 6

    def __post_init__(self) -> None:
        for rule, holds in {
            f"lease_s={self.lease_s}: expected 0 < s <= 3600": 0 < self.lease_s <= 3600,
            f"beat_s={self.beat_s}: expected 0 < s <= lease_s / 3": 0 < self.beat_s <= self.lease_s / 3,
            f"max_attempts={self.max_attempts}: expected 1 to 100": 1 <= self.max_attempts <= 100,
            f"backoff_s={self.backoff_s}: expected >= 0": self.backoff_s >= 0,
            f"most_backoff_s={self.most_backoff_s}: expected >= backoff_s": self.most_backoff_s >= self.backoff_s,
            f"limits={dict(self.limits)}: expected > 0 s each": all(limit > 0 for limit in self.limits.values()),
            f"step_limit_s={self.step_limit_s}: expected > 0": self.step_limit_s > 0,
            f"kill_after_s={self.kill_after_s}: expected > 0": self.kill_after_s > 0,
            f"tick_s={self.tick_s}: expected 0 < s <= 300": 0 < self.tick_s <= 300,
            f"kept={self.kept}: expected >= 1": self.kept >= 1,
        }.items():
            if not holds:
                raise ValueError(f"runs.{rule}")

    def limit_s(self, step: str) -> float:
        """How long this step may take."""
        return self.limits.get(step, self.step_limit_s)


def parse_limits(text: str) -> dict[str, float]:
    """Limits of steps by name, in s, from `train=43200,collect=3600`.

    Raises ValueError.

    >>> parse_limits("train=43200, gate=600")
    {'train': 43200.0, 'gate': 600.0}
    """
    limits: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, told = part.partition("=")
        try:
            limits[name.strip()] = float(told)
        except ValueError as error:
            raise ValueError(f"limits={text!r}: expected step=seconds, separated by commas") from error
        if not equals or not name.strip() or not 0 < limits[name.strip()] < float("inf"):
            raise ValueError(f"limits={text!r}: expected step=seconds, separated by commas")
    return limits


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


@dataclass(frozen=True, slots=True)
class RetrainSettings:
    """When models learn anew from clicks, and from which.

    anchor: a day on which a window begins, ISO 8601, at 00:00 UTC. days: of a retraining's window, which is how often
    there is one; collect_days: of a collection's; 0: none by itself. cool_down_days: after a retraining was asked
    for, before drift asks for another; 0: drift asks for none. source: whose clicks, `people` or `simulated`.
    clicks_within_s: how long after its answer a ranking's clicks count, and so how long after its end a window is
    closed. replay_lists: of older windows, that are learnt again with the new ones; 0 for none. replay_windows: how
    far back they come from. bias_error: relative standard error of estimated position bias, at most: a window where it
    is known worse teaches nothing. underpowered: 1 to start rollouts whose online gate may come to no answer.
    """

    anchor: str = "2026-01-05"
    days: float = 14.0
    collect_days: float = 7.0
    cool_down_days: float = 3.0
    source: str = "people"
    clicks_within_s: float = 3600.0
    replay_lists: int = 20_000
    replay_windows: int = 8
    bias_error: float = 0.3
    underpowered: int = 0

    def __post_init__(self) -> None:
        for rule, holds in {
            f"anchor={self.anchor!r}: expected a day, YYYY-MM-DD": _is_day(self.anchor),
            f"days={self.days:g}: expected 0 to 366": 0 <= self.days <= 366,
            f"collect_days={self.collect_days:g}: expected 0 to 366": 0 <= self.collect_days <= 366,
            f"cool_down_days={self.cool_down_days:g}: expected 0 to 366": 0 <= self.cool_down_days <= 366,
            f"source={self.source!r}: expected people or simulated": self.source in ("people", "simulated"),
            f"clicks_within_s={self.clicks_within_s:g}: expected 0.001 to 86400": 0.001
            <= self.clicks_within_s
            <= 86_400,
            f"replay_lists={self.replay_lists}: expected >= 0": self.replay_lists >= 0,
            f"replay_windows={self.replay_windows}: expected >= 0": self.replay_windows >= 0,
            f"bias_error={self.bias_error:g}: expected > 0": self.bias_error > 0,
            f"underpowered={self.underpowered}: expected 0 or 1": self.underpowered in (0, 1),
        }.items():
            if not holds:
                raise ValueError(f"retraining.{rule}")

    @property
    def anchor_ms(self) -> int:
        """Since the epoch."""
        return int(datetime.fromisoformat(self.anchor).replace(tzinfo=UTC).timestamp() * 1000)

    @property
    def window_ms(self) -> int:
        """Of a retraining that nobody gave a window."""
        return int((self.days or 14.0) * _DAY_MS)

    @property
    def part_ms(self) -> int:
        """Of the windows that a retraining's is collected in."""
        return int((self.collect_days or 7.0) * _DAY_MS)


def parse_retraining(text: str, anchor: str = "") -> RetrainSettings:
    """Settings by name, the others as they are by default. Raises ValueError saying what was expected.

    >>> parse_retraining("days=7, source=simulated").days
    7.0
    """
    told = _told(text, {name.name: name.type for name in fields(RetrainSettings) if name.name != "anchor"})
    if anchor:
        told["anchor"] = anchor
    return RetrainSettings(**told)


def parse_train(text: str) -> TrainSettings:
    """Settings by name, the others as they are by default; widths as `hidden=64:32`. Raises ValueError.

    >>> parse_train("hidden=8:4, loss=lambdaloss").hidden
    (8, 4)
    """
    kinds = {one.name: one.type for one in fields(TrainSettings)}
    return TrainSettings(**_told(text, kinds))


def _told(text: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name not in kinds or name in told:
            raise ValueError(f"{part}: expected name=value, each name once, of {', '.join(kinds)}")
        kind = kinds[name]
        try:
            if kind in (int, float, str):
                told[name] = kind(value)
            else:
                told[name] = tuple(int(width) for width in value.split(":") if width)
        except ValueError as error:
            raise ValueError(f"{part}: expected a number") from error
    return told


def _is_day(text: str) -> bool:
    try:
        return datetime.strptime(text, "%Y-%m-%d").strftime("%Y-%m-%d") == text
    except ValueError:
        return False
