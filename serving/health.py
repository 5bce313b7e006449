"""Which replicas get queries: those far worse than their peers are left out for a while, then tried again.

A plain function of outcomes and clock; it sends nothing and starts nothing.

What counts as a failure (`link` tells): the replica's own 5xx, its lost connection, a deadline that
passed in its queue, a silence (`silence`). Never a 4xx, a caller who left, a version unloaded meanwhile, or
a remote server that is away. A query or a version that fails on every replica ejects none of them: a
replica is only ejected for failing while its peers do not.

    IN --> EJECTED (for a backoff that doubles) --> PROBED (one query at a time) --> IN
                ^--------------------------------------------'   if the probe fails
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class HealthRules:
    """failures_in_a_row, or error_share of at least least_outcomes within two windows, ejects; so
    does answering slow_factor times slower than the median of the peers, and slow_s at least.

    An ejected replica comes back after backoff_s, doubled every time it has to go again, up to
    max_backoff_s; after max_backoff_s without an ejection it starts over. No more than
    ejected_share of the replicas are out at once.
    """

    failures_in_a_row: int = 5
    error_share: float = 0.5
    least_outcomes: int = 20
    window_s: float = 5.0
    slow_factor: float = 5.0
    slow_s: float = 0.05
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    ejected_share: float = 0.5


class Condition(Enum):
    """Where a replica stands."""

    IN = "in"
    EJECTED = "ejected"
    PROBED = "probed"


@dataclass(slots=True)
class ReplicaHealth:
    """What is known of one replica; counts of this window and the one before."""

    in_a_row: int = 0
    window_began_s: float = float("-inf")
    outcomes: int = 0
    failures: int = 0
    outcomes_before: int = 0
    failures_before: int = 0
    usual_s: float = 0.0  # moving average of the time to an answer, 0 before the first
    ejected_until_s: float | None = None
    ejections: int = 0  # in a row: sets the backoff
    ejected_last_s: float = float("-inf")
    probing: bool = False

    def share_failed(self) -> tuple[float, int]:
        """Of how many recent outcomes which share failed."""
        outcomes = self.outcomes + self.outcomes_before
        return ((self.failures + self.failures_before) / outcomes if outcomes else 0.0), outcomes

    def count(self, failed: bool, now_s: float, window_s: float) -> None:
        """One more outcome."""
        if now_s - self.window_began_s >= window_s:
            follows = now_s - self.window_began_s < 2 * window_s
            self.outcomes_before, self.failures_before = (self.outcomes, self.failures) if follows else (0, 0)
            self.window_began_s, self.outcomes, self.failures = now_s, 0, 0
        self.outcomes += 1
        if failed:
            self.failures += 1
            self.in_a_row += 1
        else:
            self.in_a_row = 0


class FleetHealth:
    """The health of all replicas that a gateway knows, by address. Of a lone one nothing is counted:
    there is no peer to do better, and it is never left out."""

    def __init__(self, rules: HealthRules | None = None) -> None:
        self._rules = rules or HealthRules()
        self._of: dict[str, ReplicaHealth] = {}

    def follow(self, addresses: Collection[str]) -> None:
        """Takes the addresses there are now; a new one is in, one that is gone is forgotten."""
        self._of = {address: self._of.get(address) or ReplicaHealth() for address in addresses}

    def succeeded(self, address: str, took_s: float, now_s: float) -> None:
        """A query was answered (a 4xx is an answer) so long after it was sent."""
        health = self._of.get(address)
        if health is None:
            return
        if len(self._of) < 2:
            health.probing = False
            return
        rules = self._rules
        health.count(False, now_s, rules.window_s)
        health.usual_s += (took_s - health.usual_s) * (0.05 if health.usual_s else 1.0)
        if health.ejected_until_s is not None:
            if now_s >= health.ejected_until_s:  # not an answer from before it was ejected
                self._let_in(health)
        elif health.outcomes % rules.least_outcomes == 0 and self._is_slow(address, health):
            self._eject(health, now_s)

    def failed(self, address: str, now_s: float) -> None:
        """A query failed on the replica."""
        health = self._of.get(address)
        if health is None:
            return
        if len(self._of) < 2:
            health.probing = False
            return
        health.count(True, now_s, self._rules.window_s)
        if health.ejected_until_s is not None:
            if now_s >= health.ejected_until_s:  # the probe
                self._put_out(health, now_s)
        elif self._is_failing(health) and not self._peers_fail(health):
            self._eject(health, now_s)

    def condition(self, address: str, now_s: float) -> Condition:
        """Where the replica stands now; one that is not known is in."""
        health = self._of.get(address)
        if health is None or health.ejected_until_s is None:
            return Condition.IN
        return Condition.EJECTED if now_s < health.ejected_until_s else Condition.PROBED

    def may_get(self, address: str, now_s: float) -> bool:
        """Whether a query may go to the replica: it is in, or due for a probe that is not out yet."""
        health = self._of.get(address)
        if health is None or health.ejected_until_s is None:
            return True
        return now_s >= health.ejected_until_s and not health.probing

    def sent(self, address: str, now_s: float) -> None:
        """A query went to the replica: if it was due for a probe, this is the probe."""
        health = self._of.get(address)
        if health is not None and health.ejected_until_s is not None and now_s >= health.ejected_until_s:
            health.probing = True

    def given_up(self, address: str) -> None:
        """A query's outcome will not be known (its caller left), or says nothing of the replica (the version was
        unloaded): another may be the probe."""
        if (health := self._of.get(address)) is not None:
            health.probing = False

    def usual_s(self, address: str) -> float:
        """How long the replica usually takes to answer; 0 if it has not answered yet."""
        health = self._of.get(address)
        return health.usual_s if health is not None else 0.0

    def ejected(self, now_s: float) -> list[str]:
        """Addresses that are not in, for status and metrics."""
        return [address for address in self._of if self.condition(address, now_s) is not Condition.IN]

    def _is_failing(self, health: ReplicaHealth) -> bool:
        share, outcomes = health.share_failed()
        often = outcomes >= self._rules.least_outcomes and share >= self._rules.error_share
        return often or health.in_a_row >= self._rules.failures_in_a_row

    def _peers(self, health: ReplicaHealth) -> Iterable[ReplicaHealth]:
        return (other for other in self._of.values() if other is not health and other.ejected_until_s is None)

    def _peers_fail(self, health: ReplicaHealth) -> bool:
        """Whether no peer does better: then it is not the replica's fault."""
        for peer in self._peers(health):
            share, outcomes = peer.share_failed()
            if not outcomes or (share < self._rules.error_share / 2 and peer.in_a_row < self._rules.failures_in_a_row):
                return False
        return True

    def _is_slow(self, address: str, health: ReplicaHealth) -> bool:
        usual = sorted(peer.usual_s for peer in self._peers(health) if peer.usual_s)
        if not usual:
            return False
        return health.usual_s > max(self._rules.slow_s, self._rules.slow_factor * usual[len(usual) // 2])

    def _eject(self, health: ReplicaHealth, now_s: float) -> None:
        out = sum(other.ejected_until_s is not None for other in self._of.values())
        if out + 1 <= self._rules.ejected_share * len(self._of):
            if now_s - health.ejected_last_s > self._rules.max_backoff_s:
                health.ejections = 0
            self._put_out(health, now_s)

    def _put_out(self, health: ReplicaHealth, now_s: float) -> None:
        backoff_s = min(self._rules.max_backoff_s, self._rules.backoff_s * 2.0**health.ejections)
        health.ejected_until_s, health.ejected_last_s = now_s + backoff_s, now_s
        health.ejections = min(health.ejections + 1, 32)
        health.probing = False

    @staticmethod
    def _let_in(health: ReplicaHealth) -> None:
        health.ejected_until_s, health.probing, health.usual_s = None, False, 0.0
        health.in_a_row = health.outcomes = health.failures = health.outcomes_before = health.failures_before = 0
