"""Lists of the archive, cleaned, with what a gate needs of each: unit, query, arm, click-NDCG and teams.

Units and queries are numbers here, 64 bits of their ids: with ten million units, two share one with a chance
of three in a million.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.archive.files import Archive
from pipelines.feedback.cleaning import FEEDBACK_COLUMNS, RANKING_COLUMNS, CleaningRules, Impressions, clean
from pipelines.feedback.click_ndcg import feedback_of_window
from pipelines.ndcg import mean_ndcg
from registry.contracts.ids import hash64
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.traffic import Layer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

COLUMNS = (*RANKING_COLUMNS, "plan_revision", "experiment", "teams")


@dataclass(frozen=True, slots=True)
class CleanedLists:
    """Cleaned lists, with what a gate needs of each beside the impressions.

    Of lists, shape (lists,): unit_of, query_of: places in unit_names and query_names, ids; arms; experiments;
    answered_ms; plan_revisions; values: click-NDCG. teams: (rows,), 1 where a draft's item is the challenger's.
    other_clicks: of the kind that does not count.
    """

    shown: Impressions
    unit_of: Ints
    unit_names: tuple[str, ...]
    query_of: Ints
    query_names: tuple[str, ...]
    arms: NDArray[np.str_]
    experiments: NDArray[np.str_]
    answered_ms: Ints
    plan_revisions: Ints
    values: Floats
    teams: NDArray[np.uint8]
    other_clicks: int

    @property
    def units(self) -> Ints:
        """As numbers, 0 for who is nobody. Shape (lists,)."""
        return numbers_of(self.unit_names)[self.unit_of]

    @property
    def queries(self) -> Ints:
        """As numbers, 0 for those without an id. Shape (lists,)."""
        return numbers_of(self.query_names)[self.query_of]

    def buckets(self, salt: str) -> Ints:
        """Of each list's unit in a layer with that salt, see `traffic.Layer`. Shape (lists,)."""
        layer = Layer("", salt, ())
        return np.array([layer.bucket_of(unit) for unit in self.unit_names], dtype=np.int64)[self.unit_of]


def cleaned_lists(
    archive: Archive, model: str, since_ms: int, until_ms: int, rules: CleaningRules, simulated: bool, as_of_ms: int
) -> CleanedLists:
    """What was answered in since_ms <= t < until_ms and had its clicks by as_of_ms, cleaned.

    simulated: whether simulated clicks count, or people's.
    """
    until_ms = min(until_ms, as_of_ms - rules.clicks_within_ms + 1)
    # feedback first: what it is about was written before it, so that none is without its ranking while both are written
    received = archive.feedback(model, since_ms, until_ms + rules.clicks_within_ms, FEEDBACK_COLUMNS, repeats_ms=0)
    rankings = archive.rankings(model, since_ms, until_ms, COLUMNS)
    earlier = archive.rankings(model, since_ms - rules.clicks_within_ms, since_ms, ["ranking_id"])
    heard = feedback_of_window(received, rankings, earlier, until_ms)
    ours = pc.equal(_whole(heard["simulated"]).fill_null(False), simulated)
    others = heard.filter(pc.invert(ours))
    shown = clean(rankings, heard.filter(ours), rules, as_of_ms)
    ids = pa.array(shown.ranking_ids.tolist(), pa.string())
    rows = rankings.take(pc.index_in(ids, _whole(rankings["ranking_id"])))
    units, queries = (pc.dictionary_encode(_whole(rows[name]).fill_null("")) for name in ("unit", "query_id"))
    quality = mean_ndcg(shown.clicks, -np.arange(len(shown.clicks), dtype=np.float64), shown.offsets, CLICK_NDCG)
    return CleanedLists(
        shown=shown,
        unit_of=_ints(units.indices),
        unit_names=tuple(units.dictionary.to_pylist()),
        query_of=_ints(queries.indices),
        query_names=tuple(queries.dictionary.to_pylist()),
        arms=_texts(rows["arm"]),
        experiments=_texts(rows["experiment"]),
        answered_ms=_ints(rows["answered_ms"]),
        plan_revisions=_ints(rows["plan_revision"]),
        values=quality.per_list,
        teams=_teams(rows, shown),
        other_clicks=int(pc.sum(pc.equal(others["event"], "click")).as_py() or 0),
    )


def _teams(rows: pa.Table, shown: Impressions) -> NDArray[np.uint8]:
    """Of every shown item; 0 where a list has no teams. Shape (rows,)."""
    lists = _whole(rows["teams"])
    sizes = _ints(pc.list_value_length(lists).fill_null(0))
    found = np.zeros(len(shown.clicks), dtype=np.uint8)
    drafted = sizes == np.diff(shown.offsets)  # a list that is no draft has none
    values = lists.flatten().to_numpy(zero_copy_only=False)
    found[np.repeat(drafted, np.diff(shown.offsets))] = values[np.repeat(drafted, sizes)]
    return found


def numbers_of(names: Sequence[str]) -> Ints:
    """Of ids, 0 for an empty one. Shape (names,)."""
    return np.array([hash64(name) if name else 0 for name in names], dtype=np.uint64).view(np.int64)


def _whole(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks()


def _ints(column: pa.ChunkedArray | pa.Array) -> Ints:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _texts(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return np.asarray(_whole(column).fill_null("").to_pylist(), dtype=np.str_)
