"""What breaks without dying: parts that stop, lie or come back damaged, under load. Each promise is a line of the
README's table; what was answered or acknowledged is in the archive, and what was asked is answered.

`SLUICE_TEST_SEED` says which queries are asked and what is damaged.
"""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy import wiring
from deploy.client import GatewayClient
from registry.artefacts import PROGRAM_FILE, write
from registry.board import RedisBoard
from registry.contracts.features import row_key
from registry.contracts.traffic import TrafficPlan
from tests.builders import a_package, a_view
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Load, Platform, until

SEED = int(os.environ.get("SLUICE_TEST_SEED", "1"))
HELD = f"{MODEL}@1"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two workers that hold the model."""
    started = Platform.start(tmp_path_factory.mktemp("faults") / "home", workers=2)
    try:
        started.serve()
        started.wait_until_held(HELD, 2)
        yield started
    finally:
        started.stop()


@contextmanager
def stopped(platform: Platform, name: str) -> Iterator[int]:
    """A process that holds still, and goes on in the end."""
    pid = until(lambda: platform.pid(name), f"{name} to run")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def clicks_on(answers: list[Any]) -> list[dict[str, Any]]:
    return [
        {"event_id": one["ranking_id"], "type": "click", "ranking_id": one["ranking_id"], "item": one["items"][0]["id"]}
        for one in answers
    ]


def assert_all_archived(platform: Platform, answered: list[str]) -> None:
    until(lambda: set(answered) <= set(platform.archived()), f"{len(answered)} answers in the archive")
    archived = platform.archived()
    assert len(archived) == len(set(archived))


def test_a_worker_that_stops_and_goes_on_costs_no_answer(platform: Platform) -> None:
    with Load(platform) as load:
        load.wait_for(50)
        with stopped(platform, f"worker-{SEED % 2}"):
            load.wait_for(100)
        load.wait_for(50)

    assert load.failed == []
    assert_all_archived(platform, load.answered)


def test_redis_may_hang_and_nothing_that_was_answered_or_acknowledged_is_lost(platform: Platform) -> None:
    with GatewayClient(platform.settings.gateway_url) as gateway, Load(platform) as load:
        load.wait_for(50)
        answers = [platform.rank(gateway, SEED * 1000 + i) for i in range(20)]
        with stopped(platform, "redis"):
            load.wait_for(50)
            assert gateway.post("/v1/feedback", {"events": clicks_on(answers)}) == {"accepted": 20}
        load.wait_for(50)

    assert load.failed == []
    assert_all_archived(platform, load.answered + [one["ranking_id"] for one in answers])
    told = {one["ranking_id"] for one in answers}
    until(lambda: told <= set(platform.archived_feedback()), "every acknowledged click in the archive")


def test_rows_that_are_no_rows_are_missing_rows_and_nothing_worse(platform: Platform) -> None:
    source, client, view = random.Random(SEED), wiring.redis_client(platform.settings), a_view()
    spoilt = source.sample(ITEMS, 40)
    sound = {item: client.get(row_key(view, item)) for item in spoilt}
    query = {"candidates": spoilt, "top_k": 5, "deadline_ms": 30_000}
    with GatewayClient(platform.settings.gateway_url) as gateway, Load(platform) as load:
        load.wait_for(20)
        for item in spoilt:
            key = row_key(view, item)
            client.delete(key)
            if source.random() < 0.2:
                client.lpush(key, b"not even a string")
            else:
                client.set(key, source.randbytes(source.randrange(60)))

        def all_missing() -> bool:
            answer = gateway.post(f"/v1/models/{MODEL}/rank", query)
            return "missing_rows:40/40" in answer["degraded"]

        until(all_missing, "the damaged rows to be missing ones")
        load.wait_for(50)
        for item, row in sound.items():
            client.delete(row_key(view, item))
            client.set(row_key(view, item), row)

        def none_missing() -> bool:
            answer = gateway.post(f"/v1/models/{MODEL}/rank", query)
            return not any(reason.startswith("missing_rows") for reason in answer["degraded"])

        until(none_missing, "the rows as they were")

    assert load.failed == []
    assert_all_archived(platform, load.answered)


def test_an_event_that_is_none_is_passed_over_and_those_around_it_are_archived(platform: Platform) -> None:
    source, client = random.Random(SEED), wiring.redis_client(platform.settings)
    with Load(platform) as load:
        for _ in range(5):
            load.wait_for(20)
            client.xadd("sluice:events", {b"e": source.randbytes(source.randrange(1, 200))})
            client.xadd("sluice:events", {b"other": b"field"})
        load.wait_for(20)

    assert load.failed == []
    assert_all_archived(platform, load.answered)


def test_a_damaged_version_is_refused_by_name_and_the_champion_goes_on(platform: Platform) -> None:
    package = a_package(scale=3.0)
    folder = platform.settings.versions_folder / MODEL / "2"
    write(package, folder)
    _flip_a_bit(folder / PROGRAM_FILE)
    board = RedisBoard(wiring.redis_client(platform.settings))
    with Load(platform) as load:
        load.wait_for(20)
        board.publish(TrafficPlan(MODEL, 2, champion=2, champion_digest=package.digest))

        def reasons() -> list[str]:
            return [str(one["failures"].get(f"{MODEL}@2", "")) for one in platform.status().get("replicas", ())]

        until(lambda: len(reasons()) == 2 and all(reasons()), "both workers to say why")
        load.wait_for(50)
        assert platform.status()["plans"][MODEL]["champion"] == 1
        write(package, folder)  # repaired
        until(lambda: platform.status()["plans"][MODEL]["champion"] == 2, "the whole version to be served")
        load.wait_for(20)

    assert load.failed == []
    assert_all_archived(platform, load.answered)


def _flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[random.Random(SEED).randrange(len(content))] ^= 1
    file.write_bytes(bytes(content))
