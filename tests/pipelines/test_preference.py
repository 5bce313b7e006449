"""Preference from interleaved lists: fair without a preference, clustered by unit, and it sees a better ranker."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import wilcoxon

from pipelines.feedback.clicks import ClickModel, simulate_clicks
from pipelines.gates.preference import Scoring, preference
from pipelines.gates.spending import boundaries, spent
from serving.interleaving import team_draft

LOOKS = 14


def drafted_credits(
    labels: np.ndarray, champion: np.ndarray, challenger: np.ndarray, rng: np.random.Generator
) -> tuple[int, int]:
    """Clicks on each team's items, challenger's first, of one simulated user of a really drafted list."""
    draft = team_draft(champion.tolist(), challenger.tolist(), int(rng.integers(1 << 8)))
    clicked = simulate_clicks(labels[draft.order], ClickModel(), rng) - 1
    ours = sum(draft.teams[place] for place in clicked)
    return ours, len(clicked) - ours


def test_z_is_the_sum_of_the_units_scores_over_the_root_of_their_squares() -> None:
    found = preference([3, 0, 1, 0], [0, 1, 0, 0], ["u", "u", "v", "w"])

    assert found.score == pytest.approx(3 / 4)
    assert found.z == pytest.approx((2 + 1 + 0) / np.sqrt(2**2 + 1**2))
    assert found.information == pytest.approx(found.standard_error**-2)
    assert (found.lists, found.units, found.wins, found.losses, found.ties) == (4, 3, 2, 1, 1)
    assert found.share == pytest.approx((2 + 0.5) / 4)


def test_wins_count_who_has_more_not_how_much() -> None:
    by_wins = preference([5, 0], [0, 1], ["u", "v"], "wins")

    assert by_wins.score == 0.0
    assert preference([5, 0], [0, 1], ["u", "v"], "clicks").score == 2.0


def test_swapping_the_teams_turns_the_sign_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    ours, theirs, units = rng.poisson(1.2, 300), rng.poisson(1.0, 300), rng.integers(60, size=300)

    there, back = preference(ours, theirs, units), preference(theirs, ours, units)

    assert (back.score, back.z, back.standard_error) == (-there.score, -there.z, there.standard_error)
    assert (back.wins, back.losses, back.ties) == (there.losses, there.wins, there.ties)


def test_z_orders_all_sign_flips_as_the_exact_test_of_signed_sums_does() -> None:
    """Over every outcome of the coins, brute force: P(z >= seen) is the exact sign-flip p-value."""
    sizes = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    z_of = {
        signs: preference(sizes * (np.array(signs) > 0), sizes * (np.array(signs) < 0), range(6)).z
        for signs in product((1, -1), repeat=6)
    }
    seen = (1, 1, 1, -1, 1, 1)

    p_value = np.mean([z >= z_of[seen] - 1e-12 for z in z_of.values()])

    assert p_value == pytest.approx(wilcoxon(sizes * seen, alternative="greater", method="exact").pvalue)


def test_lists_of_one_unit_are_not_independent_tosses() -> None:
    """A unit that always clicks what the challenger drew is one piece of evidence, not fifty."""
    assert preference([1] * 50, [0] * 50, ["u"] * 50).z == pytest.approx(1.0)
    assert preference([1] * 50, [0] * 50, range(50)).z == pytest.approx(np.sqrt(50))


def test_nothing_clicked_says_nothing() -> None:
    silent = preference([0, 0], [0, 0], ["u", "v"])

    assert (silent.z, silent.information, silent.score, silent.share) == (0.0, 0.0, 0.0, 0.5)
    assert preference([], [], []).information == 0.0


@pytest.mark.parametrize("scoring", ["clicks", "wins"])
def test_fourteen_looks_at_two_equal_versions_promote_as_often_as_stated(scoring: Scoring) -> None:
    """Units of very unequal activity and taste for clicking, coming back day after day."""
    runs, units, lists = 1000, 150, 900
    rng = np.random.default_rng(8)
    used = [spent("obrien_fleming", 0.05, (look + 1) / LOOKS) for look in range(LOOKS)]
    seen = [lists * (look + 1) // LOOKS for look in range(LOOKS)]
    z, information = np.zeros((runs, LOOKS)), np.zeros(LOOKS)
    for run in range(runs):
        activity = rng.gamma(0.7, size=units)
        whose = rng.choice(units, size=lists, p=activity / activity.sum())
        clicks = rng.poisson(rng.gamma(1.0, 0.6, size=units)[whose])
        ours = rng.binomial(clicks, 0.5)
        for look, n in enumerate(seen):
            found = preference(ours[:n], (clicks - ours)[:n], whose[:n], scoring)
            z[run, look] = found.z
            information[look] += found.information / runs
    promoted = int((z > boundaries(information.tolist(), used)).any(axis=1).sum())

    assert promoted / runs == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / runs))


def test_drafted_lists_are_fair_to_equal_rankings_and_prefer_the_better_one() -> None:
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 5, size=(1500, 12)).astype(float)
    good = np.argsort(-(labels + rng.normal(scale=1.0, size=labels.shape)))
    worse = np.argsort(-(labels + rng.normal(scale=3.0, size=labels.shape)))
    units = rng.integers(300, size=len(labels))

    same = [drafted_credits(*one, rng) for one in zip(labels, good, good, strict=True)]
    better = [drafted_credits(*one, rng) for one in zip(labels, worse, good, strict=True)]

    assert abs(preference(*np.transpose(same), units).z) < 3
    assert preference(*np.transpose(better), units).z > 5


@pytest.mark.parametrize(
    ("ours", "theirs", "units"), [([1], [1, 2], ["u"]), ([1], [1], ["u", "v"]), ([-1], [0], ["u"])]
)
def test_credits_that_do_not_fit_are_refused(ours: list[int], theirs: list[int], units: list[str]) -> None:
    with pytest.raises(ValueError, match=r"expected|>= 0"):
        preference(ours, theirs, units)
