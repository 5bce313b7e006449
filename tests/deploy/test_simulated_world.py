"""The simulator's world: its truth is what sessions come to, and challengers have the lift they are said to have."""

import numpy as np
import pytest

from deploy.errors import SluiceError
from deploy.simulation.challengers import WITHIN, Kind, Metric, with_lift
from deploy.simulation.crowd import Crowd, in_arm, unit_names
from deploy.simulation.measurements import Drafts
from deploy.simulation.world import CHANCES, SHOWN, World, click_ndcg_of_patterns, clicked, true_lift
from pipelines.errors import DataRefused
from pipelines.feedback.clicks import ClickModel
from pipelines.gates.clustered import ArmUnits, compare
from pipelines.ndcg import mean_ndcg
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.traffic import Experiment, Layer, TrafficPlan
from serving.interleaving import team_draft
from tests.deploy.judged_world import a_rng, a_stage
from tests.pipelines.judged_data import judged


@pytest.mark.parametrize("lift", [0.008, 0.03, -0.008, -0.05])
@pytest.mark.parametrize("kind", ["low_noise", "noisy", "independent"])
def test_a_challenger_has_the_lift_that_was_asked_for(kind: Kind, lift: float) -> None:
    champion = a_stage().champion

    found = with_lift(champion, lift, kind, seed=2)

    assert true_lift(champion, found) == pytest.approx(lift, abs=WITHIN)
    assert (found.items != champion.items).any()


@pytest.mark.parametrize("metric", ["clicks", "judged"])
def test_no_lift_is_exactly_none(metric: Metric) -> None:
    champion = a_stage().champion

    found = with_lift(champion, 0.0, "noisy", seed=2, metric=metric)

    assert true_lift(champion, found) == 0.0
    assert (found.items == champion.items).all()


def test_a_lift_by_the_labels_is_met_too_and_is_another_one_by_clicks() -> None:
    champion = a_stage().champion

    found = with_lift(champion, 0.02, "independent", seed=3, metric="judged")

    assert found.judged_ndcg / champion.judged_ndcg - 1 == pytest.approx(0.02, abs=WITHIN)
    assert abs(true_lift(champion, found) - 0.02) > WITHIN


def test_a_lift_beyond_reach_is_refused_with_what_there_is() -> None:
    with pytest.raises(SluiceError, match=r"lift \+300.00%: \+\d+"):
        with_lift(a_stage().champion, 3.0, "low_noise", seed=2)


def test_the_truth_is_what_many_sessions_come_to() -> None:
    champion, world, rng, many = a_stage().champion, a_stage().world, a_rng(), 400_000
    query, level = rng.integers(world.queries, size=many), rng.integers(world.levels, size=many)

    seen = click_ndcg_of_patterns()[clicked(champion.chances[query, level], rng)]

    assert seen.mean() == pytest.approx(champion.click_ndcg, abs=4 * seen.std() / np.sqrt(many))


def test_chances_are_those_of_the_click_model_times_keenness() -> None:
    world, champion = a_stage().world, a_stage().champion
    level, query = 3, int(np.flatnonzero(world.sizes >= SHOWN)[0])
    labels = world.labels[query, champion.items[query]]

    model = world.clicks.examination(SHOWN) * world.clicks.attraction(labels) * world.keenness[level]

    assert champion.chances[query, level] / CHANCES == pytest.approx(np.minimum(model, 1), abs=1.0 / CHANCES)


def test_what_is_not_there_is_never_clicked() -> None:
    world, champion = a_stage().world, a_stage().champion
    short = int(world.sizes.argmin())

    assert world.sizes[short] < SHOWN
    assert not champion.chances[short, :, world.sizes[short] :].any()
    assert champion.chances[short, :, : world.sizes[short]].all()


def test_patterns_of_clicks_are_worth_what_the_metric_says() -> None:
    for pattern in (0, 1, 0b1000000000, 0b1010010001, 0b1111111111):
        clicks = np.array([float(pattern >> place & 1) for place in range(SHOWN)])
        worth = mean_ndcg(clicks, -np.arange(SHOWN), [0, SHOWN], CLICK_NDCG).mean
        assert click_ndcg_of_patterns()[pattern] == pytest.approx(worth)


def test_data_with_nothing_to_find_make_no_world() -> None:
    with pytest.raises(DataRefused, match="10 lists with something relevant: expected 20"):
        World.of((judged("few", 10, 0),))


def test_a_world_takes_so_many_lists_at_most_and_the_same_for_a_seed() -> None:
    data = (judged("many", 60, 5),)

    one, same, other = (World.of(data, most_queries=30, seed=seed) for seed in (1, 1, 2))

    assert one.queries == 30
    assert np.array_equal(one.labels, same.labels, equal_nan=True)
    assert not np.array_equal(one.labels, other.labels, equal_nan=True)


def test_units_come_back_and_hang_together() -> None:
    """Lists of one unit are alike by its keenness: the design effect that clustering is there for."""
    champion, world, rng = a_stage().champion, a_stage().world, a_rng(4)
    visits = Crowd().visits(world, rng)

    values = click_ndcg_of_patterns()[visits.clicks(champion.chances, rng)]
    arm = ArmUnits.of(values, visits.unit)
    effect = compare(arm, arm).champion.standard_error ** 2 * len(values) / values.var()

    assert len(visits) == pytest.approx(4000 * 14, rel=0.02)
    assert np.bincount(visits.look)[1:].argmin() % 7 in (5, 6)
    assert 1.3 < effect < 2.5


def test_arms_are_those_of_the_traffic_plan() -> None:
    experiment = Experiment("challenger", 2, "0" * 64, 300)
    plan = TrafficPlan("m", 1, 1, "1" * 64, (Layer("simulation", "salt", (experiment,)),))

    found = in_arm(500, 300, "salt")

    assert found.tolist() == [plan.assign(unit).arm == "challenger" for unit in unit_names(500)]


def test_drafts_are_those_that_are_served_and_credit_who_picked() -> None:
    champion, challenger = a_stage().champion, a_stage().challenger(-0.05, "noisy")
    drafts = Drafts.of(champion, challenger)
    query = int(np.flatnonzero(a_stage().world.sizes >= SHOWN)[0])

    draft = team_draft(champion.items[query].tolist(), challenger.items[query].tolist(), coins=0b10110)

    assert [int(drafts.picked[0b10110, query]) >> place & 1 for place in range(SHOWN)] == list(draft.teams)
    labels = a_stage().world.labels[query, draft.order]
    attraction = ClickModel(max_label=a_stage().world.clicks.max_label).attraction(labels)
    chances = np.minimum(np.arange(1, SHOWN + 1.0) ** -1 * attraction * a_stage().world.keenness[2], 1)
    assert drafts.chances[0b10110, query, 2] / CHANCES == pytest.approx(chances, abs=1.0 / CHANCES)


def test_drafts_of_equal_versions_are_fair_and_a_worse_one_loses() -> None:
    stage = a_stage()

    assert stage.drafts(0.0).score == pytest.approx(0.0, abs=1e-12)
    assert stage.drafts(-0.05, "noisy").score < -0.01
