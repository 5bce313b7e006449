"""Which windows are due, which runs may be taken up: pure functions of records and a clock.

Windows are counted from an anchor in whole periods of UTC milliseconds: [anchor + k * period, anchor + (k + 1) *
period). No calendar and no "last run" is in it, so that neither daylight saving time nor a restart moves a window,
and a clock that is set back meets windows that have their run already.

A clock that was ahead is worse: it made runs of windows that are not over. Such a run is recognised by
its window once the clock is right again, made void (`run_moves.void`), and its window is run when it is over.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry.contracts.runs import Run, RunKind
from registry.run_moves import free, held

DAY_MS = 86_400_000
HOUR_MS = 3_600_000

STEPS: Mapping[RunKind, tuple[str, ...]] = {
    "collect": ("collect",),
    "retrain": ("collect", "dataset", "train", "export", "gate", "register", "rollout"),
}
"""The steps of each kind of run, in their order."""


@dataclass(frozen=True, slots=True, order=True)
class RunWindow:
    """since_ms <= t < until_ms, ms since the epoch, UTC."""

    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Period:
    """How often, and from when on.

    anchor_ms: where a window begins. period_ms: its length. settle_ms: how long after its end a window is closed, for
    events that come late. newest_only: of several that were missed (nobody was there) only the newest is run: a
    retraining learns from everything that was collected, so it makes up for those before. Else all are,
    oldest first, but at_most.
    """

    anchor_ms: int
    period_ms: int
    settle_ms: int = 0
    newest_only: bool = False
    at_most: int = 8

    def __post_init__(self) -> None:
        for rule, holds in {
            f"period_ms={self.period_ms}: expected > 0": self.period_ms > 0,
            f"settle_ms={self.settle_ms}: expected >= 0": self.settle_ms >= 0,
            f"at_most={self.at_most}: expected >= 1": self.at_most >= 1,
        }.items():
            if not holds:
                raise ValueError(f"schedule.{rule}")

    def window(self, index: int) -> RunWindow:
        """The window number index, which may be negative."""
        since_ms = self.anchor_ms + index * self.period_ms
        return RunWindow(since_ms, since_ms + self.period_ms)

    def newest_closed(self, now_ms: int) -> int:
        """Number of the newest window that is closed."""
        return (now_ms - self.settle_ms - self.anchor_ms) // self.period_ms - 1

    def within(self, since_ms: int, until_ms: int) -> list[RunWindow]:
        """All windows that lie wholly in this span, oldest first."""
        first = -(-(since_ms - self.anchor_ms) // self.period_ms)
        after = (until_ms - self.anchor_ms) // self.period_ms
        return [self.window(index) for index in range(first, after)]


def due_windows(period: Period, now_ms: int, known: Collection[RunWindow], born_ms: int) -> list[RunWindow]:
    """The windows to run now, oldest first; none that is known, none that is not closed.

    born_ms: when the model was first served; nothing happened in windows that were over by then, nor does a window
    before the anchor count.

    >>> weekly = Period(anchor_ms=0, period_ms=7 * DAY_MS)
    >>> [window.since_ms // DAY_MS for window in due_windows(weekly, 22 * DAY_MS, [weekly.window(1)], born_ms=1)]
    [0, 14]
    """
    newest = period.newest_closed(now_ms)
    first = max(0, newest + 1 - (1 if period.newest_only else period.at_most))
    windows = (period.window(index) for index in range(first, newest + 1))
    return [window for window in windows if window.until_ms > born_ms and window not in known]


def missed_windows(period: Period, window: RunWindow, known: Collection[RunWindow], born_ms: int) -> int:
    """How many windows before this one have no run, back to the newest that has one."""
    missed, index = 0, (window.since_ms - period.anchor_ms) // period.period_ms - 1
    while index >= 0 and (before := period.window(index)) not in known and before.until_ms > born_ms:
        missed, index = missed + 1, index - 1
    return missed


def newest_window(period_ms: int, now_ms: int) -> RunWindow:
    """The period up to the last full hour, for whoever asks for a retraining without saying of what: asked twice
    within the hour, it is the same window."""
    until_ms = now_ms - now_ms % HOUR_MS
    return RunWindow(until_ms - period_ms, until_ms)


def before_their_time(runs: Iterable[Run], now_ms: int) -> list[Run]:
    """Runs of windows that are not over: a clock was ahead when they were made."""
    return [run for run in runs if run.state != "void" and run.until_ms > now_ms]


def startable(runs: Sequence[Run], now_ms: int, lease_ms: int) -> list[Run]:
    """Those to be taken up now, at most one of a model and kind: one that is under way and was let go of or
    lost its worker, else the oldest window that waits, unless another is being worked on."""
    chosen: dict[tuple[str, RunKind], Run] = {}
    busy = {(run.model, run.kind) for run in runs if held(run, now_ms, lease_ms)}
    in_order = sorted(runs, key=lambda run: (run.state != "running", run.until_ms, run.created_ms, run.id))
    for run in in_order:
        key = (run.model, run.kind)
        if key not in busy and key not in chosen and free(run, now_ms, lease_ms):
            chosen[key] = run
    return list(chosen.values())


def backoff_ms(attempts: int, base_ms: int, most_ms: int) -> int:
    """How long to wait after so many attempts that failed: four times longer each.

    >>> [backoff_ms(n, 1000, 60_000) for n in (1, 2, 3, 9)]
    [1000, 4000, 16000, 60000]
    """
    waits: int = base_ms * 4 ** min(attempts - 1, 20)
    return min(most_ms, waits)
