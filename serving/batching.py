"""Which queries go to the device together: a decision about a queue and a clock, nothing else.

Between models the device is shared fairly (`shares`). Inside a model a query's place is its due
time, an earlier one first:

    due = min(deadline, arrived + patience) + priority * priority_step

so that of one priority the earliest deadline goes first, and a step of priority is worth a fixed
head start. Both are bounded, so nothing starves: no query is overtaken by one that arrived more
than `patience_s + (its priority - the other's) * priority_step_s` after it.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from serving.batch_times import UNKNOWN, BatchTimes, Line
from serving.shares import Shares

Key = TypeVar("Key", bound=Hashable)
Payload = TypeVar("Payload")

SURE = 0.75  # of the expected time: it scatters, and a query refused for nothing is lost


class Pending(msgspec.Struct, Generic[Key, Payload], eq=False):
    """One query that waits; not changed after it was made.

    key: only queries of one key share a batch: a loaded version, and for tensors the shape of a row.
    rows: what it adds to a forward pass: its candidates, or dimension 0 of its tensors.
    model: whose share of the device it uses. slot: the loaded version, whose batch times count.
    priority: 0 is normal, smaller is sooner, see `priority`. alone: shares no batch: it is not batchable.
    """

    key: Key
    rows: int
    arrived_s: float
    deadline_s: float
    payload: Payload
    model: str = ""
    slot: int = 0
    priority: int = 0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Batch(Generic[Key, Payload]):
    """taken: to score now, one key; most urgent first if somebody of the key is left. expired: past
    their deadline; hopeless: sure to pass it before they could be scored; both to be refused
    unscored. left: waiting, in order of arrival."""

    taken: list[Pending[Key, Payload]]
    expired: list[Pending[Key, Payload]]
    left: list[Pending[Key, Payload]]
    hopeless: list[Pending[Key, Payload]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BatchWindow:
    """max_candidates: rows in one forward pass. max_wait_s: counted from the oldest query; 0, the
    default, is work-conserving: a free device takes what is there.

    priority_step_s: the head start that a step of priority is worth. patience_s: the farthest that
    a later deadline puts a query behind others of its priority.
    """

    max_candidates: int
    max_wait_s: float = 0.0
    priority_step_s: float = 0.1
    patience_s: float = 0.5

    def due_s(self, pending: Pending[Key, Payload]) -> float:
        """The query's place among those of its model: the smallest goes first."""
        due_s = min(pending.deadline_s, pending.arrived_s + self.patience_s)
        return due_s + pending.priority * self.priority_step_s

    def take(
        self,
        waiting: Sequence[Pending[Key, Payload]],
        now_s: float,
        shares: Shares | None = None,
        times: BatchTimes | None = None,
    ) -> Batch[Key, Payload]:
        """The next batch: of the model whose turn it is, the most urgent query and those of its key
        that fit.

        waiting: in order of arrival. shares: whose turn it is; without it all are one model's.
        times: how long batches take; without it nothing is hopeless. Neither is changed here.

        A query larger than the window goes alone. One that does not fit any more, or that would
        make another of the batch late, ends the batch, so that large queries are not overtaken for
        ever.
        """
        batch: Batch[Key, Payload] = Batch([], [], [])
        if not waiting:
            return batch
        keys = {pending.key for pending in waiting}
        rows = [pending.rows for pending in waiting]
        tightest_s = min([pending.deadline_s for pending in waiting])
        slots = {pending.slot for pending in waiting} if len(keys) > 1 else (waiting[0].slot,)
        lines = {slot: times.of(slot).line(now_s) if times is not None else UNKNOWN for slot in slots}
        if len(keys) == 1 and self._is_one_batch(waiting, sum(rows), tightest_s - now_s, lines[waiting[0].slot]):
            batch.taken.extend(waiting)
            return batch
        slowest_s = max([fixed_s + per_row_s * max(rows) for fixed_s, per_row_s in lines.values()])
        live = waiting if now_s + slowest_s < tightest_s else _sort_out(batch, waiting, now_s, lines)
        if not live:
            return batch
        mine = live
        if shares is not None and len(models := {pending.model: None for pending in live}) > 1:
            chosen = shares.turn(models)
            mine = [pending for pending in live if pending.model == chosen]
        taken = self._most_urgent(mine, now_s, lines)
        ids = set(map(id, taken))
        batch.taken.extend(taken)
        batch.left.extend([pending for pending in live if id(pending) not in ids])
        return batch

    def _is_one_batch(
        self, waiting: Sequence[Pending[Key, Payload]], rows: int, remaining_s: float, line: Line
    ) -> bool:
        """Whether all that waits goes together, whatever the order: the usual case, and the cheapest."""
        fits = rows <= self.max_candidates and (len(waiting) == 1 or not any(pending.alone for pending in waiting))
        return fits and not self.max_wait_s and line[0] + line[1] * rows < remaining_s

    def _most_urgent(
        self, mine: Sequence[Pending[Key, Payload]], now_s: float, lines: Mapping[int, Line]
    ) -> list[Pending[Key, Payload]]:
        """The batch out of one model's live queries; none if it may wait for more."""
        rows = sum([pending.rows for pending in mine])
        if rows <= self.max_candidates and len({pending.key for pending in mine}) == 1:
            tightest_s = min([pending.deadline_s for pending in mine])
            if self._is_one_batch(mine, rows, tightest_s - now_s, lines[mine[0].slot]):
                return list(mine)
        queue = self._by_urgency(mine)
        taken = self._fill(queue, now_s, lines[queue[0].slot])
        return [] if len(taken) == len(queue) and self._may_wait(taken, now_s) else taken

    def _by_urgency(self, mine: Sequence[Pending[Key, Payload]]) -> list[Pending[Key, Payload]]:
        """The most urgent query and all that may share its batch, most urgent first."""
        patience_s, step_s = self.patience_s, self.priority_step_s
        places = [  # `due_s`, without two calls each
            (due_s if (due_s := pending.arrived_s + patience_s) < pending.deadline_s else pending.deadline_s)
            + pending.priority * step_s
            for pending in mine
        ]
        first = mine[places.index(min(places))]
        if first.alone:
            return [first]
        key = first.key
        if places != sorted(places):
            mine = [mine[place] for place in sorted(range(len(mine)), key=places.__getitem__)]
        return [pending for pending in mine if pending.key == key]

    def _fill(self, queue: list[Pending[Key, Payload]], now_s: float, line: Line) -> list[Pending[Key, Payload]]:
        """From the front of the queue, as many as fit and make nobody late; the first in any case."""
        fixed_s, per_row_s = line
        rows, tightest_s, most = 0, queue[0].deadline_s, self.max_candidates
        for count, pending in enumerate(queue):
            rows += pending.rows
            if pending.deadline_s < tightest_s:
                tightest_s = pending.deadline_s
            if count and (rows > most or now_s + fixed_s + per_row_s * rows > tightest_s or pending.alone):
                return queue[:count]
        return queue

    def _may_wait(self, taken: Sequence[Pending[Key, Payload]], now_s: float) -> bool:
        """Whether a fuller batch may still come."""
        if taken[0].alone or sum([pending.rows for pending in taken]) >= self.max_candidates:
            return False
        return now_s - min([pending.arrived_s for pending in taken]) < self.max_wait_s


def _sort_out(
    batch: Batch[Key, Payload], waiting: Sequence[Pending[Key, Payload]], now_s: float, lines: Mapping[int, Line]
) -> list[Pending[Key, Payload]]:
    """Those who can still be answered in time; the others go into the batch's refused ones."""
    live = []
    for pending in waiting:
        fixed_s, per_row_s = lines[pending.slot]
        if pending.deadline_s <= now_s:
            batch.expired.append(pending)
        elif now_s + SURE * (fixed_s + per_row_s * pending.rows) > pending.deadline_s:
            batch.hopeless.append(pending)
        else:
            live.append(pending)
    return live
