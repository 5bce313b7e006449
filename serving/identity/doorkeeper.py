"""The doorkeeper: who may ask, about which models, and how much. In front of everything that a request costs.

A query draws on the quota of its key or token, and on that of its line: the one that its key or token is bound to,
else the one that it names (`X-Sluice-Line`), else the one with its model's name, if there is such a quota.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from registry.key_sheet import MARK
from registry.principals import Principal
from registry.quotas import Quota
from registry.roles import Role, includes
from serving import metrics
from serving.errors import (
    IdentityUnknown,
    NotAllowed,
    NotAuthenticated,
    QueryRefused,
    QuotaExceeded,
    RankingError,
    UnknownSigner,
)
from serving.identity.keys import KeyTable
from serving.identity.leases import Leases, Meter
from serving.identity.tokens import TokenVerifier
from serving.settings import IdentitySettings, QuotaSettings, Rates

MAX_REMEMBERED = 4096
MAX_METERS = 20_000
LINE_HEADER = b"x-sluice-line"
HOW = "send `Authorization: Bearer <key or token>`; `sluice keys create NAME --role caller` makes a key"
_MARK = MARK.encode()
_FOR_EVER_MS = 1 << 62

Taken = TypeVar("Taken")
Headers = Mapping[bytes, bytes]
Charges = tuple[tuple[Meter, bool], ...]


class Visit:
    """A request that was let in. principal: None where queries are open to everybody."""

    __slots__ = ("_charges", "_leases", "_refused", "principal", "until_ms")

    def __init__(
        self,
        principal: Principal | None,
        charges: Charges,
        leases: Leases | None,
        until_ms: int,
        refused: Callable[[RankingError], None],
    ) -> None:
        self.principal, self.until_ms = principal, until_ms
        self._charges, self._leases, self._refused = charges, leases, refused

    def begin(self, candidates: int, begin: Callable[[], Taken]) -> Taken | None:
        """What `begin` returns, for the query's tokens; None, and nothing is taken, if they are not all here: then
        there is `admitted`. `begin` returns None for what goes the long way, which takes the tokens itself."""
        charges, leases = self._charges, self._leases
        if not charges or leases is None:
            return begin()
        if not leases.covers(charges, candidates):
            return None
        begun = begin()
        if begun is not None:
            leases.spend(charges, candidates)
        return begun

    async def admitted(self, candidates: int) -> None:
        """Takes a query's tokens. Raises QuotaExceeded, QueryRefused if the quota never has as many."""
        if self._charges and self._leases is not None:
            try:
                await self._leases.spend_or_refuse(self._charges, candidates)
            except RankingError as error:
                self._refused(error)
                raise

    def check(self) -> None:
        """Raises QuotaExceeded where it is known before the query is read."""
        if self._charges and self._leases is not None:
            try:
                self._leases.check(self._charges)
            except RankingError as error:
                self._refused(error)
                raise

    def check_model(self, model: str) -> None:
        """Raises NotAllowed: of requests that name several models."""
        if self.principal is not None and not self.principal.covers(model):
            error = _not_for(self.principal, model)
            self._refused(error)
            raise error


