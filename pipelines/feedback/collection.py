"""A closed window of the archive as judgements: cleaned, with position bias estimated and clicks freed of it.

    <folder>/model=<name>/window=<since>-<until>/
        lists.parquet     one row a list: who, when, what was shown, the features as logged, clicks
        labels.parquet    one row a list, the same lists in the same order: label and weight by position
        quality.json      what the data are like, how bias was estimated, and the SHA-256 of both files

Position is the place in a row's lists, from 1, as in the archive. Labels stand apart since examination is known only
when the last hour has been read: the features, which are most of the bytes, are written once.

The folder is made beside its place under a hidden name and moved there in one step, so that a kill leaves nothing that
can be seen or all of it. A window that was collected stays as it is: what was trained on it can be looked up. Collected
again elsewhere, it gives equal bytes.

The archive is read twice, an hour at a time: for the index of the window (`window_index`), then to clean. Memory is
that of the busiest hour with its features, 25 bytes a ranking and `sampled_rows` shown items; the length of the window
does not matter otherwise.

Clicks of people and of a click model are never mixed: `source` says whose are wanted, and lists with the others' are
left out and counted. A list without any feedback is people's, unless all feedback of the window is simulated.
"""

import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.archive.batch import HOUR_MS
from pipelines.archive.files import Archive
from pipelines.archive.tables import FEEDBACK, RANKINGS, hashes, packed, unpacked
from pipelines.durable import file_digest, make_folder, replace_file, sync_folder
from pipelines.errors import DataRefused
from pipelines.feedback.bias_evidence import BiasEvidence, BiasReport, BiasRules, Floats32
from pipelines.feedback.cleaning import (
    FEEDBACK_COLUMNS,
    RANKING_COLUMNS,
    CleaningRules,
    Impressions,
    QualityReport,
    clean,
    merged,
)
from pipelines.feedback.position_bias import debiased_labels
from pipelines.feedback.window_index import DROPPED, KEPT, OF_A_BOT, WindowIndex, hour_of_rankings, index_window
from registry.contracts.errors import UNDECODABLE
from registry.contracts.ids import model_name

Source = Literal["people", "simulated"]

LISTS_FILE, LABELS_FILE, QUALITY_FILE = "lists.parquet", "labels.parquet", "quality.json"
LEFT_AFTER_S = 86_400.0  # a collection takes less: what is older was left behind by one that was killed
GROUP_LISTS = 8192  # lists in one row group of the files: what a reader holds at a time
_LOGGED = [*RANKING_COLUMNS, "candidates", "fingerprint", "features"]

LISTS = pa.schema(
    [
        ("ranking_id", pa.string()),
        ("answered_ms", pa.int64()),
        ("query", pa.string()),  # the ranking's id where none was given: a query of its own
        ("unit", pa.string()),
        ("version", pa.int64()),
        ("arm", pa.string()),
        ("explored", pa.bool_()),
        ("candidates", pa.int64()),  # how many were ranked, of which `items` were shown
        ("fingerprint", pa.string()),
        ("items", pa.list_(pa.string())),
        ("propensities", pa.list_(pa.float32())),
        ("clicks", pa.list_(pa.bool_())),
        ("seen", pa.list_(pa.bool_())),  # False: the client reports what was seen, and not this
        ("features", pa.large_binary()),  # float32 (items, columns), row after row
    ]
)
LABELS = pa.schema(
    [
        ("ranking_id", pa.string()),
        ("labels", pa.list_(pa.float32())),  # clicks times weights: unbiased for attraction where nothing is clipped
        ("weights", pa.list_(pa.float32())),  # inverse examination, at most `most_weight`
    ]
)


class CollectionRules(msgspec.Struct, frozen=True):
    """What is asked of a window, apart from its time. source: whose clicks."""

    source: Source = "people"
    cleaning: CleaningRules = CleaningRules()
    bias: BiasRules = BiasRules()

    def __post_init__(self) -> None:
        if wrong := set(self.cleaning.arms) - {"champion", "challenger"}:
            raise ValueError(
                f"collection.cleaning.arms: {min(wrong)!r}: expected champion and challenger only: an interleaved list "
                "is two versions' work, one outside of every arm nobody's"
            )


