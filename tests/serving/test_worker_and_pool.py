"""A real worker behind a real socket, and the gateway's pool in front of it."""

import asyncio
import resource
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import redis
from msgspec.structs import replace
from prometheus_client import REGISTRY
from redis.connection import UnixDomainSocketConnection

from registry.contracts.ids import hash64
from serving.batching import BatchWindow
from serving.device.ranker import DeviceRanker
from serving.device.streams import CpuDevice, Lane
from serving.errors import DeadlineExceeded, QueryRefused, RankingError, ReplicaUnhealthy
from serving.features.device import DeviceTier
from serving.features.host import HostTier
from serving.features.invalidation import InvalidationListener
from serving.features.materialiser import write_rows
from serving.features.prefetch import Prefetcher
from serving.features.redis import RedisTier
from serving.features.tier import RowKeys, Rows
from serving.features.tiers import Tiers
from serving.frames import (
    FailedReply,
    FrameBuffer,
    Kind,
    LoadedVersion,
    RankedReply,
    ScoreRequest,
    WorkerState,
    decode_state,
    encode_arena,
    encode_state,
)
from serving.link import Replica as SeenReplica
from serving.program import TorchProgram
from serving.replicas import ARENA_BYTES, ReplicaPool
from serving.scoring import LoadedModel
from serving.worker import DEAF_S
from tests.builders import NOW_MS, a_package, a_plan, a_tested_plan
from tests.conftest import RedisServer
from tests.serving.workbench import (
    LENGTH,
    LENGTHS,
    MATCH,
    PATIENCE_S,
    POISON,
    VIEW,
    WORDS,
    Held,
    SumOfFeatures,
    a_loaded_model,
    a_replica,
    a_request,
    rows_in_memory,
)
from tests.suites.tier_suite import keys_of

Reply = RankedReply | FailedReply


