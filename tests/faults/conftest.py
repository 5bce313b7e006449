"""What every fault ends with: nothing that was acknowledged is lost, and the figures for the runner's table."""

import os
from collections.abc import Callable

import pytest

from tests.faults.traffic import Traffic

Settle = Callable[[Traffic], None]


@pytest.fixture
def seed() -> int:
    """SLUICE_TEST_SEED: which queries are asked, and what is damaged."""
    return int(os.environ.get("SLUICE_TEST_SEED", "1"))


@pytest.fixture
def nothing_lost(record_property: Callable[[str, object], None]) -> Settle:
    """Waits until all that was acknowledged is in the archive, once; tells `python -m tests.faults` the figures."""

    def settle(traffic: Traffic) -> None:
        tally = traffic.settle()
        record_property("acknowledged", tally.acknowledged)
        record_property("lost", tally.lost)
        record_property("longest_pause_s", tally.longest_pause_s)
        assert (tally.lost, tally.twice) == (0, 0), f"of {tally.acknowledged} acknowledged: {tally}"

    return settle
