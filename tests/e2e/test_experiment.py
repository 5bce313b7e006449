"""An experiment through real processes: routed, drafted, mirrored, archived, and counted on the board."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import wiring
from deploy.client import GatewayClient
from pipelines.archive.files import Archive
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.traffic import Experiment, Layer, TrafficPlan
from registry.counters import RedisCounterBoard
from tests.builders import a_package
from tests.e2e.platforms_under_fire import MODEL, Platform, until

QUERIES = 120


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    started = Platform.start(tmp_path / "home")
    try:
        started.serve()
        yield started
    finally:
        started.stop()


def a_plan_with_experiments(platform: Platform) -> TrafficPlan:
    """Revision 2: 30 % to version 2, 30 % drafted with it, half of the champion's queries mirrored to it."""
    package = a_package(scale=-1.0)
    write(package, platform.settings.versions_folder / MODEL / "2")
    experiments = (
        Experiment("ab", 2, package.digest, weight=300, mirror_share=500),
        Experiment("drafts", 2, package.digest, weight=300, first=300, kind="interleaving"),
    )
    layers = (Layer("rollout", "salt", experiments),)
    return TrafficPlan(MODEL, 2, 1, a_package().digest, layers, explore_share=200)


def test_what_was_answered_is_in_the_archive_and_on_the_counter_board(platform: Platform) -> None:
    plan = a_plan_with_experiments(platform)
    client = wiring.redis_client(platform.settings)
    RedisBoard(client).publish(plan)
    until(lambda: platform.status()["plans"][MODEL]["revision"] == 2, "the gateway to follow the plan")

    with GatewayClient(platform.settings.gateway_url) as gateway:
        answers = [platform.rank(gateway, place) for place in range(QUERIES)]

    by_arm = Counter((answer["arm"], answer["experiment"]) for answer in answers)
    assert by_arm.keys() == {("champion", ""), ("challenger", "ab"), ("interleaved", "drafts")}
    assert {answer["plan_revision"] for answer in answers} == {2}

    until(lambda: len(platform.archived()) >= QUERIES, "all rankings to be archived")
    archive, until_ms = Archive(platform.settings.archive_folder), time.time_ns() // 1_000_000 + 60_000
    rows = {row["ranking_id"]: row for row in archive.rankings(MODEL, 0, until_ms).to_pylist()}
    for answer in answers:
        row = rows[answer["ranking_id"]]
        assert (row["arm"], row["experiment"]) == (answer["arm"], answer["experiment"])
        assert len(row["propensities"]) == len(row["items"]) == 5
        drafted = row["arm"] == "interleaved"
        assert (len(row["teams"]), row["team_version"]) == ((5, 2) if drafted else (0, 0))
    assert any(row["explored"] for row in rows.values())

    mirrored = until(lambda: archive.mirrors(MODEL, 0, until_ms).to_pylist(), "a mirrored query to be archived")
    assert {row["ranking_id"] for row in mirrored} <= {a["ranking_id"] for a in answers if a["arm"] == "champion"}
    assert {(row["champion"], row["version"], row["error"], len(row["mirror_items"])) for row in mirrored} == {
        (1, 2, "", 5)
    }

    def counted() -> dict[tuple[str, str], int]:
        arms = [arm for snapshot in RedisCounterBoard(client).read().values() for arm in snapshot.arms]
        return {(one.arm, one.experiment): one.answered for one in arms if one.plan_revision == 2}

    until(lambda: counted() == by_arm, "the counters to be what was answered")
    with GatewayClient(platform.settings.gateway_url) as gateway:
        told = gateway.text("/metrics")
    answered = f'serving_arm_answers_total{{arm="challenger",experiment="ab",model="{MODEL}",outcome="answered"}}'
    assert f"{answered} {by_arm['challenger', 'ab']:.1f}" in told