class Caller:
    """A gateway in its simplest form: blocking, one socket, frames as they are."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self._frames = FrameBuffer()
        self._received: list[tuple[Kind, bytes]] = []

    def next(self) -> tuple[Kind, bytes]:
        """The next frame. Raises EOFError if the worker closed the connection."""
        while not self._received:
            received = self.channel.recv(1 << 20)
            if not received:
                raise EOFError
            self._received += self._frames.feed(received)
        return self._received.pop(0)

    def told_of(self, *versions: int) -> WorkerState:
        """The first state that names these versions and no others."""
        while True:
            kind, body = self.next()
            assert kind is Kind.STATE
            state = decode_state(body)
            if tuple(loaded.version for loaded in state.versions) == versions:
                return state

    def answers_to(self, *requests: ScoreRequest) -> dict[int, Reply]:
        """The replies by number; the requests leave in one write, so that the worker sees them together."""
        self.channel.sendall(b"".join(request.encode() for request in requests))
        replies: list[Reply] = []
        while len(replies) < len(requests):
            kind, body = self.next()
            if kind is not Kind.STATE:
                replies.append(RankedReply.decode(body) if kind is Kind.RANKED else FailedReply.decode(body))
        return {reply.number: reply for reply in replies}

    def answer_to(self, request: ScoreRequest) -> Reply:
        return self.answers_to(request)[request.number]


@contextmanager
def a_caller(address: str) -> Iterator[Caller]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(PATIENCE_S)
        channel.connect(address)
        yield Caller(channel)


@asynccontextmanager
async def a_pool(*addresses: str) -> AsyncIterator[ReplicaPool]:
    pool = ReplicaPool(addresses)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


async def ask(
    pool: ReplicaPool, request: ScoreRequest, version: int = 1, deadline_in_s: float = PATIENCE_S
) -> RankedReply:
    deadline_s = asyncio.get_running_loop().time() + deadline_in_s
    reply, _ = await pool.score("codesearch", version, deadline_s, lambda loaded: request)
    return reply


def a_random_request(seed: int) -> ScoreRequest:
    """1 to 300 candidates with a match each."""
    random = np.random.default_rng(seed)
    items = random.choice([*LENGTHS, "nobody"], random.integers(1, 301), replace=False).tolist()
    return a_request(items, {WORDS: random.normal()}, {MATCH: random.normal(size=len(items)).tolist()})


def assert_right(reply: Reply, request: ScoreRequest) -> None:
    """The reply is what the sum of features gives for that request."""
    assert isinstance(reply, RankedReply)
    lengths = [LENGTHS.get(item, 1.0) for item in request.ids.decode().split("\x00")]
    rows = np.empty((request.candidates, 3), dtype=np.float32)
    rows[:, LENGTH], rows[:, MATCH], rows[:, WORDS] = lengths, request.candidate_values[0], request.query_values[0]
    scores = rows.sum(axis=1)
    np.testing.assert_array_equal(reply.order, np.argsort(-scores, kind="stable"))
    np.testing.assert_allclose(reply.scores, scores[reply.order], rtol=1e-6)
    assert reply.features == rows[reply.order].tobytes()


def retries() -> float:
    return REGISTRY.get_sample_value("serving_replica_retries_total") or 0.0


def test_many_queries_of_mixed_sizes_at_once_are_all_answered_right() -> None:
    async def all_at_once(address: str, requests: Sequence[ScoreRequest]) -> list[RankedReply]:
        async with a_pool(address) as pool:
            return await asyncio.gather(*(ask(pool, request) for request in requests))

    program = SumOfFeatures()
    requests = [a_random_request(seed) for seed in range(500)]
    with a_replica(program) as replica:
        replies = asyncio.run(all_at_once(replica.address, requests))

    for reply, request in zip(replies, requests, strict=True):
        assert_right(reply, request)
    assert len(program.batches) < len(requests)


def test_queries_that_wait_together_are_scored_together() -> None:
    program = SumOfFeatures()
    with a_replica(program) as replica, a_caller(replica.address) as caller:
        caller.answers_to(*(a_request(["item-1", "item-2"], number=number) for number in range(20)))

    assert program.batches == [20]


def test_a_poisonous_query_fails_alone() -> None:
    program = SumOfFeatures()
    requests = {number: a_random_request(number) for number in range(20)}
    requests[7].candidate_values[0, 0] = POISON
    for number, request in requests.items():
        request.number = number
    with a_replica(program) as replica, a_caller(replica.address) as caller:
        replies = caller.answers_to(*requests.values())

    failed = replies.pop(7)
    assert isinstance(failed, FailedReply)
    assert (failed.status, failed.message) == (500, "codesearch@1 failed: poison")
    for number, reply in replies.items():
        assert_right(reply, requests[number])
    assert program.batches[0] > 1


def test_a_poisonous_query_is_an_error_to_its_caller_and_the_pool_goes_on() -> None:
    async def scenario(address: str) -> RankedReply:
        async with a_pool(address) as pool:
            with pytest.raises(RankingError, match="poison"):
                await ask(pool, a_request(["item-1"], in_candidates={MATCH: [POISON]}))
            return await ask(pool, request)

    request = a_random_request(1)
    with a_replica() as replica:
        assert_right(asyncio.run(scenario(replica.address)), request)


def test_a_query_that_waited_past_its_deadline_is_refused_unscored() -> None:
    program = SumOfFeatures()
    with a_replica(program) as replica, a_caller(replica.address) as caller:
        late, live = a_request(["item-1"], number=1, deadline_us=0), a_request(["item-1"], number=2)
        replies = caller.answers_to(late, live)

    assert isinstance(replies[1], FailedReply)
    assert (replies[1].status, program.batches) == (504, [1])


def test_a_query_that_the_model_works_on_for_too_long_fails_at_its_deadline() -> None:
    async def scenario(address: str) -> None:
        async with a_pool(address) as pool:
            await pool.fleet.wait_for_holder("codesearch", 1, asyncio.get_running_loop().time() + PATIENCE_S)
            with pytest.raises(DeadlineExceeded, match="while the model worked"):
                await ask(pool, a_request(["item-1"]), deadline_in_s=0.1)
            program.let_go.set()
            assert_right(await ask(pool, request), request)

    request = a_random_request(1)
    program = Held(SumOfFeatures())
    with a_replica(program) as replica:
        asyncio.run(scenario(replica.address))


def test_what_waits_is_ranked_by_priority_one_first_and_zero_as_the_default_level() -> None:
    priorities = [5, 0, 1, 4, 3]
    program = Held(SumOfFeatures())
    with a_replica(program, window=BatchWindow(1)) as replica, a_caller(replica.address) as caller:
        assert caller.told_of(1).ready
        caller.channel.sendall(a_request(["item-1"], number=100).encode())
        assert program.working.wait(PATIENCE_S)
        waiting = [replace(a_request(["item-1"], number=n), priority=level) for n, level in enumerate(priorities)]
        caller.channel.sendall(b"".join(request.encode() for request in waiting))
        program.let_go.set()
        answered: list[int] = []
        while len(answered) < 1 + len(waiting):
            kind, body = caller.next()
            answered += [RankedReply.decode(body).number] if kind is Kind.RANKED else []

    assert answered[0] == 100
    assert [priorities[number] for number in answered[1:]] == [1, 3, 0, 4, 5]


def test_a_slot_that_holds_nothing_is_unavailable() -> None:
    with a_replica() as replica, a_caller(replica.address) as caller:
        reply = caller.answers_to(a_request(["item-1"], slot=99), a_request(["item-1"], number=2))

    assert isinstance(reply[1], FailedReply)
    assert (reply[1].status, reply[1].message) == (503, "the version was unloaded")
    assert isinstance(reply[2], RankedReply)


def test_a_column_that_the_version_does_not_have_is_refused_alone() -> None:
    async def scenario(address: str) -> None:
        async with a_pool(address) as pool:
            good = asyncio.create_task(ask(pool, request))
            with pytest.raises(QueryRefused, match="column 5: model 'codesearch' has 3 columns"):
                await ask(pool, a_request(["item-1"], in_query={5: 1.0}))
            assert_right(await good, request)

    request = a_random_request(1)
    with a_replica() as replica:
        asyncio.run(scenario(replica.address))


def test_a_version_that_nobody_holds_is_unhealthy_at_the_deadline() -> None:
    async def scenario(address: str) -> None:
        async with a_pool(address) as pool:
            with pytest.raises(ReplicaUnhealthy, match="no replica holds codesearch@9"):
                await ask(pool, a_request(["item-1"]), version=9, deadline_in_s=0.05)

    with a_replica() as replica:
        asyncio.run(scenario(replica.address))


def test_a_query_waits_for_a_version_that_is_being_loaded() -> None:
    async def scenario() -> None:
        async with a_pool(replica.address) as pool:
            early = asyncio.create_task(ask(pool, request, version=2))
            assert_right(await ask(pool, request, version=1), request)
            assert not early.done()
            replica.follow(a_tested_plan(revision=2, digest="2" * 64, weight=100))
            assert_right(await early, request)

    request = a_random_request(1)
    with a_replica() as replica:
        asyncio.run(scenario())


def test_gateways_are_told_of_every_change_of_the_shelf() -> None:
    now_s = 0.0
    with a_replica(clock=lambda: now_s) as replica, a_caller(replica.address) as caller:
        assert caller.told_of(1).ready

        replica.follow(a_plan(revision=2, champion=2))
        assert caller.told_of(1, 2).ready

        now_s = 31.0
        replica.shelf.settle()
        assert caller.told_of(2).ready


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n" + bytes(100),
        FailedReply(1, 500, "not a gateway's frame").encode(),
        replace(a_request(["item-1"]), ids=b"item-1\x00").encode(),
    ],
    ids=["http", "another kind", "one id too many"],
)
def test_who_speaks_another_protocol_is_cut_off_and_nobody_else(sent: bytes) -> None:
    request = a_random_request(1)
    with a_replica() as replica, a_caller(replica.address) as stranger, a_caller(replica.address) as caller:
        assert stranger.told_of(1).ready
        stranger.channel.sendall(sent)
        with pytest.raises(EOFError):
            stranger.next()

        assert caller.told_of(1).ready
        assert_right(caller.answer_to(request), request)


def test_a_caller_who_leaves_costs_the_others_nothing() -> None:
    program = Held(SumOfFeatures())
    request = a_random_request(1)
    with a_replica(program) as replica, a_caller(replica.address) as caller:
        assert caller.told_of(1).ready
        with a_caller(replica.address) as leaving:
            leaving.channel.sendall(a_request(["item-1"]).encode())
            assert program.working.wait(PATIENCE_S)
            leaving.channel.sendall(a_request(["item-1"]).encode())
        program.let_go.set()

        assert_right(caller.answer_to(request), request)


def test_a_worker_without_a_descriptor_left_takes_the_connection_once_there_is_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refused() -> list[str]:
        return [one.message for one in caplog.records if "cannot take connections" in one.message]

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with a_replica() as replica, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(PATIENCE_S)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            channel.connect(replica.address)
            until_s = time.monotonic() + PATIENCE_S
            while not refused() and time.monotonic() < until_s:
                time.sleep(0.005)
            time.sleep(2.5 * DEAF_S)  # it has tried again
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        Caller(channel).told_of(1)

    assert len(refused()) == 1


def test_an_answer_larger_than_the_sockets_buffer_arrives_whole() -> None:
    items = [f"item-{i}" for i in range(40_000)]
    with a_replica() as replica, a_caller(replica.address) as caller:
        assert caller.told_of(1).ready
        reply = caller.answer_to(a_request(items, top_k=40_000))

    assert isinstance(reply, RankedReply)
    assert len(reply.order) == 40_000


def test_a_replica_that_stops_and_starts_again_loses_no_query() -> None:
    async def scenario() -> list[RankedReply]:
        async with a_pool(replica.address) as pool:
            queries = [asyncio.create_task(ask(pool, request)) for request in requests[:250]]
            await asyncio.to_thread(program.working.wait, PATIENCE_S)  # it works on some and has not read others
            stopping = asyncio.create_task(asyncio.to_thread(replica.stop))
            queries += [asyncio.create_task(ask(pool, request)) for request in requests[250:]]
            program.let_go.set()
            await stopping
            replica.start()
            return await asyncio.gather(*queries)

    requests, retries_before = [a_random_request(seed) for seed in range(500)], retries()
    program = Held(SumOfFeatures())
    with a_replica(program, window=BatchWindow(500)) as replica:
        replies = asyncio.run(scenario())

    assert retries() == retries_before  # it drained: what had been sent was answered
    for reply, request in zip(replies, requests, strict=True):
        assert_right(reply, request)


async def dies_with_its_first_query(address: str, state: WorkerState) -> asyncio.Server:
    """A replica that says it holds what `state` says and closes when it is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_state(state))
        await reader.readexactly(len(encode_arena(ARENA_BYTES)))
        await reader.read(1)
        writer.close()
        server.close()  # and does not come back

    server = await asyncio.start_unix_server(serve, address)
    return server


