"""The slab keeps what is asked for: beside exact simulations of the policies it competes with."""

import numpy as np
import pytest

from tests.bench.tier_policies import TRACES, Lfu, Lru, WTinyLfu, hit_ratios

ROOM = 1024
POINTS = 0.03


@pytest.mark.parametrize("traffic", TRACES)
def test_the_slab_hits_within_three_points_of_the_best_policy(traffic: str) -> None:
    trace = TRACES[traffic](10 * ROOM, 1500, np.random.default_rng(7))

    ratios = hit_ratios(trace, ROOM)

    best = max(ratio for policy, ratio in ratios.items() if policy != "slab")
    assert ratios["slab"] >= best - POINTS


@pytest.mark.parametrize(
    ("policy", "asked", "hits"),
    [
        (Lru(2), [1, 2, 1, 3, 2, 1], [False, False, True, False, False, False]),
        (Lfu(2), [1, 1, 2, 3, 3, 1, 2], [False, True, False, False, True, True, False]),
        (WTinyLfu(3), [1, 1, 2, 2, 3, 4, 5, 1, 2], [False, True, False, True, False, False, False, True, True]),
    ],
)
def test_a_simulated_policy_does_what_its_name_says(
    policy: Lru | Lfu | WTinyLfu, asked: list[int], hits: list[bool]
) -> None:
    assert [policy.ask(item) for item in asked] == hits
