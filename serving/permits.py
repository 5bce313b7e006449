"""A permit before everything else: what cannot be worked on now is refused now."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving import metrics
from serving.errors import Overloaded, RankingError
from serving.flow.admission import Admission, AdmissionRule


class Permits:
    """A bound on queries in flight: on all of them, and on each model's by what comes back in time
    (`flow.admission`). A refused client learns when to come back.

    >>> permits = Permits(1)
    >>> taken = permits.take("search")
    >>> permits.free("ads")
    False
    >>> permits.give(taken, used=0.1)
    """

    def __init__(self, limit: int, retry_after_s: float = 1.0, rule: AdmissionRule | None = None) -> None:
        self._limit, self._retry_after_s, self._rule = limit, retry_after_s, rule or AdmissionRule()
        self._models: dict[str, Admission] = {}
        self.taken = 0

    def busy(self, model: str) -> bool:
        """Whether over half are out, of all or of the model's."""
        found = self._models.get(model)
        return 2 * self.taken > self._limit or (found is not None and 2 * found.taken > found.limit)

    @property
    def limits(self) -> dict[str, int]:
        """How many queries of each model may be in flight now."""
        return {model: int(one.limit) for model, one in self._models.items()}

    def free(self, model: str) -> bool:
        """Whether one is left for the model."""
        found = self._models.get(model) or self._new(model)
        return self.taken < self._limit and (found.taken < found.limit or found.full())

    def take(self, model: str) -> Admission:
        """Takes one, to be given back. Raises Overloaded if none is left."""
        found = self._models.get(model) or self._new(model)
        if self.taken >= self._limit or (found.taken >= found.limit and not found.full()):
            raise self.refusal(model)
        self.taken += 1
        found.taken += 1
        return found

    def refusal(self, model: str) -> Overloaded:
        """What those are told who get none."""
        in_flight = min(self._limit, int(self._models[model].limit))
        return Overloaded(f"{in_flight} queries are in flight: slow down", self._retry_after_s)

    def give(self, taken: Admission, used: float | None) -> None:
        """Gives one back. used: see `Admission.ended`."""
        self.taken -= 1
        taken.ended(used)

    @contextmanager
    def one(self, model: str, allowed_s: float, clock: Callable[[], float]) -> Iterator[None]:
        """Holds one. allowed_s: from now to the deadline. Raises Overloaded if none is left."""
        taken, began_s, used = self.take(model), clock(), None
        try:
            yield
        except RankingError:
            used = (clock() - began_s) / allowed_s
            raise
        finally:
            self.give(taken, used)

    def publish(self) -> None:
        """The gauges; once a second is enough."""
        metrics.IN_FLIGHT.set(self.taken)
        metrics.PERMITS.set(self._limit)
        for model, one in self._models.items():
            metrics.MODEL_PERMITS.labels(model).set(int(one.limit))

    def _new(self, model: str) -> Admission:
        found = self._models[model] = Admission(self._rule, self._limit)
        return found
