"""A request's trail in the audit log: written before it is done, and before it is answered."""

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from deploy.control.access import Caller
from deploy.control.asks import Ask, Reply
from deploy.control.metrics import AUDIT_LEFT_OUT
from registry.audit import SqlAuditLog
from registry.audit_record import AuditRecord, Phase
from registry.errors import StoreUnavailable
from serving.gateway.control.routes import ControlRoute

log = logging.getLogger(__name__)

STRANGERS_PER_S, STRANGERS_AT_ONCE = 2.0, 50.0
ERROR_LETTERS = 300
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Strangers:
    """How many refusals of people who are not known may be written down: they cost a row each, and nothing to make."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._left, self._at_s = STRANGERS_AT_ONCE, clock()

    def one(self) -> bool:
        """Whether this one may."""
        with self._lock:
            now_s = self._clock()
            self._left = min(STRANGERS_AT_ONCE, self._left + (now_s - self._at_s) * STRANGERS_PER_S)
            self._at_s = now_s
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Trail:
    """What the log says of one request. strangers: shared by all requests of the process."""

    def __init__(
        self,
        audit: SqlAuditLog,
        strangers: Strangers,
        wall_ms: Callable[[], int],
        route: ControlRoute,
        path: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> None:
        self._audit, self._strangers, self._wall_ms = audit, strangers, wall_ms
        traced = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
        self.request_id = traced[1] if traced else secrets.token_hex(16)
        """32 hex digits."""
        self._record = AuditRecord(
            request_id=self.request_id,
            phase="asked",
            at_ms=wall_ms(),
            route=route.name,
            method=route.method,
            source=headers.get("x-sluice-client", "")[:64],
            model=path.get("model", "")[:64],
            target=path.get("id", "")[:128],
        )

    def asked(self, ask: Ask) -> None:
        """Before anything is done. Raises StoreUnavailable."""
        self._record = replace(
            self._record,
            principal=ask.caller.key.id,
            who=ask.caller.who,
            idempotency_key=ask.key,
            why=getattr(ask.body, "why", ""),
        )
        self._audit.write(self._record)

    def answered(self, reply: Reply, error: str) -> None:
        """Before the answer is sent. Raises StoreUnavailable."""
        self._audit.write(self._ended("answered", reply, error))

    def refused(self, caller: Caller | None, reply: Reply, error: str) -> None:
        """Of who was not let in; what cannot be written is told to the process's log."""
        if caller is None and not self._strangers.one():
            AUDIT_LEFT_OUT.inc()
            return
        if caller is not None:
            self._record = replace(self._record, principal=caller.key.id, who=caller.who)
        try:
            self._audit.write(self._ended("refused", reply, error))
        except StoreUnavailable as away:
            log.warning("a refusal (%d) could not be written to the audit log: %s", reply.status, away)

    def _ended(self, phase: Phase, reply: Reply, error: str) -> AuditRecord:
        return replace(
            self._record,
            phase=phase,
            at_ms=self._wall_ms(),
            status=reply.status,
            plan_revision=reply.plan_revision,
            error=error[:ERROR_LETTERS],
        )
