"""TrafficPlan: which version answers whom. Routing is a pure function of plan and unit.

Experiments lie in layers (Tang et al., KDD 2010). A layer hashes units with a salt of its own into
1000 buckets; the experiments of one layer take ranges of them that exclude each other, and different
layers are independent. A version ranks the whole list, so a unit is served by one experiment at most:
one that two layers would take gets the champion, outside of both. What is left is unbiased: in every
experiment, its arm and its control lose the same share of units to the other layers, by coins that
know nothing of its own.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.ids import hash64

Arm = Literal["champion", "challenger", "interleaved", "outside"]
"""champion: by the champion, the control of every experiment of the plan. challenger: by the version
of the experiment named. interleaved: by champion and that version, drafted into one list. outside: by
an override, or by the champion for a unit that two layers would take, or whose experiment's version is
away; in no comparison."""

Kind = Literal["ab", "interleaving", "holdback"]

WEIGHT_STEPS = 1000
EXPLORE_DEPTH = 20


class Experiment(msgspec.Struct, frozen=True):
    """A version that takes part of a model's traffic, beside the champion.

    name: what answers, events and evidence call it; unique in the plan.
    first, weight: its units are the layer's buckets from `first` on, `weight` of them: its share of
    units in steps of 0.1 %.
    kind: `ab`, its units get the version's list; `interleaving`, both versions' lists drafted into
    one; `holdback`, as `ab` with a version that was champion before, kept to measure the long run.
    mirror_share: share of the champion's queries also sent to the version, unseen by users; same steps.
    """

    name: str
    version: int
    digest: str
    weight: int = 0
    first: int = 0
    kind: Kind = "ab"
    mirror_share: int = 0

    def __post_init__(self) -> None:
        if not self.name:
            raise ContractError("an experiment needs a name")
        for field in ("weight", "mirror_share", "first"):
            _check_share(f"experiment {self.name!r}: {field}", getattr(self, field))
        if self.first + self.weight > WEIGHT_STEPS:
            raise ContractError(
                f"experiment {self.name!r}: first={self.first} and weight={self.weight} leave the layer's "
                f"{WEIGHT_STEPS} buckets"
            )

    @property
    def buckets(self) -> range:
        """Of its layer, those whose units are in its arm."""
        return range(self.first, self.first + self.weight)


class Layer(msgspec.Struct, frozen=True):
    """Experiments that exclude each other. salt: keep it while their weights grow, take another for
    the next ones, so that their arms know nothing of the arms before."""

    name: str
    salt: str
    experiments: tuple[Experiment, ...]

    def __post_init__(self) -> None:
        taken: set[int] = set()
        for experiment in self.experiments:
            if taken.intersection(experiment.buckets):
                raise ContractError(f"layer {self.name!r}: {experiment.name!r} takes buckets of another experiment")
            taken.update(experiment.buckets)

    def bucket_of(self, unit: str) -> int:
        """0 to 999, evenly, independent of other salts' buckets."""
        return hash64(f"{self.salt}\x00{unit}") % WEIGHT_STEPS

    def taker_of(self, unit: str) -> Experiment | None:
        """The experiment that would have the unit, if any."""
        bucket = self.bucket_of(unit)
        return next((one for one in self.experiments if one.first <= bucket < one.first + one.weight), None)


class Override(msgspec.Struct, frozen=True):
    """A tester's unit and the version that it gets, whatever the experiments."""

    unit: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a unit's queries get. experiment: the one whose arm it is in, None for the champion's arm."""

    arm: Arm
    version: int
    experiment: Experiment | None = None


class TrafficPlan(msgspec.Struct, frozen=True):
    """What gateways and workers of one model follow. Immutable; a change is a new revision.

    explore_share: share of the champion's and the challengers' lists, by a fresh coin each, in which one
    item of the first `explore_depth` changes places with one that is shown; steps of 0.1 %.
    digests: of the versions named, so that a worker loads exactly what was decided on.
    """

    model: str
    revision: int
    champion: int
    champion_digest: str
    layers: tuple[Layer, ...] = ()
    overrides: tuple[Override, ...] = ()
    explore_share: int = 0
    explore_depth: int = EXPLORE_DEPTH

    def __post_init__(self) -> None:
        _check_share("explore_share", self.explore_share)
        if self.explore_depth < 2:
            raise ContractError(f"explore_depth={self.explore_depth}: expected 2 items or more")
        for what, names in (
            ("layer", [layer.name for layer in self.layers]),
            ("experiment", [experiment.name for experiment in self.experiments]),
            ("override of unit", [override.unit for override in self.overrides]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ContractError(f"{what} {twice[0]!r} is there twice")
        digests: dict[int, str] = {}
        for version, digest in self._named():
            if not digest:
                raise ContractError(f"version {version} needs its digest")
            if digests.setdefault(version, digest) != digest:
                raise ContractError(f"version {version} is named with two digests")

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """Of all layers, in their order."""
        return tuple(experiment for layer in self.layers for experiment in layer.experiments)

    @property
    def challengers(self) -> tuple[Experiment, ...]:
        """Of versions that are tested beside the champion: no holdback, whose version had its turn, and no A/A, where
        both are the champion. A rollback takes these back first; the alias `challenger` is the first one's version."""
        return tuple(one for one in self.experiments if one.kind != "holdback" and one.digest != self.champion_digest)

    def experiment(self, name: str) -> Experiment | None:
        """By name."""
        return next((one for one in self.experiments if one.name == name), None)

    def assign(self, unit: str) -> Assignment:
        """The unit's arm, the same for every query while salts and ranges stay.

        A unit in an experiment's arm stays there when its weight grows. An empty unit is nobody's:
        it gets the champion, and counts in no analysis by unit.
        """
        if not unit or not (self.layers or self.overrides):
            return Assignment("champion", self.champion)
        for override in self.overrides:
            if override.unit == unit:
                return Assignment("outside", override.version)
        takers = [taker for layer in self.layers if (taker := layer.taker_of(unit))]
        if not takers:
            return Assignment("champion", self.champion)
        if len(takers) > 1:
            return Assignment("outside", self.champion)
        taker = takers[0]
        if taker.kind == "interleaving":
            return Assignment("interleaved", self.champion, taker)
        return Assignment("challenger", taker.version, taker)

    def versions(self) -> dict[int, str]:
        """Digest by version, for all versions that workers must hold; the champion first."""
        return dict(self._named())

    def _named(self) -> list[tuple[int, str]]:
        named = [(self.champion, self.champion_digest)]
        named += [(experiment.version, experiment.digest) for experiment in self.experiments]
        return named + [(override.version, override.digest) for override in self.overrides]

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "TrafficPlan":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=TrafficPlan)
        except UNDECODABLE as error:
            raise ContractError(f"not a traffic plan: {error}") from error


def _check_share(what: str, value: int) -> None:
    if not 0 <= value <= WEIGHT_STEPS:
        raise ContractError(f"{what}={value}: expected 0 to {WEIGHT_STEPS} steps of 0.1 %")
