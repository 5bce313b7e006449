"""Takes queries off a version that fails on over half of them, until a probe succeeds.

    CLOSED --> OPEN (for a backoff that doubles) --> HALF_OPEN: one query a backoff is let through, the probe
       ^------------------------------------------------'   if it is answered

Replicas have `health` for what is wrong with one of them; this is for a version that fails wherever
it runs. A plain function of outcomes and clock.
"""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """Opens if more than error_share of at least least_outcomes within two windows failed."""

    error_share: float = 0.5
    least_outcomes: int = 20
    window_s: float = 2.5
    backoff_s: float = 1.0
    max_backoff_s: float = 30.0


class Breaker:
    """For one version. now_s: of one clock throughout, seconds."""

    def __init__(self, rule: BreakerRule | None = None) -> None:
        self._rule = rule or BreakerRule()
        self._window_began_s = float("-inf")
        self._now, self._before = [0, 0], [0, 0]  # outcomes and failures, of this window and the one before
        self._open_until_s: float | None = None
        self._backoff_s, self._probing = self._rule.backoff_s, False

    def __repr__(self) -> str:
        return f"<Breaker [{self.state.name}]>"

    @property
    def state(self) -> State:
        """Half open while a probe is under way."""
        if self._open_until_s is None:
            return State.CLOSED
        return State.HALF_OPEN if self._probing else State.OPEN

    @property
    def is_open(self) -> bool:
        """Whether queries go elsewhere."""
        return self._open_until_s is not None

    def lets_through(self, now_s: float) -> bool:
        """Whether a query may go to the version; if it is open and the backoff is over, this one is the probe."""
        if self._open_until_s is None:
            return True
        if now_s < self._open_until_s:
            return False
        self._open_until_s, self._probing = now_s + self._backoff_s, True  # no other until then, whatever it comes to
        return True

    def count(self, failed: bool, now_s: float) -> None:
        """One more outcome of the version. While it is open only a probe's counts, or a straggler's in its place; and
        the first once the backoff is over: where nobody else could answer, queries are sent without asking."""
        rule = self._rule
        if self._open_until_s is not None:
            if self._probing or now_s >= self._open_until_s:
                self._probing = False
                self._judge_probe(failed, now_s)
            return
        if now_s - self._window_began_s >= rule.window_s:
            follows = now_s - self._window_began_s < 2 * rule.window_s
            self._before = self._now if follows else [0, 0]
            self._window_began_s, self._now = now_s, [0, 0]
        self._now[0] += 1
        self._now[1] += failed
        outcomes, failures = self._now[0] + self._before[0], self._now[1] + self._before[1]
        if outcomes >= rule.least_outcomes and failures > rule.error_share * outcomes:
            self._open_until_s = now_s + self._backoff_s

    def _judge_probe(self, failed: bool, now_s: float) -> None:
        if failed:
            self._backoff_s = min(self._rule.max_backoff_s, 2 * self._backoff_s)
            self._open_until_s = now_s + self._backoff_s
        else:
            self._open_until_s, self._backoff_s = None, self._rule.backoff_s
            self._now, self._before = [0, 0], [0, 0]
