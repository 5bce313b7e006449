"""Events as Arrow tables: the archive's columns, and which events fit them. No I/O.

On disk `features` is binary, the float32 as they came (`packed`): Parquet would otherwise encode
a level a number, which costs five times as much as everything else of a ranking.

Neither table has columns `model`, `hour` or `kind`: those stand in the folder names, and a
column of the same name would clash with them in every reader that understands such folders.
"""

from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from registry.contracts.errors import InvalidName
from registry.contracts.events import Click, Event, Exposure, MirrorEvent, RankingEvent
from registry.contracts.ids import model_name

RANKINGS = pa.schema(
    [
        ("ranking_id", pa.string()),
        ("answered_ms", pa.int64()),
        ("version", pa.int64()),
        ("arm", pa.string()),
        ("plan_revision", pa.int64()),
        ("unit", pa.string()),
        ("query_id", pa.string()),
        ("candidates", pa.int64()),
        ("items", pa.list_(pa.string())),  # best first: position is index + 1
        ("scores", pa.list_(pa.float32())),
        ("propensities", pa.list_(pa.float32())),
        ("fingerprint", pa.string()),
        ("features", pa.list_(pa.float32())),  # (shown, columns), row after row
        ("score_mean", pa.float64()),
        ("score_std", pa.float64()),
        ("margin", pa.float64()),
        ("entropy", pa.float64()),
        ("degraded", pa.list_(pa.string())),
        ("latency_ms", pa.float64()),
        ("trace_id", pa.string()),
        ("experiment", pa.string()),  # null in files from before there were experiments, as the next three
        ("teams", pa.list_(pa.uint8())),  # one per item: 1 drafted by team_version; empty if not interleaved
        ("team_version", pa.int64()),
        ("explored", pa.bool_()),
        ("row_age_s", pa.float64()),  # null where no row was stored, and in files from before it was logged
    ]
)
MIRRORS = pa.schema(
    [
        ("event_id", pa.string()),
        ("ranking_id", pa.string()),
        ("mirrored_ms", pa.int64()),
        ("plan_revision", pa.int64()),
        ("experiment", pa.string()),
        ("champion", pa.int64()),
        ("version", pa.int64()),
        ("candidates", pa.int64()),
        ("items", pa.list_(pa.string())),  # best first, as the answer showed them
        ("scores", pa.list_(pa.float32())),
        ("mirror_items", pa.list_(pa.string())),  # as the version would have; none if there is an error
        ("mirror_scores", pa.list_(pa.float32())),
        ("latency_ms", pa.float64()),
        ("mirror_latency_ms", pa.float64()),
        ("error", pa.string()),
    ]
)
FEEDBACK = pa.schema(
    [
        ("event_id", pa.string()),
        ("event", pa.string()),  # click or exposure
        ("ranking_id", pa.string()),
        ("item", pa.string()),
        ("position", pa.int64()),  # as the client says; null if it does not
        ("happened_ms", pa.int64()),  # by the client's clock
        ("received_ms", pa.int64()),  # by the gateway's, never before the ranking was answered
        ("simulated", pa.bool_()),
    ]
)

_NUMBERS = {"scores": "<f4", "propensities": "<f4", "features": "<f4", "mirror_scores": "<f4", "teams": "u1"}
_FIELDS = {kind: [field.name for field in msgspec.structs.fields(kind)] for kind in (RankingEvent, MirrorEvent)}
_YEAR_10000_MS = 253_402_300_800_000
_LEAST, _MOST = -(2**63), 2**63 - 1


def gateway_ms(event: Event) -> int:
    """When a gateway saw the event, ms since the epoch: a client's clock may be anything."""
    if isinstance(event, RankingEvent):
        return event.answered_ms
    return event.mirrored_ms if isinstance(event, MirrorEvent) else event.received_ms


def flaw(event: Event) -> str | None:
    """Why an event that decodes does not fit the archive; None if it does."""
    if wrong := _name_flaw(event.model):
        return wrong
    if not 0 <= gateway_ms(event) < _YEAR_10000_MS:
        return f"time {gateway_ms(event)} ms: expected a time between 1970 and 9999"
    numbers = _numbers(event)
    if min(numbers) < _LEAST or max(numbers) > _MOST:
        return "a number does not fit 64 bits"
    if isinstance(event, MirrorEvent):
        if len(event.scores) != 4 * len(event.items) or len(event.mirror_scores) != 4 * len(event.mirror_items):
            return f"{len(event.items)} and {len(event.mirror_items)} items: expected as many float32 scores"
        return None
    if not isinstance(event, RankingEvent):
        return None
    shown_bytes = 4 * len(event.items)
    if not len(event.scores) == len(event.propensities) == shown_bytes:
        return f"{len(event.items)} items: expected as many float32 scores and propensities"
    if event.features and (not shown_bytes or len(event.features) % shown_bytes):
        return f"{len(event.features)} bytes of features: expected whole float32 rows of {len(event.items)} items"
    if len(event.teams) not in (0, len(event.items)):
        return f"{len(event.teams)} teams: expected one per item, {len(event.items)}, or none"
    return None


def rankings_table(events: Sequence[RankingEvent]) -> pa.Table:
    """One row a ranking, in the given order, by the schema `RANKINGS`."""
    return _fields_table(RankingEvent, events, RANKINGS)


