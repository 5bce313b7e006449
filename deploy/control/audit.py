"""The audit log, shown."""

from deploy.control.asks import Ask, Reply, number, page_size
from deploy.control.desk import Desk
from serving.gateway.control.keys import AuditAnswer, AuditLine


def audit(desk: Desk, ask: Ask) -> Reply:
    """Newest first, a page at a time."""
    limit, before = page_size(ask), number(ask, "before", 0, least=0)
    wanted = {name: ask.query.get(name, "") for name in ("model", "principal", "request_id")}
    found = desk.audit.newest(limit + 1, before or None, **wanted)
    page = found[:limit]
    lines = tuple(AuditLine(row.seq, row.record) for row in page)
    return ask.reply(AuditAnswer(lines, page[-1].seq if len(found) > limit else None))