class LabelReport(msgspec.Struct, frozen=True):
    """effective: clicks of equal weight that the weighted ones are worth. clipped: share of shown items whose weight
    was cut."""

    effective: float
    clipped: float


class ViewCount(msgspec.Struct, frozen=True):
    """lists: of that version, logged under that feature view."""

    version: int
    fingerprint: str
    lists: int


class Collection(msgspec.Struct, frozen=True):
    """What was collected; JSON-able, equal archives give equal bytes.

    lists, rows: written. other_source: kept by cleaning, but with clicks of the other source. simulated: whether the
    clicks are a click model's; in every figure made of them. files: SHA-256 by name.
    """

    model: str
    since_ms: int
    until_ms: int
    rules: CollectionRules
    lists: int
    rows: int
    other_source: int
    simulated: bool
    views: tuple[ViewCount, ...]
    quality: QualityReport
    bias: BiasReport
    labels: LabelReport
    files: dict[str, str]
    schema: int = 1

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        """SHA-256 over all of it, and by `files` over the data, 64 digits."""
        return hashlib.sha256(self.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Collected:
    """A collected window on disk. record: its `quality.json`."""

    folder: Path
    record: Collection

    @staticmethod
    def open(folder: Path) -> "Collected":
        """Raises DataRefused if it is not there, damaged or not what its record says."""
        try:
            record = msgspec.json.decode((folder / QUALITY_FILE).read_bytes(), type=Collection)
            found = {name: file_digest(folder / name) for name in record.files}
        except (OSError, *UNDECODABLE) as error:
            raise DataRefused(f"{folder}: no collected window ({error}): collect it again") from error
        if changed := sorted(name for name in found if found[name] != record.files[name]):
            raise DataRefused(f"{folder / changed[0]}: not what was collected: move the window away, collect it again")
        return Collected(folder, record)

    def tables(self, columns: Sequence[str] = (*LISTS.names, "labels", "weights")) -> Iterator[pa.Table]:
        """The lists with their labels and weights, oldest first, `GROUP_LISTS` at a time.

        columns: of `LISTS`, `labels` and `weights`; the features are most of the bytes.
        """
        lists, labels = (pq.ParquetFile(self.folder / name) for name in (LISTS_FILE, LABELS_FILE))
        marks = [name for name in columns if name in ("labels", "weights")]
        with lists, labels:
            for group in range(lists.num_row_groups):
                table = lists.read_row_group(group, columns=[name for name in columns if name not in marks])
                if marks:
                    beside = labels.read_row_group(group, columns=marks)
                    for name in marks:
                        table = table.append_column(name, beside[name])
                yield unpacked(table.select(list(columns)))


def window_folder(folder: Path, model: str, since_ms: int, until_ms: int) -> Path:
    """Where a window's judgements are, collected or not.

    >>> window_folder(Path("/data"), "codesearch", 0, 3_600_000).name
    'window=19700101T000000.000-19700101T010000.000'
    """
    return folder / f"model={model_name(model)}" / f"window={_moment(since_ms)}-{_moment(until_ms)}"


def collect(
    archive: Archive,
    model: str,
    since_ms: int,
    until_ms: int,
    now_ms: int,
    folder: Path,
    rules: CollectionRules | None = None,
    on_hour: Callable[[int, int], None] = lambda done, hours: None,
) -> Collected:
    """The judgements of what was answered in since_ms <= t < until_ms; if they are there already, those.

    now_ms: the window must be closed by then, with all its clicks in. Safe to kill at any point, and to run twice at
    once: one of the two is kept, and they are equal. Two sets of rules are two windows: give them two folders.
    on_hour: told how many of how many hours of the archive are cleaned; what it raises ends the collection.
    Raises DataRefused if the window is still open or empty of time, if it was collected there by other rules, or if
    the archive is damaged.
    """
    rules = rules or CollectionRules()
    closes_ms = until_ms + rules.cleaning.clicks_within_ms
    if not since_ms < until_ms:
        raise DataRefused(f"window {since_ms} to {until_ms}: expected it to end after it begins")
    if now_ms < closes_ms:
        raise DataRefused(f"window until {_moment(until_ms)}: its clicks can come until {_moment(closes_ms)}: ask then")
    place = window_folder(folder, model, since_ms, until_ms)
    if place.exists():
        there = Collected.open(place)
        if there.record.rules != rules:
            raise DataRefused(f"{place}: collected by other rules: give another folder, or move it away")
        return there
    make_folder(place.parent)
    sweep(folder, model, LEFT_AFTER_S, now_ms / 1000)
    temporary = place.with_name(f".{place.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed and had this number
    temporary.mkdir()
    try:
        record = _Collecting(archive, model, since_ms, until_ms, now_ms, temporary, rules).run(on_hour)
        replace_file(temporary / QUALITY_FILE, record.encode())  # and with it the names of the others
        try:
            temporary.rename(place)
        except OSError:
            if not place.exists():
                raise
            return Collected.open(place)  # another process was quicker
        sync_folder(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Collected(place, record)


def sweep(folder: Path, model: str, older_than_s: float, now_s: float) -> int:
    """Removes what killed collections left behind; how many folders that were. Those of a running one are younger."""
    left = [path for path in (folder / f"model={model_name(model)}").glob(".window=*.tmp") if path.is_dir()]
    old = [path for path in left if path.stat().st_mtime < now_s - older_than_s]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)


class _Collecting:
    """One collection, hour after hour."""

    def __init__(
        self,
        archive: Archive,
        model: str,
        since_ms: int,
        until_ms: int,
        now_ms: int,
        folder: Path,
        rules: CollectionRules,
    ) -> None:
        self._archive, self._model, self._folder, self._rules = archive, model, folder, rules
        self._since_ms, self._until_ms, self._now_ms = since_ms, until_ms, now_ms
        self._index = index_window(archive, model, since_ms, until_ms, rules.cleaning)
        self._only_simulated = self._index.simulated > 0 and not self._index.from_people
        self._bias = BiasEvidence(rules.bias)
        self._reports: list[QualityReport] = []
        self._views: Counter[tuple[int, str]] = Counter()
        self._other_source = 0
        self._rows = 0

    def run(self, on_hour: Callable[[int, int], None]) -> Collection:
        """Writes both files and says what is in them."""
        feedback = _Feedback(self._archive, self._model, self._since_ms, self._until_ms, self._index, self._rules)
        with _GroupWriter(self._folder / LISTS_FILE, LISTS) as writer:
            hours = self._archive.hours(self._model, self._since_ms, self._until_ms)
            for done, start_ms in enumerate(hours, start=1):
                table = hour_of_rankings(
                    self._archive, self._model, start_ms, self._since_ms, self._until_ms, list(_LOGGED)
                )
                table = table.filter(pa.array(self._index.is_first(table)))
                if len(table):
                    writer.write(self._hour(table, feedback.until(start_ms + HOUR_MS)))
                on_hour(done, len(hours))
        feedback.rest()
        late = np.concatenate([np.zeros(0, np.int64), *feedback.late])
        late_clicks = np.concatenate([np.zeros(0, bool), *feedback.late_clicks])
        outside = self._index.late_reasons(late) | {"without_ranking": feedback.orphans}
        quality = merged(
            self._reports or [self._cleaned(RANKINGS.empty_table(), _no_feedback(), np.zeros(0, bool)).report],
            self._rules.cleaning,
            units=len(np.unique(self._index.units[self._index.fate == KEPT])),
            bots=len(np.intersect1d(self._index.bots, self._index.units)),
            outside=outside,
            late=self._index.late_reasons(late[late_clicks])["late"],
        )
        bias = self._bias.report()
        labels = self._label(bias)
        return Collection(
            model=self._model,
            since_ms=self._since_ms,
            until_ms=self._until_ms,
            rules=self._rules,
            lists=writer.lists,
            rows=self._rows,
            other_source=self._other_source,
            simulated=self._rules.source == "simulated",
            views=tuple(ViewCount(*key, count) for key, count in sorted(self._views.items())),
            quality=quality,
            bias=bias,
            labels=labels,
            files={name: file_digest(self._folder / name) for name in (LISTS_FILE, LABELS_FILE)},
        )

    def _hour(self, table: pa.Table, heard: pa.Table) -> pa.Table:
        """The lists of an hour that count, and what they say of position bias."""
        place = self._index.place(hashes(table["ranking_id"]))
        bots = np.isin(self._index.units[place], self._index.bots)
        lists = self._cleaned(table, heard, bots)
        fate = np.where(bots, OF_A_BOT, DROPPED)
        fate[lists.rows] = KEPT
        self._index.fate[place] = fate
        self._reports.append(lists.report)
        simulated = lists.simulated | (~lists.heard & self._only_simulated)
        wanted = np.flatnonzero(simulated == (self._rules.source == "simulated"))
        self._other_source += len(lists) - len(wanted)
        lists = lists.take(wanted)
        kept = table.take(pa.array(lists.rows))
        units = hashes(kept["unit"])
        self._rows += len(lists.clicks)
        queries = _queries(kept)
        features = kept["features"].combine_chunks()
        flat, bounds = features.values.to_numpy(), features.offsets.to_numpy()
        sizes = np.diff(lists.offsets)

        def features_of(i: int) -> Floats32:
            own = flat[bounds[i] : bounds[i + 1]]
            whole = len(own) % sizes[i] == 0
            return np.asarray(own.reshape(sizes[i], -1) if whole else np.zeros((sizes[i], 0)), dtype=np.float32)

        self._bias.add(lists, hashes(queries), units, features_of, hashes(kept["fingerprint"]))
        for key in zip(kept["version"].to_pylist(), kept["fingerprint"].to_pylist(), strict=True):
            self._views[key] += 1
        return _lists_table(kept, queries, lists)

    def _cleaned(self, table: pa.Table, heard: pa.Table, bots: NDArray[np.bool_]) -> Impressions:
        return clean(table, heard, self._rules.cleaning, self._now_ms, bots)

    def _label(self, bias: BiasReport) -> LabelReport:
        """Writes the labels of the lists written."""
        total = square = clipped = 0.0
        with (
            pq.ParquetFile(self._folder / LISTS_FILE) as written,
            _GroupWriter(self._folder / LABELS_FILE, LABELS) as writer,
        ):
            for group in range(written.num_row_groups):
                table = written.read_row_group(group, columns=["ranking_id", "clicks"])
                lists = table["clicks"].combine_chunks()
                offsets = lists.offsets.to_numpy()
                clicks = lists.values.to_numpy(zero_copy_only=False)
                positions = np.arange(len(clicks)) - np.repeat(offsets[:-1], np.diff(offsets)) + 1
                examined = bias.examined(int(positions.max(initial=1)))
                found = debiased_labels(clicks, positions, examined, self._rules.bias.most_weight)
                weights = found.weights[clicks]
                total, square = total + float(weights.sum()), square + float((weights**2).sum())
                clipped += found.clipped * len(clicks)
                columns = [_lists_of(values, offsets) for values in (found.labels, found.weights)]
                writer.write(pa.table([table["ranking_id"], *columns], schema=LABELS))
        return LabelReport(total**2 / square if square else 0.0, clipped / self._rows if self._rows else 0.0)


class _Feedback:
    """The feedback that came in time, given out with the hour of its ranking; of the rest, what must be counted.

    late: places in the index of the rankings that feedback came too late for; late_clicks: which of it were clicks.
    orphans: feedback of the window for no ranking.
    """

    def __init__(
        self, archive: Archive, model: str, since_ms: int, until_ms: int, index: WindowIndex, rules: CollectionRules
    ) -> None:
        self._within_ms, self._until_ms, self._index = rules.cleaning.clicks_within_ms, until_ms, index
        self._hours = archive.feedback_by_hour(model, since_ms, until_ms + self._within_ms, list(FEEDBACK_COLUMNS))
        self._read_until_ms = since_ms
        self._waiting: list[tuple[NDArray[np.int64], pa.Table]] = []  # when its ranking was answered, the event
        self.late: list[NDArray[np.int64]] = []
        self.late_clicks: list[NDArray[np.bool_]] = []
        self.orphans = 0

    def until(self, end_ms: int) -> pa.Table:
        """What came in time for the rankings answered before end_ms that were not asked for yet."""
        while self._read_until_ms <= end_ms + self._within_ms and self._read():
            pass
        given = [events.filter(pa.array(answered_ms < end_ms)) for answered_ms, events in self._waiting]
        left = [(at >= end_ms, at, events) for at, events in self._waiting]
        self._waiting = [(at[rest], events.filter(pa.array(rest))) for rest, at, events in left if rest.any()]
        return pa.concat_tables([_no_feedback(), *given])

    def rest(self) -> None:
        """Reads to the end, for what is counted only."""
        while self._read():
            pass

    def _read(self) -> bool:
        """One more hour, if there is one."""
        start_ms, heard = next(self._hours, (None, None))
        if start_ms is None or heard is None:
            return False
        self._read_until_ms = start_ms + HOUR_MS
        ids = hashes(heard["ranking_id"])
        place, received_ms = self._index.place(ids), heard["received_ms"].to_numpy()
        known = place >= 0
        answered_ms = np.append(self._index.answered_ms, 0)[place]
        late = known & (received_ms > answered_ms + self._within_ms)
        self.orphans += int((~known & (received_ms < self._until_ms) & ~self._index.before(ids)).sum())
        self.late.append(place[late])
        self.late_clicks.append(np.array(heard["event"].to_pylist(), dtype=np.str_)[late] == "click")
        timely = known & ~late
        self._waiting.append((answered_ms[timely], heard.filter(pa.array(timely))))
        return True


class _GroupWriter:
    """A Parquet file in row groups of `GROUP_LISTS`, however it comes: equal rows are equal bytes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._waiting: list[pa.Table] = []
        self._count = 0
        self.lists = 0

    def __enter__(self) -> "_GroupWriter":
        self._file = self._path.open("wb")
        self._writer = pq.ParquetWriter(
            self._file, self._schema, compression="zstd", use_dictionary=["arm", "fingerprint", "version"]
        )
        return self

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._count += len(table)
        self.lists += len(table)
        while self._count >= GROUP_LISTS:
            whole = pa.concat_tables(self._waiting)
            self._writer.write_table(whole.slice(0, GROUP_LISTS).combine_chunks(), row_group_size=GROUP_LISTS)
            self._waiting = [whole.slice(GROUP_LISTS)]
            self._count -= GROUP_LISTS

    def __exit__(self, *_: object) -> None:
        if self._count:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks(), row_group_size=GROUP_LISTS)
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _lists_table(kept: pa.Table, queries: pa.Array, lists: Impressions) -> pa.Table:
    columns = {
        "query": queries,
        "clicks": _lists_of(lists.clicks, lists.offsets),
        "seen": _lists_of(lists.seen, lists.offsets),
        "propensities": _lists_of(lists.propensities, lists.offsets),
        "features": packed(kept.select(["features"]))["features"],
        "explored": pa.array(lists.explored),
    }
    return pa.table(
        [columns[field.name] if field.name in columns else kept[field.name] for field in LISTS], schema=LISTS
    )


def _queries(kept: pa.Table) -> pa.Array:
    """The query of each list; one without is a query of its own, named after its ranking."""
    ids = pc.fill_null(kept["query_id"], "")
    return pc.if_else(pc.equal(ids, ""), kept["ranking_id"], ids).combine_chunks()


def _lists_of(values: NDArray[Any], offsets: NDArray[Any]) -> pa.ListArray:
    """Values of all rows as lists; numbers as float32."""
    flat = pa.array(values if values.dtype == bool else values.astype(np.float32))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat)


def _no_feedback() -> pa.Table:
    return FEEDBACK.empty_table().select(list(FEEDBACK_COLUMNS))


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y%m%dT%H%M%S") + f".{time_ms % 1000:03d}"
