"""Rankings and feedback into impressions that can be learnt from: what counts, and what was dropped and why.

A click belongs to the item of its ranking, where the ranking showed it. What is dropped is counted by reason,
each ranking and each piece of feedback once, under the first reason that holds: given = kept + dropped.

- A ranking whose clicks can still come is left for the next window (`window_open`): counted as it is, it would
  look worse than it was. A click that comes later still is `late`, however long one waits.
- Bots are units that ask or click faster than people can; everything of theirs is dropped.
- A client that reports what was seen may lose a report: a click shows that its item was seen.
- Interleaved lists are two versions' work and those `outside` nobody's: they are left out of judgements unless
  asked for. Explored lists stay, marked: they are what position bias is learnt from.

Source of the kinds of dirt: Kohavi, Tang & Xu, "Trustworthy online controlled experiments", 2020, chapters 3
and 13; bots by rate: Buehrer, Stokes & Chellapilla, AIRWeb 2008.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.dataset import rows_of_lists
from registry.contracts.traffic import Arm

RANKING_COLUMNS = (
    "ranking_id", "answered_ms", "version", "arm", "unit", "query_id", "items", "propensities", "explored"
)  # fmt: skip
FEEDBACK_COLUMNS = ("event_id", "event", "ranking_id", "item", "position", "received_ms", "simulated")
MINUTE_MS = 60_000
_SEPARATOR = b"\x00"

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)


class DroppedRanking(StrEnum):
    """Why a ranking does not count; the first that holds."""

    REPEATED = "repeated"  # its id was there before
    WINDOW_OPEN = "window_open"  # its clicks can still come
    BOT = "bot"
    OTHER_ARM = "other_arm"  # outside, interleaved: not among the arms asked for
    EMPTY = "empty"  # nothing was shown
    ITEM_TWICE = "item_twice"  # a click would belong to two positions
    IMPOSSIBLE_PROPENSITY = "impossible_propensity"  # not one per item, or not in (0, 1]


class DroppedFeedback(StrEnum):
    """Why a piece of feedback does not count; the first that holds."""

    REPEATED_EVENT = "repeated_event"  # its event id was there before
    WITHOUT_RANKING = "without_ranking"  # none given has that id
    BOT = "bot"
    RANKING_DROPPED = "ranking_dropped"  # for another reason than a bot
    LATE = "late"  # received after the ranking's window
    ITEM_NOT_SHOWN = "item_not_shown"
    IMPOSSIBLE_POSITION = "impossible_position"  # not where the ranking showed the item
    BEFORE_RANKING = "before_ranking"
    NOT_YET = "not_yet"  # received after the moment asked about
    REPEATED_ITEM = "repeated_item"  # clicked, or seen, again: several clicks on an item are one


@dataclass(frozen=True, slots=True)
class CleaningRules:
    """clicks_within_ms: a ranking's window, from its answer to the receipt of feedback. rankings_per_minute,
    clicks_per_minute: a unit that has more in any minute of the clock is a bot. arms: whose lists count.
    most_dropped: share of rankings, and of feedback, beyond which the data are called bad; rankings that are
    not closed yet or of another arm are no fault and do not count in it."""

    clicks_within_ms: int = 3_600_000
    rankings_per_minute: int = 60
    clicks_per_minute: int = 60
    arms: tuple[Arm, ...] = ("champion", "challenger")
    most_dropped: float = 0.2

    def __post_init__(self) -> None:
        for name in ("clicks_within_ms", "rankings_per_minute", "clicks_per_minute"):
            if getattr(self, name) < 1:
                raise ValueError(f"cleaning.{name}={getattr(self, name)}: expected >= 1")
        if not self.arms:
            raise ValueError("cleaning.arms=(): expected an arm at least")
        if not 0 <= self.most_dropped <= 1:
            raise ValueError(f"cleaning.most_dropped={self.most_dropped:g}: expected 0 <= share <= 1")


class QualityReport(msgspec.Struct, frozen=True):
    """What the data of a window were like; kept with the run that used them. Equal data give equal bytes.

    rankings, feedback: given. dropped_*: by reason, every reason is there. clicks: kept. clicked_rankings: kept
    with a click. late_share: late clicks, of those that came in time or late. clients_reporting: share of kept
    rankings with an exposure reported. implied_exposures: items of those, clicked but not reported as seen.
    unseen: shown items of those that were neither. arms, explored, simulated_clicks: of what was kept.
    bots: units. faults: what is wrong with the data, in words; none if they are good.
    data: SHA-256 of what was kept, 64 digits.
    """

    rankings: int
    kept_rankings: int
    dropped_rankings: dict[str, int]
    feedback: int
    kept_feedback: int
    dropped_feedback: dict[str, int]
    clicks: int
    clicked_rankings: int
    late_share: float
    clients_reporting: float
    implied_exposures: int
    unseen: int
    arms: dict[str, int]
    explored: int
    simulated_clicks: int
    units: int
    bots: int
    faults: tuple[str, ...]
    data: str

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")


@dataclass(frozen=True, slots=True)
class Impressions:
    """Kept rankings, list after list in the given order, items in served order.

    Of rows, shape (shown items of all lists,): items and pairs are numbers for the item, and for the item
    together with its query, that are equal where they are; positions from 1; clicks 0 or 1; seen: the client
    said so or a click shows it, of a client that reports nothing all; propensities in (0, 1].
    Of lists, shape (lists,): queries and units are numbers too; offsets: (lists + 1,), list i is rows
    offsets[i]:offsets[i+1]. A ranking without query id is a query of its own. item_ids: what the numbers stand for.
    heard, simulated: some feedback of the list counts; some that does is a click model's. rows: of the table given.
    bots: ids of the units that were too fast.
    """

    items: Ints
    pairs: Ints
    positions: Ints
    clicks: Flags
    seen: Flags
    propensities: NDArray[np.float64]
    offsets: Ints
    queries: Ints
    units: Ints
    versions: Ints
    explored: Flags
    ranking_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]
    report: QualityReport
    simulated: Flags
    heard: Flags
    rows: Ints
    bots: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def list_of(self) -> Ints:
        """Which list each row is of. Shape (rows,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, lists: Ints) -> "Impressions":
        """These lists, in this order; the report stays that of all."""
        rows = rows_of_lists(self.offsets, lists)
        of_rows = ("items", "pairs", "positions", "clicks", "seen", "propensities")
        of_lists = ("queries", "units", "versions", "explored", "ranking_ids", "simulated", "heard", "rows")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in of_rows},
            **{name: getattr(self, name)[lists] for name in of_lists},
            offsets=np.concatenate([[0], np.cumsum(np.diff(self.offsets)[lists])]).astype(np.int64),
        )


