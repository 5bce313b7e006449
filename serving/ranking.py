"""A query, its answer, and each in the other side's terms: what a version is asked, what an answer lacks."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.glimpses import Glimpse
from registry.contracts.traces import UNTRACED, Trace
from registry.contracts.traffic import Arm, TrafficPlan
from serving.errors import QueryRefused
from serving.exploration import Exploration
from serving.features.tier import NOTHING_FETCHED, Fetched
from serving.frames import NO_COLUMNS, NO_VALUES, LoadedVersion, RankedReply, ScoreRequest
from serving.tracing.doors import HTTP_RANK, Door

GLIMPSED_ITEMS = 5


class RankQuery(msgspec.Struct):
    """A validated query. item_ids: distinct, in the order given (ties keep it).

    ids_blob: the ids in UTF-8, joined by NUL. hashes: uint64 (candidates,), theirs. query_features:
    value by column; candidate_features: one value per candidate by column. unit: whose arm is sticky;
    empty: the query's own. priority: see `priority`. version: that a tester asks for; 0: the plan decides.
    """

    model: str
    item_ids: Sequence[str]
    ids_blob: bytes
    hashes: NDArray[np.uint64]
    top_k: int
    deadline_ms: int
    unit: str = ""
    query_id: str = ""
    query_features: dict[str, float] | None = None
    candidate_features: dict[str, NDArray[np.float32]] | None = None
    trace: Trace = UNTRACED
    door: Door = HTTP_RANK
    priority: int = 0
    version: int = 0


class Ranking(msgspec.Struct):
    """An answer. experiment: as in `RankingEvent`. items and scores: best first. stages_ms: where its time went."""

    ranking_id: str
    model: str
    version: int
    arm: Arm
    plan_revision: int
    items: list[str]
    scores: NDArray[np.float32]
    degraded: tuple[str, ...]
    stages_ms: dict[str, float]
    experiment: str = ""


class ListFigures(msgspec.Struct):
    """What is known of a list beside its items, over all candidates: of their scores, how old their rows were on
    average (None if there are no rows), and what a store was asked for. All 0 of an order that no version gave now."""

    score_mean: float = 0.0
    score_std: float = 0.0
    margin: float = 0.0
    entropy: float = 0.0
    row_age_s: float | None = None
    fetched: Fetched = NOTHING_FETCHED

    @staticmethod
    def of(reply: RankedReply) -> "ListFigures":
        """As the worker measured them."""
        age_s = None if math.isnan(reply.row_age_s) else reply.row_age_s
        return ListFigures(reply.score_mean, reply.score_std, reply.margin, reply.entropy, age_s, reply.fetched)


def exploration_of(query: RankQuery, plan: TrafficPlan) -> Exploration:
    """What chance may do to the query's list under the plan."""
    return Exploration(plan.explore_share, query.top_k, min(plan.explore_depth, len(query.item_ids)))


def build_request(query: RankQuery, loaded: LoadedVersion, rows: int) -> ScoreRequest:
    """The query in the loaded version's terms. rows: how many ranked items come back.

    Raises QueryRefused if it names a column that the version has not, or the version cannot rank.
    """
    if not loaded.ranks:
        raise QueryRefused(
            f"{loaded.model}@{loaded.version} has no feature view: send tensors to /v2/models/{loaded.model}/infer"
        )
    in_query = query.query_features or {}
    in_candidates = query.candidate_features or {}
    try:
        query_columns = [loaded.place[name] for name in in_query]
        candidate_columns = [loaded.place[name] for name in in_candidates]
    except KeyError as unknown:
        field = "query.features" if unknown.args[0] in in_query else "features"
        raise QueryRefused(
            f"{field}.{unknown.args[0]}: {loaded.model}@{loaded.version} has no such column"
        ) from unknown
    return ScoreRequest(
        number=0,
        slot=loaded.slot,
        top_k=rows,
        deadline_us=0,
        hashes=query.hashes,
        ids=query.ids_blob,
        query_columns=np.array(query_columns, dtype=np.uint16) if in_query else NO_COLUMNS,
        query_values=np.array(list(in_query.values()), dtype=np.float32) if in_query else NO_VALUES,
        candidate_columns=np.array(candidate_columns, dtype=np.uint16) if in_candidates else NO_COLUMNS,
        candidate_values=np.stack(list(in_candidates.values())) if in_candidates else NO_VALUES,
        priority=query.priority,
    )


def reasons(reply: RankedReply, query: RankQuery, loaded: LoadedVersion) -> tuple[str, ...]:
    """What the answer had to do without, most serious first."""
    candidates = len(query.item_ids)
    found = []
    if reply.tier_away:
        found.append("features_away")
    if reply.missing_rows:
        found.append(f"missing_rows:{reply.missing_rows}/{candidates}")
    if reply.stale_rows:
        found.append(f"stale_rows:{reply.stale_rows}/{candidates}")
    in_query, in_candidates = query.query_features or (), query.candidate_features or ()
    if absent := [column for column in loaded.sent if column not in in_query and column not in in_candidates]:
        found.append(f"absent_columns:{','.join(absent)}")
    return tuple(found)


def glimpse_of(ranking: Ranking, answered_ms: int, candidates: int) -> Glimpse:
    """What a person who watches sees of it."""
    return Glimpse(
        ranking_id=ranking.ranking_id,
        answered_ms=answered_ms,
        model=ranking.model,
        version=ranking.version,
        arm=ranking.arm,
        experiment=ranking.experiment,
        plan_revision=ranking.plan_revision,
        candidates=candidates,
        shown=len(ranking.items),
        items=tuple(ranking.items[:GLIMPSED_ITEMS]),
        scores=tuple(ranking.scores[:GLIMPSED_ITEMS].tolist()),
        degraded=ranking.degraded,
        stages_ms=ranking.stages_ms,
    )
