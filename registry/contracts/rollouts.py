"""Rollouts: a challenger's way from registered to champion, step by step, and the evidence it is held against.

A rollout is one row that changes by compare-and-set, always together with the traffic plan that it
speaks of. Evidence is a record of its own, made by whoever measured, named by the SHA-256 of its content:
what a decision stood on can be shown to be unchanged, and replayed.
"""

import hashlib
import re
from typing import Any, Literal, TypeVar

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError, InvalidName
from registry.contracts.gates import GateTerms
from registry.contracts.ids import model_name
from registry.contracts.traffic import WEIGHT_STEPS, Experiment, Kind

Verdict = Literal["passed", "failed", "inconclusive", "errored"]
"""Too little data is inconclusive, never passed; a measurement that broke is errored, never failed."""

RolloutState = Literal["running", "paused", "promoted", "rolled_back", "aborted", "superseded"]
"""rolled_back: on evidence, or by a rollback by hand. aborted: by hand. superseded: another version became
champion meanwhile, so that what it was held against is gone."""

ACTIVE: tuple[RolloutState, ...] = ("running", "paused")
"""Still on its way, its experiment in the plan."""

StepKind = Literal["gate", "mirror", "interleaving", "ab"]
"""gate: no traffic, loaded only. mirror: unseen by users. interleaving and ab: see `traffic.Kind`."""

Since = Literal["step", "rollout", "ever"]

DAY_S = 86400.0
T = TypeVar("T")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Need(msgspec.Struct, frozen=True):
    """Evidence without which a step is not left.

    since: `step`, measured on the step's own traffic; `rollout`, since the rollout began; `ever`, of these
    two versions, whenever (an offline gate's). max_age_s: counted from when it was made.
    """

    kind: str
    since: Since = "step"
    max_age_s: float = 3600.0

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if self.max_age_s <= 0:
            raise ContractError(f"need {self.kind!r}: max_age_s={self.max_age_s:g}: expected > 0")


class Step(msgspec.Struct, frozen=True):
    """One stage of a rollout.

    weight: units that get the challenger (of `interleaving`: drafted lists), mirror_share: champion's
    queries sent to it as well; steps of 0.1 %. min_s: how long it takes at least. min_answers: of either
    arm, before its guardrails can pass. max_s: rolled back if not left by then, None waits on.
    gate: what its online gate goes by; None: nobody judges its clicks, evidence has to be handed in.
    """

    name: str
    kind: StepKind
    weight: int = 0
    mirror_share: int = 0
    min_s: float = 0.0
    min_answers: int = 0
    needs: tuple[Need, ...] = ()
    max_s: float | None = None
    gate: GateTerms | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ContractError("a step needs a name")
        for holds, rule in (
            (0 <= self.weight < WEIGHT_STEPS, f"weight={self.weight}: expected 0 to {WEIGHT_STEPS - 1}; the last step"
                f" leads to {WEIGHT_STEPS} by promotion"),
            (0 <= self.mirror_share <= WEIGHT_STEPS, f"mirror_share={self.mirror_share}: expected 0 to {WEIGHT_STEPS}"),
            (self.kind in ("ab", "interleaving") or self.weight == 0, f"weight={self.weight}: a {self.kind} has none"),
            (self.kind not in ("ab", "interleaving") or self.weight > 0, f"weight=0: {self.kind} needs traffic"),
            (self.kind != "gate" or self.mirror_share == 0, f"mirror_share={self.mirror_share}: a gate has none"),
            (self.kind != "mirror" or self.mirror_share > 0, "mirror_share=0: a mirror needs a share of queries"),
            (self.min_s >= 0, f"min_s={self.min_s:g}: expected >= 0"),
            (self.min_answers >= 0, f"min_answers={self.min_answers}: expected >= 0"),
            (self.max_s is None or self.max_s > self.min_s, f"max_s={self.max_s}: expected more than min_s"),
            (self.gate is None or self.weight > 0, f"gate: a {self.kind} has no clicks to judge"),
            (self.gate is None or self.kind == "ab" or self.gate.margin == 0, "gate.margin: interleaving has none"),
            (self.gate is None or self.kind == "ab" or not self.gate.rollback_margin,
             "gate.rollback_margin: interleaving has none"),
            (self.gate is None or self.kind == "ab" or self.gate.least is None, "gate.least: interleaving has none"),
        ):  # fmt: skip
            if not holds:
                raise ContractError(f"step {self.name!r}: {rule}")

    @property
    def has_answers(self) -> bool:
        """Whether users get the challenger's answers in it, so that guardrails have what to count."""
        return self.weight > 0

    @property
    def gate_evidence(self) -> str:
        """The kind of evidence that its gate makes."""
        return "interleaving" if self.kind == "interleaving" else "online_gate"


