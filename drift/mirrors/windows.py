"""Mirrored queries in windows by event time, and in all since the step began.

A window that is over is judged, and then merged into its step. What comes late is counted in the step
at once, so that a late event is missing from a minute but not from what the rollout is decided on.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from drift.mirrors.rank_summary import UNKNOWN, Gauge, RankSummary, Standard, SummaryState
from drift.settings import RankDiffSettings
from registry.contracts.events import MirrorEvent

StandardOf = Callable[[str, int], Standard | None]
MOST_LATE_MS = 86_400_000  # a time further back is taken for a wrong clock


class Shadow(msgspec.Struct, frozen=True, order=True):
    """What is compared: an experiment's version with the champion, under one revision of the plan."""

    model: str
    experiment: str
    champion: int
    version: int
    plan_revision: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A summary over a time, ms since the epoch; the end is not part of it.

    first_ms: of the earliest event in it.
    """

    start_ms: int
    end_ms: int
    first_ms: int
    summary: RankSummary

    def merge(self, other: "Stretch") -> "Stretch":
        """Over both times."""
        return Stretch(
            start_ms=min(self.start_ms, other.start_ms),
            end_ms=max(self.end_ms, other.end_ms),
            first_ms=min(self.first_ms, other.first_ms),
            summary=self.summary.merge(other.summary),
        )


class StretchState(msgspec.Struct, frozen=True):
    """A shadow's stretch as a snapshot keeps it."""

    shadow: Shadow
    start_ms: int
    end_ms: int
    first_ms: int
    summary: SummaryState


class MirrorWindows:
    """standard_of: of a model's version, None if unknown; then it is asked again for the next window.

    Bounded: an event that would open one window too many is `crowded` and left out; of the steps, the
    one that was silent longest is forgotten.
    """

    def __init__(self, settings: RankDiffSettings, standard_of: StandardOf, watermark_ms: int = 0) -> None:
        self._settings, self._standard_of = settings, standard_of
        self._window_ms, self._lateness_ms = round(settings.window_s * 1000), round(settings.lateness_s * 1000)
        self._open: dict[tuple[int, Shadow], Stretch] = {}  # by start
        self._gauges: dict[Shadow, Gauge] = {}
        self._standards: dict[tuple[str, int], Standard] = {}
        self._steps: dict[Shadow, Stretch] = {}  # the longest silent first
        self.watermark_ms = watermark_ms

    def __len__(self) -> int:
        return len(self._open)

    def absorb(self, events: Sequence[MirrorEvent], now_ms: int) -> Counter[str]:
        """Puts events where they belong, then moves the watermark.

        Returns how many were `absorbed`, `late`, `crowded`, or `misdated`: further ahead of the clock
        than lateness allows, or more than a day behind it.
        """
        outcomes: Counter[str] = Counter()
        members: defaultdict[tuple[int, Shadow], list[MirrorEvent]] = defaultdict(list)
        latest_ms = 0
        for event in events:
            if not now_ms - MOST_LATE_MS <= event.mirrored_ms <= now_ms + self._lateness_ms:
                outcomes["misdated"] += 1
                continue
            members[event.mirrored_ms // self._window_ms * self._window_ms, _shadow(event)].append(event)
            latest_ms = max(latest_ms, event.mirrored_ms)
        for (start_ms, shadow), those in members.items():
            outcomes[self._count(start_ms, shadow, those)] += len(those)
        self.advance(min(latest_ms, now_ms))
        return outcomes

    def advance(self, time_ms: int) -> None:
        """Everything up to this time has been read, but for what is late."""
        self.watermark_ms = max(self.watermark_ms, time_ms - self._lateness_ms)

    def set_back(self, now_ms: int) -> bool:
        """Follows a clock that was set back: what is later than it would be late until the clock is there again.

        Returns whether there was anything to follow. The windows that start later than now are left out then.
        """
        if self.watermark_ms <= now_ms:
            return False
        self.watermark_ms = now_ms - self._lateness_ms
        for key in [key for key in self._open if key[0] > now_ms]:
            del self._open[key]
        return True

    def close(self) -> list[tuple[Shadow, Stretch, Stretch]]:
        """Takes out the windows that are over, oldest first; each with its step as it is with it."""
        over = sorted(key for key, window in self._open.items() if window.end_ms <= self.watermark_ms)
        closed = []
        for key in over:
            window, shadow = self._open.pop(key), key[1]
            closed.append((shadow, window, self._add_to_step(shadow, window)))
        if closed:
            self._gauges.clear()  # a profile that was missing may be there for the next window
        return closed

    def windows(self) -> tuple[StretchState, ...]:
        """For a snapshot."""
        return tuple(_state(shadow, window) for (_, shadow), window in self._open.items())

    def steps(self) -> tuple[StretchState, ...]:
        """For a snapshot."""
        return tuple(_state(shadow, step) for shadow, step in self._steps.items())

    def restore(self, windows: Iterable[StretchState], steps: Iterable[StretchState]) -> None:
        """What a snapshot holds. Raises ValueError if it was made with other measures or bins."""
        self._open = {(kept.start_ms, kept.shadow): _stretch(kept) for kept in windows}
        self._steps = {kept.shadow: _stretch(kept) for kept in steps}

    def _count(self, start_ms: int, shadow: Shadow, events: Sequence[MirrorEvent]) -> str:
        key, end_ms = (start_ms, shadow), start_ms + self._window_ms
        late = end_ms <= self.watermark_ms and key not in self._open
        if not late and key not in self._open and len(self._open) >= self._settings.most_windows:
            return "crowded"
        first_ms = min(event.mirrored_ms for event in events)
        counted = Stretch(start_ms, end_ms, first_ms, RankSummary.of(events, self._gauge(shadow)))
        if late:
            self._add_to_step(shadow, counted)
            return "late"
        self._open[key] = self._open[key].merge(counted) if key in self._open else counted
        return "absorbed"

    def _add_to_step(self, shadow: Shadow, counted: Stretch) -> Stretch:
        before = self._steps.pop(shadow, None)
        step = self._steps[shadow] = before.merge(counted) if before else counted
        while len(self._steps) > self._settings.most_steps:
            del self._steps[next(iter(self._steps))]
        return step

    def _gauge(self, shadow: Shadow) -> Gauge:
        if len(self._gauges) >= self._settings.most_windows:
            self._gauges.clear()
        if shadow not in self._gauges:
            self._gauges[shadow] = Gauge(
                depth=self._settings.depth,
                k=self._settings.limits.overlap_k,
                p=self._settings.rbo_p,
                champion=self._standard(shadow.model, shadow.champion),
                version=self._standard(shadow.model, shadow.version),
            )
        return self._gauges[shadow]

    def _standard(self, model: str, version: int) -> Standard:
        """Once found it is kept: versions do not change."""
        if (model, version) not in self._standards:
            found = self._standard_of(model, version)
            if found is None:
                return UNKNOWN
            if len(self._standards) >= self._settings.most_windows:
                self._standards.clear()
            self._standards[model, version] = found
        return self._standards[model, version]


def _shadow(event: MirrorEvent) -> Shadow:
    return Shadow(event.model, event.experiment, event.champion, event.version, event.plan_revision)


def _state(shadow: Shadow, stretch: Stretch) -> StretchState:
    return StretchState(shadow, stretch.start_ms, stretch.end_ms, stretch.first_ms, stretch.summary.state())


def _stretch(kept: StretchState) -> Stretch:
    return Stretch(kept.start_ms, kept.end_ms, kept.first_ms, RankSummary.restore(kept.summary))
