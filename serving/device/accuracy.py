"""How far scores may be from those in float64, and whether they still rank alike.

What matters of a score is its place: an error counts in standard deviations of the scores, and the
order over lists of a hundred counts beside it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.contracts.profile import Distribution, ReferenceProfile

LIST_ROWS = 100
LISTS = 20
TOP = 10
Scores = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """max_error_std: largest absolute error in standard deviations of the reference's scores.

    kendall_tau: mean over lists, 1 for the same order. top_overlap: mean share of the reference's
    top 10 that is in the other's.
    """

    max_error_std: float
    kendall_tau: float
    top_overlap: float

    def __str__(self) -> str:
        return (
            f"error {self.max_error_std:.2g} std, Kendall's tau {self.kendall_tau:.4f}, "
            f"top-{TOP} overlap {self.top_overlap:.4f}"
        )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a precision below float32 must keep to be served."""

    max_error_std: float = 0.05
    kendall_tau: float = 0.98
    top_overlap: float = 0.95

    def holds(self, found: Agreement) -> bool:
        """Never for scores that are not finite."""
        return (
            found.max_error_std <= self.max_error_std
            and found.kendall_tau >= self.kendall_tau
            and found.top_overlap >= self.top_overlap
        )


def agreement(scores: Scores, reference: Scores, list_rows: int = LIST_ROWS) -> Agreement:
    """Both of shape (lists * list_rows,), list after list.

    Kendall's tau-a with ties of the reference left out of the count of pairs: they have no order.

    >>> agreement(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), list_rows=3)
    Agreement(max_error_std=0.0, kendall_tau=1.0, top_overlap=1.0)
    """
    if not np.isfinite(scores).all():
        return Agreement(float("inf"), -1.0, 0.0)
    exact = reference.astype(np.float64).reshape(-1, list_rows)
    given = scores.astype(np.float64).reshape(-1, list_rows)
    spread = float(exact.std()) or 1.0
    taus, overlaps = [], []
    for ours, theirs in zip(given, exact, strict=True):
        order = np.sign(theirs[:, None] - theirs)
        pairs = np.count_nonzero(order)
        taus.append(float((np.sign(ours[:, None] - ours) * order).sum() / pairs) if pairs else 1.0)
        # ties decide nothing: whoever scores no less than the tenth belongs to the top
        places = np.argsort(-ours, kind="stable")[:TOP]
        overlaps.append(float((theirs[places] >= np.sort(theirs)[-min(TOP, list_rows)]).mean()))
    return Agreement(float(np.abs(given - exact).max()) / spread, float(np.mean(taus)), float(np.mean(overlaps)))


def sample_rows(
    profile: ReferenceProfile, columns: int, seed: int, rows: int = LISTS * LIST_ROWS
) -> NDArray[np.float32]:
    """Rows as the version saw them when it was made: each column from its bins, by itself.

    A column without spread, as in a profile that was never fitted, is standard normal. Shape
    (rows, columns).
    """
    random = np.random.default_rng(seed)
    given = list(profile.features) + [None] * (columns - len(profile.features))
    drawn = [_sampled(distribution, rows, random) for distribution in given[:columns]]
    return np.stack(drawn, axis=1).astype(np.float32)


def _sampled(of: Distribution | None, rows: int, random: np.random.Generator) -> NDArray[np.float64]:
    if of is None or of.std <= 0 or not sum(of.counts):
        return random.standard_normal(rows)
    ends = np.array([of.minimum, *of.edges, of.maximum])
    counts = np.array(of.counts, dtype=np.float64)
    bins = random.choice(len(counts), rows, p=counts / counts.sum())
    return random.uniform(ends[bins], np.maximum(ends[bins + 1], ends[bins]))
