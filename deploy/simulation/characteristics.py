"""The operating characteristics of DECISIONS.md, by id."""

from deploy.simulation.characteristic import Characteristic
from deploy.simulation.promotions import JudgedOffline, NoBetter, Planned, Preferred
from deploy.simulation.rollbacks import RolledBack

_ALL: tuple[Characteristic, ...] = (
    NoBetter("D1", "A/A, 14 daily looks, units clustered", lift=0.0, limit=0.05, reference="4.0%"),
    NoBetter("D2", "truly 0.8 % worse, 14 daily looks", lift=-0.008, limit=0.02, reference="1.1%"),
    Preferred(),
    Planned(),
    JudgedOffline(),
    RolledBack(),
)

CHARACTERISTICS: dict[str, Characteristic] = {one.id: one for one in _ALL}
