"""Each loss against values worked by hand, against its definition in plain loops, and its laws."""

from collections.abc import Callable
from math import exp, log, log2

import numpy as np
import pytest
import torch

from pipelines.ndcg import gain, mean_ndcg
from pipelines.training.losses import LOSSES, MU, TEMPERATURE, approx_ndcg, lambdaloss, listnet
from registry.contracts.manifest import CLICK_NDCG, JUDGED_NDCG

K = 3
Ragged = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def one_list(scores: list[float], gains: list[float]) -> Ragged:
    return torch.tensor([scores]), torch.tensor([gains]), torch.ones(1, len(scores), dtype=torch.bool)


def ragged(seed: int, dtype: torch.dtype = torch.float32) -> Ragged:
    """Five lists of 1 to 9 candidates, gains of clicks' weights (not whole), one list without any."""
    rng = np.random.default_rng(seed)
    sizes = np.array([9, 1, 4, 7, 5])
    inside = torch.from_numpy(np.arange(9) < sizes[:, np.newaxis])
    scores = torch.from_numpy(rng.normal(size=(5, 9))).to(dtype)
    gains = torch.from_numpy(rng.choice([0.0, 0.7, 1.0, 2.31, 7.0], size=(5, 9))).to(dtype)
    gains[3] = 0
    return scores.masked_fill(~inside, 0), gains.masked_fill(~inside, 0), inside


def ideal_dcg(gains: list[float], k: int) -> float:
    return sum(g / log2(place + 2) for place, g in enumerate(sorted(gains, reverse=True)[:k]))


def listnet_in_loops(scores: list[float], gains: list[float]) -> float:
    total, partition = sum(gains), sum(exp(s) for s in scores)
    return -sum(g / total * log(exp(s) / partition) for s, g in zip(scores, gains, strict=True)) if total else 0.0


def lambdaloss_in_loops(scores: list[float], gains: list[float]) -> float:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    rank = {i: place for place, i in enumerate(order, start=1)}
    ideal = ideal_dcg(gains, K)

    def discount(place: int) -> float:
        return 1 / log2(place + 1) if place <= K else 0.0

    total = 0.0
    for i, better in enumerate(gains):
        for j, worse in enumerate(gains):
            if better <= worse or min(rank[i], rank[j]) > K:
                continue
            apart = abs(rank[i] - rank[j])
            rho = abs(discount(rank[i]) - discount(rank[j]))
            delta = 1 / log2(apart + 1) - 1 / log2(apart + 2)
            chance = 1 / (1 + exp(-(scores[i] - scores[j])))
            total -= (better - worse) / ideal * (rho + MU * delta) * log2(chance)
    return total


def approx_ndcg_in_loops(scores: list[float], gains: list[float]) -> float:
    if not sum(gains):
        return 0.0
    reached = 0.0
    for i, g in enumerate(gains):
        rank = 1 + sum(1 / (1 + exp(-(other - scores[i]) / TEMPERATURE)) for j, other in enumerate(scores) if j != i)
        reached += g / log2(rank + 1)
    return 1 - reached / ideal_dcg(gains, len(gains))


IN_LOOPS: dict[str, Callable[[list[float], list[float]], float]] = {
    "listnet": listnet_in_loops,
    "lambdaloss": lambdaloss_in_loops,
    "approx_ndcg": approx_ndcg_in_loops,
}


def test_listnet_of_two_candidates_worked_by_hand() -> None:
    # softmax of (ln 3, 0) is (3/4, 1/4), the shares of gains 1 and 3 are (1/4, 3/4)
    loss = listnet(*one_list([log(3), 0.0], [1.0, 3.0]), K)

    assert loss.item() == pytest.approx(-(0.25 * log(3 / 4) + 0.75 * log(1 / 4)), abs=1e-6)


def test_lambdaloss_of_one_pair_worked_by_hand() -> None:
    # the relevant one stands second: |1/log2(2) - 1/log2(3)| once for the exchange, mu times for being one apart
    loss = lambdaloss(*one_list([1.0, 0.0], [0.0, 1.0]), K)
    exchanged = 1 - 1 / log2(3)

    assert loss.item() == pytest.approx((1 + MU) * exchanged * log2(1 + exp(1.0)), rel=1e-6)


def test_approx_ndcg_of_a_tie_worked_by_hand() -> None:
    # equal scores share rank 1.5
    loss = approx_ndcg(*one_list([2.0, 2.0], [0.0, 1.0]), K)

    assert loss.item() == pytest.approx(1 - 1 / log2(2.5), abs=1e-6)


def test_approx_ndcg_of_scores_far_apart_is_what_ndcg_lacks() -> None:
    scores, gains, inside = ragged(3)
    labels = torch.log2(gains + 1)
    sizes = inside.sum(dim=1)
    far_apart = 100 * scores.argsort(dim=1).argsort(dim=1).float()

    losses = approx_ndcg(far_apart, gains, inside, K)
    report = mean_ndcg(
        labels[inside].numpy(),
        far_apart[inside].numpy(),
        [0, *sizes.cumsum(0).tolist()],
        JUDGED_NDCG,
    )

    for loss, ndcg in zip(losses.tolist(), report.per_list.tolist(), strict=True):
        assert loss == pytest.approx(0.0 if np.isnan(ndcg) else 1 - ndcg, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(5))
