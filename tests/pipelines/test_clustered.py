"""Arms compared by unit: against scipy, brute force and simulation; Fieller's interval is the inverted test."""

from math import inf, isnan

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm, ttest_ind

from pipelines.feedback.click_ndcg import clustered_error
from pipelines.gates.clustered import ArmSums, ArmUnits, Comparison, Estimate, compare, sums_by_look


def an_arm(rng: np.random.Generator, units: int, mean: float = 0.4, covariate: float = 0.0) -> ArmUnits:
    """Units of unequal activity with a level of their own, which the covariate knows in part."""
    lists = 1 + rng.negative_binomial(1, 0.4, size=units)
    level = rng.normal(scale=0.2, size=units)
    whose = np.repeat(np.arange(units), lists)
    values = mean + level[whose] + rng.normal(scale=0.3, size=len(whose))
    before = level[whose] + rng.normal(scale=0.15, size=len(whose))
    return ArmUnits.of(values, whose, before[:, None] if covariate else None)


def test_with_one_list_a_unit_it_is_welchs_test() -> None:
    rng = np.random.default_rng(1)
    old, new = rng.random(40), rng.random(60) + 0.1

    found = compare(ArmUnits.of(old, range(40)), ArmUnits.of(new, range(60)))

    welch = ttest_ind(new, old, equal_var=False)
    assert found.difference.mean / found.difference.standard_error == pytest.approx(welch.statistic)
    assert found.z() == pytest.approx(welch.statistic)


def test_an_arms_error_is_the_one_that_evidence_reports() -> None:
    rng = np.random.default_rng(2)
    whose, values = rng.integers(30, size=200), rng.random(200)
    unit_of = np.unique(whose, return_inverse=True)[1]

    found = compare(ArmUnits.of(values, whose), ArmUnits.of(values, whose)).champion

    assert found.mean == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(clustered_error(values, unit_of))


def test_lists_repeated_by_one_unit_add_no_certainty() -> None:
    rng = np.random.default_rng(3)
    values, other = rng.random(50), ArmUnits.of(rng.random(50), range(50))

    once = compare(other, ArmUnits.of(values, range(50))).challenger
    tenfold = compare(other, ArmUnits.of(np.tile(values, 10), np.tile(np.arange(50), 10))).challenger

    assert tenfold == Estimate(pytest.approx(once.mean), pytest.approx(once.standard_error))  # type: ignore[arg-type]


def test_fiellers_interval_ends_where_the_test_of_the_margin_just_rejects() -> None:
    rng = np.random.default_rng(4)
    found = compare(an_arm(rng, 200), an_arm(rng, 150, 0.45))

    low, high = found.lift_interval(2.2)

    assert found.z(low) == pytest.approx(2.2)
    assert found.z(high) == pytest.approx(-2.2)
    assert low < found.lift.mean < high
    assert high - low == pytest.approx(2 * 2.2 * found.lift.standard_error, rel=0.05)


def test_relative_to_a_champion_that_may_be_zero_nothing_is_bounded() -> None:
    found = Comparison(Estimate(0.01, 0.02), Estimate(0.3, 0.02), 10, 10)

    assert found.lift_interval(1.96) == (-inf, inf)
    assert found.lift_interval(0.2) != (-inf, inf)
    assert found.lift_interval(inf) == (-inf, inf)


@pytest.mark.parametrize("covariate", [0.0, 1.0])
def test_the_stated_error_is_that_of_repeated_experiments(covariate: float) -> None:
    rng, runs = np.random.default_rng(5), 1500
    found = [compare(an_arm(rng, 120, 0.4, covariate), an_arm(rng, 80, 0.44, covariate)) for _ in range(runs)]

    differences = np.array([one.difference.mean for one in found])
    stated = np.sqrt(np.mean([one.difference.standard_error**2 for one in found]))
    outside = np.mean([not low <= 0.1 <= high for low, high in (one.lift_interval(norm.isf(0.025)) for one in found)])

    assert differences.mean() == pytest.approx(0.04, abs=4 * stated / np.sqrt(runs))
    assert stated == pytest.approx(differences.std(), rel=4 / np.sqrt(2 * runs))
    assert outside == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / runs))


