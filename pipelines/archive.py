"""The event archive: Parquet files by model and hour, every event in them exactly once to a reader.

    <folder>/model=<name>/hour=<YYYYMMDDTHH>/kind=rankings|feedback/<batch>.parquet
    <folder>/rejected/<batch>.jsonl     what could not be read, with the reason

A batch is named after its first and last stream entry and a hash of them all: written again, it
replaces itself; cut differently after a crash, its events are there twice and are read once, by
event id, the earliest by the gateway's clock.

A closed hour is compacted into one `merged.parquet`: first that is put in place, then the files
it holds are deleted. Readers list the files first and open `merged.parquet` last: a file that
was gone from the listing is in there already, one that goes while they read makes them list again.
"""

import base64
import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipelines import archive_tables
from pipelines.archive_tables import FEEDBACK, RANKINGS
from pipelines.durable import replace_file
from pipelines.errors import DataRefused
from registry.contracts.errors import ContractError
from registry.contracts.events import Click, Exposure, RankingEvent, decode_event, split_events
from registry.stream import StreamEntry

HOUR_MS = 3_600_000
REPEATS_WITHIN_MS = 24 * HOUR_MS  # a client may send its feedback again, hours later, until it is accepted
MERGED = "merged.parquet"

Kind = Literal["rankings", "feedback"]
_KINDS: tuple[Kind, ...] = ("rankings", "feedback")
_SCHEMA: dict[Kind, pa.Schema] = {"rankings": RANKINGS, "feedback": FEEDBACK}
_KEYS: dict[Kind, tuple[str, str]] = {
    "rankings": ("ranking_id", "answered_ms"),
    "feedback": ("event_id", "received_ms"),
}


@dataclass(frozen=True, slots=True)
class WriteReport:
    """How many events were written, were in the batch twice, or could not be read."""

    rankings: int = 0
    feedback: int = 0
    duplicates: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class CompactReport:
    """files: merged and deleted; rows: in the merged files; duplicates: left out of them."""

    files: int = 0
    rows: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Archive:
    """Written by archivers, compacted by one process at a time, read by anybody meanwhile."""

    folder: Path

    def write(self, entries: Sequence[StreamEntry]) -> WriteReport:
        """Keeps all events of the entries; when this returns they survive a power cut.

        What is no event is set aside and counted. Raises OSError if the disk refuses.
        """
        if not entries:
            return WriteReport()
        batch, name = _sort_out(entries), _batch_name(entries)
        for (model, hour), rankings in batch.rankings.items():
            path = self._partition(model, hour, "rankings") / f"{name}.parquet"
            replace_file(path, _parquet(archive_tables.rankings_table(rankings)))
        for (model, hour), feedback in batch.feedback.items():
            path = self._partition(model, hour, "feedback") / f"{name}.parquet"
            replace_file(path, _parquet(archive_tables.feedback_table(feedback)))
        if batch.rejected:
            replace_file(self.folder / "rejected" / f"{name}.jsonl", "".join(batch.rejected).encode())
        return WriteReport(
            rankings=sum(map(len, batch.rankings.values())),
            feedback=sum(map(len, batch.feedback.values())),
            duplicates=batch.duplicates,
            rejected=len(batch.rejected),
        )

    def rankings(
        self, model: str, since_ms: int, until_ms: int, columns: Sequence[str] = tuple(RANKINGS.names)
    ) -> pa.Table:
        """What was answered in since_ms <= t < until_ms, each ranking once, oldest first.

        columns: of the schema `RANKINGS`; the features are most of the bytes.
        """
        return self._read("rankings", model, since_ms, until_ms, columns, repeats_ms=0)

    def feedback(
        self, model: str, since_ms: int, until_ms: int, columns: Sequence[str] = tuple(FEEDBACK.names)
    ) -> pa.Table:
        """What gateways first received in since_ms <= t < until_ms, each event once, oldest first.

        An event sent again within a day counts when it came first. columns: of `FEEDBACK`.
        """
        return self._read("feedback", model, since_ms, until_ms, columns, repeats_ms=REPEATS_WITHIN_MS)

    def uncompacted(self, ended_before_ms: int) -> list[tuple[str, str]]:
        """Model and hour of every hour that ended by then and has files to merge, oldest first."""
        found = {
            (_value(path, "model"), _value(path, "hour"))
            for path in self.folder.glob("model=*/hour=*/kind=*/*.parquet")
            if path.name != MERGED
        }
        ended = hour_of(max(0, ended_before_ms))
        return sorted((each for each in found if each[1] < ended), key=lambda each: (each[1], each[0]))

    def compact(self, model: str, hour: str) -> CompactReport:
        """Merges an hour's files into one a kind, each event once.

        Safe to kill at any point and to run beside writers and readers; waits for another
        compaction of this archive to end.
        """
        with self._one_at_a_time():
            reports = [self._compact(kind, self._partition(model, hour, kind)) for kind in _KINDS]
        return CompactReport(
            files=sum(report.files for report in reports),
            rows=sum(report.rows for report in reports),
            duplicates=sum(report.duplicates for report in reports),
        )

    def _compact(self, kind: Kind, partition: Path) -> CompactReport:
        files = _files(partition)
        if not files:
            return CompactReport()
        rows = _together(kind, [_table(path) for path in files] + _merged(partition))
        merged = archive_tables.first_of_each(rows, *_KEYS[kind])
        replace_file(partition / MERGED, _parquet(merged))
        for path in files:
            path.unlink()
        return CompactReport(len(files), len(merged), len(rows) - len(merged))

    def _read(
        self, kind: Kind, model: str, since_ms: int, until_ms: int, columns: Sequence[str], repeats_ms: int
    ) -> pa.Table:
        event_id, time = _KEYS[kind]
        wanted = list(dict.fromkeys([*columns, event_id, time]))
        if until_ms <= since_ms:
            return _SCHEMA[kind].empty_table().select(list(columns))
        first, last = hour_of(max(0, since_ms - repeats_ms)), hour_of(max(0, until_ms - 1))
        hours = sorted(_value(path, "hour") for path in (self.folder / f"model={model}").glob("hour=*"))
        tables = [
            table
            for hour in hours
            if first <= hour <= last
            for table in _consistent(self._partition(model, hour, kind), wanted)
        ]
        rows = archive_tables.first_of_each(_together(kind, tables, wanted), event_id, time)
        inside = pc.and_(pc.greater_equal(rows[time], since_ms), pc.less(rows[time], until_ms))
        return rows.filter(inside).select(list(columns))

    def _partition(self, model: str, hour: str, kind: Kind) -> Path:
        return self.folder / f"model={model}" / f"hour={hour}" / f"kind={kind}"

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Two compactions at once could each delete what the other has not merged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / ".compacting", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # gives the lock back, as a kill does


