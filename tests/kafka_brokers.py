"""Kafka brokers on loopback: librdkafka's own mock cluster, in a process that can be stopped, resumed and killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CLUSTER = """
import sys
from confluent_kafka import Producer

keeper = Producer({"bootstrap.servers": "", "test.mock.num.brokers": int(sys.argv[1]), "log_level": 0})
brokers = keeper.list_topics(timeout=10).brokers.values()
print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Brokers:
    """servers: host:port of each, comma between. Topics exist once they are asked for, with four partitions."""

    servers: str
    process: "subprocess.Popen[str]"

    @property
    def config(self) -> dict[str, Any]:
        """For clients. Local brokers that are back are found at once."""
        return {"bootstrap.servers": self.servers, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}

    def away(self) -> None:
        """They answer nobody, as behind a broken network."""
        self.process.send_signal(signal.SIGSTOP)
        state = Path(f"/proc/{self.process.pid}/stat")
        until_s = time.monotonic() + 10.0
        while state.read_text().rpartition(")")[2].split()[0] != "T":  # until then an answer may still leave
            assert time.monotonic() < until_s, "the brokers do not stop"
            time.sleep(0.001)

    def back(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def running_brokers(count: int = 3) -> Iterator[Brokers]:
    """Started, and killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    brokers = Brokers(process.stdout.readline().strip(), process)
    try:
        assert brokers.servers, "librdkafka's mock cluster did not start"
        yield brokers
    finally:
        brokers.kill()
        process.stdin.close()
        process.stdout.close()
