"""One row of the audit log, as it is written, kept and shown."""

from typing import Literal

import msgspec

Phase = Literal["asked", "answered", "refused"]
"""refused: asked and answered at once, of a request that was not let in."""


class AuditRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """request_id: of the request, 32 hex digits, the trace's if it has one. principal: id of the key or token, empty
    of a stranger; who: in words, with whom it says it acts for. source: address of the client as the gateway sees it.
    target: of the path, beside the model. why: as the request says. status: HTTP's, 0 while asked. plan_revision: of
    the answer. No keys, no tokens, no bodies.
    """

    request_id: str
    phase: Phase
    at_ms: int
    route: str
    method: str
    principal: str = ""
    who: str = ""
    source: str = ""
    model: str = ""
    target: str = ""
    idempotency_key: str = ""
    why: str = ""
    status: int = 0
    plan_revision: int | None = None
    error: str = ""
