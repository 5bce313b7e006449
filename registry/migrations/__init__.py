"""Migrations of the control database, by Alembic, run by whoever opens the database first.

May import nothing of Sluice: a migration says what was, not what the code says now.

Decisions

- One transaction for all that is missing, under a lock (SQLite: the write lock; PostgreSQL: an advisory
  one), so that of many processes that start at once one migrates and the others find it done, and a kill
  in between leaves the database as it was.
- The first migration adopts the tables that Sluice made before it had migrations, with their data.
- A new migration is a file in `versions/`, and its revision in `HEAD`: a database at HEAD is opened
  without importing Alembic.
- No alembic.ini and no network: they are package data. `migration_sql` prints them for those who let
  nobody but themselves change a database.
"""

import io
from pathlib import Path

import sqlalchemy as sql

HEAD = "0005"
_LOCK = 0x51_0C_CE  # of PostgreSQL's advisory locks, ours by agreement


def revision_of(connection: sql.Connection) -> str | None:
    """The database's revision, None if it has none."""
    if not sql.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sql.text("SELECT version_num FROM alembic_version"))
    return found


def migrate(url: str | sql.URL) -> None:
    """Brings the database to HEAD. Raises SQLAlchemyError, or CommandError of Alembic if it is of a
    revision that is not known here."""
    engine = sql.create_engine(url, poolclass=sql.NullPool)
    if engine.dialect.name == "sqlite":
        sql.event.listen(engine, "connect", _leave_transactions_to_us)
        sql.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sql.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        _run(connection=connection)


def migration_sql(dialect: str) -> str:
    """All migrations of an empty database as SQL. dialect: `sqlite` or `postgresql`."""
    written = io.StringIO()
    _run(dialect_name=dialect, output_buffer=written, as_sql=True)
    return written.getvalue()


def _run(as_sql: bool = False, **configuration: object) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    with EnvironmentContext(
        config, scripts, fn=lambda revision, _: scripts._upgrade_revs(HEAD, revision), as_sql=as_sql
    ) as environment:
        environment.configure(**configuration, transactional_ddl=True)  # type: ignore[arg-type]
        with environment.begin_transaction():
            environment.run_migrations()


def _leave_transactions_to_us(connection: object, _record: object) -> None:
    """Python's sqlite3 would begin its own, and only before a change of rows."""
    connection.isolation_level = None  # type: ignore[attr-defined]
    connection.execute("PRAGMA busy_timeout = 30000")  # type: ignore[attr-defined]
