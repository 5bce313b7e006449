"""A window's rankings as numbers: what must be known of the whole of it before an hour can be cleaned.

Which units are bots, which feedback belongs to a ranking of another hour, what came too late, and what belongs to
no ranking at all. It is built in a first pass that reads ids, times and units only, an hour at a time, and takes 25
bytes a ranking, three times that while it is made, whatever the rankings showed. Ids are told apart by 64 bits of
their hashes: of ten million rankings, two are taken for one with a probability of 3 in a million.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.archive.batch import HOUR_MS
from pipelines.archive.files import REPEATS_WITHIN_MS, Archive
from pipelines.archive.tables import hashes
from pipelines.feedback.cleaning import CleaningRules, DroppedFeedback, too_fast
from registry.contracts.ids import hash64

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

NOBODY = np.uint64(hash64(""))
UNKNOWN, KEPT, OF_A_BOT, DROPPED = 0, 1, 2, 3
"""What came of a ranking, so far as its hour has been cleaned."""


@dataclass(frozen=True, slots=True)
class WindowIndex:
    """The rankings of a window, in the order of their ids' hashes.

    ids, units: hashes, answered_ms, fate: one of the numbers above, all of shape (rankings,); fate is filled in as
    hours are cleaned. earlier: hashes of those of the day before, ascending. bots: hashes of units, ascending.
    from_people, simulated: feedback for the window's rankings, of either kind.
    """

    ids: Hashes
    units: Hashes
    answered_ms: Ints
    fate: NDArray[np.uint8]
    earlier: Hashes
    bots: Hashes
    from_people: int
    simulated: int

    def place(self, ids: Hashes) -> Ints:
        """Where each stands, -1 if the window has no such ranking. Same shape."""
        return _place(self.ids, ids)

    def is_first(self, rankings: pa.Table) -> Flags:
        """Which of these of the window are the earliest of their id; needs `ranking_id` and `answered_ms`."""
        first_ms = np.append(self.answered_ms, -1)[self.place(hashes(rankings["ranking_id"]))]
        return np.asarray(first_ms == rankings["answered_ms"].to_numpy(), dtype=bool)

    def before(self, ids: Hashes) -> Flags:
        """Which are rankings of the day before the window. Same shape."""
        return _place(self.earlier, ids) >= 0

    def late_reasons(self, late: Ints) -> dict[str, int]:
        """How feedback counts that came too late for the rankings at these places, once all hours are cleaned."""
        fates = np.bincount(self.fate[late], minlength=DROPPED + 1)
        return {
            str(DroppedFeedback.LATE): int(fates[KEPT]),
            str(DroppedFeedback.BOT): int(fates[OF_A_BOT]),
            str(DroppedFeedback.RANKING_DROPPED): int(fates[DROPPED] + fates[UNKNOWN]),
        }


def index_window(archive: Archive, model: str, since_ms: int, until_ms: int, rules: CleaningRules) -> WindowIndex:
    """The index of what was answered in since_ms <= t < until_ms, with the feedback that may belong to it."""
    ids, units, times, bots = _rankings(archive, model, since_ms, until_ms, rules)
    earlier = [
        hashes(archive.rankings(model, start, min(since_ms, start + HOUR_MS), ["ranking_id"])["ranking_id"])
        for start in archive.hours(model, since_ms - REPEATS_WITHIN_MS, since_ms)
    ]
    index = WindowIndex(
        ids=ids,
        units=units,
        answered_ms=times,
        fate=np.full(len(ids), UNKNOWN, dtype=np.uint8),
        earlier=np.unique(np.concatenate([np.zeros(0, np.uint64), *earlier])),
        bots=np.zeros(0, dtype=np.uint64),
        from_people=0,
        simulated=0,
    )
    counts = [0, 0]
    columns = ["event", "ranking_id", "received_ms", "simulated"]
    for _, heard in archive.feedback_by_hour(model, since_ms, until_ms + rules.clicks_within_ms, columns):
        place = index.place(hashes(heard["ranking_id"]))
        known = place >= 0
        simulated = pc.fill_null(heard["simulated"], False).to_numpy()
        counts[0] += int((known & ~simulated).sum())
        counts[1] += int((known & simulated).sum())
        clicks = known & pc.equal(heard["event"], "click").to_numpy()
        received_ms = heard["received_ms"].to_numpy()
        bots.append(too_fast(units[place[clicks]], received_ms[clicks], rules.clicks_per_minute))
    found = np.unique(np.concatenate([np.zeros(0, np.uint64), *bots]))
    return WindowIndex(
        ids, units, times, index.fate, index.earlier, found[found != NOBODY], from_people=counts[0], simulated=counts[1]
    )


def _rankings(
    archive: Archive, model: str, since_ms: int, until_ms: int, rules: CleaningRules
) -> tuple[Hashes, Hashes, Ints, list[Hashes]]:
    """Ids, units and times in the order of ids, the earliest of an id that is there twice; fast askers by hour."""
    ids, units, times, bots = [], [], [], []
    for start_ms in archive.hours(model, since_ms, until_ms):
        table = hour_of_rankings(archive, model, start_ms, since_ms, until_ms, ["ranking_id", "answered_ms", "unit"])
        ids.append(hashes(table["ranking_id"]))
        units.append(hashes(table["unit"]))
        times.append(table["answered_ms"].to_numpy().astype(np.int64))
        bots.append(too_fast(units[-1], times[-1], rules.rankings_per_minute))
    every = np.concatenate([np.zeros(0, np.uint64), *ids])
    once, first = np.unique(every, return_index=True)
    return (
        once,
        np.concatenate([np.zeros(0, np.uint64), *units])[first],
        np.concatenate([np.zeros(0, np.int64), *times])[first],
        bots,
    )


def hour_of_rankings(
    archive: Archive, model: str, start_ms: int, since_ms: int, until_ms: int, columns: list[str]
) -> pa.Table:
    """What was answered in the hour that begins at start_ms, inside of the window."""
    return archive.rankings(model, max(since_ms, start_ms), min(until_ms, start_ms + HOUR_MS), columns)


def _place(keys: Hashes, wanted: Hashes) -> Ints:
    place = np.searchsorted(keys, wanted)
    found = np.append(keys, 0)[place] == wanted
    return np.where(found & (place < len(keys)), place, -1).astype(np.int64)
