"""Stream entries sorted out: which events go to which hour of which model, and what is no event."""

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter

import xxhash

from pipelines.archive.tables import flaw, gateway_ms
from registry.contracts.errors import ContractError
from registry.contracts.events import (
    Click,
    Event,
    Exposure,
    MirrorEvent,
    RankingEvent,
    decode_event,
    decode_events,
    encode_event,
    split_events,
)
from registry.stream import StreamEntry

HOUR_MS = 3_600_000

Partition = tuple[str, str]  # model, hour
_time_and_id = attrgetter("answered_ms", "ranking_id")


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of some entries, by model and hour.

    name: the same for the same entries, another for any others. rankings: of an hour in order of
    time and id. rejected: what could not be read, as JSON lines. oldest_ms: when the first of the events was answered
    or received; None without any.
    """

    name: str
    rankings: dict[Partition, list[RankingEvent]]
    feedback: dict[Partition, list[Click | Exposure]]
    mirrors: dict[Partition, list[MirrorEvent]]
    rejected: list[str]
    oldest_ms: int | None

    @staticmethod
    def of(entries: Sequence[StreamEntry]) -> "Batch":
        """Never fails: what is wrong with an event is in `rejected`. At least one entry."""
        rejected: list[str] = []
        rankings: dict[Partition, list[RankingEvent]] = defaultdict(list)
        feedback: dict[Partition, list[Click | Exposure]] = defaultdict(list)
        mirrors: dict[Partition, list[MirrorEvent]] = defaultdict(list)
        oldest_ms: int | None = None
        for event in _events(entries, lambda *what: rejected.append(_rejection(*what))):
            made_ms = gateway_ms(event)
            oldest_ms = made_ms if oldest_ms is None else min(oldest_ms, made_ms)
            partition = (event.model, hour_of(made_ms))
            if isinstance(event, RankingEvent):
                rankings[partition].append(event)
            elif isinstance(event, MirrorEvent):
                mirrors[partition].append(event)
            else:
                feedback[partition].append(event)
        for of_hour in rankings.values():  # now they are references: as rows of a table they would be copied
            of_hour.sort(key=_time_and_id)
        return Batch(_name(entries), rankings, feedback, mirrors, rejected, oldest_ms)


def hour_of(time_ms: int) -> str:
    """The hour's name, in UTC: names sort as the hours do.

    >>> hour_of(0)
    '19700101T00'
    """
    return _hour_name(time_ms // HOUR_MS)


def start_of(hour: str) -> int:
    """The hour's first ms since the epoch, by its name. Raises ValueError if it names none.

    >>> start_of("19700101T01")
    3600000
    """
    return int(datetime.strptime(hour, "%Y%m%dT%H").replace(tzinfo=UTC).timestamp()) * 1000


@lru_cache(maxsize=64)
def _hour_name(hours: int) -> str:
    return datetime.fromtimestamp(hours * 3600, UTC).strftime("%Y%m%dT%H")


def _events(entries: Sequence[StreamEntry], reject: Callable[[StreamEntry, bytes, str], None]) -> Iterator[Event]:
    for entry in entries:
        try:
            events = decode_events(entry.payload)
        except ContractError:  # one bad event spoils the payload: take it apart
            yield from _good_events(entry, reject)
            continue
        for event in events:
            if reason := flaw(event):
                reject(entry, encode_event(event), reason)
            else:
                yield event


def _good_events(entry: StreamEntry, reject: Callable[[StreamEntry, bytes, str], None]) -> Iterator[Event]:
    try:
        encoded_events = split_events(entry.payload)
    except ContractError as error:
        reject(entry, entry.payload, str(error))
        return
    for encoded in encoded_events:
        try:
            event = decode_event(encoded)
        except ContractError as error:
            reject(entry, encoded, str(error))
            continue
        if reason := flaw(event):
            reject(entry, encoded, reason)
        else:
            yield event


def _rejection(entry: StreamEntry, content: bytes, reason: str) -> str:
    line = {"entry_id": entry.entry_id, "reason": reason, "base64": base64.b64encode(content).decode()}
    return json.dumps(line) + "\n"


def _name(entries: Sequence[StreamEntry]) -> str:
    # the ids alone do not tell: a stream that begins anew may give them again
    check = xxhash.xxh3_64()
    for entry in entries:
        check.update(entry.entry_id.encode())
        check.update(entry.payload)
    return f"{entries[0].entry_id}-{entries[-1].entry_id}-{check.hexdigest()}"