def test_cuped_takes_the_slope_that_leaves_the_least_variance() -> None:
    rng = np.random.default_rng(6)
    old, new = (an_arm(rng, units, covariate=1.0) for units in (90, 70))

    def variance(slope: np.ndarray) -> float:
        moved = [
            ArmUnits(arm.lists, arm.values - arm.covariates @ slope, np.zeros((arm.units, 0))) for arm in (old, new)
        ]
        return compare(*moved).difference.standard_error ** 2 * 1e4

    least = minimize(variance, np.zeros(1))
    found = compare(old, new)

    assert found.difference.standard_error**2 * 1e4 == pytest.approx(least.fun, rel=1e-6)
    assert found.left == pytest.approx(least.fun / variance(np.zeros(1)), rel=1e-6)
    assert found.left < 0.8


def test_a_covariate_that_says_nothing_or_repeats_another_changes_nothing() -> None:
    rng = np.random.default_rng(7)
    old, new = (an_arm(rng, units, covariate=1.0) for units in (90, 70))
    more = [
        ArmUnits(arm.lists, arm.values, np.column_stack([arm.covariates, 2 * arm.covariates, arm.lists]))
        for arm in (old, new)
    ]

    plain, padded = compare(old, new), compare(*more)

    assert padded.difference.mean == pytest.approx(plain.difference.mean)
    assert padded.difference.standard_error == pytest.approx(plain.difference.standard_error)


def test_one_unit_has_a_mean_and_no_error() -> None:
    found = compare(ArmUnits.of([1.0, 0.0], ["u", "u"]), ArmUnits.of([0.5, 1.0], ["v", "w"]))

    assert found.champion.mean == 0.5
    assert isnan(found.difference.standard_error)


def test_sums_after_each_look_are_those_of_the_lists_until_then() -> None:
    """Units come back at many looks, in no order; the last matrix has the lists after the last look too."""
    rng, looks = np.random.default_rng(8), 5
    look, units = rng.integers(1, looks + 3, size=400), rng.integers(60, size=400)
    values, beside = rng.random(400), rng.random((400, 2))

    after = sums_by_look(look, units, values, beside, looks)

    for until in range(1, looks + 2):
        inside = look <= until if until <= looks else np.ones(400, dtype=bool)
        alone = ArmSums.of(ArmUnits.of(values[inside], units[inside], beside[inside]))
        assert after[until - 1] == pytest.approx(alone.products, rel=1e-12)


def test_sums_of_different_units_add_up_to_the_comparison_of_all() -> None:
    rng = np.random.default_rng(9)
    old, one, other = (an_arm(rng, units, covariate=1.0) for units in (90, 40, 30))
    both = ArmUnits(*(np.concatenate([getattr(one, name), getattr(other, name)]) for name in one.__slots__))

    added = compare(ArmSums.of(old), ArmSums(ArmSums.of(one).products + ArmSums.of(other).products))

    assert added.lift.mean == pytest.approx(compare(old, both).lift.mean, rel=1e-12)
    assert added.lift.standard_error == pytest.approx(compare(old, both).lift.standard_error, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "units", "covariates"),
    [([1.0], ["u", "v"], None), ([float("nan")], ["u"], None), ([1.0], ["u"], [[1.0], [2.0]])],
)
def test_lists_that_do_not_fit_are_refused(values: list[float], units: list[str], covariates: object) -> None:
    with pytest.raises(ValueError, match=r"expected|finite"):
        ArmUnits.of(values, units, covariates)  # type: ignore[arg-type]


def test_few_units_that_differ_little_by_chance_are_believed_to_differ_as_many_do() -> None:
    rng = np.random.default_rng(77)
    many, few = rng.random(2000), 0.2 * rng.random(50)
    arms = ArmUnits.of(many, np.arange(2000)), ArmUnits.of(few, np.arange(50))

    found = compare(*arms)

    alike = found.champion.standard_error * np.sqrt(2000 / 50)
    wanted = np.hypot(alike, found.champion.standard_error) / found.difference.standard_error
    assert found.caution == pytest.approx(wanted)
    assert found.caution > 3


def test_units_that_differ_more_than_the_champions_need_no_caution() -> None:
    rng = np.random.default_rng(78)
    arms = ArmUnits.of(0.2 * rng.random(2000), np.arange(2000)), ArmUnits.of(rng.random(50), np.arange(50))

    assert compare(*arms).caution == 1.0
