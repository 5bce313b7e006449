"""ShiftRecord: what the newest closed day of a model's arm came to, for whoever decides on it.

The drift monitor writes it; retraining, the gate's validity check and rollouts read it. A day is a block
of `day_ms` by the time events happened (a UTC day, unless told otherwise).
"""

import re
from datetime import UTC, datetime
from typing import Literal

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.rollouts import Verdict
from registry.contracts.traffic import Arm

Family = Literal["features", "confidence"]
"""features: what goes in. confidence: how sure the ranker is, and how far it disagrees with its shadow;
a shift of it is no statement on quality."""

ShiftKind = Literal["mean", "missing_share", "zero_share"]

Against = Literal["anchor", "profile"]
"""anchor: a fixed stretch of days, weekday-matched, which retraining does not move. profile: what the version
was made on."""


class ShiftAlarm(msgspec.Struct, frozen=True):
    """A shift that is open: its CUSUM passed the threshold and its effect the floor, and it did not go since.

    quantity: a feature's name, or `ranking:margin`, `ranking:entropy`, `ranking:disagreement`.
    effect: the newest day's shift, signed, in standard deviations of single values (kind `mean`) or as a
    difference of shares. cusum: of the side it moved to, in standard deviations of daily means, and the
    threshold it was held against. importance: relative to the family's mean, 1 if nothing is known.
    onset_ms: start of the day from which the CUSUM grew; open_since_ms: end of the day that raised it.
    answered: the version's training profile looks as the traffic does now, so that retraining has answered
    it; shown until the anchor is laid anew, and no verdict fails for it.
    """

    quantity: str
    kind: ShiftKind
    against: Against
    effect: float
    cusum: float
    threshold: float
    importance: float
    onset_ms: int
    open_since_ms: int
    answered: bool = False


MOST_FIGURES = 20


class QuantityFigures(msgspec.Struct, frozen=True):
    """How a quantity of the day is spread beside the version's training profile: shown, never decided on.

    psi: population stability index in nats, less what chance makes of it (so it may be below 0). ks: Kolmogorov-Smirnov
    distance, in [0, 1]. wasserstein: in reference standard deviations. spread: logarithm of the standard deviation over
    the reference's. For features that are codes of categories, else None: jensen_shannon, in [0, 1], and new_share of
    values that the version was not made on, of which newcomers are the most frequent.
    """

    quantity: str
    psi: float
    ks: float
    wasserstein: float
    spread: float
    jensen_shannon: float | None = None
    new_share: float | None = None
    newcomers: tuple[str, ...] = ()


class RowAges(msgspec.Struct, frozen=True):
    """How old the stored rows of answers were, in seconds: half, 95 % and 99 % of lists lie below, by the mean of their
    rows; None where nothing was stored. lacking: share of what answers had to do without, by what (`stale_rows`, ...).
    """

    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    lacking: dict[str, float] = {}


class ShiftRecord(msgspec.Struct, frozen=True):
    """The verdict on a day of one model's arm.

    `failed`: an alarm is open that is not answered. `inconclusive`: none is, and the day has too few lists or
    too few days are known to say more. `errored`: nothing to compare with. why: in words, empty if it passed.
    since_ms, until_ms: the day; made_ms: when it was closed, by the event times (so that a day told again is
    the same record). days: closed days known of this arm, this one too. lists: of the day.
    alarms: all that are open, the weightiest first. false_alarms_a_month: that the family's thresholds
    are set for, over all its quantities together, in the whole and in all segments.
    segment: the part of the arm's rankings that it is of, empty for the whole. figures: of the quantities that differ
    most, `MOST_FIGURES` at most, and row_ages: shown, never decided on; the latter None without a sketch, as a segment
    and the family `confidence` are. anchor_since_ms, anchor_until_ms: the
    stretch that the anchor was laid from, both 0 before there is one.
    """

    model: str
    version: int
    arm: Arm
    family: Family
    verdict: Verdict
    why: str
    made_ms: int
    since_ms: int
    until_ms: int
    days: int
    lists: int
    alarms: tuple[ShiftAlarm, ...] = ()
    false_alarms_a_month: float = 0.0
    schema: int = 1
    figures: tuple[QuantityFigures, ...] = ()
    row_ages: RowAges | None = None
    segment: str = ""
    anchor_since_ms: int = 0
    anchor_until_ms: int = 0

    @property
    def report(self) -> str:
        """Path of the day's report at the control API: it is made when an alarm is open, or somebody asks for it."""
        return report_path(self.model, self.arm, self.version, self.since_ms)

    @property
    def open_alarms(self) -> tuple[ShiftAlarm, ...]:
        """Those that are not answered: what the verdict fails for."""
        return tuple(alarm for alarm in self.alarms if not alarm.answered)

    @property
    def open_since_ms(self) -> int | None:
        """When the oldest of them was raised, None without any."""
        return min((alarm.open_since_ms for alarm in self.open_alarms), default=None)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "ShiftRecord":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=ShiftRecord)
        except UNDECODABLE as error:
            raise ContractError(f"not a record of a shift: {error}") from error


