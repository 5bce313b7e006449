"""Losses that a ranker is trained with, one number a list, over ragged lists laid out as a matrix.

Every loss takes scores and gains of shape (lists, longest) and `inside`, bool of the same shape: False is
padding, and what stands there changes nothing. Gains are those of the metric (`ndcg.gain`), never 2**label
by themselves: labels may be weights of debiased clicks, and CLICK_NDCG's gain is linear. A list without a
gain has loss 0. Losses are computed in float32, whatever the model was run in.

- `listnet`: Cao, Qin, Liu, Tsai & Li, "Learning to rank: from pairwise approach to listwise approach", ICML 2007
  (top-one probabilities), with the gains' shares as the target.
- `lambdaloss`: Wang, Li, Golbandi, Bendersky & Najork, "The LambdaLoss framework for ranking metric
  optimization", CIKM 2018, NDCG-Loss2++.
- `approx_ndcg`: Qin, Liu & Li, "A general approximation framework for direct optimization of information
  retrieval measures", Information Retrieval 13, 2010.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

MU = 10.0  # how much NDCG-Loss2 counts beside LambdaRank's weight in NDCG-Loss2++: the paper's
TEMPERATURE = 0.1  # of approximated ranks, in scores

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""scores, gains, inside, k; gives float32 of shape (lists,), >= 0."""

_TINY = 1e-30  # keeps a list without gain at zero


def listnet(scores: Tensor, gains: Tensor, inside: Tensor, k: int) -> Tensor:
    """Cross entropy between the gains' shares and the softmax of the scores, over the whole list: k is not used."""
    padded = scores.float().masked_fill(~inside, -torch.inf)
    gains = gains.masked_fill(~inside, 0.0)
    share = gains / gains.sum(dim=1, keepdim=True).clamp(min=_TINY)
    log_softmax = torch.log_softmax(padded, dim=1).masked_fill(~inside, 0.0)
    return -(share * log_softmax).sum(dim=1)


def lambdaloss(scores: Tensor, gains: Tensor, inside: Tensor, k: int) -> Tensor:
    """Logistic loss of every pair that is of unequal gain, weighted by what its order is worth to NDCG at k.

    The weight of a pair at (current) ranks i and j is |G_i - G_j| (rho + mu delta), with G the gain over
    the ideal DCG at k, rho = |1/D_i - 1/D_j| (LambdaRank's: what exchanging the two would change; 1/D is 0
    beyond k) and delta = 1/D_|i-j| - 1/D_(|i-j|+1). A pair of which neither is among the first k counts
    nothing. Ranks are those of the scores, ties in the given order, and no gradient goes through them.
    """
    order = _order(scores, inside)
    scores = scores.float().masked_fill(~inside, 0.0).gather(1, order)
    worth = _normalised(gains, inside, k).gather(1, order)
    # in the order of ranks a pair that counts is one of the first k with one behind it: k x longest, not squared
    rank = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=torch.float32)
    discount = torch.where(rank <= k, 1 / torch.log2(rank + 1), 0.0)
    first = slice(0, k)
    apart = rank.unsqueeze(0) - rank[first].unsqueeze(1)
    delta = 1 / torch.log2(apart.clamp(min=1) + 1) - 1 / torch.log2(apart.clamp(min=1) + 2)
    rho = (discount[first].unsqueeze(1) - discount.unsqueeze(0)).abs()
    placed = torch.where(apart > 0, rho + MU * delta, 0.0)
    better = worth[:, first].unsqueeze(2) - worth.unsqueeze(1)
    weight = better.abs() * placed * inside.gather(1, order).unsqueeze(1)
    ahead = scores[:, first].unsqueeze(2) - scores.unsqueeze(1)
    surprise = softplus(-torch.sign(better) * ahead) / math.log(2)  # -log2 of the sigmoid of who should be ahead
    return (weight * surprise).sum(dim=(1, 2))


def approx_ndcg(scores: Tensor, gains: Tensor, inside: Tensor, k: int) -> Tensor:
    """1 - NDCG, each rank replaced by 1 plus the sigmoids of how far the others score above, in `TEMPERATURE`.

    Over the whole list: k is not used, or what stands below it would never learn to come up. Its cost grows with
    the square of the longest list (32 lists of 1,000: 0.7 s a step on one core, LambdaLoss 0.01).
    """
    scores = scores.float().masked_fill(~inside, 0.0)
    above = torch.sigmoid((scores.unsqueeze(1) - scores.unsqueeze(2)) / TEMPERATURE)
    others = (inside.unsqueeze(1) & inside.unsqueeze(2)).logical_and(
        ~torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    )
    rank = 1 + torch.where(others, above, 0.0).sum(dim=2)
    worth = _normalised(gains, inside, scores.shape[1])
    reached = (worth / torch.log2(rank + 1)).sum(dim=1)
    return torch.where((worth > 0).any(dim=1), 1 - reached, 0.0)


LOSSES: dict[str, Loss] = {"listnet": listnet, "lambdaloss": lambdaloss, "approx_ndcg": approx_ndcg}


def _order(scores: Tensor, inside: Tensor) -> Tensor:
    """Places of the list by rank, best first. int64 (lists, longest)."""
    padded = scores.detach().float().masked_fill(~inside, -torch.inf)
    return torch.sort(padded, dim=1, descending=True, stable=True).indices


def _normalised(gains: Tensor, inside: Tensor, k: int) -> Tensor:
    """Gains over the ideal DCG at k of their list; 0 throughout a list without any. Shape (lists, longest)."""
    gains = gains.float().masked_fill(~inside, 0.0)
    best = torch.sort(gains, dim=1, descending=True).values[:, :k]
    place = torch.arange(best.shape[1], device=gains.device, dtype=torch.float32)
    ideal = (best / torch.log2(place + 2)).sum(dim=1, keepdim=True)
    return gains / ideal.clamp(min=_TINY)
