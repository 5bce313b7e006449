"""The control database: opened, brought to the tables of this Sluice, its errors translated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from registry.errors import RefusedDatabase, StoreUnavailable
from registry.migrations import HEAD, migrate, revision_of


def open_database(url: str) -> sql.Engine:
    """The database with all its tables (`registry.tables`), migrated if need be; safe for several processes.

    url: SQLAlchemy's, `sqlite:///path` of a file or `postgresql+driver://…`.
    Raises StoreUnavailable, RefusedDatabase if a newer Sluice made it.
    """
    engine = sql.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        sql.event.listen(engine, "connect", _prepare_sqlite)
    try:
        with sql_errors("open the traffic tables"):
            _bring_to_head(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def sql_errors(what: str) -> Iterator[None]:
    """Raises StoreUnavailable, naming what was not done, where SQLAlchemy would raise its own."""
    try:
        yield
    except SQLAlchemyError as error:
        first_line = str(error).partition("\n")[0]
        raise StoreUnavailable(f"the control database could not {what}: {first_line}") from error


def insert_once(connection: sql.Connection, table: sql.Table, row: dict[str, Any]) -> bool:
    """Inserts the row unless one with its key is there; whether it did."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return connection.execute(postgresql.insert(table).values(row).on_conflict_do_nothing()).rowcount == 1
    from sqlalchemy.dialects import sqlite

    return connection.execute(sqlite.insert(table).values(row).on_conflict_do_nothing()).rowcount == 1


def _bring_to_head(engine: sql.Engine) -> None:
    with engine.connect() as connection:
        found = revision_of(connection)
    if found == HEAD:
        return
    if found is not None and found > HEAD:
        raise RefusedDatabase(
            f"the control database has revision {found}, this Sluice knows {HEAD}: a newer Sluice made it; install "
            "that one, or restore a copy from before"
        )
    migrate(engine.url)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Readers do not wait for writers, and writers wait for each other for 10 s."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA busy_timeout = 10000")
