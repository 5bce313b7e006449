"""The whole platform on a Redis Cluster and PostgreSQL, by settings alone, while the cluster is broken and rebuilt."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.client import GatewayClient
from deploy.errors import SluiceError
from deploy.features.store import feature_client
from registry.artefacts import write
from registry.contracts.features import row_key
from registry.contracts.rollouts import RolloutSpec, Step
from registry.contracts.traffic import TrafficPlan
from registry.rollout_moves import start
from registry.stream import EVENT_STREAM
from registry.traffic_control import SqlControl
from serving.features.materialiser import write_rows
from tests.builders import a_package, a_stored
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Clients, Platform, until
from tests.e2e.test_promote_api import ask, plan_of
from tests.postgres import PostgresServer, running_postgres
from tests.redis_cluster import RedisCluster, running_cluster

VIEW = a_package().manifest.feature_view()
UPDATE_S = 1.0  # what the design promises
Started = Callable[..., tuple[Platform, RedisCluster]]


@pytest.fixture
def started(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Started]:
    """Starts a platform on engines of its own, with a replica of the primary that keeps the events if asked for."""
    with ExitStack() as stack:

        def start(durable: bool = False, replica: bool = False) -> tuple[Platform, RedisCluster]:
            cluster = stack.enter_context(running_cluster(durable))
            if replica:
                cluster.add_replica(cluster.owner(EVENT_STREAM))
            platform = Platform.start(
                tmp_path / "home",
                redis=cluster.url,
                control_url=postgres_server.fresh_database(),
                event_replicas=int(replica),
            )
            stack.callback(platform.stop)
            platform.serve()
            return platform, cluster

        yield start


@dataclass
class Traffic(Clients):
    """One client that ranks and clicks without pause."""

    platform: Platform
    ranked: list[str] = field(default_factory=list)
    clicked: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def _runs(self) -> Sequence[Callable[[], None]]:
        return [self._run]

    def wait_for(self, more: int) -> None:
        wanted = len(self.clicked) + more
        until(lambda: len(self.clicked) >= wanted or self.failed, f"{more} more clicks")

    def wait_until_archived(self) -> None:
        """Until the archive has every answer and every click that was acknowledged, and no other."""
        wanted = {f"answer {i}" for i in self.ranked} | {f"feedback {i}" for i in self.clicked}
        found: set[str] = set()

        def all_is_there() -> bool:
            found.clear()
            found.update(f"answer {i}" for i in self.platform.archived())
            found.update(f"feedback {i}" for i in self.platform.archived_feedback())
            return found == wanted

        try:
            until(all_is_there, "every answer and click in the archive, and nothing else")
        except AssertionError as error:
            missing, others = sorted(wanted - found), sorted(found - wanted)
            error.add_note(f"{len(missing)} missing: {missing[:5]}; {len(others)} others: {others[:5]}")
            raise

    def _run(self) -> None:
        with GatewayClient.of(self.platform.settings) as gateway:
            while not self._stopped:
                try:
                    answer = self.platform.rank(gateway, len(self.ranked))
                    self.ranked.append(answer["ranking_id"])
                    click = {"type": "click", "ranking_id": answer["ranking_id"], "item": answer["items"][0]["id"]}
                    event = f"click-{len(self.clicked)}"
                    gateway.post("/v1/feedback", {"events": [click | {"event_id": event}]})
                    self.clicked.append(event)
                except SluiceError as error:
                    self.failed.append(str(error))


def an_update_is_seen(platform: Platform, item: str, score: float) -> float:
    """After how many seconds a row written to the cluster is in the scores."""
    with GatewayClient.of(platform.settings) as gateway:

        def best() -> Any:
            body = {"candidates": ITEMS[:20], "unit": "u", "top_k": 1}
            return gateway.post(f"/v1/models/{MODEL}/rank", body)["items"][0]["id"]

        assert best() != item
        client = feature_client(platform.settings, 5.0)
        write_rows(client, VIEW, [item], np.array([[score]], np.float32), updated_ms=2, on_rows=lambda _: None)
        written_s = time.monotonic()
        until(lambda: best() == item, "the update to be in the scores")
        return time.monotonic() - written_s


def test_slots_move_under_load_and_no_query_fails_no_event_is_lost_and_updates_arrive(started: Started) -> None:
    platform, cluster = started()
    source, target = cluster.owner(EVENT_STREAM), cluster.add()
    cluster.wait_until_ok()
    mine = {cluster.slot(row_key(VIEW, item)) for item in ITEMS if cluster.owner(row_key(VIEW, item)) is source}

    with Traffic(platform) as traffic:
        traffic.wait_for(20)
        keys = cluster.move(sorted(mine | {cluster.slot(EVENT_STREAM)}), source, target)
        traffic.wait_for(20)

    assert keys > len(mine)
    assert cluster.owner(EVENT_STREAM) is target
    assert traffic.failed == []
    traffic.wait_until_archived()
    moved = next(item for item in ITEMS[:19] if cluster.slot(row_key(VIEW, item)) in mine)
    assert an_update_is_seen(platform, moved, 1e6) < UPDATE_S


def test_a_replica_takes_over_under_load_with_every_event_that_was_acknowledged(started: Started) -> None:
    platform, cluster = started(replica=True)
    primary, replica = cluster.owner(EVENT_STREAM), cluster.nodes[-1]

    with Traffic(platform) as traffic:
        traffic.wait_for(20)
        primary.kill()
        until(lambda: replica.command("ROLE")[0] == b"master", "the replica to take over")
        traffic.wait_for(20)
        primary.start()  # comes back as the replica of its replica
        until(lambda: replica.command("ROLE")[2], "a replica of the new primary")
        traffic.wait_for(20)

    assert traffic.failed == []
    traffic.wait_until_archived()
    its_own = next(item for item in ITEMS[:19] if cluster.owner(row_key(VIEW, item)) is replica)
    assert an_update_is_seen(platform, its_own, 1e6) < UPDATE_S


def test_a_primary_without_a_replica_dies_and_comes_back_with_what_it_had_acknowledged(started: Started) -> None:
    platform, cluster = started(durable=True)
    primary = cluster.owner(EVENT_STREAM)

    with Traffic(platform) as traffic:
        traffic.wait_for(20)
        primary.kill()
        traffic.wait_for(20)
        cold = [f"cold-{i}" for i in range(40)]  # nobody has asked for them: only the cluster could tell
        away = [item for item in cold if cluster.nodes[1].command("CLUSTER", "KEYSLOT", row_key(VIEW, item)) < 5461]
        with GatewayClient.of(platform.settings) as gateway:
            body = {"candidates": away, "unit": "u", "top_k": 1}
            answer = gateway.post(f"/v1/models/{MODEL}/rank", body)
        assert "features_away" in answer["degraded"]
        traffic.ranked.append(answer["ranking_id"])
        primary.start()
        cluster.wait_until_ok()
        traffic.wait_for(20)

    assert traffic.failed == []
    traffic.wait_until_archived()


def test_a_rollout_becomes_champion_though_its_database_was_killed_on_the_way(tmp_path: Path) -> None:
    step = Step("half", "ab", 500, min_s=5.0)
    words = {"who": "ann", "why": "new"}
    with ExitStack() as stack:
        cluster, database = stack.enter_context(running_cluster()), stack.enter_context(running_postgres())
        platform = Platform.start(tmp_path / "home", redis=cluster.url, control_url=database.fresh_database())
        stack.callback(platform.stop)
        platform.serve()
        other = a_package(scale=2.0)
        write(other, platform.settings.versions_folder / MODEL / "2")
        champion = TrafficPlan(MODEL, 1, champion=1, champion_digest=a_package().digest)
        challenger = replace(a_stored(2), digest=other.digest)
        with closing(SqlControl(platform.settings.control_database)) as control:
            control.change(champion, expected_revision=0, evidence={}, now_ms=now_ms(), **words)
            spec = RolloutSpec((step,), holdback_weight=0)
            control.decide(start(control.plan(MODEL), challenger, spec, now_ms=now_ms(), **words))

        with Traffic(platform) as traffic:
            traffic.wait_for(10)
            database.kill()
            refused = ask(platform, "GET", "/plan")
            traffic.wait_for(10)
            database.start()
            until(lambda: ask(platform, "GET", "/plan").status_code == 200, "the plan to be told again")
            until(lambda: plan_of(platform).champion == 2, "the rollout to end in a promotion")
            traffic.wait_for(10)

        assert refused.status_code == 503, refused.text
        assert traffic.failed == []
        traffic.wait_until_archived()
        changes = ask(platform, "GET", "/history").json()["changes"]
        assert sorted(change["plan_revision"] for change in changes) == list(range(1, plan_of(platform).revision + 1))


def now_ms() -> int:
    return time.time_ns() // 1_000_000