def a_state(version: int = 1) -> WorkerState:
    columns, sources = ("length", "match", "query_words"), ("row", "candidate", "query")
    loaded = LoadedVersion(0, "codesearch", version, "d", VIEW.fingerprint, columns, sources)
    return WorkerState("dying", 1, True, (loaded,))


def test_a_query_whose_replica_dies_is_answered_by_another_one() -> None:
    async def scenario(address: str, dying: str) -> RankedReply:
        async with await dies_with_its_first_query(dying, a_state()), a_pool(dying, address) as pool:
            async with asyncio.timeout(PATIENCE_S):
                while not all(replica.state.ready for replica in pool.fleet.replicas):
                    await asyncio.sleep(0)
            return await ask(pool, request)

    request, retries_before = a_random_request(1), retries()
    with a_replica() as replica:
        dying = str(Path(replica.address).with_name("dying.sock"))
        assert_right(asyncio.run(scenario(replica.address, dying)), request)

    assert retries() - retries_before == 1


def test_without_another_replica_the_query_is_unavailable_at_its_deadline() -> None:
    async def scenario(dying: str) -> None:
        async with await dies_with_its_first_query(dying, a_state()), a_pool(dying) as pool:
            with pytest.raises(ReplicaUnhealthy):
                await ask(pool, a_request(["item-1"]), deadline_in_s=0.3)

    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        asyncio.run(scenario(str(Path(folder) / "dying.sock")))


