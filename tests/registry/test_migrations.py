"""Migrations: from nothing, from what Sluice made before it had them, by many at once, killed in between."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sql
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from registry import migrations
from registry.database import open_database
from registry.errors import RefusedDatabase
from registry.migrations import HEAD, migration_sql, revision_of
from registry.tables import metadata
from registry.traffic_control import SqlControl
from tests.builders import NOW_MS, a_plan
from tests.suites.rollout_controls import started

OLD_TABLES = (
    "CREATE TABLE traffic_plans (model VARCHAR(64) NOT NULL, revision INTEGER NOT NULL, plan TEXT NOT NULL, "
    "PRIMARY KEY (model))",
    "CREATE TABLE traffic_history (model VARCHAR(64) NOT NULL, revision INTEGER NOT NULL, at_ms BIGINT NOT NULL, "
    "who TEXT NOT NULL, why TEXT NOT NULL, evidence TEXT NOT NULL, plan TEXT NOT NULL, PRIMARY KEY (model, revision))",
)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/control.db"


@pytest.fixture
def engine(url: str) -> Iterator[sql.Engine]:
    engine = sql.create_engine(url, poolclass=sql.NullPool)
    yield engine
    engine.dispose()


def test_the_last_migration_is_the_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")

    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrations_make_the_tables_that_the_code_says(url: str, engine: sql.Engine) -> None:
    open_database(url).dispose()

    with engine.connect() as connection:
        assert revision_of(connection) == HEAD
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_tables_from_before_there_were_migrations_are_adopted_with_their_data(url: str, engine: sql.Engine) -> None:
    plan = a_plan()
    row = {"m": plan.model, "r": 1, "p": plan.encode().decode(), "at": NOW_MS, "e": '{"n":1}'}
    with engine.begin() as connection:
        for statement in OLD_TABLES:
            connection.execute(sql.text(statement))
        connection.execute(sql.text("INSERT INTO traffic_plans VALUES (:m, :r, :p)"), row)
        connection.execute(sql.text("INSERT INTO traffic_history VALUES (:m, :r, :at, 'ann', 'better', :e, :p)"), row)

    with closing(SqlControl(url)) as control:
        assert control.plan("codesearch") == plan
        [change] = control.history("codesearch")
        assert (change.plan, change.at_ms, change.who, change.why, change.evidence) == (
            *(plan, NOW_MS, "ann", "better"),
            {"n": 1},
        )
        assert started(control).plan_revision == 2


def test_a_database_that_is_at_head_is_opened_as_it_is(url: str, engine: sql.Engine) -> None:
    with closing(SqlControl(url)) as control:
        rollout = started(control)
    program = (
        "import sys; from registry.traffic_control import SqlControl; control = SqlControl(sys.argv[1]); "
        "print(control.rollouts()[0].id, 'alembic' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True)

    assert shown.stdout.split() == [rollout.id, "False"]


def test_of_many_processes_that_start_at_once_all_find_the_tables(url: str, engine: sql.Engine) -> None:
    program = "import sys; from registry.traffic_control import SqlControl; print(SqlControl(sys.argv[1]).models())"
    racing = [
        subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]

    assert [process.communicate(timeout=60) for process in racing] == [(b"[]\n", b"")] * 4
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@pytest.mark.parametrize("statement", [2, 4, 6])
def test_a_migration_killed_in_between_leaves_the_database_as_it_was(
    url: str, engine: sql.Engine, statement: int
) -> None:
    killed = (
        "import os, signal, sys\n"
        "import sqlalchemy as sql\n"
        "from registry.migrations import migrate\n"
        "left = int(sys.argv[2])\n"
        "def count(connection, cursor, statement, *_):\n"
        "    global left\n"
        "    left -= statement.strip().startswith('CREATE')\n"
        "    if left == 0:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sql.event.listen(sql.Engine, 'after_cursor_execute', count)\n"
        "migrate(sys.argv[1])\n"
    )
    ended = subprocess.run([sys.executable, "-c", killed, url, str(statement)], check=False)

    assert ended.returncode == -9
    assert sql.inspect(engine).get_table_names() == []
    with closing(SqlControl(url)) as control:
        assert started(control).plan_revision == 2


def test_a_database_of_an_older_sluice_is_brought_up_with_its_data(url: str, engine: sql.Engine) -> None:
    with closing(SqlControl(url)) as control:
        rollout = started(control)
    with engine.begin() as connection:  # as the second migration left it
        for index in ("evidence_by_kind", "evidence_by_verdict"):
            connection.execute(sql.text(f"DROP INDEX {index}"))
        for table in ("runs", "audit"):
            connection.execute(sql.text(f"DROP TABLE {table}"))
        newer = "expires_ms rotated_ms old_prefix old_hash old_until_ms requests_per_s candidates_per_s line revision"
        for column in newer.split():
            connection.execute(sql.text(f"ALTER TABLE api_keys DROP COLUMN {column}"))
        connection.execute(sql.text("UPDATE alembic_version SET version_num = '0002'"))

    with closing(SqlControl(url)) as control:
        assert control.rollouts() == [rollout]
    with engine.connect() as connection:
        assert revision_of(connection) == HEAD
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_database_of_a_newer_sluice_is_refused(url: str, engine: sql.Engine) -> None:
    open_database(url).dispose()
    with engine.begin() as connection:
        connection.execute(sql.text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(RefusedDatabase, match="has revision 9999, this Sluice knows"):
        SqlControl(url)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_statements_are_there_for_those_who_run_them_by_hand(dialect: str) -> None:
    printed = migration_sql(dialect)

    for table in metadata.tables:
        assert f"CREATE TABLE {'IF NOT EXISTS ' if table.startswith('traffic') else ''}{table} (" in printed
    assert "WHERE state IN ('running', 'paused')" in printed
    assert f"UPDATE alembic_version SET version_num='{HEAD}'" in printed
