"""What is left of a query's time at each stage, and what is dropped there, counted by stage."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from redis.backoff import NoBackoff
from redis.retry import Retry

from serving.errors import DeadlineExceeded, QueryRefused
from serving.features.outage import Outage
from serving.features.redis import RedisTier
from serving.features.tier import RowKeys, Rows, TierAway
from serving.flow.deadlines import LEAST_PATIENCE_S, patience_s, within
from serving.frames import FailedReply, RankedReply
from serving.scoring import score_batch
from tests.builders import NOW_MS
from tests.conftest import RedisServer
from tests.serving.test_routing import ITEMS, asked
from tests.serving.workbench import SumOfFeatures, a_loaded_model, a_request, rows_in_memory
from tests.suites.tier_suite import STORED, VIEW, keys_of, store


def dropped(stage: str) -> float:
    return REGISTRY.get_sample_value("serving_passed_deadlines_total", {"stage": stage}) or 0.0


# what is left


@given(st.lists(st.tuples(st.integers(0, 10**8), st.floats(0, 1e8)), min_size=1, max_size=20))
def test_a_batch_waits_for_rows_no_longer_than_half_of_the_least_time_that_is_left(
    queries: list[tuple[int, float]],
) -> None:
    patient_s = patience_s([left for left, _ in queries], [waited for _, waited in queries])
    least_s = min(left - waited for left, waited in queries) / 1e6

    assert patient_s == pytest.approx(max(LEAST_PATIENCE_S, least_s / 2))


@pytest.mark.parametrize(
    ("header", "deadline_ms", "left_ms"), [(None, 1000, 1000), (b"1", 1000, 1), (b"900", 50, 50), (b"0050", 60, 50)]
)
def test_the_header_takes_from_a_deadline_and_adds_nothing(
    header: bytes | None, deadline_ms: int, left_ms: int
) -> None:
    assert within(header, deadline_ms) == left_ms


@pytest.mark.parametrize("header", [b"", b"soon", b"1.5", b"1e3", b"+5", b"--5", b"9" * 10, "٣".encode()])
def test_a_header_that_is_no_number_is_refused(header: bytes) -> None:
    with pytest.raises(QueryRefused, match="x-sluice-deadline-ms="):
        within(header, 1000)


@pytest.mark.parametrize("header", [b"0", b"-1"])
def test_a_header_that_leaves_nothing_is_too_late(header: bytes) -> None:
    with pytest.raises(DeadlineExceeded):
        within(header, 1000)


def test_a_request_that_comes_too_late_is_dropped_at_the_gateway_and_says_so() -> None:
    with asked() as (asker, _):
        before = dropped("gateway")
        late = asker.post({"x-sluice-deadline-ms": "0"})
        assert (late.status_code, "the deadline passed before the request came" in late.text) == (504, True)
        assert asker.post({"x-sluice-deadline-ms": "soon"}).status_code == 400
        assert asker.post({"x-sluice-deadline-ms": "20000"}).status_code == 200
        tensors = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}]}
        path = "/v2/models/codesearch/infer"
        assert asker.post_to(path, tensors, {"x-sluice-deadline-ms": "-3"}).status_code == 504
        assert asker.post_to(path, tensors, {"x-sluice-deadline-ms": "20000"}).status_code == 200
        assert dropped("gateway") == before + 2


def test_a_query_whose_version_nobody_holds_is_dropped_where_it_waits_for_one() -> None:
    with asked() as (asker, replicas):
        replicas[0].stop()
        asker.gateway.until(lambda: not asker.gateway.pool.fleet.has("codesearch", 1))
        before = dropped("replica")
        assert asker.post({"x-sluice-deadline-ms": "30"}, candidates=ITEMS[:3]).status_code == 503
        assert dropped("replica") == before + 1


# rows


class Slow:
    """A tier that takes its time, by a clock of its own."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s, self.now_s, self.patient_s = takes_s, 0.0, 0.0

    def clock(self) -> float:
        """What `score_batch` reads."""
        return self.now_s

    def fetch(self, keys: RowKeys) -> Rows:
        """See `RowTier`."""
        self.patient_s = keys.patience_s
        self.now_s, self.takes_s = self.now_s + self.takes_s, 0.0
        return rows_in_memory().fetch(keys)


def test_who_is_too_late_once_the_rows_are_there_is_not_ranked_and_the_others_are() -> None:
    slow, program, before = Slow(takes_s=0.3), SumOfFeatures(), dropped("features")
    loaded = a_loaded_model(program, slow)
    requests = [
        a_request(["item-1", "item-2"], number=1, deadline_us=1_000_000),
        a_request(["item-1"], number=2, deadline_us=400_000),
        a_request(["item-3", "item-4"], number=3, deadline_us=290_000),
    ]
    queue_us = [0.0, 150_000.0, 0.0]
    replies = score_batch(loaded, requests, queue_us, NOW_MS, slow.clock)

    alone = score_batch(a_loaded_model(), requests[:1], queue_us[:1], NOW_MS)[0]
    assert isinstance(replies[0], RankedReply) and isinstance(alone, RankedReply)
    np.testing.assert_array_equal(replies[0].scores, alone.scores)
    assert [(reply.number, reply.status) for reply in replies if isinstance(reply, FailedReply)] == [(2, 504), (3, 504)]
    assert program.batches == [1]
    assert dropped("features") == before + 2