def clean(
    rankings: pa.Table, feedback: pa.Table, rules: CleaningRules, now_ms: int, bots: Flags | None = None
) -> Impressions:
    """The impressions of a window as known at now_ms.

    rankings, feedback: at least `RANKING_COLUMNS` and `FEEDBACK_COLUMNS` of the archive's schemas. Give all the
    rankings that the feedback may belong to, and all the feedback until the last window closes.
    bots: shape (rankings,), whose unit is one, where that is known from more than is given here.
    """
    shown = _Shown(rankings)
    heard = _Heard(feedback, shown)
    if bots is None:
        bots = _bots(shown, heard, rules)
    why_ranking = _first_reason(
        DroppedRanking,
        len(shown),
        {
            DroppedRanking.REPEATED: shown.repeated,
            DroppedRanking.WINDOW_OPEN: shown.answered_ms + rules.clicks_within_ms > now_ms,
            DroppedRanking.BOT: bots,
            DroppedRanking.OTHER_ARM: ~np.isin(shown.arms, rules.arms),
            DroppedRanking.EMPTY: shown.sizes == 0,
            DroppedRanking.ITEM_TWICE: shown.item_twice,
            DroppedRanking.IMPOSSIBLE_PROPENSITY: shown.impossible,
        },
    )
    kept = why_ranking < 0
    why_feedback = _judge_feedback(shown, heard, bots, kept, rules, now_ms)
    return _kept(shown, heard, kept, why_ranking, why_feedback, bots, rules)


