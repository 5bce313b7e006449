"""Windows that follow each other by the time events happened, not by the time they are read.

The watermark says up to when everything is thought to be in: the latest event's time less the
lateness allowed. Windows that end before it are closed; what still comes for them is late.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import groupby

import msgspec

from drift.windows.counted import Counted
from drift.windows.reference import Reference
from drift.windows.segments import Segments
from drift.windows.sketched import KeptSketch, OpenSketches
from drift.windows.window import Window, WindowKey, WindowState
from registry.contracts.events import Ranked

ReferenceOf = Callable[[str, int], Reference | None]
MOST_WINDOWS = 4096  # 200 MB, of 200 features


class OpenWindows:
    """reference_of: asked once for every window that opens, with model and version. counted: what is in the windows.

    segments: of models whose rankings are counted apart; most_windows: that are open at once, past which rankings
    that would open another are left out, so that memory is bounded by what the windows' profiles are like.
    """

    def __init__(
        self,
        window_ms: int,
        lateness_ms: int,
        reference_of: ReferenceOf,
        watermark_ms: int = 0,
        counted: Counted | None = None,
        segments: Mapping[str, Segments] | None = None,
        most_windows: int = MOST_WINDOWS,
    ) -> None:
        self._window_ms, self._lateness_ms, self._reference_of = window_ms, lateness_ms, reference_of
        self._segments, self._most_windows = segments or {}, most_windows
        self._open: dict[WindowKey, Window] = {}
        self._references: dict[WindowKey, Reference | None] = {}  # of windows that are open, without their segment
        self._sketches = OpenSketches()
        self.counted = Counted() if counted is None else counted
        self.watermark_ms = watermark_ms

    def __len__(self) -> int:
        return len(self._open)

    def absorb(self, rankings: Sequence[Ranked], now_ms: int) -> Counter[str]:
        """Puts rankings where they belong, then moves the watermark.

        Returns how many were `absorbed`, `repeated`, `late`, `crowded` out of too many windows, and `misdated`:
        further ahead of the clock than lateness allows, so that one wrong clock cannot close everyone's windows.
        """
        outcomes: Counter[str] = Counter()
        groups: defaultdict[tuple[int, str, int, str], list[Ranked]] = defaultdict(list)
        newest_ms, window_ms, is_new = now_ms + self._lateness_ms, self._window_ms, self.counted.is_new
        open_from_ms = self._open_from_ms()
        latest_ms = 0
        for ranking in rankings:
            answered_ms = ranking.answered_ms
            if answered_ms > newest_ms:
                outcomes["misdated"] += 1
            elif answered_ms < open_from_ms:
                outcomes["late"] += 1
            elif not is_new(ranking.ranking_id, answered_ms):
                outcomes["repeated"] += 1
            else:
                start_ms = answered_ms - answered_ms % window_ms
                groups[start_ms, ranking.model, ranking.version, ranking.arm].append(ranking)
                if answered_ms > latest_ms:
                    latest_ms = answered_ms
        for (start_ms, model, version, arm), members in groups.items():
            crowded = self._put(WindowKey(start_ms, start_ms + window_ms, model, version, arm), members)
            if not crowded:
                whole = WindowKey(start_ms, start_ms + window_ms, model, version, arm)
                self._sketches.absorb(whole, members, self._references[whole])
            outcomes += Counter(crowded=crowded, absorbed=len(members) - crowded)  # those that there were
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
        for key in [key for key in self._open if key.start_ms > now_ms]:
            del self._open[key]
            self._references.pop(_whole(key), None)
            self._sketches.take(_whole(key))
        return True

    def close(self) -> list[Window]:
        """Takes out the windows that are over, oldest first; those of segments after the whole that they make up."""
        over = sorted(key for key in self._open if key.end_ms <= self.watermark_ms)
        closed: list[Window] = []
        for whole, keys in groupby(over, key=_whole):
            self._references.pop(whole, None)
            parts = [self._open.pop(key) for key in keys]
            united = parts[0] if not parts[0].key.segment else Window(whole, parts[0].reference).merge(parts[0])
            united = reduce(Window.merge, parts[1:], united)
            united.sketch = self._sketches.take(whole)
            closed.append(united)
            closed += [part for part in parts if part.key.segment]
        if over:
            self.counted.forget(self._open_from_ms())
        return closed

    def states(self) -> tuple[WindowState, ...]:
        """For a snapshot."""
        return tuple(window.state() for window in self._open.values())

    def sketches(self) -> tuple[KeptSketch, ...]:
        """For a snapshot."""
        return self._sketches.states()

    def restore(self, states: Iterable[WindowState], sketches: Iterable[KeptSketch] = ()) -> None:
        """Opens the windows of a snapshot, and their sketches."""
        for state in states:
            whole = _whole(state.key)
            if whole not in self._references:
                self._references[whole] = self._reference_of(whole.model, whole.version)
            self._open[state.key] = Window.restore(state, self._references[whole])
        self._sketches.restore(sketches, self._references)

    def _put(self, key: WindowKey, members: list[Ranked]) -> int:
        """Into the window, or those of its segments; how many there was no room for."""
        if key not in self._references:
            if len(self._open) >= self._most_windows:
                return len(members)
            self._references[key] = self._reference_of(key.model, key.version)
        segments, reference = self._segments.get(key.model), self._references[key]
        if segments is None:
            return self._absorb(key, members, reference)
        parts: defaultdict[str, list[Ranked]] = defaultdict(list)
        for name, ranking in zip(segments.of(members, reference), members, strict=True):
            parts[name].append(ranking)
        return sum(
            self._absorb(msgspec.structs.replace(key, segment=name), part, reference) for name, part in parts.items()
        )

    def _absorb(self, key: WindowKey, members: list[Ranked], reference: Reference | None) -> int:
        if key not in self._open:
            if len(self._open) >= self._most_windows:
                return len(members)
            self._open[key] = Window(key, reference)
        self._open[key].absorb(members)
        return 0

    def _open_from_ms(self) -> int:
        """Where the first window starts that is not over."""
        return self.watermark_ms - self.watermark_ms % self._window_ms


def _whole(key: WindowKey) -> WindowKey:
    """Of which it is a segment, if it is one."""
    return msgspec.structs.replace(key, segment="") if key.segment else key