class Rebaseline(msgspec.Struct, frozen=True):
    """Somebody declares that a model's features mean something else from a time on (their pipeline changed):
    the anchor is laid anew from the first day that begins then or later.

    from_ms: ms since the epoch. who, why: kept and shown.
    """

    model: str
    from_ms: int
    who: str
    why: str

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "Rebaseline":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=Rebaseline)
        except UNDECODABLE as error:
            raise ContractError(f"not a declared change: {error}") from error


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Items whose scores said much the same. predicted, observed: clicks an examined item, as the scores said and as
    they came; error: standard error of their difference. share: of all examined items."""

    predicted: float
    observed: float
    error: float
    share: float


class CalibrationRecord(msgspec.Struct, frozen=True):
    """Whether clicks of a collected window came as often as the version's scores said, by a mapping that was fitted
    on clicks before it. Shown, never decided on: no statement on how good the ranking is.

    verdict: `failed` if they differ by more than matters and than chance explains, `passed` if they cannot differ by
    that much, else `inconclusive`; why: in words. since_ms, until_ms: the window; fitted_since_ms, fitted_until_ms:
    what the mapping is of, 0 if there was nothing. simulated: a click model's clicks. lists, clicks: of the window.
    error, plain, by_chance: in clicks an examined item, ratio: clicks over those expected, see `drift.calibration`.
    """

    model: str
    version: int
    verdict: Verdict
    why: str
    since_ms: int
    until_ms: int
    fitted_since_ms: int
    fitted_until_ms: int
    simulated: bool
    lists: int
    clicks: int
    error: float
    plain: float
    by_chance: float
    ratio: float
    ratio_error: float
    bins: tuple[ReliabilityBin, ...]
    schema: int = 1

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "CalibrationRecord":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=CalibrationRecord)
        except UNDECODABLE as error:
            raise ContractError(f"not a record of calibration: {error}") from error


_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{8}T\d{9}Z")


def report_path(model: str, arm: str, version: int, since_ms: int) -> str:
    """Where the control API has the report of that day.

    >>> report_path("search", "challenger", 2, 86_400_000)
    '/v1/models/search/drift/reports/1970-01-02?arm=challenger-2'
    """
    path = f"/v1/models/{model}/drift/reports/{day_name(since_ms)}"
    return path if arm == "champion" else f"{path}?arm={arm}-{version}"


def day_name(since_ms: int) -> str:
    """A day by its start: a date if it begins at midnight UTC, else the moment, as files are named.

    >>> day_name(0), day_name(1)
    ('1970-01-01', '19700101T000000001Z')
    """
    if since_ms % 86_400_000 == 0:
        return f"{datetime.fromtimestamp(since_ms / 1000, UTC):%Y-%m-%d}"
    return f"{datetime.fromtimestamp(since_ms // 1000, UTC):%Y%m%dT%H%M%S}{since_ms % 1000:03}Z"


def day_of(name: str) -> int:
    """The start of the day with this name, ms since the epoch. Raises ContractError.

    >>> day_of("1970-01-02"), day_of("19700101T000000001Z")
    (86400000, 1)
    """
    try:
        if _DATE.fullmatch(name):
            return round(datetime.fromisoformat(name).replace(tzinfo=UTC).timestamp()) * 1000
        if _MOMENT.fullmatch(name):
            moment = datetime.strptime(name[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            return round(moment.timestamp()) * 1000 + int(name[15:18])
    except ValueError as error:
        raise ContractError(f"day={name!r}: {error}") from error
    raise ContractError(f"day={name[:32]!r}: expected a date, 2026-01-31, or a moment, 20260131T060000000Z")
