"""Which queries go to the device together: a decision about a queue and a clock, nothing else."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True)
class Pending(Generic[Key, Payload]):
    """One query that waits. key: only queries of one key (a loaded version) share a batch."""

    key: Key
    candidates: int
    arrived_s: float
    deadline_s: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class Batch(Generic[Key, Payload]):
    """taken: to score now, one key, oldest first. expired: too late, to be refused unscored.
    left: still waiting, in order."""

    taken: list[Pending[Key, Payload]]
    expired: list[Pending[Key, Payload]]
    left: list[Pending[Key, Payload]]


@dataclass(frozen=True, slots=True)
class BatchWindow:
    """max_candidates: rows in one forward pass. max_wait_s: counted from the oldest query; 0, the
    default, is work-conserving: a free device takes what is there."""

    max_candidates: int
    max_wait_s: float = 0.0

    def take(self, waiting: Sequence[Pending[Key, Payload]], now_s: float) -> Batch[Key, Payload]:
        """The next batch: of the oldest live query's key, as many as fit, order kept.

        A single query larger than the window goes alone. A query that does not fit any more ends
        the batch for its key, so that large queries are not overtaken for ever.
        """
        batch: Batch[Key, Payload] = Batch([], [], [])
        rows, closed = 0, False
        for pending in waiting:
            if pending.deadline_s <= now_s:
                batch.expired.append(pending)
            elif batch.taken and (closed or pending.key != batch.taken[0].key):
                batch.left.append(pending)
            elif batch.taken and rows + pending.candidates > self.max_candidates:
                closed = True
                batch.left.append(pending)
            else:
                batch.taken.append(pending)
                rows += pending.candidates
        full = closed or rows >= self.max_candidates
        if batch.taken and not full and now_s - batch.taken[0].arrived_s < self.max_wait_s:
            live = [pending for pending in waiting if pending.deadline_s > now_s]
            return Batch([], batch.expired, live)
        return batch
