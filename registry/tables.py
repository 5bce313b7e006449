"""The control database's tables, as the newest migration leaves them.

Records are kept whole, as their own canonical JSON; beside it stand the columns that are searched or
compared. A test holds these tables against what the migrations make.
"""

import sqlalchemy as sql

metadata = sql.MetaData()

traffic_plans = sql.Table(
    "traffic_plans",
    metadata,
    sql.Column("model", sql.String(64), primary_key=True),
    sql.Column("revision", sql.Integer, nullable=False),
    sql.Column("plan", sql.Text, nullable=False),
)

traffic_history = sql.Table(
    "traffic_history",
    metadata,
    sql.Column("model", sql.String(64), primary_key=True),
    sql.Column("revision", sql.Integer, primary_key=True),
    sql.Column("at_ms", sql.BigInteger, nullable=False),
    sql.Column("who", sql.Text, nullable=False),
    sql.Column("why", sql.Text, nullable=False),
    sql.Column("evidence", sql.Text, nullable=False),
    sql.Column("plan", sql.Text, nullable=False),
)

rollouts = sql.Table(
    "rollouts",
    metadata,
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

_ACTIVE = sql.text("state IN ('running', 'paused')")
sql.Index(
    "one_active_rollout_a_layer",
    rollouts.c.model,
    rollouts.c.layer,
    unique=True,
    sqlite_where=_ACTIVE,
    postgresql_where=_ACTIVE,
)

rollout_history = sql.Table(
    "rollout_history",
    metadata,
    sql.Column("rollout_id", sql.String(80), primary_key=True),
    sql.Column("revision", sql.Integer, primary_key=True),
    sql.Column("model", sql.String(64), nullable=False),
    sql.Column("what", sql.String(16), nullable=False),
    sql.Column("at_ms", sql.BigInteger, nullable=False),
    sql.Column("change", sql.Text, nullable=False),
)

evidence = sql.Table(
    "evidence",
    metadata,
    sql.Column("id", sql.String(64), primary_key=True),
    sql.Column("model", sql.String(64), nullable=False),
    sql.Column("kind", sql.String(32), nullable=False),
    sql.Column("challenger_digest", sql.String(64), nullable=False),
    sql.Column("verdict", sql.String(16), nullable=False),
    sql.Column("made_ms", sql.BigInteger, nullable=False),
    sql.Column("record", sql.Text, nullable=False),
)
sql.Index("evidence_by_model_and_time", evidence.c.model, evidence.c.made_ms)
_VERSIONS = (evidence.c.model, evidence.c.challenger_digest)
sql.Index("evidence_by_kind", *_VERSIONS, evidence.c.kind, evidence.c.made_ms)
sql.Index("evidence_by_verdict", *_VERSIONS, evidence.c.verdict, evidence.c.made_ms)

idempotency = sql.Table(
    "idempotency",
    metadata,
    sql.Column("caller", sql.String(64), primary_key=True),
    sql.Column("key", sql.String(128), primary_key=True),
    sql.Column("route", sql.Text, nullable=False),
    sql.Column("request_digest", sql.String(64), nullable=False),
    sql.Column("status", sql.Integer),
    sql.Column("response", sql.Text),
    sql.Column("at_ms", sql.BigInteger, nullable=False),
)

api_keys = sql.Table(
    "api_keys",
    metadata,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("name", sql.String(64), nullable=False),
    sql.Column("prefix", sql.String(16), nullable=False),
    sql.Column("hash", sql.String(64), nullable=False, unique=True),
    sql.Column("role", sql.String(16), nullable=False),
    sql.Column("models", sql.Text, nullable=False),
    sql.Column("created_ms", sql.BigInteger, nullable=False),
    sql.Column("created_by", sql.Text, nullable=False),
    sql.Column("revoked_ms", sql.BigInteger),
    sql.Column("expires_ms", sql.BigInteger),
    sql.Column("rotated_ms", sql.BigInteger),
    sql.Column("old_prefix", sql.String(16), nullable=False, server_default=""),
    sql.Column("old_hash", sql.String(64), nullable=False, server_default=""),
    sql.Column("old_until_ms", sql.BigInteger),
    sql.Column("requests_per_s", sql.Float, nullable=False, server_default="0"),
    sql.Column("candidates_per_s", sql.Float, nullable=False, server_default="0"),
    sql.Column("line", sql.String(64), nullable=False, server_default=""),
    sql.Column("revision", sql.Integer, nullable=False, server_default="1"),
)

audit = sql.Table(
    "audit",
    metadata,
    sql.Column("seq", sql.Integer, primary_key=True),
    sql.Column("request_id", sql.String(64), nullable=False),
    sql.Column("phase", sql.String(16), nullable=False),
    sql.Column("at_ms", sql.BigInteger, nullable=False),
    sql.Column("principal", sql.String(64), nullable=False),
    sql.Column("model", sql.String(64), nullable=False),
    sql.Column("record", sql.Text, nullable=False),
)
sql.Index("audit_by_time", audit.c.at_ms)
sql.Index("audit_by_request", audit.c.request_id)

runs = sql.Table(
    "runs",
    metadata,
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
_NOT_VOID = sql.text("state <> 'void'")
sql.Index(
    "one_run_a_window",
    *(runs.c.model, runs.c.kind, runs.c.since_ms, runs.c.until_ms),
    unique=True,
    sqlite_where=_NOT_VOID,
    postgresql_where=_NOT_VOID,
)
_RUNNING = sql.text("state = 'running'")
sql.Index(
    "one_running_run_a_model",
    runs.c.model,
    runs.c.kind,
    unique=True,
    sqlite_where=_RUNNING,
    postgresql_where=_RUNNING,
)
