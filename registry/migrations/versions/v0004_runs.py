"""Runs of pipelines: one a window, one at work at a time."""

import sqlalchemy as sql
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """One table, and the two rules as indexes."""
    op.create_table(
        "runs",
        sql.Column("id", sql.String(128), primary_key=True),
        sql.Column("model", sql.String(64), nullable=False),
        sql.Column("kind", sql.String(16), nullable=False),
        sql.Column("since_ms", sql.BigInteger, nullable=False),
        sql.Column("until_ms", sql.BigInteger, nullable=False),
        sql.Column("state", sql.String(16), nullable=False),
        sql.Column("revision", sql.Integer, nullable=False),
        sql.Column("created_ms", sql.BigInteger, nullable=False),
        sql.Column("run", sql.Text, nullable=False),
    )
    for name, columns, rule in (
        ("one_run_a_window", ["model", "kind", "since_ms", "until_ms"], sql.text("state <> 'void'")),
        ("one_running_run_a_model", ["model", "kind"], sql.text("state = 'running'")),
    ):
        op.create_index(name, "runs", columns, unique=True, sqlite_where=rule, postgresql_where=rule)
