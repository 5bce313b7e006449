"""What somebody asks of the control API, and what they are answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from deploy.control.access import Caller
from deploy.control.conditions import IfMatch
from deploy.control.errors import ControlRefused
from registry.receipts import Receipt
from serving.gateway.control.routes import ControlRoute

PAGE = 100
MOST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Reply:
    """body: JSON, unless media_type says otherwise. plan_revision: of the model's plan, None of routes without one."""

    status: int
    body: bytes
    plan_revision: int | None = None
    replayed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request by somebody who may make it. model, id: of the path, empty if it has none. key: for
    idempotency, empty if there is none. digest: see `conditions.digest_of`. accept, gzip: what answer is wanted."""

    route: ControlRoute
    caller: Caller
    now_ms: int
    model: str = ""
    id: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    if_match: IfMatch = field(default_factory=IfMatch)
    key: str = ""
    digest: str = ""
    accept: str = ""
    gzip: bool = False

    def reply(self, answer: msgspec.Struct) -> Reply:
        """With the route's status."""
        return Reply(self.route.success, msgspec.json.encode(answer), getattr(answer, "plan_revision", None))

    def receipt(self, reply: Reply) -> Receipt | None:
        """Of that reply; None without an idempotency key."""
        if not self.key:
            return None
        caller = self.caller.key.id
        return Receipt(caller, self.key, self.route.name, self.digest, reply.status, reply.body.decode(), self.now_ms)

    @property
    def words(self) -> dict[str, Any]:
        """For histories."""
        return {"who": self.caller.who, "why": self.body.why, "now_ms": self.now_ms}


def number(ask: Ask, name: str, default: int, least: int = 1) -> int:
    """A whole number of the query string. Raises ControlRefused."""
    told = ask.query.get(name, "")
    if not told:
        return default
    if not (told.isascii() and told.isdigit() and len(told) < 18 and int(told) >= least):
        raise ControlRefused(f"{name}={told[:32]!r}: expected a whole number from {least}")
    return int(told)


def page_size(ask: Ask) -> int:
    """How much of a list is asked for: `limit`, within bounds."""
    return min(number(ask, "limit", PAGE), MOST_ROWS)