def test_a_query_goes_to_the_replica_with_the_fewest_candidates_outstanding() -> None:
    pool = ReplicaPool(("busy", "free", "empty-handed"))
    for replica, candidates in zip(pool.fleet.replicas, (300, 200, 0), strict=True):
        replica.candidates = candidates
        if candidates:
            replica.held = {("codesearch", 1): a_state().versions[0]}

    found = pool.fleet.holder("codesearch", 1)

    assert found is not None
    assert found[0].address == "free"
    assert pool.fleet.holder("codesearch", 2) is None


def test_a_replica_says_how_it_is() -> None:
    assert repr(SeenReplica("/run/w.sock")) == "<Replica /run/w.sock [LOST | 0 in flight]>"


def test_an_update_in_redis_is_in_the_scores(redis_server: RedisServer, server_client: redis.Redis) -> None:
    def store(length: float) -> None:
        write_rows(server_client, VIEW, ["a:b"], np.array([[length]], np.float32), NOW_MS, on_rows=lambda _: None)

    def score() -> float:
        reply = caller.answer_to(a_request(["a:b"]))
        assert isinstance(reply, RankedReply)
        return float(reply.scores[0])

    store(10.0)
    tier = HostTier(VIEW.name, RedisTier(server_client, VIEW), 100, VIEW.defaults[:1])
    with a_replica(tier=tier) as replica, a_caller(replica.address) as caller:
        replica.tiers.of(VIEW.name, VIEW.fingerprint, lambda: tier)
        listener = InvalidationListener(
            lambda: UnixDomainSocketConnection(  # type: ignore[abstract, no-untyped-call]
                path=str(redis_server.socket), protocol=3, socket_timeout=2.0
            ),
            replica.tiers.changed,
            replica.tiers.resync,
        )
        listener.start()
        assert listener.listening.wait(PATIENCE_S)
        assert caller.told_of(1).ready
        assert score() == 10.5

        store(20.0)
        gives_up_s = time.monotonic() + PATIENCE_S
        while score() != 20.5:
            assert time.monotonic() < gives_up_s
        listener.stop()
        listener.join()