def test_when_all_are_too_late_the_device_is_not_asked() -> None:
    slow, program = Slow(takes_s=2.0), SumOfFeatures()
    replies = score_batch(
        a_loaded_model(program, slow), [a_request(["item-1"], deadline_us=1_000_000)], [0.0], NOW_MS, slow.clock
    )

    assert [type(reply) for reply in replies] == [FailedReply]
    assert (program.batches, slow.patient_s) == ([], 0.5)


class SlowRedis:
    """A way to a Redis that holds every answer back until it is let go."""

    def __init__(self, target: str, path: str) -> None:
        self._target, self.path = target, path
        self.let_go = threading.Event()
        self.let_go.set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._ends: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._ends += [client, server]
                for source, sink, held in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass_on, args=(source, sink, held), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, held: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if held:
                    self.let_go.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Cuts everybody off."""
        self.let_go.set()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def slow_redis(redis_server: RedisServer, server_client: redis.Redis, tmp_path: Path) -> Iterator[SlowRedis]:
    """Of a Redis that holds the suite's rows."""
    store(server_client, STORED)
    proxy = SlowRedis(str(redis_server.socket), str(tmp_path / "slow.sock"))
    yield proxy
    proxy.close()


def a_tier(proxy: SlowRedis, timeout_s: float = 5.0) -> RedisTier:
    client = redis.Redis(unix_socket_path=proxy.path, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 1))
    return RedisTier(client, VIEW)


def hurried(patient_s: float, *items: str) -> RowKeys:
    keys = keys_of(*items)
    keys.patience_s = patient_s
    return keys


def test_rows_are_waited_for_no_longer_than_who_asks_can_wait(slow_redis: SlowRedis) -> None:
    tier = a_tier(slow_redis, timeout_s=30.0)
    assert tier.fetch(hurried(5.0, "item-1", "nobody")).values.tolist() == [[1.0, -1.0], [1.5, -3.0]]

    slow_redis.let_go.clear()
    began_s = time.monotonic()
    with pytest.raises(TierAway, match="within 20 ms"):
        tier.fetch(hurried(0.02, "item-1"))
    assert time.monotonic() - began_s < 15.0  # and not the store's own 30 s

    slow_redis.let_go.set()  # one short wait does not make it away, and the late answer is nobody else's
    assert tier.fetch(hurried(5.0, "item-2")).values.tolist() == [[2.0, -2.0]]
    assert tier.fetch(keys_of("item-1")).values.tolist() == [[1.0, -1.0]]


def test_thousands_of_rows_in_a_hurry_come_in_their_places(slow_redis: SlowRedis) -> None:
    items = [f"item-{i % 3}" if i % 2 else f"nobody-{i}" for i in range(5000)]
    tier = a_tier(slow_redis, timeout_s=30.0)

    in_a_hurry, at_leisure = tier.fetch(hurried(20.0, *items)), tier.fetch(keys_of(*items))

    np.testing.assert_array_equal(in_a_hurry.values, at_leisure.values)
    np.testing.assert_array_equal(in_a_hurry.updated_ms, at_leisure.updated_ms)


def test_a_connection_that_lay_closed_in_the_pool_is_replaced(
    slow_redis: SlowRedis, server_client: redis.Redis
) -> None:
    tier = a_tier(slow_redis, timeout_s=30.0)
    assert tier.fetch(hurried(5.0, "item-1")).updated_ms.all()
    server_client.client_kill_filter(_type="normal", skipme=True)

    assert tier.fetch(hurried(5.0, "item-1")).values.tolist() == [[1.0, -1.0]]


# when a store counts as away


@given(st.lists(st.tuples(st.sampled_from(["gave up", "answered"]), st.floats(0.001, 0.24)), max_size=80))
def test_short_waits_make_a_store_away_only_when_they_add_up_to_its_timeout(steps: list[tuple[str, float]]) -> None:
    outage, waited_s = Outage(timeout_s=0.25, retry_after_s=0.5, clock=lambda: 0.0), 0.0
    for what, after_s in steps:
        if what == "answered":
            outage.answered()
            waited_s = 0.0
        else:
            outage.gave_up(after_s)
            waited_s += after_s
        if outage.lasts:
            assert waited_s >= 0.249
            return
        assert waited_s < 0.25


def test_a_store_that_is_away_is_asked_again_after_a_while() -> None:
    now_s = 0.0
    outage = Outage(timeout_s=0.25, retry_after_s=0.5, clock=lambda: now_s)
    outage.failed()
    assert outage.lasts
    now_s = 0.5
    assert not outage.lasts
