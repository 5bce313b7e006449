"""A new champion under load: loaded and warm before the first query reaches it, or never routed to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import wiring
from deploy.client import GatewayClient
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.traffic import TrafficPlan
from tests.builders import a_package
from tests.e2e.platforms_under_fire import MODEL, Load, Platform, until


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    started = Platform.start(tmp_path / "home")
    try:
        started.serve()
        yield started
    finally:
        started.stop()


def champion_that_answers(platform: Platform) -> int:
    with GatewayClient(platform.settings.gateway_url) as gateway:
        return int(platform.rank(gateway, 1)["version"])


def test_no_query_fails_when_the_champion_changes(platform: Platform) -> None:
    package = a_package(scale=-1.0)
    write(package, platform.settings.versions_folder / MODEL / "2")
    with Load(platform) as load:
        load.wait_for(50)
        board = RedisBoard(wiring.redis_client(platform.settings))
        board.publish(TrafficPlan(MODEL, 2, champion=2, champion_digest=package.digest))
        until(lambda: champion_that_answers(platform) == 2, "the new champion to answer")
        load.wait_for(50)

    assert load.failed == []


def test_a_champion_that_cannot_be_loaded_is_never_routed_to(platform: Platform) -> None:
    write(a_package(scale=-1.0), platform.settings.versions_folder / MODEL / "2")
    board = RedisBoard(wiring.redis_client(platform.settings))
    log = platform.settings.log_file
    board.publish(TrafficPlan(MODEL, 2, champion=2, champion_digest="0" * 64))  # not what the folder holds

    until(lambda: f"could not load {MODEL}@2" in log.read_text(), "the worker to refuse the version")

    assert champion_that_answers(platform) == 1
    with GatewayClient(platform.settings.gateway_url) as gateway:
        assert gateway.get("/v2/health/ready") == {"ready": True}
