"""Ranking in two steps, so that the host prepares a batch while the device computes the one before."""

from collections.abc import Sequence
from typing import Protocol

from serving.frames import FailedReply, RankedReply, ScoreRequest

Replies = list[RankedReply | FailedReply]


class Submitted(Protocol):
    """A batch under way. answer_us: what making its replies took, once they are made."""

    answer_us: float

    def replies(self) -> Replies:
        """In the order of the requests; waits for the device. Raises what the program raised."""
        ...


class BatchRanker(Protocol):
    """Ranks batches of one version. For one thread; batches end in the order of their submission."""

    def submit(self, requests: Sequence[ScoreRequest], queue_us: Sequence[float], now_ms: int) -> Submitted:
        """Starts a batch of checked requests. Raises what the program raises on the host's side."""
        ...
