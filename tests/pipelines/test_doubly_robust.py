"""The model where the log bears it out, the correction where it does not, and users who are not alike."""

import numpy as np
from scipy.stats import gamma

from pipelines.feedback.doubly_robust import Estimated, PairedPolicies
from registry.contracts.manifest import CLICK_NDCG
from tests.pipelines.click_log import ClickLog, click_log
from tests.pipelines.test_counterfactual import SHOWN, by_enumeration, lists_of, reordered, true_lift


def estimated(log: ClickLog, order: np.ndarray) -> Estimated:
    """With examination as it is."""
    policies = PairedPolicies(lists_of(log), log.base, order, CLICK_NDCG, most_weight=500.0)
    return policies.lift(log.model.examination(SHOWN))


def lift_of_unequal(log: ClickLog, order: np.ndarray, unequal: float) -> float:
    """The truth, over users as unequal as the log's."""
    levels = gamma.ppf((np.arange(50) + 0.5) / 50, 1 / unequal, scale=unequal)

    def quality(of: np.ndarray) -> float:
        labels = np.take_along_axis(log.labels, of[:, :SHOWN], axis=1)
        chances = log.model.examination(SHOWN) * log.model.attraction(labels)
        by_level = [by_enumeration(np.minimum(level * chances, 1.0))[log.query_of].mean() for level in levels]
        return float(np.mean(by_level))

    return quality(order) / quality(log.base) - 1


def test_a_model_that_the_log_bears_out_stands() -> None:
    """Chance corrects one in a hundred, by little."""
    for seed in (51, 52, 53):
        log = click_log(20_000, seed=seed, queries=100, noise=1.2, share=0.2)
        order = reordered(log, 0.5)

        found = estimated(log, order).whole

        assert abs(found.corrected) < 0.001
        assert abs(found.lift - true_lift(log, order)) < 0.02


def test_a_model_that_the_log_contradicts_gives_way_to_what_chance_showed() -> None:
    """The challenger brings in the best to the first position for half of the queries, the worst to the last for the
    others: nothing that items have in common elsewhere tells the ones from the others."""
    log = click_log(60_000, seed=54, queries=100, noise=1.0, share=0.4)
    order = log.base.copy()
    for query in range(len(order)):
        beyond = log.base[query, SHOWN:]
        by_label = beyond[np.argsort(log.labels[query, beyond], kind="stable")]
        one, place = (by_label[-1], 0) if query % 2 else (by_label[0], SHOWN - 1)
        order[query] = np.insert(log.base[query][log.base[query] != one], place, one)
    truth = true_lift(log, order)

    found = estimated(log, order).whole

    model = found.lift - found.corrected
    assert abs(model - truth) > 0.03
    assert found.corrected > 0.01
    assert abs(found.lift - truth) < abs(model - truth)


def test_clicks_of_keen_users_are_not_taken_for_independent() -> None:
    """Half of the error at a lift of some 8 % would be from that."""
    log = click_log(60_000, seed=56, noise=1.2, share=0.2, unequal=0.4)
    order = reordered(log, 0.5)
    truth = lift_of_unequal(log, order, 0.4)

    found = estimated(log, order).whole

    assert abs(found.lift - truth) < 0.01


def test_of_the_same_lists_there_is_nothing_to_correct() -> None:
    log = click_log(3000, seed=57, queries=40, share=0.2)

    found = estimated(log, log.base)

    assert (found.whole.lift, found.whole.corrected) == (0.0, 0.0)
    assert found.whole.champion == found.whole.challenger
    groups = np.arange(3000) // 3 % 5
    assert found.without_each(groups, np.tile(log.model.examination(SHOWN), (5, 1))).tolist() == [0.0] * 5
