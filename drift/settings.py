"""What the monitor can be told. Every value is checked when the process starts."""

from dataclasses import dataclass, field

import msgspec


class Rule(msgspec.Struct, frozen=True):
    """What a window is held against; each verdict carries its rule.

    min_lists: with fewer lists a window says nothing.
    effect_floor_sd: smallest shift of a mean that matters, in reference standard deviations.
    share_floor: smallest change of a missing or zero share that matters, absolute.
    alpha: chance that a window without any drift has a significant quantity, over all of them.
    """

    min_lists: int = 200
    effect_floor_sd: float = 0.1
    share_floor: float = 0.05
    alpha: float = 0.001

    def __post_init__(self) -> None:
        _require(self.min_lists >= 2, "min_lists", self.min_lists, "at least 2")
        _require(0 < self.effect_floor_sd <= 10, "effect_floor_sd", self.effect_floor_sd, "0 < sd <= 10")
        _require(0 < self.share_floor < 1, "share_floor", self.share_floor, "0 < share < 1")
        _require(0 < self.alpha < 1, "alpha", self.alpha, "0 < alpha < 1")


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """What the monitor goes by.

    window_s: length of a window, by the time events happened. lateness_s: how long after its end
    a window waits for stragglers. save_every_s: between snapshots; what arrived since comes again
    after a crash. entries_a_read: the most entries between two looks at the clock.
    """

    rule: Rule = field(default_factory=Rule)
    window_s: float = 300.0
    lateness_s: float = 60.0
    save_every_s: float = 5.0
    entries_a_read: int = 64
    wait_s: float = 1.0
    retry_s: float = 1.0

    def __post_init__(self) -> None:
        _require(1 <= self.window_s <= 86_400 * 31, "window_s", self.window_s, "1 <= s <= 2678400")
        _require(0 <= self.lateness_s <= 86_400, "lateness_s", self.lateness_s, "0 <= s <= 86400")
        _require(0 <= self.save_every_s <= 60, "save_every_s", self.save_every_s, "0 <= s <= 60")
        _require(1 <= self.entries_a_read <= 10_000, "entries_a_read", self.entries_a_read, "1 to 10000")
        _require(0 < self.wait_s <= 60, "wait_s", self.wait_s, "0 < s <= 60")
        _require(0 < self.retry_s <= 60, "retry_s", self.retry_s, "0 < s <= 60")


def _require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"monitor.{key}={value}: expected {rule}")
