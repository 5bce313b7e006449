"""Pushes from a real Redis: which row changed, and when nothing cached can be trusted."""

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import redis
from redis.connection import UnixDomainSocketConnection

from registry.contracts.features import Column, FeatureView, row_key
from registry.contracts.ids import hash64
from serving.features.invalidation import InvalidationListener
from tests.conftest import RedisServer

PATIENCE_S = 10.0
RESYNC = "resync"
Heard = tuple[str, list[int]] | str


def view(name: str) -> FeatureView:
    return FeatureView(name, "function", (Column("length"),))


@dataclass
class Ear:
    """What the listener said, in order."""

    heard: "queue.Queue[Heard]" = field(default_factory=queue.Queue)

    def changed(self, view_name: str, hashes: list[int]) -> None:
        self.heard.put((view_name, hashes))

    def resync(self) -> None:
        self.heard.put(RESYNC)

    def next(self) -> Heard:
        return self.heard.get(timeout=PATIENCE_S)

    def until(self, wanted: Callable[[Heard], bool]) -> list[Heard]:
        """Everything up to the first that is wanted."""
        said = [self.next()]
        while not wanted(said[-1]):
            said.append(self.next())
        return said


@pytest.fixture
def ear(redis_server: RedisServer, server_client: redis.Redis) -> Iterator[Ear]:
    """The ear of a listener that is listening to the (empty) server."""
    ear = Ear()
    listener = InvalidationListener(
        lambda: UnixDomainSocketConnection(  # type: ignore[abstract, no-untyped-call]
            path=str(redis_server.socket), protocol=3, socket_timeout=2.0
        ),
        ear.changed,
        ear.resync,
        retry_s=0.01,
    )
    listener.start()
    assert listener.listening.wait(PATIENCE_S)
    assert ear.next() == RESYNC
    yield ear
    listener.stop()
    listener.join(PATIENCE_S)
    assert not listener.is_alive()


@pytest.mark.parametrize("item", ["json.loads", "os.path:join", "a:b::c:", "größe 大小"])
def test_a_changed_row_is_named_by_its_view_and_the_hash_of_its_item(
    ear: Ear, server_client: redis.Redis, item: str
) -> None:
    server_client.set(row_key(view("functions"), item), b"row")

    assert ear.next() == ("functions", [hash64(item)])


def test_every_change_of_many_at_once_arrives(ear: Ear, server_client: redis.Redis) -> None:
    items = [f"item-{i}" for i in range(500)]
    for name in ("functions", "modules"):
        server_client.mset({row_key(view(name), item): b"row" for item in items})
    missing = {(name, hash64(item)) for name in ("functions", "modules") for item in items}

    while missing:
        heard = ear.next()
        assert not isinstance(heard, str)
        missing -= {(heard[0], item) for item in heard[1]}


def test_a_deleted_and_an_expired_row_are_changes(ear: Ear, server_client: redis.Redis) -> None:
    key = row_key(view("functions"), "json.loads")
    change = ("functions", [hash64("json.loads")])
    server_client.set(key, b"row")
    server_client.delete(key)
    assert [ear.next(), ear.next()] == [change, change]

    server_client.set(key, b"row", px=1)

    assert [ear.next(), ear.next()] == [change, change]


def test_keys_that_are_no_rows_are_not_heard(ear: Ear, server_client: redis.Redis) -> None:
    server_client.set("sluice:traffic", b"{}")
    server_client.set("sluice:rowing:functions:a", b"")
    server_client.set(row_key(view("functions"), "last"), b"row")

    assert ear.next() == ("functions", [hash64("last")])


def test_a_flush_asks_for_a_resync(ear: Ear, server_client: redis.Redis) -> None:
    server_client.set(row_key(view("functions"), "json.loads"), b"row")
    server_client.flushall()

    assert ear.until(lambda heard: heard == RESYNC)[:-1] == [("functions", [hash64("json.loads")])]


def test_a_killed_connection_is_made_again_and_asks_for_a_resync_first(ear: Ear, server_client: redis.Redis) -> None:
    server_client.client_kill_filter(_type="normal", skipme=True)
    assert ear.next() == RESYNC

    server_client.set(row_key(view("functions"), "json.loads"), b"row")

    assert ear.next() == ("functions", [hash64("json.loads")])
