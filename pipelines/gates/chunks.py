"""Chunks of a gate's time: their lists summed by unit and arm, and the means of before that these are compared with.

Both are kept on disk as arrays; what is damaged there is made again.
"""

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.archive.files import Archive
from pipelines.feedback.cleaning import CleaningRules
from pipelines.gates.cleaned_lists import CleanedLists, Floats, Ints, cleaned_lists, numbers_of
from pipelines.gates.scope import CHUNK_MS, GateScope
from registry.contracts.traffic import WEIGHT_STEPS

log = logging.getLogger(__name__)


class ChunkCounts(msgspec.Struct, frozen=True):
    """A chunk's quality, to be added up."""

    rankings: int
    kept_rankings: int
    dropped_rankings: dict[str, int]
    feedback: int
    kept_feedback: int
    dropped_feedback: dict[str, int]
    clicks: int
    other_clicks: int
    without_unit: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sums by unit and arm, each of shape (rows,). values: of A/B, (rows, 1 + covariates): click-NDCG, then the means
    it is compared with; of drafts, (rows, 2): the challenger's credit and the champion's. bots: units."""

    units: Ints
    in_challenger: NDArray[np.bool_]
    counts: Ints
    values: Floats
    bots: Ints
    quality: ChunkCounts

    def encode(self) -> bytes:
        """What `load` reads again; equal ones give equal bytes."""
        about = np.frombuffer(msgspec.json.encode(self.quality, order="deterministic"), dtype=np.uint8)
        return _npz(
            units=self.units,
            in_challenger=self.in_challenger,
            counts=self.counts,
            values=self.values,
            bots=self.bots,
            quality=about,
        )

    @staticmethod
    def load(path: Path) -> "Chunk | None":
        """None if there is none, or it is damaged."""
        found = _load(path)
        if found is None:
            return None
        quality = msgspec.json.decode(found["quality"].tobytes(), type=ChunkCounts)
        return Chunk(found["units"], found["in_challenger"], found["counts"], found["values"], found["bots"], quality)


@dataclass(frozen=True, slots=True)
class Means:
    """Sorted units and queries, and the champion's mean of each; mean: of all lists, for those not known."""

    units: Ints
    unit_means: Floats
    queries: Ints
    query_means: Floats
    mean: float
    made_of: str

    @staticmethod
    def of(lists: tuple[Ints, Ints, Floats], made_of: str) -> "Means":
        """lists: units, queries and values of each. made_of: digest of the archive's files that they are from."""
        units, queries, values = lists
        found: list[tuple[Ints, Floats]] = []
        for keys in (units, queries):
            known = keys != 0
            names, place = np.unique(keys[known], return_inverse=True)
            sums = np.bincount(place, weights=values[known], minlength=len(names))
            found.append((names, sums / np.maximum(1, np.bincount(place, minlength=len(names)))))
        mean = float(values.mean()) if len(values) else 0.0
        return Means(found[0][0], found[0][1], found[1][0], found[1][1], mean, made_of)

    def covariates(self, units: Ints, queries: Ints) -> Floats:
        """What a list is compared with: its unit's mean and its query's. Shape (lists, 2)."""
        sides = ((self.units, self.unit_means, units), (self.queries, self.query_means, queries))
        return np.stack([_looked_up(*side, self.mean) for side in sides], axis=1)

    def encode(self) -> bytes:
        """What `load` reads again; equal ones give equal bytes."""
        return _npz(
            units=self.units,
            unit_means=self.unit_means,
            queries=self.queries,
            query_means=self.query_means,
            mean=np.array([self.mean]),
        )

    @staticmethod
    def load(path: Path, made_of: str) -> "Means | None":
        """None if there is none, or they are damaged."""
        found = _load(path)
        if found is None:
            return None
        units, queries = (found["units"], found["unit_means"]), (found["queries"], found["query_means"])
        return Means(*units, *queries, float(found["mean"][0]), made_of)


def history(archive: Archive, scope: GateScope, rules: CleaningRules) -> tuple[Ints, Ints, Floats]:
    """Units, queries and values of the champion's lists before the rollout, chunk after chunk."""
    parts: list[tuple[Ints, Ints, Floats]] = []
    begin_ms = scope.before_ms - scope.history_ms
    while begin_ms < scope.before_ms:
        end_ms = min(begin_ms + CHUNK_MS, scope.before_ms)
        # as known when the rollout began: a later click could come from what it did
        lists = cleaned_lists(archive, scope.model, begin_ms, end_ms, rules, scope.simulated, scope.before_ms)
        mine = lists.arms == "champion"
        parts.append((lists.units[mine], lists.queries[mine], lists.values[mine]))
        begin_ms = end_ms
    units, queries, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return units, queries, values


