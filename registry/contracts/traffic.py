"""TrafficPlan: which version answers whom. Routing is a pure function of plan and unit."""

from typing import Literal

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.ids import hash64

Arm = Literal["champion", "challenger"]

WEIGHT_STEPS = 1000


class TrafficPlan(msgspec.Struct, frozen=True):
    """What gateways and workers of one model follow. Immutable; a change is a new revision.

    weight: the challenger's share of units, in steps of 0.1 % (0 to 1000).
    mirror_share: share of queries also sent to the challenger, unseen by users, same steps.
    salt: makes arms of different experiments independent of each other.
    digests: of the versions named, so that a worker loads exactly what was decided on.
    """

    model: str
    revision: int
    champion: int
    champion_digest: str
    challenger: int | None = None
    challenger_digest: str | None = None
    weight: int = 0
    mirror_share: int = 0
    interleaving: bool = False
    salt: str = ""

    def __post_init__(self) -> None:
        for field in ("weight", "mirror_share"):
            value = getattr(self, field)
            if not 0 <= value <= WEIGHT_STEPS:
                raise ContractError(f"{field}={value}: expected 0 to {WEIGHT_STEPS} steps of 0.1 %")
        if self.challenger is None and (self.weight or self.mirror_share or self.interleaving):
            raise ContractError("weight, mirror_share and interleaving need a challenger")
        if (self.challenger is None) != (self.challenger_digest is None):
            raise ContractError("a challenger needs its digest")
        if self.challenger == self.champion:
            raise ContractError(f"version {self.champion} cannot be champion and challenger at once")

    def arm_of(self, unit: str) -> Arm:
        """The unit's arm, the same for every query while salt and weight stay.

        A unit in the challenger's arm stays there when the weight grows.
        """
        if not self.weight:
            return "champion"
        bucket = hash64(f"{self.salt}\x00{unit}") % WEIGHT_STEPS
        return "challenger" if bucket < self.weight else "champion"

    def version_of(self, arm: Arm) -> int:
        """Which version serves the arm. Raises ContractError if the plan has no such arm."""
        if arm == "champion":
            return self.champion
        if self.challenger is None:
            raise ContractError(f"plan {self.revision} of {self.model!r} has no challenger")
        return self.challenger

    def versions(self) -> dict[int, str]:
        """Digest by version, for all versions that workers must hold."""
        wanted = {self.champion: self.champion_digest}
        if self.challenger is not None and self.challenger_digest is not None:
            wanted[self.challenger] = self.challenger_digest
        return wanted

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