class _Shown:
    """The rankings as arrays: of lists, and of their rows."""

    def __init__(self, table: pa.Table) -> None:
        lists = table["items"].combine_chunks()
        propensities = table["propensities"].combine_chunks()
        self.sizes = _lengths(lists)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self.list_of = np.repeat(np.arange(len(table)), self.sizes)
        self.positions = np.arange(len(self.list_of)) - self.offsets[:-1][self.list_of] + 1
        self.ids = table["ranking_id"].combine_chunks()
        self.answered_ms = _ints(table["answered_ms"])
        self.versions = _ints(table["version"])
        self.explored = table["explored"].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
        self.arms = np.asarray(table["arm"].to_pylist(), dtype=np.str_)
        self.item_names = pc.dictionary_encode(lists.flatten())
        self.items = _ints(self.item_names.indices)
        self.units, self.unit_names = _codes(table["unit"])
        queries, names = _codes(table["query_id"])
        unnamed = names[queries] == "" if len(names) else np.zeros(0, dtype=bool)
        self.queries = np.where(unnamed, len(names) + np.arange(len(table)), queries)
        self.repeated = _again(_codes(table["ranking_id"])[0])
        self.item_twice = np.zeros(len(table), dtype=bool)
        self.item_twice[self.list_of[_again(self.keys(self.list_of, self.items))]] = True
        self.propensities, self.impossible = self._checked(propensities)

    def __len__(self) -> int:
        return len(self.sizes)

    def keys(self, lists: Ints, items: Ints) -> Ints:
        """One number for an item of a list."""
        return lists * (len(self.item_names.dictionary) + 1) + items

    def _checked(self, given: pa.ListArray) -> tuple[NDArray[np.float64], Flags]:
        """One per row, and which lists have another number of them or an impossible one."""
        sizes = _lengths(given)
        values = given.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        wrong = sizes != self.sizes
        inside = np.repeat(~wrong, sizes)
        found = np.ones(len(self.list_of))
        found[~wrong[self.list_of]] = values[inside]
        np.logical_or.at(wrong, self.list_of, ~((found > 0) & (found <= 1 + 1e-6)))
        return np.minimum(found, 1.0), wrong


class _Heard:
    """The feedback as arrays, in the order received. row: of the item it is about, -1 if that was not shown."""

    def __init__(self, feedback: pa.Table, shown: _Shown) -> None:
        table = feedback.take(pc.sort_indices(feedback, [("received_ms", "ascending"), ("event_id", "ascending")]))
        self.received_ms = _ints(table["received_ms"])
        self.clicks = pc.equal(table["event"], "click").to_numpy()
        self.simulated = table["simulated"].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
        self.list_of = _places(table["ranking_id"], shown.ids)
        self.repeated = _again(_codes(table["event_id"])[0])
        item = _places(table["item"], shown.item_names.dictionary)
        position = table["position"].combine_chunks()
        self.says_position = position.is_valid().to_numpy(zero_copy_only=False)
        self.position = _ints(position.fill_null(0))
        rows = shown.keys(shown.list_of, shown.items)
        order = np.argsort(rows, kind="stable")
        wanted = shown.keys(self.list_of, item)
        place = np.searchsorted(rows, wanted, sorter=order)
        row = np.append(order, -1)[place]  # the first of equal ones
        known = (self.list_of >= 0) & (item >= 0) & (row >= 0)
        self.row = np.where(known & (np.append(rows, -1)[row] == wanted), row, -1)

    def __len__(self) -> int:
        return len(self.received_ms)


