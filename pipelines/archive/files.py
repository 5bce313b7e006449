"""The event archive: Parquet files by model and hour, every event in them exactly once to a reader.

    <folder>/model=<name>/hour=<YYYYMMDDTHH>/kind=rankings|feedback|mirrors/<batch>.parquet
    <folder>/rejected/<batch>.jsonl     what could not be read, with the reason
    <folder>/complete.json              until when everything is here (`completeness`)

A batch is named after its first and last stream entry and a hash of them all: written again, it
replaces itself; cut differently after a crash, its events are there twice and are read once, by
event id, the earliest by the gateway's clock.

A closed hour is compacted into one `merged.parquet`: first that is put in place, then the files
it holds are deleted. Readers list the files first and open `merged.parquet` last: a file that
was gone from the listing is in there already, one that goes while they read makes them list again.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.archive.batch import HOUR_MS, Batch, Partition, hour_of, start_of
from pipelines.archive.tables import (
    FEEDBACK,
    MIRRORS,
    RANKINGS,
    feedback_table,
    first_of_each,
    hashes,
    mirrors_table,
    packed,
    rankings_table,
    unpacked,
)
from pipelines.durable import replace_file
from pipelines.errors import DataRefused
from registry.stream import StreamEntry

REPEATS_WITHIN_MS = 24 * HOUR_MS  # a client may send its feedback again, hours later, until it is accepted
MERGED = "merged.parquet"
PART_ROWS = 4096
READ_BYTES = 1 << 20
TIMES = ("answered_ms", "received_ms", "mirrored_ms")
REPEATING = ["arm", "fingerprint", "version", "plan_revision", "event", "experiment", "team_version", "champion"]

Kind = Literal["rankings", "feedback", "mirrors"]
_KINDS: tuple[Kind, ...] = ("rankings", "feedback", "mirrors")
_SCHEMA: dict[Kind, pa.Schema] = {"rankings": RANKINGS, "feedback": FEEDBACK, "mirrors": MIRRORS}
_KEYS: dict[Kind, tuple[str, str]] = {
    "rankings": ("ranking_id", "answered_ms"),
    "feedback": ("event_id", "received_ms"),
    "mirrors": ("event_id", "mirrored_ms"),
}


@dataclass(frozen=True, slots=True)
class WriteReport:
    """How many events were written, were in the batch twice, or could not be read: reports of equal counts are
    equal. oldest_ms: when the first of them was answered or received; None without any."""

    rankings: int = 0
    feedback: int = 0
    duplicates: int = 0
    rejected: int = 0
    mirrors: int = 0
    oldest_ms: int | None = field(default=None, compare=False)


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
        batch = Batch.of(entries)
        rankings = [self._keep(batch.name, "rankings", at, rankings_table(e)) for at, e in batch.rankings.items()]
        feedback = [self._keep(batch.name, "feedback", at, feedback_table(e)) for at, e in batch.feedback.items()]
        mirrors = [self._keep(batch.name, "mirrors", at, mirrors_table(e)) for at, e in batch.mirrors.items()]
        if batch.rejected:
            replace_file(self.folder / "rejected" / f"{batch.name}.jsonl", "".join(batch.rejected).encode())
        by_kind = (batch.rankings, batch.feedback, batch.mirrors)
        given = sum(len(events) for kind in by_kind for events in kind.values())
        return WriteReport(
            rankings=sum(rankings),
            feedback=sum(feedback),
            duplicates=given - sum(rankings) - sum(feedback) - sum(mirrors),
            rejected=len(batch.rejected),
            mirrors=sum(mirrors),
            oldest_ms=batch.oldest_ms,
        )

    def rankings(
        self, model: str, since_ms: int, until_ms: int, columns: Sequence[str] = tuple(RANKINGS.names)
    ) -> pa.Table:
        """What was answered in since_ms <= t < until_ms, each ranking once, oldest first.

        columns: of the schema `RANKINGS`; the features are most of the bytes.
        """
        return self._read("rankings", model, since_ms, until_ms, columns, repeats_ms=0)

    def ranking_parts(
        self, model: str, since_ms: int, until_ms: int, columns: Sequence[str] = tuple(RANKINGS.names)
    ) -> Iterator[pa.Table]:
        """What `rankings` gives, in parts of at most `PART_ROWS`, with memory for one part: hours in order, rankings of
        an hour in any. One that was written twice comes twice: whoever asks tells them apart by id."""
        wanted = list(dict.fromkeys([*columns, "answered_ms"]))
        for start_ms in self.hours(model, since_ms, until_ms):
            for part in _parts(self._partition(model, hour_of(start_ms), "rankings"), wanted):
                rows = _together("rankings", [part], wanted)
                inside = pc.and_(
                    pc.greater_equal(rows["answered_ms"], since_ms), pc.less(rows["answered_ms"], until_ms)
                )
                yield rows.filter(inside).select(list(columns))

    def feedback(
        self,
        model: str,
        since_ms: int,
        until_ms: int,
        columns: Sequence[str] = tuple(FEEDBACK.names),
        repeats_ms: int = REPEATS_WITHIN_MS,
    ) -> pa.Table:
        """What gateways first received in since_ms <= t < until_ms, each event once, oldest first.

        An event sent again within repeats_ms counts when it came first; 0 where only feedback for rankings since
        since_ms counts, whose first event cannot have come before. columns: of `FEEDBACK`.
        """
        return self._read("feedback", model, since_ms, until_ms, columns, repeats_ms=repeats_ms)

    def fingerprint(self, model: str, since_ms: int, until_ms: int) -> str:
        """Of the files that hold what was answered and received in that time, 64 hex digits: while it is the same,
        so is what is read of them. Reads no file."""
        first, last = hour_of(max(0, since_ms)), hour_of(max(0, until_ms - 1))
        hours = sorted(_value(path, "hour") for path in (self.folder / f"model={model}").glob("hour=*"))
        found = hashlib.sha256()
        for hour in hours:
            if not first <= hour <= last:
                continue
            for kind in _KINDS[:2]:
                for path in sorted(self._partition(model, hour, kind).glob("*.parquet")):
                    try:
                        about = path.stat()
                    except FileNotFoundError:
                        continue  # just merged: what it is now has another fingerprint anyway
                    found.update(f"{hour}/{kind}/{path.name} {about.st_size} {about.st_mtime_ns}\n".encode())
        return found.hexdigest()

    def feedback_by_hour(
        self, model: str, since_ms: int, until_ms: int, columns: Sequence[str] = tuple(FEEDBACK.names)
    ) -> Iterator[tuple[int, pa.Table]]:
        """What `feedback` gives, hour by hour of the clock, oldest first: (the hour's first ms, its events).

        Each file is read once and an hour is held at a time, beside 8 bytes an event of the day before it. Events
        are told apart by 64-bit hashes of their ids. Hours without a file are not there.
        """
        wanted = list(dict.fromkeys([*columns, "event_id", "received_ms"]))
        seen: dict[int, NDArray[np.uint64]] = {}
        for start_ms in self.hours(model, since_ms - REPEATS_WITHIN_MS, until_ms):
            raw = _consistent(self._partition(model, hour_of(start_ms), "feedback"), wanted)
            rows = first_of_each(_together("feedback", raw, wanted), "event_id", "received_ms")
            own = hashes(rows["event_id"])
            seen = {hour: ids for hour, ids in seen.items() if hour >= start_ms - REPEATS_WITHIN_MS}
            new = ~np.logical_or.reduce([np.isin(own, ids) for ids in seen.values()] or [np.zeros(len(own), bool)])
            seen[start_ms] = own[new]
            if start_ms + HOUR_MS > since_ms:
                received_ms = rows["received_ms"].to_numpy()
                inside = new & (received_ms >= since_ms) & (received_ms < until_ms)
                yield start_ms, rows.filter(pa.array(inside)).select(list(columns))

    def hours(self, model: str, since_ms: int, until_ms: int) -> list[int]:
        """The first ms of each hour of the clock that has files and shares time with since_ms <= t < until_ms."""
        if until_ms <= since_ms:
            return []
        first, last = hour_of(max(0, since_ms)), hour_of(max(0, until_ms - 1))
        names = sorted(_value(path, "hour") for path in (self.folder / f"model={model}").glob("hour=*"))
        return [start_of(name) for name in names if first <= name <= last]

    def mirrors(
        self, model: str, since_ms: int, until_ms: int, columns: Sequence[str] = tuple(MIRRORS.names)
    ) -> pa.Table:
        """What was mirrored in since_ms <= t < until_ms, each event once, oldest first. columns: of `MIRRORS`."""
        return self._read("mirrors", model, since_ms, until_ms, columns, repeats_ms=0)

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

    def _keep(self, batch: str, kind: Kind, at: Partition, events: pa.Table) -> int:
        """How many of the events were written: each once."""
        once = first_of_each(events, *_KEYS[kind])
        replace_file(self._partition(*at, kind) / f"{batch}.parquet", _parquet(once, "lz4"))
        return len(once)

    def _compact(self, kind: Kind, partition: Path) -> CompactReport:
        files = _files(partition)
        if not files:
            return CompactReport()
        rows = _together(kind, [_table(path) for path in files] + _merged(partition))
        merged = first_of_each(rows, *_KEYS[kind])
        replace_file(partition / MERGED, _parquet(merged, "zstd"))
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
        rows = first_of_each(_together(kind, tables, wanted), event_id, time)
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


def _parts(partition: Path, columns: list[str]) -> Iterator[pa.Table]:
    """All rows of a partition at least once, also while it is being compacted, a part at a time."""
    done: set[str] = set()
    while True:
        try:
            for path in _files(partition):
                if path.name not in done:
                    yield from _parts_of(path, columns)
                    done.add(path.name)
            break
        except FileNotFoundError:
            continue  # it has just been merged: list again
    if (merged := partition / MERGED).exists():
        yield from _parts_of(merged, columns)


def _parts_of(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    with path.open("rb") as file:
        try:
            # read as it goes: a row group of an hour may be larger than memory
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES)
            for part in parquet.iter_batches(PART_ROWS, columns=columns):
                yield unpacked(pa.Table.from_batches([part]))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise _damaged(path, error) from error


def _merged(partition: Path, columns: list[str] | None = None) -> list[pa.Table]:
    try:
        return [_table(partition / MERGED, columns)]
    except FileNotFoundError:
        return []


def _table(path: Path, columns: list[str] | None = None) -> pa.Table:
    with path.open("rb") as file:
        try:
            return unpacked(pq.ParquetFile(file).read(columns))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataRefused:
    return DataRefused(f"{path}: damaged ({error}): restore it or move it out of the archive")


def _together(kind: Kind, tables: list[pa.Table], columns: list[str] | None = None) -> pa.Table:
    """One table by the schema; columns that an older file lacks are null."""
    schema = _SCHEMA[kind]
    empty = schema.empty_table().select(columns or schema.names)
    try:
        return pa.concat_tables([empty, *tables], promote_options="default")
    except pa.ArrowException as error:
        raise DataRefused(
            f"archived {kind}: files of one time have other columns than they should ({error})"
        ) from error


def _parquet(table: pa.Table, compression: Literal["lz4", "zstd"]) -> memoryview:
    """compression: quick for files that will be merged, small for what stays."""
    sink = pa.BufferOutputStream()
    # dictionaries pay for words that repeat; looking for repeats among floats doubles the cost of a file
    pq.write_table(packed(table), sink, compression=compression, use_dictionary=REPEATING, write_statistics=list(TIMES))
    return memoryview(sink.getvalue())
