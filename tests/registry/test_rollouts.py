"""Rollout control in memory, on SQLite and on PostgreSQL; and killed in the middle of a decision."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from sqlalchemy.exc import OperationalError

from registry.errors import StoreUnavailable
from registry.promotion import promote
from registry.rollout_moves import advance
from registry.rollouts import RolloutControl
from registry.traffic_control import MemoryControl, SqlControl
from tests.builders import some_evidence
from tests.suites.rollout_controls import ENGINE, WORDS, RolloutControlSuite, everything, started


class TestMemoryRollouts(RolloutControlSuite):
    @pytest.fixture
    def control(self) -> RolloutControl:
        return MemoryControl()


class TestRolloutsOnSqlite(RolloutControlSuite):
    @pytest.fixture
    def control(self, tmp_path: Path) -> Iterator[RolloutControl]:
        with closing(SqlControl(f"sqlite:///{tmp_path}/control.db")) as control:
            yield control


class TestRolloutsOnPostgres(RolloutControlSuite):
    @pytest.fixture
    def control(self, postgres_url: str) -> Iterator[RolloutControl]:
        with closing(SqlControl(postgres_url)) as control:
            yield control


class Breaker:
    """Breaks an engine's connection at its n-th statement; n one beyond the last breaks the commit."""

    def __init__(self, engine: sql.Engine, at: int) -> None:
        self.left, self.statements = at, 0
        sql.event.listen(engine, "before_cursor_execute", self._statement)
        sql.event.listen(engine, "commit", self._commit)

    def _statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.statements += 1
        self._count(statement)

    def _commit(self, _connection: Any) -> None:
        self._count("COMMIT")

    def _count(self, statement: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise OperationalError(statement, {}, ConnectionError("broken here, for the test"))


def a_move(control: RolloutControl, what: str) -> None:
    """A step with evidence, or a promotion by hand that supersedes two rollouts."""
    plan = control.plan("codesearch")
    assert plan is not None
    if what == "advance":
        [rollout] = [one for one in control.rollouts() if one.layer == "rollout"]
        gate, diff = some_evidence(rollout, "offline_gate"), some_evidence(rollout, "rank_diff")
        control.decide(advance(rollout, plan, [gate, diff], **ENGINE))
    else:
        control.change(
            promote(plan, "codesearch", 9, f"{9:064x}"), expected_revision=plan.revision, evidence={}, **WORDS
        )


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/control.db"


@pytest.mark.parametrize("what", ["advance", "promote"])
def test_a_connection_that_breaks_at_any_statement_leaves_the_old_or_the_new(url: str, what: str) -> None:
    with closing(SqlControl(url)) as control:
        started(control)
        started(control, version=3, layer="other")
        old = everything(control)
        broken_at = 0
        while everything(control) == old:
            broken_at += 1
            with closing(SqlControl(url)) as breaking:
                Breaker(breaking.engine, broken_at)
                try:
                    a_move(breaking, what)
                except StoreUnavailable as error:
                    assert "broken here" in str(error)
                    assert everything(control) == old
                else:
                    assert everything(control) != old

        assert broken_at > 8
        assert [change.revision for change in control.history("codesearch")] == [1, 2, 3, 4]


_KILLED = """
import os, signal, sys
import sqlalchemy as sql
from registry.traffic_control import SqlControl
from tests.registry.test_rollouts import a_move

control, left = SqlControl(sys.argv[1]), int(sys.argv[2])

def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

sql.event.listen(control.engine, "after_cursor_execute", count)
a_move(control, "promote")
"""


@pytest.mark.parametrize("statement", [2, 3, 5, 6, 8, 9])
def test_a_process_killed_inside_a_decision_leaves_the_old_and_no_lock(url: str, statement: int) -> None:
    with closing(SqlControl(url)) as control:
        started(control)
        started(control, version=3, layer="other")
        old = everything(control)

        ended = subprocess.run([sys.executable, "-c", _KILLED, url, str(statement)], check=False)

        assert ended.returncode == -9
        assert everything(control) == old
        a_move(control, "promote")
        assert control.rollouts(open_only=True) == []