def _bots(shown: _Shown, heard: _Heard, rules: CleaningRules) -> Flags:
    """Which lists are of a unit that is too fast. Shape (lists,). What has no unit is nobody's."""
    if not len(shown):
        return np.zeros(0, dtype=bool)
    first = ~shown.repeated
    asks = too_fast(shown.units[first], shown.answered_ms[first], rules.rankings_per_minute)
    clicked = heard.clicks & ~heard.repeated & (heard.list_of >= 0)
    clicks = too_fast(shown.units[heard.list_of[clicked]], heard.received_ms[clicked], rules.clicks_per_minute)
    fast = np.isin(shown.units, np.union1d(asks, clicks))
    return np.asarray(fast & (shown.unit_names[shown.units] != ""), dtype=bool)


def too_fast(units: NDArray[Number], times_ms: Ints, most: int) -> NDArray[Number]:
    """Units with more than `most` in a minute of the clock, each once. units, times_ms: shape (events,).

    >>> too_fast(np.array([7, 7, 8, 7]), np.array([0, 59_999, 0, 60_000]), most=1).tolist()
    [7]
    """
    names, unit = np.unique(units, return_inverse=True)
    minutes, minute = np.unique(times_ms // MINUTE_MS, return_inverse=True)
    found, counts = np.unique(unit * max(1, len(minutes)) + minute, return_counts=True)
    fast: NDArray[Number] = names[np.unique(found[counts > most] // max(1, len(minutes)))]
    return fast


def _judge_feedback(shown: _Shown, heard: _Heard, bots: Flags, kept: Flags, rules: CleaningRules, now_ms: int) -> Ints:
    known = heard.list_of >= 0
    place = np.where(known, heard.list_of, 0) if len(shown) else np.zeros(len(heard), dtype=np.int64)
    none = np.zeros(max(1, len(shown)), dtype=np.int64)
    answered_ms = (shown.answered_ms if len(shown) else none)[place]
    shown_at = np.append(shown.positions, 0)[heard.row]
    reasons: dict[StrEnum, Flags] = {
        DroppedFeedback.REPEATED_EVENT: heard.repeated,
        DroppedFeedback.WITHOUT_RANKING: ~known,
        DroppedFeedback.BOT: (bots if len(shown) else none.astype(bool))[place],
        DroppedFeedback.RANKING_DROPPED: ~(kept if len(shown) else none.astype(bool))[place],
        DroppedFeedback.LATE: (answered_ms + rules.clicks_within_ms < heard.received_ms)
        & (heard.received_ms <= now_ms),
        DroppedFeedback.ITEM_NOT_SHOWN: heard.row < 0,
        DroppedFeedback.IMPOSSIBLE_POSITION: heard.says_position & (heard.position != shown_at),
        DroppedFeedback.BEFORE_RANKING: heard.received_ms < answered_ms,
        DroppedFeedback.NOT_YET: heard.received_ms > now_ms,
    }
    why = _first_reason(DroppedFeedback, len(heard), reasons)
    counting = np.flatnonzero(why < 0)
    twice = counting[_again(heard.row[counting] * 2 + heard.clicks[counting])]
    why[twice] = list(DroppedFeedback).index(DroppedFeedback.REPEATED_ITEM)
    return why


def _kept(
    shown: _Shown, heard: _Heard, kept: Flags, why_ranking: Ints, why_feedback: Ints, bots: Flags, rules: CleaningRules
) -> Impressions:
    counts = why_feedback < 0
    clicked, reported = (np.zeros(len(shown.list_of), dtype=bool) for _ in range(2))
    clicked[heard.row[counts & heard.clicks]] = True
    reported[heard.row[counts & ~heard.clicks]] = True
    reporting = np.zeros(len(shown), dtype=bool)
    reporting[shown.list_of[reported]] = True
    rows = kept[shown.list_of]
    clicks, told = clicked[rows], reporting[shown.list_of][rows]
    seen = reported[rows] | clicks | ~told
    items, pairs = shown.items[rows], _pairs(shown.queries[shown.list_of][rows], shown.items[rows])
    offsets = np.concatenate([[0], np.cumsum(shown.sizes[kept])]).astype(np.int64)
    names = np.asarray(shown.item_names.dictionary.to_pylist(), dtype=np.str_)
    ids = np.asarray(shown.ids.to_pylist(), dtype=np.str_)[kept]
    dropped_rankings, dropped_feedback = _counted(DroppedRanking, why_ranking), _counted(DroppedFeedback, why_feedback)
    clicks_of = np.bincount(shown.list_of[clicked & rows], minlength=len(shown))
    in_time = int((counts & heard.clicks).sum())
    late = int(((why_feedback == list(DroppedFeedback).index(DroppedFeedback.LATE)) & heard.clicks).sum())
    arms, arm_counts = np.unique(shown.arms[kept], return_counts=True)
    report = QualityReport(
        rankings=len(shown),
        kept_rankings=int(kept.sum()),
        dropped_rankings=dropped_rankings,
        feedback=len(heard),
        kept_feedback=int(counts.sum()),
        dropped_feedback=dropped_feedback,
        clicks=int(clicks.sum()),
        clicked_rankings=int((clicks_of > 0).sum()),
        late_share=late / (in_time + late) if in_time + late else 0.0,
        clients_reporting=float(reporting[kept].mean()) if kept.any() else 0.0,
        implied_exposures=int((told & clicks & ~reported[rows]).sum()),
        unseen=int((~seen).sum()),
        arms={str(arm): int(count) for arm, count in zip(arms, arm_counts, strict=True)},
        explored=int(shown.explored[kept].sum()),
        simulated_clicks=int((counts & heard.clicks & heard.simulated).sum()),
        units=len(np.unique(shown.units[kept])),
        bots=len(np.unique(shown.units[bots])),
        faults=faults(int(kept.sum()), dropped_rankings, int(counts.sum()), dropped_feedback, rules),
        data=_digest(ids, names[items], shown.sizes[kept], clicks, seen, shown.propensities[rows]),
    )
    return Impressions(
        items=items,
        pairs=pairs,
        positions=shown.positions[rows],
        clicks=clicks,
        seen=seen,
        propensities=shown.propensities[rows],
        offsets=offsets,
        queries=shown.queries[kept],
        units=shown.units[kept],
        versions=shown.versions[kept],
        explored=shown.explored[kept],
        ranking_ids=ids,
        item_ids=names,
        report=report,
        simulated=_lists_of(heard, counts & heard.simulated, len(shown))[kept],
        heard=_lists_of(heard, counts, len(shown))[kept],
        rows=np.flatnonzero(kept),
        bots=tuple(sorted(str(name) for name in shown.unit_names[np.unique(shown.units[bots])])),
    )


def faults(
    kept_rankings: int,
    dropped_rankings: Mapping[str, int],
    kept_feedback: int,
    dropped_feedback: Mapping[str, int],
    rules: CleaningRules,
) -> tuple[str, ...]:
    """What is wrong with data that were kept and dropped like this, in words; of one window or of several together."""
    return (
        *_faults("rankings", kept_rankings, dropped_rankings, {"window_open", "other_arm"}, rules),
        *_faults("feedback", kept_feedback, dropped_feedback, {"ranking_dropped", "not_yet"}, rules),
    )


def merged(
    reports: Sequence[QualityReport], rules: CleaningRules, units: int, bots: int, outside: Mapping[str, int], late: int
) -> QualityReport:
    """The report of a window from those of its parts, which share neither rankings nor feedback.

    units, bots: different ones in the whole window. outside: feedback, by reason, that was dropped without being
    given to a part. late: clicks of the window that came late. Raises ValueError if there is no report.
    """
    if not reports:
        raise ValueError("expected a report at least")

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in reports)

    def together(name: str) -> Counter[str]:
        return sum((Counter(getattr(one, name)) for one in reports), Counter[str]())

    rankings = {str(why): together("dropped_rankings")[why] for why in DroppedRanking}
    feedback = {str(why): together("dropped_feedback")[why] + outside.get(why, 0) for why in DroppedFeedback}
    kept_rankings, kept_feedback, clicks = total("kept_rankings"), total("kept_feedback"), total("clicks")
    reporting = sum(one.clients_reporting * one.kept_rankings for one in reports)
    return QualityReport(
        rankings=total("rankings"),
        kept_rankings=kept_rankings,
        dropped_rankings=rankings,
        feedback=total("feedback") + sum(outside.values()),
        kept_feedback=kept_feedback,
        dropped_feedback=feedback,
        clicks=clicks,
        clicked_rankings=total("clicked_rankings"),
        late_share=late / (clicks + late) if clicks + late else 0.0,
        clients_reporting=round(reporting) / kept_rankings if kept_rankings else 0.0,
        implied_exposures=total("implied_exposures"),
        unseen=total("unseen"),
        arms=dict(sorted(together("arms").items())),
        explored=total("explored"),
        simulated_clicks=total("simulated_clicks"),
        units=units,
        bots=bots,
        faults=faults(kept_rankings, rankings, kept_feedback, feedback, rules),
        data=hashlib.sha256("".join(one.data for one in reports).encode()).hexdigest(),
    )


def _lists_of(heard: _Heard, counts: Flags, lists: int) -> Flags:
    """Which lists some feedback that counts is of. Shape (lists,)."""
    found = np.zeros(lists, dtype=bool)
    found[heard.list_of[counts]] = True
    return found


def _faults(what: str, kept: int, dropped: Mapping[str, int], innocent: set[str], rules: CleaningRules) -> list[str]:
    blamed = {why: count for why, count in dropped.items() if why not in innocent}
    lost = sum(blamed.values())
    if lost <= rules.most_dropped * (kept + lost):
        return []
    worst = max(blamed, key=lambda why: blamed[why])
    return [f"{lost} of {kept + lost} {what} dropped, limit {rules.most_dropped:.0%}; most of them: {worst}"]


def _first_reason(reasons: type[StrEnum], size: int, holds: Mapping[StrEnum, Flags]) -> Ints:
    """The number of the first reason that holds of each, -1 if none does. Shape (size,)."""
    why = np.full(size, -1, dtype=np.int64)
    for number, reason in enumerate(reasons):
        if reason in holds:
            why[(why < 0) & holds[reason]] = number
    return why


def _counted(reasons: type[StrEnum], why: Ints) -> dict[str, int]:
    counts = np.bincount(why[why >= 0], minlength=len(reasons))
    return {str(reason): int(count) for reason, count in zip(reasons, counts, strict=True)}


def _again(values: Ints) -> Flags:
    """Which of them were there before. Same shape."""
    again = np.ones(len(values), dtype=bool)
    again[np.unique(values, return_index=True)[1]] = False
    return again


def _pairs(queries: Ints, items: Ints) -> Ints:
    """A number for each pair of them, from 0 on."""
    width = int(items.max(initial=0)) + 1
    return np.asarray(np.unique(queries * width + items, return_inverse=True)[1], dtype=np.int64)


def _codes(column: pa.ChunkedArray) -> tuple[Ints, NDArray[np.str_]]:
    """A number for each text, and what the numbers stand for; null is the empty text."""
    words = pc.dictionary_encode(column.combine_chunks().fill_null(""))
    return _ints(words.indices), np.asarray(words.dictionary.to_pylist(), dtype=np.str_)


def _places(column: pa.ChunkedArray, among: pa.Array) -> Ints:
    """Where each text first stands in `among`, -1 if it does not."""
    return _ints(pc.index_in(column.combine_chunks(), among).fill_null(-1))


def _ints(column: pa.ChunkedArray | pa.Array) -> Ints:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _lengths(lists: pa.ListArray) -> Ints:
    return _ints(pc.list_value_length(lists).fill_null(0))


def _digest(ids: NDArray[np.str_], items: NDArray[np.str_], *numbers: NDArray[np.generic]) -> str:
    total = hashlib.sha256()
    for texts in (ids, items):
        total.update(len(texts).to_bytes(8, "big"))
        total.update(_SEPARATOR.join(text.encode() for text in texts.tolist()))
    for values in numbers:
        total.update(values.tobytes())
    return total.hexdigest()
