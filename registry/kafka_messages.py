"""A payload of events as Kafka messages: which partition has which, and what their headers say.

A ranking, its exposures and its clicks go to one partition, so that a reader of some partitions has whole chains.
A payload is therefore cut by partition, and what is cut stays together: one message for each partition that has
events of it, not one for each event.
"""

import zlib
from collections import defaultdict
from dataclasses import dataclass

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.events import (
    SCHEMA,
    Click,
    Exposure,
    MirrorEvent,
    WatchedRanking,
    join_events,
    split_events,
)

SCHEMA_HEADER = "sluice-schema"
TRACE_HEADER = "traceparent"
_ids = msgspec.msgpack.Decoder(WatchedRanking | MirrorEvent | Exposure | Click)
_text = msgspec.msgpack.Decoder(str)


@dataclass(frozen=True, slots=True)
class Message:
    """key: the ranking's id where the message is of one ranking, else None: the partition says where it belongs."""

    partition: int
    payload: bytes
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def partition_of(ranking_id: str, partitions: int) -> int:
    """Where everything about a ranking goes; as librdkafka's partitioner `consistent` has it, by the key's CRC-32.

    >>> partition_of("01a20b1de17efce69cbdb6f646edbb975be37f253a2f353984", 12)
    6
    """
    return zlib.crc32(ranking_id.encode()) % partitions


def messages_of(payload: bytes, partitions: int) -> list[Message]:
    """The payload's events by partition, those of a partition in their order; what is no event goes as it is to
    partition 0, where readers set it aside."""
    try:
        parts = split_events(payload)
        told = [_ids.decode(part) for part in parts]
    except (ContractError, *UNDECODABLE):
        return [Message(0, payload, None, ())]
    inside: dict[int, list[int]] = defaultdict(list)
    for index, event in enumerate(told):
        inside[partition_of(event.ranking_id, partitions)].append(index)
    if not inside:
        return [Message(0, payload, None, ())]
    return [
        Message(
            partition,
            payload if len(indices) == len(parts) else join_events([parts[index] for index in indices]),
            _key([told[index].ranking_id for index in indices]),
            _headers([told[index] for index in indices]),
        )
        for partition, indices in inside.items()
    ]


def _key(ranking_ids: list[str]) -> bytes | None:
    return ranking_ids[0].encode() if len(set(ranking_ids)) == 1 else None


def _headers(events: list[WatchedRanking | MirrorEvent | Exposure | Click]) -> tuple[tuple[str, bytes], ...]:
    headers = [(SCHEMA_HEADER, b"%d" % SCHEMA)]
    for event in events:
        if isinstance(event, WatchedRanking) and (trace_id := _text.decode(event.trace_id)):
            # one header is what the standard allows; the span's id is the ranking's end, and no span has it
            headers.append((TRACE_HEADER, f"00-{trace_id}-{event.ranking_id[-16:]}-00".encode()))
            break
    return tuple(headers)
