"""Evidence found by kind and by verdict: the engine asks each second, whatever a long rollout has gathered."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Two indexes."""
    op.create_index("evidence_by_kind", "evidence", ["model", "challenger_digest", "kind", "made_ms"])
    op.create_index("evidence_by_verdict", "evidence", ["model", "challenger_digest", "verdict", "made_ms"])