class GuardrailLimits(msgspec.Struct, frozen=True):
    """How much worse than the champion's a challenger's answers may be in the same time.

    A share (failed, degraded) may be the champion's times `1 + ratio`, plus `share`; the p99 latency the
    champion's times `1 + p99_ratio`, plus `p99_ms`. alpha: chance at most that a step's guardrails, however
    often they are looked at, roll back a challenger that is within all limits. stale_s: counters older
    than this are no data.
    """

    failed_share: float = 0.005
    failed_ratio: float = 0.5
    degraded_share: float = 0.02
    degraded_ratio: float = 0.5
    p99_ratio: float = 0.25
    p99_ms: float = 10.0
    alpha: float = 0.01
    stale_s: float = 15.0

    def __post_init__(self) -> None:
        for name in ("failed_share", "failed_ratio", "degraded_share", "degraded_ratio", "p99_ratio", "p99_ms"):
            if getattr(self, name) < 0:
                raise ContractError(f"guardrails.{name}={getattr(self, name):g}: expected >= 0")
        if not 0 < self.alpha < 1:
            raise ContractError(f"guardrails.alpha={self.alpha:g}: expected 0 < chance < 1")
        if self.stale_s <= 0:
            raise ContractError(f"guardrails.stale_s={self.stale_s:g}: expected > 0")


class RolloutSpec(msgspec.Struct, frozen=True):
    """The plan of a rollout; leaving its last step is the promotion.

    holdback_weight, holdback_s: units that keep the old champion after the promotion, to measure the
    long run, and for how long; 0 for none. shadow_share: of the new champion's queries that the old one ranks too,
    unseen, for as long: how far the two disagree is watched with the new one's confidence. aa: the champion against
    itself, to see whether the gates are right: its verdicts are counted, and it never promotes anything.
    """

    steps: tuple[Step, ...]
    guardrails: GuardrailLimits = GuardrailLimits()
    holdback_weight: int = 10
    holdback_s: float = 14 * DAY_S
    aa: bool = False
    shadow_share: int = 10

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if not names:
            raise ContractError("a rollout needs a step")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ContractError(f"step {twice[0]!r} is there twice")
        if not 0 <= self.holdback_weight <= WEIGHT_STEPS // 2:
            raise ContractError(f"holdback_weight={self.holdback_weight}: expected 0 to {WEIGHT_STEPS // 2}")
        if not 0 <= self.shadow_share <= WEIGHT_STEPS:
            raise ContractError(f"shadow_share={self.shadow_share}: expected 0 to {WEIGHT_STEPS}")
        if self.holdback_s < 0:
            raise ContractError(f"holdback_s={self.holdback_s:g}: expected >= 0")

    @property
    def buckets(self) -> int:
        """Of a layer, what the largest step takes."""
        return max(step.weight for step in self.steps)

    @staticmethod
    def decode(raw: bytes) -> "RolloutSpec":
        """From JSON, as a user writes it. Raises ContractError naming what does not fit."""
        return _decode(raw, RolloutSpec, "a rollout spec")


PREFERENCE = GateTerms()
"""Interleaving: that people prefer it; a lift of 0.8 % is to be found."""

NOT_WORSE = GateTerms(margin=-0.02, effect=0.0)
"""A/B after interleaving has shown the preference: not worse by 2 %, so that an equal one passes."""

