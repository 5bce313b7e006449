"""A feature file into Redis: read, checked and packed in parts, written with back-pressure, resumable."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import redis
from numpy.typing import NDArray

from deploy.features.ledger import LoadLedger, LoadMark
from deploy.features.store import stored_bytes
from pipelines.errors import DataRefused
from pipelines.sources.feature_files import FeatureFile, FeatureRows
from registry.contracts.errors import ContractError, CorruptRecord
from registry.contracts.features import FeatureView, pack_rows, row_key, unpack_rows
from serving.features.materialiser import row_writer


@dataclass(frozen=True, slots=True)
class LoadReport:
    """rows: of the file that are in Redis now; resumed_rows: those an earlier, interrupted load wrote."""

    rows: int
    resumed_rows: int
    updated_ms: int
    ignored: tuple[str, ...]


def load_file(
    client: redis.Redis | redis.RedisCluster,
    view: FeatureView,
    file: FeatureFile,
    ledger: LoadLedger,
    updated_ms: int,
    on_rows: Callable[[int], None],
    given_ms: bool = False,
) -> LoadReport:
    """Stores every row of the file; of an item that stands there twice, the later row counts.

    updated_ms: when the values were true. A load that goes on keeps the time it began with, so
    that a file's rows have one age, unless another was asked for (given_ms): that starts again.
    on_rows: told how many rows of the file Redis has confirmed.
    Raises DataRefused, naming file, row and column, before anything of that part is written, and
    redis.RedisError; both leave a mark from which the next load goes on.
    """
    mark = ledger.read()
    if mark and not ((not given_ms or mark.updated_ms == updated_ms) and _is_there(client, view, mark)):
        mark = None
    skipped, updated_ms = (mark.stored_rows, mark.updated_ms) if mark else (0, updated_ms)
    on_rows(skipped)
    ends: deque[tuple[int, str]] = deque()  # of parts that are not all confirmed: rows so far, last item
    with row_writer(client, view) as writer:

        def note() -> None:
            """Marks the last part that is all in Redis."""
            last = None
            while ends and ends[0][0] <= writer.stored_rows:
                last = ends.popleft()
            if last:
                ledger.write(LoadMark(skipped + last[0], last[1], updated_ms))

        sent = 0
        try:
            for part in file.parts(skipped):
                rows = packed(view, part, file, updated_ms)
                writer.write(part.item_ids, rows)
                sent += len(rows)
                ends.append((sent, part.item_ids[-1]))
                note()
                on_rows(skipped + writer.stored_rows)
            writer.drain()
        except DataRefused:
            writer.drain()  # the parts before the refused one count
            raise
        finally:
            note()
    ledger.forget()
    on_rows(skipped + writer.stored_rows)
    return LoadReport(skipped + writer.stored_rows, skipped, updated_ms, tuple(file.ignored))


def packed(view: FeatureView, part: FeatureRows, file: FeatureFile, updated_ms: int) -> list[bytes]:
    """The part as stored rows. Raises DataRefused, naming the first row that does not fit, and its column."""
    try:
        return pack_rows(view, part.values, updated_ms)
    except ContractError:
        row = _first_misfit(view, part.values)
        try:
            return pack_rows(view, part.values[row : row + 1], updated_ms)
        except ContractError as error:
            place = f"{file.path}, row {part.first_row + row}, item {part.item_ids[row]!r}"
            raise DataRefused(f"{place}: {error}") from error


def _first_misfit(view: FeatureView, values: NDArray[np.float32]) -> int:
    """By halves: the first row of values of which some row does not fit."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        try:
            pack_rows(view, values[low : middle + 1], 0)
            low = middle + 1
        except ContractError:
            high = middle
    return low


def _is_there(client: redis.Redis | redis.RedisCluster, view: FeatureView, mark: LoadMark) -> bool:
    """Whether Redis still has what the mark says: it may have been emptied, or have lost its last second."""
    row = stored_bytes(client, row_key(view, mark.last_item))
    if row is None:
        return False
    try:
        return int(unpack_rows(view, [row]).updated_ms[0]) >= mark.updated_ms
    except CorruptRecord:
        return False
