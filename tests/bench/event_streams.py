"""`python -m tests.bench.event_streams`: what an event costs the gateway's shipper on Redis Streams and on Kafka.

CPU of the writing process (librdkafka's threads included) per event, entries of 64 as the event log makes them, both
streams in turn. Redis is a real server; the brokers are librdkafka's mock cluster, in a process of their own: their
CPU and latency are not Kafka's, the writer's CPU is.
"""

import argparse
import statistics
import time

from registry.contracts.events import encode_event, join_events
from registry.kafka import KafkaStream
from registry.stream import RedisStream, StreamWriter
from serving.event_log import EVENTS_AN_ENTRY
from tests.bench.load import hardware
from tests.builders import a_click, a_ranking
from tests.kafka_brokers import running_brokers
from tests.serving.mortal_redis import a_mortal_redis


def entries(count: int, columns: int, shown: int) -> list[bytes]:
    """Entries of rankings with their features; every fourth event is a click."""
    made = []
    for entry in range(count):
        names = [f"{entry:08x}{place:042x}" for place in range(EVENTS_AN_ENTRY)]
        events = [
            a_click(f"c{name}", name) if place % 4 == 3 else a_ranking(name, features=bytes(4 * columns * shown))
            for place, name in enumerate(names)
        ]
        made.append(join_events([encode_event(event) for event in events]))
    return made


def cpu_us_per_event(stream: StreamWriter, payloads: list[bytes]) -> tuple[float, float]:
    """CPU and wall time of appending each entry, in us an event."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for payload in payloads:
        stream.append([payload])
    events = len(payloads) * EVENTS_AN_ENTRY
    return (time.process_time() - cpu_s) / events * 1e6, (time.perf_counter() - wall_s) / events * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=60, help="in a round")
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--shown", type=int, default=10)
    asked = parser.parse_args()
    payloads = entries(asked.entries, asked.columns, asked.shown)
    print(hardware())
    print(
        f"{asked.rounds} rounds of {len(payloads)} entries of {EVENTS_AN_ENTRY} events, {len(payloads[0])} bytes each"
    )
    with a_mortal_redis() as server, running_brokers() as brokers:
        streams: dict[str, StreamWriter] = {"Redis Streams": RedisStream(server.client)}
        for compression in ("none", "lz4", "zstd"):
            streams[f"Kafka, {compression}"] = KafkaStream(brokers.config, "events", compression)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in streams}
        for stream in streams.values():  # connects
            cpu_us_per_event(stream, payloads[:2])
        for _ in range(asked.rounds):
            server.client.flushall()
            for name, stream in streams.items():
                found[name].append(cpu_us_per_event(stream, payloads))
    base = statistics.median(cpu for cpu, _ in found["Redis Streams"])
    for name, rounds in found.items():
        cpu, wall = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:14} {cpu:6.2f} us CPU an event ({cpu / base:.2f} of Redis Streams), {wall:6.2f} us wall")


if __name__ == "__main__":
    main()
