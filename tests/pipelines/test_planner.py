"""The sample a plan asks for gives the power it promises, in simulation; one that cannot finish is refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from pipelines.errors import PlanRefused
from pipelines.gates.clustered import ArmUnits, compare
from pipelines.gates.planner import (
    Design,
    Measured,
    accept,
    alpha_a_decision,
    measured_ab,
    measured_interleaving,
    power,
    required_information,
    size,
)
from pipelines.gates.preference import preference
from pipelines.gates.spending import boundaries, spent


def units_of(rng: np.random.Generator, units: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and units of lists: some units send many, and nearly half of the lists score 0."""
    lists = 1 + rng.negative_binomial(1, 0.5, size=units)
    whose = np.repeat(np.arange(units), lists)
    scored = rng.random(len(whose)) < np.clip(rng.normal(mean, 0.15, size=units), 0, 1)[whose]
    return scored * rng.uniform(0.5, 1.5, size=len(whose)), whose


def test_one_look_needs_what_the_textbook_says() -> None:
    design = Design(effect=0.03, alpha=0.05, power=0.9, looks=1)

    assert required_information(design) == pytest.approx(((norm.isf(0.05) + norm.isf(0.1)) / 0.03) ** 2)


@pytest.mark.parametrize(("spending", "inflated"), [("obrien_fleming", 1.026), ("pocock", 1.207)])
def test_five_looks_cost_the_published_inflation(spending: str, inflated: float) -> None:
    """Two-sided 5 %, power 90 %: Jennison & Turnbull, tables 2.2 and 2.4, for the boundaries that
    the spending functions come close to."""
    design = Design(effect=1.0, alpha=0.025, power=0.9, looks=5, spending=spending)  # type: ignore[arg-type]

    ratio = required_information(design) / required_information(replace(design, looks=1))

    assert ratio == pytest.approx(inflated, abs=0.02)


def test_the_sample_planned_for_ab_has_its_power_within_ten_percent_of_it() -> None:
    """10 % more or less of it would move the power by some 3.5 points."""
    rng, share, lift, looks, runs = np.random.default_rng(14), 0.3, 0.2, 3, 1600
    (old, whose), (new, others) = units_of(rng, 20_000, 0.5), units_of(rng, 20_000, 0.5)
    seen = compare(ArmUnits.of(old, whose), ArmUnits.of(new, others))
    measured = measured_ab(seen, (len(old), len(new)), share, lists_per_day=100.0)
    design = Design(effect=lift, power=0.8, looks=looks)
    planned = size(design, measured, days=14.0)
    units = planned.needed_lists / 2.0  # lists a unit sends on average
    bounds = boundaries([1, 2, 3], [spent("obrien_fleming", 0.05, (look + 1) / looks) for look in range(looks)])

    passed, stopped = 0, 0.0
    for _ in range(runs):
        arms = [
            units_of(rng, round(units * part), mean) for part, mean in ((1 - share, 0.5), (share, 0.5 * (1 + lift)))
        ]
        for look, bound in enumerate(bounds, start=1):
            cut = [look * (whose.max() + 1) // looks for _, whose in arms]
            now = [ArmUnits.of(v[w < n], w[w < n]) for (v, w), n in zip(arms, cut, strict=True)]
            if compare(*now).z() >= bound:
                passed += 1
                break
        stopped += look / looks / runs

    assert passed / runs == pytest.approx(0.8, abs=0.035)
    assert stopped == pytest.approx(planned.expected_lists / planned.needed_lists, abs=0.03)


def test_the_sample_planned_for_interleaving_has_its_power_within_ten_percent_of_it() -> None:
    rng, runs, ahead = np.random.default_rng(15), 3000, 0.54

    def credits(lists: int, chance: float) -> tuple[np.ndarray, np.ndarray]:
        clicks = rng.poisson(0.9, size=lists)
        ours = rng.binomial(clicks, chance)
        return ours, clicks - ours

    equal = preference(*credits(30_000, 0.5), np.arange(30_000))
    measured = measured_interleaving(equal, lists_per_day=500.0)
    needed = size(Design(effect=0.9 * (2 * ahead - 1), power=0.85, looks=1), measured, days=14.0).needed_lists

    z = [preference(*credits(needed, ahead), np.arange(needed)).z for _ in range(runs)]

    assert np.mean(np.array(z) > norm.isf(0.05)) == pytest.approx(0.85, abs=0.03)


def test_a_plan_that_cannot_finish_is_refused_with_its_numbers() -> None:
    measured = Measured(information_per_list=0.05, lists_per_day=20_000.0)
    design = Design(effect=0.0084)

    with pytest.raises(PlanRefused, match=r"needs \d+ lists, \d+\.\d days; 14 days bring 280000 lists and a power of"):
        accept(design, measured, days=14.0)

    enough = size(design, measured, days=14.0).needed_days
    accepted = accept(design, measured, days=enough * 1.0001)
    assert accepted.reached_power == pytest.approx(0.8, abs=1e-3)
    assert accepted.smallest_effect == pytest.approx(0.0084, rel=1e-3)
    assert accepted.expected_lists < accepted.needed_lists


def test_an_estimate_that_must_reach_something_costs_power() -> None:
    free, bound = Design(effect=0.02, looks=4), Design(effect=0.02, looks=4, least=0.015)

    assert required_information(bound) > required_information(free)
    assert power(bound, 1e9)[-1] > 0.999
    with pytest.raises(ValueError, match="half of all cases"):
        Design(effect=0.008, least=0.008)


def test_power_grows_with_information_and_falls_with_looks() -> None:
    by_information = [power(Design(effect=0.02), information)[-1] for information in (1e3, 1e4, 3e4)]

    assert by_information == sorted(by_information)
    assert power(Design(effect=0.02, looks=1), 1e4)[-1] > power(Design(effect=0.02, looks=14), 1e4)[-1]


def test_traffic_that_says_nothing_cannot_be_planned_with() -> None:
    silent = preference([0, 0], [0, 0], ["u", "v"])
    flat = ArmUnits.of([1.0, 1.0], ["u", "v"])

    with pytest.raises(ValueError, match="measure some traffic first"):
        measured_interleaving(silent, 100.0)
    with pytest.raises(ValueError, match="measure some traffic first"):
        measured_ab(compare(flat, flat), (2, 2), 0.1, 100.0)


@pytest.mark.parametrize("decisions", [1, 2, 26])
def test_a_years_decisions_promote_an_equal_with_the_yearly_chance(decisions: int) -> None:
    each = alpha_a_decision(0.3, decisions)

    assert 1 - (1 - each) ** decisions == pytest.approx(0.3)


def test_a_year_without_chance_or_decisions_is_refused() -> None:
    with pytest.raises(ValueError, match="yearly=0: expected"):
        alpha_a_decision(0.0, 26)
    with pytest.raises(ValueError, match="decisions=0: expected"):
        alpha_a_decision(0.3, 0)
