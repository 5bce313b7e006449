"""What a collected window says of one version's scores: each shown item's score, position and click, and who saw it.

Scores stand in the archive and not in what was collected, which is for learning from labels: they are joined by the
ranking's id, an hour at a time. Of large windows whole units are taken, by chance that is the same each time.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.archive.batch import HOUR_MS
from pipelines.archive.files import Archive
from pipelines.archive.tables import hashes
from pipelines.errors import DataRefused
from pipelines.feedback.collection import Collected

MOST_ROWS = 2_000_000  # shown items, 25 bytes each
_SPREAD = np.uint64(1_000_003)  # units are taken by other digits than those that groups are made by


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """scores, clicks, positions (from 1), units (numbers): (shown,), of `lists` lists."""

    scores: NDArray[np.float64]
    clicks: NDArray[np.bool_]
    positions: NDArray[np.int64]
    units: NDArray[np.uint64]
    lists: int

    def __len__(self) -> int:
        return len(self.scores)


def scored_rows(
    archive: Archive, collected: Collected, version: int, since_ms: int, until_ms: int, most_rows: int = MOST_ROWS
) -> ScoredRows:
    """The version's lists of the window that were answered in since_ms <= t < until_ms, of all arms.

    Lists that left the archive, and scores that are no numbers, are left out. Raises DataRefused if the archive is
    damaged.
    """
    record = collected.record
    share = np.uint64(max(1, -(-record.rows // most_rows)))
    columns = ("ranking_id", "answered_ms", "unit", "version", "clicks")
    lists = pa.concat_tables([_of(table, version, share) for table in collected.tables(columns)])
    at_ms = lists["answered_ms"].to_numpy()
    found: list[ScoredRows] = []
    for start_ms in archive.hours(record.model, since_ms, until_ms):
        first_ms, end_ms = max(since_ms, start_ms), min(until_ms, start_ms + HOUR_MS)
        inside = lists.filter(pa.array((at_ms >= first_ms) & (at_ms < end_ms)))
        if len(inside):
            hour = archive.rankings(record.model, first_ms, end_ms, ["ranking_id", "scores"])
            found.append(_joined(inside, hour))
    return _together(found)


def _together(parts: list[ScoredRows]) -> ScoredRows:
    """All of them as one."""
    return ScoredRows(
        scores=np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
        clicks=np.concatenate([np.zeros(0, bool), *(part.clicks for part in parts)]),
        positions=np.concatenate([np.zeros(0, np.int64), *(part.positions for part in parts)]),
        units=np.concatenate([np.zeros(0, np.uint64), *(part.units for part in parts)]),
        lists=sum(part.lists for part in parts),
    )


def windows_before(collected: Collected) -> list[Path]:
    """Folders of windows that were collected by the same rules and end before this one begins, the newest first."""
    own = collected.folder.name
    others = sorted((path for path in collected.folder.parent.glob("window=*") if path.name < own), reverse=True)
    begins = own.partition("=")[2].partition("-")[0]
    return [path for path in others if path.name.partition("-")[2] <= begins]


def _of(table: pa.Table, version: int, share: np.uint64) -> pa.Table:
    """The lists of the version, of the units that are taken."""
    own = table.filter(pc.equal(table["version"], version))
    units = hashes(own["unit"])
    taken = units // _SPREAD % share == 0
    return own.filter(pa.array(taken)).append_column("number", pa.array(units[taken]))


def _joined(lists: pa.Table, hour: pa.Table) -> ScoredRows:
    place = pc.index_in(lists["ranking_id"].combine_chunks(), value_set=hour["ranking_id"].combine_chunks())
    there = lists.filter(pc.is_valid(place))
    scores, sizes = _flat(hour["scores"].take(place.drop_null()))
    clicks, shown = _flat(there["clicks"])
    if sizes.tolist() != shown.tolist():
        raise DataRefused(f"hour of {lists['answered_ms'][0]}: a list has other scores than items: look at the archive")
    list_of = np.repeat(np.arange(len(shown)), shown)
    positions = np.arange(len(scores)) - (np.cumsum(shown) - shown)[list_of] + 1
    sound = np.isfinite(scores)
    return ScoredRows(
        scores=scores[sound],
        clicks=clicks[sound] > 0,
        positions=positions[sound],
        units=there["number"].to_numpy()[list_of][sound],
        lists=len(there),
    )


def _flat(lists: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values of all lists one after the other, and how many each has."""
    values = pc.list_flatten(lists).cast(pa.float64()).to_numpy()
    return values, pc.list_value_length(lists).to_numpy().astype(np.int64)