def open_chunk(
    archive: Archive,
    scope: GateScope,
    rules: CleaningRules,
    means: Means | None,
    begin_ms: int,
    end_ms: int,
    as_of_ms: int,
) -> Chunk:
    """The chunk as known at as_of_ms; nothing in it changes once its clicks have come."""
    lists = cleaned_lists(archive, scope.model, begin_ms, end_ms, rules, scope.simulated, as_of_ms)
    mine = _in_scope(scope, lists)
    ours = mine & (lists.units != 0)
    in_challenger = (lists.arms == "challenger")[ours]
    if scope.kind == "interleaving":
        columns = _credits(scope, lists)[ours]
    else:
        beside = np.zeros((int(ours.sum()), 0))
        if means is not None:
            beside = means.covariates(lists.units[ours], lists.queries[ours])
        columns = np.concatenate([lists.values[ours, None], beside], axis=1)
    units, arms, counts, sums, _ = summed(lists.units[ours], in_challenger, columns)
    report = lists.shown.report
    quality = ChunkCounts(
        rankings=report.rankings,
        kept_rankings=report.kept_rankings,
        dropped_rankings=report.dropped_rankings,
        feedback=report.feedback,
        kept_feedback=report.kept_feedback,
        dropped_feedback=report.dropped_feedback,
        clicks=report.clicks,
        other_clicks=lists.other_clicks,
        without_unit=int((mine & (lists.units == 0)).sum()),
    )
    return Chunk(units, arms, counts, sums, np.unique(numbers_of(lists.shown.bots)), quality)


def _in_scope(scope: GateScope, lists: CleanedLists) -> NDArray[np.bool_]:
    """Which lists are of the step's arms."""
    by_plan = lists.plan_revisions >= scope.plan_revision
    of_experiment = lists.experiments == scope.experiment
    if scope.kind == "interleaving":
        return np.asarray(by_plan & of_experiment & (lists.arms == "interleaved"))
    control = lists.arms == "champion"
    if scope.control:
        control = control & _is_control(scope, lists)
    return np.asarray(by_plan & ((of_experiment & (lists.arms == "challenger")) | control))


def _is_control(scope: GateScope, lists: CleanedLists) -> NDArray[np.bool_]:
    allowed = np.zeros(WEIGHT_STEPS, dtype=bool)
    for first, end in scope.control:
        allowed[first:end] = True
    return np.asarray(allowed[lists.buckets(scope.salt)])


def _credits(scope: GateScope, lists: CleanedLists) -> Floats:
    """The challenger's and the champion's clicks of each list, or who won it. Shape (lists, 2)."""
    shown = lists.shown
    clicks = shown.clicks.astype(np.float64)
    ours = np.bincount(shown.list_of, weights=clicks * lists.teams, minlength=len(shown))
    theirs = np.bincount(shown.list_of, weights=clicks * (1 - lists.teams), minlength=len(shown))
    if scope.scoring == "wins":
        ours, theirs = (ours > theirs).astype(np.float64), (theirs > ours).astype(np.float64)
    return np.stack([ours, theirs], axis=1)


def summed(
    units: Ints,
    in_challenger: NDArray[np.bool_],
    columns: Floats,
    looks: Ints | None = None,
    counts: Ints | None = None,
) -> tuple[Ints, NDArray[np.bool_], Ints, Floats, Ints]:
    """Units, arms, lists, sums and looks, a row for each unit, arm and look, in that order of look and unit."""
    at = np.ones(len(units), dtype=np.int64) if looks is None else looks
    each = np.ones(len(units), dtype=np.int64) if counts is None else counts
    order = np.lexsort((in_challenger, units, at))
    units, in_challenger, at = units[order], in_challenger[order], at[order]
    fresh = np.ones(len(units), dtype=bool)
    fresh[1:] = (units[1:] != units[:-1]) | (in_challenger[1:] != in_challenger[:-1]) | (at[1:] != at[:-1])
    first = np.flatnonzero(fresh)
    if not len(first):
        return units, in_challenger, each, columns, at
    sums = np.add.reduceat(columns[order], first, axis=0)
    return units[first], in_challenger[first], np.add.reduceat(each[order], first), sums, at[first]


def _looked_up(keys: Ints, means: Floats, wanted: Ints, otherwise: float) -> Floats:
    if not len(keys):
        return np.full(len(wanted), otherwise)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, means[place], otherwise)


def _npz(**arrays: NDArray[Any]) -> bytes:
    """Equal arrays give equal bytes."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _load(path: Path) -> dict[str, NDArray[Any]] | None:
    """None if there is none, or it is damaged: then it is made again."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        log.warning("%s is damaged and made again: %s", path, error)
        return None
