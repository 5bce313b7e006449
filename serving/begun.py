"""A query under way without a coroutine: a ranking or an inference costs a callback, not a task.

The long way (`Ranker.rank`, `InferService.infer`) waits for replicas, tries again and is what tests
and rare cases use; this is the short one for a query that can be sent now.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from serving.errors import RankingError
from serving.flow.admission import Admission
from serving.flow.retries import Attempts
from serving.frames import LoadedVersion
from serving.permits import Permits

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MENDABLE = (500, 503)
"""Statuses of errors after which a query may still be answered: by another replica, or by less."""


def in_task(answer: Coroutine[Any, Any, Answer], done: Callable[[Answer | RankingError], None]) -> Callable[[], None]:
    """A query that needs a coroutine, for who has none: `done` is told the outcome, once, unless the caller
    leaves. Returns how."""

    async def run() -> None:
        outcome: Answer | RankingError
        try:
            outcome = await answer
        except RankingError as error:
            outcome = error
        except Exception:
            log.exception("a bug answered with 500")
            outcome = RankingError("internal error, see the gateway's log")
        done(outcome)

    task = asyncio.get_running_loop().create_task(run())

    def leave() -> None:
        task.cancel()

    return leave


class Begun(Generic[Answer]):
    """The pool's `Waiter` for one query; holds a permit of the model from `start` to its end.

    allowed_s: of the whole query. deadline_s: by the clock. settle: from the worker's reply and the
    version that gave it to the answer. again: the long way, with so many milliseconds left, after an
    error that can be mended. refused: told of an error that ends the query, for the count. done: told
    the outcome, once, unless the caller leaves.
    """

    __slots__ = (
        "_again",
        "_allowed_s",
        "_clock",
        "_deadline_s",
        "_done",
        "_finished",
        "_model",
        "_permits",
        "_refused",
        "_settle",
        "_take_back",
        "_taken",
        "_task",
        "loaded",
    )

    def __init__(
        self,
        permits: Permits,
        model: str,
        clock: Callable[[], float],
        allowed_s: float,
        deadline_s: float,
        settle: Callable[[Any, LoadedVersion], Answer],
        again: Callable[[int, Attempts], Awaitable[Answer]],
        refused: Callable[[RankingError], None],
        done: Callable[[Answer | RankingError], None],
    ) -> None:
        self._permits, self._model, self._clock = permits, model, clock
        self._allowed_s, self._deadline_s = allowed_s, deadline_s
        self._settle, self._again, self._refused, self._done = settle, again, refused, done
        self._finished = False
        self._taken: Admission | None = None
        self._take_back: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.loaded: LoadedVersion | None = None

    def start(self, take_back: Callable[[], None]) -> Callable[[], None]:
        """The query was sent. Returns how the caller leaves."""
        self._taken = self._permits.take(self._model)
        self._take_back = take_back
        return self._leave

    def done(self) -> bool:
        """See `Waiter`."""
        return self._finished

    def set_result(self, result: Any) -> None:
        """See `Waiter`."""
        self._finish(result.queue_us / 1e6 / self._allowed_s)
        assert self.loaded is not None  # the pool's `build` was given it
        try:
            self._done(self._settle(result, self.loaded))
        except RankingError as error:
            self._failed(error)
        except Exception:  # whatever it is, it must not end the connection to the worker
            log.exception("a bug answered with 500")
            self._done(RankingError("internal error, see the gateway's log"))

    def set_exception(self, error: RankingError) -> None:
        """See `Waiter`."""
        self._finish(1.0 - (self._deadline_s - self._clock()) / self._allowed_s)
        self._failed(error)

    def _failed(self, error: RankingError) -> None:
        """What only the long way can mend goes there, with what is left of its time."""
        left_ms = int((self._deadline_s - self._clock()) * 1000)
        if error.status in MENDABLE and left_ms > 0:
            attempts = Attempts(tries=1, began_s=self._deadline_s - self._allowed_s).failed(error)
            self._task = asyncio.get_running_loop().create_task(self._go_again(left_ms, attempts))
            return
        self._refused(error)
        self._done(error)

    async def _go_again(self, left_ms: int, attempts: Attempts) -> None:
        outcome: Answer | RankingError
        try:
            outcome = await self._again(left_ms, attempts)
        except RankingError as error:
            outcome = error
        self._done(outcome)

    def _leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self._finished:
            self._finish(None)
            if self._take_back is not None:
                self._take_back()

    def _finish(self, used: float | None) -> None:
        self._finished = True
        assert self._taken is not None  # since `start`
        self._permits.give(self._taken, used)
