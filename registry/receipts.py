"""Receipts: the answer that a request with an idempotency key got, kept with what the request did.

A receipt is written in the transaction of the change that it is for. So a request that is sent again
finds its answer if the change was made, and none if it was not, whatever was killed in between; and of
two that are under way at once only one can make the change.
"""

from dataclasses import dataclass

import sqlalchemy as sql

from registry.errors import AnsweredBefore
from registry.tables import idempotency

KEPT_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Receipt:
    """caller: who used the key, so that nobody meets another's. digest: SHA-256 of the request, 64 hex
    digits: the same key for another request is a mistake. response: the answer's JSON."""

    caller: str
    key: str
    route: str
    digest: str
    status: int
    response: str
    at_ms: int

    def answered_before(self) -> AnsweredBefore:
        """The error of every control when there is a receipt for the key already."""
        return AnsweredBefore(f"Idempotency-Key {self.key!r} was used before: its answer is kept")


def find_receipt(connection: sql.Connection, caller: str, key: str) -> Receipt | None:
    """The receipt, if the caller used the key before."""
    query = sql.select(idempotency).where((idempotency.c.caller == caller) & (idempotency.c.key == key))
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Receipt(row.caller, row.key, row.route, row.request_digest, row.status, row.response, row.at_ms)


def write_receipt(connection: sql.Connection, receipt: Receipt) -> None:
    """Raises IntegrityError if there is one for its key."""
    connection.execute(sql.insert(idempotency).values(row_of(receipt)))


def row_of(receipt: Receipt) -> dict[str, str | int]:
    """As the table has it."""
    return {
        "caller": receipt.caller,
        "key": receipt.key,
        "route": receipt.route,
        "request_digest": receipt.digest,
        "status": receipt.status,
        "response": receipt.response,
        "at_ms": receipt.at_ms,
    }