def hour_of(time_ms: int) -> str:
    """The hour's name, in UTC: names sort as the hours do.

    >>> hour_of(0)
    '19700101T00'
    """
    return _hour_name(time_ms // HOUR_MS)


@lru_cache(maxsize=64)
def _hour_name(hours: int) -> str:
    return datetime.fromtimestamp(hours * 3600, UTC).strftime("%Y%m%dT%H")


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events by (model, hour); rejected: JSON lines."""

    rankings: dict[tuple[str, str], list[RankingEvent]]
    feedback: dict[tuple[str, str], list[Click | Exposure]]
    rejected: list[str]
    duplicates: int


def _sort_out(entries: Sequence[StreamEntry]) -> _Batch:
    rankings: dict[tuple[str, str], list[RankingEvent]] = defaultdict(list)
    feedback: dict[tuple[str, str], list[Click | Exposure]] = defaultdict(list)
    rejected: list[str] = []
    seen: set[tuple[bool, str]] = set()
    duplicates = 0
    for entry, encoded in _encoded_events(entries, rejected):
        try:
            event = decode_event(encoded)
        except ContractError as error:
            rejected.append(_rejection(entry, encoded, str(error)))
            continue
        if reason := archive_tables.flaw(event):
            rejected.append(_rejection(entry, encoded, reason))
            continue
        is_ranking = isinstance(event, RankingEvent)
        if (is_ranking, event.event_id) in seen:
            duplicates += 1
            continue
        seen.add((is_ranking, event.event_id))
        partition = (event.model, hour_of(archive_tables.gateway_ms(event)))
        if isinstance(event, RankingEvent):
            rankings[partition].append(event)
        else:
            feedback[partition].append(event)
    return _Batch(rankings, feedback, rejected, duplicates)


def _encoded_events(entries: Sequence[StreamEntry], rejected: list[str]) -> Iterator[tuple[StreamEntry, bytes]]:
    for entry in entries:
        try:
            events = split_events(entry.payload)
        except ContractError as error:
            rejected.append(_rejection(entry, entry.payload, str(error)))
        else:
            yield from ((entry, encoded) for encoded in events)


def _rejection(entry: StreamEntry, content: bytes, reason: str) -> str:
    line = {"entry_id": entry.entry_id, "reason": reason, "base64": base64.b64encode(content).decode()}
    return json.dumps(line) + "\n"


def _batch_name(entries: Sequence[StreamEntry]) -> str:
    check = xxhash.xxh3_64()
    for entry in entries:
        check.update(entry.entry_id.encode())
        check.update(entry.payload)
    return f"{entries[0].entry_id}-{entries[-1].entry_id}-{check.hexdigest()}"


def _value(path: Path, key: str) -> str:
    """What stands behind `key=` in the path's folders."""
    return next(part.removeprefix(f"{key}=") for part in reversed(path.parts) if part.startswith(f"{key}="))


def _files(partition: Path) -> list[Path]:
    return sorted(path for path in partition.glob("*.parquet") if path.name != MERGED)


def _consistent(partition: Path, columns: list[str]) -> list[pa.Table]:
    """All rows of a partition at least once, also while it is being compacted."""
    while True:
        try:
            return [_table(path, columns) for path in _files(partition)] + _merged(partition, columns)
        except FileNotFoundError:
            continue  # it has just been merged: list again


def _merged(partition: Path, columns: list[str] | None = None) -> list[pa.Table]:
    try:
        return [_table(partition / MERGED, columns)]
    except FileNotFoundError:
        return []


def _table(path: Path, columns: list[str] | None = None) -> pa.Table:
    with path.open("rb") as file:
        try:
            return pq.ParquetFile(file).read(columns)
        except pa.ArrowInvalid as error:
            raise DataRefused(f"{path}: damaged ({error}): restore it or move it out of the archive") from error


def _together(kind: Kind, tables: list[pa.Table], columns: list[str] | None = None) -> pa.Table:
    """One table by the schema; columns that an older file lacks are null."""
    schema = _SCHEMA[kind]
    empty = schema.empty_table().select(columns or schema.names)
    return pa.concat_tables([empty, *tables], promote_options="default")


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
