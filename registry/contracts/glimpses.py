"""Glimpse: a few of the answers as they go out, for a person who watches.

A sample for eyes, bounded in number and kept for minutes. Nothing is decided or counted by it, and it names nobody:
neither unit nor query is in it, nor what was asked.
"""

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.traffic import Arm


class Glimpse(msgspec.Struct, frozen=True):
    """One answer. experiment: as in `RankingEvent`. items, scores: the first few shown, best first.

    shown: how many items the whole list has. stages_ms: by stage, see `counters.STAGES`.
    """

    ranking_id: str
    answered_ms: int
    model: str
    version: int
    arm: Arm
    experiment: str
    plan_revision: int
    candidates: int
    shown: int
    items: tuple[str, ...]
    scores: tuple[float | None, ...]
    degraded: tuple[str, ...]
    stages_ms: dict[str, float]

    def encode(self) -> bytes:
        """JSON; a score that is no number becomes null."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(raw: bytes) -> "Glimpse":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=Glimpse)
        except UNDECODABLE as error:
            raise ContractError(f"not a glimpse: {error}") from error
