"""Lifts as they are to be believed: shrunken towards what the model's decisions have been like.

What is promoted was picked because its estimate was high, so the estimate is too high on average (the winner's
curse), and the more so the less it was known. The posterior mean under a prior of true lifts is not.

The prior is a normal distribution. With enough past decisions it is fitted to their estimates by moments, each
weighted by what it is known (empirical Bayes); with few it is a cautious default: most changes of a ranker do little.

Sources: Efron & Morris, JASA 70(350), 1975 (shrinkage); DerSimonian & Laird, Controlled Clinical Trials 7(3), 1986
(moments); Deng, WWW 2015 companion, "Objective Bayesian two sample hypothesis testing" (lifts of experiments).
"""

from collections.abc import Sequence
from math import sqrt

import msgspec
import numpy as np

DEFAULT_SD = 0.01
"""Of true lifts, where nothing is known: 95 % of them within 2 %."""

LEAST_DECISIONS = 5


class Prior(msgspec.Struct, frozen=True):
    """Of true lifts. decisions: that it is made of, 0 for the default."""

    mean: float
    sd: float
    decisions: int

    def words(self) -> str:
        """Where it comes from."""
        if not self.decisions:
            return f"prior 0 +- {self.sd:.1%}, the cautious default with under {LEAST_DECISIONS} decisions"
        return f"prior {self.mean:+.2%} +- {self.sd:.2%} of the model's last {self.decisions} decisions"


class ShrunkenLift(msgspec.Struct, frozen=True):
    """raw: as measured. lift, low, high: the posterior's mean and its central 95 %."""

    raw: float
    lift: float
    low: float
    high: float
    prior: Prior


def prior_of(past: Sequence[tuple[float, float]]) -> Prior:
    """past: estimate and standard error of each decision's lift, promoted or not: leaving out those that were not
    promoted would bring the curse back in.

    >>> prior_of([]).sd
    0.01
    >>> found = prior_of([(0.01, 0.001), (-0.01, 0.001), (0.02, 0.001), (0.0, 0.001), (-0.02, 0.001)])
    >>> round(found.mean, 4), round(found.sd, 4)
    (0.0, 0.0158)
    """
    known = [(lift, error) for lift, error in past if np.isfinite([lift, error]).all() and error > 0]
    if len(known) < LEAST_DECISIONS:
        return Prior(0.0, DEFAULT_SD, 0)
    lifts, errors = (np.array(column) for column in zip(*known, strict=True))
    weights = errors**-2.0
    mean = float((weights * lifts).sum() / weights.sum())
    excess = float((weights * (lifts - mean) ** 2).sum()) - (len(known) - 1)
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    between = max(0.0, excess / scale)
    weights = 1 / (errors**2 + between)
    mean = float((weights * lifts).sum() / weights.sum())
    return Prior(mean, sqrt(between), len(known))


def shrink(estimate: float, error: float, prior: Prior) -> ShrunkenLift:
    """estimate, error: of the lift as measured.

    >>> found = shrink(0.02, 0.01, Prior(0.0, 0.01, 0))
    >>> round(found.lift, 4), round(found.low, 4), round(found.high, 4)
    (0.01, -0.0039, 0.0239)
    """
    if prior.sd == 0:
        return ShrunkenLift(estimate, prior.mean, prior.mean, prior.mean, prior)
    weight = prior.sd**2 / (prior.sd**2 + error**2)
    lift = prior.mean + weight * (estimate - prior.mean)
    half = 1.959964 * error * sqrt(weight)
    return ShrunkenLift(estimate, lift, lift - half, lift + half, prior)
