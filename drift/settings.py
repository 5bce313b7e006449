"""What the monitor can be told. Every value is checked when the process starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

from drift.windows.segments import Segments

Correction = Literal["benjamini_hochberg", "holm", "bonferroni"]
"""See `drift.corrections`."""

_RANK_DIFF = "rank_diff"


class Rule(msgspec.Struct, frozen=True):
    """What a window is held against; each verdict carries its rule.

    min_lists: with fewer lists a window says nothing.
    effect_floor_sd: smallest shift of a mean that matters, in reference standard deviations.
    share_floor: smallest change of a missing or zero share that matters, absolute.
    alpha: chance that a window without any drift has a significant quantity, over all of them.
    correction: how p-values are corrected for how many quantities there are; each is weighted by its importance.
    """

    min_lists: int = 200
    effect_floor_sd: float = 0.1
    share_floor: float = 0.05
    alpha: float = 0.001
    correction: Correction = "benjamini_hochberg"

    def __post_init__(self) -> None:
        _require(self.min_lists >= 2, "min_lists", self.min_lists, "at least 2")
        _require(0 < self.effect_floor_sd <= 10, "effect_floor_sd", self.effect_floor_sd, "0 < sd <= 10")
        _require(0 < self.share_floor < 1, "share_floor", self.share_floor, "0 < share < 1")
        _require(0 < self.alpha < 1, "alpha", self.alpha, "0 < alpha < 1")
        known = get_args(Correction)
        _require(self.correction in known, "correction", self.correction, f"one of {', '.join(known)}")


class RankLimits(msgspec.Struct, frozen=True):
    """What a mirrored version's lists are held against; each verdict carries its limits.

    min_lists: with fewer a comparison says nothing. overlap_k: of how many first items. min_overlap:
    smallest mean overlap of the lists; a retrained version keeps most, another kind of model may not.
    max_error_share: of mirrored queries without a list. max_p99_ratio: of the mirrored queries' 99th
    percentile of latency to the answers'; mirrored ones stand back, so leave them room.
    fail_alpha: chance that a version just at a limit fails a look; looks are many and a failure rolls
    back, so it is small. pass_alpha: chance that one just past a limit passes a look.
    """

    min_lists: int = 200
    overlap_k: int = 10
    min_overlap: float = 0.3
    max_error_share: float = 0.01
    max_p99_ratio: float = 2.0
    fail_alpha: float = 0.001
    pass_alpha: float = 0.05

    def __post_init__(self) -> None:
        _require(self.min_lists >= 2, "min_lists", self.min_lists, "at least 2", _RANK_DIFF)
        _require(1 <= self.overlap_k <= 1000, "overlap_k", self.overlap_k, "1 to 1000", _RANK_DIFF)
        for key in ("min_overlap", "max_error_share"):
            _require(0 <= getattr(self, key) <= 1, key, getattr(self, key), "0 <= share <= 1", _RANK_DIFF)
        _require(0 < self.max_p99_ratio <= 1e6, "max_p99_ratio", self.max_p99_ratio, "0 < ratio <= 1e6", _RANK_DIFF)
        for key in ("fail_alpha", "pass_alpha"):
            _require(0 < getattr(self, key) < 0.5, key, getattr(self, key), "0 < alpha < 0.5", _RANK_DIFF)


@dataclass(frozen=True, slots=True)
class RankDiffSettings:
    """What the comparison of mirrored lists goes by.

    depth: how many items of a list are looked at. rbo_p: see `rank_agreement.rank_biased_overlap`.
    window_s, lateness_s, save_every_s, entries_a_read, wait_s, retry_s: as for the monitor.
    most_windows, most_steps: how many are kept at once; see `rank_diff`.
    """

    limits: RankLimits = field(default_factory=RankLimits)
    depth: int = 50
    rbo_p: float = 0.9
    window_s: float = 60.0
    lateness_s: float = 5.0
    save_every_s: float = 5.0
    entries_a_read: int = 64
    wait_s: float = 1.0
    retry_s: float = 1.0
    most_windows: int = 256
    most_steps: int = 64

    def __post_init__(self) -> None:
        _require(self.limits.overlap_k <= self.depth <= 1000, "depth", self.depth, "overlap_k to 1000", _RANK_DIFF)
        _require(0 < self.rbo_p < 1, "rbo_p", self.rbo_p, "0 < p < 1", _RANK_DIFF)
        _require(1 <= self.window_s <= 86_400, "window_s", self.window_s, "1 <= s <= 86400", _RANK_DIFF)
        _require(0 <= self.lateness_s <= 3600, "lateness_s", self.lateness_s, "0 <= s <= 3600", _RANK_DIFF)
        _require(0 <= self.save_every_s <= 60, "save_every_s", self.save_every_s, "0 <= s <= 60", _RANK_DIFF)
        _require(1 <= self.entries_a_read <= 10_000, "entries_a_read", self.entries_a_read, "1 to 10000", _RANK_DIFF)
        for key in ("wait_s", "retry_s"):
            _require(0 < getattr(self, key) <= 60, key, getattr(self, key), "0 < s <= 60", _RANK_DIFF)
        for key in ("most_windows", "most_steps"):
            _require(1 <= getattr(self, key) <= 10_000, key, getattr(self, key), "1 to 10000", _RANK_DIFF)


def parse_rank_diff(text: str) -> RankDiffSettings:
    """Settings and limits by name, the others as they are by default. Raises ValueError saying what was expected.

    >>> parse_rank_diff("min_overlap=0.5, window_s=30").limits.min_overlap
    0.5
    """
    told = _told(text, _TOLD)
    of_limits = {name: told.pop(name) for name in list(told) if name in RankLimits.__struct_fields__}
    return RankDiffSettings(RankLimits(**of_limits), **told)  # type: ignore[arg-type]


_TOLD: dict[str, type[int] | type[float]] = {
    "min_lists": int,
    "overlap_k": int,
    "min_overlap": float,
    "max_error_share": float,
    "max_p99_ratio": float,
    "fail_alpha": float,
    "pass_alpha": float,
    "depth": int,
    "rbo_p": float,
    "window_s": float,
    "lateness_s": float,
}


WEEK = 7


@dataclass(frozen=True, slots=True)
class ShiftSettings:
    """What closed days are held against: see `shift_watch`.

    day_s: length of a day block; a whole number of windows. min_lists: a day with fewer is not looked at.
    k, h: slack and threshold of the CUSUMs, in standard deviations of daily means; h grows when the family of
    charts is so large that it would raise more than `false_alarms_a_month` together.
    effect_floor_sd, share_floor: smallest shift that is alarmed on, of a mean in standard deviations of
    single values, and of a missing or zero share.
    anchor_days: that the anchor is laid from. min_days: known before a quiet day passes.
    settle_days: after a deploy, before the anchor is compared with again, and that the jump is measured over.
    quiet_days: below the floor, one after another, that close an alarm.
    spread: of standardised days, beyond the 1 that they should have: room for a standard deviation that was
    estimated from few days, and for days that remember each other. unknown_day_sd: taken for the spread
    between days before there is an anchor, in deviations of single values, and of shares as it is.
    """

    day_s: float = 86_400.0
    min_lists: int = 200
    k: float = 1.0
    h: float = 9.0
    effect_floor_sd: float = 0.1
    share_floor: float = 0.05
    false_alarms_a_month: float = 1.0
    anchor_days: int = 4 * WEEK
    min_days: int = WEEK
    settle_days: int = 3
    quiet_days: int = 3
    spread: float = 1.35
    unknown_day_sd: float = 0.05

    def __post_init__(self) -> None:
        for holds, key, rule in (
            (1 <= self.day_s <= 31 * 86_400, "day_s", "1 <= s <= 2678400"),
            (self.min_lists >= 2, "min_lists", "at least 2"),
            (0 < self.k <= 10, "k", "0 < sd <= 10"),
            (0 < self.h <= 1000, "h", "0 < sd <= 1000"),
            (0 < self.effect_floor_sd <= 10, "effect_floor_sd", "0 < sd <= 10"),
            (0 < self.share_floor < 1, "share_floor", "0 < share < 1"),
            (0 < self.false_alarms_a_month <= 1000, "false_alarms_a_month", "0 < alarms <= 1000"),
            (2 * WEEK <= self.anchor_days <= 366, "anchor_days", "14 to 366"),
            (1 <= self.min_days <= self.anchor_days, "min_days", "1 to anchor_days"),
            (1 <= self.settle_days <= 2 * WEEK, "settle_days", "1 to 14"),
            (1 <= self.quiet_days <= 31, "quiet_days", "1 to 31"),
            (1 <= self.spread <= 10, "spread", "1 <= sd <= 10"),
            (0 < self.unknown_day_sd <= 10, "unknown_day_sd", "0 < sd <= 10"),
        ):
            _require(holds, key, getattr(self, key), rule, "shift")

    @property
    def day_ms(self) -> int:
        """Length of a day block."""
        return round(self.day_s * 1000)


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """What the monitor goes by.

    window_s: length of a window, by the time events happened. lateness_s: how long after its end
    a window waits for stragglers. save_every_s: between snapshots; what arrived since comes again
    after a crash. entries_a_read: the most entries between two looks at the clock. shift: of closed days.
    segments: of models whose rankings are counted apart too, by model.
    """

    rule: Rule = field(default_factory=Rule)
    window_s: float = 300.0
    lateness_s: float = 60.0
    save_every_s: float = 5.0
    entries_a_read: int = 64
    wait_s: float = 1.0
    retry_s: float = 1.0
    shift: ShiftSettings = field(default_factory=ShiftSettings)
    segments: Mapping[str, Segments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(1 <= self.window_s <= 86_400 * 31, "window_s", self.window_s, "1 <= s <= 2678400")
        whole = self.shift.day_ms % round(self.window_s * 1000) == 0
        _require(whole, "window_s", self.window_s, f"a whole number of windows in a day of {self.shift.day_s:g} s")
        _require(0 <= self.lateness_s <= 86_400, "lateness_s", self.lateness_s, "0 <= s <= 86400")
        _require(0 <= self.save_every_s <= 60, "save_every_s", self.save_every_s, "0 <= s <= 60")
        _require(1 <= self.entries_a_read <= 10_000, "entries_a_read", self.entries_a_read, "1 to 10000")
        _require(0 < self.wait_s <= 60, "wait_s", self.wait_s, "0 < s <= 60")
        _require(0 < self.retry_s <= 60, "retry_s", self.retry_s, "0 < s <= 60")


def parse_monitor(text: str) -> MonitorSettings:
    """Settings of windows and days by name, the others as they are by default. Raises ValueError saying what was
    expected.

    >>> parse_monitor("window_s=5, day_s=60, min_lists=20").shift.day_s
    60.0
    """
    text, correction = _correction(text)
    told = _told(text, {**_OF_WINDOWS, **_OF_DAYS})
    of_windows = {name: told.pop(name) for name in list(told) if name in _OF_WINDOWS}
    rule = Rule(correction=correction)
    return MonitorSettings(rule, shift=ShiftSettings(**told), **of_windows)  # type: ignore[arg-type]


def _correction(text: str) -> tuple[str, Correction]:
    """The text without `correction=name`, and that name. Raises ValueError."""
    parts = [part.strip() for part in text.split(",")]
    named = [part.partition("=")[2].strip() for part in parts if part.partition("=")[0].strip() == "correction"]
    if not named:
        return text, Rule().correction
    known: dict[str, Correction] = {name: name for name in get_args(Correction)}
    if len(named) > 1 or named[0] not in known:
        raise ValueError(f"correction={' and '.join(named)}: expected one of {', '.join(known)}, once")
    return ",".join(part for part in parts if not part.startswith("correction")), known[named[0]]


_OF_WINDOWS: dict[str, type[int] | type[float]] = {"window_s": float, "lateness_s": float, "save_every_s": float}
_OF_DAYS: dict[str, type[int] | type[float]] = {
    "day_s": float,
    "min_lists": int,
    "k": float,
    "h": float,
    "effect_floor_sd": float,
    "share_floor": float,
    "false_alarms_a_month": float,
    "anchor_days": int,
    "min_days": int,
    "settle_days": int,
    "quiet_days": int,
}


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Evidently's reports of closed days.

    lists: that are looked at, of the day and of its reference. drawn: quantities that Evidently draws. kept: days of
    a model's arm whose report stays. each_day: 1 for a report of each closed day, 0 of those with an open alarm and
    of those that somebody asks for.
    """

    lists: int = 2000
    drawn: int = 24
    kept: int = 30
    each_day: int = 0

    def __post_init__(self) -> None:
        for holds, key, rule in (
            (100 <= self.lists <= 100_000, "lists", "100 to 100000"),
            (1 <= self.drawn <= 500, "drawn", "1 to 500"),
            (1 <= self.kept <= 400, "kept", "1 to 400"),
            (self.each_day in (0, 1), "each_day", "0 or 1"),
        ):
            _require(holds, key, getattr(self, key), rule, "report")


def parse_reports(text: str) -> ReportSettings:
    """Settings by name, the others as they are by default. Raises ValueError saying what was expected.

    >>> parse_reports("each_day=1").each_day
    1
    """
    return ReportSettings(**_told(text, dict.fromkeys(("lists", "drawn", "kept", "each_day"), int)))  # type: ignore[arg-type]


def _told(text: str, known: dict[str, type[int] | type[float]]) -> dict[str, float]:
    """`name=number` by name. Raises ValueError."""
    told: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name not in known or name in told:
            raise ValueError(f"{part}: expected name=number, each name once, of {', '.join(known)}")
        try:
            told[name] = known[name](value)
        except ValueError as error:
            raise ValueError(f"{part}: expected {'a whole number' if known[name] is int else 'a number'}") from error
    return told


def _require(holds: bool, key: str, value: object, rule: str, of: str = "monitor") -> None:
    if not holds:
        raise ValueError(f"{of}.{key}={value}: expected {rule}")