def test_a_loss_is_its_definition_in_plain_loops(name: str, seed: int) -> None:
    scores, gains, inside = ragged(seed)

    losses = LOSSES[name](scores, gains, inside, K)

    for loss, s, g, own in zip(losses, scores, gains, inside, strict=True):
        assert loss.item() == pytest.approx(IN_LOOPS[name](s[own].tolist(), g[own].tolist()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_and_what_stands_in_it_change_nothing(name: str) -> None:
    scores, gains, inside = ragged(1)
    wider = torch.nn.functional.pad(inside, (0, 4))

    def padded(tensor: torch.Tensor, value: float) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (0, 4)).masked_fill(~wider, value)

    for value in (5.0, float("inf"), float("nan")):
        losses = LOSSES[name](padded(scores, value), padded(gains, value), wider, K)

        torch.testing.assert_close(losses, LOSSES[name](scores, gains, inside, K))


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_candidates_and_of_lists_changes_nothing(name: str) -> None:
    scores, gains, inside = ragged(2)
    candidates, lists = torch.randperm(9, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1, 4, 0, 2])
    losses = LOSSES[name](scores, gains, inside, K)

    moved = LOSSES[name](scores[:, candidates], gains[:, candidates], inside[:, candidates], K)
    exchanged = LOSSES[name](scores[lists], gains[lists], inside[lists], K)

    torch.testing.assert_close(moved, losses)
    torch.testing.assert_close(exchanged, losses[lists])


@pytest.mark.parametrize("name", LOSSES)
def test_a_shift_of_all_scores_changes_nothing(name: str) -> None:
    scores, gains, inside = ragged(2)

    torch.testing.assert_close(
        LOSSES[name](scores + 3, gains, inside, K), LOSSES[name](scores, gains, inside, K), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_list_without_gain_costs_and_teaches_nothing(name: str) -> None:
    scores, gains, inside = ragged(4)
    scores.requires_grad_()

    losses = LOSSES[name](scores, gains, inside, K)
    losses.sum().backward()

    assert losses[3].item() == 0
    assert scores.grad is not None
    assert not scores.grad[3].any()
    assert not scores.grad[~inside].any()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0].any()


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_slope(name: str) -> None:
    """In float32, in which losses are computed: by central differences wide enough for its rounding, and
    narrow enough that no rank changes."""
    scores, gains, inside = ragged(5)
    step = 1e-3
    scores.requires_grad_()
    LOSSES[name](scores, gains, inside, K).sum().backward()
    assert scores.grad is not None

    for i, j in [(0, 0), (0, 5), (2, 1), (4, 4)]:
        nudge = torch.zeros_like(scores)
        nudge[i, j] = step
        with torch.no_grad():
            up, down = (LOSSES[name](scores + sign * nudge, gains, inside, K).sum() for sign in (1, -1))
        assert scores.grad[i, j].item() == pytest.approx((up - down).item() / (2 * step), rel=0.02, abs=0.01)


@pytest.mark.parametrize("name", LOSSES)
def test_going_down_the_gradient_ranks_as_the_gains_do(name: str) -> None:
    scores, gains, inside = ragged(6)
    scores *= 0.05  # as a fresh ranker's: approximated ranks that are settled already would stay
    scores.requires_grad_()
    optimiser = torch.optim.Adam([scores], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        LOSSES[name](scores, gains, inside, K).sum().backward()
        optimiser.step()

    for s, g, own in zip(scores.detach(), gains, inside, strict=True):
        best = g[own][torch.argsort(s[own], descending=True)][:K]
        assert best.tolist() == sorted(g[own].tolist(), reverse=True)[:K]


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_scores_are_lifted_to_float32(name: str) -> None:
    scores, gains, inside = ragged(7)

    losses = LOSSES[name](scores.bfloat16(), gains, inside, K)

    assert losses.dtype is torch.float32
    torch.testing.assert_close(losses, LOSSES[name](scores.bfloat16().float(), gains, inside, K))


def test_pairs_below_the_cut_off_teach_nothing_but_one_that_reaches_above_it_does() -> None:
    # ranks 1, 2 | 3, 4 at k=2, relevant ones at 2 and 4
    scores, gains, inside = one_list([4.0, 3.0, 2.0, 1.0], [0.0, 1.0, 0.0, 1.0])
    scores.requires_grad_()

    lambdaloss(scores, gains, inside, 2).sum().backward()

    # the third's pair with the fourth lies below the cut-off, so it is moved by its pair with the second alone
    alone = torch.tensor([[4.0, 3.0, 2.0, 1.0]], requires_grad=True)
    lambdaloss(alone, torch.tensor([[0.0, 1.0, 0.0, 0.0]]), inside, 2).sum().backward()
    assert scores.grad is not None and alone.grad is not None
    ideal_of_two = 1 + 1 / log2(3)
    assert scores.grad[0, 2].item() == pytest.approx(alone.grad[0, 2].item() / ideal_of_two, rel=1e-5)
    assert scores.grad[0, 3].item() < 0


def test_ties_stand_in_the_given_order() -> None:
    tied, gains, inside = one_list([1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 1.0])
    in_order = tied - torch.tensor([[0.0, 1e-6, 2e-6, 3e-6]])

    torch.testing.assert_close(lambdaloss(tied, gains, inside, 2), lambdaloss(in_order, gains, inside, 2))


def test_gains_are_the_metrics_so_that_click_weights_count_as_they_are() -> None:
    weights = np.array([0.5, 1.25, 0.0])
    linear, exponential = (torch.from_numpy(gain(weights, metric))[None] for metric in (CLICK_NDCG, JUDGED_NDCG))
    scores, _, inside = one_list([0.1, 0.2, 0.3], [0.0, 0.0, 0.0])

    for name, loss in LOSSES.items():
        by_hand = [IN_LOOPS[name](scores[0].tolist(), gains[0].tolist()) for gains in (linear, exponential)]

        assert [loss(scores, gains, inside, K).item() for gains in (linear, exponential)] == pytest.approx(
            by_hand, rel=1e-4
        )
        assert by_hand[0] != pytest.approx(by_hand[1], rel=1e-3)
