"""A stream that a monitor reads, by a clock that is moved by hand: the same for every monitor."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from registry.contracts.events import Event, encode_event, join_events
from registry.stream import MemoryStream, RedisStream
from tests.builders import NOW_MS

AHEAD_MS = 7_200_000


class Steps(Protocol):
    """What monitors have in common."""

    def step(self, wait_s: float) -> int: ...

    def save(self) -> None: ...


M = TypeVar("M", bound=Steps)


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now_s: float = NOW_MS / 1000

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Monitored(ABC, Generic[M]):
    """Monitors over the stream can be started again."""

    stream: MemoryStream | RedisStream
    kept_in: Path
    clock: Clock = field(default_factory=Clock)

    @abstractmethod
    def start(self) -> M:
        """A new monitor under the name of the last; as if that had been killed."""

    def write(self, events: Sequence[Event], an_entry: int = 16) -> None:
        """Appends the events, some to an entry."""
        self.stream.append(
            [join_events([encode_event(e) for e in events[i : i + an_entry]]) for i in range(0, len(events), an_entry)]
        )

    def read_all(self, monitor: M) -> None:
        """Steps until one finds nothing to read."""
        while monitor.step(0):
            pass

    def read_after_a_clock_that_was_ahead(
        self, events: Callable[[int, int, int], Sequence[Event]], restarted: bool
    ) -> None:
        """An event while the clock is two hours ahead, and 25 s of them after it was set back, kept and read.

        events: so many, by a seed, from then on, ms since the epoch, ten a second.
        """
        monitor = self.start()
        self.clock.now_s += AHEAD_MS / 1000
        self.write(events(1, 32, NOW_MS + AHEAD_MS))
        self.read_all(monitor)
        monitor.save()
        self.clock.now_s -= AHEAD_MS / 1000
        monitor = self.start() if restarted else monitor
        self.read_all(monitor)

        self.write(events(250, 31, NOW_MS))
        self.clock.now_s += 25.0
        self.read_all(monitor)