class Doorkeeper:
    """Lets requests in. One thread uses it.

    tokens: None where only keys count. leases: None without any quota.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        quotas: QuotaSettings,
        keys: KeyTable,
        tokens: TokenVerifier | None = None,
        leases: Leases | None = None,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.closed = settings.closed
        """Whether who asks must be known."""
        self.tokens = tokens
        self._quotas, self._keys, self._leases, self._wall_ms = quotas, keys, leases, wall_ms
        self._remember_ms = int(settings.remember_s * 1000)
        self._visits: dict[tuple[bytes, str | None, Role, bytes | None], Visit] = {}
        self._meters: dict[str, Meter] = {}
        self._used_ms: dict[str, int] = {}

    def enter(self, headers: Headers, model: str | None, role: Role = "caller") -> Visit:
        """Lets a request in, or raises why not. headers: names in lower case. model: None if it is about none.

        Raises NotAuthenticated, NotAllowed, IdentityUnknown, QueryRefused for a line that there is not.
        """
        authorization = headers.get(b"authorization", b"") if self.closed else b""
        line = headers.get(LINE_HEADER)
        # a digest, not the secret: how long a look-up takes says nothing of what is remembered
        place = (hashlib.sha256(authorization).digest() if authorization else b"", model, role, line)
        visit = self._visits.get(place)
        now_ms = self._wall_ms()
        if visit is not None and now_ms < visit.until_ms:
            return visit
        visit = self._visit(authorization, model, role, line, now_ms)
        if len(self._visits) >= MAX_REMEMBERED:
            self._visits.clear()
        self._visits[place] = visit
        return visit

    async def welcome(self, headers: Headers, model: str | None, role: Role = "caller") -> Visit:
        """As `enter`, with the patience to ask the issuer of a token for a key that is new; refusals are counted."""
        try:
            try:
                return self.enter(headers, model, role)
            except UnknownSigner:
                await _in_thread(self.tokens)
                return self.enter(headers, model, role)
        except RankingError as error:
            self.count(error)
            raise

    def forget(self) -> None:
        """Everybody is looked at anew: the key sheet or the issuer's keys are others."""
        self._visits.clear()

    def drain_used(self) -> dict[str, int]:
        """When keys were used since this was last called, by id; for another thread."""
        used, self._used_ms = self._used_ms, {}
        return used

    def count(self, error: RankingError) -> None:
        """Notes a refusal, by its reason."""
        metrics.DOOR_REFUSALS.labels(_reason(error)).inc()

    def _visit(self, authorization: bytes, model: str | None, role: Role, line: bytes | None, now_ms: int) -> Visit:
        principal, until_ms = None, _FOR_EVER_MS
        if self.closed:
            principal = self._principal(authorization, now_ms)
            until_ms = now_ms + self._remember_ms
            if principal.until_ms is not None:
                until_ms = min(until_ms, principal.until_ms)
            _check_reach(principal, model, role)
            if not principal.id.startswith("token:"):
                self._used_ms[principal.id] = now_ms
        charges = self._charges(principal, model, line)
        return Visit(principal, charges, self._leases, until_ms, self.count)

    def _principal(self, authorization: bytes, now_ms: int) -> Principal:
        """Raises NotAuthenticated, IdentityUnknown."""
        if not authorization:
            raise NotAuthenticated(f"this platform answers those who have a key or token: {HOW}", "none")
        scheme, _, text = authorization.strip().partition(b" ")
        text = text.strip()
        if scheme.lower() != b"bearer" or not text:
            raise NotAuthenticated(f"authorization: expected a Bearer key or token: {HOW}", "none")
        if text.startswith(_MARK) or self.tokens is None:
            return self._owner(text, now_ms)
        return self.tokens.verify(text.decode("latin-1"))

    def _owner(self, text: bytes, now_ms: int) -> Principal:
        principal = self._keys.find(text)
        if principal is None:
            if not self._keys.informed:
                raise IdentityUnknown(
                    "which keys are good is not known yet: the key board (Redis) does not answer, or the controller has"
                    " not written to it, and there is no copy of it; ask again"
                )
            raise NotAuthenticated(f"the API key is not known, or was revoked: {HOW}", "key")
        if principal.until_ms is not None and now_ms >= principal.until_ms:
            raise NotAuthenticated(f"API key {principal.name!r} ({principal.id}) has expired: {HOW}", "expired")
        return principal

    def _charges(self, principal: Principal | None, model: str | None, named: bytes | None) -> Charges:
        """Raises QueryRefused."""
        found: list[tuple[Meter, bool]] = []
        if principal is not None:
            default = self._quotas.key
            whose, bucket = f"{_kind(principal)} {principal.name!r}", f"key:{principal.id}"
            rates = Rates(
                principal.requests_per_s or default.requests, principal.candidates_per_s or default.candidates
            )
            found += self._meters_of(rates, bucket, whose, "key")
        if line := self._line(principal, model, named):
            found += self._meters_of(self._quotas.lines[line], f"line:{line}", f"line {line!r}", "line")
        return tuple(found)

    def _line(self, principal: Principal | None, model: str | None, named: bytes | None) -> str:
        lines = self._quotas.lines
        if principal is not None and principal.line:
            return principal.line if principal.line in lines else ""
        if named is not None:
            line = named.decode("latin-1")
            if line in lines:
                return line
            if lines:
                known = ", ".join(sorted(lines))
                raise QueryRefused(f"x-sluice-line={line[:64]!r}: expected one of {known}, or no such header")
        return model if model is not None and model in lines else ""

    def _meters_of(self, rates: Rates, bucket: str, whose: str, reason: str) -> Sequence[tuple[Meter, bool]]:
        told = ((rates.requests, "requests", True), (rates.candidates, "candidates", False))
        return [(self._meter(bucket, rate, whose, unit, reason), flat) for rate, unit, flat in told if rate]

    def _meter(self, bucket: str, rate: float, whose: str, unit: str, reason: str) -> Meter:
        name = f"{bucket}:{unit}"
        quota = Quota(name, rate, max(1.0, rate * self._quotas.burst_s))
        meter = self._meters.get(name)
        if meter is None or meter.quota != quota:
            if len(self._meters) >= MAX_METERS:
                self._meters.clear()
            meter = self._meters[name] = Meter(quota, whose, unit, f"{reason}_{unit}")
        return meter


async def _in_thread(tokens: TokenVerifier | None) -> None:
    if tokens is not None:
        await asyncio.to_thread(tokens.fetch)


def _check_reach(principal: Principal, model: str | None, role: Role) -> None:
    """Raises NotAllowed. A request about no model is not refused for that."""
    if not includes(principal.role, role):
        whose = f"{_kind(principal)} {principal.name!r}"
        raise NotAllowed(f"{whose} has the role {principal.role}: this needs {role}", "role")
    if model is not None and not principal.covers(model):
        raise _not_for(principal, model)


def _not_for(principal: Principal, model: str) -> NotAllowed:
    good_for = ", ".join(principal.models)
    whose = f"{_kind(principal)} {principal.name!r}"
    return NotAllowed(f"{whose} is for {good_for}: {model[:64]!r} is not one of them", "model")


def _kind(principal: Principal) -> str:
    return "token of" if principal.id.startswith("token:") else "API key"


def _reason(error: RankingError) -> str:
    if isinstance(error, NotAuthenticated | NotAllowed | QuotaExceeded):
        return error.reason
    return "unknown_yet" if isinstance(error, IdentityUnknown) else "query"
