"""The platform over rows in a real Redis Cluster: `SLUICE_FEATURES_URL`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.client import GatewayClient
from deploy.features.store import feature_client
from registry.contracts.features import row_key
from serving.features.materialiser import write_rows
from tests.builders import a_package
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform, until
from tests.redis_cluster import RedisCluster, running_cluster

VIEW = a_package().manifest.feature_view()


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def platform(cluster: RedisCluster, tmp_path: Path) -> Iterator[Platform]:
    started = Platform.start(tmp_path / "home", features_url=cluster.url)
    try:
        started.serve()
        yield started
    finally:
        started.stop()


def away(answer: Any) -> bool:
    """Whether the answer says that rows could not be had."""
    return "features_away" in answer["degraded"]


def test_an_update_in_the_cluster_is_in_the_scores_and_a_dead_node_degrades_only_its_own_rows(
    platform: Platform, cluster: RedisCluster
) -> None:
    def rank(candidates: list[str]) -> Any:
        return gateway.post(f"/v1/models/{MODEL}/rank", {"candidates": candidates, "unit": "u", "top_k": 1})

    with GatewayClient(platform.settings.gateway_url) as gateway:
        first = rank(ITEMS[:20])
        assert not away(first)

        last = first["items"][0]["id"]
        other = next(item for item in ITEMS[:20] if item != last)
        client = feature_client(platform.settings, 5.0)
        write_rows(client, VIEW, [other], np.array([[1e6]], np.float32), updated_ms=2, on_rows=lambda _: None)
        until(lambda: rank(ITEMS[:20])["items"][0]["id"] == other, "the update to be in the scores")

        dead = cluster.nodes[0]
        cold = ITEMS[100:]
        its_own = [item for item in cold if cluster.owner(row_key(VIEW, item)) is dead]
        dead.kill()

        assert not away(rank([item for item in cold if item not in its_own]))
        assert away(rank(its_own))