BETTER = GateTerms(effect=0.016, least=0.008)
"""A/B alone: better, and by 0.8 % at least as it was measured."""

ANY_BETTER = GateTerms()
"""A/B that asks for better, however little: of an A/A, which has to be wrong as often as alpha says."""

_SLACK_S = 2 * DAY_S  # after a gate's last look, for its evidence to come and be looked at


def default_spec(*, interleaving: bool = False, online_gate: bool = True) -> RolloutSpec:
    """Offline gate, mirror with rank-diff, interleaving if wanted, A/B at 10 % with the online gate, 25 %, 50 %.

    online_gate: False where nothing measures clicks; then guardrails alone decide on the ramp.
    A gate that has not passed when its looks are over ends the rollout.
    """
    preferred = (Need("interleaving", max_age_s=2 * DAY_S),)
    drafted = Step("interleaving", "interleaving", 100, 0, DAY_S, 1000, preferred, _patience(PREFERENCE), PREFERENCE)
    in_ab = Step("ab-10", "ab", 100, min_s=3600.0, min_answers=1000)
    if online_gate:
        terms = NOT_WORSE if interleaving else BETTER
        online = (Need("online_gate", max_age_s=2 * DAY_S),)
        in_ab = msgspec.structs.replace(in_ab, needs=online, max_s=_patience(terms), gate=terms)
    return RolloutSpec(
        (
            Step("offline-gate", "gate", needs=(Need("offline_gate", "ever", 30 * DAY_S),)),
            Step("mirror", "mirror", mirror_share=100, min_s=600.0, needs=(Need("rank_diff"),)),
            *((drafted,) if interleaving else ()),
            in_ab,
            Step("ramp-25", "ab", 250, min_s=3600.0, min_answers=1000),
            Step("ramp-50", "ab", 500, min_s=3600.0, min_answers=1000),
        )
    )


def aa_spec(
    weight: int = 100, interleaving: GateTerms = PREFERENCE, ab: GateTerms = ANY_BETTER, patience_s: float = _SLACK_S
) -> RolloutSpec:
    """The champion against itself: first interleaved, then as an A/B, each until its looks are over.

    patience_s: from a last look to the end of its step, for the verdict to come.
    """
    return RolloutSpec(
        (
            Step("aa-interleaving", "interleaving", weight, needs=(Need("interleaving", max_age_s=2 * DAY_S),),
                 max_s=interleaving.horizon_s + patience_s, gate=interleaving),
            Step("aa-ab", "ab", weight, needs=(Need("online_gate", max_age_s=2 * DAY_S),),
                 max_s=ab.horizon_s + patience_s, gate=ab),
        ),
        holdback_weight=0,
        aa=True,
    )  # fmt: skip


def _patience(terms: GateTerms) -> float:
    return terms.horizon_s + _SLACK_S


class Rollout(msgspec.Struct, frozen=True):
    """One rollout as it stands. Immutable; a change is a new revision.

    id: of its model and the plan revision that began it, so that it names one rollout for ever.
    revision: of this record, from 1. step: index in the spec's; of one that ended, where it was.
    champion, challenger: with their digests, as they were at the start; another champion supersedes it.
    experiment, layer, first: its place in the traffic plan, buckets from `first` on.
    plan_revision: the plan that brought the step's traffic; started_revision: the one that began it all.
    entered_ms: when the step began. holdback_until_ms: of a promoted one whose holdback goes on.
    """

    id: str
    model: str
    revision: int
    state: RolloutState
    spec: RolloutSpec
    step: int
    champion: int
    champion_digest: str
    challenger: int
    challenger_digest: str
    experiment: str
    layer: str
    first: int
    plan_revision: int
    started_revision: int
    started_ms: int
    entered_ms: int
    changed_ms: int
    holdback_until_ms: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.step < len(self.spec.steps):
            raise ContractError(f"rollout {self.id!r}: step={self.step}: expected 0 to {len(self.spec.steps) - 1}")
        if not 1 <= len(self.layer) <= 64:
            raise InvalidName(f"layer={self.layer[:70]!r}: expected 1 to 64 characters")

    @property
    def active(self) -> bool:
        """Running or paused."""
        return self.state in ACTIVE

    @property
    def open(self) -> bool:
        """Active, or promoted with a holdback that goes on: a controller still has to do with it."""
        return self.active or self.holdback_until_ms is not None

    @property
    def current_step(self) -> Step:
        """What it is in, or was in when it ended."""
        return self.spec.steps[self.step]

    @property
    def holdback(self) -> str:
        """The name that its holdback experiment has, if there is one."""
        return f"holdback-{self.started_revision}"

    def experiment_at(self, step: int) -> Experiment:
        """Its experiment as the step wants it."""
        wanted = self.spec.steps[step]
        kind: Kind = "interleaving" if wanted.kind == "interleaving" else "ab"
        return Experiment(
            self.experiment,
            self.challenger,
            self.challenger_digest,
            wanted.weight,
            self.first,
            kind,
            wanted.mirror_share,
        )

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "Rollout":
        """Raises ContractError naming what does not fit."""
        return _decode(raw, Rollout, "a rollout")


