"""A fleet of workers: restarted one after another, announced, unloaded and loaded, with queries all the while."""

import contextlib
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import wiring
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.traffic import TrafficPlan
from registry.replica_board import RedisReplicaBoard
from tests.builders import a_package
from tests.e2e.platforms_under_fire import MODEL, Load, Platform, until

HELD = f"{MODEL}@1"


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, none that the kernel gives to those who connect."""
    for first in range(20_000, 30_000, count):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports from 20,000 to 30,000")


@pytest.fixture(params=["unix", "tcp"])
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Platform]:
    """Two workers that hold the model."""
    tcp = {"worker_host": "127.0.0.1", "worker_port": free_ports(2)} if request.param == "tcp" else {}
    started = Platform.start(tmp_path / "home", workers=2, **tcp)
    try:
        started.serve()
        started.wait_until_held(HELD, 2)
        yield started
    finally:
        started.stop()


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    started = Platform.start(tmp_path / "home", model_budgets="small=1KB")
    try:
        started.serve()
        yield started
    finally:
        started.stop()


def retries(platform: Platform) -> float:
    with urllib.request.urlopen(f"{platform.settings.gateway_url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("serving_replica_retries_total"))


def test_no_query_fails_or_is_sent_twice_when_all_workers_are_restarted_in_turn(fleet: Platform) -> None:
    board = RedisReplicaBoard(wiring.redis_client(fleet.settings))

    def announced(address: str) -> int | None:
        record = board.read().get(address)
        return record.pid if record is not None else None

    with Load(fleet) as load:
        for place, address in enumerate(fleet.settings.worker_addresses):
            load.wait_for(50)
            old = fleet.kill(f"worker-{place}", signal.SIGTERM)
            until(lambda address=address, old=old: announced(address) not in (None, old), "a successor on the board")
            fleet.wait_until_held(HELD, 2)
        load.wait_for(50)

    assert load.failed == []
    assert retries(fleet) == 0
    assert {record.draining for record in board.read().values()} == {False}


def test_a_model_is_unloaded_everywhere_and_loaded_again_by_the_same_plan(platform: Platform) -> None:
    board = RedisBoard(wiring.redis_client(platform.settings))
    board.hold(MODEL, wanted=False)
    platform.wait_until_held(HELD, 0)

    board.hold(MODEL, wanted=True)
    platform.wait_until_held(HELD, 1)
    with Load(platform) as load:
        load.wait_for(20)

    assert load.failed == []
    assert board.read()[MODEL].revision == 1


def test_a_model_over_its_budget_is_refused_with_the_reason_and_costs_the_other_nothing(platform: Platform) -> None:
    package = a_package(model="small")
    write(package, platform.settings.versions_folder / "small" / "1")
    with Load(platform) as load:
        load.wait_for(20)
        board = RedisBoard(wiring.redis_client(platform.settings))
        board.publish(TrafficPlan("small", 1, champion=1, champion_digest=package.digest))

        def reason() -> str:
            return str(platform.status()["replicas"][0]["failures"].get("small@1", ""))

        until(reason, "the refusal in the status")
        load.wait_for(20)

    assert "the budget is 1.0 kB: raise it in SLUICE_MODEL_BUDGETS" in reason()
    assert load.failed == []
