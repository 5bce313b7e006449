"""Traffic plans and their history; adopted where Sluice made them before it had migrations."""

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes what is not there; rows stay."""
    op.create_table(
        "traffic_plans",
        sql.Column("model", sql.String(64), primary_key=True),
        sql.Column("revision", sql.Integer, nullable=False),
        sql.Column("plan", sql.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "traffic_history",
        sql.Column("model", sql.String(64), primary_key=True),
        sql.Column("revision", sql.Integer, primary_key=True),
        sql.Column("at_ms", sql.BigInteger, nullable=False),
        sql.Column("who", sql.Text, nullable=False),
        sql.Column("why", sql.Text, nullable=False),
        sql.Column("evidence", sql.Text, nullable=False),
        sql.Column("plan", sql.Text, nullable=False),
        if_not_exists=True,
    )