What = Literal[
    "started", "advanced", "paused", "resumed", "promoted", "rolled_back", "aborted", "superseded", "holdback_ended"
]


class RolloutChange(msgspec.Struct, frozen=True):
    """One line of a rollout's history: what it became, who decided it when and why, on what evidence (ids).

    plan_revision: of the traffic plan after the change.
    """

    rollout: Rollout
    what: What
    at_ms: int
    who: str
    why: str
    plan_revision: int
    evidence: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "RolloutChange":
        """Raises ContractError naming what does not fit."""
        return _decode(raw, RolloutChange, "a change of a rollout")


class Evidence(msgspec.Struct, frozen=True):
    """What was measured of a challenger against a champion, and what came of it.

    kind: `offline_gate`, `rank_diff`, `interleaving`, `online_gate`, `guardrails`, `drift`, `confidence`, or
    another word. plan_revision: of the plan whose traffic was measured, the lowest if several; None if
    none was. experiment: its name in that plan, empty if none. since_ms, until_ms: the window measured.
    body: plain JSON (lists, no tuples; what is no finite number becomes null); estimate, interval, sample, and
    the rule it was held against.
    """

    kind: str
    model: str
    champion: int
    champion_digest: str
    challenger: int
    challenger_digest: str
    verdict: Verdict
    made_ms: int
    since_ms: int
    until_ms: int
    plan_revision: int | None = None
    experiment: str = ""
    why: str = ""
    body: dict[str, Any] = {}

    def __post_init__(self) -> None:
        check_kind(self.kind)
        model_name(self.model)
        for field in ("champion_digest", "challenger_digest"):
            if not _DIGEST.fullmatch(getattr(self, field)):
                raise InvalidName(f"{field}={getattr(self, field)[:70]!r}: expected a version's digest, 64 hex digits")
        if self.until_ms < self.since_ms:
            raise ContractError(f"evidence {self.kind!r}: its window ends before it begins")

    @property
    def id(self) -> str:
        """SHA-256 of its canonical JSON, 64 digits: the same content is the same evidence."""
        return hashlib.sha256(self.encode()).hexdigest()

    def is_of(self, rollout: Rollout) -> bool:
        """Whether it compares the very two versions that the rollout does."""
        return (self.model, self.champion_digest, self.challenger_digest) == (
            rollout.model,
            rollout.champion_digest,
            rollout.challenger_digest,
        )

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "Evidence":
        """Raises ContractError naming what does not fit."""
        return _decode(raw, Evidence, "evidence")


def check_kind(kind: str) -> str:
    """The kind, if it may name evidence. Raises InvalidName."""
    if not _KIND.fullmatch(kind):
        raise InvalidName(f"kind={kind!r}: expected 1 to 32 of a-z, 0-9 and '_', starting with a letter")
    return kind


def _decode(raw: bytes, wanted: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(raw, type=wanted)
    except UNDECODABLE as error:
        raise ContractError(f"not {what}: {error}") from error
