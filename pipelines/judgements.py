"""Clicks joined with the rankings they belong to: labelled lists, and what was left out and why.

The first, thin form: no position debiasing, no bots yet. A label is 1 for a clicked item.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

RANKING_COLUMNS = ("ranking_id", "answered_ms", "version", "arm", "unit", "items")


class LeftOut(StrEnum):
    """Why a piece of feedback does not count."""

    WITHOUT_RANKING = "without_ranking"  # none given has that id: lost, made up, or long ago
    ITEM_NOT_SHOWN = "item_not_shown"
    IMPOSSIBLE_POSITION = "impossible_position"  # not where the ranking showed the item
    BEFORE_RANKING = "before_ranking"
    NOT_YET = "not_yet"  # received after the moment asked about
    REPEATED = "repeated"  # the item of this ranking counts already


@dataclass(frozen=True, slots=True)
class ClickedLists:
    """Rankings with their clicks, list after list, oldest first, items in served order.

    labels: shape (shown items of all lists,), 1 clicked, 0 not; offsets: (lists + 1,), list i is
    labels[offsets[i]:offsets[i+1]]. versions, arms, units: (lists,). simulated: (lists,), some of
    the list's feedback came from a click model; a list without any is simulated if all feedback
    given is. left_out: pieces of feedback by reason; every reason is there.
    """

    labels: NDArray[np.float64]
    offsets: NDArray[np.int64]
    versions: NDArray[np.int64]
    arms: NDArray[np.str_]
    units: NDArray[np.str_]
    simulated: NDArray[np.bool_]
    left_out: Mapping[LeftOut, int]

    def __len__(self) -> int:
        return len(self.versions)

    @property
    def clicks(self) -> NDArray[np.int64]:
        """Clicked items of each list. Shape (lists,)."""
        return np.diff(np.concatenate([[0], np.cumsum(self.labels)])[self.offsets]).astype(np.int64)


def join(rankings: pa.Table, feedback: pa.Table, now_ms: int) -> ClickedLists:
    """The lists of all rankings, with or without a click, as known at now_ms.

    rankings: at least `RANKING_COLUMNS` of the archive's schema; feedback: all of its columns.
    Neither holds an event twice.
    """
    shown: list[list[str]] = rankings["items"].to_pylist()
    list_of = {ranking_id: i for i, ranking_id in enumerate(rankings["ranking_id"].to_pylist())}
    answered_ms: list[int] = rankings["answered_ms"].to_pylist()
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in shown], dtype=np.int64)])
    labels = np.zeros(offsets[-1])
    from_model, from_people = np.zeros(len(shown), dtype=bool), np.zeros(len(shown), dtype=bool)
    counted: set[tuple[str, str, str]] = set()
    left_out: Counter[LeftOut] = Counter(dict.fromkeys(LeftOut, 0))
    for event in feedback.to_pylist():
        place = list_of.get(event["ranking_id"])
        if place is None:
            left_out[LeftOut.WITHOUT_RANKING] += 1
            continue
        key = (event["event"], event["ranking_id"], event["item"])
        if reason := _flaw(event, shown[place], answered_ms[place], now_ms, repeated=key in counted):
            left_out[reason] += 1
            continue
        counted.add(key)
        (from_model if event["simulated"] else from_people)[place] = True
        if event["event"] == "click":
            labels[offsets[place] + shown[place].index(event["item"])] = 1.0
    only_simulated = from_model.any() and not from_people.any()
    return ClickedLists(
        labels=labels,
        offsets=offsets,
        versions=rankings["version"].to_numpy(),
        arms=np.array(rankings["arm"].to_pylist(), dtype=np.str_),
        units=np.array(rankings["unit"].to_pylist(), dtype=np.str_),
        simulated=from_model | (~from_people & only_simulated),
        left_out=dict(left_out),
    )


def _flaw(event: Mapping[str, Any], items: list[str], answered_ms: int, now_ms: int, repeated: bool) -> LeftOut | None:
    if event["item"] not in items:
        return LeftOut.ITEM_NOT_SHOWN
    if event["position"] is not None and event["position"] != items.index(event["item"]) + 1:
        return LeftOut.IMPOSSIBLE_POSITION
    # by the gateway's clock, as the ranking: the client's may be hours off
    if event["received_ms"] < answered_ms:
        return LeftOut.BEFORE_RANKING
    if event["received_ms"] > now_ms:
        return LeftOut.NOT_YET
    return LeftOut.REPEATED if repeated else None
