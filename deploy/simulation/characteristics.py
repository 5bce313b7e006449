"""The operating characteristics of DECISIONS.md by id, and R, whole rollouts through the engine."""

from deploy.simulation.characteristic import Characteristic
from deploy.simulation.explored_logs import FromTheLog
from deploy.simulation.promotions import JudgedOffline, NoBetter, Planned, Preferred
from deploy.simulation.rollbacks import RolledBack
from deploy.simulation.sample_ratios import SampleRatio
from deploy.simulation.shifts import Confidence, FeatureDrift
from deploy.simulation.whole_rollouts import WholeRollouts
from drift.days.simulated import DayWorld

MILD, STRONG = DayWorld(weekly_sd=0.05), DayWorld(weekly_sd=0.2)

_ALL: tuple[Characteristic, ...] = (
    NoBetter("D1", "A/A, 14 daily looks, units clustered", lift=0.0, limit=0.05, reference="4.0%"),
    NoBetter("D2", "truly 0.8 % worse, 14 daily looks", lift=-0.008, limit=0.02, reference="1.1%"),
    Preferred(),
    Planned(),
    JudgedOffline(),
    FeatureDrift("D6", "200 features, 10,000 rows a day, mild seasonality (0.05 sd)", MILD, ("0.00", "100%", "5")),
    FeatureDrift("D7", "200 features, strong weekly seasonality (0.2 sd)", STRONG, ("0.00", "", "")),
    RolledBack(),
    SampleRatio(),
    FromTheLog(),
    Confidence(),
    WholeRollouts(),
)

CHARACTERISTICS: dict[str, Characteristic] = {one.id: one for one in _ALL}
