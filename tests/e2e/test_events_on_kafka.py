"""The platform with its events on Kafka: `SLUICE_EVENTS_URL`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.client import GatewayClient
from registry.kafka import KafkaGroupReader
from tests.e2e.platforms_under_fire import Load, Platform, until
from tests.kafka_brokers import Brokers, running_brokers

TOPIC = "sluice-events"


@pytest.fixture
def brokers() -> Iterator[Brokers]:
    with running_brokers() as brokers:
        yield brokers


@pytest.fixture
def platform(brokers: Brokers, tmp_path: Path) -> Iterator[Platform]:
    url = f"kafka://{brokers.servers}/{TOPIC}?session_s=6"
    started = Platform.start(tmp_path / "home", events_url=url, with_monitor=True)
    try:
        started.serve()
        yield started
    finally:
        started.stop()


@pytest.mark.slow
def test_rankings_and_clicks_are_archived_once_and_watched_through_kills_and_brokers_that_are_away(
    platform: Platform, brokers: Brokers
) -> None:
    with GatewayClient.of(platform.settings, patience_s=60) as gateway:
        ranked = platform.rank(gateway, 1)
        click = {
            "event_id": "click-1",
            "type": "click",
            "ranking_id": ranked["ranking_id"],
            "item": ranked["items"][0]["id"],
            "position": 1,
        }
        assert gateway.post("/v1/feedback", {"events": [click]}) == {"accepted": 1}
    until(lambda: ranked["ranking_id"] in platform.archived(), "the ranking to be archived")
    until(lambda: platform.archived_feedback() == ["click-1"], "its click to be archived")

    with Load(platform, clients=2, patience_s=60) as load:
        load.wait_for(100)
        platform.kill("archiver")
        load.wait_for(100)
        brokers.away()
        load.wait_for(100)  # nobody who asks notices
        platform.kill("gateway-0")
        brokers.back()
        load.wait_for(100)

    answered = {ranked["ranking_id"], *load.answered}
    until(lambda: answered <= set(platform.archived()), "everything that was answered to be archived")
    archived = platform.archived()
    assert len(archived) == len(set(archived))
    watching = KafkaGroupReader(brokers.config, TOPIC, "monitor", "looks on")
    try:
        until(lambda: watching.lag() == 0, "the monitor to have counted everything")
    finally:
        watching.close()
