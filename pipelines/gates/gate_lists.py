"""What an online gate has seen: the lists of both arms, or of drafts, and their sums by unit and look."""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.gates.clustered import ArmSums, Floats, sums_by_look
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.preference import list_scores

Units = NDArray[np.str_] | NDArray[np.int64]
"""Ids, or numbers that stand for them."""


@dataclass(frozen=True, slots=True)
class AbLists:
    """All lists of both arms since the plan began, each of shape (lists,).

    look: the planned look, from 1, that a list came in time for. closed: looks that are over; lists of later
    ones count for rollback already. in_challenger: which arm. values: click-NDCG, 0 without a click.
    covariates: (lists, covariates), for CUPED, or None. metric: digest of the definition they were made by.
    counts: where a row stands for several lists of one unit, arm and look, how many; values and covariates are
    then their sums. None: for one each.
    """

    look: NDArray[np.int64]
    units: Units
    in_challenger: NDArray[np.bool_]
    values: NDArray[np.float64]
    closed: int
    metric: str
    covariates: NDArray[np.float64] | None = None
    counts: NDArray[np.int64] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        beside = [one for one in (self.covariates, self.counts) if one is not None]
        return _digest("ab", self.closed, self.metric, self.units, self.look, self.in_challenger, self.values, *beside)

    def __post_init__(self) -> None:
        _same_length(self.look, self.units, self.in_challenger, self.values)
        _check_counts(self.look, self.counts)
        if self.covariates is not None and (self.covariates.ndim != 2 or len(self.covariates) != len(self.look)):
            raise ValueError(f"covariates {self.covariates.shape}: expected ({len(self.look)}, covariates)")


@dataclass(frozen=True, slots=True)
class InterleavedLists:
    """All interleaved lists since the plan began: as `AbLists`, with the clicks credited to each team; where a
    row stands for several lists and `wins` are scored, the lists that each team won."""

    look: NDArray[np.int64]
    units: Units
    challenger: NDArray[np.int64]
    champion: NDArray[np.int64]
    closed: int
    metric: str
    counts: NDArray[np.int64] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        beside = [] if self.counts is None else [self.counts]
        numbers = (self.look, self.challenger, self.champion, *beside)
        return _digest("interleaving", self.closed, self.metric, self.units, *numbers)

    def __post_init__(self) -> None:
        _same_length(self.look, self.units, self.challenger, self.champion)
        _check_counts(self.look, self.counts)


@dataclass(frozen=True, slots=True)
class GateSums:
    """All that a verdict needs of the lists, summed by unit and look.

    arms: champion's and challenger's of A/B, of interleaving that of the drafted lists, whose values are the scores;
    each as `clustered.sums_by_look` gives it, for all looks of the plan. closed, metric: as of the lists.
    """

    arms: tuple[Floats, ...]
    closed: int
    metric: str

    @staticmethod
    def of(plan: GatePlan, seen: AbLists | InterleavedLists) -> "GateSums":
        """From lists."""
        if isinstance(seen, InterleavedLists):
            # who won is counted list by list, so in rows of several it stands there already
            scoring = plan.scoring if seen.counts is None else "clicks"
            scores = list_scores(seen.challenger, seen.champion, scoring)
            drafted = sums_by_look(seen.look, seen.units, scores, None, plan.looks, seen.counts)
            return GateSums((drafted,), seen.closed, seen.metric)
        arms = tuple(
            sums_by_look(
                seen.look[mask],
                seen.units[mask],
                seen.values[mask],
                None if seen.covariates is None else seen.covariates[mask],
                plan.looks,
                None if seen.counts is None else seen.counts[mask],
            )
            for mask in (~seen.in_challenger, seen.in_challenger)
        )
        return GateSums(arms, seen.closed, seen.metric)

    def lists(self, look: int | None = None) -> int:
        """Until the look, of all arms; None for all there are."""
        return sum(arm.lists for arm in self.at(look))

    def at(self, look: int | None) -> tuple[ArmSums, ...]:
        """Each arm until the look; None for all there is."""
        return tuple(ArmSums(arm[-1 if look is None else look - 1]) for arm in self.arms)


def list_count(seen: AbLists | InterleavedLists, rows: NDArray[np.bool_]) -> int:
    """How many lists these rows stand for."""
    return int(rows.sum()) if seen.counts is None else int(seen.counts[rows].sum())


def _digest(kind: str, closed: int, metric: str, units: Units, *numbers: NDArray[Any]) -> str:
    numbered = np.issubdtype(units.dtype, np.integer)
    arrays = (units, *numbers) if numbered else numbers
    shapes = [[one.dtype.str, list(one.shape)] for one in arrays]
    names = [] if numbered else [str(unit) for unit in units]
    found = hashlib.sha256(msgspec.json.encode([kind, closed, metric, names, shapes]))
    for one in arrays:
        found.update(np.ascontiguousarray(one).tobytes())
    return found.hexdigest()


def _same_length(look: NDArray[np.int64], *others: ArrayLike) -> None:
    if look.ndim != 1 or any(np.shape(other) != look.shape for other in others):
        raise ValueError(f"look {look.shape} and {[np.shape(other) for other in others]}: expected (lists,) each")
    if len(look) and look.min() < 1:
        raise ValueError(f"look={look.min()}: expected >= 1, the first look")


def _check_counts(look: NDArray[np.int64], counts: NDArray[np.int64] | None) -> None:
    if counts is None:
        return
    _same_length(look, counts)
    if len(counts) and counts.min() < 1:
        raise ValueError(f"counts={counts.min()}: expected >= 1, a row stands for a list at least")
