"""API keys that are rotated, expire and have quotas; the audit log of control calls."""

import sqlalchemy as sql
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """More columns of one table, and another table."""
    for column in (
        sql.Column("expires_ms", sql.BigInteger),
        sql.Column("rotated_ms", sql.BigInteger),
        sql.Column("old_prefix", sql.String(16), nullable=False, server_default=""),
        sql.Column("old_hash", sql.String(64), nullable=False, server_default=""),
        sql.Column("old_until_ms", sql.BigInteger),
        sql.Column("requests_per_s", sql.Float, nullable=False, server_default="0"),
        sql.Column("candidates_per_s", sql.Float, nullable=False, server_default="0"),
        sql.Column("line", sql.String(64), nullable=False, server_default=""),
        sql.Column("revision", sql.Integer, nullable=False, server_default="1"),
    ):
        op.add_column("api_keys", column)
    op.create_table(
        "audit",
        sql.Column("seq", sql.Integer, primary_key=True),
        sql.Column("request_id", sql.String(64), nullable=False),
        sql.Column("phase", sql.String(16), nullable=False),
        sql.Column("at_ms", sql.BigInteger, nullable=False),
        sql.Column("principal", sql.String(64), nullable=False),
        sql.Column("model", sql.String(64), nullable=False),
        sql.Column("record", sql.Text, nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["at_ms"])
    op.create_index("audit_by_request", "audit", ["request_id"])