def test_a_change_drops_that_row_of_that_view_and_a_resync_nothing() -> None:
    def tier() -> HostTier:
        tier = HostTier(VIEW.name, rows_in_memory(), 100, VIEW.defaults[:1])
        tier.fetch(keys_of("item-1", "item-2", "item-3"))
        return tier

    tiers = Tiers()
    functions, modules = tiers.of("functions", "f1", tier), tiers.of("modules", "f2", tier)
    tiers.changed("functions", [hash64("item-1"), hash64("never seen")])
    tiers.changed("packages", [hash64("item-2")])
    assert (functions.size, modules.size) == (3, 3)  # nothing happens in the middle of a batch

    tiers.apply_changes()
    assert (functions.size, modules.size) == (2, 3)

    tiers.resync()
    tiers.apply_changes()
    assert (functions.size, modules.size) == (2, 3)  # checked as they are asked for, see `test_suspects`


def test_a_worker_without_queries_applies_changes_all_the_same() -> None:
    tier = HostTier(VIEW.name, rows_in_memory(), 100, VIEW.defaults[:1])
    tier.fetch(keys_of("item-1", "item-2"))
    tiers = Tiers()
    tiers.of(VIEW.name, "f1", lambda: tier)

    with a_replica(tiers=tiers):
        tiers.changed(VIEW.name, [hash64("item-1")])  # nobody wakes the worker for it
        give_up_s = time.monotonic() + PATIENCE_S
        while tier.size != 1:
            assert time.monotonic() < give_up_s, "a change that nobody applies"
            time.sleep(0.02)


