"""The host's part of a batch: where its rows are, what came with its queries, what goes across."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.features.device import DeviceTier, Located
from serving.features.tier import RowKeys
from serving.flow.deadlines import patience_s
from serving.frames import ScoreRequest
from serving.scoring import NEVER_STALE_MS, LoadedModel, mean_age_s


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """staged: the arrays that the device needs, by name, for `staging.Layout`:

    ends int64 (lists,), where each list ends. cells int32 (rows,), resident rows; the rows at
    missed int64 (missed,) are missed_rows float32 (missed, stored columns) instead. placed_cells
    and placed_from, see `Located`. sent float32 (rows, columns that are not stored). Over all that,
    overriding float32 at overridden int64 (values,), places in the flattened matrix.

    counts: int64 (lists,). missing, stale: int64 (lists,), rows of each list. age_s: float64 (lists,), see
    `scoring.mean_age_s`. located: to be forgotten if the batch is never computed.
    """

    staged: dict[str, NDArray[Any]]
    counts: NDArray[np.int64]
    missing: NDArray[np.int64]
    stale: NDArray[np.int64]
    age_s: NDArray[np.float64]
    away: bool
    located: Located | None


class BatchPreparer:
    """Prepares batches of one version."""

    def __init__(self, loaded: LoadedModel, tier: DeviceTier) -> None:
        self._loaded, self._tier = loaded, tier
        self._columns = len(loaded.view.columns)
        stored = np.zeros(self._columns, dtype=bool)
        stored[loaded.row_columns] = True
        self.sent_columns = np.flatnonzero(~stored)
        self._sent_defaults = loaded.view.defaults[self.sent_columns]
        self._sent_place = np.full(self._columns, -1)
        self._sent_place[self.sent_columns] = np.arange(len(self.sent_columns))

    def prepare(self, requests: Sequence[ScoreRequest], queue_us: Sequence[float], now_ms: int) -> PreparedBatch:
        """requests: checked, all for this version. Looks rows up, and fetches those that are missed."""
        counts = np.array([request.candidates for request in requests], dtype=np.int64)
        ends = np.cumsum(counts)
        staged: dict[str, NDArray[Any]] = {"ends": ends}
        updated_ms, unchecked, located = self._locate(requests, queue_us, counts, staged)
        try:
            self._send(requests, staged, int(ends[-1]))
        except BaseException:
            if located is not None:
                self._tier.forget(located)
            raise
        missing = updated_ms == 0
        stale = unchecked
        if self._loaded.freshness_ms is not None:
            stale |= ~missing & (updated_ms.astype(np.float64) < now_ms - self._loaded.freshness_ms)
        starts = ends - counts
        return PreparedBatch(
            staged=staged,
            counts=counts,
            missing=np.add.reduceat(missing, starts, dtype=np.int64),
            stale=np.add.reduceat(stale, starts, dtype=np.int64),
            age_s=mean_age_s(updated_ms, counts, now_ms),
            away=located is not None and located.away,
            located=located,
        )

    def _locate(
        self,
        requests: Sequence[ScoreRequest],
        queue_us: Sequence[float],
        counts: NDArray[np.int64],
        staged: dict[str, NDArray[Any]],
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_], Located | None]:
        """Stages where the rows are; when they were written, and which may have changed since, both
        (rows,). Queries that bring all of theirs need none."""
        total = int(counts.sum())
        stored = self._loaded.row_columns
        asking = [
            not (len(request.candidate_columns) >= len(stored) and np.isin(stored, request.candidate_columns).all())
            for request in requests
        ]
        cells = np.zeros(total, dtype=np.int32)  # cell 0, whatever it holds, where a query brought its rows
        updated_ms = np.full(total, NEVER_STALE_MS, dtype=np.uint64)
        unchecked = np.zeros(total, dtype=bool)
        staged["cells"] = cells
        if not any(asking):
            return updated_ms, unchecked, None
        keys = RowKeys.join(
            [RowKeys(request.hashes, request.ids) for request, asks in zip(requests, asking, strict=True) if asks]
        )
        keys.patience_s = patience_s([request.deadline_us for request in requests], queue_us)
        located = self._tier.locate(keys)
        rows = np.flatnonzero(np.repeat(asking, counts))
        cells[rows], updated_ms[rows] = located.cells, located.updated_ms
        if located.unchecked is not None:
            unchecked[rows] = located.unchecked
        staged["missed"] = rows[located.missed]
        staged["missed_rows"] = located.missed_rows
        staged["placed_cells"], staged["placed_from"] = located.placed_cells, located.placed_from
        return updated_ms, unchecked, located

    def _send(self, requests: Sequence[ScoreRequest], staged: dict[str, NDArray[Any]], total: int) -> None:
        """Stages what came with the queries: over defaults, and over stored columns where they say so."""
        sent = np.empty((total, len(self.sent_columns)), dtype=np.float32)
        sent[:] = self._sent_defaults
        overridden: list[NDArray[np.int64]] = []
        overriding: list[NDArray[np.float32]] = []
        start = 0
        for request in requests:
            part = sent[start : start + request.candidates]
            for columns, values in (
                (request.query_columns, request.query_values[None, :]),
                (request.candidate_columns, request.candidate_values.T),
            ):
                if not len(columns):
                    continue
                places = self._sent_place[columns]
                ours = places >= 0
                if ours.all():
                    part[:, places] = values
                else:
                    part[:, places[ours]] = values[:, ours]
            if (stored := self._stored_among(request)) is not None:
                overridden.append(
                    (np.arange(start, start + request.candidates)[:, None] * self._columns + stored).ravel()
                )
                overriding.append(self._over(request, stored).ravel())
            start += request.candidates
        staged["sent"] = sent
        if overridden:
            staged["overridden"] = np.concatenate(overridden)
            staged["overriding"] = np.concatenate(overriding)

    def _stored_among(self, request: ScoreRequest) -> NDArray[np.int64] | None:
        """The stored columns that the query brought itself, ascending; None if there are none."""
        given = np.concatenate([request.query_columns, request.candidate_columns]).astype(np.int64)
        stored = given[self._sent_place[given] < 0]
        return np.unique(stored) if len(stored) else None

    def _over(self, request: ScoreRequest, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Their values, (candidates, columns): each candidate's own before the query's."""
        over = np.empty((request.candidates, len(columns)), dtype=np.float32)
        place = {column: i for i, column in enumerate(columns.tolist())}
        for i, column in enumerate(request.query_columns.tolist()):
            if column in place:
                over[:, place[column]] = request.query_values[i]
        for i, column in enumerate(request.candidate_columns.tolist()):
            if column in place:
                over[:, place[column]] = request.candidate_values[i]
        return over
