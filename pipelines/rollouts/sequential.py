"""A confidence sequence for a share: an interval that may be looked at after every answer.

A usual interval, looked at each second until it says what one hopes for, is wrong sooner or later. This
one covers the true share at all times at once with the chance stated.
"""

from math import lgamma, log, log1p


def share_bounds(hits: int, trials: int, alpha: float) -> tuple[float, float]:
    """Bounds of the share behind `hits` in `trials`, both in [0, 1].

    alpha: chance at most that the interval leaves out the true share at any of all numbers of trials.
    Trials are taken as independent; where they come in bursts, the interval is too narrow.

    Inverts the beta-binomial mixture martingale with Jeffreys' prior: a share is left out once the
    mixture's likelihood is 1 / alpha times its own (Ville's inequality).

    Source: Robbins, Ann. Math. Statist. 41(5), 1970; Howard, Ramdas, McAuliffe & Sekhon, Ann. Statist.
    49(2), 2021.

    >>> [round(bound, 3) for bound in share_bounds(5, 100, 0.05)]
    [0.007, 0.156]
    >>> share_bounds(0, 0, 0.05)
    (0.0, 1.0)
    """
    if not 0 <= hits <= trials:
        raise ValueError(f"hits={hits} of trials={trials}: expected 0 <= hits <= trials")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha:g}: expected 0 < alpha < 1")
    if trials == 0:
        return 0.0, 1.0
    # log likelihood that a share needs to stay in
    floor = _log_beta(hits + 0.5, trials - hits + 0.5) - _log_beta(0.5, 0.5) - log(1 / alpha)
    peak = hits / trials
    return _edge(hits, trials, floor, 0.0, peak), _edge(hits, trials, floor, 1.0, peak)


def _edge(hits: int, trials: int, floor: float, out: float, peak: float) -> float:
    """Where the likelihood crosses the floor between `out`, where it is 0 or highest, and its peak."""
    if _log_likelihood(hits, trials, out) >= floor:
        return out
    inside = peak
    for _ in range(50):
        middle = (inside + out) / 2
        if _log_likelihood(hits, trials, middle) >= floor:
            inside = middle
        else:
            out = middle
    return out  # the side that covers more


def _log_likelihood(hits: int, trials: int, share: float) -> float:
    misses = trials - hits
    if (share == 0.0 and hits) or (share == 1.0 and misses):
        return -float("inf")
    return (hits * log(share) if hits else 0.0) + (misses * log1p(-share) if misses else 0.0)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