class Noted:
    """A store that notes which rows it is asked for."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def fetch(self, keys: RowKeys) -> Rows:
        """See `RowTier`."""
        self.asked += keys.ids()
        return rows_in_memory().fetch(keys)


def test_rows_that_a_gateway_names_are_fetched_by_every_replica_before_they_are_ranked() -> None:
    slow, ahead = Noted(), Noted()
    prefetcher = Prefetcher(fetched=lambda: replica.wake())
    tiers = Tiers(prefetcher)
    tier = tiers.of(VIEW.name, VIEW.fingerprint, lambda: HostTier(VIEW.name, slow, 100, VIEW.defaults[:1], ahead=ahead))
    prefetcher.start()
    request = a_request(["item-1", "item-2"])

    async def scenario(address: str) -> RankedReply:
        async with a_pool(address) as pool:
            await pool.fleet.wait_for_holder("codesearch", 1, asyncio.get_running_loop().time() + PATIENCE_S)
            assert pool.prefetch("nobody", request.hashes, request.ids) == 0
            assert pool.prefetch("codesearch", request.hashes, request.ids) == 1
            gives_up_s = time.monotonic() + PATIENCE_S
            while tier.size < 2:
                assert time.monotonic() < gives_up_s
                await asyncio.sleep(0.001)
            return await ask(pool, request)

    with a_replica(tier=tier, tiers=tiers) as replica:
        reply = asyncio.run(scenario(replica.address))
    prefetcher.stop()

    assert reply.scores.tolist() == [LENGTHS["item-2"] + 0.5, LENGTHS["item-1"] + 0.5]
    assert sorted(ahead.asked) == [b"item-1", b"item-2"]
    assert slow.asked == []


def test_while_a_device_works_the_rows_of_the_next_batch_are_fetched_and_of_none_beyond() -> None:
    ahead = Noted()
    prefetcher = Prefetcher()
    tiers = Tiers(prefetcher)
    device = CpuDevice()
    host = HostTier(VIEW.name, rows_in_memory(), 100, VIEW.defaults[:1], ahead=ahead)
    tier = DeviceTier(VIEW.name, host, 64, 1, device)
    tiers.of(VIEW.name, VIEW.fingerprint, lambda: host)

    def load(model: str, version: int, digest: str) -> LoadedModel:
        program = TorchProgram(a_package(), "cpu")
        loaded = a_loaded_model(program, tier, digest=digest)
        loaded.ranker = DeviceRanker(loaded, program, tier, Lane.of(device), largest=2, graphs=False)
        return loaded

    requests = [a_request([f"item-{i}", f"item-{i + 10}"], number=i) for i in range(3)]
    with a_replica(load=load, window=BatchWindow(2), tiers=tiers) as replica, a_caller(replica.address) as caller:
        caller.told_of(1)
        replies = caller.answers_to(*requests)
    prefetcher.start()  # only now: what was asked for waits
    prefetcher.stop()
    prefetcher.join(PATIENCE_S)

    assert all(isinstance(reply, RankedReply) for reply in replies.values())
    assert sorted(ahead.asked) == [b"item-1", b"item-11", b"item-12", b"item-2"]
