"""Simulated users: a position-based click model over graded labels.

A user examines position i with probability i**-eta, and clicks an examined item with a
probability that grows with its label; both are independent. Where there are no live users this
stands in for them, and everything shown from it says so.

Sources: examination hypothesis: Richardson, Dominowska & Ragno, WWW 2007; position-based model
against others: Craswell, Zoeter, Taylor & Ramsey, WSDM 2008; examination as a power of the
position: Joachims, Swaminathan & Schnabel, WSDM 2017; attraction from graded labels: Chapelle,
Metzler, Zhang & Grinspan, CIKM 2009.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class ClickModel:
    """eta: how fast attention falls with the position, 0 is not at all. noise: probability to
    click an examined item of label 0. max_label: the label that is always clicked when examined.
    """

    eta: float = 1.0
    noise: float = 0.1
    max_label: float = 4.0

    def __post_init__(self) -> None:
        if self.eta < 0:
            raise ValueError(f"clicks.eta={self.eta}: expected >= 0")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"clicks.noise={self.noise}: expected 0 <= probability <= 1")
        if self.max_label <= 0:
            raise ValueError(f"clicks.max_label={self.max_label}: expected > 0")

    def examination(self, shown: int) -> NDArray[np.float64]:
        """Probability that a user looks at each position. Shape (shown,).

        >>> ClickModel(eta=1.0).examination(2).tolist()
        [1.0, 0.5]
        """
        return np.power(np.arange(1, shown + 1, dtype=np.float64), -self.eta)

    def attraction(self, labels: ArrayLike) -> NDArray[np.float64]:
        """Probability that a user who looks at it clicks an item. Same shape as labels.

        >>> ClickModel(noise=0.1, max_label=1).attraction([0.0, 1.0]).tolist()
        [0.1, 1.0]
        """
        graded = np.minimum(np.asarray(labels, dtype=np.float64), self.max_label)
        worth: NDArray[np.float64] = (np.exp2(graded) - 1) / (2**self.max_label - 1)
        return self.noise + (1 - self.noise) * worth


def simulate_clicks(
    labels_in_served_order: ArrayLike, model: ClickModel, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions, from 1 and ascending, that one simulated user clicks of one ranking."""
    attraction = model.attraction(labels_in_served_order)
    clicked = rng.random(len(attraction)) < model.examination(len(attraction)) * attraction
    return np.flatnonzero(clicked) + 1
