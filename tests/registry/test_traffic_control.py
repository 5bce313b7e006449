"""Traffic control in memory and in SQL."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sql

from registry.errors import StoreUnavailable
from registry.traffic_control import MemoryControl, SqlControl, TrafficControl
from tests.builders import a_plan
from tests.postgres import running_postgres
from tests.suites.traffic_controls import TrafficControlSuite, change


class TestMemoryControl(TrafficControlSuite):
    @pytest.fixture
    def control(self) -> TrafficControl:
        return MemoryControl()


class TestSqlControl(TrafficControlSuite):
    @pytest.fixture
    def database(self, tmp_path: Path) -> Path:
        return tmp_path / "control.db"

    @pytest.fixture
    def control(self, database: Path) -> Iterator[TrafficControl]:
        with closing(SqlControl(f"sqlite:///{database}")) as control:
            yield control

    def test_what_one_process_decides_another_sees(self, control: TrafficControl, database: Path) -> None:
        change(control, a_plan(), expected=0)

        with closing(SqlControl(f"sqlite:///{database}")) as other:
            assert other.plan("codesearch") == a_plan()

    def test_a_reader_does_not_wait_for_a_writer(self, control: TrafficControl, database: Path) -> None:
        change(control, a_plan(), expected=0)
        with closing(sqlite3.connect(database)) as writer:
            writer.execute("BEGIN EXCLUSIVE")

            assert control.plan("codesearch") == a_plan()

    def test_plan_and_history_are_written_together_or_not_at_all(self, control: TrafficControl, database: Path) -> None:
        change(control, a_plan(champion=1), expected=0)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("ALTER TABLE traffic_history RENAME TO away")

        with pytest.raises(StoreUnavailable, match="could not change the traffic plan"):
            change(control, a_plan(champion=2), expected=1)
        assert control.plan("codesearch") == a_plan(champion=1)

    def test_a_process_killed_inside_a_change_leaves_the_old_plan_and_no_lock(
        self, control: TrafficControl, database: Path
    ) -> None:
        change(control, a_plan(champion=1), expected=0)
        killed = (
            "import os, signal, sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1])\n"
            "connection.execute('UPDATE traffic_plans SET revision = 2')\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        ended = subprocess.run([sys.executable, "-c", killed, str(database)], check=False)

        assert ended.returncode == -9
        assert control.plan("codesearch") == a_plan(champion=1)
        assert change(control, a_plan(champion=3), expected=1).revision == 2


class TestSqlControlOnPostgres(TrafficControlSuite):
    @pytest.fixture
    def control(self, postgres_url: str) -> Iterator[TrafficControl]:
        with closing(SqlControl(postgres_url)) as control:
            yield control

    def test_what_one_process_decides_another_sees(self, control: TrafficControl, postgres_url: str) -> None:
        change(control, a_plan(), expected=0)

        with closing(SqlControl(postgres_url)) as other:
            assert other.plan("codesearch") == a_plan()

    def test_plan_and_history_are_written_together_or_not_at_all(
        self, control: TrafficControl, postgres_url: str
    ) -> None:
        change(control, a_plan(champion=1), expected=0)
        with closing(sql.create_engine(postgres_url, poolclass=sql.NullPool).connect()) as connection:
            connection.execute(sql.text("ALTER TABLE traffic_history RENAME TO away"))
            connection.commit()

        with pytest.raises(StoreUnavailable, match="could not change the traffic plan"):
            change(control, a_plan(champion=2), expected=1)
        assert control.plan("codesearch") == a_plan(champion=1)


PROMOTES_WHEN_TOLD = """
import sys
from registry.errors import StaleRevision
from registry.traffic_control import SqlControl
from tests.builders import a_plan
from tests.suites.traffic_controls import change

control = SqlControl(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    try:
        change(control, a_plan(champion=int(sys.argv[2])), expected=int(line))
        print("won", flush=True)
    except StaleRevision:
        print("stale", flush=True)
"""


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_of_two_processes_that_promote_at_once_one_wins(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgres" else f"sqlite:///{tmp_path}/control.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTES_WHEN_TOLD, url, str(champion)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for champion in (1, 2)
    ]
    try:
        assert [_line_of(process) for process in processes] == ["ready", "ready"]
        winners = []
        for revision in range(20):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{revision}\n")
                process.stdin.flush()
            answers = [_line_of(process) for process in processes]
            assert sorted(answers) == ["stale", "won"]
            winners.append(answers.index("won") + 1)
    finally:
        for process in processes:
            process.communicate(timeout=30)

    with closing(SqlControl(url)) as control:
        assert [one.plan.champion for one in control.history("codesearch")] == winners


def _line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_control_tables_survive_a_killed_server_and_answer_again() -> None:
    with running_postgres() as server, closing(SqlControl(server.fresh_database())) as control:
        change(control, a_plan(champion=1), expected=0)
        server.kill()
        with pytest.raises(StoreUnavailable, match="could not read the traffic plan"):
            control.plan("codesearch")
        server.start()

        assert change(control, a_plan(champion=2), expected=1).revision == 2
        assert [record.plan.champion for record in control.history("codesearch")] == [1, 2]


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="could not open the traffic tables"):
        SqlControl(f"sqlite:///{tmp_path}/no/such/folder/control.db")
