"""The end of a ranking, on the device: each list's best, and how sure the ranker is of it.

What the host's form does in numpy (`scoring.top_of_lists`, `registry.contracts.profile`), here in
torch, so that a batch's scores never cross: only what is shown comes back.
"""

from dataclasses import dataclass

import torch

MEAN, STD, MARGIN, ENTROPY, BROKEN = range(5)


@dataclass(frozen=True, slots=True)
class RankedLists:
    """order: int64 (lists, top), places in the list, best first; past a list's end it is meaningless.

    rows: int64 (lists, top), the same as rows of the batch, always valid. scores: float32 (lists,
    top). statistics: float64 (lists, 5), see the constants; BROKEN counts scores that are not
    finite, and a list that has any is meaningless.
    """

    order: torch.Tensor
    rows: torch.Tensor
    scores: torch.Tensor
    statistics: torch.Tensor


def rank_lists(scores: torch.Tensor, ends: torch.Tensor, width: int, top: int, reference_std: float) -> RankedLists:
    """Ranks every list by itself; ties keep the given order.

    scores: float32 (rows or more,), list after list. ends: int64 (lists,), where each list ends.
    width: of the longest list. top: how many places are wanted, at most width. Asks for no value
    on the host.
    """
    ends = ends.unsqueeze(1)
    counts = torch.diff(ends, dim=0, prepend=torch.zeros_like(ends[:1]))
    place = torch.arange(width, device=scores.device)
    inside = place < counts
    rows = torch.minimum(ends - counts + place, ends - 1)
    own = scores[rows]
    finite = torch.isfinite(own)
    broken = (inside & ~finite).sum(dim=1)
    own = torch.where(finite, own, 0.0)
    padded = torch.where(inside, own, float("-inf"))
    # adding zero makes -0.0 tie with 0.0 in every kind of sort
    best, order = torch.sort(padded + 0.0, dim=1, descending=True, stable=True)
    order = order[:, :top]
    exact = torch.where(inside, own, 0.0).double()
    counts = counts.squeeze(1)
    mean = exact.sum(dim=1) / counts
    std = torch.sqrt(torch.clamp((exact * exact).sum(dim=1) / counts - mean * mean, min=0.0))
    margin, entropy = _confidences(padded, best, inside, counts, reference_std)
    return RankedLists(
        order=order,
        rows=torch.gather(rows, 1, order),
        scores=torch.gather(padded, 1, order),
        statistics=torch.stack([mean, std, margin, entropy, broken.double()], dim=1),
    )


def _confidences(
    padded: torch.Tensor, best: torch.Tensor, inside: torch.Tensor, counts: torch.Tensor, reference_std: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `registry.contracts.profile.confidences` defines them."""
    unit = reference_std if reference_std > 0 else 1.0
    several = counts > 1
    top = best[:, :1].double() / unit
    z = padded.double() / unit - top
    weights = torch.exp(z)
    totals = weights.sum(dim=1)
    expected = (weights * torch.where(inside, z, 0.0)).sum(dim=1) / totals
    second = best[:, 1:2].double() / unit if best.shape[1] > 1 else top
    margin = torch.where(several, (top - second).squeeze(1), 0.0)
    entropy = torch.where(several, (torch.log(totals) - expected) / torch.log(counts.clamp(min=2).double()), 0.0)
    return margin, entropy