def mirrors_table(events: Sequence[MirrorEvent]) -> pa.Table:
    """One row a mirrored query, in the given order, by the schema `MIRRORS`."""
    return _fields_table(MirrorEvent, events, MIRRORS)


def feedback_table(events: Sequence[Click | Exposure]) -> pa.Table:
    """One row an event, in the given order, by the schema `FEEDBACK`."""
    rows = [
        (e.event_id, _kind(e), e.ranking_id, e.item, e.position, _happened_ms(e), e.received_ms, e.simulated)
        for e in events
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(FEEDBACK)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, FEEDBACK, strict=True)], schema=FEEDBACK)


def first_of_each(table: pa.Table, event_id: str, time: str) -> pa.Table:
    """Every event once, the earliest (then the first) row of it, in order of time and id.

    event_id, time: names of columns.
    """
    times, names = table[time], table[event_id]
    if len(table) < 2 or (_in_order(times, names) and len(names.unique()) == len(table)):
        return table  # the common case: nothing sent twice
    order = pc.sort_indices(table, [(time, "ascending"), (event_id, "ascending")])
    ids = pa.table({"id": table[event_id].take(order), "row": pa.array(np.arange(len(table)))})
    first = ids.group_by("id").aggregate([("row", "min")])["row_min"].to_numpy()
    return table.take(order.take(pa.array(np.sort(first))))


def hashes(names: pa.ChunkedArray | pa.Array) -> NDArray[np.uint64]:
    """`contracts.ids.hash64` of each id, null as the empty one. Shape (names,).

    >>> hashes(pa.array(["a", None])).tolist()
    [16629034431890738719, 3244421341483603138]
    """
    digests = b"".join(map(xxhash.xxh3_64_digest, names.fill_null("").cast(pa.binary()).to_pylist()))
    return np.frombuffer(digests, ">u8", len(names)).astype(np.uint64)


def packed(table: pa.Table) -> pa.Table:
    """The table as it lies on disk."""
    if "features" not in table.column_names:
        return table
    lists = table["features"].combine_chunks()
    offsets = np.asarray(lists.offsets, dtype=np.int64) * 4
    data = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(lists), [None, pa.py_buffer(offsets), lists.values.buffers()[1]]
    )
    return table.set_column(table.column_names.index("features"), "features", data)


def unpacked(table: pa.Table) -> pa.Table:
    """A table from disk by the schema `RANKINGS`; one that was not packed stays as it is."""
    if "features" not in table.column_names or not pa.types.is_large_binary(table.schema.field("features").type):
        return table
    data = table["features"].combine_chunks()
    offsets, values = (data.buffers()[place] for place in (1, 2))
    starts = (np.frombuffer(offsets, np.int64)[data.offset : data.offset + len(data) + 1] // 4).astype(np.int32)
    floats = pa.Array.from_buffers(pa.float32(), values.size // 4 if values else 0, [None, values])
    lists = pa.ListArray.from_arrays(pa.array(starts), floats)
    return table.set_column(table.column_names.index("features"), "features", lists)


def _in_order(times: pa.ChunkedArray, names: pa.ChunkedArray) -> bool:
    """Whether rows stand in order of time, and those of one time in order of their ids."""
    steps = np.diff(times.to_numpy())
    if len(steps) and steps.min() < 0:
        return False
    equal = pa.array(np.flatnonzero(steps == 0))
    return bool(pc.all(pc.less(names.take(equal), names.take(pc.add(equal, 1))), min_count=0).as_py())


@lru_cache(maxsize=256)
def _name_flaw(model: str) -> str | None:
    try:
        model_name(model)
    except InvalidName as error:
        return str(error)
    return None


def _kind(event: Click | Exposure) -> str:
    return "click" if isinstance(event, Click) else "exposure"


def _happened_ms(event: Click | Exposure) -> int:
    return event.clicked_ms if isinstance(event, Click) else event.seen_ms


def _numbers(event: Event) -> tuple[int, ...]:
    if isinstance(event, RankingEvent):
        return (event.version, event.plan_revision, event.candidates, event.team_version)
    if isinstance(event, MirrorEvent):
        return (event.plan_revision, event.champion, event.version, event.candidates)
    return (_happened_ms(event), event.position or 0)


def _fields_table(
    kind: type[RankingEvent] | type[MirrorEvent],
    events: Sequence[RankingEvent] | Sequence[MirrorEvent],
    schema: pa.Schema,
) -> pa.Table:
    """A column for each of the schema's names, from the field of that name."""
    columns = zip(*map(msgspec.structs.astuple, events), strict=True) if events else [()] * len(_FIELDS[kind])
    by_name = dict(zip(_FIELDS[kind], columns, strict=True))
    return pa.table(
        [
            _lists(by_name[field.name], _NUMBERS[field.name])
            if field.name in _NUMBERS
            else pa.array(by_name[field.name], field.type)
            for field in schema
        ],
        schema=schema,
    )


def _lists(packed: Sequence[bytes], dtype: str) -> pa.ListArray:
    """Numbers in little-endian bytes as lists, without a Python object a number."""
    width = np.dtype(dtype).itemsize
    sizes = np.fromiter((len(one) // width for one in packed), np.int32, len(packed))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.frombuffer(b"".join(packed), dtype)))
