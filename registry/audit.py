"""The audit log: who asked the control plane for what, from where, and what came of it. Rows are added, never changed.

A change is two rows: `asked`, written before anything is done, and `answered`, written before the answer is sent. What
cannot be written down is not done. So a row `asked` without its `answered` is a request during which the process was
killed, and the histories say how far it came.
"""

from dataclasses import dataclass

import msgspec
import sqlalchemy as sql

from registry.audit_record import AuditRecord
from registry.database import sql_errors
from registry.tables import audit


@dataclass(frozen=True, slots=True)
class AuditRow:
    """seq: in the order written."""

    seq: int
    record: AuditRecord


class SqlAuditLog:
    """In the control database; safe for several processes. engine: of `database.open_database`."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine

    def write(self, record: AuditRecord) -> None:
        """On disk when it returns. What no text can hold (half a surrogate pair) is written as `?`. Raises
        StoreUnavailable."""
        texts = {name: value for name, value in msgspec.structs.asdict(record).items() if isinstance(value, str)}
        record = msgspec.structs.replace(record, **{name: _sayable(value) for name, value in texts.items()})
        row = {
            "request_id": record.request_id,
            "phase": record.phase,
            "at_ms": record.at_ms,
            "principal": record.principal,
            "model": record.model,
            "record": msgspec.json.encode(record).decode(),
        }
        with sql_errors("write the audit log"), self._engine.begin() as connection:
            connection.execute(sql.insert(audit).values(row))

    def newest(
        self, limit: int, before_seq: int | None = None, model: str = "", principal: str = "", request_id: str = ""
    ) -> list[AuditRow]:
        """The newest first. before_seq: older ones than that. Raises StoreUnavailable."""
        query = sql.select(audit.c.seq, audit.c.record).order_by(audit.c.seq.desc()).limit(limit)
        if before_seq is not None:
            query = query.where(audit.c.seq < before_seq)
        for column, wanted in (
            (audit.c.model, model),
            (audit.c.principal, principal),
            (audit.c.request_id, request_id),
        ):
            if wanted:
                query = query.where(column == wanted)
        with sql_errors("read the audit log"), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [AuditRow(row.seq, msgspec.json.decode(row.record, type=AuditRecord)) for row in rows]

    def forget(self, before_ms: int) -> int:
        """How many rows were older and are gone. Raises StoreUnavailable."""
        with sql_errors("forget old rows of the audit log"), self._engine.begin() as connection:
            return connection.execute(sql.delete(audit).where(audit.c.at_ms < before_ms)).rowcount


def _sayable(text: str) -> str:
    return text.encode(errors="replace").decode()
