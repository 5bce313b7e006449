"""What a rollback by hand takes back: what is on its way, and else the champion."""

from deploy.control.changes import rolled_back
from registry.contracts.traffic import TrafficPlan
from registry.traffic_control import TrafficChange
from tests.builders import a_plan, a_tested_plan


def history(*plans: TrafficPlan) -> list[TrafficChange]:
    return [TrafficChange(plan, 0, "ann", "", {}) for plan in plans]


def test_of_a_champion_in_an_a_a_the_champion_is_taken_back() -> None:
    now = a_tested_plan(revision=3, champion=2, champion_digest=f"{2:064x}", version=2, digest=f"{2:064x}")

    back = rolled_back(history(a_plan(), a_plan(revision=2, champion=2), now), "codesearch", None)

    assert (back.champion, back.layers) == (1, ())


def test_a_challenger_beside_it_is_taken_back_first() -> None:
    now = a_tested_plan(revision=3, champion=2, champion_digest=f"{2:064x}", version=3, digest=f"{3:064x}")

    back = rolled_back(history(a_plan(), a_plan(revision=2, champion=2), now), "codesearch", None)

    assert (back.champion, back.layers) == (2, ())
