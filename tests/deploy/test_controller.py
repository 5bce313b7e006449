"""The controller over a real Redis and real tables: it starts before what it needs, and goes on after it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy import wiring
from deploy.control.controller import Controller, control, make_controller, now_ms
from deploy.machine.home import as_running
from deploy.settings import PlatformSettings
from registry.board import RedisBoard
from registry.errors import StoreUnavailable
from registry.promotion import promote
from registry.rollout_moves import start
from registry.traffic_control import SqlControl
from tests.builders import a_package, a_plan, a_spec, a_stored, some_evidence
from tests.conftest import RedisServer
from tests.deploy.platforms import Platforms, pid_of, until
from tests.redis_cluster import RedisCluster

WORDS = {"who": "ann", "why": "new"}


@pytest.fixture
def settings(tmp_path: Path, redis_store: RedisServer | RedisCluster) -> PlatformSettings:
    """A data folder whose Redis is the tests'."""
    made = PlatformSettings(home=tmp_path, with_mlflow=False, redis=redis_store.url)
    made.run_folder.mkdir()
    return made


@pytest.fixture
def controller(settings: PlatformSettings, redis_client: object) -> Iterator[Controller]:
    with closing(SqlControl(settings.control_database)) as database:
        yield make_controller(settings, database)


class Running:
    """The controller's loop on a thread."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=control, args=(settings, self.stop))
        self.thread.start()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def promote_first(database: SqlControl) -> None:
    database.change(a_plan(champion=1), expected_revision=0, evidence={}, now_ms=now_ms(), **WORDS)


def test_what_is_decided_is_shown_and_evidence_moves_it(settings: PlatformSettings, redis_client: object) -> None:
    board = RedisBoard(wiring.redis_client(settings))
    with closing(SqlControl(settings.control_database)) as database, Running(settings):
        promote_first(database)
        until(lambda: "codesearch" in board.read(), "the first plan on the board")
        decision = start(database.plan("codesearch"), a_stored(), a_spec(), now_ms=now_ms(), **WORDS)
        database.decide(decision)
        rollout = decision.moves[0].rollout
        until(lambda: board.read()["codesearch"].revision == 2, "the rollout's plan on the board")

        database.add_evidence(some_evidence(rollout, "offline_gate", made_ms=now_ms()))
        until(lambda: board.read()["codesearch"].experiments[0].mirror_share == 100, "the mirror")
        database.add_evidence(some_evidence(rollout, "drift", "failed", made_ms=now_ms()))
        until(lambda: board.read()["codesearch"].experiments == (), "the rollback")

    assert [change.what for change in database.rollout_history(rollout.id)] == ["started", "advanced", "rolled_back"]


def test_it_waits_for_a_database_that_is_not_there_yet(tmp_path: Path, redis_server: RedisServer) -> None:
    folder = tmp_path / "later"
    settings = PlatformSettings(home=tmp_path, with_mlflow=False, control_url=f"sqlite:///{folder}/control.db")
    settings.run_folder.mkdir()
    settings.redis_socket.symlink_to(redis_server.socket)
    with Running(settings) as running:
        until(lambda: running.thread.is_alive(), "the loop")
        folder.mkdir()
        until(lambda: (folder / "control.db").exists(), "the tables")


def test_a_redis_that_comes_later_is_shown_everything(
    tmp_path: Path, redis_server: RedisServer, redis_client: object
) -> None:
    settings = PlatformSettings(home=tmp_path, with_mlflow=False)
    settings.run_folder.mkdir()
    with closing(SqlControl(settings.control_database)) as database, Running(settings):
        promote_first(database)
        settings.redis_socket.symlink_to(redis_server.socket)
        board = RedisBoard(wiring.redis_client(settings))
        until(lambda: board.read().get("codesearch") == database.plan("codesearch"), "the plan on the board")


def test_who_asks_gets_the_engine_s_outlook(controller: Controller) -> None:
    promote_first(controller.control)
    decision = start(controller.control.plan("codesearch"), a_stored(), a_spec(), now_ms=now_ms(), **WORDS)
    controller.control.decide(decision)
    rollout = decision.moves[0].rollout

    assert controller.outlook(rollout) == {
        "next": "hold",
        "why": "no evidence of offline_gate",
        "guardrails": None,
        "evidence": [],
    }
    gate = some_evidence(rollout, "offline_gate", made_ms=now_ms())
    controller.control.add_evidence(gate)
    assert (controller.outlook(rollout)["next"], controller.outlook(rollout)["evidence"]) == ("advance", [gate.id])


def test_a_plan_is_published_on_request_and_a_registry_that_is_left_out_says_so(controller: Controller) -> None:
    promote_first(controller.control)
    controller.publish("codesearch")

    assert controller.board.read() == {"codesearch": a_plan(champion=1)}
    with pytest.raises(StoreUnavailable, match="SLUICE_WITH_MLFLOW=1 starts it"):
        controller.store()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # mlflow's own
def test_mlflow_s_aliases_follow_what_is_decided_also_after_kill_9(platforms: Platforms) -> None:
    supervisor = platforms.start("registry")
    state = platforms.ready(supervisor)
    settings = as_running(platforms.settings)
    store = wiring.model_store(settings)
    for scale in (1.0, 2.0):
        store.register("codesearch", a_package(scale))
    with closing(SqlControl(settings.control_database)) as database:
        for expected, version in enumerate((1, 2)):
            digest = store.get("codesearch", version).digest
            plan = promote(database.plan("codesearch"), "codesearch", version, digest)
            database.change(plan, expected_revision=expected, evidence={}, now_ms=now_ms(), **WORDS)
            if expected:
                os.kill(pid_of(state, "controller"), signal.SIGKILL)  # it may have shown all, some or nothing
            until(lambda wanted=version: store.aliases("codesearch") == {"champion": wanted}, f"alias {version}")

    shown = RedisBoard(wiring.redis_client(settings)).read()["codesearch"]
    assert (shown.revision, shown.champion) == (2, 2)


def test_the_controller_does_not_wait_for_mlflow_s_import() -> None:
    heavy = {"mlflow", "torch", "pandas", "celery"}
    program = f"import sys, deploy.control.controller; print(*sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout.split() == []
