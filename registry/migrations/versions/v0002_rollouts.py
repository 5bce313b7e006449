"""Rollouts and their history, evidence, idempotency keys and API keys."""

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Five tables."""
    op.create_table(
        "rollouts",
        sql.Column("id", sql.String(80), primary_key=True),
        sql.Column("model", sql.String(64), nullable=False),
        sql.Column("layer", sql.String(64), nullable=False),
        sql.Column("state", sql.String(16), nullable=False),
        sql.Column("revision", sql.Integer, nullable=False),
        sql.Column("started_revision", sql.Integer, nullable=False),
        sql.Column("started_ms", sql.BigInteger, nullable=False),
        sql.Column("holdback_until_ms", sql.BigInteger),
        sql.Column("rollout", sql.Text, nullable=False),
    )
    active = sql.text("state IN ('running', 'paused')")
    op.create_index(
        "one_active_rollout_a_layer",
        "rollouts",
        ["model", "layer"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_table(
        "rollout_history",
        sql.Column("rollout_id", sql.String(80), primary_key=True),
        sql.Column("revision", sql.Integer, primary_key=True),
        sql.Column("model", sql.String(64), nullable=False),
        sql.Column("what", sql.String(16), nullable=False),
        sql.Column("at_ms", sql.BigInteger, nullable=False),
        sql.Column("change", sql.Text, nullable=False),
    )
    op.create_table(
        "evidence",
        sql.Column("id", sql.String(64), primary_key=True),
        sql.Column("model", sql.String(64), nullable=False),
        sql.Column("kind", sql.String(32), nullable=False),
        sql.Column("challenger_digest", sql.String(64), nullable=False),
        sql.Column("verdict", sql.String(16), nullable=False),
        sql.Column("made_ms", sql.BigInteger, nullable=False),
        sql.Column("record", sql.Text, nullable=False),
    )
    op.create_index("evidence_by_model_and_time", "evidence", ["model", "made_ms"])
    op.create_table(
        "idempotency",
        sql.Column("caller", sql.String(64), primary_key=True),
        sql.Column("key", sql.String(128), primary_key=True),
        sql.Column("route", sql.Text, nullable=False),
        sql.Column("request_digest", sql.String(64), nullable=False),
        sql.Column("status", sql.Integer),
        sql.Column("response", sql.Text),
        sql.Column("at_ms", sql.BigInteger, nullable=False),
    )
    op.create_table(
        "api_keys",
        sql.Column("id", sql.String(32), primary_key=True),
        sql.Column("name", sql.String(64), nullable=False),
        sql.Column("prefix", sql.String(16), nullable=False),
        sql.Column("hash", sql.String(64), nullable=False, unique=True),
        sql.Column("role", sql.String(16), nullable=False),
        sql.Column("models", sql.Text, nullable=False),
        sql.Column("created_ms", sql.BigInteger, nullable=False),
        sql.Column("created_by", sql.Text, nullable=False),
        sql.Column("revoked_ms", sql.BigInteger),
    )
