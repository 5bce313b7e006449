"""Windows that follow each other by the time events happened, not by the time they are read.

The watermark says up to when everything is thought to be in: the latest event's time less the
lateness allowed. Windows that end before it are closed; what still comes for them is late.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from drift.windows.reference import Reference
from drift.windows.window import Window, WindowKey, WindowState
from registry.contracts.events import RankingEvent

ReferenceOf = Callable[[str, int], Reference | None]


class OpenWindows:
    """reference_of: asked once for every window that opens, with model and version."""

    def __init__(self, window_ms: int, lateness_ms: int, reference_of: ReferenceOf, watermark_ms: int = 0) -> None:
        self._window_ms, self._lateness_ms, self._reference_of = window_ms, lateness_ms, reference_of
        self._open: dict[WindowKey, Window] = {}
        self.watermark_ms = watermark_ms

    def __len__(self) -> int:
        return len(self._open)

    def absorb(self, events: Sequence[RankingEvent], now_ms: int) -> Counter[str]:
        """Puts rankings where they belong, then moves the watermark.

        Returns how many were `absorbed`, how many `late`, and how many `misdated`: further ahead
        of the clock than lateness allows, so that one wrong clock cannot close everyone's windows.
        """
        outcomes: Counter[str] = Counter()
        by_key: defaultdict[WindowKey, list[RankingEvent]] = defaultdict(list)
        latest_ms = 0
        for event in events:
            key = self._key_of(event)
            if event.answered_ms > now_ms + self._lateness_ms:
                outcomes["misdated"] += 1
            elif key.end_ms <= self.watermark_ms:
                outcomes["late"] += 1
            else:
                outcomes["absorbed"] += 1
                by_key[key].append(event)
                latest_ms = max(latest_ms, event.answered_ms)
        for key, members in by_key.items():
            if key not in self._open:
                self._open[key] = Window(key, self._reference_of(key.model, key.version))
            self._open[key].absorb(members)
        self.advance(min(latest_ms, now_ms))
        return outcomes

    def advance(self, time_ms: int) -> None:
        """Everything up to this time has been read, but for what is late."""
        self.watermark_ms = max(self.watermark_ms, time_ms - self._lateness_ms)

    def close(self) -> list[Window]:
        """Takes out the windows that are over, oldest first."""
        over = sorted(key for key in self._open if key.end_ms <= self.watermark_ms)
        return [self._open.pop(key) for key in over]

    def states(self) -> tuple[WindowState, ...]:
        """For a snapshot."""
        return tuple(window.state() for window in self._open.values())

    def restore(self, states: Iterable[WindowState]) -> None:
        """Opens the windows of a snapshot."""
        for state in states:
            self._open[state.key] = Window.restore(state, self._reference_of(state.key.model, state.key.version))

    def _key_of(self, event: RankingEvent) -> WindowKey:
        start_ms = event.answered_ms // self._window_ms * self._window_ms
        return WindowKey(start_ms, start_ms + self._window_ms, event.model, event.version, event.arm)
