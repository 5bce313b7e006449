"""A small world of judged lists for the simulator's tests."""

from functools import cache

import numpy as np

from deploy.simulation.challengers import oracle_champion
from deploy.simulation.characteristic import Stage
from deploy.simulation.world import World
from tests.pipelines.judged_data import judged


@cache
def a_stage() -> Stage:
    """120 lists of 2 to 14 candidates, so that some are shorter than what is shown."""
    world = World.of((judged("train", 80, 0), judged("test", 40, 1)))
    return Stage(world, oracle_champion(world))


def a_rng(seed: int = 1) -> np.random.Generator:
    """Of a test's own."""
    return np.random.default_rng(seed)
