"""Tokens of quotas, leased ahead: a query spends what is here; a thread fetches more from where all gateways meet.

How much a gateway holds: what those who wait for it need, and besides at most `lease_s` of the quota's rate, as fast
as it was spent lately. What is not spent within `keep_s` is thrown away, so that tokens do not pile up here. Over any
time t all gateways together let in at most burst + rate * t, and what they held when it began: gateways * lease_s *
rate. Without Redis each goes on with its share, by the number of gateways that there were.
"""

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.errors import StoreUnavailable
from registry.quotas import Lease, LeaseAsk, MemoryLedger, Quota, QuotaLedger
from serving import metrics
from serving.errors import QueryRefused, QuotaExceeded
from serving.settings import QuotaSettings
from serving.tally import CounterTally

log = logging.getLogger(__name__)

TRIES = 4
PRESENT_EVERY_S = 2.0
FORGET_EVERY = 512  # local leases
DRY_AT_MOST_S = 5.0
_LOW = 0.5  # of a lease: what is left when the next one is fetched


class Meter:
    """A quota's tokens on this gateway. whose, unit: in words, `API key 'ci'` and `requests`; reason: for metrics.

    left: tokens, good until `good_until_s`. One thread uses it.
    """

    __slots__ = (
        "asked",
        "demand_per_s",
        "dry_for",
        "dry_until_s",
        "good_until_s",
        "left",
        "low",
        "quota",
        "reason",
        "since_s",
        "spent",
        "unit",
        "wait_until_s",
        "waiting",
        "whose",
    )

    def __init__(self, quota: Quota, whose: str, unit: str, reason: str) -> None:
        self.quota, self.whose, self.unit, self.reason = quota, whose, unit, reason
        self.left, self.good_until_s, self.low = 0, 0.0, 0.0
        self.spent, self.since_s, self.demand_per_s = 0, 0.0, 0.0
        self.dry_for, self.dry_until_s, self.wait_until_s = 0, 0.0, 0.0
        self.asked = False  # a lease is on its way
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<Meter {self.quota.name} [{self.left} left | {len(self.waiting)} waiting]>"

    def wanted(self, now_s: float, lease_s: float) -> LeaseAsk:
        """What to lease now. Counts the demand anew if it is time to."""
        elapsed_s = now_s - self.since_s
        rate = self.spent / max(elapsed_s, lease_s)
        demand = max(rate, self.demand_per_s)
        if elapsed_s >= lease_s:
            self.demand_per_s, self.spent, self.since_s = rate, 0, now_s
        left = self.left if now_s < self.good_until_s else 0
        ahead = min(demand, self.quota.rate_per_s) * lease_s
        self.low = ahead * _LOW
        needed = sum(amount for amount, _ in self.waiting)
        least = self.waiting[0][0] if self.waiting else 1
        if left < least:  # what is here counts only together with what comes
            least = max(1, least - left)
        most = max(least, math.floor(self.quota.burst))
        return LeaseAsk(self.quota, max(least, min(most, math.ceil(needed + ahead - left))), least)

    def take(self, lease: Lease, least: int, now_s: float, keep_s: float) -> None:
        """What came of an ask."""
        if now_s >= self.good_until_s:
            self.left = 0
        if lease.granted:
            self.left += lease.granted
            self.good_until_s = now_s + keep_s
            self.dry_for = 0
        else:
            self.dry_for = least + self.left
            self.wait_until_s = now_s + lease.wait_s
            self.dry_until_s = now_s + min(lease.wait_s, DRY_AT_MOST_S)

    def exceeded(self, now_s: float) -> QuotaExceeded:
        """The refusal of who cannot have its tokens now."""
        wait_s = max(0.001, self.wait_until_s - now_s)
        rate = self.quota.rate_per_s
        return QuotaExceeded(
            f"{self.whose} has a quota of {rate:g} {self.unit}/s, which is used up: come back in {wait_s:.3g} s, or "
            "ask an admin for more",
            wait_s,
            self.reason,
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    meter: Meter
    ask: LeaseAsk


class Leases(threading.Thread):
    """Fetches leases for the meters of one event loop, which must be running when it is made.

    ledger: of all gateways; gateway: this one's name there.
    """

    def __init__(
        self,
        ledger: QuotaLedger,
        settings: QuotaSettings,
        gateway: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="quotas", daemon=True)
        self._ledger, self._settings, self._gateway, self._clock = ledger, settings, gateway, clock
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[list[_Asked] | None] = queue.SimpleQueue()
        self._to_ask: list[Meter] = []
        self._local = MemoryLedger(clock)
        self._local_leases = 0
        self._gateways, self._away_until_s, self._away = settings.gateways, 0.0, False
        self._outcomes = {
            outcome: CounterTally(metrics.QUOTA_LEASES.labels(outcome)) for outcome in ("granted", "refused", "local")
        }

    # the loop's side

    def covers(self, charges: Sequence[tuple[Meter, bool]], candidates: int) -> bool:
        """Whether all tokens of one query are here: 1 where the flag says that requests count, else one for each
        candidate."""
        now_s = self._clock()
        for meter, flat in charges:
            amount = 1 if flat else candidates
            if amount and (meter.left < amount or now_s >= meter.good_until_s):
                return False
        return True

    def spend(self, charges: Sequence[tuple[Meter, bool]], candidates: int) -> None:
        """Takes the tokens of one query, which are here."""
        now_s = self._clock()
        for meter, flat in charges:
            amount = 1 if flat else candidates
            meter.left -= amount
            meter.spent += amount
            if meter.left < meter.low and not meter.asked and now_s >= meter.dry_until_s:
                self._ask(meter)

    def check(self, charges: Sequence[tuple[Meter, bool]]) -> None:
        """Raises QuotaExceeded if it is known that there is no token for a request."""
        now_s = self._clock()
        for meter, flat in charges:
            if flat and _is_dry(meter, 1, now_s):
                raise meter.exceeded(now_s)

    async def spend_or_refuse(self, charges: Sequence[tuple[Meter, bool]], candidates: int) -> None:
        """Takes the tokens of one query, after a lease if need be.

        Raises QuotaExceeded, QueryRefused if the quota never has as many.
        """
        for _ in range(TRIES):
            if self.covers(charges, candidates):
                self.spend(charges, candidates)
                return
            now_s = self._clock()
            for meter, flat in charges:
                amount = 1 if flat else candidates
                if amount and (meter.left < amount or now_s >= meter.good_until_s):
                    await self._fill(meter, amount, now_s)
        now_s = self._clock()  # others were quicker each time
        short = next((meter for meter, flat in charges if meter.left < (1 if flat else candidates)), charges[0][0])
        short.wait_until_s = max(short.wait_until_s, now_s + self._settings.lease_s)
        raise short.exceeded(now_s)

    async def _fill(self, meter: Meter, amount: int, now_s: float) -> None:
        burst = math.floor(meter.quota.burst)
        if amount > burst:
            raise QueryRefused(
                f"{amount} {meter.unit}: {meter.whose} never has more than {burst} of them at once (its quota is "
                f"{meter.quota.rate_per_s:g}/s): send fewer, or ask an admin for more"
            )
        if _is_dry(meter, amount, now_s):
            raise meter.exceeded(now_s)
        arrival: asyncio.Future[None] = self._loop.create_future()
        meter.waiting.append((amount, arrival))
        self._ask(meter)
        try:
            await arrival
        finally:
            if not arrival.done() or arrival.cancelled():
                with contextlib.suppress(ValueError):
                    meter.waiting.remove((amount, arrival))

    def _ask(self, meter: Meter) -> None:
        if not meter.asked:
            meter.asked = True
            if not self._to_ask:
                self._loop.call_soon(self._send)
            self._to_ask.append(meter)

    def _send(self) -> None:
        meters, self._to_ask = self._to_ask, []
        now_s, lease_s = self._clock(), self._settings.lease_s
        self._queue.put([_Asked(meter, meter.wanted(now_s, lease_s)) for meter in meters])

    def _settle(self, asked: Sequence[_Asked], leases: Sequence[Lease]) -> None:
        now_s = self._clock()
        for one, lease in zip(asked, leases, strict=True):
            meter = one.meter
            meter.asked = False
            meter.take(lease, one.ask.least, now_s, self._settings.keep_s)
            waiting, meter.waiting = meter.waiting, deque()
            for _, arrival in waiting:
                if not arrival.done():
                    arrival.set_result(None)

    # the thread's side

    def run(self) -> None:
        """Fetches until stopped."""
        while True:
            try:
                asked = self._queue.get(timeout=PRESENT_EVERY_S)
            except queue.Empty:
                asked = []
            if asked is None:
                return
            with contextlib.suppress(queue.Empty):
                while (more := self._queue.get_nowait()) is not None:
                    asked = asked + more
                return
            leases = self._lease([one.ask for one in asked])
            if asked:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._settle, asked, leases)

    def stop(self) -> None:
        """Ends the thread."""
        self._queue.put(None)

    def _lease(self, asks: Sequence[LeaseAsk]) -> list[Lease]:
        now_s = self._clock()
        if now_s >= self._away_until_s:
            try:
                leases, self._gateways = self._ledger.lease(self._gateway, asks)
            except StoreUnavailable as error:
                if not self._away:
                    log.warning("quotas go on with this gateway's share, 1 of %d: %s", self._gateways, error)
                self._away, self._away_until_s = True, now_s + self._settings.away_s
            else:
                self._away = False
                for lease in leases:
                    self._outcomes["granted" if lease.granted else "refused"].inc()
                return leases
        shares = [_share_of(ask, self._gateways) for ask in asks]
        self._local_leases += len(shares)
        if self._local_leases >= FORGET_EVERY:
            self._local_leases = 0
            self._local.forget_full()
        if shares:
            self._outcomes["local"].inc(len(shares))
        return self._local.lease(self._gateway, shares)[0]


def _share_of(ask: LeaseAsk, gateways: int) -> LeaseAsk:
    """One gateway's part of it; a single query that the whole quota allows, a part allows, too."""
    quota = ask.quota.shared_by(gateways)
    return LeaseAsk(Quota(quota.name, quota.rate_per_s, max(quota.burst, float(ask.least))), ask.wanted, ask.least)


def _is_dry(meter: Meter, amount: int, now_s: float) -> bool:
    return 0 < meter.dry_for <= amount and now_s < meter.dry_until_s and meter.left < amount
