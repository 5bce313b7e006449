"""Whose turn it is on a device that several models share."""

from collections.abc import Collection, Mapping

from serving.by_model import parse_by_model


def parse_weights(text: str) -> dict[str, float]:
    """Weights by model. Raises ValueError.

    >>> parse_weights("search=2, ads=0.5")
    {'search': 2.0, 'ads': 0.5}
    """
    weights = {}
    for model, value in parse_by_model(text).items():
        try:
            weight = float(value)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise ValueError(f"{model}={value}: expected a weight above 0 for every model, as search=2,ads=1")
        weights[model] = weight
    return weights


class Shares:
    """Start-time fair queuing over models: the one that has had least for its weight is next.

    Two models that both have queries waiting get the device in proportion to their weights: at any
    moment what they were served, each divided by its weight, differs by at most one batch of each
    (divided likewise). A model that was idle neither lost its turn nor saved it up. With one model
    waiting the device is its own: nobody waits for an absent model's share.

    weights: by model, above 0; a model that is not named has 1.

    Source: Goyal, Vin, Cheng, Start-time Fair Queuing, SIGCOMM 1996.

    >>> shares = Shares({"search": 2.0})
    >>> served = []
    >>> for _ in range(6):
    ...     served.append(shares.turn(["ads", "search"]))
    ...     shares.charge(served[-1], rows=100)
    >>> served.count("search"), served.count("ads")
    (4, 2)
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        for model, weight in self._weights.items():
            if not weight > 0:
                raise ValueError(f"weight of {model!r}={weight}: expected more than 0")
        self._now = 0.0  # virtual time: where the batch served last began
        self._done: dict[str, float] = {}  # virtual time at which a model's last batch ended

    def turn(self, models: Collection[str]) -> str:
        """Which of the models that have queries waiting is next; of equals the first."""
        now, done = self._now, self._done
        return min(models, key=lambda model: max(now, done.get(model, 0.0)))

    def charge(self, model: str, rows: int) -> None:
        """Says that a batch of the model with so many rows was served."""
        self._now = max(self._now, self._done.get(model, 0.0))
        self._done[model] = self._now + rows / self._weights.get(model, 1.0)
